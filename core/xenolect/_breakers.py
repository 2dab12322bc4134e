"""Breakers around the pure machine: one per variant, with permits that selection can take unlocked.

The machine decides (``Safeguard.step``); this shell keeps its state, feeds it what happened, and writes
what selection reads: the set of variants that are shut, and a deque of permits per half-open variant.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from xenolect import safeguards as sg
from xenolect.errors import BreakerOpenError, CorruptError
from xenolect.facts import Put
from xenolect.interfaces import Safeguard
from xenolect.model import BreakerState, BreakerStatus

__all__ = ["Breakers", "Permit"]

ADMITTING = (BreakerState.CLOSED, BreakerState.DISABLED)
JOURNALED = (BreakerState.LATCHED, BreakerState.FORCED_OPEN, BreakerState.DISABLED)


class Permit:
    """The right to make one call; return it with ``success``, ``failure`` or ``ignore``.

    Selection hands permits of half-open breakers out; one that is not returned within the lease
    counts as a failed probe. Returning twice, or late, does nothing.
    """

    __slots__ = ("_breaker", "_done", "generation", "taken_at", "token", "variant_id")

    def __init__(
        self, breaker: _Breaker, variant_id: str, generation: int, token: sg.Token | None = None
    ) -> None:
        self._breaker = breaker
        self._done = False
        self.variant_id = variant_id
        self.generation = generation
        self.token = token
        self.taken_at: float | None = None

    def success(self) -> None:
        """The call went well."""
        self._finish(sg.Outcome(successes=1))

    def failure(self) -> None:
        """The variant failed the call."""
        self._finish(sg.Outcome(failures=1))

    def ignore(self) -> None:
        """The call says nothing of the variant (cancelled, the caller's error)."""
        self._finish(sg.Outcome(ignored=True))

    def finish(self, outcome: sg.Outcome) -> None:
        """Return the permit with an outcome."""
        self._finish(outcome)

    def _finish(self, outcome: sg.Outcome) -> None:
        if not self._done:
            self._done = True
            self._breaker.finish(self, outcome)


class _Breaker:
    """One machine with its state, lock and permits."""

    __slots__ = ("claimed", "lock", "machine", "owner", "permits", "state", "variant_id")

    def __init__(self, owner: Breakers, variant_id: str) -> None:
        self.owner = owner
        self.variant_id = variant_id
        self.lock = threading.RLock()  # never held during a guarded call
        self.machine = owner.machine
        self.state: Any = self.machine.start()
        self.permits: deque[Permit] = deque()
        self.claimed: list[Permit] = []

    def step(self, event: sg.Event, at: float | None = None) -> sg.Reply:
        now = self.owner.clock() if at is None else at
        with self.lock:
            before = self.state.state
            self.state, reply, actions = self.machine.step(
                self.state, event, now, self.owner.draw()
            )
            for action in actions:
                if isinstance(action, sg.Changed):
                    self._changed(action)
            after = self.state.state
        for action in actions:
            if isinstance(action, sg.AskRollback):
                self.owner.gave_up(self.variant_id, action.reason)
        if before != after:
            self.owner.moved(self.variant_id, BreakerState(before), BreakerState(after))
        return reply

    def _changed(self, action: sg.Changed) -> None:
        shut = self.owner.shut
        if action.state in ADMITTING:
            shut.discard(self.variant_id)
        else:
            shut.add(self.variant_id)
        if action.state == BreakerState.HALF_OPEN:
            for _ in range(action.permits):
                self.permits.append(Permit(self, self.variant_id, self.state.generation))
        else:
            self.permits.clear()
            self.claimed.clear()

    def claim(self, now: float) -> Permit | None:
        """Take a permit without a lock; None when there is none left."""
        try:
            permit = self.permits.popleft()
        except IndexError:
            return None
        permit.taken_at = now
        self.claimed.append(permit)
        return permit

    def _lease(self) -> None:
        """Tell the machine of permits taken since it last looked, at the time they were taken."""
        while self.claimed:
            permit = self.claimed.pop(0)
            if permit.generation == self.state.generation:
                reply = self.step(sg.Acquire(), permit.taken_at)
                if isinstance(reply, sg.Admit):
                    permit.token = reply.token

    def finish(self, permit: Permit, outcome: sg.Outcome) -> None:
        import attrs

        with self.lock:
            self._lease()
            token = permit.token
        if token is not None:
            self.step(attrs.evolve(outcome, token=token))

    def tick(self) -> None:
        with self.lock:
            self._lease()
        self.step(sg.Tick())


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
        self._all: dict[str, _Breaker] = {}
        # set by the manager: what to do when a breaker moves or gives up
        self.moved: Callable[[str, BreakerState, BreakerState], None] = lambda *_: None
        self.gave_up: Callable[[str, str], None] = lambda *_: None
        self.publish: Callable[[Put], None] = lambda _: None

    def draw(self) -> float:
        """A number in [0, 1) for jitter."""
        return self._rng.random()

    def of(self, variant_id: str) -> _Breaker:
        """The breaker of a variant, made at first use."""
        breaker = self._all.get(variant_id)
        if breaker is None:
            breaker = self._all.setdefault(variant_id, _Breaker(self, variant_id))
        return breaker

    def claim(self, variant_id: str) -> Permit | None:
        """A permit of a half-open breaker, or None; takes no lock."""
        breaker = self._all.get(variant_id)
        return None if breaker is None or not breaker.permits else breaker.claim(self.clock())

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
        with breaker.lock:
            if state.generation <= breaker.state.generation and not at_open:
                return
            breaker.state = state
            breaker.permits.clear()
            breaker.claimed.clear()
            if state.state in ADMITTING:
                self.shut.discard(variant_id)
            else:
                self.shut.add(variant_id)

    # -- the public face --------------------------------------------------------------------------

    def status(self, variant: Any) -> BreakerStatus:
        """Where the breaker stands."""
        breaker = self.of(self._resolve(variant))
        state = breaker.state
        until = state.until
        wait = None if until is None else max(0.0, until - self.clock())
        if state.state in ADMITTING:
            wait = None
        return BreakerStatus(breaker.variant_id, BreakerState(state.state), state.attempts, wait)

    def acquire(self, variant: Any) -> Permit:
        """May one call pass? A permit, or BreakerOpenError with ``retry_after`` in seconds."""
        breaker = self.of(self._resolve(variant))
        with breaker.lock:
            if breaker.permits:  # half-open: the published permits are the same probes
                permit = breaker.claim(self.clock())
                breaker._lease()
                if permit is not None and permit.token is not None:
                    return permit
            reply = breaker.step(sg.Acquire())
        if isinstance(reply, sg.Admit):
            return Permit(breaker, breaker.variant_id, breaker.state.generation, reply.token)
        wait = reply.retry_after if isinstance(reply, sg.Refuse) else None
        raise BreakerOpenError(
            f"the breaker of variant {breaker.variant_id!r} is {breaker.state.state}; "
            + (f"try again in {wait:.3g} s" if wait is not None else "an operator must reset it"),
            retry_after=wait,
        )

    def force_open(self, variant: Any) -> BreakerStatus:
        """Refuse all calls until ``reset``; survives a restart."""
        return self._operate(variant, sg.ForceOpen())

    def disable(self, variant: Any, ttl: Any = 3600.0) -> BreakerStatus:
        """Admit all calls for ``ttl`` (seconds, text as in "1h", or a timedelta; at most 24 h)."""
        from xenolect.errors import InvalidError
        from xenolect.units import seconds_of

        try:
            seconds = seconds_of(ttl)
        except ValueError as cause:
            raise InvalidError(f"ttl: {cause}") from None
        if not 0 < seconds <= 86400.0:
            raise InvalidError(f"ttl must be more than 0 and at most 24h, got {ttl!r}")
        return self._operate(variant, sg.Disable(self.clock() + seconds))

    def reset(self, variant: Any) -> BreakerStatus:
        """Ask for probes now; never straight to closed."""
        return self._operate(variant, sg.Reset())

    def _operate(self, variant: Any, event: sg.Event) -> BreakerStatus:
        breaker = self.of(self._resolve(variant))
        breaker.step(event)
        self.publish(self.fact(breaker.variant_id))
        return self.status(breaker.variant_id)

    def fact(self, variant_id: str) -> Put:
        """The breaker as a fact, to be committed."""
        state = self.of(variant_id).state
        return Put("breaker", variant_id, {"state": self.machine.dump(state)})
