"""The part of the kit of ``Index`` about measurements: appended in order, taken in once, forgotten."""

from __future__ import annotations

import attrs
import pytest

from xenolect.errors import ConflictError, InvalidError
from xenolect.facts import Batch, Observation, Put, Rollup, Window
from xenolect.interfaces import Index
from xenolect.testing._index_place import IndexInPlace, observation, plain

__all__ = ["MeasurementTests"]


class MeasurementTests(IndexInPlace):
    """Observations, windows and roll-ups."""

    def test_observations_come_back_in_order(self, index: Index) -> None:
        """The index numbers them, across rollouts, batches and commits; nothing else changes."""
        first = [
            observation("u1", latency_ms=1.25, custom={"x": 0.1}, writer="p1"),
            observation(),
        ]
        assert index.append_windows(first) == 2
        index.commit([Put("v", "a", 1)], actor="", at=0, observations=[observation("u3", "r2")])
        assert index.append_windows([]) == 3
        assert index.append_windows([observation("u4")]) == 4
        found = index.observations("r1", 0)
        assert [each.sequence for each in found] == [1, 2, 4]
        expected = [attrs.evolve(each, sequence=n) for n, each in enumerate(first, 1)]
        assert list(map(plain, found[:2])) == list(map(plain, expected))
        assert [each.unit for each in index.observations("r1", 2)] == ["u4"]
        assert list(index.observations("r1", 4)) == []
        assert [each.sequence for each in index.observations("r2", 0)] == [3]
        assert len(index.changes(0)) == 1

    def test_a_batch_is_stored_once(self, index: Index) -> None:
        """What is sent again under its number is left out, whole, and a lower number, too; the rest of a
        commit is not. Each writer counts for itself, and who gives no number stores every time."""
        first: list[Window | Observation] = [Window("a", 0.0, 1.0, 1, 0), observation("u1")]
        assert index.append_windows(first, once=Batch("p1", 7)) == 1
        assert index.append_windows(first, once=Batch("p1", 7), durable=True) == 1
        assert index.append_windows([observation("late")], once=Batch("p1", 6)) == 1
        assert index.append_windows([observation("u2")], once=Batch("p2", 1)) == 2
        seen = [observation("u3")]
        for revision in (1, 2):
            at = index.commit(
                [Put("v", "a", revision)], actor="", at=0, observations=seen, once=Batch("p1", 8)
            )
            assert at == revision
        assert index.append_windows(seen, once=Batch("p1", 8)) == 3
        assert index.append_windows([observation("u4")], once=Batch("p1", 9)) == 4
        index.append_windows([Window("a", 0.0, 1.0, 1, 0)])
        index.append_windows([Window("a", 0.0, 1.0, 1, 0)])
        assert index.get("v", "a") == 2
        assert [each.unit for each in index.observations("r1", 0)] == ["u1", "u2", "u3", "u4"]
        assert len(list(index.windows("a", 0.0, 9.0))) == 3

    def test_a_refused_batch_was_not_stored(self, index: Index) -> None:
        """Its number is free: what is right is stored under it."""
        bad = Window("a", 0.0, 1.0, 1, 0, sums={"x": [float("nan"), 1.0]})
        with pytest.raises(InvalidError):
            index.append_windows([observation("u1"), bad], once=Batch("p1", 1))
        assert index.append_windows([observation("u1")], once=Batch("p1", 1)) == 1
        with pytest.raises(ConflictError):
            index.commit(
                [Put("v", "a", 1, 5)],
                actor="",
                at=0,
                observations=[observation("u2")],
                once=Batch("p1", 2),
            )
        assert index.append_windows([observation("u2")], once=Batch("p1", 2)) == 2

    def test_batches_are_remembered_for_thirty_days(self, index: Index) -> None:
        """By the measurements' own time, however many writers come and go."""
        day = 86400.0
        index.append_windows([Window("a", 0.0, 1.0, 1, 0)], once=Batch("old", 1))
        for number in range(1, 40):
            index.append_windows(
                [Window("b", number * day, 1.0, 1, 0)], once=Batch(f"p{number}", 1)
            )
            index.append_windows([Window("b", number * day, 1.0, 1, 0)], once=Batch("on", number))
        for number in range(12, 40):
            index.append_windows(
                [Window("c", number * day, 1.0, 1, 0)], once=Batch(f"p{number}", 1)
            )
        index.append_windows([Window("c", 39 * day, 1.0, 1, 0)], once=Batch("on", 39))
        assert list(index.windows("c", 0.0, 99 * day)) == []

    def test_windows_come_back_by_time(self, index: Index) -> None:
        """Those of one variant whose start is in the interval, oldest first, whole."""
        windows = [
            Window("a", float(start), 60.0, start, 1, [[1, 2], [5, 3]], {"latency": [1.5, 2.0]})
            for start in (120, 0, 60, 180)
        ]
        index.append_windows(
            [*windows[:3], Window("b", 60.0, 60.0, 1, 1), windows[3], observation()]
        )
        found = list(index.windows("a", 0.0, 1000.0))
        numbered = [attrs.evolve(w, sequence=n) for w, n in zip(windows, (1, 2, 3, 5), strict=True)]
        in_order = sorted(numbered, key=lambda window: window.start)
        assert list(map(plain, found)) == list(map(plain, in_order))
        assert [window.start for window in index.windows("a", 60.0, 180.0)] == [60.0, 120.0]
        assert len(list(index.windows("b", 0.0, 1000.0))) == 1
        assert list(index.windows("c", 0.0, 1000.0)) == []

    def test_many_windows(self, index: Index) -> None:
        """More than any page holds, several with one start, none twice, none lost."""
        index.append_windows([Window("a", float(n // 3), 1.0, n, 0) for n in range(3500)])
        found = list(index.windows("a", 100.0, 1100.0))
        assert [window.start for window in found] == sorted(window.start for window in found)
        assert sorted(window.count for window in found) == list(range(300, 3300))

    def test_windows_are_taken_in_once(self, index: Index, other: Index) -> None:
        """Cursors walk over all windows in the order they were appended; of two that take in, one."""
        assert index.unrolled(10) == (0, 0, [])
        index.append_windows([Window("a", float(9 - n), 1.0, n, 0) for n in range(5)])
        since, until, windows = index.unrolled(3)
        assert [window.count for window in windows] == [0, 1, 2]
        assert other.unrolled(3)[:2] == (since, until)
        hour = Rollup("a", 0.0, 3600.0, 3, 0, [[1, 2]], {"x": [1.5, 2.0]}, resolution="hourly")
        index.roll_up(since, until, [hour])
        with pytest.raises(ConflictError):
            other.roll_up(since, until, [attrs.evolve(hour, count=99)])
        assert list(map(plain, other.rollups("a", "hourly", 0.0, 1.0))) == [plain(hour)]
        since, until, windows = other.unrolled(100)
        assert [window.count for window in windows] == [3, 4]
        day = attrs.evolve(hour, resolution="daily", span=86400.0)
        other.roll_up(since, until, [attrs.evolve(hour, count=5), day])
        assert [each.count for each in index.rollups("a", "hourly", 0.0, 1.0)] == [5]
        assert [each.count for each in index.rollups("a", "daily", 0.0, 1.0)] == [3]
        assert list(index.rollups("a", "daily", 1.0, 9.0)) == []
        assert list(index.rollups("b", "hourly", 0.0, 1.0)) == []
        assert index.unrolled(10)[2] == []
        assert index.unrolled(0) == (until, until, [])
        own = Rollup("#own", 0.0, 0.0, 0, 0, (), {"long": [1.0, 2.0, 3.0], "short": [4.0]})
        own = attrs.evolve(own, resolution="#own")
        other.roll_up(
            until, until, [own]
        )  # the cursor may stay: then only that nobody else moved it
        assert list(map(plain, index.rollups("#own", "#own", 0.0, 1.0))) == [plain(own)]
        with pytest.raises(ConflictError):
            index.roll_up(since, since, [own])

    def test_windows_are_followed(self, index: Index, other: Index) -> None:
        """Every window reaches who follows once, in order, in pages, except to its own writer."""
        cursor, nothing = other.appended(None, 10)
        assert nothing == []
        index.append_windows([Window("a", float(n), 1.0, n, 0, writer="p1") for n in range(5)])
        index.append_windows([Window("a", 9.0, 1.0, 9, 0, writer="p2")], durable=True)
        index.append_windows([], durable=True)
        middle, first = other.appended(cursor, 4, "p2")
        last, rest = other.appended(middle, 4, "p2")
        assert [each.count for each in [*first, *rest]] == [0, 1, 2, 3, 4]
        assert [each.writer for each in first] == ["p1"] * 4
        assert other.appended(last, 4, "p2") == (last, [])
        _, theirs = index.appended(cursor, 100, "p1")
        assert [each.count for each in theirs] == [9]
        (latest,) = theirs
        assert latest.sequence == last == index.appended(None, 0)[0]
        assert [each.sequence for each in index.windows("a", 9.0, 10.0)] == [latest.sequence]

    def test_old_windows_are_forgotten(self, index: Index) -> None:
        """Only those taken in and old enough, a few at a time; what comes later is still taken in."""
        index.append_windows([Window("a", float(n), 1.0, n, 0) for n in range(10)])
        assert index.forget("", 1e9, 100) == 0
        since, until, _ = index.unrolled(8)
        hours = [Rollup("a", 3600.0 * n, 3600.0, n, 0, resolution="hourly") for n in range(4)]
        index.roll_up(since, until, hours)
        assert index.forget("", 6.0, 4) == 4
        assert index.forget("", 6.0, 100) == 2
        assert [window.count for window in index.windows("a", 0.0, 99.0)] == [6, 7, 8, 9]
        assert index.forget("daily", 1e9, 100) == 0
        assert index.forget("hourly", 7200.0, 100) == 2
        assert [each.count for each in index.rollups("a", "hourly", 0.0, 1e9)] == [2, 3]
        since, until, windows = index.unrolled(100)
        assert [window.count for window in windows] == [8, 9]
        index.roll_up(since, until, [])
        while index.forget("", 1e9, 100):
            pass
        index.append_windows([Window("a", 5.0, 1.0, 77, 0)])
        assert [window.count for window in index.unrolled(100)[2]] == [77]

    def test_reading_windows_holds_nobody_up(self, index: Index) -> None:
        """Commits pass while a reader is in the middle of its windows."""
        index.append_windows([Window("a", float(n), 1.0, n, 0) for n in range(2500)])
        reading = index.windows("a", 0.0, 1e9)
        next(reading)
        index.commit([Put("v", "a", 1)], actor="", at=0)
        index.append_windows([Window("b", 0.0, 1.0, 1, 0)])
        assert sum(1 for _ in reading) == 2499
