"""Random variants, agents and measurements, in a manager and in the plain rules alike."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from tests.plain_engine import Measurement, Plain, Variety

from xenolect import (
    Agent,
    AgentContext,
    EmergenceManager,
    NoCompatibleVariantError,
    PerformanceMetrics,
    Selection,
)

CALM = {"min_dwell": 0, "hysteresis": 0, "latency_target": "100ms"}


DECLARED = {
    "custom": {
        "tokens": {"direction": "lower", "bounds": [0, 4096]},
        "quality": {"direction": "higher", "bounds": [0, 1]},
        "unbounded": {"direction": "higher"},  # judged, but no part of a score
    }
}


CLOSE = 1e-9  # sums are added in another order


SHARES = {"performance": 0.3, "compatibility": 0.4, "stability": 0.3}


class World:
    """Random variants, agents and measurements, in a manager and in the plain rules alike."""

    def __init__(self, seed: int, make: Callable[..., EmergenceManager], agents: int) -> None:
        self.rng = rng = random.Random(seed)
        self.asked = 0
        self.manager = make(selection=CALM, max_variants=60, metrics=DECLARED)
        varieties = [Variety("base", {}, {})] if rng.random() < 0.8 else []
        for i in range(rng.randint(1, 12)):
            needs: dict[str, Any] = {}
            if rng.random() < 0.5:
                needs["zstd"] = f">={rng.randint(1, 12)}"
            if rng.random() < 0.3:
                needs["br"] = True
            varieties.append(
                Variety(f"v{i:02}", needs, {"old": True} if rng.random() < 0.2 else {})
            )
        rng.shuffle(varieties)
        self.plain = Plain(varieties, 100.0)
        for v in varieties:
            made = self.manager.variants.propose(
                v.id, {}, id=v.id, requirements=v.needs, conflicts=v.conflicts
            )
            self.manager.variants.activate(made, force=True)
        self.ids = [v.id for v in varieties]
        self.agents = [self._agent(f"a{i}") for i in range(agents)]
        self.manager.agents.register_many(
            [(a.id, a.context) for a in self.agents if rng.random() < 0.5]
        )

    def _agent(self, name: str) -> Agent:
        rng = self.rng
        can: dict[str, Any] = {}
        if rng.random() < 0.7:
            can["zstd"] = rng.choice(["1", "v2", 3, "8", "9", "10", "12"])
        can |= {name: True for name in ("br", "old") if rng.random() < 0.4}
        metrics = ["success", "latency", "resource", "throughput", "tokens", "quality", "unbounded"]
        likes = {m: rng.randint(0, 3) + 0.5 for m in metrics if rng.random() < 0.4}
        return Agent(name, AgentContext(can, likes, version=rng.choice(["1.2", "2.0"])))

    def measure(self, times: int) -> None:
        """Random measurements, some of agents, some of nobody."""
        rng = self.rng
        for _ in range(times):
            variant, count = rng.choice(self.ids), rng.choice([1, 1, 1, 7])
            failures = 1 if rng.random() < 0.05 else 0  # so few that no breaker opens by itself
            agent = rng.choice(self.agents) if rng.random() < 0.7 else None
            if agent is not None:
                self.manager.recommend(agent, 0)  # so that it is known
            metrics = PerformanceMetrics(
                1.0 - failures / count,
                latency_ms=rng.lognormvariate(4.6, 0.8) if rng.random() < 0.8 else None,
                resource_usage=rng.random() if rng.random() < 0.2 else None,
                throughput=rng.lognormvariate(4.6, 1.0) if rng.random() < 0.2 else None,
                custom={
                    name: rng.uniform(-0.1, 1.1) * most
                    for name, most in (("tokens", 4096), ("quality", 1), ("unbounded", 9))
                    if rng.random() < 0.2
                },
                count=count,
            )
            self.manager.record(variant, metrics, None if agent is None else agent.id)
            group = "" if agent is None else self.group(agent)
            self.plain.records.append(
                Measurement(
                    variant,
                    group,
                    count,
                    failures,
                    metrics.latency_ms,
                    metrics.resource_usage,
                    metrics.throughput,
                    metrics.custom,
                )
            )

    @staticmethod
    def group(agent: Agent) -> str:
        """The class of an agent, as text."""
        context = agent.context
        return json.dumps(
            [context.platform, context.version[0], context.capabilities], sort_keys=True
        )

    def shut(self, variant: str) -> None:
        """Open a breaker in both."""
        self.manager.breakers.force_open(variant)
        self.plain.shut.add(variant)

    def check(self, agent: Agent) -> None:
        """Every question has the plain answer."""
        can, likes = agent.context.capabilities, agent.context.preferences
        wanted = self.plain.ranked(can, self.group(agent), likes)
        ranked = self.manager.recommend(agent, 99)
        assert {s.variant.id for s in ranked} == {name for name, _ in wanted}
        for mine, (_, score) in zip(ranked, wanted, strict=True):
            assert abs(mine.score - score) < CLOSE
            assert abs(mine.score - dict(wanted)[mine.variant.id]) < CLOSE
        if not wanted:
            self._nothing(agent)
            return
        self.asked += 1  # another agent of the same kind, so that none stays with what it speaks
        chosen = self.manager.select(Agent(f"{agent.id}.{self.asked}", agent.context))
        assert self.plain.speaks(self.plain.varieties[chosen.variant.id], can)
        assert abs(chosen.score - wanted[0][1]) < CLOSE
        assert chosen.variant.id == ranked[0].variant.id
        if self.asked % 8 == 0:
            self._explained(agent, dict(wanted), chosen)

    def _explained(self, agent: Agent, wanted: dict[str, float], chosen: Selection) -> None:
        """Every variant has its verdict, every exclusion its reason."""
        explained = {e.variant.id: e for e in self.manager.explain(agent)}
        can = agent.context.capabilities
        for name, variety in self.plain.varieties.items():
            row = explained[name]
            assert row.eligible == (name in wanted)
            assert row.eligible or row.reason
            speaks = self.plain.speaks(variety, can)
            assert ("breaker" in row.reason) == (name in self.plain.shut and speaks)
            assert not row.eligible or abs((row.score or 0.0) - wanted[name]) < CLOSE
        assert [e for e in explained.values() if e.chosen] == [explained[chosen.variant.id]]
        assert set(chosen.excluded) == set(self.plain.varieties) - set(wanted)
        assert all(chosen.excluded.values())
        total = sum(w * chosen.parts[p] for p, w in SHARES.items())
        assert abs(total - chosen.score) < CLOSE

    def _nothing(self, agent: Agent) -> None:
        """Nobody may be served: the baseline ignores breakers only, else every reason is named."""
        baseline = self.manager.variants.baseline("default").id
        can = agent.context.capabilities
        if self.plain.speaks(self.plain.varieties[baseline], can):
            assert self.manager.select(Agent("new", agent.context)).variant.id == baseline
            return
        with pytest.raises(NoCompatibleVariantError) as caught:
            self.manager.select(agent)
        assert set(caught.value.excluded) == set(self.plain.varieties)

    def negotiate(self, ends: list[Agent]) -> None:
        """What all can speak and is best on average, or nothing."""
        common = self.plain.common(e.context.capabilities for e in ends)
        if not common:
            return
        found = self.manager.negotiate(ends)
        means = {
            name: sum(self.plain.score(name, self.group(e), e.context.preferences) for e in ends)
            / len(ends)
            for name in common
        }
        assert abs(found.score - max(means.values())) < CLOSE
        assert abs(means[found.variant.id] - max(means.values())) < CLOSE
