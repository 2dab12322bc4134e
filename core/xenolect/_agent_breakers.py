"""Breakers of single agents: a variant that serves the others well is passed by for the one it fails.

In memory only. An agent gets a breaker with its first failure; of 10,000 the least recently used is
forgotten. At most ``max_ejection`` of the agents that spoke a variant lately, but one at least, are out
at a time: what fails for more of them is the variant's own trouble, and its own breaker's business. While
that one is not closed these are forgotten and count nothing. Control and canary are treated alike.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import attrs

from xenolect._circuit import ADMITTING, Circuit
from xenolect._permit import Permit
from xenolect.interfaces import Safeguard
from xenolect.model import BreakerState

__all__ = ["AgentBreaker", "AgentBreakers"]

BOUND = 10_000  # breakers kept


class AgentBreaker(Circuit):
    """The breaker of one agent on one variant; what latches only probes rarely."""

    def __init__(self, owner: AgentBreakers, variant_id: str, agent_id: str) -> None:
        self._owner = owner
        self.variant_id = variant_id
        super().__init__(
            owner.machine,
            owner.clock,
            owner.draw,
            agent_id,
            f"agent {agent_id!r} on variant {variant_id!r}",
        )

    def left(self, before: Any) -> None:
        """Take the agent out, or back in; begin anew where too many are out already."""
        if self.state.state in ADMITTING:
            self._owner.readmit(self)
        elif before.state in ADMITTING and not self._owner.eject(self):
            fresh = self.machine.start()
            self.state = attrs.evolve(fresh, generation=self.state.generation + 1)

    def moved(self, before: BreakerState, after: BreakerState) -> None:
        """Tell, if it did move."""
        out = self._owner.out.get(self.variant_id, {}).get(self.name) is self
        if out == (after not in ADMITTING):
            self._owner.moved(self.variant_id, self.name, after)


class AgentBreakers:
    """Who is out, by variant and agent: selection reads ``out`` without a lock."""

    def __init__(
        self,
        machine: Safeguard[Any],
        clock: Callable[[], float],
        draw: Callable[[], float],
        bound: int = BOUND,
    ) -> None:
        self.machine = machine
        self.clock = clock
        self.draw = draw
        self.out: dict[str, dict[str, AgentBreaker]] = {}
        self._share: float = getattr(machine, "max_ejection", 0.0)
        self._bound = bound
        # of agents that failed on a variant, so that their successes matter: recording looks, without a lock
        self.kept: OrderedDict[tuple[str, str], AgentBreaker] = OrderedDict()
        self._lock = threading.Lock()  # after a breaker's own
        # set by the manager: how many agents spoke a variant lately, and whom to tell
        self.population: Callable[[str], int] = lambda _: 0
        self.moved: Callable[[str, str, BreakerState], None] = lambda *_: None

    def leave_parent(self) -> None:
        """In a forked child: with locks of its own."""
        self._lock = threading.Lock()
        for breaker in self.kept.values():
            breaker.leave_parent()

    def __len__(self) -> int:
        return len(self.kept)

    def is_out(self, variant_id: str, agent_id: str) -> bool:
        """Is the variant passed by for this agent?"""
        return agent_id in self.out.get(variant_id, ())

    def claim(self, variant_id: str, agent_id: str) -> Permit | None:
        """A permit of the agent's half-open breaker, or None; takes no lock."""
        breaker = self.out.get(variant_id, {}).get(agent_id)
        return None if breaker is None else breaker.claim()

    def report(
        self, variant_id: str, agent_id: str, successes: int, failures: int, slow: int
    ) -> None:
        """Calls of an agent ended. One that never failed has no breaker, and costs one look."""
        key = variant_id, agent_id
        if (key not in self.kept and not failures and not slow) or not self._share:
            return
        with self._lock:
            breaker = self.kept.get(key)
            if breaker is None:
                breaker = self.kept[key] = AgentBreaker(self, variant_id, agent_id)
                while len(self.kept) > self._bound:
                    self._readmit(self.kept.popitem(last=False)[1])
            else:
                self.kept.move_to_end(key)
        breaker.report(successes, failures, slow)

    def eject(self, breaker: AgentBreaker) -> bool:
        """Take an agent out; False when so many are out that it has to stay."""
        most = max(1, int(self._share * self.population(breaker.variant_id)))
        with self._lock:
            out = self.out.get(breaker.variant_id, {})
            if len(out) >= most or self.kept.get((breaker.variant_id, breaker.name)) is not breaker:
                return False
            self.out[breaker.variant_id] = {**out, breaker.name: breaker}
        return True

    def readmit(self, breaker: AgentBreaker) -> None:
        """Serve an agent again."""
        with self._lock:
            self._readmit(breaker)

    def _readmit(self, breaker: AgentBreaker) -> None:
        out = self.out.get(breaker.variant_id, {})
        if out.get(breaker.name) is breaker:
            rest = {name: each for name, each in out.items() if each is not breaker}
            if rest:
                self.out[breaker.variant_id] = rest
            else:
                del self.out[breaker.variant_id]

    def tick(self) -> None:
        """Let time pass for those that are out."""
        for out in list(self.out.values()):
            for breaker in out.values():
                if breaker.due or breaker.state.state == BreakerState.HALF_OPEN:
                    breaker.tick()

    def forget(self, variant_id: str) -> None:
        """The variant's own breaker is not closed, or the variant is gone."""
        with self._lock:
            self.out.pop(variant_id, None)
            for key in [key for key in self.kept if key[0] == variant_id]:
                del self.kept[key]
