"""The part of the kit of ``Index`` about several at a time: leases, and threads that write and read."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from xenolect.errors import ConflictError
from xenolect.facts import Put
from xenolect.interfaces import Index
from xenolect.testing._index_place import IndexInPlace, observation, replayed
from xenolect.testing._threads import run

__all__ = ["ConcurrencyTests"]


class ConcurrencyTests(IndexInPlace):
    """Leases, and ``threads`` that do ``rounds`` commits each."""

    threads: ClassVar[int] = 4
    rounds: ClassVar[int] = 25

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

            run([partial(put, who) for who in range(self.threads)])
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
                index.append_windows([observation(f"{who}-{number}")])

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
                run([partial(write, who) for who in range(self.threads)])
            finally:
                done.set()

        run([writers, read, follow])
        total = self.threads * self.rounds
        assert seen == list(range(1, total + 1))
        assert replayed(index.changes(0)) == index.load()
        sequences = [each.sequence for each in index.observations("r1", 0)]
        assert sequences == list(range(1, total + 1))
