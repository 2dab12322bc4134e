"""The judges beside the default one: their kit, their statistics against known values, their verdicts."""

from __future__ import annotations

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import ConfigError, CorruptError, EmergenceManager
from xenolect.facts import Observation
from xenolect.judges import Baseline, Guardrail, JudgeConfig
from xenolect.model import Verdict
from xenolect.testing import JudgeTests
from xenolect_plugins._looks import Looks
from xenolect_plugins._spending import FAR, Boundary, obrien_fleming
from xenolect_plugins.bayes import Bayes, exceeds
from xenolect_plugins.group_sequential import GroupSequential
from xenolect_plugins.kayenta_mw import KayentaMannWhitney, shift
from xenolect_plugins.threshold import Threshold

ALL = (Threshold, GroupSequential, KayentaMannWhitney, Bayes)


class TestThreshold(JudgeTests):
    """The judge ``threshold``; one failed look is enough, or the kit's 400 s would be too short."""

    def make(self) -> Threshold:
        """Rolls back at the first failed look."""
        return Threshold(failed_looks=1)


class TestGroupSequential(JudgeTests):
    """The judge ``group_sequential``."""

    def make(self) -> GroupSequential:
        """With its defaults."""
        return GroupSequential()


class TestKayenta(JudgeTests):
    """The judge ``kayenta_mw``."""

    def make(self) -> KayentaMannWhitney:
        """With its defaults."""
        return KayentaMannWhitney()


class TestBayes(JudgeTests):
    """The judge ``bayes``."""

    def make(self) -> Bayes:
        """With its defaults."""
        return Bayes()


def feed(
    judge,
    *,
    canary=0.01,
    control=0.01,
    slower=1.0,
    minutes=120,
    rate=60,
    load=(),
    config=None,
    seed=1,
):
    """Minutes of ``rate`` operations on the canary and as many on control; the verdicts look by look."""
    rng = np.random.default_rng(seed)
    state = judge.start(Baseline(10_000, 100), config or JudgeConfig(share=0.5))
    verdicts = []
    for minute in range(minutes):
        records = []
        for arm, p, factor in (("canary", canary, slower), ("control", control, 1.0)):
            failed = rng.random(rate) < p
            taken = rng.lognormal(math.log(50.0), 0.3, rate) * factor
            records += [
                Observation(
                    "r",
                    arm,
                    f"{arm}-{i}",
                    1,
                    int(failed[i]),
                    minute * 60.0 + i * 60.0 / rate,
                    float(taken[i]),
                    {name: float(draw(rng, arm)) for name, draw in load},
                )
                for i in range(rate)
            ]
        records.sort(key=lambda record: record.at)
        verdict, evidence = judge.update(state, records)
        verdicts.append(verdict)
        if verdict is Verdict.ROLLBACK:
            break
    return verdict, evidence, len(verdicts)


@pytest.mark.parametrize("make", ALL)
def test_harm_is_rolled_back_and_its_absence_promoted(make):
    """Ten times the failures are found within the hour, and named; twins are promoted within two."""
    verdict, evidence, minutes = feed(make(), canary=0.1)
    assert (verdict, evidence.reason) == (Verdict.ROLLBACK, "failures")
    assert evidence.e_value >= evidence.threshold
    assert minutes <= 60

    verdict, evidence, _ = feed(make(), seed=5)
    assert verdict is Verdict.PROMOTE
    assert evidence.noninferiority >= evidence.promote_at


@pytest.mark.parametrize("make", ALL)
def test_slowness_is_harm_unless_latency_is_left_out(make):
    """Half as slow again is rolled back for its latency; with ``latency=False`` nobody looks."""
    verdict, evidence, _ = feed(make(), slower=1.5)
    assert (verdict, evidence.reason) == (Verdict.ROLLBACK, "latency")

    verdict, evidence, _ = feed(make(latency=False), slower=1.5, seed=5)
    assert verdict is Verdict.PROMOTE


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(
    ("guardrail", "good", "bad"),
    [
        (Guardrail("cache_hits", True, 0.0, 1.0), 0.9, 0.6),
        (Guardrail("bytes"), 1000.0, 1500.0),
        (Guardrail("frames_per_second", True), 60.0, 40.0),
    ],
)
def test_declared_metrics_are_judged(make, guardrail, good, bad):
    """Bounded and unbounded, higher better and lower better: worse by more than the margin goes."""
    config = JudgeConfig(share=0.5, guardrails=(guardrail,))
    for middle, expected in ((bad, Verdict.ROLLBACK), (good, Verdict.PROMOTE)):

        def draw(rng, arm, middle=middle):
            return (middle if arm == "canary" else good) * rng.uniform(0.95, 1.05)

        verdict, evidence, _ = feed(make(), load=((guardrail.name, draw),), config=config, seed=5)
        assert verdict is expected
        if expected is Verdict.ROLLBACK:
            assert evidence.reason == f"custom.{guardrail.name}"


