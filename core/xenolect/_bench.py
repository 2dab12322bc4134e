"""What the hot paths cost here: each beside a floor measured in the same run, as a ratio.

A floor is the least Python that does only that job. Times are CPU per operation (thread time, the median
of batches), so a busy neighbour disturbs little; durable rows are wall time and compare with a plain
SQLite transaction on the same disk.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs

from xenolect.manager import EmergenceManager
from xenolect.model import AgentContext, PerformanceMetrics

__all__ = ["Row", "run"]


@attrs.frozen
class Row:
    """One operation: microseconds of ours and of the floor, and what the floor is."""

    name: str
    ours_us: float
    floor_us: float
    floor: str

    @property
    def ratio(self) -> float:
        """How many floors ours costs."""
        return self.ours_us / self.floor_us


def cpu(operation: Callable[[], object], number: int, batches: int = 9) -> float:
    """Median CPU microseconds of one call, over batches of ``number``."""
    times = []
    for _ in range(batches):
        began = time.thread_time()
        for _ in range(number):
            operation()
        times.append((time.thread_time() - began) / number)
    return statistics.median(times) * 1e6


def wall(operation: Callable[[], object], number: int) -> float:
    """Median wall microseconds of one call."""
    times = []
    for _ in range(number):
        began = time.perf_counter()
        operation()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def run(progress: Callable[[str], object] = lambda _: None) -> Iterator[Row]:
    """Measure everything; rows come as they are ready."""
    logging.getLogger("xenolect").addHandler(logging.NullHandler())
    yield from _selection(progress)
    yield from _measuring(progress)
    yield from _durable(progress)


def _fleet(variants: int) -> EmergenceManager:
    manager = EmergenceManager.open("memory://", background=False, max_variants=variants + 1)
    for i in range(variants):
        variant = manager.variants.propose(f"v{i}", {"i": i}, id=f"v{i}")
        manager.variants.activate(variant, force=True)
    manager.agents.register("agent-0", AgentContext({"zstd": "1.5"}))
    return manager


def _selection(progress: Callable[[str], object]) -> Iterator[Row]:
    for count in (10, 100):
        progress(f"select among {count} variants")
        with _fleet(count) as manager:
            scores = [i / count for i in range(count)]

            def best(scores: list[float] = scores) -> int:
                winner, top = -1, -1.0
                for i, score in enumerate(scores):
                    if score > top:
                        winner, top = i, score
                return winner

            yield Row(
                f"select, {count} variants",
                cpu(lambda: manager.select("agent-0"), 2_000),
                cpu(best, 2_000),
                "largest of a list",
            )
            if count == 100:
                table = {v.id: v for v in manager.variants.list()}
                yield Row(
                    "variant lookup",
                    cpu(lambda: manager.variants.get("v7"), 20_000),
                    cpu(partial(table.get, "v7"), 20_000),
                    "a dict",
                )
    yield Row(
        "canary bucket of a new unit",
        cpu(_bucket(), 5_000),
        cpu(lambda: hashlib.blake2b(b"agent-7", digest_size=8).digest(), 5_000),
        "blake2b alone",
    )


def _bucket() -> Callable[[], object]:
    from xenolect._routing import routed, unit_hash

    def bucket() -> bool:
        unit_hash.cache_clear()
        return routed("agent-7", 2**100 + 7, 100_000)

    return bucket


def _measuring(progress: Callable[[str], object]) -> Iterator[Row]:
    progress("record")
    with _fleet(2) as manager:
        metrics = PerformanceMetrics(1.0, latency_ms=12.5)
        sums = [0, 0, 0.0]
        bins: dict[int, int] = {}

        def fold() -> None:
            sums[0] += 1
            sums[2] += 12.5
            bins[64] = bins.get(64, 0) + 1

        yield Row(
            "record, in memory",
            cpu(lambda: manager.record("v1", metrics), 500),
            cpu(fold, 5_000),
            "two sums and a bin",
        )

        def nothing() -> None:
            pass

        def guarded() -> None:
            with manager.call("agent-0"):
                nothing()

        yield Row("guarded call, closed", cpu(guarded, 500), cpu(nothing, 5_000), "the bare call")


def _durable(progress: Callable[[str], object]) -> Iterator[Row]:
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
            manager.variants.activate("x")
            manager.agents.register_many([(f"a{i}", AgentContext()) for i in range(30)])
            rollback = _rollbacks(manager)
            yield Row("rollback, durable", wall(rollback, 20), wall(insert, 50), "SQLite WAL FULL")
        plain.close()


def _rollbacks(manager: EmergenceManager) -> Callable[[], object]:
    ready = []
    for i in range(20):
        canary = manager.variants.propose(f"c{i}", {"i": i}, id=f"c{i}")
        manager.states.put(canary, {"window": i})
        manager.canaries.start(canary)
        manager.states.put(canary, {"window": -i})
        ready.append(canary)
    return lambda: manager.rollback(ready.pop(), reason="bench")
