"""What the other judges promise, and what they do not: measured false rollbacks for ``docs/judges.md``.

100 agents, 10 operations a second, 10 % of the agents on the canary, looks every five minutes for eight
hours, both arms alike at a success of 99 %, failures only. Each test prints what it found.
"""

from __future__ import annotations

import os

import attrs
import numpy as np
import pytest

from xenolect.facts import Observation
from xenolect.judges import Baseline, JudgeConfig
from xenolect.model import Verdict
from xenolect.simulation import wilson
from xenolect_plugins.bayes import Bayes
from xenolect_plugins.group_sequential import GroupSequential
from xenolect_plugins.kayenta_mw import KayentaMannWhitney
from xenolect_plugins.threshold import Threshold

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SCALE = float(os.environ.get("XENOLECT_RUNS", "1"))
AGENTS, TREATED, MINUTES, EACH = 100, 10, 480, 6.0  # operations of an agent in a minute
WORLDS = ("alike", "agents differ", "bursts")


@attrs.frozen
class Kind:
    """A judge, and between which rates of false rollbacks it must lie where all agents are alike."""

    judge: object
    runs: int
    least: float
    most: float


KINDS = {
    "threshold, one look": Kind(Threshold(failed_looks=1, latency=False), 1000, 0.9, 1.0),
    "threshold, two in a row": Kind(Threshold(latency=False), 1000, 0.1, 0.5),
    "threshold, floor of 99 %": Kind(
        Threshold(least_success=0.99, difference=1.0, failed_looks=5, latency=False), 1000, 0.5, 1.0
    ),
    "group_sequential, alpha 1 %": Kind(GroupSequential(latency=False), 400, 0.0, 0.02),
    "group_sequential, alpha 5 %": Kind(GroupSequential(latency=False), 400, 0.02, 0.08),
    "kayenta_mw": Kind(KayentaMannWhitney(latency=False), 400, 0.01, 0.1),
    "bayes, 95 %": Kind(Bayes(latency=False), 400, 0.25, 0.45),
    "bayes, 99 %": Kind(Bayes(latency=False, worse=0.99), 400, 0.05, 0.2),
}


def drawn(rng, world: str, canary: float = 0.01):
    """Operations and failures of each arm and minute, shape (minutes, 2)."""
    operations = rng.poisson(EACH, (MINUTES, AGENTS))
    p = np.full((MINUTES, AGENTS), 0.01)
    if world == "agents differ":
        odds = np.exp(rng.normal(0.0, 1.0, AGENTS)) * 0.01 / 0.99
        p[:] = odds / (1.0 + odds)
    if world == "bursts":  # 2 % of the time, five minutes on average, half of the operations fail
        bad = rng.random(AGENTS) < 0.02
        for minute in range(MINUTES):
            draw = rng.random(AGENTS)
            bad = np.where(bad, draw >= 0.2, draw < 0.2 * 0.02 / 0.98)
            p[minute] = np.where(bad, 0.5, 0.0)
    p[:, :TREATED] = np.maximum(p[:, :TREATED], canary if canary > 0.01 else 0.0)
    failures = rng.binomial(operations, p)
    return [
        (each[:, :TREATED].sum(1).tolist(), each[:, TREATED:].sum(1).tolist())
        for each in (operations, failures)
    ]


def played(judge, rng, world: str, alpha: float = 0.01, canary: float = 0.01):
    """The verdict after at most eight hours; the canary's failures and the minutes until then."""
    (n_c, n_b), (f_c, f_b) = drawn(rng, world, canary)
    state = judge.start(Baseline(864_000, 8_640), JudgeConfig(alpha=alpha))
    verdict = Verdict.CONTINUE
    for minute in range(MINUTES):
        at = minute * 60.0
        records = [
            Observation("r", "control", "b", n_b[minute], f_b[minute], at + 1.0),
            Observation("r", "canary", "c", max(1, n_c[minute]), f_c[minute], at + 2.0),
        ]
        verdict, evidence = judge.update(state, records)
        if verdict is Verdict.ROLLBACK:
            return verdict, evidence.canary_failures, minute
    return verdict, 0, MINUTES


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", KINDS)
def test_false_rollbacks(name, world):
    """Harmless rollouts taken back within eight hours; only where agents are alike is it bounded."""
    kind = KINDS[name]
    runs = max(20, round(kind.runs * SCALE))
    rng = np.random.default_rng(7)
    alpha = 0.05 if name.endswith("alpha 5 %") else 0.01
    hits = sum(played(kind.judge, rng, world, alpha)[0] is Verdict.ROLLBACK for _ in range(runs))
    low, high = wilson(hits, runs)
    print(f"\n{name}, {world}: {hits} of {runs} ({hits / runs:.1%}, {low:.1%} to {high:.1%})")
    if world == "alike":
        assert high >= kind.least
        assert low <= kind.most


@pytest.mark.parametrize("canary", [0.1, 0.03])
@pytest.mark.parametrize("name", KINDS)
def test_harm_is_found(name, canary):
    """99 -> 90 and 97 %, failures until rollback: what looking every five minutes costs."""
    kind = KINDS[name]
    runs = max(20, round(100 * SCALE))
    rng = np.random.default_rng(8)
    alpha = 0.05 if name.endswith("alpha 5 %") else 0.01
    ends = [played(kind.judge, rng, "alike", alpha, canary) for _ in range(runs)]
    failures = [failed for verdict, failed, _ in ends if verdict is Verdict.ROLLBACK]
    minutes = [minute for verdict, _, minute in ends if verdict is Verdict.ROLLBACK]
    print(
        f"\n{name}, 99 -> {100 * (1 - canary):.0f} %: {len(failures)} of {runs}; failures "
        f"{np.median(failures):.0f} / {np.quantile(failures, 0.95):.0f}; after "
        f"{np.median(minutes):.0f} min"
    )
    assert len(failures) >= 0.99 * runs
