"""``Index`` on PostgreSQL: one truth for processes on many machines.

A commit locks the one row of ``head`` until its transaction ends: revisions are given out and become
visible in the same order, so followers that remember the last one miss nothing. That holds without
LISTEN, behind poolers too. Evidence and windows take their numbers from ``counters`` the same way.
"""

from __future__ import annotations

import json
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
from xenolect.errors import CorruptError, InvalidError, UnavailableError
from xenolect.facts import (
    Change,
    Contents,
    Entry,
    Fact,
    Lease,
    Observation,
    Rollup,
    Window,
    canonical,
    digest_entry_text,
    digest_fact_text,
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
_OBSERVATION = """INSERT INTO observations
(sequence, rollout, arm, unit, operations, failures, at, latency_ms, custom, writer)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_WINDOW = """INSERT INTO windows (id, variant_id, start, span, count, failures, bins, sums, writer)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_READ = "SELECT id, variant_id, start, span, count, failures, bins, sums, writer FROM windows "
_ROLLUP = """INSERT INTO rollups (resolution, variant_id, start, span, count, failures, bins, sums)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (resolution, variant_id, start) DO UPDATE SET span = excluded.span,
count = excluded.count, failures = excluded.failures, bins = excluded.bins, sums = excluded.sums"""
_COUNT = "UPDATE counters SET value = value + %s WHERE name = %s RETURNING value"
_LEASE = "SELECT name, holder, until, epoch FROM leases WHERE name = %s FOR UPDATE"


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
    ) -> int:
        """Apply all changes and append one journal entry, durable; return the revision.

        Where the connection breaks while committing, the journal is asked whether it came through.
        """
        prepared, at = prepare(changes), moment(at)
        check_text(actor, "the actor", empty=True)
        stored = prepared_text(prepared)
        rows = [_observation_row(each) for each in observations]
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
        self, batch: Sequence[Window | Observation], *, durable: bool = False
    ) -> int:
        """Append measurements in one transaction; the last observation's sequence so far.

        As durable as the server's ``synchronous_commit`` says: by default always.
        """
        observations = [_observation_row(each) for each in batch if isinstance(each, Observation)]
        windows = [(*_window_row(each), each.writer) for each in batch if isinstance(each, Window)]
        with self._connections.transaction() as db:
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
            rows = self._connections.all(
                _READ + "WHERE variant_id = %s AND (start, id) > (%s, %s) AND start < %s "
                "ORDER BY start, id LIMIT %s",
                (variant_id, at, last, until, _PAGE),
            )
            yield from map(_window, rows)
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
        rows = self._connections.all(
            _READ + "WHERE id > %s AND id <= %s AND (writer != %s OR writer = '') "
            "ORDER BY id LIMIT %s",
            (after, newest, writer, limit),
        )
        full = len(rows) == limit
        return rows[-1][0] if full else newest, [_window(row) for row in rows]

    def unrolled(self, limit: int) -> tuple[int, int, Sequence[Window]]:
        """The next windows that no ``roll_up`` has taken in, between two cursors."""
        with self._connections.transaction(reading=True) as db:
            since = _rolled(db)
            rows = db.execute(
                _READ + "WHERE id > %s ORDER BY id LIMIT %s",
                (since, limit),
            ).fetchall()
        return since, rows[-1][0] if rows else since, [_window(row) for row in rows]

    def roll_up(self, since: int, until: int, rollups: Sequence[Rollup]) -> None:
        """Store roll-ups and move the cursor, all or nothing."""
        rows = [(each.resolution, *_window_row(each)) for each in rollups]
        with self._connections.transaction() as db:
            check_cursor(since, _rolled(db, " FOR UPDATE"))
            if rows:
                db.cursor().executemany(_ROLLUP, rows)
            db.execute("UPDATE counters SET value = %s WHERE name = 'rolled'", (until,))

    def rollups(
        self, variant_id: str, resolution: str, since: float, until: float
    ) -> Iterator[Rollup]:
        """Roll-ups of a variant whose start is in ``[since, until)``, oldest first."""
        rows = self._connections.all(
            "SELECT start, span, count, failures, bins, sums FROM rollups WHERE resolution = %s "
            "AND variant_id = %s AND start >= %s AND start < %s ORDER BY start",
            (resolution, variant_id, since, until),
        )
        for start, span, count, failures, bins, sums in rows:
            parts = (json.loads(bins), json.loads(sums))
            yield Rollup(variant_id, start, span, count, failures, *parts, resolution=resolution)

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
        rows = self._connections.all(
            "SELECT arm, unit, operations, failures, at, latency_ms, custom, writer, sequence "
            "FROM observations WHERE rollout = %s AND sequence > %s ORDER BY sequence",
            (rollout, after),
        )
        return [
            Observation(rollout, *before, json.loads(custom), writer, sequence)
            for *before, custom, writer, sequence in rows
        ]

    # -- leases -----------------------------------------------------------------------------------

    def lease(self, name: str, holder: str, now: float, ttl: float) -> Lease:
        """Take, renew or give back a lease; return who holds it now ("" for nobody)."""
        with self._connections.transaction() as db:
            row = db.execute(_LEASE, (name,)).fetchone()
            if row is None:
                if ttl <= 0:
                    return Lease(name, "", 0.0, 0)
                db.execute(
                    "INSERT INTO leases VALUES (%s, '', 0, 0) ON CONFLICT DO NOTHING", (name,)
                )
                row = db.execute(_LEASE, (name,)).fetchone()
            assert row is not None  # rows of leases are never deleted
            found = Lease(*row)
            live = bool(found.holder) and now < found.until
            if live and found.holder != holder:
                return found
            if ttl > 0:
                found = Lease(name, holder, now + ttl, found.epoch if live else found.epoch + 1)
            else:
                found = Lease(name, "", now, found.epoch)
            db.execute(
                "UPDATE leases SET holder = %s, until = %s, epoch = %s WHERE name = %s",
                (found.holder, found.until, found.epoch, name),
            )
            return found

    def leases(self, prefix: str, now: float) -> Sequence[Lease]:
        """The live leases whose names start with ``prefix``, by name."""
        rows = self._connections.all(
            "SELECT name, holder, until, epoch FROM leases "
            "WHERE starts_with(name, %s) AND holder != '' AND until > %s ORDER BY name",
            (prefix, now),
        )
        return [Lease(*row) for row in rows]

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


def _text(value: Any) -> str:
    try:
        return canonical(value)
    except (TypeError, ValueError) as error:
        raise InvalidError(f"{value!r} is not JSON: {error}; nothing was stored") from error


def _observation_row(each: Observation) -> tuple[Any, ...]:
    return (
        each.rollout,
        each.arm,
        each.unit,
        each.operations,
        each.failures,
        each.at,
        each.latency_ms,
        _text(each.custom),
        each.writer,
    )


def _window(row: Sequence[Any]) -> Window:
    sequence, name, start, span, count, failures, bins, sums, writer = row
    parts = (json.loads(bins), json.loads(sums))
    return Window(name, start, span, count, failures, *parts, writer, sequence)


def _window_row(each: Window) -> tuple[Any, ...]:
    return (
        each.variant_id,
        each.start,
        each.span,
        each.count,
        each.failures,
        _text(each.bins),
        _text(each.sums),
    )
