"""Roll-ups: equal to a recomputation, kept for their time, sealed when over, back after a lost index."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.rollup_fleets import DAY, HOUR, SPANS, START, Fleet, begin_of

from xenolect import EmergenceManager, InvalidError, PerformanceMetrics
from xenolect._buckets import begin, bucket_of, end
from xenolect._rollups import RAW
from xenolect.errors import ConflictError
from xenolect.facts import Window
from xenolect.testing import Clock


@pytest.fixture
def at(clock: Clock) -> Clock:
    """The clock shortly before the end of a day that is the last but one of its month."""
    clock.now = START
    return clock


# -- adding up --------------------------------------------------------------------------------------


def test_rollups_equal_a_recomputation_over_days_and_a_month_end(
    opened: Callable[..., EmergenceManager], at: Clock
) -> None:
    """Three days, ticked now and then and reopened once: every hour, day and month is exact."""
    manager = opened()
    fleet = Fleet(manager, at, 3, seed=1)
    for _ in range(1_000):
        fleet.record()
        at.advance(fleet.draw.expovariate(1 / 260.0))
        if fleet.draw.random() < 0.05:
            manager.tick()
    assert fleet.check(manager) > 150  # with windows that no roll-up has taken in yet
    manager.tick()
    assert manager._runtime.index.unrolled(10)[2] == []
    assert fleet.check(manager) > 150

    for days in (0.01, 0.3, 1.5, 3.0, 30.0, 400.0):
        history = manager.performance.history("v0", window=timedelta(days=days))
        assert history.since is not None
        at_edge = sum(
            direct.count
            for (name, kind, bucket), direct in fleet.direct.items()
            if (name, kind) == ("v0", "hourly")
            and begin_of((name, kind, bucket)) >= at.now - days * DAY
        )
        assert at_edge <= history.count <= at_edge + 60


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_month_of_records_over_a_hundred_variants(tmp_path: Path) -> None:
    """One record a second over 100 variants, 31 days in compressed time: every bucket that is kept equals
    the direct sums, and the index grows with what is kept and not with what was recorded."""
    clock = Clock(START)
    kept = 4 * DAY
    sizes = []
    with EmergenceManager.open(
        tmp_path,
        clock=clock,
        background=False,
        metrics={"retention": "2d", "hourly": "4d", "interval": "5m", "flush_interval": "5m"},
    ) as manager:
        fleet = Fleet(manager, clock, 100, seed=2)
        for _ in range(31):
            for _ in range(24 * 2):
                for _ in range(1_800):
                    fleet.record()
                    clock.advance(1.0)
                settle(manager)  # half an hour of ticks, each of a bounded slice
            sizes.append(sum(each.stat().st_size for each in tmp_path.glob("index.db*")))
            for key in list(fleet.direct):
                if key[1] == "hourly" and begin_of(key) < clock.now - kept - DAY:
                    del fleet.direct[key]
        clock.advance(61.0)
        settle(manager)
        found = 0
        for name in fleet.names:
            for resolution, shape in SPANS.items():
                for each in manager.performance.rollups(name, resolution):
                    assert each.since is not None
                    if resolution != "hourly" or each.since.timestamp() >= clock.now - kept + HOUR:
                        fleet.direct.pop((name, resolution, each.since.strftime(shape))).equals(
                            each
                        )
                        found += 1
        assert found >= 100 * (2 + 31 + 94)
        assert [key for key in fleet.direct if begin_of(key) >= clock.now - kept + HOUR] == []
        assert {key[1] for key in fleet.direct} <= {"hourly"}
        raw = manager._runtime.index.windows("v0", 0.0, clock.now)
        assert min(each.start for each in raw) >= clock.now - RAW - 2.0 * 1800.0
    print("index in MiB by day:", [round(size / 2**20, 1) for size in sizes])
    # from the sixth day on only days are added, 3,100 rows in all
    assert max(sizes[6:]) <= 1.25 * sizes[6]


def settle(manager: EmergenceManager) -> None:
    """Tick until everything that is due is done."""
    manager.tick()
    while manager._rollups.behind:
        manager.tick()


def test_old_rows_are_forgotten_and_disk_is_used_again(
    tmp_path: Path, opened: Callable[..., EmergenceManager], at: Clock
) -> None:
    """Each resolution for its own time; raw windows an hour. The file stops to grow."""
    manager = opened(
        tmp_path, metrics={"retention": "6h", "hourly": "12h", "daily": "2d", "monthly": "40d"}
    )
    fleet = Fleet(manager, at, 2, seed=3)
    sizes = []
    for _ in range(60):
        for _ in range(12):
            fleet.record()
            at.advance(300)
        manager.tick()
        sizes.append((tmp_path / "index.db").stat().st_size)
    index, now = manager._runtime.index, at.now
    assert min(each.start for each in index.windows("v0", 0, now)) >= now - RAW - HOUR
    for resolution, kept in (("interval", 6 * HOUR), ("hourly", 12 * HOUR), ("daily", 2 * DAY)):
        first = next(iter(index.rollups("v0", resolution, 0, now))).start
        assert now - kept - HOUR <= first <= now - kept + DAY
    assert len(list(index.rollups("v0", "monthly", 0, now))) == 2
    assert sizes[-1] <= 1.15 * sizes[len(sizes) // 2]


def test_two_processes_take_turns_and_nothing_counts_twice(
    tmp_path: Path, opened: Callable[..., EmergenceManager], at: Clock
) -> None:
    """The lease says who rolls up; who comes late with the same windows is refused, and begins again."""
    one, other = opened(tmp_path), opened(tmp_path)
    fleet = Fleet(one, at, 2, seed=4)
    for _ in range(300):
        fleet.record()
        at.advance(30)
    one.flush()
    one.tick()
    assert not other._rollups._mine()
    for _ in range(50):
        fleet.record()
        at.advance(30)
    one.flush()
    # held up for longer than its lease: both believe it is theirs
    since, until, windows = one._runtime.index.unrolled(500)
    other._rollups.roll()
    with pytest.raises(ConflictError):
        one._rollups._take(since, until, windows)
    fleet.check(one)
    one.close()
    at.advance(60)
    other.tick()
    assert other._rollups._mine()
    fleet.check(other)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["record", "late", "flush", "roll", "stale", "tick", "reopen", "wait"]),
        st.integers(0, 1),
        st.integers(1, 200),
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_whoever_rolls_up_whenever_the_sums_are_the_records(steps: Any) -> None:
    """Two processes record, late too, flush, roll up, come late with it, and restart, in any order: what
    both then read is what was recorded, and nothing of it twice."""
    clock = Clock(START)
    with tempfile.TemporaryDirectory() as place:

        def opened() -> EmergenceManager:
            return EmergenceManager.open(place, clock=clock, background=False)

        managers = [opened(), opened()]
        managers[0].variants.propose("v", {}, id="v")
        hours: dict[float, list[int]] = {}
        for step, who, number in steps:
            manager = managers[who]
            if step in ("record", "late"):
                at = clock.now - (0 if step == "record" else 60 * number)
                metrics = PerformanceMetrics(
                    0.0 if number % 3 else 1.0, float(number), count=number,
                    timestamp=datetime.fromtimestamp(at, UTC),
                )  # fmt: skip
                manager.record("v", metrics)
                taken = clock.now if clock.now - at <= 120 else at
                slot = hours.setdefault(begin("hourly", taken), [0, 0])
                slot[0] += number
                slot[1] += number if number % 3 else 0
            elif step == "flush":
                manager.flush()
            elif step == "roll":
                manager._rollups.roll()
            elif step == "stale":
                since, until, windows = manager._runtime.index.unrolled(number)
                managers[1 - who]._rollups.roll()
                if until > since:
                    with pytest.raises(ConflictError):
                        manager._rollups._take(since, until, windows)
            elif step == "tick":
                manager.tick()
            elif step == "reopen":
                manager.close()
                managers[who] = opened()
            else:
                clock.advance(30.0 * number)
        for manager in managers:
            manager.flush()
        for manager in managers:
            found = manager.performance.rollups("v", "hourly")
            assert {each.since.timestamp(): [each.count, each.failures] for each in found} == hours
            for resolution in ("daily", "monthly"):
                whole = manager.performance.rollups("v", resolution)
                assert sum(each.count for each in whole) == sum(n for n, _ in hours.values())
            assert manager.performance.history("v", timedelta(days=40)).count == sum(
                n for n, _ in hours.values()
            )
            manager.close()


def test_counters_after_a_restart_are_those_before(
    tmp_path: Path, opened: Callable[..., EmergenceManager], at: Clock
) -> None:
    """Read from hours where they are old and from minutes where they are new: the weights of age agree
    within a percent, and what another process records meanwhile is heard once."""
    first = opened(tmp_path)
    fleet = Fleet(first, at, 2, seed=5)
    for _ in range(300):
        fleet.record()
        at.advance(300)
        first.tick()
    second = opened(tmp_path)
    live, again = first.performance.recent("v0")[0], second.performance.recent("v0")[0]
    assert math.isclose(live.count, again.count, rel_tol=0.01)
    assert math.isclose(live.failures, again.failures, rel_tol=0.01)
    for _ in range(20):
        first.record("v0", PerformanceMetrics(1.0, count=10))
    first.flush()
    first._rollups.roll()  # taken in before the other one follows
    second.tick()
    assert math.isclose(
        first.performance.recent("v0")[0].count,
        second.performance.recent("v0")[0].count,
        rel_tol=0.01,
    )
    third = opened(tmp_path)
    assert math.isclose(
        third.performance.recent("v0")[0].count,
        second.performance.recent("v0")[0].count,
        rel_tol=0.01,
    )


def test_keys_and_single_agents_stay_known(
    tmp_path: Path, opened: Callable[..., EmergenceManager], at: Clock
) -> None:
    """After the raw windows are gone a repeated key still counts nothing, and a rollout's baseline still
    knows each agent."""
    manager = opened(tmp_path)
    Fleet(manager, at, 1, seed=6)
    for n in range(40):
        manager.record("v0", PerformanceMetrics(1.0, 5.0), f"agent-{n % 4}", key=("boot", n))
        at.advance(600)
        manager.tick()
    wanted = manager.performance.baseline("v0", by_agent=True)["units"]
    manager.close()
    again = opened(tmp_path)
    at.advance(RAW + HOUR)
    for _ in range(3):
        again.tick()
        at.advance(61)
    assert next(again._runtime.index.windows("#once", 0, at.now - RAW - HOUR), None) is None
    again.close()
    last = opened(tmp_path)
    last.record("v0", PerformanceMetrics(1.0, 5.0), "agent-3", key=("boot", 39))
    assert last.status()["measurements"]["duplicates"] == 1
    assert last.performance.history("v0").count == 40
    assert last.performance.baseline("v0", by_agent=True)["units"] == wanted
    assert sum(count for count, _ in wanted.values()) == 40


def test_a_resolution_that_is_none_is_refused(manager: EmergenceManager) -> None:
    """By name, with those there are."""
    manager.variants.propose("v0", {}, id="v0")
    with pytest.raises(InvalidError) as caught:
        manager.performance.rollups("v0", "weekly")
    assert str(caught.value) == ("resolution must be 'hourly', 'daily' or 'monthly', got 'weekly'")
    assert manager.performance.rollups("v0", "daily") == []


@pytest.mark.parametrize(
    ("moment", "start", "stop"),
    [
        ((2026, 12, 31, 23, 59), (2026, 12, 1), (2027, 1, 1)),
        ((2028, 2, 29, 12, 0), (2028, 2, 1), (2028, 3, 1)),
        ((2026, 1, 1, 0, 0), (2026, 1, 1), (2026, 2, 1)),
    ],
)
def test_months_are_those_of_the_calendar(moment: Any, start: Any, stop: Any) -> None:
    """In UTC, of their own length."""
    at = datetime(*moment, tzinfo=UTC).timestamp()
    first = begin("monthly", at)
    assert first == datetime(*start, tzinfo=UTC).timestamp()
    assert end("monthly", first) == datetime(*stop, tzinfo=UTC).timestamp()


def test_any_split_adds_up_to_the_same() -> None:
    """Windows in any order and grouping give one bucket: counts and bins to the last one."""
    draw = random.Random(7)
    windows = [
        Window("a", 60.0 * n, 60.0, n + 1, n, [[draw.randrange(50), 1 + n]], {"x": [n, n + 1]})
        for n in range(40)
    ]
    whole = bucket_of(windows[0], "hourly", 60.0)
    for window in windows:
        whole.add(window)
    draw.shuffle(windows)
    first = bucket_of(windows[0], "hourly", 60.0)
    for window in windows[:17]:
        first.add(window)
    second = bucket_of(windows[0], "hourly", 60.0, [first.rollup()])
    for window in windows[17:]:
        second.add(window)
    assert second.rollup() == whole.rollup()