@pytest.mark.parametrize("make", ALL)
def test_an_arm_that_went_away_holds(make):
    """Control, or the canary, silent for a whole look: HOLD at the next, whatever was said before."""
    for silent, reason in (("control", "no control"), ("canary", "no data")):
        judge = make()
        state = judge.start(Baseline(10_000, 100), JudgeConfig(share=0.5))
        for i in range(60 * 130):
            arm = "canary" if i % 2 else "control"
            if arm != silent or i < 60 * 122:
                judge.update(state, [Observation("r", arm, f"{i}", 1, 0, float(i), 50.0)])
        for i in range(60 * 130, 60 * 136):
            arm = "canary" if silent == "control" else "control"
            verdict, evidence = judge.update(state, [Observation("r", arm, f"{i}", 1, 0, float(i))])
        assert (verdict, evidence.reason) == (Verdict.HOLD, reason)


@pytest.mark.parametrize("make", ALL)
def test_a_state_of_another_judge_is_refused(make):
    """Also damaged bytes: CorruptError says what to do."""
    judge = make()
    state = json.loads(judge.dump(judge.start(Baseline(), JudgeConfig())))
    for wrong in (b"{", json.dumps({**state, "judge": "oracle"}).encode(), b"[]"):
        with pytest.raises(CorruptError, match="start it again"):
            judge.load(wrong)


@pytest.mark.parametrize("name", ["threshold", "group_sequential", "kayenta_mw", "bayes"])
def test_each_is_chosen_by_name_and_rolls_back_in_a_manager(name):
    """``canaries.start(judge=...)`` with its options; a dead canary is out at the second look."""
    now = [1_000_000.0]
    with EmergenceManager.open("memory://", clock=lambda: now[0], background=False) as manager:
        agents = fleet(manager, zstd="1.5")
        _, canary = json_and_zstd(manager)
        with pytest.raises(ConfigError, match="intervall: unknown setting"):
            manager.canaries.start(canary, judge={"use": name, "intervall": "1m"})
        manager.canaries.start(canary, initial_fraction=0.5, judge={"use": name, "interval": "1m"})
        manager.breakers.disable(canary, ttl=3600)
        for _ in range(900):
            now[0] += 1.0
            agent = agents[int(now[0]) * 7 % len(agents)]
            chosen = manager.select(agent).variant
            manager.report(chosen, agent, success=chosen.id != canary.id, latency_ms=50.0)
            manager.tick()
        assert manager.variants.get(canary.id).status == "rolled_back"
        assert "failures" in manager.canaries.status(canary).reason


# -- threshold --------------------------------------------------------------------------------------


def test_an_absolute_floor_asks_nobody_else():
    """Both arms at 97 %: under a floor of 99 % the canary goes all the same; that is what it says."""
    alike = {"canary": 0.03, "control": 0.03, "rate": 600, "minutes": 30}
    verdict, _, _ = feed(Threshold(), **alike)
    assert verdict is Verdict.PROMOTE
    verdict, evidence, _ = feed(Threshold(least_success=0.99), **alike)
    assert (verdict, evidence.reason) == (Verdict.ROLLBACK, "failures")


def test_looks_with_few_operations_count_as_neither():
    """Two operations in five minutes say nothing."""
    verdict, evidence, _ = feed(Threshold(), canary=1.0, rate=2, minutes=60)
    assert (verdict, evidence.reason) == (Verdict.CONTINUE, "few operations since the last look")


# -- group sequential -------------------------------------------------------------------------------


