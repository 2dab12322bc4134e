"""``Index`` on PostgreSQL: one truth for processes on many machines.

A commit locks the one row of ``head`` until its transaction ends: revisions are given out and become
visible in the same order, so followers that remember the last one miss nothing. That holds without
LISTEN, behind poolers too. Evidence and windows take their numbers from ``counters`` the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from xenolect.cas import (
    check_after,
    check_change,
    check_cursor,
    check_text,
    checked_entries,
    checked_value,
    moment,
    prepare,
    prepared_text,
    restored_rows,
)
from xenolect.errors import CorruptError, UnavailableError
from xenolect.facts import (
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
    ROLLUP_COLUMNS,
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
from xenolect_postgres.connections import Connections

if TYPE_CHECKING:
    import psycopg

    from xenolect_postgres import PostgresOptions

__all__ = ["PostgresIndex"]

_PAGE = 1000  # windows read at a time, so that a month of them is never in memory at once

_FACT = "SELECT version, value, digest FROM facts WHERE kind = %s AND key = %s"
_PUT_FACT = """INSERT INTO facts (kind, key, version, value, digest) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (kind, key) DO UPDATE
SET version = excluded.version, value = excluded.value, digest = excluded.digest"""
_ENTRY = """INSERT INTO journal (revision, previous, actor, at, changes, digest)
VALUES (%s, %s, %s, %s, %s, %s)"""
_OBSERVATION = insert("observations", ("sequence", *OBSERVATION_COLUMNS), mark="%s").encode()
_OBSERVATIONS = f"""SELECT sequence, {", ".join(OBSERVATION_COLUMNS)}, digest FROM observations
WHERE rollout = %s AND sequence > %s ORDER BY sequence""".encode()  # noqa: S608
_WINDOW = insert("windows", ("id", *WINDOW_COLUMNS), mark="%s").encode()
_READ = f"SELECT id, {', '.join(WINDOW_COLUMNS)}, digest FROM windows "  # noqa: S608
_WINDOWS = (
    _READ + "WHERE variant_id = %s AND (start, id) > (%s, %s) AND start < %s "
    "ORDER BY start, id LIMIT %s"
).encode()
_APPENDED = (
    _READ + "WHERE id > %s AND id <= %s AND (writer != %s OR writer = '') ORDER BY id LIMIT %s"
).encode()
_NEXT = (_READ + "WHERE id > %s ORDER BY id LIMIT %s").encode()
_ROLLUP = insert("rollups", ROLLUP_COLUMNS, ("resolution", "variant_id", "start"), "%s").encode()
_ROLLUPS = f"""SELECT {", ".join(ROLLUP_COLUMNS)}, digest FROM rollups
WHERE resolution = %s AND variant_id = %s AND start >= %s AND start < %s ORDER BY start""".encode()  # noqa: S608
_HELD = f"SELECT {', '.join(LEASE_COLUMNS)}, digest FROM leases "  # noqa: S608
_TAKE = (_HELD + "WHERE name = %s FOR UPDATE").encode()
_STARTING = (_HELD + "WHERE starts_with(name, %s) AND holder != '' ORDER BY name").encode()
_LEASE = insert("leases", LEASE_COLUMNS, ("name",), "%s").encode()
_FREE = (insert("leases", LEASE_COLUMNS, mark="%s") + " ON CONFLICT DO NOTHING").encode()
_EVERY = {
    table: f"SELECT {name}, {', '.join(COLUMNS[table])}, digest FROM {table}".encode()  # noqa: S608
    for table, name in (
        ("observations", "sequence"),
        ("windows", "id"),
        ("rollups", "concat_ws('/', resolution, variant_id, start)"),
        ("leases", "name"),
        ("batches", "writer"),
    )
}
_BATCHES = Batches("%s")
_COUNT = "UPDATE counters SET value = value + %s WHERE name = %s RETURNING value"


class PostgresIndex:
    """``Index`` on PostgreSQL 14 or later."""

    def __init__(self, options: PostgresOptions) -> None:
        self._connections = Connections(options)

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
        """Apply all changes and append one journal entry, durable; return the revision.

        Where the connection breaks while committing, the journal is asked whether it came through.
        """
        prepared, at = prepare(changes), moment(at)
        check_text(actor, "the actor", empty=True)
        stored = prepared_text(prepared)
        rows = [observation_row(each) for each in observations]
        revision, digest = 0, ""
        try:
            with self._connections.transaction() as db:
                found = db.execute("SELECT revision, digest FROM head FOR UPDATE").fetchone()
                head, previous = found or (0, "")
                check_after(after, head)
                for change, text in prepared:
                    kind, key = change.kind, change.key
                    row = db.execute(_FACT, (kind, key)).fetchone()
                    version, old, _ = row or (0, None, "")
                    check_change(change, version, old is not None)
                    sealed = digest_fact_text(kind, key, version + 1, text or "null")
                    db.execute(_PUT_FACT, (kind, key, version + 1, text, sealed))
                revision = head + 1
                digest = digest_entry_text(previous, revision, at, actor, stored)
                db.execute(_ENTRY, (revision, previous, actor, at, stored, digest))
                db.execute("UPDATE head SET revision = %s, digest = %s", (revision, digest))
                if rows and (once is None or _BATCHES.take(db, once, observations)):
                    _observe(db, rows)
        except UnavailableError:
            if not digest or not self._is_there(revision, digest):
                raise
        return revision

    def restore(self, contents: Contents, entries: Sequence[Entry]) -> None:
        """Fill an empty index, in one transaction."""
        with self._connections.transaction() as db:
            found = db.execute("SELECT revision FROM head FOR UPDATE").fetchone()
            journal, facts = restored_rows(contents, entries, found[0] if found else 0)
            with db.cursor() as cursor:
                if journal:
                    cursor.executemany(_ENTRY, journal)
                if facts:
                    cursor.executemany(_PUT_FACT, facts)
            values = (contents.revision, contents.digest)
            db.execute("UPDATE head SET revision = %s, digest = %s", values)

    def _is_there(self, revision: int, digest: str) -> bool:
        """Did a commit come through whose answer was lost? UnavailableError where nobody can say."""
        row = self._connections.one("SELECT digest FROM journal WHERE revision = %s", (revision,))
        return row is not None and row[0] == digest

    def load(self) -> Contents:
        """Every fact as of one revision; CorruptError names the first row that fails its digest."""
        with self._connections.transaction(reading=True) as db:
            revision, digest = db.execute("SELECT revision, digest FROM head").fetchone() or (0, "")
            rows = db.execute(
                "SELECT kind, key, version, value, digest FROM facts ORDER BY kind, key"
            ).fetchall()
        facts = tuple(
            Fact(kind, key, version, checked_value(kind, key, version, text, stored))
            for kind, key, version, text, stored in rows
        )
        return Contents(revision, digest, facts)

    def get(self, kind: str, key: str) -> Any | None:
        """The value of one fact as of now, or None; CorruptError when it fails its digest."""
        row = self._connections.one(_FACT, (kind, key))
        return None if row is None else checked_value(kind, key, *row)

    def changes(self, after: int) -> Sequence[Entry]:
        """The journal after a revision, digests checked; one small row when there is nothing new."""
        after = max(after, 0)
        head = int(self._connections.one("SELECT revision FROM head")[0])
        if head == after:
            return ()
        if head < after:
            raise CorruptError(
                f"the index is at revision {head}, but {after} was read before: it was replaced by an "
                f"older one; open it again after finding out why",
                key="journal",
            )
        rows = self._connections.all(
            "SELECT revision, previous, actor, at, changes, digest FROM journal "
            "WHERE revision >= %s ORDER BY revision",
            (after,),
        )
        if not rows or (after and rows[0][0] != after):
            raise CorruptError(
                f"journal entry {after or 1} is missing, but there are later ones; restore the index "
                f"from a backup",
                key=f"journal/{after or 1}",
            )
        return checked_entries(rows, after)

    # -- measurements -----------------------------------------------------------------------------

    def append_windows(
        self,
        batch: Sequence[Window | Observation],
        *,
        durable: bool = False,
        once: Batch | None = None,
    ) -> int:
        """Append measurements in one transaction; the last observation's sequence so far.

        As durable as the server's ``synchronous_commit`` says: by default always.
        """
        observations = [observation_row(each) for each in batch if isinstance(each, Observation)]
        windows = [window_row(each) for each in batch if isinstance(each, Window)]
        with self._connections.transaction() as db:
            if batch and once is not None and not _BATCHES.take(db, once, batch):
                return _observe(db, ())
            if windows:
                first = _take(db, "windows", len(windows))
                db.cursor().executemany(
                    _WINDOW, [(first + number, *row) for number, row in enumerate(windows)]
                )
            return _observe(db, observations)

    def windows(self, variant_id: str, since: float, until: float) -> Iterator[Window]:
        """Windows of a variant whose start is in ``[since, until)``, oldest first, read in pages."""
        at, last = since, -1
        while True:
            rows = self._connections.all(_WINDOWS, (variant_id, at, last, until, _PAGE))
            yield from windows_of(rows)
            if len(rows) < _PAGE:
                return
            last, _, at = rows[-1][:3]

    def appended(
        self, after: int | None, limit: int, writer: str = ""
    ) -> tuple[int, Sequence[Window]]:
        """Windows appended after a cursor, but not the writer's own, and the cursor behind them."""
        found = self._connections.all("SELECT value FROM counters WHERE name = 'windows'", ())
        newest = int(found[0][0])
        if after is None or newest <= after:
            return newest if after is None else after, []
        rows = self._connections.all(_APPENDED, (after, newest, writer, limit))
        full = len(rows) == limit
        return rows[-1][0] if full else newest, list(windows_of(rows))

    def unrolled(self, limit: int) -> tuple[int, int, Sequence[Window]]:
        """The next windows that no ``roll_up`` has taken in, between two cursors."""
        with self._connections.transaction(reading=True) as db:
            since = _rolled(db)
            rows = db.execute(_NEXT, (since, limit)).fetchall()
        return since, rows[-1][0] if rows else since, list(windows_of(rows))

    def roll_up(self, since: int, until: int, rollups: Sequence[Rollup]) -> None:
        """Store roll-ups and move the cursor, all or nothing."""
        rows = [rollup_row(each) for each in rollups]
        with self._connections.transaction() as db:
            check_cursor(since, _rolled(db, " FOR UPDATE"))
            if rows:
                db.cursor().executemany(_ROLLUP, rows)
            db.execute("UPDATE counters SET value = %s WHERE name = 'rolled'", (until,))

    def rollups(
        self, variant_id: str, resolution: str, since: float, until: float
    ) -> Iterator[Rollup]:
        """Roll-ups of a variant whose start is in ``[since, until)``, oldest first."""
        rows = self._connections.all(_ROLLUPS, (resolution, variant_id, since, until))
        yield from rollups_of(rows)

    def forget(self, resolution: str, before: float, limit: int) -> int:
        """Delete old windows that were taken in, or old roll-ups."""
        with self._connections.transaction() as db:
            if resolution:
                return db.execute(
                    "DELETE FROM rollups WHERE ctid IN (SELECT ctid FROM rollups "
                    "WHERE resolution = %s AND start < %s LIMIT %s)",
                    (resolution, before, limit),
                ).rowcount
            return db.execute(
                "DELETE FROM windows WHERE id IN (SELECT id FROM windows "
                "WHERE start < %s AND id <= %s LIMIT %s)",
                (before, _rolled(db), limit),
            ).rowcount

    def observations(self, rollout: str, after: int) -> Sequence[Observation]:
        """Evidence of a rollout with a sequence greater than ``after``, in sequence order."""
        return observations_of(self._connections.all(_OBSERVATIONS, (rollout, after)))

    def damage(self) -> Iterator[str]:
        """The keys of measurements and leases that are not what was written."""
        for table, every in _EVERY.items():
            with self._connections.transaction(reading=True) as db, db.cursor("every") as rows:
                rows.execute(every)
                found = list(damage([(table, rows)]))
            yield from found

    # -- leases -----------------------------------------------------------------------------------

    def lease(self, name: str, holder: str, now: float, ttl: float) -> Lease:
        """Take, renew or give back a lease; return who holds it now ("" for nobody)."""
        with self._connections.transaction() as db:
            row = db.execute(_TAKE, (name,)).fetchone()
            if row is None:
                nobody = Lease(name, "", 0.0, 0)
                if ttl <= 0:
                    return nobody
                db.execute(_FREE, lease_row(nobody))  # so that there is a row to lock
                row = db.execute(_TAKE, (name,)).fetchone()
            assert row is not None  # rows of leases are never deleted
            found = lease_of(row)
            live = bool(found.holder) and now < found.until
            if live and found.holder != holder:
                return found
            if ttl > 0:
                found = Lease(name, holder, now + ttl, found.epoch if live else found.epoch + 1)
            else:
                found = Lease(name, "", now, found.epoch)
            db.execute(_LEASE, lease_row(found))
            return found

    def leases(self, prefix: str, now: float) -> Sequence[Lease]:
        """The live leases whose names start with ``prefix``, by name."""
        found = map(lease_of, self._connections.all(_STARTING, (prefix,)))
        # A damaged one is listed whatever time it says: who reads records in leases fails closed.
        return [lease for lease in found if lease.until > now or lease.holder == DAMAGED]

    def close(self) -> None:
        """Give the connections back; twice is fine."""
        self._connections.close()


def _take(db: psycopg.Connection[Any], name: str, many: int) -> int:
    """The first of ``many`` new numbers; nobody else gets any until this transaction ends."""
    row = db.execute(_COUNT, (many, name)).fetchone()
    assert row is not None
    return int(row[0]) - many + 1


def _observe(db: psycopg.Connection[Any], rows: Sequence[tuple[Any, ...]]) -> int:
    """Append evidence; the last sequence so far."""
    if not rows:
        row = db.execute("SELECT value FROM counters WHERE name = 'observations'").fetchone()
        return 0 if row is None else int(row[0])
    first = _take(db, "observations", len(rows))
    db.cursor().executemany(
        _OBSERVATION, [(first + number, *row) for number, row in enumerate(rows)]
    )
    return first + len(rows) - 1


def _rolled(db: psycopg.Connection[Any], lock: str = "") -> int:
    statement = f"SELECT value FROM counters WHERE name = 'rolled'{lock}"  # noqa: S608
    row = db.execute(statement.encode()).fetchone()
    return 0 if row is None else int(row[0])
