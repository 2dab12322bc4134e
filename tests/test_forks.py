"""A forked child opens again at its first call; nothing is lost, counted twice, or stuck.

Every child here is forked while other threads of its parent record, commit and store.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import EmergenceManager, PerformanceMetrics, VariantStatus
from xenolect.breaker import CircuitBreaker

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")


def forked(job: Callable[[], object]) -> Callable[[], int]:
    """Run ``job`` in a child that ends without clean-up; the result waits for its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            job()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen")


@contextmanager
def busy(*jobs: Callable[[int], object]) -> Iterator[list[int]]:
    """Threads that never rest; how often each did its job, which must not fail."""
    stop, strange, done = threading.Event(), [], [0] * len(jobs)

    def work(number: int, job: Callable[[int], object]) -> None:
        try:
            while not stop.is_set():
                job(done[number])
                done[number] += 1
                time.sleep(0.0005)
        except BaseException as error:
            strange.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(done) or strange)
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        assert strange == []


def test_children_of_a_busy_parent_report_exactly_once(tmp_path: Path) -> None:
    """Eight children report 50 operations each while the parent reports, stores and commits: all of
    them arrive once, and children and parent end with the same counters for scoring."""
    with EmergenceManager.open(tmp_path) as manager:
        names = fleet(manager, 20)
        json_and_zstd(manager)
        manager.states.put("json", {"n": 0})

        def child() -> None:
            for n in range(50):
                chosen = manager.select(names[n % 20])
                manager.report(chosen, names[n % 20], success=True, latency_ms=5.0)
            manager.close()

        waits = []
        with busy(
            lambda n: manager.report("json", names[n % 20], success=True, latency_ms=5.0),
            lambda n: manager.states.put("json", {"n": n}),
            lambda n: manager.variants.propose("x", {}, id=f"v{n}") if n < 50 else None,
            lambda n: manager.flush(),
        ) as done:
            for _ in range(8):
                waits.append(forked(child))
                time.sleep(0.02)
            codes = [wait() for wait in waits]
        manager.flush()
        wanted = done[0] + 8 * 50

        assert codes == [0] * 8
        assert manager.performance.history("json").count == wanted
        # what scoring counts comes by the feed, and lost a little weight to time
        until(lambda: manager.performance.recent("json")[0].count > wanted * 0.99)
        assert manager.performance.recent("json")[0].count <= wanted + 1e-6
        assert manager.states.verify(deep=True).problems == ()


def test_a_child_counts_what_its_parent_measured_once(tmp_path: Path) -> None:
    """Stored, waiting or heard of: the child's counters hold each of the parent's measurements once."""
    with EmergenceManager.open(tmp_path, background=False) as manager:
        fleet(manager, 1)
        json_and_zstd(manager)
        one = PerformanceMetrics(1.0, 5.0, throughput=3.0)
        for _ in range(10):
            manager.record("json", one, agent_id="agent-0")
        manager.flush()  # stored, and not followed yet
        for _ in range(7):
            manager.record("json", one, agent_id="agent-0")
        assert manager.performance.pending == 7
        ready = os.pipe()

        def child() -> None:
            os.read(ready[0], 1)
            manager.select("agent-0")  # hears of the seven that the parent stored after the fork
            found = manager.performance.recent("json")[0]
            assert found.count == pytest.approx(17, rel=1e-3)
            assert found.latency_ms == pytest.approx(5.0, rel=0.02)
            assert found.throughput == pytest.approx(3.0)
            assert manager.performance.history("json").count == 17
            manager.performance.end_hour()  # what single agents did before the fork is the parent's
            manager.close()

        wait = forked(child)
        manager.flush()
        os.write(ready[1], b".")
        assert wait() == 0
        for end in ready:
            os.close(end)
        assert manager.performance.history("json").count == 17
        assert manager.performance.baseline("json", by_agent=True)["units"] == {"agent-0": [17, 0]}


def test_a_child_hears_of_its_parent_and_of_others(tmp_path: Path) -> None:
    """A child that slept sees at its first call what was decided meanwhile; later, by its own thread."""
    with EmergenceManager.open(tmp_path) as manager:
        names = fleet(manager)
        _, zstd = json_and_zstd(manager)
        manager.canaries.start(zstd, initial_fraction=0.5, seed=1)
        inside = next(n for n in names if manager.canaries.routes(zstd, n))
        assert manager.select(inside).variant.id == "zstd"
        first, second, third = os.pipe(), os.pipe(), os.pipe()

        def child() -> None:
            os.read(first[0], 1)
            assert manager.select(inside).variant.id == "json"
            assert manager.variants.get("zstd").status == VariantStatus.ROLLED_BACK
            os.write(second[1], b".")
            os.read(third[0], 1)
            until(lambda: manager.select(inside).variant.id == "new")  # nothing else is asked

        wait = forked(child)
        manager.rollback("zstd", reason="ticket")
        os.write(first[1], b".")
        os.read(second[0], 1)
        manager.variants.activate(manager.variants.propose("new", {}, id="new"), force=True)
        manager.variants.baseline("default", "new")
        manager.variants.deprecate("json")
        os.write(third[1], b".")
        assert wait() == 0
        for pipe in (first, second, third):
            os.close(pipe[0])
            os.close(pipe[1])


