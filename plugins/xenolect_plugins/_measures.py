"""What judges without e-processes compare: failures, latency and declared metrics as sums per arm.

Every value is turned so that higher is worse: a share of failures, the logarithm of a latency or of an
unbounded metric (a difference of logarithms is a ratio), the place of a bounded metric within its bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs

from xenolect.facts import Observation
from xenolect.judges import Baseline, Guardrail, JudgeConfig

__all__ = ["Measure", "Moments", "harm_margin", "measures", "rounded"]


def rounded(value: float) -> float:
    """Nine digits: they hide the last bits, in which C libraries' ``log`` and ``exp`` differ."""
    return float(f"{value:.9g}")


def harm_margin(baseline: Baseline, config: JudgeConfig) -> float:
    """The difference in failure probability that matters: half the baseline's, within .001 and .02,
    but at least ``min_effect``."""
    pooled = (baseline.failures + 1.0) / (baseline.operations + 100.0)
    return max(config.min_effect, min(max(pooled / 2.0, 0.001), 0.02))


@attrs.frozen
class Measure:
    """One thing that must not get worse.

    ``tolerated``: by how much it may be worse; ``inferior``: what promotion must exclude (None: it is
    not asked for).
    """

    name: str
    tolerated: float
    inferior: float | None = None
    guardrail: Guardrail | None = None

    def of(self, record: Observation) -> float | None:
        """The record's value, higher is worse; None where it has none."""
        if self.name == "failures":
            return min(max(record.failures, 0), record.operations) / record.operations
        guardrail = self.guardrail
        value = record.latency_ms if guardrail is None else record.custom.get(guardrail.name)
        if value is None or not math.isfinite(value):
            return None
        if guardrail is not None and guardrail.low is not None and guardrail.high is not None:
            share = (value - guardrail.low) / (guardrail.high - guardrail.low)
            share = min(max(share, 0.0), 1.0)
            return 1.0 - share if guardrail.higher_is_better else share
        if value <= 0.0:
            return None
        log = math.log(value)
        return -log if guardrail is not None and guardrail.higher_is_better else log


def measures(
    baseline: Baseline,
    config: JudgeConfig,
    *,
    latency: bool,
    latency_ratio: float,
    inferior_latency_ratio: float,
    inferior_factor: float,
) -> tuple[Measure, ...]:
    """Failures, latency if asked for, and each declared metric.

    Promotion asks about failures and latency, as the default judge does.
    """
    d = harm_margin(baseline, config)
    found = [Measure("failures", d, inferior_factor * d)]
    if latency:
        found.append(Measure("latency", math.log(latency_ratio), math.log(inferior_latency_ratio)))
    for each in config.guardrails:
        bounded = each.low is not None and each.high is not None
        tolerated = each.margin if bounded else math.log(each.ratio)
        found.append(Measure(f"custom.{each.name}", tolerated, None, each))
    return tuple(found)


@attrs.define
class Moments:
    """How many values, their sum, and the sum of their squares."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float, weight: int = 1) -> None:
        """Add ``weight`` operations of which ``value`` is the mean.

        Shares of failures are means of zeros and ones, whose squares they are themselves: that is for
        ``add_share``.
        """
        self.count += weight
        self.total += weight * value
        self.squares += weight * value * value

    def add_share(self, share: float, operations: int) -> None:
        """Add operations of which a share failed."""
        self.count += operations
        self.total += operations * share
        self.squares += operations * share

    @property
    def mean(self) -> float:
        """The mean; 0 of nothing."""
        return self.total / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """The variance of single values; 0 of fewer than two."""
        if self.count < 2.0:
            return 0.0
        spread = self.squares - self.total * self.total / self.count
        if spread <= 1e-12 * self.squares:
            return 0.0  # what is left of equal values is rounding
        return spread / (self.count - 1.0)

    def dump(self) -> list[Any]:
        """The state as JSON."""
        return [self.count, self.total, self.squares]

    def load(self, data: Sequence[Any]) -> None:
        """Take over what ``dump`` gave."""
        self.count, self.total, self.squares = data
