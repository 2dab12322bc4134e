"""Asking without choosing: explain, recommend, negotiate. Stickiness, sessions and permits are left out."""

from __future__ import annotations

import math
from collections.abc import Iterable

from xenolect._boards import Board
from xenolect._breakers import Breakers
from xenolect._frozen import freeze
from xenolect._routing import routed
from xenolect._runtime import Runtime
from xenolect._selection import Selector
from xenolect._structure import Profile, Structure
from xenolect.errors import InvalidError, NoCompatibleVariantError
from xenolect.model import (
    Agent,
    Explanation,
    Explanations,
    Mode,
    ProtocolVariant,
    Reason,
    Selection,
    VariantStatus,
)

__all__ = ["Asking"]


class Asking:
    """Answers about what would be chosen, and why."""

    def __init__(self, runtime: Runtime, breakers: Breakers, selector: Selector) -> None:
        self._runtime = runtime
        self._breakers = breakers
        self._selector = selector

    def explain(self, agent: Agent | str, protocol: str | None) -> Explanations:
        """Every variant of the protocol (or of all): verdicts, parts, score; best first."""
        agent_id, profile = self._selector.profile(agent)
        runtime = self._runtime
        if runtime.asleep:
            runtime.wake()
        protocols = [protocol] if protocol is not None else sorted(runtime.structures)
        answer = Explanations()
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
            total, columns = self._selector.scores.parts(variants, structure, profile)
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
        shut = self._breakers.reason(variant.id, agent_id)
        if shut:
            return shut
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
        board = self._board(structure, profile)
        board.top()
        reason = self._breakers.reason
        out = {v.id for v in structure.variants if reason(v.id, agent_id)}
        winner = board.top_without(out)
        if winner < 0 or self._runtime.mode is not Mode.NORMAL or structure.safe:
            return self._selector.fallback(board, agent_id, None, claim=False).variant.id
        winner_id = structure.variants[winner].id
        for j, route in enumerate(structure.routes):
            if (
                route.control_id == winner_id
                and board.mask.canaries[j]
                and not route.by_session
                and not reason(route.variant.id, agent_id)
                and routed(agent_id, route.salt, route.ppm)
            ):
                return route.variant.id
        return winner_id

    def _board(self, structure: Structure, profile: Profile) -> Board:
        return structure.boards.get(profile) or self._selector.board(structure, profile)

    def recommend(self, agent: Agent | str, protocol: str, limit: int) -> list[Selection]:
        """The best eligible variants, best first; stickiness and rollouts left out."""
        agent_id, profile = self._selector.profile(agent)
        if self._runtime.asleep:
            self._runtime.wake()
        structure = self._runtime.structures.get(protocol)
        if structure is None:
            return []
        board = self._board(structure, profile)
        reason_of, variants = self._breakers.reason, structure.variants
        order = [row for row in board.ranked() if not reason_of(variants[row].id, agent_id)]
        reason = (
            Reason.DEGRADED
            if board.vector.degraded
            else Reason.ONLY
            if len(order) == 1
            else Reason.BEST
        )
        return [
            self._selector.answer(board, row, agent_id, None, reason)
            for row in order[: max(0, limit)]
        ]

    def negotiate(self, agents: Iterable[Agent | str], protocol: str) -> Selection:
        """The active variant with the highest mean score that every agent can speak."""
        ends = [self._selector.profile(agent) for agent in agents]
        if not ends:
            raise InvalidError("negotiate needs at least one agent")
        runtime = self._runtime
        if runtime.asleep:
            runtime.wake()
        structure = runtime.structures.get(protocol)
        if structure is None:
            raise NoCompatibleVariantError(f"protocol {protocol!r} has no variants")
        boards = [self._board(structure, profile) for _, profile in ends]
        excluded: dict[str, str] = {}
        for (agent_id, _), board in zip(ends, boards, strict=True):
            for variant_id, reason in board.mask.refused.items():
                excluded.setdefault(variant_id, f"agent {agent_id!r}: {reason}")
        common = [i for i in range(structure.active) if structure.variants[i].id not in excluded]
        open_ = [
            i
            for i in common
            if not any(self._breakers.reason(structure.variants[i].id, name) for name, _ in ends)
        ]
        pinned = runtime.mode is not Mode.NORMAL or structure.safe or not open_
        names = ", ".join(agent_id for agent_id, _ in ends)

        def mean(row: int) -> float:
            return math.fsum(board.score(row) for board in boards) / len(boards)

        if pinned and structure.baseline in common:
            best, why = structure.baseline, Reason.BASELINE
        elif not pinned:
            for board in boards:
                board.top()
            tracks = structure.tracks
            best = min(open_, key=lambda i: (-mean(i), tracks[i].tally.count, i))
            why = Reason.ONLY if len(open_) == 1 else Reason.BEST
        else:
            for i in common:
                name = structure.variants[i].id
                excluded[name] = f"its breaker is {self._breakers.status(name).state}"
            raise NoCompatibleVariantError(
                f"no variant of {protocol!r} can be spoken by all of {names}: "
                + "; ".join(f"{name}: {said}" for name, said in excluded.items()),
                excluded=excluded,
            )
        return Selection(
            structure.variants[best],
            names,
            None,
            protocol,
            mean(best),
            why,
            structure.revision,
            None,
            (lambda: ({}, freeze(excluded)),),
        )
