"""Commits: wall time, beside a plain SQLite transaction on the same disk; and asking the index."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from xenolect._bench.rows import Plan, Progress, Row, side_by_side, wall
from xenolect.manager import EmergenceManager

__all__ = ["rows"]


def rows(plan: Plan, progress: Progress) -> Iterator[Row]:
    """The group's rows."""
    progress("durable commits")
    with tempfile.TemporaryDirectory() as place:
        plain = sqlite3.connect(Path(place) / "plain.db", isolation_level=None)
        plain.execute("pragma journal_mode=wal")
        plain.execute("pragma synchronous=full")
        plain.execute("create table t (k text primary key, v text) strict")
        numbers = iter(range(10**9))

        def insert() -> None:
            plain.execute("insert into t values (?, ?)", (str(next(numbers)), "x" * 200))

        with EmergenceManager.open(Path(place) / "store", background=False) as manager:
            variant = manager.variants.propose("x", {"n": 0}, id="x")
            floor = wall(insert, 100)

            def update() -> None:
                nonlocal variant
                variant = manager.variants.update(variant, changes={"n": next(numbers)})

            yield Row("update of a variant, durable", wall(update, 100), floor, "SQLite WAL FULL")
            index = manager._runtime.index

            def ask() -> object:
                return plain.execute("select v from t where k = ?", ("50",)).fetchone()

            lookup, floor = side_by_side((lambda: index.get("variant", "x"), ask), 300)
            yield Row("index lookup", lookup, floor, "a plain SQLite point lookup", at_most=4.0)
            blob = bytes(range(256)) * 4096

            def put() -> None:
                manager.states.put("x", next(numbers).to_bytes(8, "big") + blob)

            target = Path(place) / "plain.bin"

            def write() -> None:
                with target.open("wb") as file:
                    file.write(hashlib.sha256(blob).digest() + blob)
                    file.flush()
                    os.fdatasync(file.fileno())
                insert()

            yield Row(
                "put of a 1 MiB state, durable",
                wall(put, 20),
                wall(write, 20),
                "SHA-256, write, fdatasync, SQLite commit",
            )
        plain.close()
