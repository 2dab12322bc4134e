"""Roll-ups in the tables of the SQLite index: read, replaced and forgotten."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from xenolect.cas import check_cursor
from xenolect.errors import InvalidError
from xenolect.facts import Rollup, Window, canonical

__all__ = [
    "APPENDED",
    "NEXT",
    "ROLLED",
    "ROLLUPS",
    "as_text",
    "forget",
    "put",
    "rollup_of",
    "window_of",
]

ROLLED = "SELECT value FROM meta WHERE key = 'rolled'"
NEXT = """SELECT id, variant_id, start, span, count, failures, bins, sums, writer FROM windows
WHERE id > ? ORDER BY id LIMIT ?"""
APPENDED = """SELECT id, variant_id, start, span, count, failures, bins, sums, writer FROM windows
WHERE id > ? AND id <= ? AND (writer != ? OR writer = '') ORDER BY id LIMIT ?"""
ROLLUPS = """SELECT variant_id, start, span, count, failures, bins, sums, resolution FROM rollups
WHERE resolution = ? AND variant_id = ? AND start >= ? AND start < ? ORDER BY start"""
_PUT = """INSERT INTO rollups (resolution, variant_id, start, span, count, failures, bins, sums)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (resolution, variant_id, start) DO UPDATE SET span = excluded.span,
count = excluded.count, failures = excluded.failures, bins = excluded.bins, sums = excluded.sums"""
_MOVE = """INSERT INTO meta (key, value) VALUES ('rolled', ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
_FORGET = """DELETE FROM rollups WHERE rowid IN
(SELECT rowid FROM rollups WHERE resolution = ? AND start < ? LIMIT ?)"""
_FORGET_WINDOWS = """DELETE FROM windows WHERE id IN
(SELECT id FROM windows WHERE start < ? AND id <= ? AND id < (SELECT max(id) FROM windows)
LIMIT ?)"""  # the newest id stays, so that it is not given again


def as_text(value: Any) -> str:
    """The stored text of a value; InvalidError for what is not JSON."""
    try:
        return canonical(value)
    except (TypeError, ValueError) as error:
        raise InvalidError(f"{value!r} is not JSON: {error}; nothing was stored") from error


def window_of(row: Sequence[Any]) -> Window:
    """A window from ``id, variant_id, start, span, count, failures, bins, sums, writer``."""
    sequence, variant_id, start, span, count, failures, bins, sums, writer = row
    return Window(
        variant_id,
        start,
        span,
        count,
        failures,
        json.loads(bins),
        json.loads(sums),
        writer,
        sequence,
    )


def rollup_of(row: Sequence[Any]) -> Rollup:
    """A roll-up from the columns of ``ROLLUPS``."""
    variant_id, start, span, count, failures, bins, sums, resolution = row
    return Rollup(
        variant_id,
        start,
        span,
        count,
        failures,
        json.loads(bins),
        json.loads(sums),
        resolution=resolution,
    )


def put(db: sqlite3.Connection, since: int, until: int, rows: Sequence[tuple[Any, ...]]) -> None:
    """Store roll-ups and move the cursor within the transaction that is open."""
    check_cursor(since, int((db.execute(ROLLED).fetchone() or (0,))[0]))
    db.executemany(_PUT, rows)
    db.execute(_MOVE, (str(until),))


def forget(db: sqlite3.Connection, resolution: str, before: float, limit: int) -> int:
    """Delete old rows within the transaction that is open."""
    if resolution:
        return db.execute(_FORGET, (resolution, before, limit)).rowcount
    rolled = int((db.execute(ROLLED).fetchone() or (0,))[0])
    return db.execute(_FORGET_WINDOWS, (before, rolled, limit)).rowcount
