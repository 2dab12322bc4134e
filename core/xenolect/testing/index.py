"""The conformance kit of ``Index``: one write door, compare-and-swap, a journal without gaps."""

from __future__ import annotations

import copy
import random
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

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
    Put,
    Window,
    digest_entry,
)
from xenolect.interfaces import Index
from xenolect.testing._index_concurrency import ConcurrencyTests
from xenolect.testing._index_machine import play
from xenolect.testing._index_measurements import MeasurementTests
from xenolect.testing._index_place import observation, replayed

__all__ = ["IndexTests", "replayed"]


class IndexTests(MeasurementTests, ConcurrencyTests):
    """Subclass it with ``make``; every ``test_`` method then runs against your index.

    ``examples`` and ``steps`` bound the random histories of the model test, ``threads`` the writers of
    the concurrency tests.
    """

    examples: ClassVar[int] = 20
    steps: ClassVar[int] = 30

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
                    observations=[observation()],
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
        first.commit([Put("v", "a", 1)], actor="", at=0, observations=[observation()])
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

    def test_behaves_like_a_dictionary(self) -> None:
        """Random histories on two handles against a dict (hypothesis)."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            play(self.make, Path(folder), examples=self.examples, steps=self.steps)

    def test_errors_are_ours(self, index: Index) -> None:
        """Values that no column takes are refused with an error of xenolect's, and change nothing."""
        for bad in (observation("\ud800"), observation(custom={"x": float("nan")})):
            with pytest.raises(InvalidError):
                index.append_windows([observation(), bad])
            with pytest.raises(InvalidError):
                index.commit([Put("v", "a", 1)], actor="", at=0, observations=[bad])
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
