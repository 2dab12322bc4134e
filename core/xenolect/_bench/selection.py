"""Choosing: no I/O, no lock, so all of it is CPU."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from xenolect._bench import peers
from xenolect._bench.fleet import fleet
from xenolect._bench.rows import Growth, Plan, Progress, Row, cpu, side_by_side
from xenolect.manager import EmergenceManager
from xenolect.model import AgentContext, PerformanceMetrics

__all__ = ["rows"]

COUNTS = (10, 100, 1_000, 10_000)


def rows(plan: Plan, progress: Progress) -> Iterator[Row]:
    """The group's rows."""
    import numpy as np

    metrics = PerformanceMetrics(1.0, latency_ms=12.5)
    for count in COUNTS:
        progress(f"select among {count} variants")
        with fleet(count, measured=True) as manager:
            base, mask = np.random.default_rng(1).random(count), np.zeros(count)
            scratch = np.empty(count)

            def best(base: object = base, mask: object = mask, scratch: object = scratch) -> object:
                return np.add(base, mask, scratch).argmax()  # type: ignore[call-overload]

            within = {100: 3.0, 10_000: 15.0}.get(count)
            select, floor = side_by_side((partial(manager.select, "agent-0"), best), 2_000)

            def grows(name: str, count: int = count) -> Growth:
                return Growth(name, count, "variants")

            what = "numpy argmax"
            name = f"select, {count:,} variants"
            yield Row(name, select, floor, what, within=within, growth=grows("select"))
            if plan.peers:
                yield from peers.select(select, count)
            draw = random.Random(2)
            names = itertools.cycle([f"v{draw.randrange(count)}" for _ in range(997)])

            def record(names: Iterator[str] = names) -> object:
                return manager.record(next(names), metrics)

            def both(names: Iterator[str] = names) -> object:
                manager.record(next(names), metrics)
                return manager.select("agent-0")

            alone, together = side_by_side((record, both), 1_000)
            after = max(1e-3, together - alone)
            growth = grows("select right after a record")
            yield Row(f"select right after a record, {count:,}", after, floor, what, growth=growth)
            if plan.peers:
                yield from peers.learn(together, count)
            yield from _lookups(manager, grows("variant lookup"))
            if count == 100:
                yield _recommend(manager)
    progress("select beside a busy thread")
    yield _beside(metrics)
    progress("register")
    yield from _agents()
    yield Row(
        "canary bucket of a new unit",
        cpu(_bucket(), 5_000),
        cpu(lambda: hashlib.blake2b(b"agent-7", digest_size=8).digest(), 5_000),
        "blake2b alone",
    )


def _beside(metrics: PerformanceMetrics) -> Row:
    """The 99th percentile of wall time while another thread records and folds at full speed."""
    with fleet(100, measured=True) as manager:
        over = False

        def busy() -> None:
            names = itertools.cycle([f"v{i}" for i in range(100)])
            while not over:
                for _ in range(1_000):
                    manager.record(next(names), metrics)
                manager.flush()

        def timed() -> float:
            times = []
            for _ in range(100_000):
                began = time.perf_counter()
                manager.select("agent-0")
                times.append(time.perf_counter() - began)
            return sorted(times)[99_000] * 1e6

        alone = timed()
        thread = threading.Thread(target=busy)
        thread.start()
        beside = timed()
        over = True
        thread.join()
    return Row("select beside a busy thread, p99", beside, alone, "the same alone", within=1_000.0)


def _lookups(manager: EmergenceManager, growth: Growth) -> Iterator[Row]:
    table = {v.id: v for v in manager.variants.list()}
    lookup, floor = side_by_side(
        (partial(manager.variants.get, "v7"), partial(table.get, "v7")), 20_000
    )
    name = f"variant lookup, {growth.size:,} variants"
    yield Row(name, lookup, floor, "a dict", within=0.2, growth=growth)


def _recommend(manager: EmergenceManager) -> Row:
    ordered = [(-i / 100.0, i) for i in range(100)]
    ours, floor = side_by_side(
        (lambda: manager.recommend("agent-0"), lambda: sorted(ordered)[:5]), 300
    )
    return Row("recommend 5 of 100", ours, floor, "sorting 100 pairs")


def _agents() -> Iterator[Row]:
    """Registering, with more and more agents known."""
    with fleet(2) as manager:
        numbers = itertools.count()
        context = AgentContext({"zstd": "1.5"})
        kept: dict[int, object] = {}

        def many() -> object:
            return manager.agents.register_many(
                [(f"n{next(numbers)}", context) for _ in range(1_000)]
            )

        def plain() -> None:
            kept[next(numbers)] = context

        floor = cpu(plain, 5_000)
        for known in (1_000, 10_000, 30_000):
            while len(manager._runtime.agents) < known:
                many()
            yield Row(
                f"register an agent, {known:,} known",
                cpu(many, 1, 5) / 1_000,
                floor,
                "an entry in a dict; ours of 1,000 at once",
                growth=Growth("register an agent", known, "agents"),
            )


def _bucket() -> Callable[[], object]:
    from xenolect._routing import place, routed, unit_hash

    def bucket() -> bool:
        unit_hash.cache_clear()
        place.cache_clear()
        return routed("agent-7", 2**100 + 7, 100_000)

    return bucket
