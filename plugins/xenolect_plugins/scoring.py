"""The bundled scorers: performance, compatibility, stability (docs/safeguards.md, "Score").

Utilities are measured against fixed references, never against the other candidates, so that adding a
variant never changes the order of the others. No history is a prior mean, neither 0 nor 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import attrs

from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.interfaces import Scorer
from xenolect.model import Agent, Candidate
from xenolect.predicates import lookup, refuses

__all__ = ["Compatibility", "PerformanceScore", "StabilityScore"]

DEFAULTS = {"success": 0.5, "latency": 0.25, "resource": 0.125, "throughput": 0.125}


def lower_bound(successes: float, failures: float, prior: float, mass: float) -> float:
    """Mean minus one standard deviation of Beta(mass * prior + s, mass * (1 - prior) + f)."""
    a = mass * prior + successes
    b = mass * (1.0 - prior) + failures
    mean = a / (a + b)
    deviation = math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1.0)))
    return max(0.0, mean - deviation)


@attrs.frozen
class PerformanceScore:
    """Success, latency, resources and throughput, weighted by the agent's preferences.

    Success keeps at least half of the weight whatever an agent prefers: else a variant that fails fast
    wins. latency_reference_ms counts as neutral where no baseline was measured; throughput_reference
    (operations per second) likewise. prior and mass: the success assumed before ``mass`` operations.
    """

    prior: float = 0.9
    mass: float = 5.0
    latency_reference_ms: float = 100.0
    throughput_reference: float = 100.0

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        """One number in [0, 1] per candidate."""
        weights = self.weights(agent.context.preferences)
        return [
            math.fsum(weight * self._utility(name, candidate) for name, weight in weights.items())
            for candidate in candidates
        ]

    def weights(self, preferences: Mapping[str, float]) -> dict[str, float]:
        """Metric -> weight; they sum to 1 and success has at least one half."""
        known = {name: max(0.0, float(preferences.get(name, 0.0))) for name in DEFAULTS}
        total = math.fsum(known.values())
        if not total:
            return dict(DEFAULTS)
        success = max(0.5, known["success"] / total)
        rest = {name: weight for name, weight in known.items() if name != "success"}
        mass = math.fsum(rest.values())
        if not mass:
            return {"success": 1.0}
        return {
            "success": success,
            **{name: (1.0 - success) * weight / mass for name, weight in rest.items()},
        }

    def _utility(self, name: str, candidate: Candidate) -> float:
        history = candidate.history
        if name == "success":
            failures = min(history.failures, history.count)
            return lower_bound(history.count - failures, failures, self.prior, self.mass)
        if name == "latency":
            reference = candidate.reference_ms or self.latency_reference_ms
            latency = history.latency_ms
            return 0.5 if latency is None else reference / (reference + latency)
        if name == "resource":
            return 0.5 if history.resource_usage is None else 1.0 - history.resource_usage
        rate = history.throughput
        return 0.5 if rate is None else rate / (rate + self.throughput_reference)


@attrs.frozen
class Compatibility:
    """1 for every variant that passed the gate; the graded part for ``optional`` is off by default.

    optional_weight: how much of the score the share of missing optional capabilities may take.
    """

    optional_weight: float = 0.0

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        """One number in [0, 1] per candidate."""
        return [1.0 - self.optional_weight * self._missing(c, agent) for c in candidates]

    @staticmethod
    def _missing(candidate: Candidate, agent: Agent) -> float:
        optional = candidate.variant.optional
        if not optional:
            return 0.0
        missing = 0
        for name, predicate in optional.items():
            present, value = lookup(agent.context, name)
            missing += refuses(name, predicate, value, present) is not None
        return missing / len(optional)


@attrs.frozen
class StabilityScore:
    """Health checks passed against incidents, as a lower bound: one standard deviation under
    ``(1 + passes) / (2 + passes + fail_weight * fails)``.

    ``fails`` come weighted by incident (a failed check 1, a breaker opening 3, a rollback 10). No
    history is the prior's lower bound, the same for all, so the first passed check already helps.
    """

    fail_weight: float = 3.0

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        """One number in [0, 1] per candidate."""
        answer = []
        for candidate in candidates:
            passes = candidate.stability.passes
            fails = candidate.stability.fails * self.fail_weight
            answer.append(lower_bound(passes, fails, 0.5, 2.0))
        return answer


@hookimpl
def xenolect_scoring() -> Iterable[Offer[Scorer]]:
    """Offer the three."""
    yield offer("performance", PerformanceScore)
    yield offer("compatibility", Compatibility)
    yield offer("stability", StabilityScore)
