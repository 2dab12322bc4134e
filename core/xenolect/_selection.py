"""Choosing: gate first, score second; no I/O, no lock, no hook call.

``select`` reads one structure, one mask (what the agent's profile may speak) and one vector of
scores, kept fresh by a stamp that every measurement moves. The counterfactual winner decides who is
eligible for a rollout: only a unit that would be served the control is routed or is its control arm.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from xenolect._breakers import Breakers
from xenolect._frozen import freeze
from xenolect._routing import routed
from xenolect._runtime import Runtime
from xenolect._scores import Scores
from xenolect._structure import Mask, Profile, Structure
from xenolect.errors import AgentNotFoundError, InvalidError, NoCompatibleVariantError
from xenolect.model import (
    Agent,
    AgentContext,
    Mode,
    ProtocolVariant,
    Reason,
    Selection,
)

__all__ = ["MISSING", "Selector"]

log = logging.getLogger("xenolect.performance")
MISSING: Any = object()


class Selector:
    """Chooses; remembers who is sticky and which session is pinned."""

    def __init__(self, runtime: Runtime, breakers: Breakers) -> None:
        self._runtime = runtime
        self._breakers = breakers
        self._shut = breakers.shut
        self._out = breakers.agents.out
        config = runtime.config
        self.scores = Scores(runtime)
        self._dwell = config.selection.min_dwell
        self._hysteresis = config.selection.hysteresis
        self._seen: OrderedDict[str, tuple[AgentContext, Profile]] = OrderedDict()
        self._sticky: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()
        self._pins: OrderedDict[tuple[str, str], tuple[str, Reason]] = OrderedDict()

    # -- who asks ---------------------------------------------------------------------------------

    def profile(self, agent: Agent | str) -> tuple[str, Profile]:
        """The agent's id and the profile of its context; AgentNotFoundError."""
        if isinstance(agent, str):
            profile = self._runtime.agent_profiles.get(agent)
            if profile is None:
                seen = self._seen.get(agent)
                if seen is None:
                    raise AgentNotFoundError(
                        f"no agent is registered as {agent!r}; register it, or pass an "
                        f"Agent({agent!r}, AgentContext(...))"
                    )
                profile = seen[1]
            return agent, profile
        if not isinstance(agent, Agent):
            raise InvalidError(f"expected an agent id or an Agent, got {type(agent).__name__}")
        known = self._seen.get(agent.id)
        if known is not None and (known[0] is agent.context or known[0] == agent.context):
            return agent.id, known[1]
        profile = self._runtime.profile(agent.context)
        self._seen[agent.id] = (agent.context, profile)
        while len(self._seen) > self._runtime.config.selection.sticky_agents:
            self._seen.popitem(last=False)
        return agent.id, profile

    def known(self, agent_id: str) -> Profile | None:
        """The profile of an agent seen before, if any."""
        profile = self._runtime.agent_profiles.get(agent_id)
        if profile is None and agent_id in self._seen:
            return self._seen[agent_id][1]
        return profile

    # -- choosing ---------------------------------------------------------------------------------

    def select(
        self, agent: Agent | str, protocol: str, session: str | None, default: Any = MISSING
    ) -> Selection:
        """One variant for one agent; see ``EmergenceManager.select``."""
        try:
            return self._select(agent, protocol, session)
        except Exception:
            if default is MISSING:
                raise
            variant = self._default(default, protocol)
            name = agent if isinstance(agent, str) else str(getattr(agent, "id", agent))
            return Selection(
                variant, name, session, protocol, math.nan, Reason.DEFAULT, self._runtime.revision
            )

    def _default(self, default: Any, protocol: str) -> Any:
        if isinstance(default, str):
            return self._runtime.variants.get(default) or ProtocolVariant("default", protocol)
        return default

    def _select(self, agent: Agent | str, protocol: str, session: str | None) -> Selection:
        runtime = self._runtime
        agent_id, profile = self.profile(agent)
        structure = runtime.structures.get(protocol)
        if structure is None:
            raise NoCompatibleVariantError(
                f"protocol {protocol!r} has no variants; propose one and activate it"
            )
        mask = structure.masks.get(profile) or structure.mask(
            profile, runtime.refuses, runtime.config.selection.profiles
        )
        scores = self.scores.fresh(structure, mask, profile)
        if runtime.mode is not Mode.NORMAL or structure.safe:
            return self.fallback(structure, mask, profile, agent_id, session, scores)

        pin_key = None
        if session is not None:
            pin_key = (protocol, session)
            pinned = self._pins.get(pin_key)
            if pinned is not None:
                found = self._pinned(structure, mask, pinned[0], agent_id)
                if found >= 0:
                    return self.answer(
                        structure, mask, profile, found, agent_id, session, scores, pinned[1]
                    )

        best = self._best(structure, mask, scores, protocol, agent_id)
        if best < 0:  # who is served anyway may as well be a probe, so that what is shut heals
            probe = self._probe(structure, mask, agent_id)
            if probe is None:
                return self.fallback(structure, mask, profile, agent_id, session, scores)
            index, permit = probe
            return self.answer(
                structure,
                mask,
                profile,
                index,
                agent_id,
                session,
                scores,
                Reason.BASELINE if index == structure.baseline else Reason.BEST,
                permit,
            )
        winner = index = best
        permit = None
        reason = self._reason(structure, mask, winner, protocol, agent_id)
        if structure.routes and not runtime.stale:
            index, reason, permit = self._route(structure, mask, winner, reason, agent_id, session)
        if permit is None and index == winner and (self._shut or self._out):
            probe = self._probe(structure, mask, agent_id)
            if probe is not None:
                index, permit = probe
                reason = Reason.BEST
        if pin_key is not None and permit is None:
            self._pin(pin_key, structure.variants[index].id, reason)
        return self.answer(
            structure, mask, profile, index, agent_id, session, scores, reason, permit
        )

    def _best(
        self,
        structure: Structure,
        mask: Mask,
        scores: Sequence[float],
        protocol: str,
        agent_id: str,
    ) -> int:
        """The index of the choice without any rollout, stickiness included; -1 for none."""
        shut, out, variants = self._shut, self._out, structure.variants
        best, best_score = -1, -math.inf
        for i in mask.eligible:
            if (
                scores[i] > best_score
                and variants[i].id not in shut
                and not (out and agent_id in out.get(variants[i].id, ()))
            ):
                best, best_score = i, scores[i]
        if best < 0:
            return -1
        key = (protocol, agent_id)
        sticky = self._sticky.get(key)
        if sticky is not None and sticky[0] != variants[best].id:
            for i in mask.eligible:
                if variants[i].id == sticky[0] and self._admits(sticky[0], agent_id):
                    young = self._runtime.clock() - sticky[1] < self._dwell
                    if young or best_score - scores[i] <= self._hysteresis:
                        return i
                    break
        if sticky is None or sticky[0] != variants[best].id:
            self._sticky[key] = (variants[best].id, self._runtime.clock())
            while len(self._sticky) > self._runtime.config.selection.sticky_agents:
                self._sticky.popitem(last=False)
        return best

    def _reason(
        self, structure: Structure, mask: Mask, winner: int, protocol: str, agent_id: str
    ) -> Reason:
        if mask.degraded:
            return Reason.DEGRADED
        if len(mask.eligible) == 1:
            return Reason.ONLY
        scores = mask.scores
        for i in mask.eligible:
            if scores[i] > scores[winner] and self._admits(structure.variants[i].id, agent_id):
                return Reason.STICKY
        return Reason.BEST

    def _route(
        self,
        structure: Structure,
        mask: Mask,
        winner: int,
        reason: Reason,
        agent_id: str,
        session: str | None,
    ) -> tuple[int, Reason, Any]:
        """The canary of the first rollout whose slice holds the unit, else the winner."""
        winner_id = structure.variants[winner].id
        for j, route in enumerate(structure.routes):
            if route.control_id != winner_id or not mask.canaries[j]:
                continue
            unit = session if route.by_session else agent_id
            if unit is None:
                continue
            if route.variant.id in self._shut:
                if routed(unit, route.salt, route.recovery_ppm):
                    permit = self._breakers.claim(route.variant.id)
                    if permit is not None:
                        return structure.active + j, Reason.CANARY, permit
                continue
            if routed(unit, route.salt, route.ppm):
                if agent_id not in self._out.get(route.variant.id, ()):
                    return structure.active + j, Reason.CANARY, None
                permit = self._breakers.agents.claim(route.variant.id, agent_id)
                if permit is not None:
                    return structure.active + j, Reason.CANARY, permit
                continue
            if route.ppm:
                reason = Reason.CONTROL
        return winner, reason, None

    def _admits(self, variant_id: str, agent_id: str) -> bool:
        """Do the breakers admit ordinary calls of this agent?"""
        return variant_id not in self._shut and agent_id not in self._out.get(variant_id, ())

    def _claim(self, variant_id: str, agent_id: str) -> Any:
        """A permit where a breaker is half open, the variant's or the agent's own; or None."""
        if variant_id in self._shut:
            return self._breakers.claim(variant_id)
        return self._breakers.agents.claim(variant_id, agent_id) if self._out else None

    def _probe(self, structure: Structure, mask: Mask, agent_id: str) -> tuple[int, Any] | None:
        """A permit of a half-open active variant: few calls, whatever its score, so that it heals."""
        for i in mask.eligible:
            permit = self._claim(structure.variants[i].id, agent_id)
            if permit is not None:
                return i, permit
        return None

    def _pinned(self, structure: Structure, mask: Mask, variant_id: str, agent_id: str) -> int:
        """The index of a pinned variant, if it may still be served; else -1."""
        if variant_id in mask.refused or not self._admits(variant_id, agent_id):
            return -1
        for i, variant in enumerate(structure.variants):
            if variant.id == variant_id:
                if i >= structure.active:
                    route = structure.routes[i - structure.active]
                    return i if route.ppm and not self._runtime.stale else -1
                return i
        return -1

    def _pin(self, key: tuple[str, str], variant_id: str, reason: Reason) -> None:
        self._pins[key] = (variant_id, reason)
        while len(self._pins) > self._runtime.config.selection.sessions:
            self._pins.popitem(last=False)

    def fallback(
        self,
        structure: Structure,
        mask: Mask,
        profile: Profile,
        agent_id: str,
        session: str | None,
        scores: Sequence[float],
        claim: bool = True,
    ) -> Selection:
        """The fallback, whatever its breaker says, as a probe if it wants one; never against its
        requirements."""
        index = structure.baseline
        if index >= 0 and structure.variants[index].id not in mask.refused:
            permit = self._claim(structure.variants[index].id, agent_id) if claim else None
            return self.answer(
                structure, mask, profile, index, agent_id, session, scores, Reason.BASELINE, permit
            )
        excluded = self._excluded(structure, mask, agent_id)
        why = "; ".join(f"{name}: {reason}" for name, reason in excluded.items())
        raise NoCompatibleVariantError(
            f"no variant of {structure.protocol!r} may be served to agent {agent_id!r}"
            + (f": {why}" if why else "; none is active"),
            excluded=excluded,
        )

    def answer(
        self,
        structure: Structure,
        mask: Mask,
        profile: Profile,
        index: int,
        agent_id: str,
        session: str | None,
        scores: Sequence[float],
        reason: Reason,
        permit: Any = None,
    ) -> Selection:
        """A selection whose parts and exclusions are computed when they are read."""

        def explain() -> tuple[Mapping[str, float], Mapping[str, str]]:
            _, _, columns = self.scores.columns(structure.variants, structure, profile)
            parts = {name: answer[index] for name, answer in columns.items()}
            return freeze(parts), freeze(self._excluded(structure, mask, agent_id))

        return Selection(
            structure.variants[index],
            agent_id,
            session,
            structure.protocol,
            scores[index],
            reason,
            structure.revision,
            permit,
            explain,
        )

    def _excluded(self, structure: Structure, mask: Mask, agent_id: str) -> dict[str, str]:
        excluded = dict(mask.refused)
        for variant in structure.variants:
            reason = self._breakers.reason(variant.id, agent_id)
            if reason and variant.id not in excluded:
                excluded[variant.id] = reason
        return excluded

    def forget(self, variant_id: str) -> None:
        """Nobody is pinned or stuck to the variant any more."""
        for key in [k for k, (v, _) in list(self._pins.items()) if v == variant_id]:
            self._pins.pop(key, None)
