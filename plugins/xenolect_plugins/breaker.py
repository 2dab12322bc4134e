"""The circuit breaker as a pure function: ``step(state, event, now, draw) -> (state, reply, actions)``.

The table of states, with generations and leases, is in docs/breaker.md. Time is one clock in seconds
that never goes back, chance is ``draw``; nothing else is read, so every history can be replayed and a
small configuration can be enumerated exhaustively.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
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
BUCKETS = 12
V = attrs.validators
AT_LEAST_1: Any = V.ge(1)
POSITIVE: Any = V.gt(0)
SHARE: Any = V.and_(V.ge(0), V.le(1))
RATE: Any = V.optional(V.and_(V.gt(0), V.le(1)))


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
    take. window, window_calls, minimum_calls, failure_rate: the sliding window (failure_rate None: only
    consecutive failures count). slow_rate: share of calls of at least ``slow_call`` seconds that opens it
    (None: off). slow_probe: seconds between single probes once latched (0: never). max_ejection: share
    of a variant's agents that single-agent breakers may take out, at least one (0: none). scope:
    "variant" (latching asks for the variant's rollback) or "dependency".
    """

    failure_threshold: int = attrs.field(default=5, validator=AT_LEAST_1)
    reset_timeout: Seconds = Seconds(30.0)
    max_reset_attempts: int = attrs.field(default=3, validator=AT_LEAST_1)
    half_open_probes: int = attrs.field(default=3, validator=AT_LEAST_1)
    max_wait: Seconds = Seconds(480.0)
    jitter: float = attrs.field(default=0.2, validator=SHARE)
    stable: Seconds = Seconds(300.0)
    lease: Seconds = attrs.field(default=Seconds(10.0), validator=POSITIVE)
    window: Seconds = attrs.field(default=Seconds(60.0), validator=POSITIVE)
    window_calls: int = attrs.field(default=100, validator=AT_LEAST_1)
    minimum_calls: int = attrs.field(default=20, validator=AT_LEAST_1)
    failure_rate: float | None = attrs.field(default=0.5, validator=RATE)
    slow_rate: float | None = attrs.field(default=None, validator=RATE)
    slow_call: Seconds = Seconds(60.0)
    slow_probe: Seconds = Seconds(1800.0)
    max_ejection: float = attrs.field(default=0.1, validator=SHARE)
    scope: str = attrs.field(
        default="variant", validator=attrs.validators.in_(("variant", "dependency"))
    )

    def start(self) -> BreakerMachineState:
        """Closed, nothing seen."""
        return BreakerMachineState()

    # -- the step -----------------------------------------------------------------------------------

    def step(self, state: BreakerMachineState, event: sg.Event, now: float, draw: float) -> Answer:
        """The table of docs/breaker.md."""
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
        """Add calls to the window: the calls of ``window`` seconds, at most about ``window_calls``.

        A bucket holds a twelfth of either, so the window is exact to a twelfth. Many successes at once
        are the same as one by one; a batch with failures in it stays together.
        """
        if not self.windowed:
            return ()
        span = self.window / BUCKETS
        size = -(-self.window_calls // BUCKETS)
        start = now - now % span
        kept = [b for b in buckets if b[0] > now - self.window]
        if kept and kept[-1][0] >= start:
            start = kept[-1][0]  # late, or of the same twelfth: never backwards
            last = kept[-1]
            more = calls if failures or slow else min(calls, size - last[1])
            if 0 < more <= size - last[1]:
                kept[-1] = (start, last[1] + more, last[2] + failures, last[3] + slow)
                calls -= more
        if failures or slow:
            if calls:
                kept.append((start, calls, failures, slow))
        else:
            whole, rest = divmod(calls, size)
            kept.extend([(start, size, 0, 0)] * min(whole, BUCKETS + 2))
            if rest:
                kept.append((start, rest, 0, 0))
        beyond = sum(b[1] for b in kept) - self.window_calls
        gone = 0
        while gone < len(kept) - 1 and kept[gone][1] <= beyond:
            beyond -= kept[gone][1]
            gone += 1
        return tuple(kept[gone:])

    def _trips(self, state: BreakerMachineState) -> bool:
        if state.consecutive >= self.failure_threshold:
            return True
        calls = sum(b[1] for b in state.buckets)
        if calls < self.minimum_calls:
            return False
        return self._sick(calls, sum(b[2] for b in state.buckets), sum(b[3] for b in state.buckets))

    def _sick(self, calls: int, failures: int, slow: int) -> bool:
        rate = self.failure_rate
        if rate is not None and failures >= max(self.failure_threshold, rate * calls):
            return True
        return self.slow_rate is not None and slow >= self.slow_rate * calls

    # -- the quick path -------------------------------------------------------------------------------

    @property
    def windowed(self) -> bool:
        """Do rates count, and so the time of every call?"""
        return self.failure_rate is not None or self.slow_rate is not None

    def calm(self, state: BreakerMachineState) -> bool:
        """Closed, and no success can open it, whenever it comes.

        Successes only add calls and let old buckets go, so what can be left of today's buckets is a
        suffix of them; none may be sick, not even with as few calls as are judged.
        """
        if state.state != B.CLOSED:
            return False
        calls = failures = slow = 0
        for _, more, failed, late in reversed(state.buckets):
            calls, failures, slow = calls + more, failures + failed, slow + late
            if self._sick(max(calls, self.minimum_calls), failures, slow):
                return False
        return True

    def absorb(self, state: BreakerMachineState, times: Sequence[float]) -> BreakerMachineState:
        """A calm state after one success at each of these times, oldest first."""
        last = times[-1]
        buckets = state.buckets
        if self.windowed:
            span = self.window / BUCKETS
            if last - last % span <= times[0] <= last:  # all in one twelfth, as nearly always
                buckets = self._slide(buckets, last, len(times), 0, 0)
            else:
                for _, group in groupby(times, lambda t: t - t % span):
                    same = list(group)
                    buckets = self._slide(buckets, same[-1], len(same), 0, 0)
        forgotten = state.attempts and last - state.since >= self.stable
        return attrs.evolve(
            state, attempts=0 if forgotten else state.attempts, consecutive=0, buckets=buckets
        )

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
        doubled = self.reset_timeout * 2.0 ** min(state.attempts, 64)  # 2.0 ** 1024 overflows
        wait = min(doubled, self.max_wait)
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
