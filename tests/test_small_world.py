"""Whole small worlds by seed: whatever fails and whoever interferes, what must hold holds after each step."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.small_world import SmallWorld, Wrong

from xenolect import _harm, _points, _steering, _variants
from xenolect._structure import Structure
from xenolect_backends import memory

ROOT = Path(__file__).parent.parent
STATES = ("ramping", "hold", "suspended", "paused", "promoted", "rolled_back", "aborted")


pytestmark = pytest.mark.timeout(900)  # whole worlds, beside whatever else the machine does


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of alerts are not what these tests are about."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# -- nothing is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("block", range(10))
def test_fifty_worlds(block: int) -> None:
    """Five hundred seeds of 25 steps in ten blocks."""
    for seed in range(50 * block, 50 * block + 50):
        SmallWorld(seed).play(25)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("block", range(20))
def test_a_hundred_longer_worlds(block: int) -> None:
    """Two thousand other seeds of 120 steps in twenty blocks; every block meets every state."""
    tally: Counter[str] = Counter()
    for seed in range(10_000 + 100 * block, 10_100 + 100 * block):
        tally.update(SmallWorld(seed).play(120).tally)
    assert not {f"woken {state}" for state in (*STATES, "recovering", "latched")} - set(tally)


def test_the_worlds_are_worth_their_name() -> None:
    """In 130 of them processes die and disks fail, rollouts end in every way, and processes start
    again in every state of a rollout."""
    tally: Counter[str] = Counter()
    actors: Counter[str] = Counter()
    for seed in range(1000, 1130):
        world = SmallWorld(seed).play(40)
        tally.update(world.tally)
        actors.update(world.eye.actors)
    assert tally["dies"] > 10
    assert tally["fails"] > 20
    assert tally["probe"] > 10
    assert not {f"woken {state}" for state in STATES} - set(tally)
    assert actors["judge"] > 0
    assert actors["force promote"] > 0
    assert actors["rollback"] > 0


# -- a seed is a world -----------------------------------------------------------------------------


def test_the_same_seed_is_the_same_world() -> None:
    """To the last byte of the journal, and to the last call."""
    one, two = SmallWorld(7).play(60), SmallWorld(7).play(60)

    assert one.eye.digest == two.eye.digest
    assert one.log == two.log
    assert one.eye.digest != SmallWorld(8).play(60).eye.digest


def test_in_another_interpreter_too() -> None:
    """Nothing depends on addresses, on the order of sets, or on the time of day."""
    program = "from tests.small_world import SmallWorld; print(SmallWorld(11).play(40).eye.digest)"
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert found == {f"{SmallWorld(11).play(40).eye.digest}\n"}


@pytest.mark.parametrize("seed", range(2000, 2006))
def test_on_a_disk_it_is_the_same(seed: int, tmp_path: Path) -> None:
    """SQLite and files in a directory hold what the memory holds, after the same accidents."""
    assert SmallWorld(seed, tmp_path).play(25).eye.digest == SmallWorld(seed).play(25).eye.digest


def test_the_ratio_of_units_comes_out_the_same() -> None:
    """What a health check said of the arms' sizes is recomputed, in whichever process it was made, and
    there is something to recompute."""
    counted = 0
    for seed in range(40):
        world = SmallWorld(seed).play(40)
        for standing in world.eye.variants.values():
            ratios = [document.get("ratio") or {} for _, document in standing.rollouts]
            counted += sum(bool(each.get("canary")) for each in ratios)
    assert counted > 20


# -- what is wrong is found ------------------------------------------------------------------------


def found(most: int = 60, steps: int = 60) -> str:
    """What the first world says in which something is wrong, and says again."""
    for seed in range(most):
        try:
            SmallWorld(seed).play(steps)
        except Wrong as wrong:
            text = str(wrong)
            call = text.rpartition("see it again: ")[2]
            with pytest.raises(Wrong) as again:
                eval(call, {"SmallWorld": SmallWorld})
            assert str(again.value) == text
            return text
    raise AssertionError("nothing was found")


def test_a_lost_write_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that says it has committed, and now and then has not."""
    commit = memory.MemoryIndex.commit

    def forgetful(self: Any, changes: Any, **given: Any) -> int:
        if len(self._held.journal) % 17 == 16:
            self._held.journal.append(("lost",))
            self._held.journal.pop()
            return len(self._held.journal) + 1
        return commit(self, changes, **given)

    monkeypatch.setattr(memory.MemoryIndex, "commit", forgetful)

    assert "SmallWorld(" in found()


def test_a_missing_baseline_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deprecating without a look at the baseline."""
    monkeypatch.setattr(_variants.Variants, "_may_go", lambda self, current: None)

    assert re.search("has the baseline|is active", found())


def test_two_minds_about_a_rollback_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback that leaves the content as it is."""
    content = _points.Points._content

    def half(self: Any, current: Any, value: Any, status: Any) -> Any:
        if status == "rolled_back":
            return [self._variants.moved(current, status)]
        return content(self, current, value, status)

    monkeypatch.setattr(_points.Points, "_content", half)

    assert "was rolled back to" in found(200)


def test_a_stale_decision_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollout's step that is committed on whatever version there is by then."""
    step = _steering.Steering.step

    def late(self: Any, rollout: Any, *given: Any, **more: Any) -> Any:
        runtime, commit = self._runtime, self._runtime.commit

        def on_any(changes: Any, **options: Any) -> int:
            import attrs

            free = [
                attrs.evolve(each, expected=None) if each.kind == "rollout" else each
                for each in changes
            ]
            return commit(free, **options)

        runtime.commit = on_any
        try:
            return step(self, rollout, *given, **more)
        finally:
            del runtime.commit

    monkeypatch.setattr(_steering.Steering, "step", late)

    assert "see it again" in found(300)


def test_what_can_not_be_spoken_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that forgets requirements."""
    mask = Structure.mask
    monkeypatch.setattr(
        Structure,
        "mask",
        lambda self, profile, refuses, bound: mask(self, profile, lambda *_: None, bound),
    )

    assert "can not speak it" in found()


def test_a_canary_served_after_its_rollback_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that proved harm and goes on until it reads of it."""
    monkeypatch.setattr(_harm.Harm, "shut", lambda self, variant_id: None)
    lag: Callable[..., Any] = _points.Points.roll_back
    monkeypatch.setattr(
        _points.Points,
        "roll_back",
        lambda self, variant, reason, **given: (
            None if given.get("actor") == "judge" else lag(self, variant, reason, **given)
        ),
    )

    assert "after it was proved harmful" in found(300)
