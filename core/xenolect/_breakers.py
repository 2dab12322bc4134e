"""``manager.breakers``: one breaker per variant, and the set of shut ones that selection reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from xenolect import safeguards as sg
from xenolect._circuit import Permit
from xenolect.breaker import CircuitBreaker
from xenolect.errors import CorruptError
from xenolect.facts import Put
from xenolect.interfaces import Safeguard
from xenolect.model import BreakerState, BreakerStatus

__all__ = ["Breakers", "VariantBreaker"]


class VariantBreaker(CircuitBreaker):
    """The breaker of one variant: shuts it for selection, and tells the manager what happens."""

    def __init__(self, owner: Breakers, variant_id: str) -> None:
        self.owner = owner
        super().__init__(
            variant_id,
            machine=owner.machine,
            clock=owner.clock,
            draw=owner.draw,
            label=f"variant {variant_id!r}",
        )

    def gate(self, admits: bool) -> None:
        """Selection passes the variant by while it is shut; at once, under the lock."""
        if admits:
            self.owner.shut.discard(self.name)
        else:
            self.owner.shut.add(self.name)

    def moved(self, before: BreakerState, after: BreakerState) -> None:
        """The state changed."""
        self.owner.moved(self.name, before, after)

    def gave_up(self, reason: str) -> None:
        """It latched."""
        self.owner.gave_up(self.name, reason)


class Breakers:
    """``manager.breakers``: status and operator verbs; and the set of shut variants."""

    def __init__(
        self,
        machine: Safeguard[Any],
        clock: Callable[[], float],
        resolve: Callable[[Any], str],
        rng: random.Random,
    ) -> None:
        self.machine = machine
        self.clock = clock
        self.shut: set[str] = set()
        self._resolve = resolve
        self._rng = rng
        self._all: dict[str, VariantBreaker] = {}
        # set by the manager: what to do when a breaker moves or gives up
        self.moved: Callable[[str, BreakerState, BreakerState], None] = lambda *_: None
        self.gave_up: Callable[[str, str], None] = lambda *_: None
        self.publish: Callable[[Put], None] = lambda _: None

    def draw(self) -> float:
        """A number in [0, 1) for jitter."""
        return self._rng.random()

    def of(self, variant_id: str) -> VariantBreaker:
        """The breaker of a variant, made at first use."""
        breaker = self._all.get(variant_id)
        if breaker is None:
            breaker = self._all.setdefault(variant_id, VariantBreaker(self, variant_id))
        return breaker

    def claim(self, variant_id: str) -> Permit | None:
        """A permit of a half-open breaker, or None; takes no lock."""
        breaker = self._all.get(variant_id)
        return None if breaker is None else breaker.claim()

    def outcome(self, variant_id: str, successes: int, failures: int, permit: Any = None) -> None:
        """Calls ended, with the permit they were made on, if any."""
        outcome = sg.Outcome(successes=successes, failures=failures)
        if permit is not None:
            permit.finish(outcome)
        else:
            self.of(variant_id).step(outcome)

    def is_shut(self, variant_id: str | None) -> bool:
        """Does the breaker refuse ordinary calls?"""
        return variant_id in self.shut

    def tick(self) -> None:
        """Let time pass for every breaker that is not simply closed."""
        for breaker in list(self._all.values()):
            if breaker.state.state != BreakerState.CLOSED or breaker.state.attempts:
                breaker.tick()

    def forget(self, variant_id: str) -> None:
        """The variant was rolled back or archived: its tokens become stale."""
        self._all.pop(variant_id, None)
        self.shut.discard(variant_id)

    def adopt(self, variant_id: str, value: Any, at_open: bool) -> None:
        """Take over a published state (latched, forced, disabled or reset elsewhere).

        A state of None is what a rollback leaves: as if the breaker had never been there.
        """
        breaker = self.of(variant_id)
        if value is None or value.get("state") is None:
            self.forget(variant_id)
            return
        try:
            state = self.machine.load(value["state"])
        except (CorruptError, KeyError, TypeError):
            if at_open:  # unreadable: fail closed, and probe
                breaker.step(sg.ForceOpen())
                breaker.step(sg.Reset())
            return
        if at_open or state.generation > breaker.state.generation:
            breaker.replace(state)

    # -- the public face --------------------------------------------------------------------------

    def status(self, variant: Any) -> BreakerStatus:
        """Where the breaker stands."""
        return self.of(self._resolve(variant)).status

    def acquire(self, variant: Any) -> Permit:
        """May one call pass? A permit, or BreakerOpenError with ``retry_after`` in seconds."""
        return self.of(self._resolve(variant)).acquire()

    def force_open(self, variant: Any) -> BreakerStatus:
        """Refuse all calls until ``reset``; survives a restart."""
        return self._publish(self.of(self._resolve(variant)).force_open())

    def disable(self, variant: Any, ttl: Any = 3600.0) -> BreakerStatus:
        """Admit all calls for ``ttl`` (seconds, text as in "1h", or a timedelta; at most 24 h)."""
        return self._publish(self.of(self._resolve(variant)).disable(ttl))

    def reset(self, variant: Any) -> BreakerStatus:
        """Ask for probes now; never straight to closed."""
        return self._publish(self.of(self._resolve(variant)).reset())

    def _publish(self, status: BreakerStatus) -> BreakerStatus:
        self.publish(self.fact(status.variant_id))
        return status

    def fact(self, variant_id: str) -> Put:
        """The breaker as a fact, to be committed."""
        state = self.of(variant_id).state
        return Put("breaker", variant_id, {"state": self.machine.dump(state)})
