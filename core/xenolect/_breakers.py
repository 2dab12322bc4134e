"""``manager.breakers``: one breaker per variant, the set of shut ones that selection reads, how
processes share them, and those of single agents.

A breaker trips in memory first, so that this process is safe at once; what happened is then written for
the others, who look once a second and when a wait is over. Latched, forced and disabled breakers are
facts as well, and so in the journal. While the index fails, each process has its own breakers.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from xenolect import safeguards as sg
from xenolect._agent_breakers import AgentBreakers
from xenolect._breaker_records import KEPT, Ledger, Record, Times, read_record, revive
from xenolect._circuit import ADMITTING
from xenolect._permit import Permit
from xenolect._shut import Shut
from xenolect._variant_breaker import VariantBreaker, waiting
from xenolect.breaker import CircuitBreaker
from xenolect.errors import CorruptError, EmergenceError
from xenolect.facts import Put
from xenolect.interfaces import Safeguard
from xenolect.model import BreakerState, BreakerStatus

__all__ = ["Breakers"]

log = logging.getLogger("xenolect.safeguards")
B = BreakerState
JOURNALED = (B.LATCHED, B.FORCED_OPEN, B.DISABLED)
FENCE = 12.0  # seconds a round goes on without its right being renewed, which lasts 15
IDLE = 2.0  # seconds after which a round nobody used is left to another process
AGAIN = 0.25  # seconds before a right that another process holds is asked for again


class Breakers:
    """``manager.breakers``: status and operator verbs; and the set of shut variants."""

    def __init__(
        self,
        machine: Safeguard[Any],
        times: Times,
        resolve: Callable[[Any], str],
        rng: random.Random,
        ledger: Ledger,
    ) -> None:
        self.machine = machine
        self.slow_calls = bool(getattr(machine, "slow_rate", None))  # do latencies matter?
        self.times = times
        self.shut = Shut()
        self.degraded = False  # the index fails: what other processes see is not known here
        self._resolve = resolve
        self._rng = rng
        self._ledger = ledger
        self.made: dict[str, VariantBreaker] = {}  # at their first use
        apart = random.Random()  # its draws leave the manager's own stream as it is
        apart.setstate(rng.getstate())
        self.agents = AgentBreakers(machine, times.clock, apart.random)
        self._known: dict[str, Record] = {}  # the newest record seen or written, by variant
        self._unreadable: set[str] = set()
        self._unshared: set[str] = set()
        # before every breaker's own; held while the index is asked
        self._sharing = threading.RLock()
        # set by the manager: what to do when a breaker moves or gives up, and how to commit
        self.moved: Callable[[str, BreakerState, BreakerState], None] = lambda *_: None
        self.gave_up: Callable[[str, str], None] = lambda *_: None
        self.publish: Callable[[Put], None] = lambda _: None
        self.later: Callable[[Callable[[], None]], None] = lambda job: job()
        self.dependencies: Mapping[str, CircuitBreaker] = {}  # by name: "dependency:index"
        self.journaled: Callable[[str], Any] = lambda _: None  # the breaker's fact, or None

    def leave_parent(self) -> None:
        """In a forked child: the right to probe and what is not shared yet are the parent's."""
        self._sharing = threading.RLock()
        self._unshared.clear()
        self.agents.leave_parent()
        for breaker in list(self.made.values()):
            breaker.leave_parent()
            breaker.round_until = None
            if breaker.state.state == B.HALF_OPEN:
                breaker.replace(waiting(breaker.state, breaker.clock()))

    def draw(self) -> float:
        """A number in [0, 1) for jitter."""
        return self._rng.random()

    def of(self, variant_id: str) -> VariantBreaker:
        """The breaker of a variant, made at first use."""
        breaker = self.made.get(variant_id)
        if breaker is None:
            breaker = self.made.setdefault(variant_id, VariantBreaker(self, variant_id))
        return breaker

    def claim(self, variant_id: str) -> Permit | None:
        """A permit of a half-open breaker, or None; takes no lock."""
        breaker = self.made.get(variant_id)
        return None if breaker is None else breaker.claim()

    def outcome(
        self,
        variant_id: str,
        successes: int,
        failures: int,
        permit: Permit | None = None,
        latency_ms: float | None = None,
        agent_id: str | None = None,
    ) -> None:
        """Calls of one agent ended, with the permit they were made on, if any."""
        breaker = self.made.get(variant_id) or self.of(variant_id)
        slow = 0
        if breaker.slow_call is not None and latency_ms is not None:
            slow = successes + failures if latency_ms >= breaker.slow_call * 1000.0 else 0
        if permit is not None:
            permit.started = None  # the latency reported counts, not how long the permit was out
            permit.finish(sg.Outcome(successes, failures, slow))
        elif agent_id is not None and variant_id not in self.shut:
            self.agents.report(variant_id, agent_id, successes, failures, slow)
        if (
            permit is None or permit.circuit is not breaker
        ):  # an agent's probe is the variant's call
            breaker.report(successes, failures, slow)

    def is_shut(self, variant_id: str | None) -> bool:
        """Does the breaker refuse ordinary calls?"""
        return variant_id in self.shut

    def reason(self, variant_id: str, agent_id: str) -> str:
        """Why the breakers pass a variant by for an agent, in words; "" when they do not."""
        if variant_id in self.shut:
            return f"its breaker is {self.of(variant_id).status.state}"
        mine = self.agents.out.get(variant_id, {}).get(agent_id)
        return "" if mine is None else f"its breaker for this agent is {mine.status.state}"

    def tick(self) -> None:
        """Let time pass for every breaker that is not simply closed; hear of other processes."""
        self.follow()
        self.agents.tick()
        for breaker in list(self.made.values()):
            state = breaker.state
            if state.state == B.CLOSED and not state.attempts:
                continue
            if state.state == B.HALF_OPEN:
                self._keep_round(breaker)
            if breaker.due and not breaker.wanted and not self._alone():
                continue  # a process with traffic shall probe; one without would only block it
            breaker.tick()

    def forget(self, variant_id: str) -> None:
        """The variant was rolled back or archived: its tokens become stale."""
        breaker = self.made.pop(variant_id, None)
        self.shut.discard(variant_id)
        self.agents.forget(variant_id)
        if breaker is not None and (breaker.state.state != B.CLOSED or breaker.origin):
            self.later(lambda: self._drop(variant_id))

    def _drop(self, variant_id: str) -> None:
        with self._sharing:
            if variant_id not in self.made:
                self._try(lambda: self._ledger.drop(variant_id))

    # -- sharing --------------------------------------------------------------------------------------

    def changed(self, breaker: VariantBreaker, before: BreakerState, after: BreakerState) -> None:
        """A breaker of this process moved: tell, and share it soon."""
        self.moved(breaker.name, before, after)
        if after != B.HALF_OPEN:
            self._unshared.add(breaker.name)
            self.later(lambda: self.share(breaker.name))

    def share(self, variant_id: str) -> None:
        """Write this process's news for the others; on conflict the graver state stands."""
        with self._sharing:
            breaker = self.made.get(variant_id)
            if breaker is None or variant_id not in self._unshared:
                self._unshared.discard(variant_id)
                return
            done = False

            def job() -> None:
                nonlocal done
                done = any(self._share(breaker) for _ in range(8))

            if self._try(job) and done:
                self._unshared.discard(variant_id)

    def _share(self, breaker: VariantBreaker) -> bool:
        """Write the state down, or take another process's over; False to try again."""
        name, state = breaker.name, breaker.state
        if breaker.origin is not None or (state.state == B.HALF_OPEN and not breaker.operated):
            return True  # the end of a round will be told
        theirs = self._ledger.one(name)
        news = theirs is not None and self._newer(name, theirs) and not breaker.operated
        if theirs is not None and news and self._graver(theirs, state):
            self._adopt(breaker, theirs)
            self._end_round(breaker)
            return True
        known = self._known.get(name)
        serial = max(r.serial if r else 0 for r in (theirs, known)) + 1
        shared = waiting(state, breaker.clock()) if state.state == B.HALF_OPEN else state
        record = Record.of(self.machine, shared, self.times, serial)
        closed = state.state == B.CLOSED
        ttl = getattr(self.machine, "stable", KEPT) if closed else KEPT
        if not self._ledger.write(name, record, ttl):
            return False
        self._known[name] = record
        if breaker.state is state:
            breaker.origin = record.id
        self._journal(name, state.state, record)
        self._end_round(breaker)
        return breaker.state is state

    def _end_round(self, breaker: VariantBreaker) -> None:
        if breaker.round_until is not None and breaker.state.state != B.HALF_OPEN:
            breaker.round_until = None
            self._ledger.end_round(breaker.name)

    def _journal(self, name: str, state: BreakerState, record: Record) -> None:
        """Latched, forced and disabled are facts, and so is the end of them."""
        fact = self.journaled(name)
        was = None if fact is None else fact.get("kind")
        if state in JOURNALED or was in JOURNALED or (was == B.OPEN and state == B.CLOSED):
            kind = B.OPEN if state == B.HALF_OPEN else state
            self.publish(Put("breaker", name, {**attrs.asdict(record), "kind": str(kind)}))

    def _graver(self, theirs: Record, mine: Any) -> bool:
        try:
            other = self.machine.load(theirs.state).state
        except CorruptError:
            return False
        if other in JOURNALED:
            return True
        return bool(other == B.OPEN or mine.state in ADMITTING)

    def _newer(self, name: str, record: Record) -> bool:
        known = self._known.get(name)
        return known is None or known.serial < record.serial

    def follow(self) -> None:
        """Hear what other processes wrote, and write what could not be written before."""
        with self._sharing:
            for name in sorted(self._unshared):
                self.share(name)
            self._try(self._follow)

    def _follow(self) -> None:
        records = self._ledger.read()
        for name, record in records.items():
            if record is None:
                if name not in self._unreadable:
                    self._unreadable.add(name)
                    self._fail_closed(self.of(name))
            elif self._newer(name, record) and name not in self._unshared:  # else ``share`` weighs
                self._adopt(self.of(name), record)
        for name in [n for n in self._known if n not in records]:
            fact = self.journaled(name)
            if fact is not None and fact.get("kind") not in (None, B.CLOSED):
                continue  # its fact still says so
            gone = self._known.pop(name).id
            breaker = self.made.get(name)
            if breaker is not None and breaker.origin == gone and breaker.state.state != B.CLOSED:
                self.forget(name)

    def _adopt(self, breaker: VariantBreaker, record: Record) -> None:
        self._known[breaker.name] = record
        try:
            state = revive(self.machine, record, self.times)
        except CorruptError:
            self._fail_closed(breaker)
            return
        generation = max(state.generation, breaker.state.generation + 1)
        breaker.replace(attrs.evolve(state, generation=generation))
        breaker.origin = record.id

    def _fail_closed(self, breaker: VariantBreaker) -> None:
        """What was recorded can not be read: open, and probe after the first wait."""
        log.error("the record of the breaker of %s can not be read: it opens", breaker.label)
        breaker.step(sg.Outcome(failures=1_000_000))

    def adopt(self, variant_id: str, value: Any, at_open: bool) -> None:
        """Take over a journaled state (latched, forced, disabled, or the end of it).

        A state of None is what a rollback leaves: as if the breaker had never been there.
        """
        if value is None or value.get("state") is None:
            self._known.pop(variant_id, None)
            self.forget(variant_id)
            return
        try:
            record = read_record(value)
        except CorruptError:
            if at_open:
                self._fail_closed(self.of(variant_id))
            return
        if self._newer(variant_id, record):
            self._adopt(self.of(variant_id), record)

    # -- rounds ---------------------------------------------------------------------------------------

    def take_round(self, breaker: VariantBreaker) -> bool:
        """Get the right to probe, unless another process has it or moved the breaker meanwhile."""
        now = breaker.clock()
        if now < breaker.ask_again:
            return False
        with self._sharing:
            until = breaker.round_until
            if until is not None and now < until:
                return True
            taken = False

            def take() -> None:
                nonlocal taken
                name = breaker.name
                if not self._ledger.take_round(name):
                    return
                newest = self._ledger.one(name)
                if newest is None or not self._newer(name, newest) or name in self._unshared:
                    taken = True
                    return
                self._adopt(breaker, newest)  # another process's round ended a moment ago
                self._ledger.end_round(name)

            if not self._try(take) or taken:  # without the index every process probes for itself
                breaker.round_until = now + FENCE
                breaker.round_began = now
                return True
            breaker.ask_again = now + AGAIN
            return False

    def leave(self) -> None:
        """Give the rights to probe back, and what is not shared yet to the others, before closing."""
        with self._sharing:
            for name in sorted(self._unshared):
                self.share(name)
            for breaker in list(self.made.values()):
                if breaker.round_until is not None:
                    breaker.round_until = None
                    self._try(lambda name=breaker.name: self._ledger.end_round(name))  # type: ignore[misc]

    def _keep_round(self, breaker: VariantBreaker) -> None:
        """Renew the right to probe; let go of a round that others could use."""
        with self._sharing:
            now, name = breaker.clock(), breaker.name
            if now - breaker.round_began > IDLE and not self._alone() and breaker.withdraw():
                breaker.round_until = None
                breaker.ask_again = now + IDLE
                self._try(lambda: self._ledger.end_round(name))
                return
            held = True

            def renew() -> None:
                nonlocal held
                held = self._ledger.take_round(name)

            self._try(renew)
            if held:
                breaker.round_until = now + FENCE
            else:  # this process stood still so long that another one probes
                breaker.replace(waiting(breaker.state, now))
                breaker.round_until = None

    def _alone(self) -> bool:
        alone = True

        def ask() -> None:
            nonlocal alone
            alone = self._ledger.alone()

        self._try(ask)
        return alone

    def _try(self, job: Callable[[], None]) -> bool:
        """Ask the index; while it fails every process is on its own."""
        try:
            job()
        except EmergenceError as error:
            if not self.degraded:
                log.warning("breakers are not shared while the index fails: %s", error)
            self.degraded = True
            return False
        self.degraded = False
        return True

    # -- the public face ------------------------------------------------------------------------------

    def status(self, variant: Any) -> BreakerStatus:
        """Where the breaker stands: a variant's, or that of "dependency:index" or "dependency:chunks"
        where they are across a network."""
        if isinstance(variant, str) and variant in self.dependencies:
            return self.dependencies[variant].status
        return attrs.evolve(self.of(self._resolve(variant)).status, degraded=self.degraded)

    def acquire(self, variant: Any) -> Permit:
        """May one call pass? A permit, or BreakerOpenError with ``retry_after`` in seconds."""
        if isinstance(variant, str) and variant in self.dependencies:
            return self.dependencies[variant].acquire()
        return self.of(self._resolve(variant)).acquire()

    def force_open(self, variant: Any) -> BreakerStatus:
        """Refuse all calls until ``reset``; survives a restart."""
        return self._operate(variant, lambda breaker: breaker.force_open())

    def disable(self, variant: Any, ttl: Any = 3600.0) -> BreakerStatus:
        """Admit all calls for ``ttl`` (seconds, text as in "1h", or a timedelta; at most 24 h)."""
        return self._operate(variant, lambda breaker: breaker.disable(ttl))

    def reset(self, variant: Any) -> BreakerStatus:
        """Ask for probes now; never straight to closed."""
        return self._operate(variant, lambda breaker: breaker.reset())

    def _operate(
        self, variant: Any, verb: Callable[[CircuitBreaker], BreakerStatus]
    ) -> BreakerStatus:
        if isinstance(variant, str) and variant in self.dependencies:
            return verb(self.dependencies[variant])
        breaker = self.of(self._resolve(variant))
        with self._sharing:
            before = breaker.state
            verb(breaker)
            if breaker.state is not before:
                breaker.origin = None
                breaker.operated = True
                self._unshared.add(breaker.name)
                self.share(breaker.name)
                breaker.operated = False
            if breaker.state.state == B.HALF_OPEN and not breaker.may_probe():
                breaker.replace(waiting(breaker.state, breaker.clock()))
        return self.status(breaker.name)
