"""The judge ``bayes``: the posterior probability that the canary is worse.

**Not calibrated under peeking.** "95 % probability to be worse" is a statement about one look; whoever
looks every five minutes and stops at the first such look takes back a third of all harmless variants
(``docs/judges.md``). It is here to be compared with, and for rollouts that are looked at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any

import attrs

from xenolect.facts import Observation
from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.judges import Baseline, Evidence, JudgeConfig
from xenolect.model import Verdict
from xenolect.units import Seconds
from xenolect_plugins import _looks as looks
from xenolect_plugins._looks import Looks, Said
from xenolect_plugins._measures import Moments, measures

__all__ = ["Bayes", "exceeds"]

_NORMAL = NormalDist()
_STEPS = 2_000
_between = attrs.validators.and_(attrs.validators.gt(0.5), attrs.validators.lt(1.0))


@attrs.frozen
class Bayes:
    """Judge by posterior probabilities.

    Failures: beta posteriors from ``prior_failures`` and ``prior_successes`` on each arm. Latency and
    declared metrics: normal posteriors of the mean (of logarithms). ``worse``: the probability of being
    worse at all at which it rolls back. ``well``: the probability of not being worse by what matters
    (as the default judge's promotion has it) at which it promotes.
    """

    interval: Seconds = Seconds(300.0)
    worse: float = attrs.field(default=0.95, validator=_between)
    well: float = attrs.field(default=0.95, validator=_between)
    prior_failures: float = attrs.field(default=1.0, validator=attrs.validators.gt(0.0))
    prior_successes: float = attrs.field(default=1.0, validator=attrs.validators.gt(0.0))
    latency: bool = True
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
        return Looks("bayes", float(self.interval), config, watched)

    def update(self, state: Looks, records: Sequence[Observation]) -> tuple[Verdict, Evidence]:
        """Fold the records in order."""
        return looks.fold(state, records, self._look)

    def _look(self, state: Looks) -> Said:
        worst, reason, parts = 0.0, "", {}
        well = 1.0
        for measure in state.measures:
            canary, control = state.whole[measure.name]
            if not (canary.count and control.count):
                continue
            if measure.name == "failures":
                worse = self._more_failures(canary, control, 0.0)
            else:
                tolerated = measure.tolerated if measure.guardrail is not None else 0.0
                worse = _higher(canary, control, tolerated)
            parts[measure.name] = worse
            if worse > worst:
                worst, reason = worse, measure.name
            if measure.inferior is None:
                continue
            if measure.name == "failures":
                well = min(well, 1.0 - self._more_failures(canary, control, measure.inferior))
            else:
                well = min(well, 1.0 - _higher(canary, control, measure.inferior))
        if worst >= self.worse:
            verdict = Verdict.ROLLBACK
        elif well >= self.well:
            verdict, reason = Verdict.PROMOTE, "probably not worse"
        else:
            verdict, reason = Verdict.CONTINUE, ""
        return Said(verdict, reason, worst, self.worse, well, self.well, parts)

    def _more_failures(self, canary: Moments, control: Moments, margin: float) -> float:
        """P(canary's failure probability > control's + margin)."""
        a, b = self.prior_failures, self.prior_successes
        return exceeds(
            (a + canary.total, b + canary.count - canary.total),
            (a + control.total, b + control.count - control.total),
            margin,
        )

    def dump(self, state: Looks) -> bytes:
        """The state as JSON."""
        return looks.dump(state)

    def load(self, data: bytes) -> Looks:
        """Read what ``dump`` wrote; CorruptError when it is something else."""
        return looks.load("bayes", data)


def _higher(canary: Moments, control: Moments, margin: float) -> float:
    """P(mean of canary > mean of control + margin); one half while a variance is unknown."""
    if min(canary.count, control.count) < 2.0:
        return 0.5
    variance = canary.variance / canary.count + control.variance / control.count
    gap = canary.mean - control.mean - margin
    if variance <= 0.0:
        return 0.5 if abs(gap) < 1e-9 else float(gap > 0.0)
    return _NORMAL.cdf(gap / math.sqrt(variance))


def exceeds(first: tuple[float, float], second: tuple[float, float], margin: float) -> float:
    """P(X > Y + margin) of two independent beta variables, by the midpoint rule (error under 1e-5).

    The integral of X's density times the distribution of Y, over ten standard deviations of each.
    """
    import numpy as np

    low, high = _reach(first, second, margin)
    step = (high - low) / _STEPS
    if step <= 0.0:
        return 0.5
    at = low + (np.arange(_STEPS) + 0.5) * step
    own, other = _density(first, at), _density(second, at - margin)
    below = np.cumsum(other) - 0.5 * other
    whole = float(own.sum()) * float(other.sum())
    return min(1.0, max(0.0, float((own * below).sum()) / whole)) if whole else 0.5


def _reach(
    first: tuple[float, float], second: tuple[float, float], margin: float
) -> tuple[float, float]:
    ends = []
    for (a, b), shift in ((first, 0.0), (second, margin)):
        mean = a / (a + b)
        spread = 10.0 * math.sqrt(mean * (1.0 - mean) / (a + b + 1.0))
        ends.append((max(0.0, mean - spread) + shift, min(1.0, mean + spread) + shift))
    return min(low for low, _ in ends), max(high for _, high in ends)


def _density(shape: tuple[float, float], x: Any) -> Any:
    """A beta density at an array, up to a constant."""
    import numpy as np

    a, b = shape
    inside = (x > 0.0) & (x < 1.0)
    x = np.where(inside, x, 0.5)
    logs = (a - 1.0) * np.log(x) + (b - 1.0) * np.log1p(-x)
    logs = np.where(inside, logs, -np.inf)
    return np.exp(logs - logs.max())


@hookimpl
def xenolect_judges() -> Iterable[Offer[Bayes]]:
    """Offer the judge."""
    yield offer("bayes", Bayes)
