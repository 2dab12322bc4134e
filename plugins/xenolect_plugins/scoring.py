"""The bundled scorers: performance, compatibility, stability (docs/safeguards.md, "Score").

Utilities are measured against fixed references, never against the other candidates, so that adding a
variant never changes the order of the others. No history is a prior mean, neither 0 nor 1. Each can rate
one variant alone, so the engine has it rate only those whose counters moved.
"""

# ruff: noqa: FURB136  (a conditional is 60 ns cheaper than min, six times per rating of 1.6 us)

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import attrs

from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.interfaces import Scorer
from xenolect.model import Agent, Candidate, ProtocolVariant
from xenolect.predicates import lookup, refuses
from xenolect.tallies import Binding, Custom, Own, Tally

__all__ = ["Compatibility", "PerformanceScore", "StabilityScore"]

DEFAULTS = {"success": 0.5, "latency": 0.25, "resource": 0.125, "throughput": 0.125}
SPREAD = 0.6  # standard deviation of the logarithm of one latency or throughput
FIRST = ("success", "latency")
MEASURED = {"resource": "resource_usage", "throughput": "throughput"}
POOLED = 20.0  # operations that what all classes saw weighs in a class of its own, at most


def beta(a: float, b: float) -> tuple[float, float]:
    """Mean and standard deviation of Beta(a, b)."""
    total = a + b
    return a / total, math.sqrt(a * b / (total * total * (total + 1.0)))


def counted(candidate: Candidate) -> Tally:
    """A candidate's history as a tally; its median stands for all of its latencies."""
    history, tally = candidate.history, Tally()
    tally.count, tally.failures = history.count, min(history.failures, history.count)
    if history.latency_ms is not None:
        tally.latencies = max(1.0, history.count)
        tally.latency_logs = tally.latencies * math.log(max(history.latency_ms, 1e-6))
    measured = {"resource_usage": history.resource_usage, "throughput": history.throughput}
    measured |= {f"custom.{name}": value for name, value in history.custom.items()}
    for name, value in measured.items():
        if value is not None:
            tally.sums[name] = [value * tally.count, tally.count]
    tally.passed, tally.failed = candidate.stability.passes, candidate.stability.fails
    return tally


def each(binding: Binding, candidates: Sequence[Candidate]) -> list[float]:
    """The scores of a batch, one variant after the other."""
    return [binding.rate(c.variant, counted(c), (), c.reference_ms, None) for c in candidates]