def test_a_failing_canary_is_taken_back_on_what_children_saw(tmp_path: Path) -> None:
    """Children of one parent report failures of a canary; the parent, who leads, takes it back."""
    with EmergenceManager.open(tmp_path) as manager:
        names = fleet(manager)
        _, zstd = json_and_zstd(manager)
        manager.canaries.start(zstd, seed=1)
        canaries = [n for n in names if manager.canaries.routes(zstd, n)]

        def child(part: list[str]) -> None:
            for name in part:
                manager.report("zstd", name, success=False)
            manager.close()

        codes = [forked(lambda k=k: child(canaries[k::2][:4]))() for k in range(2)]  # type: ignore[misc]

        assert codes == [0, 0]
        until(lambda: manager.variants.get("zstd").status == VariantStatus.ROLLED_BACK)


def test_a_child_that_asks_for_nothing_is_nobody(tmp_path: Path) -> None:
    """It holds no lease, opens no file and starts no thread; closing it writes nothing."""
    with EmergenceManager.open(tmp_path) as manager:
        json_and_zstd(manager)
        manager.record("json", PerformanceMetrics(1.0))

        def child() -> None:
            assert threading.active_count() == 1
            descriptors = Path("/proc/self/fd")
            if descriptors.exists():
                names = [os.readlink(f) for f in descriptors.iterdir() if f.is_symlink()]
                assert [n for n in names if n.startswith(str(tmp_path))] == []
            manager.close()
            assert threading.active_count() == 1

        before = manager.status()["processes"]
        assert forked(child)() == 0
        assert manager.status()["processes"] == before == 1
        manager.flush()
        assert manager.performance.history("json").count == 1


def test_children_of_children(tmp_path: Path) -> None:
    """Each generation reports; all of them arrive."""
    with EmergenceManager.open(tmp_path) as manager:
        fleet(manager, 1)
        json_and_zstd(manager)

        def child(depth: int) -> None:
            manager.report("json", "agent-0", success=True)
            if depth:
                assert forked(lambda: child(depth - 1))() == 0
            manager.report("json", "agent-0", success=True)
            manager.flush()

        assert forked(lambda: child(2))() == 0
        manager.flush()
        assert manager.performance.history("json").count == 6


def test_children_draw_and_name_apart(tmp_path: Path) -> None:
    """Of one seed, two children and their parent propose under names of their own."""
    with EmergenceManager.open(tmp_path, seed=7, background=False) as manager:
        waits = [forked(lambda: manager.variants.propose("x", {})) for _ in range(2)]
        assert [wait() for wait in waits] == [0, 0]
        manager.variants.propose("x", {})
        assert len({v.id for v in manager.variants.list()}) == 3


def test_a_lone_breaker_is_not_stuck_in_a_child() -> None:
    """A breaker whose lock another thread holds at the fork works in the child."""
    breaker = CircuitBreaker("the service", failure_threshold=2)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with breaker._lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def child() -> None:
        for _ in range(2):
            breaker.acquire().failure()
        assert breaker.status.state == "open"

    assert forked(child)() == 0
    done.set()
    thread.join()
    assert breaker.status.state == "closed"


def _member(path: str, number: int) -> int:
    """What a process of a pool does that has to open the store itself."""
    with EmergenceManager.open(path) as manager:
        for _ in range(10):
            manager.report("json", f"agent-{number}", success=True)
    return number


_shared: Any = None


def _inheriting(number: int) -> int:
    """What a process of a pool does with its parent's manager."""
    for _ in range(10):
        _shared.report("json", f"agent-{number}", success=True)
    _shared.flush()
    return number


def test_a_pool_that_spawns(tmp_path: Path) -> None:
    """Spawned processes inherit nothing and open the store by its path."""
    with EmergenceManager.open(tmp_path) as manager:
        fleet(manager, 2)
        json_and_zstd(manager)
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            assert pool.starmap(_member, [(str(tmp_path), n) for n in range(2)]) == [0, 1]
            pool.close()
            pool.join()
        assert manager.performance.history("json").count == 20


def test_a_pool_that_forks(tmp_path: Path) -> None:
    """Forked processes use the manager they inherit."""
    global _shared
    with EmergenceManager.open(tmp_path) as _shared:
        fleet(_shared, 4)
        json_and_zstd(_shared)
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert pool.map(_inheriting, range(4), chunksize=1) == [0, 1, 2, 3]
            pool.close()
            pool.join()
        assert _shared.performance.history("json").count == 40
    _shared = None


def test_in_memory_a_child_goes_on_with_a_copy() -> None:
    """Parts in memory are not shared between processes: the child's are its own."""
    with EmergenceManager.open("memory://") as manager:
        fleet(manager, 1)
        json_and_zstd(manager)

        def child() -> None:
            manager.report("json", "agent-0", success=True)
            manager.variants.propose("x", {}, id="child")
            manager.close()

        with busy(lambda n: manager.variants.propose("x", {}, id=f"v{n}") if n < 50 else None):
            codes = [forked(child)() for _ in range(3)]
        assert codes == [0, 0, 0]
        assert "child" not in [v.id for v in manager.variants.list()]
