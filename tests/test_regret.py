"""How much is lost by choosing with the score, against an oracle, in a frozen world."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.regret_world import CLASSES, VARIANTS, Choose, Learn, Outcome, World

from xenolect import Agent, AgentContext, EmergenceManager, PerformanceMetrics
from xenolect.testing import Clock

SEEDS = range(8)
Rule = Callable[[World, int], tuple[Choose, Learn]]


def anything(world: World, seed: int) -> tuple[Choose, Learn]:
    """Any variant."""
    r = random.Random(seed)
    return lambda groups: [r.randrange(VARIANTS) for _ in groups], lambda _: None


def compatible(world: World, seed: int) -> tuple[Choose, Learn]:
    """Any variant the agent can speak."""
    r = random.Random(seed)
    able = [[v for v in range(VARIANTS) if world.speaks(v, g)] for g in range(CLASSES)]
    return lambda groups: [r.choice(able[g]) for g in groups], lambda _: None


def sketched(numbers: bool) -> Rule:
    """The specification's score as written: no history is 0, and versions compare as texts or numbers."""

    def rule(world: World, seed: int) -> tuple[Choose, Learn]:
        count, good, logs = ([0.0] * VARIANTS for _ in range(3))

        def may(v: int, g: int) -> bool:
            need, level = world.needs[v], world.levels[g]
            return need <= level if numbers else str(need) <= str(level)

        def score(v: int, g: int) -> float:
            if not may(v, g):
                return -1.0
            if not count[v]:
                return 0.4 * world.match[v][g]
            share, speed = good[v] / count[v], 1.0 / (1.0 + math.exp(logs[v] / count[v]))
            return 0.3 * (share + speed) / 2.0 + 0.4 * world.match[v][g] + 0.3 * share

        def choose(groups: Sequence[int]) -> Sequence[int]:
            best = [
                max(range(VARIANTS), key=lambda v, g=g: (score(v, g), -v)) for g in range(CLASSES)
            ]
            return [best[g] for g in groups]

        def learn(outcomes: Sequence[Outcome]) -> None:
            for v, _, success, latency in outcomes:
                count[v] += 1
                good[v] += success
                logs[v] += math.log(latency / 100.0)

        return choose, learn

    return rule


def manager_with(**selection: Any) -> Rule:
    """This package, every variant active; two minutes a batch. Nobody sticks: each call is another agent."""

    def rule(world: World, seed: int) -> tuple[Choose, Learn]:
        clock = Clock(1_800_000_000.0)
        manager = EmergenceManager.open(
            "memory://",
            clock=clock,
            background=False,
            seed=seed,
            max_variants=VARIANTS,
            selection={"min_dwell": 0, "hysteresis": 0, "latency_target": "100ms", **selection},
        )
        for v, need in enumerate(world.needs):
            needs = {"zstd": f">={need}"} if need else {}
            made = manager.variants.propose(f"v{v}", {}, id=f"v{v:02}", requirements=needs)
            manager.variants.activate(made, force=True)
        agents = [
            Agent(
                f"a{g}",
                AgentContext({"zstd": str(level), "class": g}, {"success": 2, "latency": 1}),
            )
            for g, level in enumerate(world.levels)
        ]
        for agent in agents:
            manager.recommend(agent, 0)

        def choose(groups: Sequence[int]) -> Sequence[int]:
            return [int(manager.select(agents[g]).variant.id[1:]) for g in groups]

        def learn(outcomes: Sequence[Outcome]) -> None:
            manager.record_many(
                (f"v{v:02}", PerformanceMetrics(1.0 if good else 0.0, latency), f"a{g}")
                for v, g, good, latency in outcomes
            )
            clock.advance(120.0)
            manager.tick()

        return choose, learn

    return rule


def lost(rule: Rule) -> tuple[float, float]:
    """Mean regret over the worlds, and its standard error."""
    found = []
    for seed in SEEDS:
        world = World(seed)
        found.append(world.regret(seed, *rule(world, seed)))
    return statistics.mean(found), statistics.stdev(found) / math.sqrt(len(found))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("rule", "low", "high"),
    [
        pytest.param(anything, 0.310, 0.378, id="any"),
        pytest.param(compatible, 0.122, 0.146, id="compatible"),
        pytest.param(sketched(numbers=False), 0.066, 0.106, id="sketch-texts"),
        pytest.param(sketched(numbers=True), 0.059, 0.127, id="sketch-numbers"),
        pytest.param(manager_with(), 0.0, 0.040, id="default"),
        pytest.param(manager_with(explore=1.0), 0.0, 0.025, id="explore"),
    ],
)
def test_regret(rule: Rule, low: float, high: float) -> None:
    """Each rule loses what it is known to lose, within two standard errors; ours less than promised."""
    mean, error = lost(rule)
    print(f"\nregret {mean:.4f} +- {error:.4f}")
    assert low <= mean <= high
