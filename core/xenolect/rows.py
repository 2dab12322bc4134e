"""Rows of measurements and leases: written with a digest, checked whenever they are read.

The same for every index that stores them in a table each: ``observations``, ``windows``, ``rollups``,
``leases``, ``batches``. A flipped bit in evidence could roll back the wrong variant, one in a measurement choose it.
What is damaged is named in the log and left out; evidence is refused whole, since a judge must see all of
it. Columns may stand in any order in the table; a row is made and read in that of ``..._COLUMNS``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from xenolect.errors import CorruptError, InvalidError
from xenolect.facts import Batch, Lease, Observation, Rollup, Window, canonical

__all__ = [
    "BATCH_COLUMNS",
    "COLUMNS",
    "DAMAGED",
    "LEASE_COLUMNS",
    "OBSERVATION_COLUMNS",
    "ROLLUP_COLUMNS",
    "WINDOW_COLUMNS",
    "Batches",
    "damage",
    "digest_row",
    "insert",
    "lease_of",
    "lease_row",
    "observation_row",
    "observations_of",
    "rollup_row",
    "rollups_of",
    "window_row",
    "windows_of",
]

log = logging.getLogger("xenolect.performance")

DAMAGED = "(damaged)"
"""The holder of a lease whose row is not what was written: nobody, and nothing that can be read."""

OBSERVATION_COLUMNS = (
    "rollout",
    "arm",
    "unit",
    "operations",
    "failures",
    "at",
    "latency_ms",
    "custom",
    "writer",
)
WINDOW_COLUMNS = (
    "variant_id",
    "start",
    "span",
    "count",
    "failures",
    "bins",
    "sums",
    "writer",
)
ROLLUP_COLUMNS = (
    "resolution",
    "variant_id",
    "start",
    "span",
    "count",
    "failures",
    "bins",
    "sums",
)
LEASE_COLUMNS = ("name", "holder", "until", "epoch")
BATCH_COLUMNS = ("writer", "number", "at")
COLUMNS = {
    "observations": OBSERVATION_COLUMNS,
    "windows": WINDOW_COLUMNS,
    "rollups": ROLLUP_COLUMNS,
    "leases": LEASE_COLUMNS,
    "batches": BATCH_COLUMNS,
}
"""Of every table whose rows carry a digest."""


def insert(table: str, columns: Sequence[str], unique: Sequence[str] = (), mark: str = "?") -> str:
    """The statement in SQL that stores a row and its digest.

    unique: columns by which an older row is replaced; mark: what stands for a value.
    """
    every = (*columns, "digest")
    marks = ", ".join([mark] * len(every))
    statement = f"INSERT INTO {table} ({', '.join(every)}) VALUES ({marks})"  # noqa: S608
    if not unique:
        return statement
    rest = ", ".join(f"{name} = excluded.{name}" for name in every if name not in unique)
    return f"{statement} ON CONFLICT ({', '.join(unique)}) DO UPDATE SET {rest}"


def digest_row(table: str, values: Iterable[Any]) -> str:
    """128 bits over the table's name and every value, floats as floats: 2 us."""
    text = canonical([table, *values])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


_REAL = {  # columns that a database gives back as floats, whatever was put
    table: [name in ("at", "latency_ms", "start", "span", "until") for name in columns]
    for table, columns in COLUMNS.items()
}


def _sealed(table: str, given: tuple[Any, ...]) -> tuple[Any, ...]:
    values = tuple(
        float(value) if real and type(value) is int else value
        for value, real in zip(given, _REAL[table], strict=True)
    )
    try:
        return (*values, digest_row(table, values))
    except (TypeError, ValueError) as error:  # NaN; a lone surrogate is a ValueError too
        raise InvalidError(f"{given!r} can not be stored: {error}; nothing was stored") from error


def _whole(table: str, values: Sequence[Any], digest: Any) -> bool:
    try:
        return bool(digest_row(table, values) == digest)
    except (TypeError, ValueError):
        return False


def _text(value: Any) -> str:
    try:
        return canonical(value)
    except (TypeError, ValueError) as error:
        raise InvalidError(f"{value!r} is not JSON: {error}; nothing was stored") from error


# -- observations -----------------------------------------------------------------------------------


def observation_row(each: Observation) -> tuple[Any, ...]:
    """``OBSERVATION_COLUMNS`` and the digest."""
    return _sealed(
        "observations",
        (
            each.rollout,
            each.arm,
            each.unit,
            each.operations,
            each.failures,
            each.at,
            each.latency_ms,
            _text(each.custom) if each.custom else "{}",
            each.writer,
        ),
    )


