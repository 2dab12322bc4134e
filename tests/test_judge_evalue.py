"""The default judge: its formulas, its promises in simulated fleets, its cost in failures."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.worlds import World, median_failures, rollouts, share_of

from xenolect.facts import Observation
from xenolect.judges import Baseline, JudgeConfig
from xenolect.model import Verdict
from xenolect.testing.judges import JudgeTests
from xenolect_plugins.evalue import EValue

ROLLBACK, HOLD, PROMOTE, CONTINUE = (
    Verdict.ROLLBACK,
    Verdict.HOLD,
    Verdict.PROMOTE,
    Verdict.CONTINUE,
)


class TestKit(JudgeTests):
    """The default judge keeps what every judge must keep."""

    def make(self) -> EValue:
        """With its default options."""
        return EValue()


def op(arm: str, unit: str, failed: int, at: float = 0.0, count: int = 1) -> Observation:
    """One observation."""
    return Observation("r", arm, unit, count, failed, at)


def until_rollback(records: list[Observation], **config: Any) -> tuple[int | None, str]:
    """How many canary failures it takes, and the reason."""
    judge = EValue()
    state = judge.start(Baseline(10_000, 100), JudgeConfig(**config))
    for record in records:
        verdict, evidence = judge.update(state, [record])
        if verdict is ROLLBACK:
            return evidence.canary_failures, evidence.reason
    return None, evidence.reason


# -- formulas, against a second implementation in exact fractions ---------------------------------


def exact(
    baseline: Baseline, config: JudgeConfig, records: list[Observation]
) -> tuple[Fraction, Fraction]:
    """The failure ratio's and the non-inferiority's e-value, straight from their definitions."""
    p = Fraction(baseline.failures + 1, baseline.operations + 100)

    def m(unit: str) -> Fraction:
        n, f = baseline.units.get(unit, (0, 0))
        return min(max((f + 50 * p) / (n + 50), Fraction(1, 10_000)), Fraction(1, 2))

    rho = Fraction(3, 2)
    thetas = [rho * Fraction(1.15 * (50 / 1.15) ** (j / 15)) for j in range(16)]
    lambdas = [Fraction(0.01 * 95 ** (j / 15)) for j in range(16)]
    d = max(Fraction(config.min_effect), min(max(p / 2, Fraction(1, 1000)), Fraction(1, 50)))
    ratio, inferior = [Fraction(1)] * 16, [Fraction(1)] * 16
    exposed = {"canary": Fraction(0), "control": Fraction(0)}
    cold: dict[str, float] = {}
    block: dict[str, list[tuple[int, Fraction]]] = {"canary": [], "control": []}
    for record in records:
        arm = record.arm
        if cold.get(record.unit, -math.inf) <= record.at:
            exposed[arm] += record.operations * m(record.unit)
            if record.failures:
                cold[record.unit] = record.at + 600

                a_c, a_b = exposed["canary"], exposed["control"]
                for j, theta in enumerate(thetas):
                    pi = {t: t * a_c / (t * a_c + a_b) for t in (theta, rho)}
                    if arm == "canary":
                        ratio[j] *= pi[theta] / pi[rho]
                    else:
                        ratio[j] *= (1 - pi[theta]) / (1 - pi[rho])
                exposed = {"canary": Fraction(0), "control": Fraction(0)}
        residual = record.failures - record.operations * m(record.unit)
        block[arm].append((record.operations, residual))
        if block["canary"] and block["control"]:
            means = {
                a: sum(r for _, r in rows) / sum(n for n, _ in rows) for a, rows in block.items()
            }
            gain = 2 * d - (means["canary"] - means["control"])
            inferior = [
                k * (1 + bet / Fraction(3, 2) * gain)
                for k, bet in zip(inferior, lambdas, strict=True)
            ]
            block = {"canary": [], "control": []}
    return sum(ratio, Fraction(0)) / 16, sum(inferior, Fraction(0)) / 16


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["canary", "control"]),
            st.integers(0, 5),
            st.integers(1, 4),
            st.sampled_from([0, 0, 0, 1, 2]),
            st.sampled_from([0.0, 1.0, 400.0]),
        ),
        max_size=40,
    )
)
@settings(deadline=None, max_examples=100)
def test_formulas(steps):
    """Both e-values equal their definitions in exact arithmetic, cool-down and aggregates included."""
    baseline = Baseline(900, 20, {"u0": (300, 0), "u1": (300, 19), "u2": (300, 1), "u4": (40, 38)})
    config = JudgeConfig(alpha=1e-9, share=0.3)  # so that nothing ends before the last record
    at = 0.0
    records = []
    for arm, unit, count, failed, pause in steps:
        at += pause
        records.append(op(arm, f"u{unit}", min(failed, count), at, count))
    judge = EValue()
    state = judge.start(baseline, config)
    # control in trouble pauses one of them; here the arithmetic is looked at, not the pause
    state.watch.failing = -math.inf
    _, evidence = judge.update(state, records)
    ratio, inferior = exact(baseline, config, records)
    assert evidence.parts["failure_ratio"] == pytest.approx(max(float(ratio), 1e-8), rel=1e-9)
    assert evidence.parts["non_inferiority"] == pytest.approx(float(inferior), rel=1e-9)


def test_baselines_of_units():
    """A unit's baseline is shrunk to the pooled rate, a stranger's is the pooled rate, both bounded."""
    units = {"never": (100_000, 0), "half": (100, 50), "broken": (100_000, 99_999)}
    state = EValue().start(Baseline(10_000, 100, units), JudgeConfig())
    p = 101 / 10_100
    assert state.expected("stranger") == pytest.approx(p)
    assert state.expected("half") == pytest.approx((50 + 50 * p) / 150)
    assert state.expected("never") == 1e-4
    assert state.expected("broken") == 0.5
    assert EValue().start(Baseline(), JudgeConfig()).expected("stranger") == pytest.approx(0.01)


def test_collapse_formula():
    """Without control each unit is one bet per cool-down, in weighted episodes."""
    judge = EValue()
    state = judge.start(Baseline(900, 8), JudgeConfig(alpha=1e-9))  # p = .009, so q = .2
    weight = [6 / (math.pi**2 * k**2) for k in (1, 2)]
    _, seen = judge.update(state, [op("canary", "a", 1), op("canary", "b", 0)])
    first = 4.5 * 0.125
    assert seen.parts["collapse"] == pytest.approx(weight[0] * first + 1 - weight[0])
    _, again = judge.update(state, [op("canary", "a", 1, 599.0)])
    assert again.parts == seen.parts | {"failure_ratio": again.parts["failure_ratio"]}
    _, seen = judge.update(state, [op("canary", "a", 1, 600.0)])
    first *= 4.5
    assert seen.parts["collapse"] == pytest.approx(weight[0] * first + 1 - weight[0])
    # control comes back, and goes away for good: the second episode starts at its own weight
    judge.update(state, [op("control", "x", 0, 601.0)])
    away = [op("canary", f"n{i}", 1, 2000.0) for i in range(4)]
    _, seen = judge.update(state, away)
    assert seen.detail["episodes_without_control"] == 2
    # two turns of .111 per control operation make 18 overdue, enough after a silent minute
    assert seen.parts["collapse"] == pytest.approx(
        weight[0] * first + weight[1] * 4.5**2 + 1 - sum(weight)
    )


def test_collapse_of_an_aggregate():
    """An aggregate without control is one bet on the share that failed."""
    judge = EValue()
    state = judge.start(Baseline(900, 8), JudgeConfig())
    _, seen = judge.update(state, [op("canary", "a", 30, count=100)])
    weight = 6 / math.pi**2
    factor = 0.3 * 4.5 + 0.7 * 0.125
    assert seen.parts["collapse"] == pytest.approx(weight * factor + 1 - weight)


def test_units_that_always_failed_are_no_collapse():
    """Where five times the unit's own baseline is .9 or more there is nothing to bet on."""
    judge = EValue()
    units = {f"u{i}": (100, 40) for i in range(50)}
    state = judge.start(Baseline(5000, 2000, units), JudgeConfig())
    verdict, seen = judge.update(state, [op("canary", unit, 1) for unit in units])
    assert seen.parts["collapse"] == 1.0
    assert verdict is HOLD


