"""The conformance kit of ``Index``: one write door, compare-and-swap, a journal without gaps."""

from __future__ import annotations

import copy
import random
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from xenolect.errors import (
    ConflictError,
    CorruptError,
    DuplicateError,
    InvalidError,
    StorageError,
)
from xenolect.facts import (
    GENESIS,
    Change,
    Contents,
    Drop,
    Entry,
    Fact,
    Observation,
    Put,
    Rollup,
    Window,
    canonical,
    digest_entry,
)
from xenolect.interfaces import Index
from xenolect.testing._index_machine import play

__all__ = ["IndexTests", "replayed"]


def replayed(entries: Sequence[Entry]) -> Contents:
    """The facts that a whole journal makes, its chain checked: what ``load`` must say."""
    facts: dict[tuple[str, str], Fact] = {}
    digest = GENESIS
    for revision, entry in enumerate(entries, 1):
        assert entry.revision == revision
        assert entry.previous == digest
        digest = digest_entry(digest, revision, entry.at, entry.actor, entry.changes)
        assert entry.digest == digest
        for change in entry.changes:
            name = (change.kind, change.key)
            version = facts[name].version + 1 if name in facts else 1
            value = change.value if isinstance(change, Put) else None
            facts[name] = Fact(*name, version, value)
    return Contents(len(entries), digest, tuple(facts[name] for name in sorted(facts)))


def _observation(unit: str = "agent-1", rollout: str = "r1", **more: Any) -> Observation:
    return Observation(rollout, "canary", unit, 10, 1, 1000.5, **more)


def _plain(record: Any) -> str:
    """Records compare by content: a tuple read back as a list is the same."""
    return canonical(attrs.asdict(record))


