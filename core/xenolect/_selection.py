"""Choosing: gate first, score second; no I/O, no lock, no hook call.

``select`` reads one structure, one mask (what the agent's profile may speak) and one vector of
scores, kept fresh by a stamp that every measurement moves. The counterfactual winner decides who is
eligible for a rollout: only a unit that would be served the control is routed or is its control arm.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xenolect._breakers import Breakers
from xenolect._frozen import freeze
from xenolect._routing import routed
from xenolect._runtime import Runtime
from xenolect._structure import Mask, Profile, Structure
from xenolect.errors import AgentNotFoundError, InvalidError, NoCompatibleVariantError
from xenolect.interfaces import Scorer
from xenolect.model import (
    Agent,
    AgentContext,
    Candidate,
    Explanation,
    Mode,
    ProtocolVariant,
    Reason,
    Selection,
    VariantStatus,
)

__all__ = ["MISSING", "Selector"]

log = logging.getLogger("xenolect.performance")
MISSING: Any = object()


class _Column:
    """One scorer with its weight and whether it failed lately."""

    __slots__ = ("logged_at", "name", "scorer", "weight")

    def __init__(self, name: str, scorer: Scorer, weight: float) -> None:
        self.name = name
        self.scorer = scorer
        self.weight = weight
        self.logged_at = -math.inf


class Selector:
    """Everything ``select``, ``recommend``, ``explain`` and ``negotiate`` share."""

    def __init__(self, runtime: Runtime, breakers: Breakers) -> None:
        self._runtime = runtime
        self._breakers = breakers
        self._shut = breakers.shut
        config = runtime.config
        self._columns = [
            _Column(
                name,
                runtime.registry.make("scoring", part.use, part.options, f"scoring.{name}"),
                part.weight,
            )
            for name, part in config.scoring.items()
        ]
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

    # -- scoring ----------------------------------------------------------------------------------

    def _scores(self, structure: Structure, mask: Mask, profile: Profile) -> Sequence[float]:
        stamp = self._runtime.performance.stamp
        if mask.stamp == stamp:
            return mask.scores
        total, degraded, _ = self._columns_of(structure.variants, structure, profile)
        mask.scores, mask.degraded = total, degraded
        mask.stamp = stamp  # last: a reader that sees the stamp sees the scores
        return total

    def _columns_of(
        self, variants: Sequence[ProtocolVariant], structure: Structure, profile: Profile
    ) -> tuple[list[float], bool, dict[str, list[float]]]:
        performance = self._runtime.performance
        reference = None
        if structure.baseline >= 0:
            baseline = structure.variants[structure.baseline]
            reference = performance.recent(baseline.id)[0].latency_ms
        target = self._runtime.config.selection.latency_target
        if target is not None:
            reference = target * 1000.0
        candidates = [
            Candidate(variant, *performance.recent(variant.id), reference) for variant in variants
        ]
        agent = Agent("", profile.context)
        columns: dict[str, list[float]] = {}
        weights: dict[str, float] = {}
        degraded = False
        for column in self._columns:
            try:
                answer = [float(x) for x in column.scorer.score(candidates, agent)]
                if len(answer) != len(candidates) or not all(0.0 <= x <= 1.0 for x in answer):
                    raise ValueError(
                        f"{len(answer)} answers for {len(candidates)} candidates, all must be in [0, 1]"
                    )
            except Exception as error:
                degraded = True
                self._complain(column, error)
                continue
            columns[column.name] = answer
            weights[column.name] = column.weight
        mass = math.fsum(weights.values()) or 1.0
        total = [0.0] * len(candidates)
        for name, answer in columns.items():
            share = weights[name] / mass
            for i, value in enumerate(answer):
                total[i] += share * value
        return total, degraded, columns

    def _complain(self, column: _Column, error: Exception) -> None:
        now = time.monotonic()
        if now - column.logged_at >= 60.0:
            column.logged_at = now
            log.warning(
                "scorer %r is left out, its weight goes to the others: %s: %s",
                column.name,
                type(error).__name__,
                error,
            )

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
        scores = self._scores(structure, mask, profile)
        if runtime.mode is not Mode.NORMAL or structure.safe:
            return self._baseline(structure, mask, profile, agent_id, session, scores)

        pin_key = None
        if session is not None:
            pin_key = (protocol, session)
            pinned = self._pins.get(pin_key)
            if pinned is not None:
                found = self._pinned(structure, mask, pinned[0])
                if found >= 0:
                    return self._answer(
                        structure, mask, profile, found, agent_id, session, scores, pinned[1]
                    )

        best = self._best(structure, mask, scores, protocol, agent_id)
        if best < 0:
            return self._baseline(structure, mask, profile, agent_id, session, scores)
        winner = index = best
        permit = None
        reason = self._reason(structure, mask, winner, protocol, agent_id)
        if structure.routes and not runtime.stale:
            index, reason, permit = self._route(structure, mask, winner, reason, agent_id, session)
        if permit is None and index == winner and self._breakers.shut:
            probe = self._probe(structure, mask)
            if probe is not None:
                index, permit = probe
                reason = Reason.BEST
        if pin_key is not None and permit is None:
            self._pin(pin_key, structure.variants[index].id, reason)
        return self._answer(
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
        shut, variants = self._shut, structure.variants
        best, best_score = -1, -math.inf
        for i in mask.eligible:
            if scores[i] > best_score and variants[i].id not in shut:
                best, best_score = i, scores[i]
        if best < 0:
            return -1
        key = (protocol, agent_id)
        sticky = self._sticky.get(key)
        if sticky is not None and sticky[0] != variants[best].id:
            for i in mask.eligible:
                if variants[i].id == sticky[0] and sticky[0] not in shut:
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
        scores, shut = mask.scores, self._shut
        for i in mask.eligible:
            if scores[i] > scores[winner] and structure.variants[i].id not in shut:
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
                return structure.active + j, Reason.CANARY, None
            if route.ppm:
                reason = Reason.CONTROL
        return winner, reason, None

    def _probe(self, structure: Structure, mask: Mask) -> tuple[int, Any] | None:
        """A permit of a half-open active variant: few calls, whatever its score, so that it heals."""
        for i in mask.eligible:
            variant_id = structure.variants[i].id
            if variant_id in self._shut:
                permit = self._breakers.claim(variant_id)
                if permit is not None:
                    return i, permit
        return None

    def _pinned(self, structure: Structure, mask: Mask, variant_id: str) -> int:
        """The index of a pinned variant, if it may still be served; else -1."""
        if variant_id in self._shut or variant_id in mask.refused:
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

    def _baseline(
        self,
        structure: Structure,
        mask: Mask,
        profile: Profile,
        agent_id: str,
        session: str | None,
        scores: Sequence[float],
    ) -> Selection:
        """The fallback, whatever its breaker says; never against its requirements."""
        index = structure.baseline
        if index >= 0 and structure.variants[index].id not in mask.refused:
            return self._answer(
                structure, mask, profile, index, agent_id, session, scores, Reason.BASELINE
            )
        excluded = self._excluded(structure, mask)
        why = "; ".join(f"{name}: {reason}" for name, reason in excluded.items())
        raise NoCompatibleVariantError(
            f"no variant of {structure.protocol!r} may be served to agent {agent_id!r}"
            + (f": {why}" if why else "; none is active"),
            excluded=excluded,
        )

    def _answer(
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
        def explain() -> tuple[Mapping[str, float], Mapping[str, str]]:
            _, _, columns = self._columns_of(structure.variants, structure, profile)
            parts = {name: answer[index] for name, answer in columns.items()}
            return freeze(parts), freeze(self._excluded(structure, mask))

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

    def _excluded(self, structure: Structure, mask: Mask) -> dict[str, str]:
        excluded = dict(mask.refused)
        for variant in structure.variants:
            if variant.id in self._shut and variant.id not in excluded:
                status = self._breakers.status(variant.id)
                excluded[variant.id] = f"its breaker is {status.state}"
        return excluded

    def forget(self, variant_id: str) -> None:
        """Nobody is pinned or stuck to the variant any more."""
        for key in [k for k, (v, _) in list(self._pins.items()) if v == variant_id]:
            self._pins.pop(key, None)

    # -- asking without choosing ------------------------------------------------------------------

    def explain(self, agent: Agent | str, protocol: str | None) -> list[Explanation]:
        """Every variant of the protocol (or of all): verdicts, parts, score; best first."""
        agent_id, profile = self.profile(agent)
        runtime = self._runtime
        protocols = [protocol] if protocol is not None else sorted(runtime.structures)
        answer: list[Explanation] = []
        for name in protocols:
            structure = runtime.structures.get(name)
            if structure is None:
                continue
            chosen = None
            try:
                chosen = self._pure(structure, agent_id, profile)
            except NoCompatibleVariantError:
                pass
            rest = [
                v
                for v in runtime.variants.values()
                if v.protocol == name and v not in structure.variants
            ]
            variants = [*structure.variants, *sorted(rest, key=lambda v: v.id)]
            total, _, columns = self._columns_of(variants, structure, profile)
            rows = []
            for i, variant in enumerate(variants):
                reason = self._gate(variant, structure, profile, agent_id)
                rows.append(
                    Explanation(
                        variant,
                        not reason,
                        reason or "eligible",
                        {name: column[i] for name, column in columns.items()},
                        total[i],
                        variant.id == chosen,
                    )
                )
            rows.sort(key=lambda e: (not e.chosen, not e.eligible, -(e.score or 0.0), e.variant.id))
            answer.extend(rows)
        return answer

    def _gate(
        self, variant: ProtocolVariant, structure: Structure, profile: Profile, agent_id: str
    ) -> str:
        """Why the variant is not served to this agent now; "" when it may be."""
        refused = self._runtime.refuses(variant, profile.context)
        if refused is not None:
            return refused
        if variant.id in self._shut:
            return f"its breaker is {self._breakers.status(variant.id).state}"
        if variant.status == VariantStatus.ACTIVE:
            return ""
        if variant.status == VariantStatus.CANARY:
            for route in structure.routes:
                if route.variant.id == variant.id:
                    share = f"{route.ppm / 10_000:.3g} %"
                    if route.by_session:
                        return f"a canary for {share} of the sessions"
                    if routed(agent_id, route.salt, route.ppm):
                        return ""
                    return f"a canary for {share} of the agents, not this one"
        return f"its status is {variant.status}"

    def _pure(self, structure: Structure, agent_id: str, profile: Profile) -> str:
        """The id of the variant that would be served, stickiness and permits left out."""
        mask = structure.mask(
            profile, self._runtime.refuses, self._runtime.config.selection.profiles
        )
        scores = self._scores(structure, mask, profile)
        eligible = [i for i in mask.eligible if structure.variants[i].id not in self._shut]
        if not eligible or self._runtime.mode is not Mode.NORMAL or structure.safe:
            return self._baseline(structure, mask, profile, agent_id, None, scores).variant.id
        winner = max(eligible, key=lambda i: (scores[i], -i))
        winner_id = structure.variants[winner].id
        for j, route in enumerate(structure.routes):
            if (
                route.control_id == winner_id
                and mask.canaries[j]
                and not route.by_session
                and route.variant.id not in self._shut
                and routed(agent_id, route.salt, route.ppm)
            ):
                return route.variant.id
        return winner_id

    def recommend(self, agent: Agent | str, protocol: str, limit: int) -> list[Selection]:
        """The best eligible variants, best first; stickiness and rollouts left out."""
        agent_id, profile = self.profile(agent)
        structure = self._runtime.structures.get(protocol)
        if structure is None:
            return []
        mask = structure.mask(
            profile, self._runtime.refuses, self._runtime.config.selection.profiles
        )
        scores = self._scores(structure, mask, profile)
        order = sorted(
            (i for i in mask.eligible if structure.variants[i].id not in self._shut),
            key=lambda i: (-scores[i], i),
        )
        only = len(order) == 1
        return [
            self._answer(
                structure,
                mask,
                profile,
                i,
                agent_id,
                None,
                scores,
                Reason.DEGRADED if mask.degraded else Reason.ONLY if only else Reason.BEST,
            )
            for i in order[:limit]
        ]

    def negotiate(self, agents: Iterable[Agent | str], protocol: str) -> Selection:
        """The active variant with the highest mean score that every agent can speak."""
        ends = [self.profile(agent) for agent in agents]
        if not ends:
            raise InvalidError("negotiate needs at least one agent")
        runtime = self._runtime
        structure = runtime.structures.get(protocol)
        if structure is None:
            raise NoCompatibleVariantError(f"protocol {protocol!r} has no variants")
        masks = [
            structure.mask(profile, runtime.refuses, runtime.config.selection.profiles)
            for _, profile in ends
        ]
        excluded: dict[str, str] = {}
        for (agent_id, _), mask in zip(ends, masks, strict=True):
            for variant_id, reason in mask.refused.items():
                excluded.setdefault(variant_id, f"agent {agent_id!r}: {reason}")
        vectors = [
            self._scores(structure, mask, profile)
            for mask, (_, profile) in zip(masks, ends, strict=True)
        ]
        common = [i for i in range(structure.active) if structure.variants[i].id not in excluded]
        open_ = [i for i in common if structure.variants[i].id not in self._shut]
        pinned = runtime.mode is not Mode.NORMAL or structure.safe or not open_
        names = ", ".join(agent_id for agent_id, _ in ends)
        if pinned and structure.baseline in common:
            best, reason = structure.baseline, Reason.BASELINE
        elif not pinned:
            best = max(open_, key=lambda i: (math.fsum(v[i] for v in vectors), -i))
            reason = Reason.ONLY if len(open_) == 1 else Reason.BEST
        else:
            raise NoCompatibleVariantError(
                f"no variant of {protocol!r} can be spoken by all of {names}: "
                + "; ".join(f"{name}: {why}" for name, why in excluded.items()),
                excluded=excluded,
            )
        score = math.fsum(v[best] for v in vectors) / len(vectors)
        return Selection(
            structure.variants[best],
            names,
            None,
            protocol,
            score,
            reason,
            structure.revision,
            explain=lambda: ({}, freeze(excluded)),
        )
