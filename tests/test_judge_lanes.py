"""The kernel that judges many rollouts at once says what the judge says, number by number."""

from __future__ import annotations

import pytest
from tests.fleets_at_once import Fleets, judged

KINDS = {
    "harmless": Fleets(hours=0.5, habits=0.3),
    "worse": Fleets(hours=0.5, canary=0.1),
    "dead": Fleets(hours=0.2, canary=0.9, latency=0.0),
    "slower": Fleets(hours=1.0, slower=1.3, stalls=0.02),
    "bursts, agents differ, ramp": Fleets(
        hours=1.0, spread=1.0, bursts=120.0, levels=(0.1, 0.4, 0.95), latency=0.0
    ),
    "outage": Fleets(hours=0.5, rate=4.0, levels=(0.1, 0.9), outage=(600.0, 1500.0, 1.0)),
    "rare control": Fleets(hours=0.5, rate=1.0, levels=(0.99,), agents=200, drift=0.3, canary=0.2),
}


def equal(kind: Fleets, runs: int, seed: int) -> None:
    for run, pairs in enumerate(judged(kind, runs, seed)):
        for scalar, lane in pairs:
            assert lane == pytest.approx(scalar, rel=1e-9), (run, pairs)


@pytest.mark.parametrize("name", KINDS)
def test_lanes_equal_the_judge(name):
    """Verdict, reason, e-values, operations and failures agree in each of a few runs."""
    equal(KINDS[name], 4, 11)


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize("name", KINDS)
def test_lanes_equal_the_judge_in_a_hundred_runs(name):
    """The same for a hundred runs of each kind of fleet."""
    equal(KINDS[name], 100, 100)