class IndexTests(ABC):
    """Subclass it with ``make``; every ``test_`` method then runs against your index.

    ``examples`` and ``steps`` bound the random histories of the model test, ``threads`` the writers of
    the concurrency tests.
    """

    examples: ClassVar[int] = 20
    steps: ClassVar[int] = 30
    threads: ClassVar[int] = 4
    rounds: ClassVar[int] = 25

    @abstractmethod
    def make(self, place: Path) -> Index:
        """Open the index that belongs to ``place``: a fresh directory, or a name to derive one from.

        Called again with the same place, it must show the same data, as another process would.
        """

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        """Where the index of one test belongs."""
        return tmp_path / "place"

    @pytest.fixture
    def index(self, place: Path) -> Iterator[Index]:
        """An empty index."""
        made = self.make(place)
        yield made
        made.close()

    @pytest.fixture
    def other(self, place: Path, index: Index) -> Iterator[Index]:
        """A second handle on the same place."""
        made = self.make(place)
        yield made
        made.close()

    # -- facts ------------------------------------------------------------------------------------

    def test_starts_empty(self, index: Index) -> None:
        """A new index is at revision 0 and knows nothing."""
        assert index.load() == Contents(0, GENESIS, ())
        assert index.get("variant", "a") is None
        assert list(index.changes(0)) == []
        assert list(index.windows("a", 0, 1e12)) == []
        assert list(index.observations("r1", 0)) == []
        assert list(index.leases("", 0)) == []

    def test_a_commit_is_a_revision(self, index: Index) -> None:
        """Facts get version 1, the journal one entry with everything in it, in order."""
        value = {"b": [1, 2.5, None, True, "ä\u2028\x00"], "a": {"deep": {"er": -(2**63)}}}
        changes = (Put("variant", "a", value, 0), Put("agent", "x y/z", "text", None))
        assert index.commit(changes, actor="me", at=12.25) == 1
        assert index.get("variant", "a") == value
        assert index.get("agent", "x y/z") == "text"
        assert index.get("agent", "a") is None
        (entry,) = index.changes(0)
        assert entry == Entry(
            1, 12.25, "me", changes, GENESIS, digest_entry(GENESIS, 1, 12.25, "me", changes)
        )
        assert index.load() == Contents(
            1, entry.digest, (Fact("agent", "x y/z", 1, "text"), Fact("variant", "a", 1, value))
        )

    def test_versions_grow(self, index: Index) -> None:
        """Each change adds 1, with the right expectation or with none."""
        index.commit([Put("v", "a", 1, 0)], actor="", at=0)
        index.commit([Put("v", "a", 2, 1)], actor="", at=0)
        index.commit([Put("v", "a", 3)], actor="", at=0)
        assert index.load().facts == (Fact("v", "a", 3, 3),)

    def test_falsy_values_are_values(self, index: Index) -> None:
        """0, "", [], {} and False are facts like others, no tombstones."""
        for number, value in enumerate([0, "", [], {}, False]):
            index.commit([Put("v", str(number), value, 0)], actor="", at=0)
            found = index.get("v", str(number))
            assert found == value
            assert type(found) is type(value)
        assert [fact.value for fact in index.load().facts] == [0, "", [], {}, False]

    def test_a_stale_version_conflicts_and_names_both(self, index: Index) -> None:
        """The message and the attributes say what was expected and what is there."""
        for number in range(4):
            index.commit([Put("variant", "zstd", number)], actor="", at=0)
        for change in (Put("variant", "zstd", "late", 3), Drop("variant", "zstd", 3)):
            with pytest.raises(ConflictError, match=r"'zstd'.*version 4.*expected 3") as caught:
                index.commit([change], actor="", at=0)
            assert (caught.value.expected, caught.value.found) == (3, 4)
            assert not isinstance(caught.value, DuplicateError)
        for change in (Put("variant", "none", 1, 2), Drop("variant", "none", 2)):
            with pytest.raises(ConflictError, match="'none'") as caught:
                index.commit([change], actor="", at=0)
            assert (caught.value.expected, caught.value.found) == (2, 0)
        assert index.get("variant", "zstd") == 3
        assert index.load().revision == 4

    def test_a_taken_key_is_a_duplicate(self, index: Index) -> None:
        """Expecting none where there is one is a DuplicateError with both versions."""
        index.commit([Put("v", "a", 1, 0)], actor="", at=0)
        with pytest.raises(DuplicateError, match="'a'") as caught:
            index.commit([Put("v", "a", 2, 0)], actor="", at=0)
        assert (caught.value.expected, caught.value.found) == (0, 1)
        assert index.get("v", "a") == 1

    def test_a_removed_key_is_never_used_again(self, index: Index) -> None:
        """A tombstone keeps its version; no Put revives it, and a stale one still conflicts."""
        index.commit([Put("v", "a", 1, 0)], actor="", at=0)
        index.commit([Drop("v", "a", 1)], actor="", at=0)
        assert index.get("v", "a") is None
        assert index.load().facts == (Fact("v", "a", 2, None),)
        for expected in (0, None, 2):
            with pytest.raises(DuplicateError, match="'a'"):
                index.commit([Put("v", "a", 2, expected)], actor="", at=0)
        for change in (Put("v", "a", 2, 1), Drop("v", "a", 1)):
            with pytest.raises(ConflictError) as caught:
                index.commit([change], actor="", at=0)
            assert (caught.value.expected, caught.value.found) == (1, 2)
        assert index.load().facts == (Fact("v", "a", 2, None),)

    def test_dropping_what_never_was(self, index: Index) -> None:
        """With an expectation it conflicts; without one the key is burnt, as the journal says."""
        for expected in (0, 1):
            with pytest.raises(ConflictError):
                index.commit([Drop("v", "a", expected)], actor="", at=0)
        index.commit([Drop("v", "a")], actor="", at=0)
        assert index.load().facts == (Fact("v", "a", 1, None),)

    def test_all_or_nothing(self, index: Index) -> None:
        """One stale change among many leaves nothing behind: no fact, entry or observation."""
        index.commit([Put("v", "a", 1, 0), Put("v", "b", 1, 0)], actor="", at=0)
        before = index.load()
        bad: list[Change] = [Put("v", "b", 2, 7), Put("v", "a", 2, 0), Drop("v", "c", 1)]
        for change in bad:
            with pytest.raises(ConflictError):
                index.commit(
                    [Put("v", "a", 2, 1), Put("v", "new", 1, 0), change],
                    actor="",
                    at=0,
                    observations=[_observation()],
                )
        assert index.load() == before
        assert index.get("v", "new") is None
        assert len(index.changes(0)) == 1
        assert list(index.observations("r1", 0)) == []

    def test_changes_build_on_each_other(self, index: Index) -> None:
        """Within one commit a later change sees the earlier ones."""
        index.commit(
            [
                Put("v", "a", 1, 0),
                Put("v", "a", 2, 1),
                Drop("v", "b"),
                Put("v", "c", 1),
                Drop("v", "c"),
            ],
            actor="",
            at=0,
        )
        assert index.load().facts == (
            Fact("v", "a", 2, 2),
            Fact("v", "b", 1, None),
            Fact("v", "c", 2, None),
        )
        with pytest.raises(DuplicateError):
            index.commit([Put("v", "d", 1, 0), Drop("v", "d", 1), Put("v", "d", 2)], actor="", at=0)
        assert index.load().revision == 1

    def test_conditional_on_the_whole_index(self, index: Index) -> None:
        """``after`` admits the commit only at that revision."""
        assert index.commit([Put("v", "a", 1)], actor="", at=0, after=0) == 1
        for after in (0, 2):
            with pytest.raises(ConflictError, match=rf"revision 1.*expected {after}") as caught:
                index.commit([Put("v", "b", 1)], actor="", at=0, after=after)
            assert (caught.value.expected, caught.value.found) == (after, 1)
        assert index.get("v", "b") is None
        assert index.commit([Put("v", "b", 1)], actor="", at=0, after=1) == 2

    def test_refuses_what_is_not_json(self, index: Index) -> None:
        """NaN, objects, lone surrogates, numbers as keys, None: refused, nothing changed."""
        for value in (float("nan"), float("inf"), object(), {1, 2}, "\ud800", {2: 1, 10: 1}, None):
            with pytest.raises(InvalidError):
                index.commit([Put("v", "a", 1), Put("v", "b", value)], actor="", at=0)
        with pytest.raises(InvalidError):
            index.commit([Put("v", "a", 1)], actor="", at=float("nan"))
        assert index.load() == Contents(0, GENESIS, ())

    def test_keeps_no_reference(self, index: Index) -> None:
        """What the caller does to its values later, or to values it got, changes nothing."""
        value: dict[str, Any] = {"list": [1]}
        index.commit([Put("v", "a", value)], actor="", at=0)
        before = copy.deepcopy(value)
        value["list"].append(2)
        index.get("v", "a")["list"].append(3)  # type: ignore[index]
        index.load().facts[0].value["list"].append(4)
        index.changes(0)[0].changes[0].value["list"].append(5)  # type: ignore[union-attr]
        assert index.get("v", "a") == before
        assert index.load().facts[0].value == before
        assert replayed(index.changes(0)) == index.load()

    # -- the journal ------------------------------------------------------------------------------

    def test_the_journal_replays_to_the_facts(self, index: Index) -> None:
        """Chained digests from the first entry on; folding it gives what load says."""
        draw = random.Random(1)
        for number in range(60):
            key = str(draw.randrange(8))
            change: Change = Put("v", key, number) if draw.random() < 0.8 else Drop("v", key)
            try:
                index.commit(
                    [change, Put("log", "n", number)], actor=f"a{number % 3}", at=number / 3
                )
            except DuplicateError:
                continue
        entries = index.changes(0)
        assert replayed(entries) == index.load()
        for after in (1, 7, len(entries) - 1):
            assert list(index.changes(after)) == list(entries[after:])
        assert list(index.changes(len(entries))) == []

    def test_a_lost_index_is_restored(self, index: Index, tmp_path: Path) -> None:
        """Facts and entries come back as they were, versions and tombstones too; the next commit follows.
        Where older entries are lost the rest goes on, and the gap is named. Never over an index in use."""
        index.commit([Put("a", "x", 1), Put("a", "gone", 1)], actor="one", at=1.5)
        index.commit([Put("a", "x", {"n": 2}, 1), Drop("a", "gone")], actor="two", at=2.5)
        index.commit([Put("b", "y", [None, 0.1])], actor="", at=3.0)
        contents, entries = index.load(), list(index.changes(0))
        for name, part in (("whole", entries), ("late", entries[1:]), ("none", [])):
            place = tmp_path / name
            place.mkdir()
            with closing(self.make(place)) as again:
                with pytest.raises(InvalidError):
                    again.restore(contents, entries[:1])
                assert again.load().revision == 0
                again.restore(contents, part)
                assert again.load() == contents
                assert again.commit([Put("a", "x", 3, 2)], actor="", at=4.0) == 4
                with pytest.raises(DuplicateError):
                    again.commit([Put("a", "gone", 1, 0)], actor="", at=4.0)
                assert [e.revision for e in again.changes(3)] == [4]
                assert again.changes(3)[0].previous == contents.digest
                if part == entries:
                    assert list(again.changes(0))[:3] == entries
                else:
                    with pytest.raises(CorruptError):
                        again.changes(0)
                with pytest.raises(ConflictError):
                    again.restore(contents, part)

    def test_a_head_that_went_back_is_an_alarm(self, index: Index) -> None:
        """Asking for what comes after a revision that does not exist is a CorruptError."""
        with pytest.raises(CorruptError):
            index.changes(3)
        index.commit([Put("v", "a", 1)], actor="", at=0)
        index.changes(1)
        with pytest.raises(CorruptError, match="revision 1"):
            index.changes(2)

    def test_others_follow(self, index: Index, other: Index) -> None:
        """A second handle sees each commit as soon as the call returned, and can build on it."""
        assert list(other.changes(0)) == []
        for number in range(5):
            index.commit([Put("v", "a", number)], actor="", at=number)
            (entry,) = other.changes(2 * number)
            assert entry.at == number
            assert list(other.changes(2 * number + 1)) == []
            assert other.get("v", "a") == number
            other.commit([Put("w", "b", number)], actor="", at=number, after=2 * number + 1)
            assert len(index.changes(2 * number + 1)) == 1
        assert index.load() == other.load() == replayed(other.changes(0))

    def test_survives_closing(self, place: Path) -> None:
        """Everything is there after everybody closed; a closed index says that it is closed."""
        first = self.make(place)
        first.commit([Put("v", "a", 1)], actor="", at=0, observations=[_observation()])
        first.append_windows([Window("a", 0.0, 60.0, 1, 0)])
        first.lease("l", "h", 0.0, 10.0)
        contents = first.load()
        first.close()
        first.close()
        for call in (
            lambda: first.get("v", "a"),
            first.load,
            lambda: first.changes(0),
            lambda: first.commit([Put("v", "b", 1)], actor="", at=0),
        ):
            with pytest.raises(StorageError, match="closed"):
                call()
        second = self.make(place)
        assert second.load() == contents
        assert len(second.changes(0)) == 1
        assert len(second.observations("r1", 0)) == 1
        assert len(list(second.windows("a", 0, 1))) == 1
        assert second.lease("l", "x", 1.0, 10.0).holder == "h"
        second.close()

    # -- measurements -----------------------------------------------------------------------------

    def test_observations_come_back_in_order(self, index: Index) -> None:
        """The index numbers them, across rollouts, batches and commits; nothing else changes."""
        first = [
            _observation("u1", latency_ms=1.25, custom={"x": 0.1}, writer="p1"),
            _observation(),
        ]
        assert index.append_windows(first) == 2
        index.commit([Put("v", "a", 1)], actor="", at=0, observations=[_observation("u3", "r2")])
        assert index.append_windows([]) == 3
        assert index.append_windows([_observation("u4")]) == 4
        found = index.observations("r1", 0)
        assert [each.sequence for each in found] == [1, 2, 4]
        expected = [attrs.evolve(each, sequence=n) for n, each in enumerate(first, 1)]
        assert list(map(_plain, found[:2])) == list(map(_plain, expected))
        assert [each.unit for each in index.observations("r1", 2)] == ["u4"]
        assert list(index.observations("r1", 4)) == []
        assert [each.sequence for each in index.observations("r2", 0)] == [3]
        assert len(index.changes(0)) == 1

    def test_windows_come_back_by_time(self, index: Index) -> None:
        """Those of one variant whose start is in the interval, oldest first, whole."""
        windows = [
            Window("a", float(start), 60.0, start, 1, [[1, 2], [5, 3]], {"latency": [1.5, 2.0]})
            for start in (120, 0, 60, 180)
        ]
        index.append_windows(
            [*windows[:3], Window("b", 60.0, 60.0, 1, 1), windows[3], _observation()]
        )
        found = list(index.windows("a", 0.0, 1000.0))
        numbered = [attrs.evolve(w, sequence=n) for w, n in zip(windows, (1, 2, 3, 5), strict=True)]
        in_order = sorted(numbered, key=lambda window: window.start)
        assert list(map(_plain, found)) == list(map(_plain, in_order))
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
        assert list(map(_plain, other.rollups("a", "hourly", 0.0, 1.0))) == [_plain(hour)]
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
        assert list(map(_plain, index.rollups("#own", "#own", 0.0, 1.0))) == [_plain(own)]
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

    # -- leases -----------------------------------------------------------------------------------

    def test_a_lease_has_one_holder(self, index: Index, other: Index) -> None:
        """Taken, refused to others, renewed, expired, taken over with a greater epoch."""
        mine = index.lease("leader/r1", "p1", 100.0, 10.0)
        assert (mine.name, mine.holder, mine.until) == ("leader/r1", "p1", 110.0)
        assert other.lease("leader/r1", "p2", 105.0, 10.0) == mine
        assert other.lease("leader/r1", "p2", 105.0, 0.0) == mine
        renewed = index.lease("leader/r1", "p1", 108.0, 10.0)
        assert (renewed.until, renewed.epoch) == (118.0, mine.epoch)
        assert other.lease("leader/r1", "p2", 117.9, 10.0).holder == "p1"
        taken = other.lease("leader/r1", "p2", 118.0, 10.0)
        assert (taken.holder, taken.until) == ("p2", 128.0)
        assert taken.epoch > mine.epoch
        assert index.lease("leader/r1", "p1", 119.0, 10.0) == taken
        assert list(index.changes(0)) == []

    def test_a_lease_is_given_back(self, index: Index, other: Index) -> None:
        """At once free for others; the epoch never goes back."""
        first = index.lease("l", "p1", 0.0, 100.0)
        assert index.lease("l", "p1", 1.0, 0.0).holder == ""
        assert index.lease("l", "p1", 1.0, -1.0).holder == ""
        assert list(index.leases("", 1.0)) == []
        second = other.lease("l", "p2", 1.0, 100.0)
        assert second.holder == "p2"
        assert second.epoch > first.epoch
        assert index.lease("never", "p1", 1.0, 0.0).holder == ""

    def test_lists_live_leases(self, index: Index) -> None:
        """By prefix and by name; expired ones are not there."""
        for name in ("p/b", "p/a", "q/a", "p%", "P/a"):
            index.lease(name, "h", 0.0, 10.0)
        index.lease("p/c", "h", 0.0, 1.0)
        assert [lease.name for lease in index.leases("p/", 5.0)] == ["p/a", "p/b"]
        assert [lease.name for lease in index.leases("p/", 0.5)] == ["p/a", "p/b", "p/c"]
        assert [lease.name for lease in index.leases("p%", 0.5)] == ["p%"]
        assert list(index.leases("", 10.0)) == []

    # -- several at a time ------------------------------------------------------------------------

    def test_one_of_several_writers_wins(self, place: Path) -> None:
        """All expect the same version at the same time: one gets through, the others conflict."""
        indexes = [self.make(place) for _ in range(self.threads)]
        for number in range(self.rounds):
            start = threading.Barrier(self.threads)
            won: list[int] = []
            lost: list[ConflictError] = []

            def put(
                who: int,
                number: int = number,
                start: threading.Barrier = start,
                won: list[int] = won,
                lost: list[ConflictError] = lost,
            ) -> None:
                start.wait()
                try:
                    indexes[who].commit([Put("v", "a", who, number)], actor=str(who), at=0)
                except ConflictError as error:
                    lost.append(error)
                else:
                    won.append(who)

            _run([partial(put, who) for who in range(self.threads)])
            assert len(won) == 1
            assert len(lost) == self.threads - 1
            assert {(each.expected, each.found) for each in lost} == {(number, number + 1)}
            assert indexes[0].get("v", "a") == won[0]
        assert replayed(indexes[-1].changes(0)) == indexes[0].load()
        for index in indexes:
            index.close()

    def test_no_commit_is_lost_or_seen_in_part(self, index: Index, place: Path) -> None:
        """Threads share one handle; readers always find both halves of each commit, and the feed
        gives every revision once, in order."""
        done = threading.Event()
        seen: list[int] = []

        def write(who: int) -> None:
            for number in range(self.rounds):
                index.commit(
                    [Put("left", str(who), number), Put("right", str(who), number)],
                    actor=str(who),
                    at=0,
                )
                index.append_windows([_observation(f"{who}-{number}")])

        def read() -> None:
            reader = self.make(place)
            while not done.is_set():
                halves: dict[str, dict[str, Any]] = {"left": {}, "right": {}}
                for fact in reader.load().facts:
                    halves[fact.kind][fact.key] = fact.value
                assert halves["left"] == halves["right"]
            reader.close()

        def follow() -> None:
            while not done.is_set() or len(seen) < self.threads * self.rounds:
                seen.extend(entry.revision for entry in index.changes(len(seen)))

        def writers() -> None:
            try:
                _run([partial(write, who) for who in range(self.threads)])
            finally:
                done.set()

        _run([writers, read, follow])
        total = self.threads * self.rounds
        assert seen == list(range(1, total + 1))
        assert replayed(index.changes(0)) == index.load()
        sequences = [each.sequence for each in index.observations("r1", 0)]
        assert sequences == list(range(1, total + 1))

    def test_behaves_like_a_dictionary(self) -> None:
        """Random histories on two handles against a dict (hypothesis)."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            play(self.make, Path(folder), examples=self.examples, steps=self.steps)

    def test_errors_are_ours(self, index: Index) -> None:
        """Values that no column takes are refused with an error of xenolect's, and change nothing."""
        for observation in (_observation("\ud800"), _observation(custom={"x": float("nan")})):
            with pytest.raises(InvalidError):
                index.append_windows([_observation(), observation])
            with pytest.raises(InvalidError):
                index.commit([Put("v", "a", 1)], actor="", at=0, observations=[observation])
        for change, actor in (
            (Put("v", "\ud800", 1), ""),
            (Put("\ud800", "a", 1), ""),
            (Drop("v", "\ud800"), ""),
            (Put("", "a", 1), ""),
            (Put("v", "", 1), ""),
            (Put("v", "a", 1), "\ud800"),
        ):
            with pytest.raises(InvalidError):
                index.commit([change], actor=actor, at=0)
        assert list(index.observations("r1", 0)) == []
        assert index.load() == Contents(0, GENESIS, ())


def _run(jobs: Sequence[Callable[[], None]]) -> None:
    """Run all jobs in threads of their own; re-raise the first error."""
    errors: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
