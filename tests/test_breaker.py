"""The breaker's machine: every reachable state of a small configuration, row by row, and around it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from xenolect import BreakerOpenError, EmergenceManager
from xenolect import safeguards as sg
from xenolect.model import BreakerState as B
from xenolect.testing import Clock
from xenolect_plugins.breaker import Breaker, BreakerMachineState

SMALL = Breaker(
    failure_threshold=2,
    reset_timeout=2.0,
    max_reset_attempts=2,
    half_open_probes=2,
    max_wait=4.0,
    jitter=0.0,
    stable=5.0,
    lease=2.0,
    window=60.0,
    window_calls=4,
    minimum_calls=3,
    failure_rate=0.6,
    slow_rate=0.7,
    slow_probe=6.0,
)
HORIZON = 7.0  # seconds after which no time of the small configuration matters any more


def relative(state: BreakerMachineState, now: float) -> BreakerMachineState:
    """The same state with times relative to now, and the generation left out: what decides."""

    def near(t: float) -> float:
        return max(-HORIZON, t - now)

    return attrs.evolve(
        state,
        generation=0,
        since=near(state.since) if state.attempts or state.state != B.CLOSED else 0.0,
        until=None if state.until is None else near(state.until),
        buckets=tuple((near(a), b, c, d) for a, b, c, d in state.buckets),
        leases=tuple((i, near(t)) for i, t in state.leases),
    )


def events(state: BreakerMachineState, now: float) -> Iterator[sg.Event]:
    """Everything that can happen next, stale results included."""
    yield sg.Acquire()
    yield sg.Tick()
    yield sg.ForceOpen()
    yield sg.Disable(now + 3.0)
    yield sg.Reset()
    yield sg.Outcome(successes=1)
    yield sg.Outcome(failures=1)
    yield sg.Outcome(successes=1, failures=1)
    yield sg.Outcome(successes=1, slow=1)
    for number in (1, *(i for i, _ in state.leases)):
        for kind in (
            sg.Outcome(successes=1),
            sg.Outcome(failures=1),
            sg.Outcome(ignored=True),
        ):
            yield attrs.evolve(kind, token=sg.Token(state.generation, number))
    yield sg.Outcome(failures=1, token=sg.Token(state.generation - 1, 1))
    yield sg.Outcome(successes=1, token=sg.Token(state.generation - 1, 1))


def reachable(machine: Breaker, limit: int) -> dict[BreakerMachineState, BreakerMachineState]:
    """Every state reachable in steps of 0 and 1 second, up to a limit, checked on the way."""
    now = 100.0
    start = machine.start()
    seen = {relative(start, now): start}
    queue = deque([start])
    while queue and len(seen) < limit:
        state = queue.popleft()
        for pause in (0.0, 1.0):
            at = now + pause
            for event in events(state, at):
                after, reply, actions = machine.step(state, event, at, 0.5)
                check(machine, state, event, after, reply, actions, at)
                # the next step begins at the same `now` again: shift what was stored
                moved = machine.shift(after, now - at)
                key = relative(moved, now)
                if key not in seen:
                    seen[key] = moved
                    queue.append(moved)
    return seen


def check(
    machine: Breaker,
    before: BreakerMachineState,
    event: sg.Event,
    after: BreakerMachineState,
    reply: sg.Reply,
    actions: Any,
    now: float,
) -> None:
    """The invariants, at one step."""
    assert 0 <= after.attempts <= machine.max_reset_attempts
    assert after.ok + len(after.leases) <= after.need or after.state != B.HALF_OPEN
    assert after.issued <= 3 * after.need or after.state != B.HALF_OPEN
    if after.state == B.OPEN and after.state != before.state:
        assert after.until is not None
        assert after.until - now <= machine.max_wait * (1 + machine.jitter)
    if isinstance(event, sg.Acquire) and isinstance(reply, sg.Admit):
        assert after.state in (B.CLOSED, B.DISABLED, B.HALF_OPEN)
        assert before.state != B.FORCED_OPEN
        if before.state in (B.OPEN, B.LATCHED):
            assert before.until is not None
            assert now >= before.until
    if (
        isinstance(event, sg.Outcome)
        and event.token is not None
        and event.token.generation != before.generation
    ):
        assert after == before
        assert not actions
    if after.generation != before.generation:
        # a step that lets time open a round and then admits a probe moves twice at most
        assert after.generation - before.generation in (1, 2)
    if after.state == B.CLOSED and before.state not in (B.CLOSED, B.DISABLED):
        assert before.state == B.HALF_OPEN
        assert before.ok + 1 == before.need


def heals(machine: Breaker, state: BreakerMachineState) -> bool:
    """Does a healthy target close the breaker within a bounded time?"""
    now = 100.0
    for _ in range(60):
        if state.state == B.CLOSED:
            return True
        state, reply, _ = machine.step(state, sg.Acquire(), now, 0.5)
        if isinstance(reply, sg.Admit) and reply.token.id:
            state, _, _ = machine.step(state, sg.Outcome(successes=1, token=reply.token), now, 0.5)
        else:
            now += 1.0
            state, _, _ = machine.step(state, sg.Tick(), now, 0.5)
    return state.state == B.CLOSED


def explore(machine: Breaker, every: int) -> int:
    """Check all reachable states; heal each ``every``-th of them. How many there are."""
    limit = 200_000
    seen = reachable(machine, limit)

    assert len(seen) < limit  # nothing is left to find
    assert {state.state for state in seen.values()} == set(B)
    for state in list(seen.values())[::every]:
        if state.state != B.FORCED_OPEN:
            assert heals(machine, state), state
    return len(seen)


def test_every_reachable_state_keeps_the_invariants() -> None:
    """All 6,000 or so states of a tiny configuration: no admission while open, probes bounded, stale
    results without effect, attempts bounded, and a healthy target heals from everywhere but forced
    open."""
    tiny = attrs.evolve(
        SMALL, window_calls=2, minimum_calls=2, slow_rate=None, stable=3.0, slow_probe=4.0
    )
    assert explore(tiny, every=6) > 5_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_reachable_state_of_a_longer_window_keeps_the_invariants() -> None:
    """The same on all 103,728 states with a window of four calls, each of them healed."""
    assert explore(SMALL, every=1) > 100_000


def drive(machine: Breaker, *steps: tuple[sg.Event, float]) -> tuple[Any, list[Any]]:
    """Step from the start; the last state and all actions."""
    state, actions = machine.start(), []
    for event, now in steps:
        state, _, more = machine.step(state, event, now, 0.0)
        actions.extend(more)
    return state, actions


def test_five_in_a_row_open_and_a_success_between_does_not() -> None:
    """The threshold is consecutive failures."""
    fail, good = sg.Outcome(failures=1), sg.Outcome(successes=1)

    opened, _ = drive(Breaker(), *[(fail, 1.0)] * 5)
    kept, _ = drive(Breaker(), *[(fail, 1.0)] * 4, (good, 1.0), *[(fail, 1.0)] * 4)

    assert opened.state == B.OPEN
    assert opened.until == 31.0
    assert kept.state == B.CLOSED


def test_half_of_the_window_opens_without_a_streak() -> None:
    """Failures and successes in turn: the rate over at least 20 calls opens it, also on a success."""
    fail, good = sg.Outcome(failures=1), sg.Outcome(successes=1)

    opened, _ = drive(Breaker(), *[(fail, 1.0), (good, 1.0)] * 10)
    few, _ = drive(Breaker(), *[(fail, 1.0), (good, 1.0)] * 9)

    assert opened.state == B.OPEN
    assert few.state == B.CLOSED


def test_waits_double_and_three_failed_rounds_latch() -> None:
    """30, 60, 120 seconds; then latched, which asks for the variant's rollback."""
    machine = Breaker(half_open_probes=1)
    state, now, waits = machine.start(), 0.0, []
    asked = []
    for _ in range(5):
        state, _, _ = machine.step(state, sg.Outcome(failures=1), now, 0.0)
    for _ in range(3):
        waits.append(state.until - now)
        now = state.until
        state, reply, _ = machine.step(state, sg.Acquire(), now, 0.0)
        assert isinstance(reply, sg.Admit)
        state, _, actions = machine.step(state, sg.Outcome(failures=1, token=reply.token), now, 0.0)
        asked += [a for a in actions if isinstance(a, sg.AskRollback)]

    assert waits == [30.0, 60.0, 120.0]
    assert state.state == B.LATCHED
    assert len(asked) == 1