# -- ten failures from ten units ------------------------------------------------------------------


def test_ten_failures_beside_good_control():
    """A dead canary beside nine good control operations each is out at its fourth failure."""
    records = []
    for i in range(10):
        records += [op("control", f"b{i}-{j}", 0, float(i)) for j in range(9)]
        records.append(op("canary", f"c{i}", 1, float(i)))
    assert until_rollback(records) == (4, "failure_ratio")


def test_ten_failures_after_good_control():
    """A hundred control successes, then at the same instant only failing canaries: out at seven."""
    records = [op("control", f"b{i % 10}", 0) for i in range(100)]
    records += [op("canary", f"c{i}", 1) for i in range(10)]
    assert until_rollback(records) == (7, "collapse_without_control")


def test_ten_failures_without_control():
    """Without any control four failing units are out."""
    records = [op("canary", f"c{i}", 1) for i in range(10)]
    assert until_rollback(records) == (4, "collapse_without_control")


def test_ten_failures_of_one_unit():
    """One unit's failures are one incident: no rollback, however many there are."""
    records = [op("canary", "c", 1) for _ in range(1000)]
    assert until_rollback(records)[0] is None
    beside = [[op("control", f"b{i % 50}", 0), op("canary", "c", 1)] for i in range(1000)]
    assert until_rollback(list(itertools.chain(*beside)))[0] is None


