"""The judge ``group_sequential``: a planned number of looks that share one error (O'Brien-Fleming).

The most powerful of the classical tests where the number of looks is known, and slow to stop early, as
O'Brien and Fleming want it. Operations count as independent: where agents differ or fail in bursts its
promise does not hold (measured in ``docs/judges.md``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import attrs

from xenolect.facts import Observation
from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.judges import Baseline, Evidence, JudgeConfig
from xenolect.model import Verdict
from xenolect.units import Seconds
from xenolect_plugins import _looks as looks
from xenolect_plugins._looks import Looks, Said
from xenolect_plugins._measures import Measure, Moments, measures
from xenolect_plugins._spending import Boundary, obrien_fleming

__all__ = ["GroupSequential"]


@attrs.frozen
class GroupSequential:
    """Judge by z statistics against boundaries over ``looks`` looks, one every ``interval``.

    The rollout's alpha is shared equally by failures, latency and the declared metrics. It rolls back
    where the canary is worse at all (a declared metric: by more than its margin), and promotes where
    "worse by what matters" is excluded in failures and in latency, at ``promote_alpha`` each, by the same
    kind of boundary. After the last look only overwhelming differences (z = 8) roll back.
    """

    interval: Seconds = Seconds(300.0)
    looks: int = attrs.field(default=96, validator=attrs.validators.ge(1))
    latency: bool = True
    promote_alpha: float = attrs.field(
        default=0.05,
        validator=attrs.validators.and_(attrs.validators.gt(0.0), attrs.validators.lt(0.5)),
    )
    ni_factor: float = attrs.field(default=2.0, validator=attrs.validators.gt(0.0))
    ni_latency_ratio: float = attrs.field(default=1.25, validator=attrs.validators.ge(1.0))

    def start(self, baseline: Baseline, config: JudgeConfig) -> Looks:
        """The state before the first observation."""
        watched = measures(
            baseline,
            config,
            latency=self.latency,
            latency_ratio=1.0,
            inferior_latency_ratio=self.ni_latency_ratio,
            inferior_factor=self.ni_factor,
        )
        state = Looks("group_sequential", float(self.interval), config, watched)
        state.memory = {"harm": {}, "well": {}, "excluded": []}
        return state

    def update(self, state: Looks, records: Sequence[Observation]) -> tuple[Verdict, Evidence]:
        """Fold the records in order."""
        return looks.fold(state, records, self._look)

    def _look(self, state: Looks) -> Said:
        time = min(1.0, state.looks / self.looks)
        harm_allowed = obrien_fleming(state.config.alpha / len(state.measures), time)
        well_allowed = obrien_fleming(self.promote_alpha, time)
        worst, limit, reason, parts = -math.inf, 8.0, "", {}
        shown, needed = math.inf, 8.0
        crossed, excluded = "", state.memory["excluded"]
        for measure in state.measures:
            canary, control = state.whole[measure.name]
            information = _information(canary, control)
            if not information:
                continue
            z = _harm(measure, canary, control)
            bound = self._bound(state, "harm", measure.name, information, harm_allowed)
            parts[measure.name] = z
            if z - bound > worst - limit:
                worst, limit, reason = z, bound, measure.name
            if z >= bound:
                crossed = crossed or measure.name
            if measure.inferior is None or measure.name in excluded:
                continue
            z = _well(measure, canary, control)
            bound = self._bound(state, "well", measure.name, information, well_allowed)
            if z >= bound:
                excluded.append(measure.name)
            elif z - bound < shown - needed:
                shown, needed = z, bound
        if not math.isfinite(worst):
            return Said(Verdict.CONTINUE, "nothing to compare yet")
        if not math.isfinite(shown):  # everything that promotion asks for is excluded
            shown = needed
        if crossed:
            verdict, reason = Verdict.ROLLBACK, crossed
        elif shown >= needed:
            verdict, reason = Verdict.PROMOTE, "non_inferiority"
        else:
            verdict, reason = Verdict.CONTINUE, ""
        return Said(verdict, reason, worst, limit, shown, needed, parts)

    @staticmethod
    def _bound(state: Looks, kind: str, name: str, information: float, allowed: float) -> float:
        kept = state.memory[kind]
        boundary = Boundary.of(kept[name]) if name in kept else Boundary()
        bound = boundary.look(information, allowed)
        kept[name] = boundary.dump()
        return bound

    def dump(self, state: Looks) -> bytes:
        """The state as JSON."""
        return looks.dump(state)

    def load(self, data: bytes) -> Looks:
        """Read what ``dump`` wrote; CorruptError when it is something else."""
        return looks.load("group_sequential", data)


def _information(canary: Moments, control: Moments) -> float:
    """Up to the variance of one value, that of the difference's inverse."""
    if min(canary.count, control.count) < 2.0:
        return 0.0
    return canary.count * control.count / (canary.count + control.count)


def _harm(measure: Measure, canary: Moments, control: Moments) -> float:
    """z of "the canary is worse"; failures with the pooled variance, which the hypothesis makes one."""
    gap = canary.mean - control.mean
    if measure.name == "failures":
        p = (canary.total + control.total) / (canary.count + control.count)
        variance = p * (1.0 - p) / _information(canary, control)
    else:
        variance = canary.variance / canary.count + control.variance / control.count
        gap -= measure.tolerated if measure.guardrail is not None else 0.0
    return _z(gap, variance)


def _well(measure: Measure, canary: Moments, control: Moments) -> float:
    """z of "the canary is not worse by what matters".

    Failures with one failure and one success added to each arm (Agresti & Caffo, The American
    Statistician 54, 2000): without, two arms that never failed would be certain after two operations.
    """
    assert measure.inferior is not None
    if measure.name != "failures":
        variance = canary.variance / canary.count + control.variance / control.count
        return _z(measure.inferior - (canary.mean - control.mean), variance)
    rates, variance = [], 0.0
    for arm in (canary, control):
        n = arm.count + 2.0
        p = (arm.total + 1.0) / n
        rates.append(p)
        variance += p * (1.0 - p) / n
    return _z(measure.inferior - (rates[0] - rates[1]), variance)


def _z(gap: float, variance: float) -> float:
    if variance <= 0.0:
        return 0.0
    return min(max(gap / math.sqrt(variance), -1e6), 1e6)


@hookimpl
def xenolect_judges() -> Iterable[Offer[GroupSequential]]:
    """Offer the judge."""
    yield offer("group_sequential", GroupSequential)
