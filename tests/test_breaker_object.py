"""The breaker as an object, against the pure function it is made of: the same history, the same state."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from xenolect import BreakerOpenError
from xenolect import safeguards as sg
from xenolect.breaker import CircuitBreaker, Permit
from xenolect.model import BreakerState as B
from xenolect.testing import Clock
from xenolect_plugins.breaker import Breaker

DRAW = 0.25
MACHINES = [
    Breaker(
        failure_threshold=2,
        reset_timeout=2.0,
        max_reset_attempts=2,
        half_open_probes=2,
        max_wait=4.0,
        stable=30.0,
        lease=3.0,
        window=12.0,
        window_calls=12,
        minimum_calls=6,
        failure_rate=0.5,
        slow_probe=10.0,
    ),
    Breaker(failure_rate=None, half_open_probes=1, stable=60.0),
    Breaker(),
]
TIMES = st.sampled_from([0.0, 0.25, 1.0, 2.5, 4.0, 11.0, 40.0, 400.0])


@attrs.define
class Held:
    """A permit of the object, and the token the function gave for the same call."""

    permit: Permit
    token: sg.Token


class ObjectAgainstFunction(RuleBasedStateMachine):
    """Every event goes to both. The object may be behind (its tape, permits taken without a lock),
    so both are compared where it has to catch up, not at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(1_000.0)
        self.held: list[Held] = []
        self.counts = [0, 0, 0]

    @initialize(number=st.sampled_from(range(len(MACHINES))))
    def begin(self, number: int) -> None:
        """One of the configurations."""
        self.machine = MACHINES[number]
        self.real = CircuitBreaker("x", machine=self.machine, clock=self.clock, draw=lambda: DRAW)
        self.model = self.machine.start()

    def model_step(self, event: sg.Event) -> sg.Reply:
        """The function's turn."""
        if isinstance(event, sg.Outcome) and (
            event.token is None or event.token.generation == self.model.generation
        ):
            self.counts[0] += event.successes
            self.counts[1] += event.failures
            self.counts[2] += event.ignored
        self.model, reply, _ = self.machine.step(self.model, event, self.clock(), DRAW)
        return reply

    def took(self, permit: Permit | None) -> None:
        """The object admitted a call, or not; the function must say the same."""
        reply = self.model_step(sg.Acquire())
        assert isinstance(reply, sg.Admit) == (permit is not None), (reply, self.model)
        if permit is not None:
            assert isinstance(reply, sg.Admit)
            self.held.append(Held(permit, reply.token))

    @rule()
    def acquire(self) -> None:
        """Ask for a permit."""
        try:
            self.took(self.real.acquire())
        except BreakerOpenError:
            self.took(None)

    @precondition(lambda self: self.model.state == B.HALF_OPEN)
    @rule()
    def claim(self) -> None:
        """Take a published permit without a lock, as selection does."""
        expired = any(ends <= self.clock() for _, ends in self.model.leases)
        permit = self.real.claim()
        if permit is not None:
            if expired:  # the function hears of both at once: the round is lost, the permit stale
                self.model_step(sg.Acquire())
                self.held.append(Held(permit, sg.Token(-1)))
            else:
                self.took(permit)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 10**6), how=st.sampled_from(["success", "failure", "ignore"]))
    def give_back(self, which: int, how: str) -> None:
        """A permit returns, perhaps of an old generation."""
        held = self.held.pop(which % len(self.held))
        getattr(held.permit, how)()
        outcome = {
            "success": sg.Outcome(successes=1),
            "failure": sg.Outcome(failures=1),
            "ignore": sg.Outcome(ignored=True),
        }[how]
        self.model_step(attrs.evolve(outcome, token=held.token))

    @rule(good=st.integers(0, 3), bad=st.integers(0, 3))
    def report(self, good: int, bad: int) -> None:
        """Calls that took no permit."""
        self.real.report(good, bad)
        self.model_step(sg.Outcome(good, bad))

    @rule(many=st.integers(1, 600))
    def succeed(self, many: int) -> None:
        """More successes in a row than the tape holds."""
        for _ in range(many):
            self.real.report(1, 0)
        for _ in range(many):
            self.model_step(sg.Outcome(successes=1))

    @rule(seconds=TIMES)
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @rule()
    def tick(self) -> None:
        """Somebody looks at the clock."""
        self.real.tick()
        self.model_step(sg.Tick())

    @rule(verb=st.sampled_from(["force_open", "disable", "reset"]))
    def operate(self, verb: str) -> None:
        """The operator."""
        if verb == "disable":
            self.real.disable(5.0)
            self.model_step(sg.Disable(self.clock() + 5.0))
        else:
            getattr(self.real, verb)()
            self.model_step(sg.ForceOpen() if verb == "force_open" else sg.Reset())

    @rule()
    def compare(self) -> None:
        """Caught up, both are in the same state to the last field, and no count is lost."""
        with self.real._lock:
            self.real._lease()
        counts = self.real.counts
        assert self.real.state == self.model
        assert [counts.successes, counts.failures, counts.ignored] == self.counts

    @invariant()
    def the_object_knows_its_kind(self) -> None:
        """Closed, open or else: that much is never behind."""
        if not self.held and hasattr(self, "real"):
            with self.real._lock:
                self.real._lease()
            assert self.real.status.state == self.model.state

    def teardown(self) -> None:
        """Compare once more at the end."""
        if hasattr(self, "real"):
            self.compare()


TestObjectAgainstFunction = ObjectAgainstFunction.TestCase
TestObjectAgainstFunction.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestObjectAgainstFunctionLonger(ObjectAgainstFunction.TestCase):  # type: ignore[misc]
    """The same, 1,000 longer histories."""

    settings = settings(
        max_examples=1_000, stateful_step_count=80, deadline=None, report_multiple_bugs=False
    )
