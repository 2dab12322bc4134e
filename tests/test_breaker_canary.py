"""A canary whose breaker opens: suspended at once, and then it heals or latches. Never stuck, never more
than the permits."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import pytest

from xenolect import AgentContext, EmergenceManager, hookimpl, offer
from xenolect.hookspecs import Offer
from xenolect.judges import Evidence
from xenolect.model import BreakerState as B
from xenolect.model import CanaryState as C
from xenolect.model import Reason, Selection, Verdict
from xenolect.testing import Clock

AGENTS = [f"a{i}" for i in range(24)]
CANARY = {
    "initial_fraction": 0.3,
    "ramp_steps": 2,
    "health_check_interval": 30.0,
    "min_operations": 1,
    "min_units": 1,
    "judge": "patient",
    "max_attempts": 3,
}
LONGEST = 3 * 1800.0 + 3600.0  # three slow probes and a recovery, in seconds of the test's clock


@attrs.define
class Patient:
    """A judge that is content with everything: what ends these rollouts is the breaker."""

    verdict: Verdict = Verdict.CONTINUE

    def start(self, baseline: Any, config: Any) -> Any:
        """Nothing to remember."""
        return ()

    def update(self, state: Any, records: Sequence[Any]) -> tuple[Verdict, Evidence]:
        """Always the same."""
        return self.verdict, Evidence(canary_operations=1, control_operations=1)

    def dump(self, state: Any) -> bytes:
        """Nothing."""
        return b""

    def load(self, data: bytes) -> Any:
        """Nothing."""
        return ()

    @hookimpl
    def xenolect_judges(self) -> Iterable[Offer[Any]]:
        """Itself."""
        yield offer("patient", lambda: self)


class Hands(Clock):
    """A clock that leases go by as well."""

    def alive(self) -> float:
        """The same time."""
        return self.now


class World:
    """A fleet, one canary, and an outage of it, all drawn from one seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.seed = seed
        self.clock = Hands(1_800_000_000.0)
        self.judge = Patient()
        self.manager = self._open()
        for name in ("base", "x"):
            self.manager.variants.propose(name, {"n": name}, id=name)
        self.manager.variants.activate("base")
        self.manager.agents.register_many([(name, AgentContext()) for name in AGENTS])
        self.manager.canaries.start("x", seed=seed)
        self.seen: Counter[str] = Counter()
        self.probes: Counter[int] = Counter()  # by generation of the breaker
        self.sick = {"base": 0.0, "x": 0.0}  # the chance of a failure
        self.lossy = self.draw.choice([0.0, 0.0, 0.1, 0.3])  # calls that are never reported
        self.breaks_off = self.draw.choice([0.0, 0.1, 0.3])  # calls that are cancelled

    def _open(self) -> EmergenceManager:
        return EmergenceManager.open(
            plugins=[self.judge],
            index={"use": "memory", "name": f"suspended canary {id(self)} {self.seed}"},
            chunks={"use": "memory", "name": f"suspended canary {id(self)} {self.seed}"},
            clock=self.clock,
            seed=self.seed,
            background=False,
            canary=CANARY,
        )

    @property
    def breaker(self) -> Any:
        """The canary's."""
        return self.manager.breakers.of("x")

    @property
    def state(self) -> C:
        """Where the rollout stands."""
        return self.manager.canaries.status("x").state

    def restart(self) -> None:
        """Close and open again; permits and leases of the old process are gone."""
        self.manager.close()
        self.manager = self._open()

    def served(self, chosen: Selection) -> None:
        """No canary without a permit while its breaker is shut; no more permits than a round has."""
        if chosen.variant.id != "x":
            return
        state = self.breaker.state
        if chosen.permit is None:
            assert self.state != C.SUSPENDED
            assert state.state in (B.CLOSED, B.DISABLED)
            return
        assert chosen.reason == Reason.CANARY
        generation = chosen.permit.generation
        self.probes[generation] += 1
        assert self.probes[generation] <= 3 * state.need or state.generation != generation
        assert state.ok + len(state.leases) <= max(state.need, 1)

    def traffic(self, calls: int) -> None:
        """So many calls of agents drawn by chance."""
        for _ in range(calls):
            agent = self.draw.choice(AGENTS)
            chosen = self.manager.select(agent)
            self.served(chosen)
            if self.draw.random() < self.lossy:
                continue
            if chosen.permit is not None and self.draw.random() < self.breaks_off:
                chosen.permit.ignore()
                continue
            good = self.draw.random() >= self.sick[chosen.variant.id]
            self.manager.report(chosen, agent, success=good)

    def live(self, seconds: float, calls: int, until: Any = lambda: False, pace: int = 1) -> None:
        """Let time pass in steps, with traffic."""
        end = self.clock() + seconds
        while self.clock() < end and not until():
            self.clock.advance(self.draw.choice([1.0, 2.0, 5.0, 9.0]) * pace)
            self.manager.tick()
            self.traffic(self.draw.randrange(calls + 1))
            self.seen[f"{self.state} {self.breaker.status.state}"] += 1

    @property
    def settled(self) -> bool:
        """Over, or out of the suspension with a closed breaker; the control's is closed as well."""
        if self.manager.breakers.status("base").state != B.CLOSED:
            return False
        if self.state == C.ROLLED_BACK:
            return True
        return self.breaker.status.state == B.CLOSED and self.state in (C.RAMPING, C.HOLD)