@attrs.frozen
class PerformanceScore:
    """Success, latency, resources and throughput, weighted by the agent's preferences.

    Success keeps at least half of the weight whatever an agent prefers: else a variant that fails fast
    wins. ``prior`` is the success assumed before ``mass`` operations. A class of agents starts from what
    all classes saw. Agents are served by a lower bound (one standard deviation), which counts in full
    after some ``trial`` operations: so a variant nobody knows is tried before it is doubted.
    """

    prior: float = 0.9
    mass: float = 5.0
    trial: float = 20.0
    latency_reference_ms: float = 100.0
    throughput_reference: float = 100.0

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        """One number in [0, 1] per candidate."""
        return each(self.bind(agent, {}), candidates)

    def bind(self, agent: Agent, custom: Custom) -> Binding:
        """Ready for one agent: agents with the same weights share."""
        weights = self.weights(agent.context.preferences, custom)
        items = tuple((name, weight) for name, weight in weights.items() if weight)
        success = weights["success"]
        latency = weights.get("latency", 0.0)
        rest = tuple((n, MEASURED.get(n, f"custom.{n}"), w) for n, w in items if n not in FIRST)
        prior, mass, trial = self.prior, self.mass, self.trial
        neutral = self.latency_reference_ms
        sqrt, exp, log = math.sqrt, math.exp, math.log

        def rate(
            variant: ProtocolVariant,
            tally: Tally,
            own: Own,
            reference: float | None,
            doubt: float | None,
        ) -> float:
            count = tally.count
            failures = tally.failures if tally.failures < count else count
            total = mass + count
            a = mass * prior + count - failures
            if doubt is None:
                doubt = count / (count + trial)
            if own:
                pull = total if total < POOLED else POOLED
                seen, failed = own[0], own[1]
                a = pull * a / total + seen - (failed if failed < seen else seen)
                total = pull + seen
            mean = a / total
            under = mean - doubt * sqrt(mean * (1.0 - mean) / (total + 1.0)) if doubt else mean
            value = success * under if under > 0.0 else 0.0
            if latency:
                base = log(reference or neutral)
                observed = tally.latencies + mass
                middle = (mass * base + tally.latency_logs) / observed
                if own:
                    pull = observed if observed < POOLED else POOLED
                    observed = pull + own[2]
                    middle = (pull * middle + own[3]) / observed
                middle += doubt * SPREAD / sqrt(observed) - base
                value += latency / (1.0 + exp(middle if middle < 700.0 else 700.0))
            sums = tally.sums
            for name, measured, weight in rest:
                if measured in sums:
                    value += weight * self._other(name, sums[measured], custom, doubt)
                else:
                    value += weight * 0.5
            return value if value < 1.0 else 1.0

        key = (items, tuple(sorted(custom.items())))
        return Binding(rate, key, by_class=True)

    def weights(
        self, preferences: Mapping[str, float], custom: Custom | None = None
    ) -> dict[str, float]:
        """Metric -> weight; they sum to 1 and success has at least one half."""
        names = [*DEFAULTS, *sorted(custom or ())]
        known = {name: max(0.0, float(preferences.get(name, 0.0))) for name in names}
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

    def _other(self, name: str, slot: Sequence[float], custom: Custom, doubt: float) -> float:
        """The utility of a metric that is a mean over operations, ``doubt`` deviations under it."""
        total, weight = slot
        observed = self.mass + weight
        if name == "throughput":
            zero = self.throughput_reference
            mean = (self.mass * zero + total) / observed
            return max(0.0, mean / (mean + zero) - doubt * SPREAD * 0.25 / math.sqrt(observed))
        worst, best = (1.0, 0.0) if name == "resource" else custom[name]
        mean = (self.mass * (worst + best) / 2.0 + total) / observed
        value = min(1.0, (mean - worst) / (best - worst))
        return max(0.0, value - doubt * 0.5 / math.sqrt(observed))


@attrs.frozen
class Compatibility:
    """1 for every variant that passed the gate; the graded part for ``optional`` is off by default.

    optional_weight: how much of the score the share of missing optional capabilities may take.
    """

    optional_weight: float = 0.0

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        """One number in [0, 1] per candidate."""
        return [1.0 - self.optional_weight * self._missing(c.variant, agent) for c in candidates]

    def bind(self, agent: Agent, custom: Custom) -> Binding:
        """Ready for one agent; without the graded part all agents share."""
        if not self.optional_weight:
            return Binding(lambda variant, tally, own, reference, doubt: 1.0)

        def rate(
            variant: ProtocolVariant,
            tally: Tally,
            own: Own,
            reference: float | None,
            doubt: float | None,
        ) -> float:
            return 1.0 - self.optional_weight * self._missing(variant, agent)

        return Binding(rate, None)

    @staticmethod
    def _missing(variant: ProtocolVariant, agent: Agent) -> float:
        optional = variant.optional
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
    history is the prior's lower bound, the same for all, so the first passed check already helps. It is
    not drawn when exploring: trying a variant does not teach it, so its deviation would be mere noise.
    """

    fail_weight: float = 3.0

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        """One number in [0, 1] per candidate."""
        return each(self.bind(agent, {}), candidates)

    def bind(self, agent: Agent, custom: Custom) -> Binding:
        """Ready for any agent."""
        weight = self.fail_weight
        mean, deviation = beta(1.0, 1.0)
        nothing = mean - deviation

        def rate(
            variant: ProtocolVariant,
            tally: Tally,
            own: Own,
            reference: float | None,
            doubt: float | None,
        ) -> float:
            if not tally.passed and not tally.failed:
                return nothing
            mean, deviation = beta(1.0 + tally.passed, 1.0 + tally.failed * weight)
            return max(0.0, mean - deviation)

        return Binding(rate)


@hookimpl
def xenolect_scoring() -> Iterable[Offer[Scorer]]:
    """Offer the three."""
    yield offer("performance", PerformanceScore)
    yield offer("compatibility", Compatibility)
    yield offer("stability", StabilityScore)