def test_boundaries_are_those_of_the_literature():
    """Five equal looks, one-sided .025: Lan and DeMets' O'Brien-Fleming boundaries, two decimals."""
    boundary = Boundary()
    found = [boundary.look(k / 5, obrien_fleming(0.025, k / 5)) for k in range(1, 6)]
    assert found == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=0.002)


def test_ninety_six_looks_spend_alpha_and_no_more():
    """200,000 random walks cross somewhere with the probability that was to be spent, .05."""
    rng = np.random.default_rng(3)
    boundary, alpha, looks = Boundary(), 0.05, 96
    bounds = [boundary.look(k, obrien_fleming(alpha, k / looks)) for k in range(1, looks + 1)]
    walks = np.zeros(200_000)
    crossed = np.zeros(200_000, dtype=bool)
    for k, bound in enumerate(bounds, 1):
        walks += rng.standard_normal(200_000)
        crossed |= walks / math.sqrt(k) >= bound
    assert crossed.mean() == pytest.approx(alpha, abs=4 * math.sqrt(alpha * (1 - alpha) / 200_000))
    assert max(bounds) == FAR
    assert bounds[-1] > NormalDist().inv_cdf(1 - alpha)


def test_a_look_at_the_same_data_keeps_the_boundary():
    """Nothing is spent twice on the same information."""
    boundary = Boundary()
    first = boundary.look(100.0, 0.01)
    assert boundary.look(100.0, 0.02) == first
    assert Boundary.of(json.loads(json.dumps(boundary.dump()))) == boundary


# -- Mann-Whitney -----------------------------------------------------------------------------------


def test_shift_is_the_order_statistic_by_its_definition():
    """Against counting: the lower end is where W, standardised, falls to z; the middle is the median."""
    rng = np.random.default_rng(4)
    z = NormalDist().inv_cdf(0.99)
    for _ in range(200):
        n, m = rng.integers(3, 25, 2)
        x = rng.normal(rng.normal(), 1.0, n).round(3)
        y = rng.normal(0.0, 1.0, m).round(3)
        estimate, low = shift(x.tolist(), y.tolist(), 0.98)
        apart = np.subtract.outer(x, y).ravel()
        assert estimate == pytest.approx(np.median(apart))
        counts = [np.unique(arm, return_counts=True)[1] for arm in (x, y)]
        ties = sum(float((c**3 - c).sum()) for c in counts)
        sigma = math.sqrt(n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1))))
        above = (apart > low).sum() - n * m / 2
        at_or_above = (apart >= low).sum() - n * m / 2
        assert (above - 0.5) / sigma <= z  # just above it the test no longer rejects,
        if low > apart.min():
            assert (at_or_above - 0.5) / sigma > z  # at it, it still does


def test_a_known_example():
    """Hollander and Wolfe's permeability of human chorioamnion (R's example of ``wilcox.test``)."""
    x = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
    y = [1.15, 0.88, 0.90, 0.74, 1.21]
    estimate, _ = shift(x, y, 0.95)
    assert estimate == pytest.approx(0.305)


# -- Bayes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "margin"),
    [
        ((2.0, 99.0), (1.0, 100.0), 0.0),
        ((11.0, 990.0), (101.0, 9900.0), 0.0),
        ((11.0, 990.0), (101.0, 9900.0), 0.01),
        ((500.0, 500.0), (5.0, 5.0), 0.0),
        ((1.0, 1.0), (1.0, 1.0), 0.0),
    ],
)
def test_posterior_probabilities_against_sampling(first, second, margin):
    """P(X > Y + margin) as a million draws have it."""
    rng = np.random.default_rng(6)
    sampled = (rng.beta(*first, 1_000_000) > rng.beta(*second, 1_000_000) + margin).mean()
    assert exceeds(first, second, margin) == pytest.approx(sampled, abs=0.003)


def test_the_state_is_bounded():
    """Two days of minutes and ten thousand units are kept, not more."""
    judge = KayentaMannWhitney(latency=False)
    state = judge.start(Baseline(), JudgeConfig())
    assert isinstance(state, Looks)
    for i in range(3_500):
        for arm in ("canary", "control"):
            at = i * 60.0
            units = [Observation("r", arm, f"{i}-{k}", 1, 0, at) for k in range(4)]
            judge.update(state, units)
    assert max(len(points) for pair in state.points.values() for points in pair) == 2_880
    assert [len(units) for units in state.seen] == [10_000, 10_000]
