"""Closed roll-ups as sealed segments: written, damaged, repaired and read back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.rollup_fleets import DAY, HOUR, SPANS, START, Fleet, hours

from xenolect import EmergenceManager, PerformanceMetrics
from xenolect._buckets import begin
from xenolect._envelope import METRICS
from xenolect._performance import Performance
from xenolect._reindex import rebuild
from xenolect.config import load
from xenolect.errors import StorageError
from xenolect.testing import Clock, FaultyChunks


@pytest.fixture
def at(clock: Clock) -> Clock:
    """The clock shortly before the end of a day that is the last but one of its month."""
    clock.now = START
    return clock


def segments(folder: Path, variant_id: str = "v0") -> dict[str, list[str]]:
    """Names of the segments of a variant, by resolution."""
    base = folder / "variants" / variant_id / "metrics"
    return {
        each.name: sorted(file.name.removesuffix(".bin") for file in each.iterdir())
        for each in sorted(base.iterdir())
    }


# -- sealed segments --------------------------------------------------------------------------------


def test_closed_buckets_become_segments_and_days_gather_hours(
    tmp_path: Path, opened: Callable[..., EmergenceManager], at: Clock
) -> None:
    """An hour is there soon after it is over; a day replaces its hours and a month its days."""
    manager = opened(tmp_path)
    fleet = Fleet(manager, at, 1, seed=8)
    hours(fleet, manager, at, 2)  # 21:30 to 23:30
    assert segments(tmp_path) == {"hourly": ["2026-10-30-21", "2026-10-30-22"]}
    before = (tmp_path / "variants/v0/metrics/hourly/2026-10-30-21.bin").read_bytes()
    hours(fleet, manager, at, 1)
    assert segments(tmp_path) == {"daily": ["2026-10-30"], "hourly": ["2026-10-30"]}
    hours(fleet, manager, at, 26)
    found = segments(tmp_path)
    assert found["daily"] == ["2026-10"]
    assert found["monthly"] == ["2026-10"]
    assert found["hourly"] == ["2026-10-30", "2026-10-31", "2026-11-01-00", "2026-11-01-01"]
    assert before[4] == METRICS


def test_what_comes_late_makes_its_segment_anew(
    tmp_path: Path, opened: Callable[..., EmergenceManager], at: Clock
) -> None:
    """A record of a sealed hour: a newer segment with it, then the older goes; also after a restart."""
    manager = opened(tmp_path)
    fleet = Fleet(manager, at, 1, seed=9)
    hours(fleet, manager, at, 2)
    late = datetime.fromtimestamp(START + 60, UTC)
    manager.record("v0", PerformanceMetrics(0.0, 9.0, timestamp=late))
    manager.flush()
    manager._rollups.roll()
    manager.close()  # what has to be sealed again is in the index
    again = opened(tmp_path)
    at.advance(61)
    again.tick()
    names = segments(tmp_path)["hourly"]
    assert [name.partition(".")[0] for name in names] == ["2026-10-30-21", "2026-10-30-22"]
    assert "." in names[0]
    (segment,) = again._rollups.segments.list("v0", "hourly", "2026-10-30-21")
    (row,) = again._rollups.segments.read("v0", segment)
    assert row.failures == again.performance.rollups("v0", "hourly")[0].failures
    assert row.count == again.performance.rollups("v0", "hourly")[0].count


def test_segments_end_with_their_retention(
    tmp_path: Path, opened: Callable[..., EmergenceManager], at: Clock
) -> None:
    """Objects go like rows do."""
    manager = opened(tmp_path, metrics={"hourly": "2d", "daily": "4d"})
    fleet = Fleet(manager, at, 1, seed=10)
    hours(fleet, manager, at, 24 * 8, step=HOUR)
    found = segments(tmp_path)
    assert found["hourly"][0] == "2026-11-05"
    assert found["monthly"] == ["2026-10"]
    assert found["daily"][0] == "2026-11-03"


KEPT = {"retention": "200y", "hourly": "200y", "daily": "200y", "monthly": "200y"}


def test_a_lost_index_gets_its_rollups_back(
    tmp_path: Path, opened: Callable[..., EmergenceManager], at: Clock
) -> None:
    """Every hour that was over, and the days and months that follow from them; then the fleet goes on."""
    (tmp_path / "xenolect.toml").write_text(
        "[metrics]\n" + "".join(f'{name} = "{time}"\n' for name, time in KEPT.items())
    )
    manager = opened(tmp_path)
    fleet = Fleet(manager, at, 2, seed=13)
    hours(fleet, manager, at, 30)
    wanted = {
        (name, resolution): list(
            manager._runtime.index.rollups(name, resolution, 0, begin("hourly", at.now - 900))
        )
        for name in fleet.names
        for resolution in SPANS
    }
    manager.close()
    for file in tmp_path.glob("index.db*"):
        file.unlink()
    done = rebuild(load(tmp_path))
    assert done.source == "journal"
    assert done.rollups >= 60
    again = opened(tmp_path)
    for (name, resolution), rows in wanted.items():
        found = list(again._runtime.index.rollups(name, resolution, 0, at.now))
        assert [row.start for row in found] == [row.start for row in rows]
        if resolution == "hourly":
            assert found == rows
        else:  # the last one lacks the hour that was not over
            assert found[:-1] == rows[:-1]
            assert 0 < found[-1].count <= rows[-1].count
    fleet.manager = again
    hours(fleet, again, at, 25)
    names = segments(tmp_path)
    assert names["daily"][0] == "2026-10"
    assert [name[:10] for name in names["hourly"]][:3] == ["2026-10-30", "2026-10-31", "2026-11-01"]


def test_damaged_segments_are_found_and_written_again(
    tmp_path: Path, opened: Callable[..., EmergenceManager], at: Clock
) -> None:
    """``verify`` names what is damaged; ``repair`` and ``reindex`` write it, or what is missing, from the
    index."""
    (tmp_path / "xenolect.toml").write_text(
        "[metrics]\n" + "".join(f'{name} = "{time}"\n' for name, time in KEPT.items())
    )
    manager = opened(tmp_path)
    fleet = Fleet(manager, at, 1, seed=14)
    hours(fleet, manager, at, 5)
    file = tmp_path / "variants/v0/metrics/hourly/2026-10-30.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (problem,) = manager.states.verify().problems
    assert problem.key == "variants/v0/metrics/hourly/2026-10-30.bin"
    manager.states.repair()
    assert manager.states.verify().ok
    (name,) = [each for each in segments(tmp_path)["hourly"] if each.startswith("2026-10-30")]
    assert name != "2026-10-30"  # what is written is never written over
    manager.close()
    file.with_name(f"{name}.bin").unlink()
    rebuild(load(tmp_path), force=True)
    assert "2026-10-30" in segments(tmp_path)["hourly"]


@pytest.fixture
def failing(at: Clock) -> Iterator[tuple[EmergenceManager, FaultyChunks]]:
    """A manager whose object store fails when told."""
    with EmergenceManager.open("memory://", clock=at, background=False) as manager:
        chunks = FaultyChunks(manager._runtime.chunks, error=StorageError("away"), only="put")
        manager._runtime.chunks = chunks  # type: ignore[assignment]
        yield manager, chunks


def test_a_store_that_is_away_holds_nothing_up(
    failing: tuple[EmergenceManager, FaultyChunks], at: Clock
) -> None:
    """Every put of a segment fails once, at each of them: roll-ups stay exact and all is sealed later."""
    manager, chunks = failing
    fleet = Fleet(manager, at, 2, seed=11)
    for n in range(30):
        chunks.fail_at = len(chunks.calls) + 1 + n % 3
        hours(fleet, manager, at, 1)
    chunks.fail_at = 0
    hours(fleet, manager, at, 2)
    fleet.check(manager)
    sealed = [
        row
        for segment in manager._rollups.segments.list("v0", "hourly")
        for row in manager._rollups.segments.read("v0", segment)
    ]
    rows = manager._runtime.index.rollups("v0", "hourly", 0, begin("hourly", at.now - 900.0))
    assert sealed == list(rows)
    assert len(sealed) > 25


def test_half_a_slice_is_never_stored(
    opened: Callable[..., EmergenceManager], at: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index fails in the middle of a round: nothing is counted twice by the next."""
    manager = opened()
    fleet = Fleet(manager, at, 2, seed=12)
    for _ in range(50):
        fleet.record()
        at.advance(60)
    manager.flush()
    index = manager._runtime.index
    real = index.roll_up

    def fails(*given: Any) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(index, "roll_up", fails)
    manager.tick()
    assert manager._rollups.error == "no space left"
    monkeypatch.setattr(index, "roll_up", real)
    at.advance(11)
    manager.tick()
    assert manager._rollups.error is None
    assert index.unrolled(9)[2] == []
    fleet.check(manager)


def test_the_history_is_a_room_of_the_manager(manager: EmergenceManager) -> None:
    """``manager.performance`` has the two readers of the contract."""
    assert isinstance(manager.performance, Performance)
    assert callable(manager.performance.history)
    assert callable(manager.performance.rollups)


def test_two_threads_tick_and_one_of_them_rolls_up(
    manager: EmergenceManager, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller's tick beside the background thread's: who comes second leaves it to the first."""
    rollups, entered = manager._rollups, []
    manager.variants.propose("x", {}, id="x")
    clock.advance(2 * DAY)
    write = rollups._write

    def slowly(*task: Any) -> None:
        entered.append(task)
        if len(entered) == 1:
            other = threading.Thread(target=manager.tick)
            other.start()
            other.join()
        write(*task)

    monkeypatch.setattr(rollups, "_write", slowly)
    manager.tick()

    assert len(entered) == len(set(entered)) > 0
    assert not rollups._tasks
    assert rollups.error is None
