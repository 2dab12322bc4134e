"""The default judge's windows: failure shares, latency ranks and declared metrics, unit by unit."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.worlds import World, rollouts, share_of

from xenolect import EmergenceManager, PerformanceMetrics
from xenolect.errors import InvalidMetricsError
from xenolect.facts import Observation
from xenolect.judges import SILENT, Baseline, Guardrail, JudgeConfig
from xenolect.model import Verdict
from xenolect.sketch import RATIO, Sketch
from xenolect_plugins._groups import excesses, paired
from xenolect_plugins._ranks import Ranks
from xenolect_plugins.evalue import EValue

LAMBDAS = [Fraction(0.01 * 95 ** (j / 15)) for j in range(16)]


def bins(values: list[float]) -> tuple[tuple[int, int], ...]:
    """The sketch of some latencies, as a baseline holds it."""
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return tuple((index, count) for index, count in sketch.to_json())


DRAW = random.Random(1)
USUAL = bins([DRAW.lognormvariate(4.0, 0.5) for _ in range(2_000)])
QUICK = bins([DRAW.lognormvariate(2.0, 0.2) for _ in range(500)])


def seen(
    arm: str,
    unit: str,
    at: float,
    latency: float | None = None,
    failed: int = 0,
    **custom: float,
) -> Observation:
    """One operation."""
    return Observation("r", arm, unit, 1, failed, at, latency, custom)


# -- ranks ------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=60), st.floats(1e-4, 1e6))
def test_ranks_are_the_sketchs(values: list[float], asked: float) -> None:
    """By bisection the rank is what the sketch says, but for values on the very edge of a bin."""
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    place = math.log(asked) / math.log(RATIO)
    if abs(place - round(place)) > 1e-6:
        assert Ranks(bins(values), 0.95).of(asked) == pytest.approx(sketch.rank(asked))


def test_ranks_of_no_and_of_zero_latencies() -> None:
    """Without earlier latencies every rank is the middle; zeros lie below everything."""
    assert Ranks((), 0.95).of(5.0) == 0.5
    ranks = Ranks(bins([0.0, 0.0, 10.0, 10.0]), 0.95)
    assert (ranks.of(0.0), ranks.of(10.0), ranks.of(99.0)) == (0.25, 0.75, 1.0)
    assert ranks.tail == pytest.approx(10.0, rel=0.02)


# -- groups -----------------------------------------------------------------------------------------


@given(st.integers(0, 12), st.integers(0, 12))
def test_groups_are_disjoint_and_whole(canaries: int, controls: int) -> None:
    """Every unit is in exactly one group, and there are as many groups as units in the smaller arm."""
    arms = tuple(
        {f"{arm}{i:02d}": [1.0, float(i)] for i in range(size)}
        for arm, size in (("c", canaries), ("b", controls))
    )
    groups = list(paired(arms, 0))  # type: ignore[arg-type]
    assert len(groups) == min(canaries, controls)
    if groups:
        assert sorted(v for canary, _ in groups for v in canary) == [
            float(i) for i in range(canaries)
        ]
        assert sorted(v for _, control in groups for v in control) == [
            float(i) for i in range(controls)
        ]
        assert max(len(c) for c, _ in groups) - min(len(c) for c, _ in groups) <= 1


def test_excess_of_unbounded_values() -> None:
    """All pairs of a group: +1 where the canary is worse by the ratio, -1 where it is better."""
    groups = [([10.0, 20.0], [10.0])]
    assert list(excesses(iter(groups), 1.5, higher_is_better=False)) == [0.0]
    assert list(excesses(iter(groups), 2.5, higher_is_better=False)) == [-1.0]
    assert list(excesses(iter([([4.0], [10.0, 30.0])]), 2.0, higher_is_better=True)) == [1.0]
    assert list(excesses(iter([([-4.0], [-10.0])]), 1.1, higher_is_better=False)) == [1.0]


# -- formulas, against a second implementation in exact fractions -----------------------------------


def exact(
    baseline: Baseline, config: JudgeConfig, records: list[Observation]
) -> dict[str, Fraction]:
    """The windows' e-values straight from their definitions; the last window is left open."""
    p = Fraction(baseline.failures + 1, baseline.operations + 100)
    d = max(Fraction(config.min_effect), min(max(p / 2, Fraction(1, 1000)), Fraction(1, 50)))
    ranks: dict[str, Ranks] = {}
    for unit in {record.unit for record in records}:
        own = baseline.unit_latency.get(unit, ())
        many = sum(count for _, count in own) >= 200
        ranks[unit] = Ranks(own if many else baseline.latency, 0.95)

    def m(unit: str) -> Fraction:
        n, f = baseline.units.get(unit, (0, 0))
        return min(max((f + 50 * p) / (n + 50), Fraction(1, 10_000)), Fraction(1, 2))

    def value(name: str, record: Observation) -> Fraction | None:
        ratio = 1.10 if record.arm == "canary" else 1.0
        if name == "failure_difference":
            return record.failures - m(record.unit)
        if name == "custom.bytes":
            raw = record.custom.get("bytes")
            return None if raw is None else min(max(Fraction(raw) / 1000, Fraction(0)), Fraction(1))
        if record.latency_ms is None:
            return Fraction(1) if record.failures and name == "latency" else None
        own = ranks[record.unit]
        if name == "latency_tail":
            return Fraction(int(record.latency_ms > ratio * own.tail))
        return Fraction(1) if record.failures else Fraction(own.of(record.latency_ms / ratio))

    margins = {"failure_difference": d, "custom.bytes": Fraction(0.1)}
    reaches = {"failure_difference": Fraction(3, 2) + d, "custom.bytes": 1 + Fraction(0.1)}
    found = {}
    for name in ("failure_difference", "latency", "latency_tail", "custom.bytes"):
        span = 300 if name == "failure_difference" else 60
        margin, reach = margins.get(name, Fraction(0)), reaches.get(name, Fraction(1))
        capital = [Fraction(1)] * 16
        windows: dict[int, dict[str, dict[str, list[Fraction]]]] = {}
        for record in records:
            each = value(name, record)
            window = windows.setdefault(int(record.at // span), {"canary": {}, "control": {}})
            if each is not None:
                window[record.arm].setdefault(record.unit, []).append(each)
        last = max(windows)
        for number, arms in sorted(windows.items()):
            if number == last:
                continue
            means = {
                arm: [sum(v) / len(v) for _, v in sorted(units.items())]
                for arm, units in arms.items()
            }
            groups = min(len(each) for each in means.values())
            for k in range(groups):
                c, b = means["canary"][k::groups], means["control"][k::groups]
                gain = (sum(c) / len(c) - sum(b) / len(b) - margin) / reach
                capital = [k_ * (1 + bet * gain) for k_, bet in zip(capital, LAMBDAS, strict=True)]
        found[name] = sum(capital, Fraction(0)) / 16
    return found


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["canary", "control"]),
            st.integers(0, 4),
            st.sampled_from([0, 0, 0, 1]),
            st.sampled_from([None, 1.0, 40.0, 55.0, 60.0, 400.0]),
            st.sampled_from([None, 0.0, 300.0, 5000.0]),
            st.sampled_from([0.0, 7.0, 45.0, 200.0]),
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(deadline=None, max_examples=150)
def test_formulas(steps: list[tuple[Any, ...]]) -> None:
    """Each window's e-value equals its definition in exact arithmetic."""
    baseline = Baseline(
        900, 20, {"u0": (300, 0), "u1": (300, 19)}, USUAL, {"u1": QUICK, "u2": USUAL[:3]}
    )
    guardrail = Guardrail("bytes", low=0.0, high=1000.0, margin=0.1)
    config = JudgeConfig(alpha=1e-9, share=0.3, guardrails=(guardrail,))
    at = 1000.0
    records = []
    for arm, unit, failed, latency, size, pause in steps:
        at += pause
        custom = {} if size is None else {"bytes": size}
        records.append(seen(arm, f"u{unit}", at, latency, failed, **custom))
    judge = EValue()
    _, evidence = judge.update(judge.start(baseline, config), records)
    expected = exact(baseline, config, records)
    for name, value in expected.items():
        assert evidence.parts[name] == pytest.approx(float(value), rel=1e-9), name


def test_the_parts_add_up() -> None:
    """Half of the weight is the failure ratio's, the others share the rest; the reason is the most."""
    judge = EValue()
    guardrail = Guardrail("bytes", low=0.0, high=1000.0)
    state = judge.start(
        Baseline(9000, 90, {}, USUAL), JudgeConfig(alpha=1e-9, guardrails=(guardrail,))
    )
    for minute in range(40):
        at = 60.0 * minute
        judge.update(
            state,
            [seen("control", f"b{i}", at, 50.0, bytes=10.0) for i in range(9)]
            + [seen("canary", "c", at, 50.0, bytes=900.0)],
        )
    verdict, found = judge.update(state, [])
    windowed = ("failure_difference", "latency", "latency_tail", "custom.bytes")
    total = sum(found.parts[name] for name in windowed)
    assert found.e_value == pytest.approx(0.5 * found.parts["failure_ratio"] + total / 8)
    assert (verdict, found.reason) == (Verdict.HOLD, "custom.bytes")


# -- what is found, and what is not -----------------------------------------------------------------


def custom_run(seed: int, worse: float, guardrail: Guardrail, minutes: int = 90) -> str:
    """A metric of 100 units, a tenth of them canaries, once a minute; the reason it ended, or ''."""
    draw = random.Random(seed)
    judge = EValue()
    state = judge.start(Baseline(9000, 0), JudgeConfig(guardrails=(guardrail,)))
    for minute in range(minutes):
        for i in range(100):
            arm = "canary" if i < 10 else "control"
            value = draw.lognormvariate(3.0, 1.0) * (worse if arm == "canary" else 1.0)
            record = seen(arm, f"u{i:02d}", 60.0 * minute + 0.5 * i, tokens=value)
            verdict, found = judge.update(state, [record])
            if verdict is Verdict.ROLLBACK:
                return found.reason
    return ""


@pytest.mark.parametrize("higher", [False, True])
def test_declared_metrics_are_guarded(higher: bool) -> None:
    """Twice as much (or half as much) of an unbounded metric is found; a tenth less is tolerated."""
    guardrail = Guardrail("tokens", higher_is_better=higher, ratio=1.2)
    worse, tolerated = (0.5, 1 / 1.1) if higher else (2.0, 1.1)
    assert [custom_run(seed, worse, guardrail) for seed in range(5)] == ["custom.tokens"] * 5
    assert [custom_run(seed, tolerated, guardrail) for seed in range(5)] == [""] * 5


def test_slow_canaries_go_and_the_same_stay() -> None:
    """Half as slow again is found in every run, an equal canary in none."""
    world = World(rate=10.0, hours=0.7, latency=0.5, habits=0.3)
    slow = World(rate=10.0, hours=0.7, latency=0.5, habits=0.3, slower=1.5)
    found = rollouts(EValue(), slow, 6, promote=False)
    assert {(each.verdict, each.reason) for each in found} == {(Verdict.ROLLBACK, "latency")}
    assert share_of(rollouts(EValue(), world, 6, promote=False), Verdict.ROLLBACK) == 0.0


def test_promotion_waits_for_latency() -> None:
    """A slower canary that fails no more often is not promoted, unless latency is no gate."""
    world = World(rate=10.0, hours=1.0, latency=0.5, slower=1.1, share=0.3)

    def promoted(judge: EValue) -> float:
        return share_of(rollouts(judge, world, 6, min_effect=0.05), Verdict.PROMOTE)

    assert promoted(EValue(ni_latency_ratio=1.1)) == 0.0
    assert promoted(EValue(ni_latency_ratio=1.1, gates=("failures",))) == 1.0
    assert promoted(EValue(latency=False)) == 1.0


def test_few_latencies_are_not_judged() -> None:
    """With fewer than 200 earlier latencies there is nothing to compare with: they are no guardrail."""
    judge = EValue()
    few = judge.start(Baseline(900, 9, {}, bins([50.0] * 199)), JudgeConfig())
    enough = judge.start(Baseline(900, 9, {}, bins([50.0] * 200)), JudgeConfig())
    assert "latency" not in judge.update(few, [])[1].parts
    assert "latency" in judge.update(enough, [])[1].parts


def silence(arm: str, unit: str, at: float) -> Observation:
    """A unit that should have spoken, of ten canaries and ninety others."""
    return seen(arm, unit, at, failed=1, **{SILENT: 1.0, "_canary": 10.0, "_control": 90.0})


def test_silence_is_a_failure_event_of_either_arm() -> None:
    """Four of ten canaries silent are proof; ten times as many of both arms are none."""
    judge = EValue()
    state = judge.start(Baseline(90_000, 90), JudgeConfig())
    for i in range(10):
        verdict, found = judge.update(state, [silence("canary", f"c{i}", 60.0)])
        if verdict is Verdict.ROLLBACK:
            break
    assert (verdict, found.reason, i) == (Verdict.ROLLBACK, "failure_ratio", 3)
    assert (found.canary_operations, found.detail["silent"]) == (0, [4, 0])

    state = judge.start(Baseline(90_000, 90), JudgeConfig())
    for i in range(50):
        both = [silence("canary", f"c{i}", 60.0 * i)]
        both += [silence("control", f"b{i}{j}", 60.0 * i) for j in range(9)]
        verdict, found = judge.update(state, both)
    assert found.detail["silent"] == [50, 450]
    assert found.detail["highest"] < 100.0


def test_reserved_names_are_refused() -> None:
    """A metric can not pass itself off as the mark of a silent unit."""
    with EmergenceManager.open("memory://", background=False) as manager:
        variant = manager.variants.propose("json", {}, id="json")
        forged = PerformanceMetrics(1.0, custom={SILENT: 1.0})
        with pytest.raises(InvalidMetricsError, match="reserved"):
            manager.record(variant, forged)


def test_windows_survive_being_written() -> None:
    """In the middle of windows, with latencies and metrics: written and read, the same bytes follow."""
    draw = random.Random(3)
    baseline = Baseline(9000, 90, {"u1": (500, 3)}, USUAL, {"u1": QUICK})
    config = JudgeConfig(alpha=1e-9, guardrails=(Guardrail("tokens"),))
    records = [
        seen(
            "canary" if i % 4 == 0 else "control",
            f"u{draw.randrange(30)}",
            7.0 * i,
            draw.lognormvariate(4.0, 0.5) if i % 3 else None,
            int(draw.random() < 0.05),
            tokens=draw.random(),
        )
        for i in range(600)
    ]
    judge = EValue()
    whole, parted = judge.start(baseline, config), judge.start(baseline, config)
    judge.update(whole, records)
    for i in range(0, len(records), 53):
        judge.update(parted, records[i : i + 53])
        parted = EValue().load(judge.dump(parted))
    assert judge.dump(parted) == judge.dump(whole)
