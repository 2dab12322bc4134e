"""The circuit breaker as a pure function: ``step(state, event, now, draw) -> (state, reply, actions)``.

The table of states, with generations and leases, is in docs/safeguards.md. Time is one clock in seconds
that never goes back, chance is ``draw``; nothing else is read, so every history can be replayed and a
small configuration can be enumerated exhaustively.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from xenolect import safeguards as sg
from xenolect.errors import CorruptError
from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.interfaces import Safeguard
from xenolect.model import BreakerState as B
from xenolect.units import Seconds

__all__ = ["Breaker", "BreakerMachineState"]

Answer = tuple["BreakerMachineState", sg.Reply, tuple[sg.Action, ...]]
NEVER = -1.0


@attrs.frozen
class BreakerMachineState:
    """Everything the breaker remembers.

    ``buckets`` is the sliding window while closed: ``(start, calls, failures, slow)`` with the newest
    last. ``leases`` are the probes outstanding: ``(id, expires)``.
    """

    state: B = B.CLOSED
    generation: int = 0
    attempts: int = 0
    since: float = NEVER
    until: float | None = None
    consecutive: int = 0
    buckets: tuple[tuple[float, int, int, int], ...] = ()
    need: int = 0
    ok: int = 0
    issued: int = 0
    leases: tuple[tuple[int, float], ...] = ()


@attrs.frozen
class Breaker:
    """Opens on consecutive failures or a failing window; heals by probes; gives up by latching.

    failure_threshold: consecutive failures that open it, and the least failures of a failing window.
    reset_timeout: first wait; it doubles with every failed round up to max_wait, plus up to ``jitter``
    of itself. max_reset_attempts: failed rounds in a row before it latches. half_open_probes: probes of
    one round. stable: seconds of health after which attempts are forgotten. lease: seconds a probe may
    take. window, window_calls, minimum_calls, failure_rate: the sliding window. slow_rate: share of slow
    calls that opens it (off by default). slow_probe: seconds between single probes once latched (0: never).
    scope: "variant" (latching asks for the variant's rollback) or "dependency".
    """

    failure_threshold: int = 5
    reset_timeout: Seconds = Seconds(30.0)
    max_reset_attempts: int = 3
    half_open_probes: int = 3
    max_wait: Seconds = Seconds(480.0)
    jitter: float = 0.2
    stable: Seconds = Seconds(300.0)
    lease: Seconds = Seconds(10.0)
    window: Seconds = Seconds(60.0)
    window_calls: int = 100
    minimum_calls: int = 20
    failure_rate: float = 0.5
    slow_rate: float | None = None
    slow_probe: Seconds = Seconds(1800.0)
    scope: str = "variant"

    def start(self) -> BreakerMachineState:
        """Closed, nothing seen."""
        return BreakerMachineState()

    # -- the step -----------------------------------------------------------------------------------

    def step(self, state: BreakerMachineState, event: sg.Event, now: float, draw: float) -> Answer:
        """The table of docs/safeguards.md."""
        if isinstance(event, sg.Acquire):
            return self._acquire(state, now, draw)
        if isinstance(event, sg.Outcome):
            return self._outcome(state, event, now, draw)
        if isinstance(event, sg.Tick):
            state, actions = self._passed(state, now, draw)
            return state, None, actions
        if isinstance(event, sg.ForceOpen):
            if state.state in (B.DISABLED, B.FORCED_OPEN):
                return state, None, ()
            return self._enter(state, B.FORCED_OPEN, now, until=None)
        if isinstance(event, sg.Disable):
            return self._enter(state, B.DISABLED, now, until=event.until)
        if isinstance(event, sg.Reset):
            if state.state in (B.CLOSED, B.HALF_OPEN):
                return attrs.evolve(state, attempts=0), None, ()
            return self._half_open(attrs.evolve(state, attempts=0), now)
        return state, None, ()

    def _passed(
        self, state: BreakerMachineState, now: float, draw: float
    ) -> tuple[BreakerMachineState, tuple[sg.Action, ...]]:
        """What time alone does."""
        kind = state.state
        if kind == B.CLOSED:
            if state.attempts and now - state.since >= self.stable:
                return attrs.evolve(state, attempts=0), ()
            return state, ()
        if kind == B.HALF_OPEN:
            if any(expires <= now for _, expires in state.leases):
                after, _, actions = self._failed_round(state, now, draw)  # a lost probe
                return after, actions
            return state, ()
        waits = kind in (B.OPEN, B.LATCHED, B.DISABLED) and state.until is not None
        if waits and now >= (state.until or 0.0):
            after, _, actions = self._half_open(state, now)
            return after, actions
        return state, ()

    def _acquire(self, state: BreakerMachineState, now: float, draw: float) -> Answer:
        state, actions = self._passed(state, now, draw)
        kind = state.state
        if kind in (B.CLOSED, B.DISABLED):
            return state, sg.Admit(sg.Token(state.generation)), actions
        if kind == B.HALF_OPEN:
            if state.ok + len(state.leases) < state.need and state.issued < 3 * state.need:
                number = state.issued + 1
                leased = attrs.evolve(
                    state, issued=number, leases=(*state.leases, (number, now + self.lease))
                )
                return leased, sg.Admit(sg.Token(state.generation, number)), actions
            ends = min((expires for _, expires in state.leases), default=now)
            return state, sg.Refuse(max(0.0, ends - now)), actions
        wait = None if state.until is None else max(0.0, state.until - now)
        return state, sg.Refuse(wait), actions

    def _outcome(
        self, state: BreakerMachineState, event: sg.Outcome, now: float, draw: float
    ) -> Answer:
        token = event.token
        if token is not None and token.generation != state.generation:
            return state, None, ()  # a late result never moves the state
        if state.state == B.CLOSED:
            if event.ignored:
                return state, None, ()
            return self._count(state, event, now, draw)
        if state.state == B.HALF_OPEN and token is not None:
            return self._probed(state, event, token, now, draw)
        return state, None, ()

    # -- closed -------------------------------------------------------------------------------------

    def _count(
        self, state: BreakerMachineState, event: sg.Outcome, now: float, draw: float
    ) -> Answer:
        calls = event.successes + event.failures
        if not calls:
            return state, None, ()
        forgotten = state.attempts and now - state.since >= self.stable
        consecutive = (
            0 if event.successes else state.consecutive + event.failures
        )  # mixed: the order is unknown, and a success was among them
        state = attrs.evolve(
            state,
            attempts=0 if forgotten else state.attempts,
            consecutive=consecutive,
            buckets=self._slide(state.buckets, now, calls, event.failures, event.slow),
        )
        if not self._trips(state):
            return state, None, ()
        if state.attempts == 0:
            return self._open(state, now, draw)
        state = attrs.evolve(
            state, attempts=state.attempts + 1
        )  # tripped again before it was stable
        return self._open_or_latch(state, now, draw)

    def _slide(
        self,
        buckets: tuple[tuple[float, int, int, int], ...],
        now: float,
        calls: int,
        failures: int,
        slow: int,
    ) -> tuple[tuple[float, int, int, int], ...]:
        """Add calls to the window: at most 12 buckets of equal time, and about ``window_calls``."""
        span = self.window / 12.0
        start = now - now % span
        kept = [b for b in buckets if b[0] > now - self.window]
        if kept and kept[-1][0] >= start:
            last = kept[-1]
            kept[-1] = (last[0], last[1] + calls, last[2] + failures, last[3] + slow)
        else:
            kept.append((start, calls, failures, slow))
        while len(kept) > 1 and sum(b[1] for b in kept[1:]) >= self.window_calls:
            kept.pop(0)
        return tuple(kept)

    def _trips(self, state: BreakerMachineState) -> bool:
        if state.consecutive >= self.failure_threshold:
            return True
        calls = sum(b[1] for b in state.buckets)
        if calls < self.minimum_calls:
            return False
        failures = sum(b[2] for b in state.buckets)
        if failures >= self.failure_threshold and failures >= self.failure_rate * calls:
            return True
        if self.slow_rate is None:
            return False
        return sum(b[3] for b in state.buckets) >= self.slow_rate * calls

    # -- half open ----------------------------------------------------------------------------------

    def _probed(
        self,
        state: BreakerMachineState,
        event: sg.Outcome,
        token: sg.Token,
        now: float,
        draw: float,
    ) -> Answer:
        lease = next((each for each in state.leases if each[0] == token.id), None)
        if lease is None:
            return state, None, ()
        if lease[1] <= now:
            return self._failed_round(state, now, draw)
        rest = tuple(each for each in state.leases if each[0] != token.id)
        if event.ignored:
            if self._hopeless(attrs.evolve(state, leases=rest)):
                return self._failed_round(state, now, draw)
            actions: tuple[sg.Action, ...] = ()
            if state.issued < 3 * state.need:
                actions = (sg.Changed(B.HALF_OPEN, permits=1),)
            return attrs.evolve(state, leases=rest), None, actions
        if event.failures:
            return self._failed_round(state, now, draw)
        if state.ok + 1 < state.need:
            probed = attrs.evolve(state, ok=state.ok + 1, leases=rest)
            if self._hopeless(probed):
                return self._failed_round(state, now, draw)
            return probed, None, ()
        return self._enter(state, B.CLOSED, now, until=None)  # attempts are kept until it is stable

    @staticmethod
    def _hopeless(state: BreakerMachineState) -> bool:
        """Too many probes were ignored: those left can not reach ``need`` any more.

        Without this a round whose last permits came back ignored stayed half open for ever (found by
        enumerating every state of a small configuration).
        """
        left = 3 * state.need - state.issued
        return state.ok + len(state.leases) + left < state.need

    def _failed_round(self, state: BreakerMachineState, now: float, draw: float) -> Answer:
        attempts = min(state.attempts + 1, self.max_reset_attempts)
        return self._open_or_latch(attrs.evolve(state, attempts=attempts), now, draw)

    # -- transitions --------------------------------------------------------------------------------

    def _open_or_latch(self, state: BreakerMachineState, now: float, draw: float) -> Answer:
        if state.attempts < self.max_reset_attempts:
            return self._open(state, now, draw)
        state = attrs.evolve(state, attempts=self.max_reset_attempts)
        until = now + self.slow_probe if self.slow_probe > 0 else None
        after, reply, actions = self._enter(state, B.LATCHED, now, until=until)
        if self.scope == "variant":
            why = f"its breaker latched after {self.max_reset_attempts} failed rounds of probes"
            actions = (*actions, sg.AskRollback(why))
        return after, reply, actions

    def _open(self, state: BreakerMachineState, now: float, draw: float) -> Answer:
        wait = min(self.reset_timeout * 2.0**state.attempts, self.max_wait)
        return self._enter(state, B.OPEN, now, until=now + wait * (1.0 + self.jitter * draw))

    def _half_open(self, state: BreakerMachineState, now: float) -> Answer:
        need = 1 if state.state == B.LATCHED and state.attempts else self.half_open_probes
        after, reply, _ = self._enter(state, B.HALF_OPEN, now, until=None)
        return (
            attrs.evolve(after, need=need),
            reply,
            (sg.Changed(B.HALF_OPEN, permits=need),),
        )

    def _enter(
        self, state: BreakerMachineState, to: B, now: float, *, until: float | None
    ) -> Answer:
        """A new generation with fresh counters; only attempts are carried over."""
        after = BreakerMachineState(
            state=to,
            generation=state.generation + 1,
            attempts=state.attempts,
            since=now,
            until=until,
        )
        return after, None, (sg.Changed(to),)

    # -- keeping ------------------------------------------------------------------------------------

    def dump(self, state: BreakerMachineState) -> Any:
        """The state as JSON."""
        return attrs.asdict(state) | {
            "state": str(state.state),
            "buckets": [list(each) for each in state.buckets],
            "leases": [list(each) for each in state.leases],
        }

    def load(self, data: Any) -> BreakerMachineState:
        """Read what ``dump`` wrote; CorruptError."""
        try:
            return BreakerMachineState(
                state=B(data["state"]),
                generation=int(data["generation"]),
                attempts=int(data["attempts"]),
                since=float(data["since"]),
                until=None if data["until"] is None else float(data["until"]),
                consecutive=int(data["consecutive"]),
                buckets=tuple((float(a), int(b), int(c), int(d)) for a, b, c, d in data["buckets"]),
                need=int(data["need"]),
                ok=int(data["ok"]),
                issued=int(data["issued"]),
                leases=tuple((int(a), float(b)) for a, b in data["leases"]),
            )
        except (KeyError, TypeError, ValueError) as cause:
            raise CorruptError(f"the state of a breaker can not be read: {cause!r}") from cause

    def shift(self, state: BreakerMachineState, delta: float) -> BreakerMachineState:
        """The same state on a clock that is ``delta`` seconds ahead."""
        return attrs.evolve(
            state,
            since=state.since + delta,
            until=None if state.until is None else state.until + delta,
            buckets=tuple((a + delta, b, c, d) for a, b, c, d in state.buckets),
            leases=tuple((a, b + delta) for a, b in state.leases),
        )


@hookimpl
def xenolect_safeguards() -> Iterable[Offer[Safeguard[Any]]]:
    """Offer the breaker."""
    yield offer("breaker", Breaker)
