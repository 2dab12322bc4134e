"""Measurements: nothing lost, nothing twice, never half a batch, heard everywhere."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenolect import (
    Agent,
    AgentContext,
    EmergenceManager,
    InvalidMetricsError,
    LimitError,
    PerformanceMetrics,
    StorageError,
)
from xenolect.safeguards import Tick
from xenolect.sketch import RATIO
from xenolect.testing import Clock


def two(manager: EmergenceManager) -> None:
    """Variants a and b, both active."""
    for name in "ab":
        manager.variants.activate(manager.variants.propose(name, {}, id=name), force=True)


def recorded_by_threads(manager: EmergenceManager, threads: int, each: int) -> list[float]:
    """Record from several threads at once, waiting where the queue is full; the latencies."""
    latencies: list[list[float]] = [[] for _ in range(threads)]

    def work(number: int) -> None:
        rng = random.Random(number)
        for start in range(0, each, 500):
            batch = []
            for _ in range(min(500, each - start)):
                latency = rng.lognormvariate(3.0, 1.0)
                latencies[number].append(latency)
                batch.append(("ab"[len(batch) % 2], PerformanceMetrics(1.0, latency_ms=latency)))
            while True:
                try:
                    manager.record_many(batch)
                    break
                except LimitError as full:
                    time.sleep((full.retry_after or 1e9) / 10)

    running = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return [x for part in latencies for x in part]


def exact(manager: EmergenceManager, threads: int, each: int) -> None:
    """Every record is there, and every quantile within the sketch's bound of the exact one."""
    latencies = sorted(recorded_by_threads(manager, threads, each))
    histories = [manager.performance.history(name) for name in "ab"]
    assert sum(h.count for h in histories) == threads * each
    assert sum(h.failures for h in histories) == 0
    merged = manager.performance.tracks["a"].history()
    ours = sorted(x for x in latencies)
    bound = math.sqrt(RATIO) * 1.0001
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        for history in (*histories, merged):
            true = ours[int(q * (len(ours) - 1))]
            assert 0.9 < getattr(history, name) / true < 1.1
    from xenolect._tracks import Feed, Track

    total = Track("x", Feed())
    for name in "ab":
        for window in manager._runtime.index.windows(name, 0.0, 1e12):
            total.add(window, 1.0)
    for q in (0.01, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999):
        true = ours[int(q * (len(ours) - 1))]
        found = total.sketch.quantile(q)
        assert found is not None
        assert 1 / bound <= found / true <= bound


