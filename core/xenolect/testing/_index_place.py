"""What the parts of the kit of ``Index`` start from: an index in a place, and another handle on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from xenolect.facts import (
    GENESIS,
    Contents,
    Entry,
    Fact,
    Observation,
    Put,
    canonical,
    digest_entry,
)
from xenolect.interfaces import Index

__all__ = ["IndexInPlace", "observation", "plain", "replayed"]


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


def observation(unit: str = "agent-1", rollout: str = "r1", **more: Any) -> Observation:
    """One record of evidence."""
    return Observation(rollout, "canary", unit, 10, 1, 1000.5, **more)


def plain(record: Any) -> str:
    """Records compare by content: a tuple read back as a list is the same."""
    return canonical(attrs.asdict(record))


class IndexInPlace(ABC):
    """An index to be made, and the fixtures that make it."""

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