def run(seed: int) -> tuple[str, Counter[str]]:
    """One life: healthy, an outage (short, long, endless, or of both arms), and what became of it."""
    world = World(seed)
    draw = world.draw
    try:
        world.live(60.0, 12)
        if draw.random() < 0.3:
            world.judge.verdict = Verdict.PROMOTE  # ramps up before the outage
            world.live(40.0, 12)
            world.judge.verdict = Verdict.CONTINUE
        kind = draw.choice(["short", "long", "endless", "both", "flapping"])
        sick = {"x": draw.choice([0.7, 1.0]), "base": 1.0 if kind == "both" else 0.0}
        if kind == "endless":
            sick["x"] = 1.0  # with fewer failures a round may well succeed by chance
        for _ in range(4 if kind == "flapping" else 1):
            world.sick = sick
            spell = {"short": 40.0, "flapping": 40.0}.get(kind, draw.choice([150.0, 400.0]))
            world.live(spell, 12)
            if draw.random() < 0.3:
                world.live(draw.choice([100.0, 900.0]), 0, pace=4)  # nobody calls at all
            if draw.random() < 0.2:
                world.restart()
            if kind != "endless":
                world.sick = {"x": 0.0, "base": 0.0}
            world.live(60.0 if kind == "flapping" else 0.0, 12)
        world.lossy = world.breaks_off = 0.0
        world.live(LONGEST, 12, until=lambda: world.settled, pace=4)
        assert world.settled, (seed, kind, world.state, world.breaker.state)
        healed = world.state != C.ROLLED_BACK
        assert not (healed and kind == "endless" and world.seen["suspended open"]), seed
        if healed:
            world.live(200.0, 12, pace=4)
            chosen = [world.manager.select(agent) for agent in AGENTS]
            assert any(s.variant.id == "x" for s in chosen)
            assert all(s.permit is None for s in chosen)
        else:
            assert {world.manager.select(agent).variant.id for agent in AGENTS} == {"base"}
        return f"{kind} {'healed' if healed else 'rolled back'}", world.seen
    finally:
        world.manager.close()


def outcomes(seeds: range) -> None:
    """All of these lives; each kind of outage met both ends that it can have."""
    ends: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for seed in seeds:
        end, states = run(zlib.crc32(b"suspended") + seed)
        ends[end] += 1
        seen += states
    assert seen["suspended open"]
    assert seen["suspended half_open"]
    assert seen["recovering closed"]
    assert ends["short healed"]
    assert ends["endless rolled back"]
    assert ends["both healed"]


def test_a_suspended_canary_heals_or_latches() -> None:
    """In each of 40 drawn lives, with lost and cancelled probes, silence and restarts."""
    outcomes(range(40))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_suspended_canary_heals_or_latches_in_a_thousand_lives() -> None:
    """The same in 1,000."""
    outcomes(range(1_000))
