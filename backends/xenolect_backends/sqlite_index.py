"""The index in one SQLite file: the truth of an embedded store, shared by the processes of a machine.

A commit is one transaction in the write-ahead log with ``synchronous = FULL``; batches of measurements
take ``NORMAL``. Facts and journal entries carry digests that are checked whenever they are read.
The file must be on a local disk. Every process, thread and fork may use the same object.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xenolect.cas import (
    check_after,
    check_change,
    check_text,
    checked_entries,
    checked_value,
    moment,
    prepare,
    prepared_text,
    restored_rows,
)
from xenolect.errors import CorruptError, StorageError
from xenolect.facts import (
    GENESIS,
    Batch,
    Change,
    Contents,
    Entry,
    Fact,
    Lease,
    Observation,
    Rollup,
    Window,
    digest_entry_text,
    digest_fact_text,
)
from xenolect.rows import (
    COLUMNS,
    DAMAGED,
    LEASE_COLUMNS,
    OBSERVATION_COLUMNS,
    WINDOW_COLUMNS,
    Batches,
    damage,
    insert,
    lease_of,
    lease_row,
    observation_row,
    observations_of,
    rollup_row,
    rollups_of,
    window_row,
    windows_of,
)
from xenolect.units import Seconds
from xenolect_backends._connections import FOREIGN, Connections, raise_translated
from xenolect_backends._rollups import APPENDED, NEXT, ROLLED, ROLLUPS, WINDOWS, forget, put

__all__ = ["SqliteIndex"]

_PAGE = 1000  # windows read at a time, so that a month of them is never in memory at once

_HEAD = "SELECT revision, digest FROM journal ORDER BY revision DESC LIMIT 1"
_FACT = "SELECT version, value, digest FROM facts WHERE kind = ? AND key = ?"
_PUT_FACT = """INSERT INTO facts (kind, key, version, value, digest) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (kind, key) DO UPDATE
SET version = excluded.version, value = excluded.value, digest = excluded.digest"""
_ENTRY = """INSERT INTO journal (revision, previous, actor, at, changes, digest)
VALUES (?, ?, ?, ?, ?, ?)"""
_OBSERVATION = insert("observations", OBSERVATION_COLUMNS)
_OBSERVATIONS = f"""SELECT sequence, {", ".join(OBSERVATION_COLUMNS)}, digest FROM observations
WHERE rollout = ? AND sequence > ? ORDER BY sequence"""  # noqa: S608
_WINDOW = insert("windows", WINDOW_COLUMNS)
_NEWEST = "SELECT max(id) FROM windows"
_BATCHES = Batches()
_SYNCED = """INSERT INTO meta (key, value) VALUES ('synced', '1')
ON CONFLICT (key) DO UPDATE SET value = value + 1"""
_SEQUENCE = "SELECT seq FROM sqlite_sequence WHERE name = 'observations'"
_HELD = "SELECT name, holder, until, epoch, digest FROM leases WHERE name = ?"
_LEASE = insert("leases", LEASE_COLUMNS, ("name",))
_EVERY = {
    table: f"SELECT rowid, {', '.join(columns)}, digest FROM {table}"  # noqa: S608
    for table, columns in COLUMNS.items()
}


class SqliteIndex:
    """``Index`` on SQLite. ``path`` is created, with its directory, when it is not there."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        cache_nodes: int = 1000,
        page_size: int = 8192,
        busy_timeout: float = Seconds(10.0),
    ) -> None:
        self.path = Path(path).absolute()
        self._options = {
            "cache_nodes": cache_nodes,
            "page_size": page_size,
            "busy_timeout": busy_timeout,
        }
        self._closed = False
        self._reopening = threading.Lock()
        self._connections = self._connect()

    def _connect(self) -> Connections:
        return Connections(self.path, **self._options)  # type: ignore[arg-type]

    def _live(self) -> Connections:
        """This process's connections: a fork may not touch its parent's."""
        connections = self._connections
        if connections.pid == os.getpid():
            return connections
        if self._closed:
            raise StorageError("the index is closed; open it again")
        self._reopening = threading.Lock()  # the parent's may have been held at the fork
        with self._reopening:
            if self._connections is connections:
                self._connections = self._connect()
                connections.abandon()
        return self._connections

    # -- facts and journal ------------------------------------------------------------------------

    def commit(
        self,
        changes: Sequence[Change],
        *,
        actor: str,
        at: float,
        observations: Sequence[Observation] = (),
        after: int | None = None,
        once: Batch | None = None,
    ) -> int:
        """Apply all changes and append one journal entry, durable; return the revision."""
        prepared, at = prepare(changes), moment(at)
        check_text(actor, "the actor", empty=True)
        stored = prepared_text(prepared)
        rows = [observation_row(each) for each in observations]
        with self._live().writing(durable=True) as db:
            head, previous = db.execute(_HEAD).fetchone() or (0, GENESIS)
            check_after(after, head)
            for change, text in prepared:
                kind, key = change.kind, change.key
                version, old, _ = db.execute(_FACT, (kind, key)).fetchone() or (0, None, "")
                check_change(change, version, old is not None)
                digest = digest_fact_text(kind, key, version + 1, text or "null")
                db.execute(_PUT_FACT, (kind, key, version + 1, text, digest))
            revision: int = head + 1
            digest = digest_entry_text(previous, revision, at, actor, stored)
            db.execute(_ENTRY, (revision, previous, actor, at, stored, digest))
            if rows and (once is None or _BATCHES.take(db, once, observations)):
                db.executemany(_OBSERVATION, rows)
        return revision

    def load(self) -> Contents:
        """Every fact as of one revision; CorruptError names the first row that fails its digest."""
        rows: list[tuple[str, str, int, str | None, str]]
        connections = self._live()
        db = connections.borrow()
        try:
            db.execute("BEGIN")  # one snapshot for both statements
            try:
                revision, digest = db.execute(_HEAD).fetchone() or (0, GENESIS)
                rows = db.execute(
                    "SELECT kind, key, version, value, digest FROM facts ORDER BY kind, key"
                ).fetchall()
                # A flipped bit in the head of a page can hide rows, and each row left is what was written.
                whole = db.execute("PRAGMA integrity_check(facts)").fetchone()[0]
            finally:
                db.execute("COMMIT")
        except FOREIGN as error:
            raise_translated(error, self.path)
        finally:
            connections.give_back(db)
        if whole != "ok":
            raise CorruptError(
                f"the facts in {self.path} are damaged ({whole}); restore it from a backup, or rebuild "
                f"it with `xenolect reindex`",
                key=str(self.path),
            )
        facts = tuple(
            Fact(kind, key, version, checked_value(kind, key, version, text, stored))
            for kind, key, version, text, stored in rows
        )
        return Contents(revision, digest, facts)

    def get(self, kind: str, key: str) -> Any | None:
        """The value of one fact as of now, or None; CorruptError when it fails its digest."""
        row = self._one(_FACT, (kind, key))
        return None if row is None else checked_value(kind, key, *row)

    def changes(self, after: int) -> Sequence[Entry]:
        """The journal after a revision, digests checked; 3 us when nothing was committed since."""
        after = max(after, 0)
        connections = self._live()
        try:
            with connections.following() as db:
                # Moves when any other connection, ours that writes included, has committed.
                version = db.execute("PRAGMA data_version").fetchone()[0]
                if connections.feed_seen == (version, after):
                    return ()
                # From ``after`` on: the entry before the first one is what that must follow from.
                rows = db.execute(
                    "SELECT revision, previous, actor, at, changes, digest FROM journal "
                    "WHERE revision >= ? ORDER BY revision",
                    (after,),
                ).fetchall()
                if rows:
                    connections.feed_seen = (version, rows[-1][0])
        except FOREIGN as error:
            if connections is not self._connections or self._closed:
                raise StorageError("the index is closed; open it again") from error
            raise_translated(error, self.path)
        if after and not rows:
            head = (self._one(_HEAD, ()) or (0,))[0]
            raise CorruptError(
                f"the index is at revision {head}, but {after} was read before: it was replaced by an "
                f"older one; open it again after finding out why",
                key="journal",
            )
        if after and rows[0][0] != after:
            raise CorruptError(
                f"journal entry {after} is missing, but there are later ones; restore the index "
                f"from a backup",
                key=f"journal/{after}",
            )
        return checked_entries(rows, after)

    def restore(self, contents: Contents, entries: Sequence[Entry]) -> None:
        """Fill an empty index, in one durable transaction."""
        with self._live().writing(durable=True) as db:
            head = (db.execute(_HEAD).fetchone() or (0,))[0]
            journal, facts = restored_rows(contents, entries, head)
            db.executemany(_ENTRY, journal)
            db.executemany(_PUT_FACT, facts)

    # -- measurements -----------------------------------------------------------------------------

    def append_windows(
        self,
        batch: Sequence[Window | Observation],
        *,
        durable: bool = False,
        once: Batch | None = None,
    ) -> int:
        """Append measurements in one transaction; the last observation's sequence so far.

        A durable one syncs the log, and so what was appended before it; for that it must write something.
        """
        observations = [observation_row(each) for each in batch if isinstance(each, Observation)]
        windows = [window_row(each) for each in batch if isinstance(each, Window)]
        with self._live().writing(durable=durable) as db:
            if batch and once is not None and not _BATCHES.take(db, once, batch):
                observations = windows = []
            if durable and not observations and not windows:
                db.execute(_SYNCED)
            if windows:
                db.executemany(_WINDOW, windows)
            if observations:
                db.executemany(_OBSERVATION, observations)
            sequence: int = (db.execute(_SEQUENCE).fetchone() or (0,))[0]
        return sequence

    def windows(self, variant_id: str, since: float, until: float) -> Iterator[Window]:
        """Windows of a variant whose start is in ``[since, until)``, oldest first, read in pages."""
        at, last = since, -1
        while True:
            rows = self._all(WINDOWS, (variant_id, at, last, until, _PAGE))
            yield from windows_of(rows)
            if len(rows) < _PAGE:
                return
            last, _, at = rows[-1][:3]

    def appended(
        self, after: int | None, limit: int, writer: str = ""
    ) -> tuple[int, Sequence[Window]]:
        """Windows appended after a cursor, but not the writer's own, and the cursor behind them."""
        newest = int((self._one(_NEWEST, ()) or (0,))[0] or 0)
        if after is None or newest <= after:
            return newest if after is None else after, []
        rows = self._all(APPENDED, (after, newest, writer, limit))
        full = len(rows) == limit
        return rows[-1][0] if full else newest, list(windows_of(rows))

    def unrolled(self, limit: int) -> tuple[int, int, Sequence[Window]]:
        """The next windows that no ``roll_up`` has taken in, between two cursors."""
        since = int((self._one(ROLLED, ()) or (0,))[0])
        rows = self._all(NEXT, (since, limit))
        return since, rows[-1][0] if rows else since, list(windows_of(rows))

    def roll_up(self, since: int, until: int, rollups: Sequence[Rollup]) -> None:
        """Store roll-ups and move the cursor, all or nothing."""
        rows = [rollup_row(each) for each in rollups]
        with self._live().writing(durable=False) as db:
            put(db, since, until, rows)

    def rollups(
        self, variant_id: str, resolution: str, since: float, until: float
    ) -> Iterator[Rollup]:
        """Roll-ups of a variant whose start is in ``[since, until)``, oldest first."""
        yield from rollups_of(self._all(ROLLUPS, (resolution, variant_id, since, until)))

    def forget(self, resolution: str, before: float, limit: int) -> int:
        """Delete old windows that were taken in, or old roll-ups."""
        with self._live().writing(durable=False) as db:
            return forget(db, resolution, before, limit)

    def observations(self, rollout: str, after: int) -> Sequence[Observation]:
        """Evidence of a rollout with a sequence greater than ``after``, in sequence order."""
        return observations_of(self._all(_OBSERVATIONS, (rollout, after)))

    def damage(self) -> Iterator[str]:
        """The keys of measurements and leases that are not what was written."""
        yield from damage((table, self._all(every, ())) for table, every in _EVERY.items())

    # -- leases -----------------------------------------------------------------------------------

    def lease(self, name: str, holder: str, now: float, ttl: float) -> Lease:
        """Take, renew or give back a lease; return who holds it now ("" for nobody)."""
        with self._live().writing(durable=False) as db:
            row = db.execute(_HELD, (name,)).fetchone()
            found = lease_of(row) if row else Lease(name, "", 0.0, 0)
            live = bool(found.holder) and now < found.until
            if live and found.holder != holder:
                return found
            if ttl > 0:
                epoch = found.epoch if live else found.epoch + 1
                found = Lease(name, holder, now + ttl, epoch)
            elif found.epoch:
                found = Lease(name, "", now, found.epoch)
            else:
                return found
            db.execute(_LEASE, lease_row(found))
            return found

    def leases(self, prefix: str, now: float) -> Sequence[Lease]:
        """The live leases whose names start with ``prefix``, by name."""
        rows = self._all(
            "SELECT name, holder, until, epoch, digest FROM leases "
            "WHERE substr(name, 1, ?) = ? AND holder != '' ORDER BY name",
            (len(prefix), prefix),
        )
        # A damaged one is listed whatever time it says: who reads records in leases fails closed.
        return [
            lease for lease in map(lease_of, rows) if lease.until > now or lease.holder == DAMAGED
        ]

    def close(self) -> None:
        """Checkpoint and close; closing twice is fine."""
        self._closed = True
        if self._connections.pid == os.getpid():
            self._connections.close()

    # -- rows -------------------------------------------------------------------------------------

    def _one(self, statement: str, values: tuple[Any, ...]) -> Any:
        connections = self._live()
        try:
            db = connections.borrow()
            try:
                return db.execute(statement, values).fetchone()
            finally:
                connections.give_back(db)
        except FOREIGN as error:
            connections.failed(error)
            raise_translated(error, self.path)

    def _all(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        connections = self._live()
        try:
            db = connections.borrow()
            try:
                return db.execute(statement, values).fetchall()
            finally:
                connections.give_back(db)
        except FOREIGN as error:
            connections.failed(error)
            raise_translated(error, self.path)