def test_a_lost_probe_is_a_failed_probe() -> None:
    """A permit that never comes back can not keep the breaker half open."""
    state, _ = drive(
        Breaker(), *[(sg.Outcome(failures=1), 0.0)] * 5, (sg.Acquire(), 31.0), (sg.Tick(), 42.0)
    )

    assert state.state == B.OPEN
    assert state.attempts == 1


def test_an_ignored_probe_gives_its_permit_back() -> None:
    """A cancelled call is no evidence; another may probe."""
    machine = Breaker(half_open_probes=1)
    state, _ = drive(machine, *[(sg.Outcome(failures=1), 0.0)] * 5)
    state, reply, _ = machine.step(state, sg.Acquire(), 31.0, 0.0)
    assert isinstance(reply, sg.Admit)

    state, _, actions = machine.step(state, sg.Outcome(ignored=True, token=reply.token), 32.0, 0.0)
    _, again, _ = machine.step(state, sg.Acquire(), 32.0, 0.0)

    assert [a.permits for a in actions] == [1]
    assert isinstance(again, sg.Admit)


def test_attempts_are_forgotten_after_health_not_at_the_close() -> None:
    """Closing keeps the failed rounds; 300 healthy seconds forget them."""
    machine = Breaker(half_open_probes=1)
    closed = BreakerMachineState(state=B.CLOSED, generation=7, attempts=2, since=100.0)

    early, _, _ = machine.step(closed, sg.Tick(), 399.0, 0.0)
    late, _, _ = machine.step(closed, sg.Tick(), 400.0, 0.0)
    tripped = closed
    for _ in range(5):
        tripped, _, _ = machine.step(tripped, sg.Outcome(failures=1), 200.0, 0.0)

    assert (early.attempts, late.attempts) == (2, 0)
    assert tripped.state == B.LATCHED