def observations_of(rows: Iterable[Sequence[Any]]) -> list[Observation]:
    """From ``sequence``, ``OBSERVATION_COLUMNS`` and the digest; CorruptError names a damaged one."""
    found: list[Observation] = []
    for sequence, *values, digest in rows:
        if not _whole("observations", values, digest):
            raise CorruptError(
                f"observation {sequence} of the index is not what was written; its rollout holds: "
                f"abort it, or restore the index from a backup",
                key=f"observations/{sequence}",
                expected=str(digest),
            )
        rollout, arm, unit, operations, failures, at, latency_ms, custom, writer = values
        data = {} if custom == "{}" else json.loads(custom)
        found.append(
            Observation(
                rollout, arm, unit, operations, failures, at, latency_ms, data, writer, sequence
            )
        )
    return found


# -- windows and roll-ups -----------------------------------------------------------------------------


def window_row(each: Window) -> tuple[Any, ...]:
    """``WINDOW_COLUMNS`` and the digest."""
    return _sealed("windows", (*_window(each), each.writer))


def _window(each: Window) -> tuple[Any, ...]:
    return (
        each.variant_id,
        each.start,
        each.span,
        each.count,
        each.failures,
        _text(each.bins),
        _text(each.sums),
    )


def windows_of(rows: Iterable[Sequence[Any]]) -> Iterator[Window]:
    """From ``id``, ``WINDOW_COLUMNS`` and the digest; damaged ones are named and left out."""
    for sequence, *values, digest in rows:
        if not _whole("windows", values, digest):
            log.error("window %s of the index is not what was written: it is left out", sequence)
            continue
        name, start, span, count, failures, bins, sums, writer = values
        parts = json.loads(bins), json.loads(sums)
        yield Window(name, start, span, count, failures, *parts, writer, sequence)


def rollup_row(each: Rollup) -> tuple[Any, ...]:
    """``ROLLUP_COLUMNS`` and the digest."""
    return _sealed("rollups", (each.resolution, *_window(each)))


def rollups_of(rows: Iterable[Sequence[Any]]) -> Iterator[Rollup]:
    """From ``ROLLUP_COLUMNS`` and the digest; damaged ones are named and left out."""
    for *values, digest in rows:
        if not _whole("rollups", values, digest):
            log.error("the %s roll-up of %s at %s is not what was written", *values[:3])
            continue
        resolution, name, start, span, count, failures, bins, sums = values
        parts = json.loads(bins), json.loads(sums)
        yield Rollup(name, start, span, count, failures, *parts, resolution=resolution)


# -- leases -----------------------------------------------------------------------------------------


def lease_row(each: Lease) -> tuple[Any, ...]:
    """``LEASE_COLUMNS`` and the digest."""
    return _sealed("leases", (each.name, each.holder, each.until, each.epoch))


def lease_of(row: Sequence[Any]) -> Lease:
    """From ``LEASE_COLUMNS`` and the digest; a damaged one is held by ``DAMAGED``, who is nobody."""
    *values, digest = row
    if _whole("leases", values, digest):
        return Lease(*values)
    name, _, _, epoch = values
    log.error("the lease %s of the index is not what was written: it counts as free", name)
    return Lease(str(name), DAMAGED, 0.0, epoch if isinstance(epoch, int) else 0)


# -- batches ------------------------------------------------------------------------------------------


class Batches:
    """The table ``batches``: the newest of each writer. ``mark`` stands for a value."""

    KEPT = 30 * 86400.0
    """Seconds of the measurements' own time; a writer sends a batch again for as long as it lives."""

    def __init__(self, mark: str = "?") -> None:
        select = f"SELECT {', '.join(BATCH_COLUMNS)}, digest FROM batches WHERE writer = {mark}"  # noqa: S608
        put = insert("batches", BATCH_COLUMNS, ("writer",), mark)
        # Of two that store the same batch at once the second one waits here, and then stores nothing.
        self._put = f"{put} WHERE batches.number < excluded.number"
        self._find = select
        self._drop = f"DELETE FROM batches WHERE writer = {mark}"  # noqa: S608
        self._forget = f"DELETE FROM batches WHERE at < {mark}"  # noqa: S608

    def take(self, db: Any, once: Batch, records: Iterable[Window | Observation]) -> bool:
        """Is the batch new? Then it is one that was stored; in the caller's transaction."""
        at = max(each.at if isinstance(each, Observation) else each.start for each in records)
        row = db.execute(self._find, (once.writer,)).fetchone()
        if row is None:
            db.execute(self._forget, (at - self.KEPT,))
        elif not _whole("batches", row[:-1], row[-1]):
            log.error("the batch of %s in the index is not what was written", once.writer)
            db.execute(self._drop, (once.writer,))
        elif row[1] >= once.number:
            return False
        row = _sealed("batches", (once.writer, once.number, at))
        return bool(db.execute(self._put, row).rowcount)


def damage(tables: Iterable[tuple[str, Iterable[Sequence[Any]]]]) -> Iterator[str]:
    """The keys (``table/name``) of rows that fail their digest; each row is its name or number, the values,
    the digest."""
    for table, rows in tables:
        for name, *values, digest in rows:
            if not _whole(table, values, digest):
                yield f"{table}/{name}"
