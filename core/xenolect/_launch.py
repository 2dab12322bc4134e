"""Preparing a rollout: settings, checks, the frozen baseline, and how long it will take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import attrs

from xenolect._options import structure
from xenolect._routing import salt_from_seed
from xenolect._runtime import Runtime
from xenolect._selection import Selector
from xenolect.config import CanaryConfig, Part
from xenolect.errors import InvalidError, TransitionError
from xenolect.interfaces import Judge, Safeguard
from xenolect.judges import Guardrail
from xenolect.model import ProtocolVariant, VariantStatus
from xenolect.ramps import levels

__all__ = ["Launch", "Plan", "ramp_options"]

S = VariantStatus
UNITS = ("agent", "session")


@attrs.frozen
class Plan:
    """Everything decided before anything is written."""

    settings: CanaryConfig
    control: ProtocolVariant
    replaces: ProtocolVariant | None
    ppm: tuple[int, ...]
    salt: str
    ramp: Safeguard[Any]
    baseline: Mapping[str, Any]
    expected: float | None


class Launch:
    """Makes plans and documents of rollouts, and the machines that a document names."""

    def __init__(self, runtime: Runtime, selector: Selector) -> None:
        self._runtime = runtime
        self._selector = selector

    def plan(
        self,
        variant: ProtocolVariant,
        control: Any,
        replaces: Any,
        given: Mapping[str, Any],
        seed: object,
    ) -> Plan:
        """Check everything that can be wrong, before anything is written."""
        runtime = self._runtime
        settings = self._settings(given)
        if settings.unit not in UNITS:
            raise InvalidError(f"unit must be 'agent' or 'session', got {settings.unit!r}")
        baseline = runtime.baseline(variant.protocol)
        control_id = runtime.id_of(control) if control is not None else baseline
        if control_id is None:
            raise TransitionError(
                f"protocol {variant.protocol!r} has no baseline to compare with; its first variant "
                f"is activated at once: variants.activate({variant.id!r})"
            )
        against = runtime.variant(control_id)
        replaced = None if replaces is None else runtime.variant(replaces)
        _active(variant, against, replaced)
        ppm = levels(
            settings.initial_fraction,
            settings.ramp_steps,
            settings.ramp,
            settings.levels,
            settings.holdback,
        )
        if settings.unit == "agent" and "unit" not in given:
            self._enough(variant, against, settings.min_eligible)
        frozen = runtime.performance.baseline(against.id, by_agent=settings.unit == "agent")
        ramp = self._ramp(settings.use, ppm, settings)
        self._judge(settings.judge)
        return Plan(
            settings,
            against,
            replaced,
            ppm,
            salt_from_seed(seed) if seed is not None else runtime.token(16),
            ramp,
            frozen,
            self._expected(frozen, ppm, settings),
        )

    def still(self, plan: Plan, variant: ProtocolVariant) -> None:
        """Is what a plan stands on still so, when it is about to be committed? TransitionError."""
        replaced = None if plan.replaces is None else self._runtime.variant(plan.replaces.id)
        _active(variant, self._runtime.variant(plan.control.id), replaced)

    def _settings(self, given: Mapping[str, Any]) -> CanaryConfig:
        """The configured settings with those given on top; unknown ones are the judge's options."""
        base = self._runtime.config.canary
        names = {*(field.name for field in attrs.fields(CanaryConfig)), *CanaryConfig.REMOVED}
        known = {name: value for name, value in given.items() if name in names}
        rest = {name: value for name, value in given.items() if name not in names}
        judge = known.pop("judge", None)
        part = base.judge
        if isinstance(judge, str):
            part = part if judge == part.use else Part(judge)
        elif isinstance(judge, Mapping):
            options = {name: value for name, value in judge.items() if name != "use"}
            part = Part(str(judge.get("use", part.use)), options)
        elif isinstance(judge, Part):
            part = judge
        if rest:
            part = attrs.evolve(part, options={**part.options, **rest})
        for name, value in known.items():
            if isinstance(value, timedelta):
                known[name] = value.total_seconds()
            elif isinstance(value, tuple):
                known[name] = list(value)
        filled = structure(known, CanaryConfig, "canary")
        return attrs.evolve(base, judge=part, **{name: getattr(filled, name) for name in known})

    def _enough(self, variant: ProtocolVariant, control: ProtocolVariant, needed: int) -> None:
        """At least ``needed`` eligible agents, or the unit must be chosen knowingly."""
        runtime = self._runtime
        speaks: dict[int, bool] = {}
        count = 0
        for profile in list(runtime.agent_profiles.values()):
            able = speaks.get(id(profile))
            if able is None:
                able = speaks[id(profile)] = (
                    runtime.refuses(variant, profile.context) is None
                    and runtime.refuses(control, profile.context) is None
                )
            count += able
            if count >= needed:
                return
        raise InvalidError(
            f"only {count} registered agents can speak {variant.id!r} and its control; with fewer "
            f"than {needed} a share of agents decides slowly. Pass unit='session' to randomise their "
            f"conversations, or unit='agent' to go on as it is"
        )

    def left_behind(self, plan: Plan, variant: ProtocolVariant) -> list[str]:
        """Registered agents that speak what is replaced, and nothing that stays active without it."""
        runtime, replaced = self._runtime, plan.replaces
        if replaced is None:
            return []
        stay = [
            variant,
            *(
                each
                for each in runtime.variants.values()
                if each.protocol == variant.protocol
                and each.status is S.ACTIVE
                and each.id != replaced.id
            ),
        ]
        lost: dict[int, bool] = {}
        found = []
        for name, profile in list(runtime.agent_profiles.items()):
            answer = lost.get(id(profile))
            if answer is None:
                context = profile.context
                answer = lost[id(profile)] = runtime.refuses(replaced, context) is None and all(
                    runtime.refuses(each, context) is not None for each in stay
                )
            if answer:
                found.append(name)
        return found

    def _expected(
        self, frozen: Mapping[str, Any], ppm: tuple[int, ...], settings: CanaryConfig
    ) -> float | None:
        """Seconds until a decision at the traffic of the last day; None without traffic.

        The non-inferiority process grows by at most log(1 + .95/1.5 * 2 d) per block when nothing
        fails, and must reach 20 with one of 16 bets (docs/safeguards.md).
        """
        per_second: float = frozen["operations"] / 86400.0
        if not per_second:
            return None
        gain = math.log1p(0.95 / 1.5 * 2 * settings.min_effect)
        blocks = math.log(20 * 16) / gain
        needed = max(blocks, settings.min_operations) / (per_second * ppm[0] / 1_000_000)
        return max(needed, len(ppm) * settings.health_check_interval)

    # -- documents and machines -------------------------------------------------------------------

    @staticmethod
    def fresh(now: float, interval: float) -> dict[str, Any]:
        """The fields with which every attempt begins."""
        return {
            "started_at": now,
            "changed_at": now,
            "next_check_at": now + interval,
            "level_sequence": 0,
            "sequence": 0,
            "verdict": "continue",
            "evidence": {},
            "reason": "",
            "ended_at": None,
            "checks": 0,
        }

    def document(
        self, plan: Plan, variant: ProtocolVariant, point_id: str, attempt: int, processes: int
    ) -> dict[str, Any]:
        """The rollout as it is stored; ``state`` is added when the ramp has started."""
        settings = plan.settings
        name = self._runtime.token(8)
        return {
            "rollout": name,
            "variant_id": variant.id,
            "control_id": plan.control.id,
            "protocol": variant.protocol,
            "replaces": plan.replaces.id if plan.replaces else None,
            "unit": settings.unit,
            "salt": plan.salt,
            "levels": list(plan.ppm),
            "attempt": attempt,
            "alpha": settings.alpha,
            "min_effect": settings.min_effect,
            "min_operations": settings.min_operations,
            "min_units": settings.min_units,
            "check_interval": settings.health_check_interval,
            "judge": {
                "use": settings.judge.use,
                "options": dict(settings.judge.options),
                "version": getattr(self._judge(settings.judge), "version", 1),
            },
            "ramp": {"use": settings.use, "options": ramp_options(plan.ppm, settings)},
            "processes": settings.processes or processes,
            "baseline": name,
            "guardrails": self._guardrails(),
            "point": point_id,
            "expected": plan.expected,
            **self.fresh(self._runtime.clock(), settings.health_check_interval),
        }

    def _guardrails(self) -> list[dict[str, Any]]:
        """The declared metrics that canaries must not make worse, as they are now."""
        found = []
        for name, metric in sorted(self._runtime.config.metrics.custom.items()):
            if metric.guard:
                low, high = metric.bounds if metric.bounds is not None else (None, None)
                found.append(
                    Guardrail(
                        name, metric.direction == "higher", low, high, metric.margin, metric.ratio
                    )
                )
        return [attrs.asdict(each) for each in found]

    def judge_of(self, document: Mapping[str, Any]) -> Judge[Any]:
        """The judge a document names."""
        return self._judge(Part(document["judge"]["use"], document["judge"]["options"]))

    def ramp_of(self, document: Mapping[str, Any]) -> Safeguard[Any]:
        """The ramp a document names."""
        ramp: Safeguard[Any] = self._runtime.registry.make(
            "safeguards", document["ramp"]["use"], document["ramp"]["options"], "canary"
        )
        return ramp

    def _judge(self, part: Part) -> Judge[Any]:
        judge: Judge[Any] = self._runtime.registry.make(
            "judges", part.use, part.options, "canary.judge"
        )
        return judge

    def _ramp(self, use: str, ppm: tuple[int, ...], settings: CanaryConfig) -> Safeguard[Any]:
        ramp: Safeguard[Any] = self._runtime.registry.make(
            "safeguards", use, ramp_options(ppm, settings), "canary"
        )
        return ramp


def _active(
    variant: ProtocolVariant, control: ProtocolVariant, replaced: ProtocolVariant | None
) -> None:
    for what, other in (("control", control), ("replaces", replaced)):
        if other is not None and (other.status != S.ACTIVE or other.protocol != variant.protocol):
            raise TransitionError(
                f"{what} must be an active variant of {variant.protocol!r}; {other.id!r} is "
                f"{other.status} in {other.protocol!r}"
            )


def ramp_options(ppm: tuple[int, ...], settings: CanaryConfig) -> dict[str, Any]:
    """The options of a ramp with these levels, made from ``[canary]``."""
    return {
        "levels": list(ppm),
        "check_interval": settings.health_check_interval,
        "max_attempts": settings.max_attempts,
        "max_duration": settings.max_duration,
        "on_inconclusive": settings.on_inconclusive,
        "adaptive": settings.adaptive,
    }
