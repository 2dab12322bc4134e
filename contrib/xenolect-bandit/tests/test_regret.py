"""How much the policies lose by learning, beside the default score, and that processes agree."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from xenolect import AgentContext, EmergenceManager, PerformanceMetrics
from xenolect.testing import Clock

World = tuple[dict[str, dict[str, Any]], dict[str, float]]  # id -> changes, id -> success rate


def five(r: random.Random) -> World:
    """Five variants without features; the best is .02 better than the next."""
    rates = [0.80, 0.85, 0.90, 0.93, 0.95]
    r.shuffle(rates)
    names = [f"v{i}" for i in range(5)]
    return {name: {} for name in names}, dict(zip(names, rates, strict=True))


def sixty(r: random.Random, rest: float = 0.01) -> World:
    """Four wires at fifteen levels: what each adds to the rate adds up, but for a deviation ``rest``."""
    adds = dict(zip("abcd", r.sample([-0.12, -0.06, -0.02, 0.0], 4), strict=True))
    slope = r.choice([-0.08, 0.08])
    changes, rates = {}, {}
    for i in range(60):
        wire, level = "abcd"[i % 4], i // 4
        rate = 0.9 + adds[wire] + slope * (level / 14 - 0.5) + r.gauss(0.0, rest)
        changes[f"v{i:02}"] = {"wire": wire, "level": level}
        rates[f"v{i:02}"] = min(0.99, rate)
    return changes, rates


def rough(r: random.Random) -> World:
    """The same, but the features explain much less."""
    return sixty(r, 0.03)


def regret(make: Any, seed: int, scoring: Mapping[str, Any], explore: float = 0.0) -> float:
    """Mean success lost per operation: 4,000 of them, 20 a minute, each minute learned from at its end."""
    r = random.Random(seed)
    changes, rates = make(r)
    clock, lost, best = Clock(), 0.0, max(rates.values())
    selection = {"min_dwell": 0, "hysteresis": 0, "explore": explore}
    with EmergenceManager.open(
        "memory://", clock=clock, background=False, seed=seed, scoring=scoring, selection=selection
    ) as manager:
        manager.agents.register("agent", AgentContext())
        for name, content in changes.items():
            manager.variants.activate(manager.variants.propose(name, content, id=name), force=True)
        for minute in range(200):
            clock.advance(60)
            seen: dict[str, list[int]] = {}
            for _ in range(20):
                name = manager.select("agent").variant.id
                lost += best - rates[name]
                seen.setdefault(name, []).append(r.random() < rates[name])
            for name, outcomes in seen.items():
                share = sum(outcomes) / len(outcomes)
                manager.record(name, PerformanceMetrics(share, count=len(outcomes)))
            if minute % 5 == 0:
                manager.tick()
    return lost / 4_000


DEFAULT = {"performance": 0.3, "compatibility": 0.4, "stability": 0.3}
LINEAR = {
    "weight": 1.0,
    "features": {"changes.wire": ["a", "b", "c", "d"], "changes.level": [0, 14]},
}
CHOICES: dict[str, tuple[Mapping[str, Any], float]] = {
    "default": (DEFAULT, 0.0),
    "explore": (DEFAULT, 1.0),
    "thompson": ({"thompson": 1.0}, 0.0),
    "ucb": ({"ucb": 1.0}, 0.0),
    "linucb": ({"linucb": LINEAR}, 0.0),
}


def losses(make: Any, seeds: int, *names: str) -> dict[str, tuple[float, float]]:
    """Mean and worst over worlds; the policies' defaults were chosen in worlds of other seeds."""
    found = {}
    for name in names:
        each = [regret(make, seed, *CHOICES[name]) for seed in range(100, 100 + seeds)]
        found[name] = (statistics.mean(each), max(each))
        print(make.__name__, name, *(f"{x:.4f}" for x in found[name]))
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_few_variants() -> None:
    """Of five, where a random choice loses .064: none loses a third of that. The default score may
    stay with a worse variant; UCB1 does not, so its worst world is better."""
    loss = losses(five, 20, "default", "explore", "thompson", "ucb")

    assert max(mean for mean, _ in loss.values()) < 0.064 / 3
    assert loss["ucb"][1] < loss["default"][1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("make", [sixty, rough])
def test_many_variants_with_features(make: Any) -> None:
    """Of sixty, LinUCB loses less than half of what the default score does, which learns each by itself."""
    loss = losses(make, 8, "default", "linucb")

    assert loss["linucb"][0] < loss["default"][0] / 2


PROGRAM = """
from xenolect import Agent, Candidate, PerformanceHistory, ProtocolVariant
from xenolect_bandit.features import read_features
from xenolect_bandit.linear import LinUcb
from xenolect_bandit.policies import Thompson, Ucb

fleet = [
    Candidate(
        ProtocolVariant(f"v{i}", changes={"wire": "ab"[i % 2], "batch": i}),
        PerformanceHistory(count=37.5 * i, failures=3.25 * i / (1 + i % 3)),
    )
    for i in range(40)
]
linear = LinUcb(read_features({"changes.wire": ["a", "b"], "changes.batch": [0, 40]}))
for policy in (Thompson(), Ucb(), linear):
    print([x.hex() for x in policy.score(fleet, Agent("a"))])
"""


@pytest.mark.slow
def test_two_processes_give_the_same_columns() -> None:
    """To the last bit, whatever the seed of their hashes and the threads of their linear algebra."""
    columns = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, threads in (("1", "1"), ("77", "2"))
    ]

    assert columns[0] == columns[1]
    assert columns[0].count("\n") == 3
