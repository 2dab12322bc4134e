"""Guardrails in whole rollouts: what they find ends one, and is said."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import EmergenceManager
from xenolect.testing import Clock


def history(manager: EmergenceManager, names: list[str], clock: Clock) -> random.Random:
    """Half an hour of ordinary traffic on the baseline."""
    draw = random.Random(5)
    for _ in range(30):
        for name in names:
            chosen = manager.select(name)
            manager.report(
                chosen,
                name,
                success=True,
                latency_ms=draw.lognormvariate(4.0, 0.3),
                custom={"tokens": 100.0 * draw.uniform(0.8, 1.2)},
            )
        clock.advance(60)
        manager.tick()
    return draw


@pytest.mark.parametrize(
    ("slower", "dearer", "reason"), [(1.6, 1.0, "latency"), (1.0, 1.6, "custom.tokens")]
)
def test_a_fleet_is_spared_a_slow_or_dear_variant(
    slower: float, dearer: float, reason: str
) -> None:
    """Nothing fails, but the canary is slow, or takes more of a declared metric: it is taken back."""
    clock = Clock(1_800_000_000.0)
    with EmergenceManager.open(
        "memory://",
        clock=clock,
        background=False,
        seed=7,
        metrics={"custom": {"tokens": {"direction": "lower", "unit": "tokens"}}},
    ) as manager:
        names = fleet(manager, 100)
        json_and_zstd(manager)
        draw = history(manager, names, clock)
        manager.canaries.start("zstd", seed=1)
        for _ in range(60):
            for name in names:
                chosen = manager.select(name)
                canary = chosen.variant.id == "zstd"
                manager.report(
                    chosen,
                    name,
                    success=True,
                    latency_ms=draw.lognormvariate(4.0, 0.3) * (slower if canary else 1.0),
                    custom={"tokens": 100.0 * draw.uniform(0.8, 1.2) * (dearer if canary else 1.0)},
                )
            clock.advance(60)
            manager.tick()
        assert manager.variants.get("zstd").status == "rolled_back"
        assert manager.canaries.status("zstd").reason == reason


def test_an_agents_own_latencies_are_frozen() -> None:
    """A rollout's baseline has each agent's operations and latencies of the last day only."""
    clock = Clock(1_800_000_000.0)
    with EmergenceManager.open("memory://", clock=clock, background=False) as manager:
        names = fleet(manager, 20)
        json_and_zstd(manager)
        for _ in range(210):
            manager.report("json", names[0], success=True, latency_ms=5.0)
        manager.report("json", names[1], success=False, latency_ms=50.0)
        frozen = manager.performance.baseline("json", by_agent=True)
        assert frozen["units"] == {names[0]: [210, 0], names[1]: [1, 1]}
        assert list(frozen["unit_latency"]) == [names[0]]
        assert sum(count for _, count in frozen["latency"]) == 211
        clock.advance(7200)
        manager.flush()
        manager.report("json", names[1], success=True)
        later = manager.performance.baseline("json", by_agent=True)
        assert later["units"] == {names[0]: [210, 0], names[1]: [2, 1]}
        assert later["unit_latency"] == frozen["unit_latency"]
        clock.advance(2 * 86_400)
        manager.flush()
        later = manager.performance.baseline("json", by_agent=True)
        assert (later["units"], later["operations"], later["latency"]) == ({}, 0, [])


@pytest.mark.parametrize(("killed", "status"), [("canary", "rolled_back"), ("both", "canary")])
def test_a_variant_that_silences_its_agents_is_taken_back(killed: str, status: str) -> None:
    """Agents that met the canary are never heard again; where the others fall silent too, it waits."""
    clock = Clock(1_800_000_000.0)
    with EmergenceManager.open(
        "memory://", clock=clock, background=False, seed=7, canary={"max_duration": "2h"}
    ) as manager:
        names = fleet(manager, 100)
        json_and_zstd(manager)
        history(manager, names, clock)
        manager.canaries.start("zstd", seed=1)
        for minute in range(12):
            for i, name in enumerate(names):
                chosen = manager.select(name)
                dead = chosen.variant.id == "zstd" or (killed == "both" and i % 2)
                if not (dead and minute):
                    manager.report(chosen, name, success=True, latency_ms=50.0)
            clock.advance(60)
            manager.tick()
        assert manager.variants.get("zstd").status == status
        if status == "rolled_back":
            found = manager.canaries.status("zstd")
            assert found.reason == "failure_ratio"
            assert found.evidence["detail"]["silent"][0] >= 4


def test_any_process_knows_the_agents(tmp_path: Path) -> None:
    """A rollout started by another process than those that served compares agents with their own past."""
    clock = Clock(1_800_000_000.0)
    for failed in (0, 1):
        with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
            names = fleet(manager, 20) if not failed else [f"agent-{i}" for i in range(20)]
            if not failed:
                json_and_zstd(manager)
            for _ in range(100):
                manager.report("json", names[0], success=not failed, latency_ms=5.0)
    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        frozen = manager.performance.baseline("json", by_agent=True)
        assert frozen["units"] == {names[0]: [200, 100]}
        assert list(frozen["unit_latency"]) == [names[0]]
        assert sum(count for _, count in frozen["unit_latency"][names[0]]) == 200
