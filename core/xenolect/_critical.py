"""Critical failures: what takes a variant back at once, without statistics.

What this process sees itself counts alone: a state that is not what was written, one that breaks the
variant's own schema, a limit that the host measured to be passed. What agents say counts from the
second registered agent on that is served the variant: one that lies, or is broken, can not roll back
the fleet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from xenolect._points import SERVED, Points
from xenolect._runtime import Runtime
from xenolect.config import CustomMetric
from xenolect.errors import (
    CorruptError,
    EmergenceError,
    InvalidError,
    NotFoundError,
    TransitionError,
)
from xenolect.facts import Change, Put
from xenolect.model import Mode, PerformanceMetrics, ProtocolVariant, VariantStatus

__all__ = ["KINDS", "Critical"]

log = logging.getLogger("xenolect.safeguards")
KINDS = ("crash_on_load", "schema_violation", "corrupt_state")
WITNESSES = 2  # distinct registered agents
REMEMBERED = 86400.0  # seconds in which they must speak: two in a year prove nothing
NAMED = 5  # agents that are kept; more would prove no more
Witnesses = dict[str, list[float]]  # agent -> [version of the variant it spoke of, when]


class Critical:
    """The critical failures of one manager."""

    def __init__(
        self,
        runtime: Runtime,
        points: Points,
        serves: Callable[[ProtocolVariant, str, str | None], bool],
    ) -> None:
        self._runtime = runtime
        self._points = points
        self._serves = serves
        self._limits: Mapping[str, CustomMetric] = {
            name: metric
            for name, metric in runtime.config.metrics.custom.items()
            if metric.limit is not None
        }
        self.limited = bool(self._limits)  # else there is nothing to look at in a measurement
        self._told: dict[tuple[str, str], Witnesses] = {}  # by variant and rule; not stored yet
        self._known: set[tuple[Any, ...]] = set()  # failures that were acted on
        runtime.appliers["critical"] = self._apply

    # -- what agents say --------------------------------------------------------------------------

    def check(self, kind: str) -> None:
        """InvalidError for what is no kind of critical failure."""
        if kind not in KINDS:
            raise InvalidError(f"critical must be one of {', '.join(KINDS)}, got {kind!r}")

    def report(
        self, variant: ProtocolVariant, rule: str, agent_id: str, session: str | None
    ) -> None:
        """An agent says so; with the second one the variant is shut before this returns."""
        runtime = self._runtime
        current = runtime.variants.get(variant.id, variant)
        if current.status not in SERVED:
            return
        if agent_id not in runtime.agents:
            if (current.id, rule) not in self._known:
                self._known.add((current.id, rule))  # and say so once
                log.warning(
                    "agent %s reports %s of %s and is not registered: that counts as a failure only",
                    agent_id,
                    rule,
                    current.id,
                    extra={"variant_id": current.id, "agent_id": agent_id},
                )
            return
        if not self._serves(current, agent_id, session):
            return
        known = self._witnesses(current, rule)
        if agent_id not in known and len(known) < NAMED:
            said = [float(current.version), runtime.clock()]
            self._told.setdefault((current.id, rule), {})[agent_id] = said
            runtime.tell("critical.reported", current.id, rule=rule, agent_id=agent_id)
            runtime.later(lambda: self._store(current.id, rule))
        self._weigh(current, rule)

    def _weigh(self, variant: ProtocolVariant, rule: str) -> None:
        """Act once enough agents said so of the variant as it is."""
        agents = sorted(self._witnesses(variant, rule))
        if len(agents) >= WITNESSES:
            self._act(variant, rule, {"agents": agents}, f"{rule}, say {', '.join(agents)}")

    def _witnesses(self, variant: ProtocolVariant, rule: str) -> Witnesses:
        """Who said so of this version of the variant lately, here or in another process."""
        stored = (self._runtime.value("critical", variant.id) or {}).get(rule, {})
        everybody = {**stored, **self._told.get((variant.id, rule), {})}
        oldest = self._runtime.clock() - REMEMBERED
        return {
            agent: said
            for agent, said in everybody.items()
            if said[0] == variant.version and said[1] > oldest
        }

    def _store(self, variant_id: str, rule: str) -> None:
        """Keep what was told for other processes, and for the time after a restart."""
        runtime = self._runtime

        def build() -> list[Change]:
            variant = runtime.variants.get(variant_id)
            stored = runtime.value("critical", variant_id) or {}
            if variant is None or variant.status not in SERVED:
                return []
            kept = self._witnesses(variant, rule)
            if kept == stored.get(rule):
                return []
            return [Put("critical", variant_id, {**stored, rule: kept})]

        told = self._told.get((variant_id, rule), {})
        agents = list(told)
        runtime.commit_retrying(build, actor="critical")
        for agent in agents:
            told.pop(agent, None)

    def _apply(self, key: str, value: Any, version: int, at_open: bool) -> None:
        """Agents of another process, or of one that died, are witnesses too."""
        for rule, said in (value or {}).items():
            if len(said) >= WITNESSES:
                self._runtime.later(lambda rule=rule: self._again(key, rule))  # type: ignore[misc]

    def _again(self, variant_id: str, rule: str) -> None:
        variant = self._runtime.variants.get(variant_id)
        if variant is not None and variant.status in SERVED:
            self._weigh(variant, rule)

    # -- what this process sees itself ------------------------------------------------------------

    def measured(
        self,
        variant: ProtocolVariant,
        metrics: PerformanceMetrics,
        agent_id: str | None,
        session: str | None,
    ) -> None:
        """A value of a declared metric beyond its ``limit``; an agent's word needs a second one."""
        for name, declared in self._limits.items():
            value = metrics.custom.get(name)
            if value is None and name in ("resource_usage", "throughput"):
                value = getattr(metrics, name)
            limit = declared.limit
            if value is None or limit is None:
                continue
            if value <= limit if declared.direction == "lower" else value >= limit:
                continue
            rule = f"limit.{name}"
            if agent_id is not None:
                self.report(variant, rule, agent_id, session)
                continue
            evidence = {"metric": name, "value": value, "limit": limit}
            self._act(variant, rule, evidence, f"{name} is {value:g}, its limit is {limit:g}")

    def damaged(self, variant_id: str, error: CorruptError) -> None:
        """The state that a variant has now is not what was written."""
        variant = self._runtime.variants.get(variant_id)
        fact = self._runtime.fact("state", variant_id)
        if variant is not None and fact is not None:
            evidence = {"found": str(error), "key": error.key, "state": fact.version}
            self._act(variant, "corrupt_state", evidence, f"its state is damaged: {error}")

    def violated(self, variant: ProtocolVariant, words: str) -> None:
        """A variant stored a state that its own schema forbids."""
        self._act(variant, "schema_violation", {"found": words}, f"its state is invalid: {words}")

    # -- acting -----------------------------------------------------------------------------------

    def _act(
        self, variant: ProtocolVariant, rule: str, found: Mapping[str, Any], words: str
    ) -> None:
        """Shut the variant now, roll it back right after; once for each failure."""
        runtime = self._runtime
        current = runtime.variants.get(variant.id, variant)
        observed = runtime.mode is Mode.OBSERVE
        failure = (current.id, current.version, rule, found.get("state"), observed)
        if current.status not in SERVED or failure in self._known:
            return
        self._known.add(failure)
        evidence = {"rule": rule, **found}
        runtime.tell("variant.critical", current.id, evidence=evidence, observed=observed)
        if observed:
            log.error(
                "variant %s would be rolled back, the mode is observe: %s",
                current.id,
                words,
                extra={"variant_id": current.id},
            )
            return
        stays = self._points.stays(current)
        if stays and rule != "corrupt_state":
            # nobody could take its place, and restoring what it is already would change nothing
            log.error(
                "the baseline %s fails critically: %s",
                current.id,
                words,
                extra={"variant_id": current.id},
            )
            return
        if not stays:
            self._points.shut(current.id)
        reason = " ".join(f"critical: {words}".split())[:500]
        rollout = None  # content that was edited meanwhile is not what failed
        if current.status in (VariantStatus.CANARY, VariantStatus.PAUSED):
            rollout = (runtime.value("rollout", current.id) or {}).get("rollout")
        runtime.later(lambda: self._roll_back(current.id, reason, evidence, rollout))

    def _roll_back(
        self, variant_id: str, reason: str, evidence: Mapping[str, Any], rollout: str | None
    ) -> None:
        deep = evidence["rule"] == "corrupt_state"  # where one is damaged, others may be
        try:
            self._points.roll_back(
                variant_id,
                reason,
                evidence=evidence,
                actor="critical",
                deep=deep,
                rollout_id=rollout,
            )
        except (TransitionError, NotFoundError):
            return  # somebody else ended it
        except EmergenceError as error:
            if error.retryable:
                raise
            log.error("rolling back %s: %s", variant_id, error, extra={"variant_id": variant_id})
