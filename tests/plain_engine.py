"""Selection written down as plainly as possible: what the engine must agree with.

Every score is computed anew from all measurements, by the formulas of docs/design.md ("The score"), and
the best is found by looking at every variant. Nothing here is shared with the engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Measurement", "Plain", "Variety"]

SHARES = {"success": 0.5, "latency": 0.25, "resource": 0.125, "throughput": 0.125}
CUSTOM = {
    "tokens": (4096.0, 0.0),
    "quality": (0.0, 1.0),
}  # declared metrics: the worst and the best


class Variety(NamedTuple):
    """A variant: what it needs and what it can not stand."""

    id: str
    needs: Mapping[str, Any]
    conflicts: Mapping[str, Any]


class Measurement(NamedTuple):
    """One record, with the class of the agent ("" for nobody)."""

    variant: str
    group: str
    count: int
    failures: int
    latency: float | None = None
    usage: float | None = None
    throughput: float | None = None
    custom: Mapping[str, float] = {}


class Plain:
    """The rules over lists: no cache, no vector, no sketch."""

    def __init__(self, varieties: Sequence[Variety], reference: float | None = None) -> None:
        self.varieties = {v.id: v for v in varieties}
        self.records: list[Measurement] = []
        self.incidents: dict[str, tuple[float, float]] = {}
        self.shut: set[str] = set()
        self.reference = reference
        self.kept: dict[
            Any, Any
        ] = {}  # what was asked since the last change; cleared by the caller

    # -- the gate ---------------------------------------------------------------------------------

    @staticmethod
    def speaks(variety: Variety, capabilities: Mapping[str, Any]) -> bool:
        """Requirements of the forms {"x": ">=N"} and {"x": True}; conflicts of the form {"x": True}."""
        for name, wanted in variety.needs.items():
            value = capabilities.get(name)
            if wanted is True:
                if not value:
                    return False
            elif value is None or int(str(value).lstrip("v")) < int(wanted[2:]):
                return False
        return not any(capabilities.get(name) for name in variety.conflicts)

    def eligible(self, capabilities: Mapping[str, Any]) -> list[str]:
        """Who may be served."""
        return [
            v.id
            for v in self.varieties.values()
            if v.id not in self.shut and self.speaks(v, capabilities)
        ]

    # -- the score --------------------------------------------------------------------------------

    def exposures(self, variant: str) -> int:
        """Operations of a variant."""
        return sum(r.count for r in self.records if r.variant == variant)

    def score(self, variant: str, group: str, preferences: Mapping[str, float]) -> float:
        """0.3 performance + 0.4 compatibility + 0.3 stability."""
        passed, failed = self.incidents.get(variant, (0.0, 0.0))
        a, b = 1.0 + passed, 1.0 + 3.0 * failed
        stability = max(0.0, a / (a + b) - math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1))))
        return 0.3 * self.performance(variant, group, preferences) + 0.4 + 0.3 * stability

    def performance(self, variant: str, group: str, preferences: Mapping[str, float]) -> float:
        """Utilities at their lower bound, which comes in with the first operations."""
        records = [r for r in self.records if r.variant == variant]
        own = [r for r in records if group and r.group == group]
        n = sum(r.count for r in records)
        doubt = n / (n + 20.0)
        a, b = 4.5 + n - sum(r.failures for r in records), 0.5 + sum(r.failures for r in records)
        if own:
            m, kappa = a / (a + b), min(20.0, n + 5.0)
            bad = sum(r.failures for r in own)
            a, b = kappa * m + sum(r.count for r in own) - bad, kappa * (1 - m) + bad
        sd = math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))
        utility = {"success": max(0.0, a / (a + b) - doubt * sd)}

        zero = math.log(self.reference or 100.0)
        logs = [math.log(r.latency) for r in records if r.latency is not None]
        mass = 5.0 + len(logs)
        middle = (5.0 * zero + math.fsum(logs)) / mass
        if own:
            mine = [math.log(r.latency) for r in own if r.latency is not None]
            kappa = min(20.0, mass)
            middle = (kappa * middle + math.fsum(mine)) / (kappa + len(mine))
            mass = kappa + len(mine)
        utility["latency"] = 1 / (1 + math.exp(middle + doubt * 0.6 / math.sqrt(mass) - zero))

        utility |= {"resource": 0.5, "throughput": 0.5}
        used = [(r.usage, r.count) for r in records if r.usage is not None]
        if used:
            mass = 5.0 + sum(count for _, count in used)
            mean = (5.0 * 0.5 + math.fsum(u * c for u, c in used)) / mass
            utility["resource"] = max(0.0, 1.0 - mean - doubt * 0.5 / math.sqrt(mass))
        rates = [(r.throughput, r.count) for r in records if r.throughput is not None]
        if rates:
            mass = 5.0 + sum(count for _, count in rates)
            mean = (5.0 * 100.0 + math.fsum(t * c for t, c in rates)) / mass
            utility["throughput"] = max(0.0, mean / (mean + 100.0) - doubt * 0.15 / math.sqrt(mass))
        for name, (worst, best) in CUSTOM.items():
            seen = [(r.custom[name], r.count) for r in records if name in r.custom]
            utility[name] = 0.5
            if seen:
                mass = 5.0 + sum(count for _, count in seen)
                mean = (5.0 * (worst + best) / 2 + math.fsum(x * c for x, c in seen)) / mass
                share = min(1.0, (mean - worst) / (best - worst))
                utility[name] = max(0.0, share - doubt * 0.5 / math.sqrt(mass))
        return math.fsum(w * utility[name] for name, w in self.weights(preferences).items())

    @staticmethod
    def weights(preferences: Mapping[str, float]) -> dict[str, float]:
        """Preferences normalised; success keeps at least half."""
        known = {name: preferences.get(name, 0.0) for name in (*SHARES, *CUSTOM)}
        total = sum(known.values())
        if not total:
            return dict(SHARES)
        success = max(0.5, known.pop("success") / total)
        rest = sum(known.values())
        if not rest:
            return {"success": 1.0}
        return {"success": success} | {n: (1 - success) * w / rest for n, w in known.items()}

    # -- the choice -------------------------------------------------------------------------------

    def ranked(
        self, capabilities: Mapping[str, Any], group: str, preferences: Mapping[str, float]
    ) -> list[tuple[str, float]]:
        """Everybody who may be served, best first: score, fewer exposures, smaller id."""
        scored = []
        for variant in self.eligible(capabilities):
            key = (variant, group, *sorted(preferences.items()))
            if key not in self.kept:
                self.kept[key] = self.score(variant, group, preferences)
            scored.append((variant, self.kept[key]))
        return sorted(scored, key=lambda each: (-each[1], self.exposures(each[0]), each[0]))

    def common(self, ends: Iterable[Mapping[str, Any]]) -> set[str]:
        """Who may be served to all of these."""
        return set.intersection(*(set(self.eligible(each)) for each in ends))
