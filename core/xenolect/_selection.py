"""Choosing: gate first, score second; no I/O, no lock, no hook call.

``select`` reads one structure and one board: who is best for the agent's profile, brought up to date by
what moved since the last look. The counterfactual winner decides who is eligible for a rollout: only a
unit that would be served the control is routed or is its control arm. Everybody else may explore.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from xenolect._boards import Board
from xenolect._breakers import Breakers
from xenolect._frozen import freeze
from xenolect._routing import routed
from xenolect._runtime import Runtime
from xenolect._sampling import Sampling
from xenolect._scores import Scores
from xenolect._structure import Profile, Structure
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
# Names of our own: Python 3.11 looks a member of an enumeration up in 0.1 us, as long as two calls take.
NORMAL = Mode.NORMAL
BEST, STICKY, DEGRADED, ONLY = Reason.BEST, Reason.STICKY, Reason.DEGRADED, Reason.ONLY
CANARY, CONTROL, BASELINE = Reason.CANARY, Reason.CONTROL, Reason.BASELINE
FREE = (BEST, STICKY, DEGRADED)  # may explore: in no rollout, and with a choice


class Selector:
    """Chooses; remembers who is sticky and which session is pinned."""

    def __init__(self, runtime: Runtime, breakers: Breakers) -> None:
        self._runtime = runtime
        self._breakers = breakers
        self._shut = breakers.shut
        self._out = breakers.agents.out
        config = runtime.config
        self.scores = Scores(runtime)
        self.sampling = Sampling(runtime)
        self._chosen = self.sampling.around(self._select)
        self._dwell = config.selection.min_dwell
        self._hysteresis = config.selection.hysteresis
        self._explore = config.selection.explore
        self._most_sticky = config.selection.sticky_agents
        self._seen: dict[str, tuple[AgentContext, Profile]] = {}
        self._sticky: dict[tuple[str, str], tuple[str, float]] = {}
        self._pins: dict[tuple[str, str], tuple[str, Reason, float]] = {}  # with the moment

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
        if len(self._seen) > self._most_sticky:
            self._drop_first(self._seen)
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
            return self._chosen(agent, protocol, session)
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
        if runtime.asleep:
            runtime.wake()
        agent_id: str
        profile: Profile | None = None
        if type(agent) is str:
            agent_id, profile = agent, runtime.agent_profiles.get(agent)
        if profile is None:
            agent_id, profile = self.profile(agent)
        structure = runtime.structures.get(protocol)
        if structure is None:
            raise NoCompatibleVariantError(
                f"protocol {protocol!r} has no variants; propose one and activate it"
            )
        board = structure.boards.get(profile) or self.board(structure, profile)
        if structure.safe or runtime.mode is not NORMAL:
            return self.fallback(board, agent_id, session)
        if session is not None:
            pinned = self._pins.get((protocol, session))
            if pinned is not None:
                found = self._pinned(board, pinned[0], agent_id)
                if found >= 0:
                    return self.answer(board, found, agent_id, session, pinned[1])

        best = board.top()
        shut, out = self._shut, self._out
        if out and best >= 0 and agent_id in out.get(structure.variants[best].id, ()):
            best = board.top_without({name for name, agents in out.items() if agent_id in agents})
        if best < 0:  # who is served anyway may as well be a probe, so that what is shut heals
            probe = self._probe(board, agent_id)
            if probe is None:
                return self.fallback(board, agent_id, session)
            reason = BASELINE if probe[0] == structure.baseline else BEST
            return self.answer(board, probe[0], agent_id, session, reason, probe[1])
        key = protocol, agent_id
        sticky = self._sticky.get(key)
        if sticky is not None and sticky[0] == structure.variants[best].id:
            winner = best
        else:
            winner = self._settled(board, best, key, sticky)
        reason = (
            DEGRADED
            if board.vector.degraded
            else ONLY
            if board.only
            else BEST
            if winner == best
            else STICKY
        )
        index, permit = winner, None
        if structure.routes and not runtime.stale:
            index, reason, permit = self._route(board, winner, reason, agent_id, session)
        if (shut or out) and permit is None and index == winner:
            probe = self._probe(board, agent_id)
            if probe is not None:
                (index, permit), reason = probe, BEST
        if self._explore and permit is None and reason in FREE:
            index, reason = self._explored(board, index, reason, agent_id)
        if session is not None and permit is None:
            self._pin((protocol, session), structure.variants[index].id, reason)
        return self.answer(board, index, agent_id, session, reason, permit)

    def board(self, structure: Structure, profile: Profile) -> Board:
        """The profile's board, made at first use."""
        runtime = self._runtime
        bound = runtime.config.selection.profiles
        mask = structure.mask(profile, runtime.refuses, bound)
        vector = self.scores.vector(structure, profile)
        if len(structure.boards) >= bound:
            structure.boards = {}  # one reference swapped: readers of the old one are not disturbed
        made = Board(structure, profile, mask, vector, self._shut, not runtime.background)
        return structure.boards.setdefault(profile, made)

    def _settled(
        self, board: Board, best: int, key: tuple[str, str], sticky: tuple[str, float] | None
    ) -> int:
        """The best, unless the agent shall stay with another that it speaks: young, or nearly as good."""
        if sticky is not None:
            row = board.structure.index.get(sticky[0], -1)
            if (
                0 <= row < board.structure.active
                and sticky[0] not in board.mask.refused
                and self._admits(sticky[0], key[1])
            ):
                young = self._runtime.clock() - sticky[1] < self._dwell
                if young or board.score(best) - board.score(row) <= self._hysteresis:
                    return row
        self._sticky[key] = (board.structure.variants[best].id, self._runtime.clock())
        if len(self._sticky) > self._most_sticky:
            self._drop_first(self._sticky)
        return best

    def _explored(
        self, board: Board, index: int, reason: Reason, agent_id: str
    ) -> tuple[int, Reason]:
        """Now and then the best of a draw instead, for a unit that is outside any rollout."""
        rng = self._runtime.rng
        if self._explore < 1.0 and rng.random() >= self._explore:
            return index, reason
        out = self._out
        without = {name for name, agents in out.items() if agent_id in agents} if out else set()
        drawn = board.draw(rng, without)
        return (drawn, Reason.EXPLORE) if drawn >= 0 else (index, reason)

    @staticmethod
    def _drop_first(table: dict[Any, Any]) -> None:
        try:
            del table[next(iter(table))]
        except (StopIteration, RuntimeError, KeyError):
            pass  # another thread is at it

    def _route(
        self,
        board: Board,
        winner: int,
        reason: Reason,
        agent_id: str,
        session: str | None,
    ) -> tuple[int, Reason, Any]:
        """The canary of the first rollout whose slice holds the unit, else the winner."""
        structure, mask = board.structure, board.mask
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
                        return structure.active + j, CANARY, permit
                continue
            if routed(unit, route.salt, route.ppm):
                if agent_id not in self._out.get(route.variant.id, ()):
                    return structure.active + j, CANARY, None
                permit = self._breakers.agents.claim(route.variant.id, agent_id)
                if permit is not None:
                    return structure.active + j, CANARY, permit
                continue
            if route.ppm:
                reason = CONTROL
        return winner, reason, None

    def _admits(self, variant_id: str, agent_id: str) -> bool:
        """Do the breakers admit ordinary calls of this agent?"""
        return variant_id not in self._shut and agent_id not in self._out.get(variant_id, ())

    def _claim(self, variant_id: str, agent_id: str) -> Any:
        """A permit where a breaker is half open, the variant's or the agent's own; or None."""
        if variant_id in self._shut:
            return self._breakers.claim(variant_id)
        return self._breakers.agents.claim(variant_id, agent_id) if self._out else None

    def _probe(self, board: Board, agent_id: str) -> tuple[int, Any] | None:
        """A permit of a half-open active variant: few calls, whatever its score, so that it heals."""
        structure, refused = board.structure, board.mask.refused
        names = self._shut | {name for name, agents in self._out.items() if agent_id in agents}
        rows = sorted(structure.index.get(name, -1) for name in names)
        for row in rows:
            if 0 <= row < structure.active and structure.variants[row].id not in refused:
                permit = self._claim(structure.variants[row].id, agent_id)
                if permit is not None:
                    return row, permit
        return None

    def _pinned(self, board: Board, variant_id: str, agent_id: str) -> int:
        """The index of a pinned variant, if it may still be served; else -1."""
        if variant_id in board.mask.refused or not self._admits(variant_id, agent_id):
            return -1
        structure = board.structure
        row = structure.index.get(variant_id, -1)
        if row >= structure.active:
            route = structure.routes[row - structure.active]
            return row if route.ppm and not self._runtime.stale else -1
        return row

    def _pin(self, key: tuple[str, str], variant_id: str, reason: Reason) -> None:
        self._pins[key] = (variant_id, reason, self._runtime.clock())
        if len(self._pins) > self._runtime.config.selection.sessions:
            self._drop_first(self._pins)

    def pinned_before(self, protocol: str, session: str, at: float) -> bool:
        """Was the session's choice made in this process before a moment?"""
        pinned = self._pins.get((protocol, session))
        return pinned is not None and pinned[2] < at

    def fallback(
        self, board: Board, agent_id: str, session: str | None, claim: bool = True
    ) -> Selection:
        """The fallback, whatever its breaker says, as a probe if it wants one; never against its
        requirements."""
        structure = board.structure
        index = structure.baseline
        if index >= 0 and structure.variants[index].id not in board.mask.refused:
            permit = self._claim(structure.variants[index].id, agent_id) if claim else None
            return self.answer(board, index, agent_id, session, BASELINE, permit)
        excluded = self.excluded(board, agent_id)
        why = "; ".join(f"{name}: {reason}" for name, reason in excluded.items())
        raise NoCompatibleVariantError(
            f"no variant of {structure.protocol!r} may be served to agent {agent_id!r}"
            + (f": {why}" if why else "; none is active"),
            excluded=excluded,
        )

    def answer(
        self,
        board: Board,
        index: int,
        agent_id: str,
        session: str | None,
        reason: Reason,
        permit: Any = None,
    ) -> Selection:
        """A selection whose parts and exclusions are computed when they are read."""
        structure = board.structure
        return Selection(
            structure.variants[index],
            agent_id,
            session,
            structure.protocol,
            board.score(index),
            reason,
            structure.revision,
            permit,
            (self._explain, board, index, agent_id),
        )

    def _explain(
        self, board: Board, index: int, agent_id: str
    ) -> tuple[Mapping[str, float], Mapping[str, str]]:
        """The parts of a selection and what was excluded, as of now."""
        structure = board.structure
        _, columns = self.scores.parts(structure.variants, structure, board.profile)
        parts = {name: column[index] for name, column in columns.items()}
        return freeze(parts), freeze(self.excluded(board, agent_id))

    def excluded(self, board: Board, agent_id: str) -> dict[str, str]:
        """variant id -> why it may not be served to this agent now."""
        excluded = dict(board.mask.refused)
        for variant in board.structure.variants:
            reason = self._breakers.reason(variant.id, agent_id)
            if reason and variant.id not in excluded:
                excluded[variant.id] = reason
        return excluded

    def forget(self, variant_id: str) -> None:
        """Nobody is pinned or stuck to the variant any more."""
        for key in [k for k, (v, _, _) in list(self._pins.items()) if v == variant_id]:
            self._pins.pop(key, None)
