"""One breaker's shell: state, lock, counters and permits around a pure machine.

The machine (``Safeguard.step``) decides every transition, under one lock that is never held during the
guarded call. While it is *calm* (closed, and no success can open it) a call takes no lock at all: it
reads one reference and appends the time of its success to a tape, which is folded into the state at
the next event that needs it. A tape belongs to one generation, so a late result changes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from xenolect import safeguards as sg
from xenolect._permit import SUCCESS, Counts, Permit, Tape, cancelled
from xenolect.errors import BreakerOpenError
from xenolect.interfaces import Safeguard
from xenolect.model import BreakerState, BreakerStatus

__all__ = ["ADMITTING", "FOLD", "Circuit"]

log = logging.getLogger("xenolect.safeguards")
ADMITTING = (BreakerState.CLOSED, BreakerState.DISABLED)
FOLD = 512  # successes on the tape before it is folded: 20 us of work, 0.04 us a call


class Circuit:
    """One machine with its state. ``label`` says in errors what it guards, as in "variant 'x'"."""

    def __init__(
        self,
        machine: Safeguard[Any],
        clock: Callable[[], float],
        draw: Callable[[], float],
        name: str,
        label: str = "",
    ) -> None:
        self.machine = machine
        self.clock = clock
        self.name = name
        self.label = label or name
        rate = getattr(machine, "slow_rate", None)
        self.slow_call: float | None = getattr(machine, "slow_call", None) if rate else None
        self.timed: bool = getattr(machine, "windowed", True)  # does the time of a success matter?
        self.state: Any = machine.start()
        self._draw = draw
        self._lock = threading.RLock()  # never held during a guarded call
        self._calm: Callable[[Any], bool] = getattr(machine, "calm", lambda _: False)
        self._permits: deque[Permit] = deque()
        self._claimed: deque[Permit] = deque()
        self._counted = [0, 0, 0, 0, 0]
        self._notices: deque[Callable[[], None]] = deque()
        self._telling = threading.Lock()
        self._tape: Tape = ([], self.state.generation)
        self._live: Tape | None = None
        self._refresh()

    def leave_parent(self) -> None:
        """In a forked child: locks may be held by threads that are not there, and news is theirs to tell."""
        self._lock = threading.RLock()
        self._telling = threading.Lock()
        self._notices.clear()

    # -- what owners override -------------------------------------------------------------------------

    def blames(self, error: BaseException) -> bool:
        """Is this error a failure of what was called?"""
        return not cancelled(type(error))

    def gate(self, admits: bool) -> None:
        """The breaker admits ordinary calls from now on, or none; called under the lock."""

    def moved(self, before: BreakerState, after: BreakerState) -> None:
        """The state changed; called outside the lock, in order."""

    def gave_up(self, reason: str) -> None:
        """The machine asks for a rollback; called outside the lock."""

    def left(self, before: Any) -> None:
        """The machine moved on from a state; called under the lock, when ``state`` is the new one."""

    def admitted(self) -> None:
        """``acquire`` handed out a probe; called under the lock."""

    def may_probe(self) -> bool:
        """May this process open a round of probes, or go on with it? Called outside the lock."""
        return True

    # -- stepping -------------------------------------------------------------------------------------

    def step(self, event: sg.Event, at: float | None = None) -> sg.Reply:
        """One event through the machine; then everybody hears what it moved."""
        timely = isinstance(event, (sg.Acquire, sg.Tick))
        if timely and self.due and not self.may_probe():
            return self._held() if isinstance(event, sg.Acquire) else None
        with self._lock:
            reply = self._step(event, at)
        self.announce()
        return reply

    def report(self, successes: int, failures: int, slow: int = 0) -> None:
        """Calls ended that took no permit."""
        live = self._live
        if live is not None and successes == 1 and not failures and not slow:
            self.wrote(live)
        else:
            self.step(sg.Outcome(successes, failures, slow))

    def went_well(self, count: int = 1) -> None:
        """``report`` that many successes of this moment, without a lock where that can be."""
        live = self._live
        if live is None:
            for _ in range(count):
                self.report(1, 0)
            return
        times, now = live[0], self.clock() if self.timed else 0.0
        if count == 1:
            times.append(now)
        else:
            times += [now] * count
        if self._live is not live or len(times) >= FOLD:
            self.settle(live)

    def _step(self, event: sg.Event, at: float | None = None) -> sg.Reply:
        now = self.clock() if at is None else at
        self._fold()
        self._lease()
        return self._apply(event, now)

    def _apply(self, event: sg.Event, now: float) -> sg.Reply:
        before = self.state
        self.state, reply, actions = self.machine.step(before, event, now, self._draw())
        if isinstance(event, sg.Outcome):
            if event.token is None or event.token.generation == before.generation:
                self._count(event)
        elif isinstance(reply, sg.Refuse):
            self._counted[4] += 1
        for action in actions:
            if isinstance(action, sg.Changed):
                self._changed(action)
            elif isinstance(action, sg.AskRollback):
                self._notices.append(partial(self.gave_up, action.reason))
        after = self.state.state
        if before.state != after:
            self.left(before)
            self._notices.append(
                partial(self.moved, BreakerState(before.state), BreakerState(after))
            )
        self._refresh()
        return reply

    def announce(self) -> None:
        """Tell what moved, one after the other; the caller does not hold the lock.

        Whoever comes while another thread (or the listener itself) tells leaves its news to that one.
        """
        while self._notices and self._telling.acquire(blocking=False):
            try:
                while self._notices:
                    self._notices.popleft()()
            finally:
                self._telling.release()

    def _count(self, outcome: sg.Outcome) -> None:
        counted = self._counted
        counted[0] += outcome.successes
        counted[1] += outcome.failures
        counted[2] += outcome.slow
        counted[3] += outcome.ignored

    def _changed(self, action: sg.Changed) -> None:
        self.gate(action.state in ADMITTING)
        if action.state == BreakerState.HALF_OPEN:
            for _ in range(action.permits):
                self._permits.append(Permit(self, self.state.generation))
        else:
            self._permits.clear()
            self._claimed.clear()

    def _refresh(self) -> None:
        """Publish what a call without a lock may know."""
        state = self.state
        if state.generation != self._tape[1]:
            self._tape = ([], state.generation)
        live = self._tape if self._calm(state) else None
        if live is not self._live:
            self._live = live

    def _fold(self) -> None:
        """Everything on the tape into the state, in order; the caller holds the lock."""
        times = self._tape[0]
        while times:
            count = len(times)
            batch = times[:count]
            del times[:count]
            if self._calm(self.state):
                self.state = self.machine.absorb(self.state, batch)  # type: ignore[attr-defined]
                self._counted[0] += count
            else:
                for at in batch:
                    self._apply(SUCCESS, at)
                    if self._tape[0] is not times:
                        return  # it opened: the rest is of an old generation

    def settle(self, tape: Tape) -> None:
        """The tape is long, or was not live any more when the success was written on it."""
        with self._lock:
            if tape[1] == self.state.generation:
                self._fold()
                self._refresh()
        self.announce()

    @property
    def due(self) -> bool:
        """Is a wait over, so that the next step would open a round of probes?"""
        until = self.state.until
        if until is None or self.state.state in (BreakerState.CLOSED, BreakerState.HALF_OPEN):
            return False
        return bool(self.clock() >= until)

    def _held(self) -> sg.Reply:
        """Another process probes: refuse a little longer."""
        if self.state.state == BreakerState.DISABLED:
            return sg.Admit(sg.Token(self.state.generation))
        self._counted[4] += 1
        return sg.Refuse(1.0)

    def replace(self, state: Any) -> None:
        """Go on from a state that comes from elsewhere: every permit out is of an old generation."""
        with self._lock:
            self.state = state
            self._permits.clear()
            self._claimed.clear()
            self._tape = ([], state.generation)
            self._live = None
            self.gate(state.state in ADMITTING)
            self._refresh()

    # -- permits --------------------------------------------------------------------------------------

    def acquire(self) -> Permit:
        """May one call pass? A permit, or BreakerOpenError with ``retry_after`` in seconds."""
        live = self._live
        if live is not None:
            return Permit(self, live[1], live)
        permit = self._acquire()
        if isinstance(permit, Permit):
            return permit
        wait = permit.retry_after if permit is not None else None
        state = self.state.state
        raise BreakerOpenError(
            f"the breaker of {self.label} "
            + ("has closed meanwhile; " if state in ADMITTING else f"is {state}; ")
            + (f"try again in {wait:.3g} s" if wait is not None else "an operator must reset it"),
            retry_after=wait,
        )

    def _acquire(self) -> Permit | sg.Refuse | None:
        if self._permits:  # half-open: the published permits are the same probes
            with self._lock:
                permit = self.claim()
                self._lease()
            self.announce()
            if permit is not None and permit.token is not None:
                return permit
        half_open = self.state.state == BreakerState.HALF_OPEN
        if (half_open or self.due) and not self.may_probe():
            reply = self._held()
        else:
            with self._lock:
                reply = self._step(sg.Acquire())
                if isinstance(reply, sg.Admit) and reply.token.id:
                    self.admitted()
                    if self._permits:
                        self._permits.pop()  # this probe is one of those published
            self.announce()
        if not isinstance(reply, sg.Admit):
            return reply
        permit = Permit(self, reply.token.generation)
        permit.token = reply.token
        return permit

    def claim(self) -> Permit | None:
        """Take a published permit without a lock; None when there is none left."""
        try:
            permit = self._permits.popleft()
        except IndexError:
            return None
        permit.taken_at = self.clock()
        self._claimed.append(permit)
        return permit

    def _lease(self) -> None:
        """Tell the machine of permits taken since it last looked, at the time they were taken."""
        while self._claimed:
            permit = self._claimed.popleft()
            if permit.generation == self.state.generation and permit.taken_at is not None:
                reply = self._apply(sg.Acquire(), permit.taken_at)
                if isinstance(reply, sg.Admit):
                    permit.token = reply.token

    def finish(self, permit: Permit, outcome: sg.Outcome) -> None:
        """A permit came back."""
        limit, started = self.slow_call, permit.started
        if limit is not None and started is not None and not outcome.ignored:
            slow = self.clock() - started >= limit
            outcome = attrs.evolve(outcome, slow=1) if slow and not outcome.slow else outcome
        tape = permit._tape
        if tape is not None:
            if outcome is SUCCESS:
                self.wrote(tape)
                return
            token: sg.Token | None = sg.Token(tape[1])
        else:
            with self._lock:
                self._lease()
                token = permit.token
            self.announce()
        if token is not None:
            self.step(attrs.evolve(outcome, token=token))

    def wrote(self, tape: Tape) -> None:
        """A success on the tape that was live when the call began."""
        times = tape[0]
        times.append(self.clock() if self.timed else 0.0)
        if self._live is not tape or len(times) >= FOLD:
            self.settle(tape)

    def tick(self) -> None:
        """Let time pass."""
        self.step(sg.Tick())

    # -- looking --------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counts:
        """What was counted so far; stale results are counted nowhere."""
        with self._lock:
            self._fold()
            self._refresh()
            counts = Counts(*self._counted)
        self.announce()
        return counts

    @property
    def status(self) -> BreakerStatus:
        """Where the breaker stands."""
        state = self.state
        wait = None
        if state.until is not None and state.state not in ADMITTING:
            wait = max(0.0, state.until - self.clock())
        return BreakerStatus(self.name, BreakerState(state.state), state.attempts, wait)
