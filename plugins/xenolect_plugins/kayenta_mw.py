"""The judge ``kayenta_mw``: Mann-Whitney on one point a minute, as Kayenta's Netflix judge has it.

For comparison, and for those who come from there. A test for one look: nothing bounds how often a
harmless variant is taken back when it is looked at again and again (measured in ``docs/judges.md``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

import attrs

from xenolect.facts import Observation
from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.judges import Baseline, Evidence, JudgeConfig
from xenolect.model import Verdict
from xenolect.units import Seconds
from xenolect_plugins import _looks as looks
from xenolect_plugins._looks import Looks, Said
from xenolect_plugins._measures import measures

__all__ = ["KayentaMannWhitney", "shift"]


@attrs.frozen
class KayentaMannWhitney:
    """Judge by Mann-Whitney on the means of minutes.

    A measure is too high when the lower end of the ``confidence`` interval of the shift exceeds
    ``tolerance`` times the shift itself (the Hodges-Lehmann estimate): then it rolls back. With
    ``least_points`` minutes of each arm and no measure too high it promotes.
    """

    interval: Seconds = Seconds(300.0)
    confidence: float = attrs.field(
        default=0.98,
        validator=attrs.validators.and_(attrs.validators.gt(0.5), attrs.validators.lt(1.0)),
    )
    tolerance: float = attrs.field(default=0.25, validator=attrs.validators.ge(0.0))
    least_points: int = attrs.field(default=50, validator=attrs.validators.ge(2))
    latency: bool = True

    def start(self, baseline: Baseline, config: JudgeConfig) -> Looks:
        """The state before the first observation."""
        watched = measures(
            baseline,
            config,
            latency=self.latency,
            latency_ratio=1.0,
            inferior_latency_ratio=1.0,
            inferior_factor=1.0,
        )
        return Looks("kayenta_mw", float(self.interval), config, watched, points_kept=True)

    def update(self, state: Looks, records: Sequence[Observation]) -> tuple[Verdict, Evidence]:
        """Fold the records in order."""
        return looks.fold(state, records, self._look)

    def _look(self, state: Looks) -> Said:
        worst, reason, parts = 0.0, "", {}
        points = math.inf
        for measure in state.measures:
            canary, control = state.points[measure.name]
            if not (canary and control):
                if measure.name == "failures":
                    points = 0
                continue
            points = min(points, len(canary), len(control))
            if canary == control:
                continue
            estimate, low = shift(canary, control, self.confidence)
            excess = low - self.tolerance * abs(estimate)
            parts[measure.name] = excess
            if excess > worst:
                worst, reason = excess, measure.name
        if reason:
            verdict = Verdict.ROLLBACK
        elif points >= self.least_points:
            verdict, reason = Verdict.PROMOTE, "no measure is too high"
        else:
            verdict = Verdict.CONTINUE
        return Said(
            verdict, reason, float(worst > 0.0), 1.0, float(points), float(self.least_points), parts
        )

    def dump(self, state: Looks) -> bytes:
        """The state as JSON."""
        return looks.dump(state)

    def load(self, data: bytes) -> Looks:
        """Read what ``dump`` wrote; CorruptError when it is something else."""
        return looks.load("kayenta_mw", data)


def shift(
    canary: Sequence[float], control: Sequence[float], confidence: float
) -> tuple[float, float]:
    """By how much canary is higher (Hodges-Lehmann), and the lower end of its confidence interval.

    Both are order statistics of all pairwise differences (Hollander & Wolfe, "Nonparametric Statistical
    Methods", 4.2-4.3), the interval by the normal approximation with a correction for continuity and
    for ties within an arm, as R's ``wilcox.test`` and so Kayenta have it.
    """
    import numpy as np

    x, y = np.asarray(canary), np.asarray(control)
    n, m = len(x), len(y)
    apart = np.subtract.outer(x, y).ravel()
    pairs = n * m
    total = n + m
    ties = sum(
        float((counts.astype(float) ** 3 - counts).sum())
        for counts in (np.unique(x, return_counts=True)[1], np.unique(y, return_counts=True)[1])
    )
    variance = pairs / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)))
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    most = math.floor(pairs / 2.0 + z * math.sqrt(max(variance, 0.0)) + 0.5)
    place = max(0, pairs - 1 - most)  # at most that many pairs lie above the lower end
    middle = (pairs - 1) // 2, pairs // 2
    ordered = np.partition(apart, (place, *middle))
    return float((ordered[middle[0]] + ordered[middle[1]]) / 2.0), float(ordered[place])


@hookimpl
def xenolect_judges() -> Iterable[Offer[KayentaMannWhitney]]:
    """Offer the judge."""
    yield offer("kayenta_mw", KayentaMannWhitney)
