"""Recording, and calls that select, time and report."""

from __future__ import annotations

import math
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from xenolect._bench.fleet import fleet
from xenolect._bench.rows import Plan, Progress, Row, cpu, wall
from xenolect.events import Event
from xenolect.manager import EmergenceManager
from xenolect.model import AgentContext, PerformanceMetrics

__all__ = ["rows"]

BATCH = 1_000


def rows(plan: Plan, progress: Progress) -> Iterator[Row]:
    """The group's rows."""
    progress("record")
    metrics = PerformanceMetrics(1.0, latency_ms=12.5)
    floor = cpu(_fold(), 5_000)
    with fleet(100) as manager:
        alone = cpu(lambda: manager.record("v1", metrics), 2_000)
        yield Row("record, in memory", alone, floor, "sums and a log bin", within=2.0)
        of_agent = cpu(lambda: manager.record("v1", metrics, "agent-0"), 2_000)
        yield Row("record of an agent, in memory", of_agent, floor, "sums and a log bin")
        batch = [(f"v{i % 100}", metrics) for i in range(BATCH)]
        many = cpu(lambda: manager.record_many(batch), 3) / BATCH
        yield Row("record, in batches of 1,000", many, floor, "sums and a log bin", within=1.0)

        def nothing() -> None:
            pass

        def guarded() -> None:
            with manager.call("agent-0"):
                nothing()

        yield Row("manager.call", cpu(guarded, 500), cpu(nothing, 5_000), "the bare call")
        registry, event = manager._runtime.registry, Event("bench", None, 0, None, {})  # type: ignore[arg-type]
        yield Row(
            "an event to its observers",
            cpu(lambda: registry.observers(event), 500),
            cpu(nothing, 5_000),
            "the bare call",
        )
    progress("record in a rollout")
    yield _in_a_rollout(metrics, floor)
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


def _in_a_rollout(metrics: PerformanceMetrics, floor: float) -> Row:
    """The 99th percentile of CPU time; the clock itself costs 0.3 us of it."""
    with fleet(1, measured=True) as manager:
        names = [f"a{i}" for i in range(200)]
        manager.agents.register_many([(name, AgentContext()) for name in names])
        manager.canaries.start(manager.variants.propose("next", {}, id="next"), seed=1)
        served = [(manager.select(name).variant.id, name) for name in names]
        times = []
        for _ in range(20):
            for variant, name in served:
                began = time.thread_time()
                manager.record(variant, metrics, name)
                times.append(time.thread_time() - began)
        times.sort()
        ours = times[int(len(times) * 0.99)] * 1e6
    return Row(
        "record in a rollout, 99th percentile", ours, floor, "sums and a log bin", within=20.0
    )


def _durable(metrics: PerformanceMetrics) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as place:
        plain = sqlite3.connect(Path(place) / "plain.db", isolation_level=None)
        plain.execute("pragma journal_mode=wal")
        plain.execute("pragma synchronous=full")
        plain.execute("create table t (variant text, at real, success int, latency real) strict")
        records = [(f"v{i % 10}", 1.8e9, 1, 12.5) for i in range(BATCH)]

        def insert() -> None:
            plain.execute("begin immediate")
            plain.executemany("insert into t values (?, ?, ?, ?)", records)
            plain.execute("commit")

        with EmergenceManager.open(Path(place) / "store", background=False) as manager:
            for i in range(10):
                made = manager.variants.propose(f"v{i}", {}, id=f"v{i}")
                manager.variants.activate(made, force=True)
            batch = [(f"v{i % 10}", metrics) for i in range(BATCH)]

            def ours() -> object:
                return manager.record_many(batch, durable=True)

            name, what = "record, durable, batches of 1,000", "SQLite WAL FULL, a row each"
            work, bare = cpu(ours, 5) / BATCH, cpu(insert, 5) / BATCH
            yield Row(f"{name}: CPU", work, bare, what, within=1.5)
            yield Row(
                f"{name}: wall", wall(ours, 30) / BATCH, wall(insert, 30) / BATCH, what, at_most=1.0
            )
        plain.close()
