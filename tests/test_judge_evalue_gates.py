"""What the default judge promises, measured over many simulated rollouts (minutes, one core)."""

from __future__ import annotations

import pytest
from tests.worlds import World, median_failures, rollouts, share_of

from xenolect.model import Verdict
from xenolect_plugins.evalue import EValue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

ROLLBACK, PROMOTE = Verdict.ROLLBACK, Verdict.PROMOTE

HARMLESS = {
    "99": (World(), 1000),
    "99.9": (World(control=0.001, canary=0.001), 1000),
    "90": (World(control=0.1, canary=0.1), 1000),
    "agents differ": (World(spread=1.0), 500),
    "bursts of 5 min": (World(bursts=300.0), 500),
    "agents differ, bursts": (World(spread=1.0, bursts=300.0), 500),
    "1,000 agents, bursts": (World(agents=1000, bursts=300.0, rate=5.0, hours=1.0), 150),
    "sessions, 10 %": (World(agents=0, per_session=5.5), 500),
    "sessions, 50 %": (World(agents=0, per_session=5.5, share=0.5), 500),
    "ramp": (World(levels=(0.1, 0.158, 0.251, 0.398, 0.631, 0.95)), 500),
    "20 agents, slow": (World(agents=20, rate=0.2, hours=10.0, share=0.25), 500),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_variants_stay(name):
    """Looked at after every record for the whole rollout, at most 1 % are rolled back."""
    world, runs = HARMLESS[name]
    assert share_of(rollouts(EValue(), world, runs, promote=False), ROLLBACK) <= 0.01


@pytest.mark.parametrize("failing", [0.2, 1.0])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.95])
def test_a_common_outage_is_not_blamed(share, failing):
    """Both arms at 80 % or 0 % for half an hour, after a ramp from 10 %: at most 1 % rolled back."""
    world = World(
        agents=1000,
        rate=5.0,
        hours=1.5,
        levels=(0.1, share),
        outage=(3000.0, 4800.0, failing),
    )
    assert share_of(rollouts(EValue(), world, 120, promote=False), ROLLBACK) <= 0.01


@pytest.mark.parametrize("rate", [0.2, 1.0])
@pytest.mark.parametrize("share", [0.4, 0.95])
def test_a_common_outage_of_slow_traffic_is_not_blamed(share, rate):
    """Where control is rare its silence is no proof that it is gone: at most 1 % rolled back."""
    world = World(agents=0, share=share, rate=rate, hours=1.0, outage=(600.0, 2400.0, 1.0))
    assert share_of(rollouts(EValue(), world, 400, promote=False), ROLLBACK) <= 0.01


@pytest.mark.parametrize(
    ("canary", "hours", "spread", "found", "median"),
    [
        (0.5, 2.0, 0.0, 0.99, 10),
        (0.5, 2.0, 1.0, 0.99, 10),
        (0.1, 2.0, 0.0, 0.99, 20),
        (0.1, 2.0, 1.0, 0.99, 20),
        (0.03, 16.0, 0.0, 0.99, 150),
        # ten canary agents that differ, each heard once per cool-down: 98 % found, median 53
        (0.03, 16.0, 1.0, 0.95, 150),
    ],
)
def test_harmful_variants_go(canary, hours, spread, found, median):
    """99 -> 50, 90 and 97 %: found, at a median of few canary failures."""
    world = World(canary=canary, hours=hours, spread=spread)
    outcomes = rollouts(EValue(), world, 200, promote=False)
    assert share_of(outcomes, ROLLBACK) >= found
    assert median_failures(outcomes) <= median


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_variants_worse_by_the_margin_are_not_promoted(share, spread):
    """A failure probability .02 higher, twice ``min_effect``: at most 5 % ever promoted."""
    world = World(agents=1000, canary=0.03, share=share, spread=spread, hours=4.0)
    assert share_of(rollouts(EValue(), world, 200), PROMOTE) <= 0.05


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_harmless_variants_are_promoted(share):
    """The promise is not kept by never promoting: 95 % pass within 8 hours at 1 operation/s."""
    assert share_of(rollouts(EValue(), World(share=share, hours=8.0), 100), PROMOTE) >= 0.95