def test_eight_threads_lose_nothing(tmp_path: Path) -> None:
    """8 threads record 40,000 measurements while the queue is short and the thread flushes: counts are
    exact, merged quantiles within the bound of the sketch."""
    with EmergenceManager.open(tmp_path, metrics={"queue": 5_000}) as manager:
        two(manager)
        exact(manager, 8, 5_000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_threads_lose_none_of_a_million(tmp_path: Path) -> None:
    """The same with 1,000,000."""
    with EmergenceManager.open(tmp_path) as manager:
        two(manager)
        exact(manager, 8, 125_000)


def test_a_full_queue_refuses_and_says_when(opened: Callable[..., EmergenceManager]) -> None:
    """While nothing can be stored, measurements wait up to the limit; then LimitError, all or nothing."""
    manager = opened(metrics={"queue": 100, "flush_interval": "1h", "flush_records": 10**6})
    two(manager)
    for _ in range(99):
        manager.record("a", PerformanceMetrics(1.0))
    with pytest.raises(LimitError) as caught:
        manager.record_many([("a", PerformanceMetrics(1.0))] * 2)
    assert caught.value.retry_after == 3600.0
    manager.record("a", PerformanceMetrics(1.0))
    with pytest.raises(LimitError):
        manager.record("a", PerformanceMetrics(1.0))
    with pytest.raises(LimitError, match="split"):
        manager.record_many([("a", PerformanceMetrics(1.0))] * 101)
    manager.flush()
    manager.record("a", PerformanceMetrics(1.0))
    assert manager.performance.history("a").count == 101


def test_a_batch_with_one_bad_record_records_nothing(manager: EmergenceManager) -> None:
    """Everything is checked first."""
    two(manager)
    good, bad = PerformanceMetrics(1.0), PerformanceMetrics(1.5)
    with pytest.raises(InvalidMetricsError):
        manager.record_many([("a", good), ("b", bad)])
    assert manager.performance.history("a").count == 0
    assert manager.status()["measurements"]["rejected"] == 1


def told(manager: EmergenceManager) -> list[Any]:
    """What is known of a and b: counters, the windows to be stored, breakers, agents that are out."""
    known: list[Any] = []
    for name in "ab":
        tally = manager.performance.tracks[name].tally
        breaker = manager.breakers.of(name)
        breaker.step(Tick())
        known += [
            (tally.count, tally.failures, tally.latencies, round(tally.latency_logs, 9)),
            (breaker.state, name in manager.breakers.shut),
            sorted(manager.breakers.agents.out.get(name, ())),
        ]
    windows, _ = manager.performance.take()
    return [
        *known,
        sorted(
            (w.variant_id, w.start, w.count, w.failures, str(w.bins), sorted(w.sums))
            for w in windows
        ),
    ]


MEASUREMENTS = st.tuples(
    st.sampled_from("ab"),
    st.builds(
        PerformanceMetrics,
        st.sampled_from([1.0, 1.0, 0.0]),
        latency_ms=st.sampled_from([None, 0.0, 1e-9, 3.0, 12.5, 1e4]),
        count=st.sampled_from([1, 1, 1, 7]),
        resource_usage=st.sampled_from([None, None, 0.5]),
    ),
    st.sampled_from([None, None, None, "a1", "a2"]),
)


@settings(max_examples=10, deadline=None)
@given(st.lists(MEASUREMENTS, max_size=60))
def test_a_batch_says_what_its_measurements_say_one_by_one(records: list[Any]) -> None:
    """Counters, windows and breakers are the same, whatever is mixed and in whatever order."""
    found = []
    for at_once in (True, False):
        with EmergenceManager.open("memory://", background=False, clock=Clock(), seed=1) as manager:
            two(manager)
            if at_once:
                short = [each[:2] if each[2] is None else each for each in records]
                manager.record_many(short)
            for name, metrics, agent in () if at_once else records:
                manager.record(name, metrics, agent)
            for name in "ab":
                manager.performance.track(name)
            found.append(told(manager))
    assert found[0] == found[1]


def test_a_key_counts_once(tmp_path: Path, clock: Clock) -> None:
    """A retry is counted nowhere: at once, in any order, after reopening, and in another process."""
    one = PerformanceMetrics(0.0)
    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        two(manager)
        other = EmergenceManager.open(tmp_path, clock=clock, background=False)
        for sequence in (1, 2, 2, 9, 5, 9, 1):
            manager.record("a", one, "x", key=("boot1", sequence))
        manager.report("a", "x", False, key=("boot2", 1))
        manager.record_many([("a", one, "x", ("boot1", 5)), ("a", one, "y", ("boot1", 5))])
        assert manager.status()["measurements"]["duplicates"] == 4
        manager.flush()
        other.tick()
        other.record("a", one, "x", key=("boot1", 9))
        other.record("a", one, "x", key=("boot1", 8))
        other.close()
        assert manager.performance.history("a").count == 7
    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        manager.record("a", one, "x", key=("boot1", 8))
        manager.record("a", one, "x", key=("boot1", 1))
        assert manager.performance.history("a").count == 7
        for bad in (("boot", -1), ("", 1), ("a b", 1), 7, ("boot", True)):
            with pytest.raises(InvalidMetricsError):
                manager.record("a", one, "x", key=bad)  # type: ignore[arg-type]
        with pytest.raises(InvalidMetricsError, match="agent"):
            manager.record("a", one, key=("boot", 1))


def test_what_is_late_is_history_only(manager: EmergenceManager, clock: Clock) -> None:
    """A measurement older than two minutes moves no score and no breaker, but the history of its time."""
    two(manager)
    agent = Agent("x")
    before = manager.recommend(agent)[0].score
    then = datetime.fromtimestamp(clock() - 3600, UTC)
    for _ in range(20):
        manager.record("a", PerformanceMetrics(0.0, latency_ms=5.0, timestamp=then), "x")
    assert manager.recommend(agent)[0].score == before
    assert manager.breakers.status("a").state == "closed"
    assert manager.performance.history("a", timedelta(hours=2)).failures == 20
    assert manager.performance.history("a", timedelta(minutes=30)).count == 0
    assert manager.status()["measurements"]["late"] == 20


def test_other_processes_measurements_count_within_the_feed(tmp_path: Path) -> None:
    """What one manager records moves the scores of another on the same store, class by class, once."""
    with (
        EmergenceManager.open(tmp_path, selection={"latency_target": "10ms"}) as first,
        EmergenceManager.open(tmp_path, selection={"latency_target": "10ms"}) as second,
    ):
        two(first)
        first.agents.register("x", AgentContext({"zstd": "1"}))
        for _ in range(50):
            first.record("a", PerformanceMetrics(1.0, latency_ms=3.0), "x")
        first.flush()
        until = time.monotonic() + 30
        while second.performance.recent("a")[0].count < 50 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.3)
        assert second.performance.recent("a")[0].count == pytest.approx(50)
        mine, theirs = (m.recommend("x")[0] for m in (first, second))
        assert mine.variant.id == theirs.variant.id
        assert mine.score == pytest.approx(theirs.score, abs=1e-3)
    with EmergenceManager.open(tmp_path) as third:
        assert third.performance.recent("a")[0].count == pytest.approx(50, rel=1e-3)


