"""The breaker of one variant: it shuts the variant for selection, and its rounds of probes are shared.

Of all processes only the one that holds the right to probe is half-open; a round that nobody uses is
left as it was found, so that a process with traffic can have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from xenolect._permit import Permit
from xenolect.breaker import CircuitBreaker
from xenolect.model import BreakerState

if TYPE_CHECKING:
    from xenolect._breakers import Breakers

__all__ = ["VariantBreaker", "waiting"]

B = BreakerState


class VariantBreaker(CircuitBreaker):
    """The breaker of one variant: shuts it for selection, and shares what happens."""

    def __init__(self, owner: Breakers, variant_id: str) -> None:
        self.owner = owner
        self.origin: str | None = (
            None  # the record this state is, None while it is this process's news
        )
        self.operated = False  # did an operator of this process move it last?
        self.wanted = False  # was a permit asked for in vain?
        self.round_until: float | None = None  # this process may probe so long
        self.round_began = 0.0
        self.ask_again = 0.0
        self._used = False  # was a permit of this round taken?
        self._before_round: tuple[Any, str | None] | None = None
        super().__init__(
            variant_id,
            machine=owner.machine,
            clock=owner.times.clock,
            draw=owner.draw,
            label=f"variant {variant_id!r}",
        )

    def gate(self, admits: bool) -> None:
        """Selection passes the variant by while it is shut; at once, under the lock."""
        if admits:
            self.owner.shut.discard(self.name)
        else:
            self.owner.shut.add(self.name)
            self.owner.agents.forget(self.name)  # the trouble is not one agent's

    def left(self, before: Any) -> None:
        """The machine moved it; under the lock."""
        if self.state.state == B.HALF_OPEN:
            self._used = self.wanted = False
            self._before_round = before, self.origin
        self.origin = None

    def moved(self, before: BreakerState, after: BreakerState) -> None:
        """The state changed."""
        self.owner.changed(self, before, after)

    def gave_up(self, reason: str) -> None:
        """It latched."""
        self.owner.gave_up(self.name, reason)

    # -- rounds ---------------------------------------------------------------------------------------

    def may_probe(self) -> bool:
        """Does this process hold the right to probe, or get it now?"""
        until = self.round_until
        return (until is not None and self.clock() < until) or self.owner.take_round(self)

    def claim(self) -> Permit | None:
        """A published permit, without a lock; None when there is none, or the round is not ours."""
        until = self.round_until
        if until is not None and self.clock() < until:
            self._used = True
            permit = super().claim()
            if permit is not None:
                return permit
        self.wanted = True
        return None

    def admitted(self) -> None:
        """A probe was handed out by ``acquire``."""
        self._used = True

    def withdraw(self) -> bool:
        """Leave a round that nobody used, as it was before; False when a permit was taken."""
        with self._lock:
            if self.state.state != B.HALF_OPEN:
                return True
            back = []
            while self._permits:
                back.append(self._permits.popleft())
            # whoever takes a permit says so first: seen here, or the deque was empty for them
            if self._used:
                self._permits.extend(back)
                return False
            before, origin = self._before_round or (self.state, self.origin)
            self.replace(waiting(self.state, self.clock(), before.state))
            self.origin = origin
            return True


def waiting(state: Any, now: float, before: BreakerState = B.OPEN) -> Any:
    """A half-open state with its wait just over: the next who may probe begins the round.

    ``before`` is what it was until then: a latched one is healed by a single probe.
    """
    kind = before if before == B.LATCHED else B.OPEN
    return attrs.evolve(state, state=kind, until=now, generation=state.generation + 1)
