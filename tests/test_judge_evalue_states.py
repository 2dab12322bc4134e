"""The states of the judge by betting: the same everywhere, bounded, and damage in them is found."""

from __future__ import annotations

import json
import math
import random

import attrs
import pytest
from tests.worlds import World, median_failures, rollouts, share_of

from xenolect.errors import CorruptError
from xenolect.facts import Observation
from xenolect.judges import Baseline, JudgeConfig
from xenolect.model import Verdict
from xenolect_plugins import evalue
from xenolect_plugins.evalue import EValue

ROLLBACK, HOLD, PROMOTE, CONTINUE = (
    Verdict.ROLLBACK,
    Verdict.HOLD,
    Verdict.PROMOTE,
    Verdict.CONTINUE,
)


def op(arm: str, unit: str, failed: int, at: float = 0.0, count: int = 1) -> Observation:
    """One observation."""
    return Observation("r", arm, unit, count, failed, at)


@pytest.fixture(scope="module")
def mixed() -> tuple[Baseline, list[Observation]]:
    """A long stream with everything in it: bursts, an outage, a ramp, strangers, silence."""
    world = World(
        agents=60,
        rate=2.0,
        hours=1.0,
        levels=(0.1, 0.4, 0.95),
        spread=1.0,
        bursts=120.0,
        outage=(1500.0, 1800.0, 0.9),
    )
    baseline, records = world.draw(7)
    kept = [r for r in records if r.arm == "canary" or not 3000 < r.at < 3200]
    return attrs.evolve(baseline, units=dict(list(baseline.units.items())[:40])), kept


def test_dump_and_load_in_mid_stream(mixed):
    """A judge written and read after every 97th record ends with the same bytes as one that was not."""
    baseline, records = mixed
    judge, config = EValue(), JudgeConfig(alpha=1e-12)
    whole = judge.start(baseline, config)
    expected = judge.update(whole, records)
    state = judge.start(baseline, config)
    for i in range(0, len(records), 97):
        judge.update(state, records[i : i + 97])
        state = EValue().load(judge.dump(state))
    assert judge.update(state, []) == expected
    assert judge.dump(state) == judge.dump(whole)


def test_bits_are_pinned():
    """E-values of a fixed stream, written out: the same on every machine and Python version."""
    judge = EValue()
    state = judge.start(Baseline(1000, 10), JudgeConfig(alpha=1e-12))
    draw = random.Random(5).random
    at = 0.0
    for i in range(3000):
        at += draw()
        arm = "canary" if draw() < 0.25 or 1000 < i < 1050 else "control"
        judge.update(state, [op(arm, f"{arm}{i % 70}", int(draw() < 0.03), at)])
    _, seen = judge.update(state, [])
    assert {name: value.hex() for name, value in seen.parts.items()} == PINNED


PINNED = {
    "failure_ratio": "0x1.e217545ad13fdp-5",
    "failure_difference": "0x1.8a343bd400364p-1",
    "non_inferiority": "0x1.b143defcb5862p+0",
    "collapse": "0x1.917b8f352e3fbp-2",
}


def test_nothing_makes_nan():
    """Numbers stay finite at the bounds of capital and with senseless observations."""
    judge = EValue()
    state = judge.start(Baseline(10_000, 0), JudgeConfig(alpha=1e-15, min_effect=0.5))
    nonsense = [
        op("canary", "c", 0, math.nan),
        op("canary", "c", 0, math.inf),
        op("canary", "c", 5, 1.0, 0),
        op("canary", "c", -3, 1.0, -2),
        op("elsewhere", "c", 1, 1.0),
        op("canary", "c", 10**9, 1.0, 1),
        op("canary", "c", 0, 1.0, 10**15),
    ]
    judge.update(state, nonsense)
    for i in range(30_000):
        at = float(i * 700)
        judge.update(state, [op("control", "b", i % 2, at), op("canary", "c", i % 3 == 0, at)])
    for _ in range(20_000):
        judge.update(state, [op("control", "b", 0, at), op("canary", "c", 0, at)])
    for i in range(500):
        judge.update(state, [op("canary", f"d{i}", 1, at)])
    _, seen = judge.update(state, [])
    numbers = [seen.e_value, seen.noninferiority, *seen.parts.values()]
    assert all(math.isfinite(x) and x > 0 for x in numbers)
    assert seen.canary_operations == 2 + 10**15 - 1 + 50_000 + 500


def test_a_late_change_is_found():
    """After hours of good behaviour a dead variant is still out within 80 canary failures."""
    world = World(canary=0.5, turn=3600.0, hours=1.5)
    outcomes = rollouts(EValue(), world, 20, promote=False)
    assert share_of(outcomes, ROLLBACK) == 1.0
    assert median_failures(outcomes) <= 60


def test_memory_is_bounded():
    """However many units come and fail, what is remembered and written has a limit."""
    judge = EValue(max_units=100)
    state = judge.start(Baseline(), JudgeConfig(alpha=1e-15))
    sizes = []
    for i in range(20_000):
        arm = ("canary", "control")[i % 2]
        judge.update(state, [op(arm, f"{arm}-{i}", 1, i * 0.01)])
        if i in {5000, 19_999}:
            sizes.append(len(judge.dump(state)))
    assert sizes[1] < 1.2 * sizes[0] < 20_000


def test_time_that_goes_back_is_no_new_incident():
    """Cool-downs follow the latest time seen, so a late record can not shorten one."""
    judge = EValue()
    state = judge.start(Baseline(), JudgeConfig(alpha=1e-9))
    judge.update(state, [op("control", "b", 0, 1000.0), op("canary", "c", 1, 1000.0)])
    value = state.guardrails.failure_ratio.value
    judge.update(state, [op("control", "b", 0, 10.0), op("canary", "c", 1, 10.0)])
    assert state.guardrails.failure_ratio.value == value


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'{"format": 9}'])
def test_a_damaged_state_says_what_to_do(data):
    """Bytes that are no state are CorruptError, with the way out."""
    with pytest.raises(CorruptError, match="start it again"):
        EValue().load(data)


def test_state_is_plain_json():
    """What is stored can be read without this library."""
    judge = EValue()
    assert json.loads(judge.dump(judge.start(Baseline(), JudgeConfig())))["format"] == 2


def test_it_is_offered_by_name():
    """The plugin module offers it as "evalue"."""
    assert [(o.name, o.make) for o in evalue.xenolect_judges()] == [("evalue", EValue)]
