"""What the default judge promises, measured over thousands of simulated rollouts (an hour, one core).

Each test prints what it found; ``docs/safeguards.md`` quotes it. ``XENOLECT_RUNS=0.1`` runs a tenth.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from tests.fleets_at_once import Ends, Fleets, ends
from tests.worlds import World, play, rollouts, share_of

from xenolect.config import load
from xenolect.model import CanaryState, Verdict
from xenolect.simulation import World as Small
from xenolect.simulation import simulate
from xenolect_plugins.evalue import EValue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SCALE = float(os.environ.get("XENOLECT_RUNS", "1"))


def many(runs: int) -> int:
    return max(20, round(runs * SCALE))


def told(name: str, found: Ends, runs: int) -> None:
    """Print a line for the documentation."""
    words = f"{found.rolled_back.sum()} of {runs} rolled back, {found.promoted.sum()} promoted"
    if len(found.failures):
        for what, values in (("failures", found.failures), ("operations", found.operations)):
            words += f"; {what} {np.median(values):.0f} / {np.quantile(values, 0.95):.0f}"
        words += f"; after {np.median(found.at) / 60:.1f} min"
    if len(found.promoted_at):
        words += f"; promoted after {np.median(found.promoted_at) / 60:.0f} min"
        words += f" / {np.quantile(found.promoted_at, 0.95) / 60:.0f}"
    print(f"\n{name}: {words}")


RAMP = (0.1, 0.158, 0.251, 0.398, 0.631, 0.95)
TEN_THOUSAND = {
    "99 %": Fleets(hours=3.0),
    "99.9 %": Fleets(control=0.001, canary=0.001, hours=3.0),
    "90 %": Fleets(control=0.1, canary=0.1, hours=3.0),
}
TWO_THOUSAND = {
    "agents differ": Fleets(spread=1.0, habits=0.3),
    "bursts of 5 min": Fleets(bursts=300.0),
    "agents differ, bursts": Fleets(spread=1.0, habits=0.3, bursts=300.0),
    "common outage of 30 min at 80 %": Fleets(outage=(3600.0, 5400.0, 0.2)),
    "common outage of 30 min, total": Fleets(outage=(3600.0, 5400.0, 1.0)),
    "drift of 40 % over six hours": Fleets(drift=0.4, hours=6.0),
    "ramp in progress": Fleets(levels=RAMP, spread=1.0, habits=0.3),
    "at the 95 % level": Fleets(levels=(0.95,), spread=1.0, habits=0.3),
    "at the 95 % level, total outage": Fleets(levels=(0.95,), outage=(3600.0, 5400.0, 1.0)),
    "wide latencies": Fleets(latency=1.5, habits=0.3),
}


@pytest.mark.parametrize("name", TEN_THOUSAND)
def test_harmless_variants_stay(name):
    """Looked at after every record for three hours, at most 1 % of 10,000 are rolled back."""
    runs = many(10_000)
    found = ends(TEN_THOUSAND[name], runs, seed=1)
    told(f"harmless, {name}", found, runs)
    assert found.rolled_back.sum() <= 0.0125 * runs


@pytest.mark.parametrize("name", TWO_THOUSAND)
def test_harmless_variants_stay_in_hard_worlds(name):
    """Agents that differ, bursts, outages, drift, ramps: at most 1 % of 2,000 (32 by chance)."""
    runs = many(2_000)
    found = ends(TWO_THOUSAND[name], runs, seed=2)
    told(f"harmless, {name}", found, runs)
    assert found.rolled_back.sum() <= 0.016 * runs


def wald(control: float, canary: float) -> float:
    """The fewest canary failures, on average, in which any test can tell the two at alpha .01.

    ``ln(1 / alpha) / KL(canary || control)`` operations (Wald, 1947), of which ``canary`` fail.
    """
    divergence = canary * math.log(canary / control)
    divergence += (1.0 - canary) * math.log((1.0 - canary) / (1.0 - control))
    return canary * math.log(100.0) / divergence


@pytest.mark.parametrize(
    ("canary", "hours", "median", "tail"),
    [(0.5, 1, 10, 15), (0.1, 2, 20, 100), (0.03, 8, 150, 300)],
)
def test_harmful_variants_go(canary, hours, median, tail):
    """99 -> 50, 90 and 97 % with 100 agents: found, at few canary failures (median, 95th percentile)."""
    runs = many(1_000)
    found = ends(Fleets(canary=canary, hours=hours), runs, seed=3)
    told(f"99 -> {100 * (1 - canary):.0f} %", found, runs)
    least = wald(0.01, canary)
    print(f"  {np.median(found.failures) / least:.1f} times Wald's bound of {least:.1f} failures")
    assert found.rolled_back.mean() >= 0.99
    assert np.median(found.failures) <= median
    assert np.quantile(found.failures, 0.95) <= tail


@pytest.mark.parametrize(
    ("canary", "hours", "median", "tail"),
    [(0.5, 0.5, 60, 75), (0.1, 1, 20, 35), (0.03, 2, 80, 220)],
)
def test_harmful_variants_go_among_a_thousand_agents(canary, hours, median, tail):
    """The same with 1,000 agents and ten times the traffic."""
    runs = many(500)
    found = ends(Fleets(agents=1000, canary=canary, hours=hours), runs, seed=4, batch=500)
    told(f"99 -> {100 * (1 - canary):.0f} %, 1,000 agents", found, runs)
    assert found.rolled_back.mean() >= 0.99
    assert np.median(found.failures) <= median
    assert np.quantile(found.failures, 0.95) <= tail


@pytest.mark.parametrize(("canary", "median"), [(0.1, 15), (0.03, 50)])
def test_harmful_variants_go_where_agents_differ_and_fail_in_bursts(canary, median):
    """99 -> 90 and 97 %, heterogeneous agents with bursts: all found, at few failures."""
    runs = many(500)
    kind = Fleets(canary=canary, hours=8.0, spread=1.0, bursts=300.0)
    found = ends(kind, runs, seed=5)
    told(f"99 -> {100 * (1 - canary):.0f} %, agents differ, bursts", found, runs)
    assert found.rolled_back.mean() >= 0.99
    assert np.median(found.failures) <= median


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_worse_variants_are_not_promoted(spread):
    """Worse by exactly what promotion must exclude (.02): at most 5 % of 1,000 are ever promoted."""
    runs = many(1_000)
    found = ends(Fleets(canary=0.03, spread=spread, hours=6.0), runs, seed=6, promote=True)
    told(f"worse by .02, spread {spread:g}", found, runs)
    assert found.promoted.mean() <= 0.05


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("20 % slower", Fleets(habits=0.3, slower=1.2, hours=4.0)),
        ("50 % slower", Fleets(habits=0.3, slower=1.5, hours=2.0)),
        ("5 % ten times slower", Fleets(habits=0.3, stalls=0.05, hours=6.0)),
    ],
)
def test_slower_variants_go(name, kind):
    """With agents that have latencies of their own, at least 99 % of 1,000 are found."""
    runs = many(1_000)
    found = ends(kind, runs, seed=7)
    told(name, found, runs)
    assert found.rolled_back.mean() >= 0.99


def test_harmless_variants_are_promoted():
    """The promises are not kept by never promoting: all but 1 % within four hours."""
    runs = many(1_000)
    found = ends(Fleets(spread=1.0, habits=0.3), runs, seed=8, promote=True)
    told("harmless, promoted by the judge", found, runs)
    assert found.promoted.mean() >= 0.99


@pytest.mark.parametrize("operations", [1.0, 5.0])
@pytest.mark.parametrize("agents", [5, 20, 42])
def test_small_fleets(agents, operations):
    """0.2 operations/s in all, by session, with the ramp: the dead go, the harmless pass in a day."""
    runs = many(400)
    world = Small(
        agents=agents,
        operations_per_second=0.2,
        unit="session",
        session_operations=operations,
        canary_success=0.0,
        hours=24.0,
        runs=runs,
        seed=9,
    )
    found = simulate(load("memory://", environ={}, canary={"unit": "session"}), world)
    dead = found.harmful
    assert dead is not None
    failures = dead.quantile("failures", 0.5, CanaryState.ROLLED_BACK)
    tail = dead.quantile("failures", 0.95, CanaryState.ROLLED_BACK)
    print(
        f"\n{agents} agents, {operations:g} operations a session: harmless promoted "
        f"{found.harmless.promoted:.3f}, rolled back {found.harmless.rolled_back:.4f}; dead rolled "
        f"back {dead.rolled_back:.3f} after {failures:g} / {tail:g} failures"
    )
    assert dead.rolled_back == 1.0
    assert failures <= 6 * operations
    assert found.harmless.rolled_back <= 0.01
    assert found.harmless.promoted >= (0.95 if operations == 1.0 else 0.9)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_sessions_stay(share):
    """Conversations of some five operations that belong together: at most 1 % rolled back."""
    runs = many(1_000)
    world = World(agents=0, per_session=5.5, share=share)
    rolled = share_of(rollouts(EValue(), world, runs, promote=False), Verdict.ROLLBACK)
    print(f"\nharmless, sessions at {share:g}: {rolled * runs:.0f} of {runs} rolled back")
    assert rolled <= 0.016


@pytest.mark.parametrize("rate", [0.2, 1.0])
@pytest.mark.parametrize("share", [0.4, 0.95])
def test_a_common_outage_of_slow_traffic_is_not_blamed(share, rate):
    """Where control is rare its silence is no proof that it is gone: at most 1 % rolled back."""
    runs = many(400)
    world = World(agents=0, share=share, rate=rate, hours=1.0, outage=(600.0, 2400.0, 1.0))
    rolled = share_of(rollouts(EValue(), world, runs, promote=False), Verdict.ROLLBACK)
    print(f"\noutage, {rate:g}/s at {share:g}: {rolled * runs:.0f} of {runs} rolled back")
    assert rolled <= 0.016


def test_the_same_records_give_the_same_bits():
    """Played again, a hundred rollouts end with equal evidence, to the last bit."""
    world = World(canary=0.02, spread=1.0, latency=0.5, habits=0.3, hours=0.5, rate=4.0)
    for seed in range(100):
        assert play(EValue(), world, seed) == play(EValue(), world, seed)