def test_both_arms_dead():
    """When every operation of both arms fails, the canary is not to blame."""
    records = []
    for i in range(200):
        records += [op("control", f"b{i}-{j}", 1, float(i)) for j in range(9)]
        records.append(op("canary", f"c{i}", 1, float(i)))
    assert until_rollback(records)[0] is None


# -- verdicts ---------------------------------------------------------------------------------------


def test_holds_without_data_and_without_control():
    """Nothing seen, or only one arm seen, is a hold that names what is missing."""
    judge = EValue()
    state = judge.start(Baseline(), JudgeConfig())
    verdict, seen = judge.update(state, [])
    assert (verdict, seen.reason) == (HOLD, "no data")
    verdict, seen = judge.update(state, [op("control", "b", 0)])
    assert (verdict, seen.reason) == (HOLD, "no data")
    state = judge.start(Baseline(), JudgeConfig())
    verdict, seen = judge.update(state, [op("canary", "c", 0)])
    assert (verdict, seen.reason) == (HOLD, "no control")


def test_promotes_on_evidence_and_stops_when_control_goes():
    """Good operations beside control promote; the same verdict is withdrawn when control is gone."""
    judge = EValue()
    state = judge.start(Baseline(10_000, 0), JudgeConfig(share=0.5, min_effect=0.05))
    verdicts = []
    for i in range(200):
        verdict, seen = judge.update(
            state, [op("control", f"b{i}", 0, float(i)), op("canary", f"c{i}", 0, float(i))]
        )
        verdicts.append(verdict)
    assert verdicts[:3] == [CONTINUE] * 3
    assert verdicts[-1] is PROMOTE
    assert seen.reason == "non_inferiority"
    assert seen.noninferiority >= seen.promote_at
    verdict, seen = judge.update(state, [op("canary", f"d{i}", 0, 201.0) for i in range(30)])
    assert (verdict, seen.reason) == (HOLD, "no control")


def test_holds_on_suspicion():
    """Between 20 and 1 / alpha the rollout waits."""
    judge = EValue()
    state = judge.start(Baseline(10_000, 100), JudgeConfig(alpha=1e-6))
    reasons = []
    for i in range(6):
        records = [op("control", f"b{i}-{j}", 0, float(i)) for j in range(9)]
        verdict, seen = judge.update(state, [*records, op("canary", f"c{i}", 1, float(i))])
        reasons.append((verdict, seen.reason, seen.e_value >= 20.0))
    assert reasons[0] == (CONTINUE, "", False)
    assert reasons[-1] == (HOLD, "failure_ratio", True)
    assert seen.detail["p_value"] == pytest.approx(1.0 / seen.e_value)


def test_an_outage_is_no_evidence_for_promotion():
    """While control fails too, looking no worse beside it proves nothing and nothing is promoted."""
    judge = EValue()
    state = judge.start(Baseline(10_000, 100), JudgeConfig(share=0.5, min_effect=0.05))
    for i in range(600):
        verdict, seen = judge.update(
            state, [op("control", f"b{i}", 1, float(i)), op("canary", f"c{i}", 1, float(i))]
        )
        assert verdict is not PROMOTE
    assert (verdict, seen.reason) == (HOLD, "control in trouble")
    assert seen.noninferiority < 2.0


def test_stops_at_the_first_proof():
    """What follows the record that proves harm is not looked at, in the batch or later."""
    records = [op("canary", f"c{i}", 1) for i in range(10)]
    judge = EValue()
    state = judge.start(Baseline(), JudgeConfig())
    verdict, seen = judge.update(state, records)
    assert (verdict, seen.canary_operations) == (ROLLBACK, 4)
    assert judge.update(state, [op("control", f"b{i}", 1) for i in range(99)]) == (verdict, seen)


def test_later_attempts_need_more():
    """A smaller alpha, as for a second attempt, asks for more failures."""
    records = [op("canary", f"c{i}", 1) for i in range(10)]
    assert until_rollback(records, alpha=0.01) == (4, "collapse_without_control")
    assert until_rollback(records, alpha=0.01 / 4) == (5, "collapse_without_control")


# -- promises in simulated fleets -------------------------------------------------------------------


def test_a_harmless_variant_stays_fast_gate():
    """300 harmless rollouts looked at after every record: at most 1 % rolled back."""
    outcomes = rollouts(EValue(), World(rate=2.0, hours=0.5), 300, promote=False)
    assert share_of(outcomes, ROLLBACK) <= 0.01


@pytest.mark.parametrize(("canary", "median"), [(0.5, 8), (0.1, 14)])
def test_a_harmful_variant_goes_fast_gate(canary, median):
    """99 -> 50 % and 99 -> 90 %: always found, at a median of few failures."""
    outcomes = rollouts(EValue(), World(canary=canary), 60, promote=False)
    assert share_of(outcomes, ROLLBACK) == 1.0
    assert median_failures(outcomes) <= median
