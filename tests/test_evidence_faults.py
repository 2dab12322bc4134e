"""Evidence is broken in every way that is known: nobody is promoted without proof, and no rollback waits.

Each of 216 runs has one fault, a healthy or a dead canary, and an operator who takes it back at the end
or does not. A run without a fault shows that the same traffic promotes the one and stops the other.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import (
    CanaryState,
    EmergenceManager,
    InvalidMetricsError,
    PerformanceMetrics,
    VariantStatus,
    Verdict,
    hookimpl,
)
from xenolect._replay import Replay
from xenolect.facts import Observation
from xenolect.hookspecs import Offer, offer
from xenolect.judges import Baseline, Evidence, JudgeConfig
from xenolect.model import AgentContext, ProtocolVariant
from xenolect.testing import Clock
from xenolect_plugins.evalue import EValue

AGENTS = 24
ROUNDS = 30
STORY = {
    "levels": [0.4, 0.95],
    "min_effect": 0.1,
    "min_operations": 30,
    "min_units": 2,
    "health_check_interval": 60.0,
    "unit": "agent",
}

Answer = Any


@attrs.define
class Broken:
    """The bundled judge, until ``fault`` is set; and a scorer, a rule and an observer beside it.

    ``judged`` counts updates; ``garbage`` is what ``update`` answers while the fault is "garbage".
    """

    fault: str = ""
    garbage: Answer = None
    judged: int = 0
    draw: random.Random = attrs.field(factory=random.Random)
    inner: EValue = attrs.field(factory=EValue)

    def start(self, baseline: Baseline, config: JudgeConfig) -> Any:
        """Begin, or raise."""
        if self.fault == "start":
            raise RuntimeError("no start today")
        return self.inner.start(baseline, config)

    def update(self, state: Any, records: Sequence[Observation]) -> Answer:
        """Fold, raise, or answer garbage; a judge that raises has folded half of it."""
        self.judged += 1
        if self.fault == "update" or (self.fault == "sometimes" and self.draw.random() < 0.1):
            self.inner.update(state, records[: len(records) // 2])
            raise ZeroDivisionError("by nothing\nat all")
        if self.fault == "garbage":
            return self.garbage
        return self.inner.update(state, records)

    def proves(self, state: Any, records: Sequence[Observation]) -> Answer:
        """The same within each record."""
        self.judged += 1
        if self.fault == "update" or (self.fault == "sometimes" and self.draw.random() < 0.1):
            raise ZeroDivisionError("by nothing\nat all")
        if self.fault == "garbage":
            return self.garbage
        return self.inner.proves(state, records)

    def dump(self, state: Any) -> bytes:
        """The state, or raise."""
        if self.fault == "dump":
            raise RuntimeError("not to be written down")
        return self.inner.dump(state)

    def load(self, data: bytes) -> Any:
        """Read what was dumped."""
        return self.inner.load(data)

    def score(self, candidates: Sequence[Any], agent: Any) -> Sequence[float]:
        """Nothing in particular, or raise."""
        if self.fault == "scorer":
            raise RuntimeError("no score today")
        return [0.5 for _ in candidates]

    def refuses(self, variant: ProtocolVariant, context: AgentContext) -> str | None:
        """Nobody, or raise for the canary."""
        if self.fault == "rule" and variant.id == "zstd":
            raise RuntimeError("no rule today")
        return None

    @hookimpl
    def xenolect_judges(self) -> Iterable[Offer[Any]]:
        """Offer itself, or raise when it is to be made."""
        yield offer("broken", self.made)

    def made(self) -> Broken:
        """Itself: whoever makes a judge gets this one."""
        if self.fault == "make":
            raise RuntimeError("can not be made")
        return self

    @hookimpl
    def xenolect_scoring(self) -> Iterable[Offer[Any]]:
        """Offer itself."""
        yield offer("broken", lambda: self)

    @hookimpl
    def xenolect_compatibility(self) -> Iterable[Offer[Any]]:
        """Offer itself."""
        yield offer("broken", lambda: self)

    @hookimpl
    def xenolect_observe(self, event: Any) -> None:
        """Hear nothing, or raise."""
        if self.fault == "observer":
            raise RuntimeError("deaf today")


GARBAGE: tuple[Any, ...] = (
    None,
    42,
    "promote",
    (Verdict.PROMOTE,),
    ("promote", Evidence(noninferiority=1e9)),
    (Verdict.PROMOTE, None),
    (Verdict.PROMOTE, {"noninferiority": 1e9}),
    (Verdict.PROMOTE, Evidence(noninferiority=math.nan)),
    (Verdict.PROMOTE, Evidence(noninferiority=math.inf)),
    (Verdict.PROMOTE, Evidence(e_value=math.nan, noninferiority=1e9)),
    (Verdict.PROMOTE, Evidence(e_value="many", noninferiority=1e9)),  # type: ignore[arg-type]
    (Verdict.PROMOTE, Evidence(noninferiority=1e9), "and more"),
)

SPEECHLESS = ("update", "start", "dump", "garbage", "make")
"""Faults of the judge itself."""
BLIND = ("update", "start", "garbage", "make", "nan", "empty", "stale", "no canary", "no control")
"""Faults that leave nobody with evidence: a promotion is a failure, whatever the canary is."""
FAULTS = (
    "update",
    "start",
    "dump",
    "garbage",
    "make",
    "sometimes",
    "scorer",
    "rule",
    "observer",
    "nan",
    "empty",
    "stale",
    "no canary",
    "no control",
    "duplicated",
    "reordered",
    "hour ahead",
    "hour back",
)


@attrs.define
class Story:
    """One rollout under one fault, as an operator would see it."""

    manager: EmergenceManager
    clock: Clock
    broken: Broken
    names: list[str]
    fault: str
    dead: bool
    draw: random.Random

    @property
    def status(self) -> VariantStatus:
        """Of the canary."""
        return self.manager.variants.get("zstd").status

    def metrics(self, ok: bool) -> PerformanceMetrics:
        """What is reported of one operation."""
        value = 1.0 if ok else 0.0
        latency = self.draw.lognormvariate(3.0, 0.2)
        if self.fault == "nan":
            return self.draw.choice(
                (
                    PerformanceMetrics(math.nan, latency),
                    PerformanceMetrics(value, math.nan),
                    PerformanceMetrics(value, custom={"x": math.nan}),
                )
            )
        if self.fault == "stale":
            past = self.clock() - self.draw.uniform(121.0, 7200.0)
            return PerformanceMetrics(value, latency, timestamp=datetime.fromtimestamp(past, UTC))
        if self.fault == "reordered":
            past = self.clock() - self.draw.uniform(0.0, 119.0)
            return PerformanceMetrics(value, latency, timestamp=datetime.fromtimestamp(past, UTC))
        return PerformanceMetrics(value, latency)

    def round(self) -> None:
        """Every agent operates once; a minute passes."""
        reports = []
        for name in self.names:
            chosen = self.manager.select(name, default="json")
            canary = chosen.variant.id == "zstd"
            ok = self.draw.random() >= (0.98 if canary and self.dead else 0.01)
            lost = {"empty": True, "no canary": canary, "no control": not canary}
            if not lost.get(self.fault, False):
                times = 5 if self.fault == "duplicated" else 1
                reports += [(chosen, self.metrics(ok), name)] * times
        if self.fault in ("reordered", "duplicated"):
            self.draw.shuffle(reports)
        for chosen, metrics, name in reports:
            if self.fault == "nan":
                with pytest.raises(InvalidMetricsError):
                    self.manager.record(chosen, metrics, name)
            else:
                self.manager.record(chosen, metrics, name)
        self.clock.advance(60.0)
        self.manager.tick()

    def proved(self) -> None:
        """A promotion stands on evidence that the judge repeats from what is stored."""
        document = self.manager._runtime.value("rollout", "zstd")
        evidence = document["evidence"]
        assert self.fault not in BLIND
        assert document["verdict"] == "promote"
        assert evidence["noninferiority"] >= evidence["promote_at"]
        assert evidence["canary_operations"] >= STORY["min_operations"]


def told(fault: str, dead: bool, seed: int, opened: Callable[..., EmergenceManager]) -> Story:
    """Start a rollout, let three rounds pass, break something, go on."""
    clock = Clock(1_800_000_000.0)
    broken = Broken(draw=random.Random(seed), garbage=GARBAGE[seed % len(GARBAGE)])
    shared = {"use": "memory", "name": f"evidence {fault} {dead} {seed}"}
    manager = opened(
        clock=clock,
        index=shared,
        chunks=shared,
        plugins=[broken],
        scoring={"performance": 0.5, "broken": 0.5},
        compatibility={"rules": ["capabilities", "broken"]},
        canary={"judge": {"use": "broken"}},
        seed=seed,
    )
    names = fleet(manager, AGENTS)
    json_and_zstd(manager)
    draw = random.Random(f"story {seed}")
    for name in names:
        for _ in range(4):
            manager.report("json", name, success=True, latency_ms=draw.lognormvariate(3.0, 0.2))
    story = Story(manager, clock, broken, names, "", dead, draw)
    manager.canaries.start("zstd", seed=seed, **STORY)
    if not dead:
        for _ in range(3):
            story.round()
    story.fault = broken.fault = fault
    if fault == "make":  # in a process that opens the store with the rollout running
        manager.close()
        story.manager = opened(
            clock=clock,
            index=shared,
            chunks=shared,
            plugins=[broken],
            scoring={"performance": 0.5, "broken": 0.5},
            compatibility={"rules": ["capabilities", "broken"]},
            seed=seed,
        )
    if fault == "start":  # of a judge that began long ago: it has to begin again
        broken.fault = "update"
        story.round()
        broken.fault = "start"
    for number in range(ROUNDS):
        if number == 4 and fault.startswith("hour"):
            clock.advance(3600.0 if fault == "hour ahead" else -3600.0)
        story.round()
    return story


CASES = [
    (fault, dead, operator, seed)
    for seed, (fault, dead, operator) in enumerate(
        (fault, dead, operator)
        for fault in FAULTS
        for dead in (False, True)
        for operator in (False, True)
        for _ in range(3)
    )
]


def test_there_are_two_hundred_runs() -> None:
    """As many as were promised."""
    assert len(CASES) >= 200


@pytest.mark.parametrize("dead", [False, True], ids=["healthy", "dead"])
def test_without_a_fault_the_judge_decides(dead: bool, opened: Callable[..., Any]) -> None:
    """The traffic of all runs below promotes a healthy canary and takes a dead one back."""
    story = told("", dead, 1, opened)

    assert story.status == (VariantStatus.ROLLED_BACK if dead else VariantStatus.ACTIVE)


@pytest.mark.parametrize(("fault", "dead", "operator", "seed"), CASES)
def test_a_fault_promotes_nobody_and_blocks_no_rollback(
    fault: str,
    dead: bool,
    operator: bool,
    seed: int,
    opened: Callable[..., EmergenceManager],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No promotion without proof; the operator's rollback goes through; the judge's, when it is back."""
    with caplog.at_level(logging.ERROR, "xenolect.safeguards"):
        story = told(fault, dead, seed, opened)
    manager = story.manager

    assert len(caplog.records) <= ROUNDS + 5  # of a judge that failed at every one of 720 records
    if story.status == VariantStatus.ACTIVE:
        assert not dead
        story.proved()
    if fault == "no canary":  # agents that fall silent while the others talk are evidence of harm
        assert story.status in (VariantStatus.CANARY, VariantStatus.ROLLED_BACK)
    elif fault in BLIND and not dead:
        assert story.status == VariantStatus.CANARY
        assert manager.canaries.status("zstd").state == CanaryState.HOLD
    if fault in SPEECHLESS and fault != "dump" and story.status == VariantStatus.CANARY:
        status = manager.canaries.status("zstd")
        assert status.verdict == Verdict.HOLD
        assert "the judge failed" in status.reason or status.state == CanaryState.SUSPENDED
    if operator:
        active = story.status == VariantStatus.ACTIVE
        assert manager.rollback("zstd", "the operator said so").status == "rolled_back"
        assert active or manager.canaries.status("zstd").state == CanaryState.ROLLED_BACK
    story.fault = story.broken.fault = ""
    for _ in range(3 if operator or not dead else ROUNDS):
        story.round()
    if dead or operator:
        assert story.status == VariantStatus.ROLLED_BACK
    for name in story.names:
        assert not dead or manager.select(name).variant.id == "json"
    manager.flush()
    again = Replay(manager._runtime.index, manager._runtime.registry).run()
    assert again.problems == ()