WRITER = """
import sys
from xenolect import *
m = EmergenceManager.open(sys.argv[1])
for name in "ab":
    if name not in {v.id for v in m.variants.list()}:
        m.variants.activate(m.variants.propose(name, {}, id=name), force=True)
print("ready", flush=True)
one = PerformanceMetrics(1.0, latency_ms=5.0)
for n in range(10**9):
    m.record_many([("a", one)] * 3 + [("b", one)] * 4, durable=n % 5 == 0)
    print(n, n % 5 == 0, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_recorders_lose_a_window_at_most(tmp_path: Path) -> None:
    """Kill a recorder at random moments: whatever it told to be durable is there, at most what the last
    quarter of a second brought is not, and never half a batch."""
    before = 0
    for round_ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ},
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(0.1 + 0.07 * round_)
        writer.send_signal(signal.SIGKILL)
        told = [line.split() for line in writer.communicate()[0].split("\n")[:-1]]
        durable = max((int(n) + 1 for n, waited in told if waited == "True"), default=0)
        with EmergenceManager.open(tmp_path, background=False, process=False) as manager:
            a, b = (int(manager.performance.history(name).count) for name in "ab")
        assert a * 4 == b * 3
        batches = a // 3 - before
        assert durable <= batches <= len(told) + 1
        before += batches


def test_a_durable_record_waits_for_the_disk(tmp_path: Path) -> None:
    """``durable`` syncs what it brings and what was written before, in one transaction for all who
    wait; without it nothing is synced."""
    with EmergenceManager.open(tmp_path, background=False) as manager:
        two(manager)
        index = manager._runtime.index
        seen: list[str] = []
        index._connections._writer.set_trace_callback(seen.append)  # type: ignore[attr-defined]
        manager.record("a", PerformanceMetrics(1.0))
        manager.flush()
        relaxed = [s for s in seen if "synchronous" in s]
        seen.clear()
        manager.record("a", PerformanceMetrics(1.0), durable=True)
        manager.record_many([("a", PerformanceMetrics(1.0))], durable=True)
        assert relaxed in ([], ["PRAGMA synchronous = NORMAL"])
        assert [s for s in seen if "synchronous" in s][:1] == ["PRAGMA synchronous = FULL"]
        assert sum("INSERT INTO windows" in s for s in seen) == 2


def test_selections_never_ask_the_index(opened: Callable[..., EmergenceManager]) -> None:
    """With the index taken away 20,000 selections, records in between, raise nothing."""
    _without_index(opened, 20_000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_selections_never_ask_the_index(
    opened: Callable[..., EmergenceManager],
) -> None:
    """The same a million times."""
    _without_index(opened, 1_000_000)


class Away:
    """An index that is not there."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: Any, **__: Any) -> Any:
            raise StorageError(f"the index is away ({name})")

        return fail


def _without_index(opened: Callable[..., EmergenceManager], times: int) -> None:
    manager = opened(metrics={"flush_interval": "1h", "flush_records": 10**9, "queue": 10**9})
    two(manager)
    agents = [Agent(f"x{i}", AgentContext({"k": i % 50})) for i in range(500)]
    kept, manager._runtime.index = manager._runtime.index, Away()  # type: ignore[assignment]
    rng = random.Random(1)
    try:
        for i in range(times):
            chosen = manager.select(agents[i % 500], session=f"s{i % 90}" if i % 3 else None)
            if i % 7 == 0:
                good = rng.random() < 0.99
                manager.report(chosen, agents[i % 500], good, rng.lognormvariate(3, 1))
    finally:
        manager._runtime.index = kept


def test_registering_costs_the_same_at_the_end(opened: Callable[..., EmergenceManager]) -> None:
    """Agents that declare the same share one profile and one context."""
    manager = opened()
    for start in range(0, 3_000, 1_000):
        manager.agents.register_many(
            [(f"a{i}", AgentContext({"k": i % 5})) for i in range(start, start + 1_000)]
        )
    runtime = manager._runtime
    assert len(runtime.profiles) == 5
    assert len({id(a.context) for a in runtime.agents.values()}) == 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_agents(tmp_path: Path) -> None:
    """1,000,000 agents in batches of 10,000: the last ones cost what the first ones did."""
    took = []
    with EmergenceManager.open(tmp_path, background=False) as manager:
        two(manager)
        for start in range(0, 1_000_000, 10_000):
            began = time.process_time()
            manager.agents.register_many(
                [(f"a{i}", AgentContext({"k": i % 50})) for i in range(start, start + 10_000)]
            )
            took.append(time.process_time() - began)
        assert len(manager._runtime.profiles) == 50
        assert manager.select("a999999").variant.id == "a"
    assert sum(took[-20:]) < 3 * sum(took[:20])
