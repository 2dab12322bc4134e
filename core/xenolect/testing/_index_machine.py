"""Random histories of an index against a dict that says what it should hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from xenolect.errors import ConflictError, DuplicateError
from xenolect.facts import GENESIS, Batch, Change, Drop, Fact, Observation, Put, digest_entry
from xenolect.interfaces import Index

__all__ = ["play"]

_KINDS = st.sampled_from(["variant", "agent"])
_NAMES = st.sampled_from(["a", "b", "c"])
_EXPECTED = st.sampled_from(["any", "none", "right", "stale"])
_VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)
_STEPS = st.tuples(st.booleans(), _KINDS, _NAMES, _EXPECTED, _VALUES)
_WHICH = st.integers(0, 1)

Model = dict[tuple[str, str], tuple[int, Any]]


def _outcome(model: Model, changes: list[Change]) -> tuple[Model, type[ConflictError] | None]:
    """What a commit makes of the model, or the error it must raise: written from the contract."""
    after = dict(model)
    for change in changes:
        name = (change.kind, change.key)
        version, value = after.get(name, (0, None))
        expected = change.expected
        if isinstance(change, Put):
            if expected not in (None, 0, version):
                return model, ConflictError
            if (expected == 0 and version) or (version and value is None):
                return model, DuplicateError
            after[name] = (version + 1, change.value)
        else:
            if expected is not None and (expected != version or version == 0):
                return model, ConflictError
            after[name] = (version + 1, None)
    return after, None


def play(make: Callable[[Path], Index], folder: Path, *, examples: int, steps: int) -> None:
    """Run the machine; each history gets a fresh place in ``folder``."""
    places = itertools.count()

    class Machine(RuleBasedStateMachine):
        """Two handles on one place."""

        def __init__(self) -> None:
            super().__init__()
            self.place = folder / f"history-{next(places)}"
            self.indexes = [make(self.place), make(self.place)]
            self.fed = [0, 0]
            self.model: Model = {}
            self.digests = [GENESIS]
            self.units: list[str] = []
            self.number = 0

        @rule(
            which=_WHICH,
            planned=st.lists(_STEPS, max_size=3),
            after=st.sampled_from([None, None, 0, 1]),
            observe=st.integers(0, 2),
        )
        def commit(
            self,
            which: int,
            planned: list[tuple[bool, str, str, str, Any]],
            after: int | None,
            observe: int,
        ) -> None:
            changes: list[Change] = []
            for put, kind, key, expected, value in planned:
                version = self.model.get((kind, key), (0, None))[0]
                number = {"any": None, "none": 0, "right": version, "stale": version + 1}[expected]
                if put and value is not None:
                    changes.append(Put(kind, key, value, number))
                else:
                    changes.append(Drop(kind, key, number))
            head = len(self.digests) - 1
            model, error = _outcome(self.model, changes)
            observations = [_seen(len(self.units) + n) for n in range(observe)]
            index = self.indexes[which]
            wanted = None if after is None else head - after
            if after == 1:
                error = ConflictError
            if error is not None:
                with pytest.raises(error) as caught:
                    index.commit(
                        changes, actor="x", at=1.5, observations=observations, after=wanted
                    )
                if error is ConflictError:
                    assert not isinstance(caught.value, DuplicateError)
                return
            revision = index.commit(
                changes, actor="x", at=1.5, observations=observations, after=wanted
            )
            assert revision == head + 1
            self.model = model
            self.digests.append(digest_entry(self.digests[-1], revision, 1.5, "x", changes))
            self.units += [each.unit for each in observations]

        @rule(which=_WHICH, count=st.integers(0, 3))
        def append(self, which: int, count: int) -> None:
            batch = [_seen(len(self.units) + n) for n in range(count)]
            self.units += [each.unit for each in batch]
            assert self.indexes[which].append_windows(batch) == len(self.units)

        @rule(which=_WHICH, count=st.integers(1, 3), again=st.integers(0, 2))
        def append_once(self, which: int, count: int, again: int) -> None:
            batch = [_seen(len(self.units) + n) for n in range(count)]
            self.units += [each.unit for each in batch]
            self.number += 1
            for _ in range(again + 1):
                found = self.indexes[which].append_windows(
                    batch, once=Batch(f"p{which}", self.number)
                )
                assert found == len(self.units)

        @rule(which=_WHICH)
        def follow(self, which: int) -> None:
            entries = self.indexes[which].changes(self.fed[which])
            found = [entry.digest for entry in entries]
            assert found == self.digests[self.fed[which] + 1 :]
            self.fed[which] += len(entries)

        @rule(which=_WHICH, kind=_KINDS, key=_NAMES)
        def get(self, which: int, kind: str, key: str) -> None:
            assert self.indexes[which].get(kind, key) == self.model.get((kind, key), (0, None))[1]

        @rule(which=_WHICH, after=st.integers(0, 10))
        def observed(self, which: int, after: int) -> None:
            found = self.indexes[which].observations("r", after)
            assert [each.unit for each in found] == self.units[after:]
            assert [each.sequence for each in found] == list(range(after + 1, len(self.units) + 1))

        @rule(which=_WHICH)
        def reopen(self, which: int) -> None:
            self.indexes[which].close()
            self.indexes[which] = make(self.place)

        @invariant()
        def holds_what_the_model_holds(self) -> None:
            for index in self.indexes:
                contents = index.load()
                assert contents.revision == len(self.digests) - 1
                assert contents.digest == self.digests[-1]
                assert contents.facts == tuple(
                    Fact(*name, *self.model[name]) for name in sorted(self.model)
                )

        def teardown(self) -> None:
            for index in self.indexes:
                index.close()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def _seen(number: int) -> Observation:
    return Observation("r", "canary", f"unit-{number}", 1, 0, 1.5)