# -- around the machine ---------------------------------------------------------------------------


def test_operator_verbs_and_restarts(tmp_path: Any, clock: Clock) -> None:
    """Forced open survives restarts; reset probes and never closes by itself."""
    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        manager.variants.propose("x", {}, id="x")
        manager.breakers.force_open("x")
    for _ in range(20):
        with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
            assert manager.breakers.status("x").state == B.FORCED_OPEN
            with pytest.raises(BreakerOpenError, match="an operator must reset it"):
                manager.breakers.acquire("x")

    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        assert manager.breakers.reset("x").state == B.HALF_OPEN
        for _ in range(3):
            manager.breakers.acquire("x").success()
        assert manager.breakers.status("x").state == B.CLOSED


def test_eight_threads_lose_no_count_and_share_the_permits(
    opened: Callable[..., EmergenceManager], clock: Clock
) -> None:
    """Closed calls run side by side and all are counted; half open admits exactly three."""
    manager = opened()
    manager.variants.activate(manager.variants.propose("x", {}, id="x"))

    def work() -> None:
        for _ in range(2_000):
            manager.breakers.acquire("x").success()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert manager.breakers.of("x").counts.successes == 16_000

    for _ in range(5):
        manager.breakers.acquire("x").failure()
    clock.advance(61)
    manager.tick()
    admitted: list[Any] = []

    def probe() -> None:
        for _ in range(50):
            try:
                admitted.append(manager.breakers.acquire("x"))
            except BreakerOpenError:
                pass

    threads = [threading.Thread(target=probe) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 3
