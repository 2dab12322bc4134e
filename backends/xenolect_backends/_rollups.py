"""Roll-ups in the tables of the SQLite index: read, replaced and forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from xenolect.cas import check_cursor
from xenolect.rows import ROLLUP_COLUMNS, WINDOW_COLUMNS, insert

__all__ = ["APPENDED", "NEXT", "ROLLED", "ROLLUPS", "WINDOWS", "forget", "put"]

_WINDOW = f"id, {', '.join(WINDOW_COLUMNS)}, digest"
ROLLED = "SELECT value FROM meta WHERE key = 'rolled'"
NEXT = f"SELECT {_WINDOW} FROM windows WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608
APPENDED = f"""SELECT {_WINDOW} FROM windows
WHERE id > ? AND id <= ? AND (writer != ? OR writer = '') ORDER BY id LIMIT ?"""  # noqa: S608
WINDOWS = f"""SELECT {_WINDOW} FROM windows
WHERE variant_id = ? AND (start, id) > (?, ?) AND start < ? ORDER BY start, id LIMIT ?"""  # noqa: S608
ROLLUPS = f"""SELECT {", ".join(ROLLUP_COLUMNS)}, digest FROM rollups
WHERE resolution = ? AND variant_id = ? AND start >= ? AND start < ? ORDER BY start"""  # noqa: S608
_PUT = insert("rollups", ROLLUP_COLUMNS, ("resolution", "variant_id", "start"))
_MOVE = """INSERT INTO meta (key, value) VALUES ('rolled', ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
_FORGET = """DELETE FROM rollups WHERE rowid IN
(SELECT rowid FROM rollups WHERE resolution = ? AND start < ? LIMIT ?)"""
_FORGET_WINDOWS = """DELETE FROM windows WHERE id IN
(SELECT id FROM windows WHERE start < ? AND id <= ? AND id < (SELECT max(id) FROM windows)
LIMIT ?)"""  # the newest id stays, so that it is not given again


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
