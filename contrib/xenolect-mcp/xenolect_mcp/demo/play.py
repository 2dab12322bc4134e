"""The demo's five phases: the only module of it that talks to the manager in this process.

Each phase proposes a variant, starts a canary against the current winner under the policy, and deals
conversations until the manager has decided or none are left. Nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import attrs
import httpx2

from xenolect import (
    Agent,
    AgentContext,
    EmergenceManager,
    Reason,
)
from xenolect_mcp import data
from xenolect_mcp.data import Session
from xenolect_mcp.demo import dictionaries
from xenolect_mcp.demo.clients import Clients, Server, Ticket, serving
from xenolect_mcp.demo.outcomes import OVER, decided, end
from xenolect_mcp.demo.results import Arm, Attempt, PhaseResult, Results, Sample
from xenolect_mcp.demo.screen import Screen
from xenolect_mcp.demo.server import LENIENT, scaled
from xenolect_mcp.demo.steps import LAGGING, Step, steps
from xenolect_mcp.demo.traffic import DICTIONARY, Member, deal, fleet, training
from xenolect_mcp.transport import Exchange
from xenolect_mcp.wire import Dictionary

__all__ = ["Play", "policy_text"]

CONCURRENCY = (
    8  # conversations at a time: enough to keep both processes busy (2.9 -> 2.0 ms a call)
)
WARM_UP = (
    120  # conversations before the first rollout; what is said in them trains the dictionaries
)
REPLAYED = 300  # conversations in which the final assignment is tried
SAMPLE = 0.05  # seconds between two looks at a rollout
PATIENCE = 3.0  # seconds for a decision after the last conversation


def policy_text() -> str:
    """The policy file as it is shipped."""
    return (resources.files("xenolect_mcp.demo") / "policy.toml").read_text("utf-8")


class Play:
    """Plays the demo on a store; ``results`` fills while it runs."""

    def __init__(
        self,
        store: Path,
        *,
        sessions: int = 600,
        seed: object = 0,
        screen: Screen | None = None,
        execute: bool = False,
    ) -> None:
        self.store = str(store)
        self.sessions = sessions
        self.seed = seed
        self.execute = execute
        self.screen = screen or Screen()
        self.policy = tomllib.loads(policy_text())
        self.members = list(fleet())
        self.results = Results(policy_text())
        self._epoch = time.time()
        self._began = time.perf_counter()
        self._generations: dict[int, Dictionary] = {}
        self._agreed = [0, 0]
        self._executed = [0, 0]

    @property
    def elapsed(self) -> float:
        """Seconds since the play was made."""
        return time.perf_counter() - self._began

    async def run(self) -> Results:
        """Everything: warm-up, five phases, and the replay in processes that start anew."""
        async with self._open() as stage:
            self.screen.began(f"{WARM_UP} conversations in plain JSON, to know the usual")
            winner = self._install(stage.manager)
            await stage.follow()
            bodies = await self._warm_up(stage, winner)
            first, second = await asyncio.to_thread(dictionaries.train, bodies)
            for number, step in enumerate(steps(len(self.members)), 1):
                if number == 2:
                    self._put(stage, step.variant, step, 1, first, 1.0)
                elif number == 4:
                    self._put(stage, step.variant, step, 2, second, 1.0 - LAGGING)
                elif number == 5:
                    self._propose(stage.manager, step, winner)
                    stage.manager.states.put(step.variant, second)
                else:
                    self._propose(stage.manager, step, winner)
                winner = await self._phase(stage, number, step, winner)
        # what was decided is in the store, and nowhere else: both processes start anew for the replay
        async with self._open() as stage:
            self.screen.began("every conversation once more, in processes that were started anew")
            await self._replay(stage)
        self.results.seconds = self.elapsed
        self.results.agreement = (self._agreed[0], self._agreed[1])
        self.results.executed = (self._executed[0], self._executed[1])
        return self.results

    # -- the stage --------------------------------------------------------------------------------

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Stage]:
        speed = float(self.policy["speed"])
        with EmergenceManager.open(
            self.store,
            clock=scaled(self._epoch, speed),
            seed=self.seed,
            actor="demo",
            scoring=self.policy["scoring"],
            breaker=self.policy["breaker"],
        ) as manager:
            async with (
                serving(self.store, self._epoch, self.policy, self.execute) as server,
                Clients(f"{server.url}/mcp") as clients,
                httpx2.AsyncClient(timeout=30.0) as http,
            ):
                for generation, dictionary in self._generations.items():
                    clients.publish(generation, dictionary)
                stage = Stage(manager, server, clients, http)
                await stage.follow()
                try:
                    yield stage
                finally:
                    status = await server.status(http)
                    self._agreed[0] += status["agreed"]
                    self._agreed[1] += status["differed"]
                    self._executed[0] += status["executed"][0]
                    self._executed[1] += status["executed"][1]

    def _install(self, manager: EmergenceManager) -> str:
        """The fleet and the protocol it speaks today."""
        manager.agents.register_many([(m.name, _context(m)) for m in self.members])
        plain = {"wire": "json", "tools": LENIENT}
        manager.variants.activate(manager.variants.propose("JSON as it is", plain, id="json"))
        self.results.facts = {
            "agents": len(self.members),
            "sessions": self.sessions,
            "lagging": round(LAGGING * len(self.members)),
            "speed": self.policy["speed"],
            "concurrency": CONCURRENCY,
            "seed": self.seed,
            "harm_at": 100.0,
            "safe_at": 20.0,
        }
        return "json"

    def _propose(self, manager: EmergenceManager, step: Step, parent: str | None) -> None:
        manager.variants.propose(
            step.what,
            step.changes,
            id=step.variant,
            requirements=step.requirements,
            parent_id=parent,
        )

    def _put(
        self, stage: Stage, variant: str, step: Step, generation: int, body: bytes, share: float
    ) -> None:
        """A dictionary as the state of its variant; a share of the agents fetches it."""
        manager = stage.manager
        self._propose(manager, step, None)
        manager.states.put(variant, body)
        fetched = Dictionary(variant, manager.states.get(variant))
        self._generations[generation] = fetched
        stage.clients.publish(generation, fetched)
        order = list(range(len(self.members)))
        random.Random(f"lag {self.seed}").shuffle(order)
        for i in order[: len(order) - round((1.0 - share) * len(order))]:
            member = attrs.evolve(self.members[i], dictionary=generation)
            self.members[i] = member
            manager.agents.update(member.name, _context(member))

    # -- traffic ----------------------------------------------------------------------------------

    async def _warm_up(self, stage: Stage, winner: str) -> list[bytes]:
        bodies: list[bytes] = []
        stage.clients.hear = bodies.append
        held = list(training())
        random.Random(f"warm {self.seed}").shuffle(held)
        pairs = [
            (self.members[i % len(self.members)], session)
            for i, session in enumerate(held[:WARM_UP])
        ]
        await self._deal(stage, 0, pairs, None, None, self.results.warm_up, lambda: False)
        stage.clients.hear = None
        return bodies

    async def _phase(self, stage: Stage, number: int, step: Step, winner: str) -> str:
        manager = stage.manager
        eligible = sum(not _refuses(manager, step.variant, member.name) for member in self.members)
        phase = PhaseResult(
            number,
            step.title,
            step.what,
            step.variant,
            winner,
            step.expected,
            note=step.note,
            agents_eligible=eligible,
        )
        self.results.phases.append(phase)
        status = manager.canaries.start(
            step.variant,
            control=winner,
            replaces=winner if step.replaces else None,
            seed=f"{self.seed}/{number}",
            **self.policy["rollout"],
        )
        phase.levels = tuple(status.levels)
        await stage.follow()
        phase.started = self.elapsed
        self.screen.phase(phase)

        over = asyncio.Event()
        watcher = asyncio.create_task(self._watch(stage, phase, over))
        pairs = list(deal(self.sessions, self.members, f"{self.seed}/{number}"))
        control = manager.variants.get(winner)
        await self._deal(
            stage, number, pairs, step.variant, control, phase.attempts, over.is_set, phase
        )
        try:
            await asyncio.wait_for(over.wait(), PATIENCE)
        except TimeoutError:
            over.set()
        await watcher
        if phase.outcome == "undecided":
            await asyncio.to_thread(end, manager, phase)
        await asyncio.to_thread(manager.flush)
        self.screen.decided(phase)
        return step.variant if phase.outcome == "promoted" else winner

    async def _watch(self, stage: Stage, phase: PhaseResult, over: asyncio.Event) -> None:
        """Let the manager's time pass, and look at the rollout, until it is decided."""
        while True:
            await asyncio.to_thread(stage.manager.tick)
            status = stage.manager.canaries.status(phase.variant)
            evidence = status.evidence
            tally = phase.tally(Arm.CANARY)
            phase.samples.append(
                Sample(
                    self.elapsed,
                    status.fraction,
                    float(evidence.get("e_value", 1.0)),
                    float(evidence.get("noninferiority", 1.0)),
                    tally.calls,
                    tally.failed,
                    str(status.state),
                )
            )
            phase.ended = self.elapsed
            phase.evidence = json.loads(json.dumps(dict(evidence), default=_plain))
            if status.state in OVER or over.is_set():
                decided(phase, status)
                over.set()
                self.screen.moved(phase)
                return
            self.screen.moved(phase)
            await asyncio.sleep(SAMPLE)

    async def _deal(
        self,
        stage: Stage,
        number: int,
        pairs: Sequence[tuple[Member, Session]],
        canary: str | None,
        control: Any,
        attempts: list[Attempt],
        over: Callable[[], bool],
        phase: PhaseResult | None = None,
    ) -> None:
        """Conversations, a few at a time. One that began is finished, also when all is decided."""
        waiting = iter(pairs)

        async def worker() -> None:
            for member, session in waiting:
                if over():
                    return
                if phase is not None:
                    phase.sessions += 1
                await self._converse(stage, number, member, session, canary, control, attempts)

        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))

    async def _converse(
        self,
        stage: Stage,
        number: int,
        member: Member,
        session: Session,
        canary: str | None,
        control: Any,
        attempts: list[Attempt],
    ) -> None:
        name = f"{number}#{session.id}"
        for index, call in enumerate(session.calls):
            exchange = Exchange()
            error = ""
            started = time.perf_counter()
            guarded = stage.manager.call(member.name, session=name)
            variant = guarded.variant
            try:
                with guarded:
                    failed = await stage.clients.call(
                        member, call, Ticket(name, index, variant.id, variant.changes), exchange
                    )
                    guarded.metric("wire_ratio", exchange.bodies / exchange.plain)
                    guarded.metric("tool_error", float(failed))
            except (
                Exception
            ) as problem:  # what a client would see; it is counted, and repeated below
                error = f"{type(problem).__name__}: {problem}".partition("\n")[0][:300]
            arm = _arm(guarded.selection.reason, variant.id, canary, number)
            attempts.append(
                self._attempt(arm, member, name, call, variant.id, error, started, exchange)
            )
            if error and arm is Arm.CANARY:
                await self._again(stage, member, name, index, call, control, attempts)

    async def _again(
        self,
        stage: Stage,
        member: Member,
        name: str,
        index: int,
        call: data.Call,
        control: Any,
        attempts: list[Attempt],
    ) -> None:
        """Once more, as it was spoken before. Not reported: nobody chose it, it was the only way."""
        exchange, error = Exchange(), ""
        started = time.perf_counter()
        try:
            ticket = Ticket(name, index, control.id, control.changes)
            await stage.clients.call(member, call, ticket, exchange)
        except Exception as problem:  # final: the agent is broken, and the demo says so
            error = f"{type(problem).__name__}: {problem}".partition("\n")[0][:300]
        attempts.append(
            self._attempt(Arm.RETRY, member, name, call, control.id, error, started, exchange)
        )

    def _attempt(
        self,
        arm: Arm,
        member: Member,
        session: str,
        call: data.Call,
        variant: str,
        error: str,
        started: float,
        exchange: Exchange,
    ) -> Attempt:
        return Attempt(
            arm,
            member.name,
            session,
            call.suite,
            variant,
            not error,
            (time.perf_counter() - started) * 1000.0,
            exchange.bodies,
            exchange.plain,
            exchange.headers,
            self.elapsed,
            error,
        )

    async def _replay(self, stage: Stage) -> None:
        pairs = list(deal(min(self.sessions, REPLAYED), self.members, f"{self.seed}/replay"))
        number = len(self.results.phases) + 1
        await self._deal(stage, number, pairs, None, None, self.results.replay, lambda: False)
        self.results.assignment = dict(
            Counter(stage.manager.select(m.name).variant.id for m in self.members).most_common()
        )


@attrs.frozen
class Stage:
    """Both ends, open."""

    manager: EmergenceManager
    server: Server
    clients: Clients
    http: httpx2.AsyncClient

    async def follow(self) -> None:
        """Go on when the other process knows what this one knows."""
        await self.server.follows(self.http, self.manager.status()["revision"])


def _context(member: Member) -> AgentContext:
    """A member as the registry knows it; what it requires is the same as what it sends."""
    declared: dict[str, Any] = dict.fromkeys(member.declared, True)
    mcp = data.clients()[member.name]["protocolVersion"]
    return AgentContext({**declared, "mcp": mcp, DICTIONARY: member.dictionary}, platform="demo")


def _refuses(manager: EmergenceManager, variant: str, agent: Agent | str) -> bool:
    """Does a rule keep the agent from a variant that is only proposed so far?"""
    found = next((e for e in manager.explain(agent) if e.variant.id == variant), None)
    return found is None or not found.reason.startswith("its status is")


def _arm(reason: Reason, variant: str, canary: str | None, number: int) -> Arm:
    if canary is not None and variant == canary:
        return Arm.CANARY
    if reason == Reason.CONTROL:
        return Arm.CONTROL
    return Arm.REPLAY if canary is None and number else Arm.OTHER


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
