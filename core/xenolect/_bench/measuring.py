"""Recording, and calls that select, time and report."""

from __future__ import annotations

import math
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from xenolect._bench import peers
from xenolect._bench.fleet import fleet
from xenolect._bench.rows import Growth, Plan, Progress, Row, cpu, side_by_side, wall
from xenolect.manager import EmergenceManager
from xenolect.model import AgentContext, PerformanceMetrics

__all__ = ["rows"]

BATCH = 1_000


def rows(plan: Plan, progress: Progress) -> Iterator[Row]:
    """The group's rows."""
    progress("record")
    metrics = PerformanceMetrics(1.0, latency_ms=12.5)
    fold, what = _fold(), "sums and a log bin"
    with fleet(100) as manager:
        alone, floor = side_by_side((lambda: manager.record("v1", metrics), fold), 2_000)
        yield Row("record, in memory", alone, floor, what, within=2.0)
        if plan.peers:
            yield from peers.record(alone)
        of_agent, floor = side_by_side(
            (lambda: manager.record("v1", metrics, "agent-0"), fold), 2_000
        )
        yield Row("record of an agent, in memory", of_agent, floor, what)
        for size in (1, 10, 100, 1_000, 10_000):
            batch = [(f"v{i % 100}", metrics) for i in range(size)]
            many = cpu(partial(manager.record_many, batch), max(1, 3_000 // size)) / size
            name = f"record, in batches of {size:,}"
            within = 1.0 if size == BATCH else None
            growth = Growth("record in batches", size, "records")
            yield Row(name, many, floor, what, within=within, growth=growth)

        def nothing() -> None:
            pass

        def guarded() -> None:
            with manager.call("agent-0"):
                nothing()

        yield Row("manager.call", cpu(guarded, 500), cpu(nothing, 5_000), "the bare call")
    progress("record in a rollout")
    for judged in (False, True):
        yield _in_a_rollout(metrics, floor, judged)
    progress("durable batches")
    yield from _durable(metrics)


def _fold() -> Callable[[], None]:
    sums = [0, 0, 0.0]
    bins: dict[int, int] = {}
    scale = 1.0 / math.log(1.04)

    def fold() -> None:
        value = math.log(12.5)
        index = math.ceil(value * scale)
        sums[0] += 1
        sums[2] += value
        bins[index] = bins.get(index, 0) + 1

    return fold


def _in_a_rollout(metrics: PerformanceMetrics, floor: float, judged: bool) -> Row:
    """The 99th percentile of CPU time; the clock itself costs 0.3 us of it.

    The same records three times, of each the least disturbed. ``judged``: there are enough latencies
    before the rollout to judge those within.
    """
    least: list[float] = []
    for _ in range(3):
        times = _rolled_out(metrics, judged)
        least = [min(pair) for pair in zip(least or times, times, strict=True)]
    least.sort()
    said = "record in a rollout judging latency, p99" if judged else "record in a rollout, p99"
    return Row(
        said,
        least[int(len(least) * 0.99)] * 1e6,
        floor,
        "sums and a log bin",
        within=20.0,
    )


def _rolled_out(metrics: PerformanceMetrics, judged: bool) -> list[float]:
    with fleet(1, measured=True) as manager:
        names = [f"a{i}" for i in range(200)]
        manager.agents.register_many([(name, AgentContext()) for name in names])
        for name in names if judged else ():
            manager.record("v0", metrics, name)
        manager.canaries.start(manager.variants.propose("next", {}, id="next"), seed=1)
        served = [(manager.select(name).variant.id, name) for name in names]
        times = []
        for _ in range(20):
            for variant, name in served:
                began = time.thread_time()
                manager.record(variant, metrics, name)
                times.append(time.thread_time() - began)
        return times


def _durable(metrics: PerformanceMetrics) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as place:
        plain = sqlite3.connect(Path(place) / "plain.db", isolation_level=None)
        plain.execute("pragma journal_mode=wal")
        plain.execute("pragma synchronous=full")
        plain.execute("create table t (variant text, at real, success int, latency real) strict")
        with EmergenceManager.open(Path(place) / "store", background=False) as manager:
            for i in range(10):
                made = manager.variants.propose(f"v{i}", {}, id=f"v{i}")
                manager.variants.activate(made, force=True)
            for size in (10, 100, 1_000, 10_000):
                yield from _batches(manager, plain, metrics, size)
        plain.close()


def _batches(
    manager: EmergenceManager, plain: sqlite3.Connection, metrics: PerformanceMetrics, size: int
) -> Iterator[Row]:
    records = [(f"v{i % 10}", 1.8e9, 1, 12.5) for i in range(size)]
    batch = [(f"v{i % 10}", metrics) for i in range(size)]

    def insert() -> None:
        plain.execute("begin immediate")
        plain.executemany("insert into t values (?, ?, ?, ?)", records)
        plain.execute("commit")

    def ours() -> object:
        return manager.record_many(batch, durable=True)

    name, what = f"record, durable, batches of {size:,}", "SQLite WAL FULL, a row each"
    promised = size == BATCH
    work, bare = side_by_side((ours, insert), 3)
    growth = Growth("record, durable", size, "records")
    within = 1.5 if promised else None
    yield Row(f"{name}: CPU", work / size, bare / size, what, within=within, growth=growth)
    if promised:
        took, bare = wall(ours, 30) / size, wall(insert, 30) / size
        yield Row(f"{name}: wall", took, bare, what, at_most=1.0)
