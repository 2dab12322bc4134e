"""A small fleet, two variants and a rollout of one, for any manager."""

from __future__ import annotations

import random
from typing import Any

from xenolect import AgentContext, EmergenceManager, ProtocolVariant
from xenolect.testing import Clock


def fleet(manager: EmergenceManager, size: int = 200, **capabilities: Any) -> list[str]:
    """Register agents that all declare the same."""
    names = [f"agent-{i}" for i in range(size)]
    manager.agents.register_many([(n, AgentContext(capabilities)) for n in names])
    return names


def json_and_zstd(
    manager: EmergenceManager, **zstd: Any
) -> tuple[ProtocolVariant, ProtocolVariant]:
    """A baseline that speaks json, and a proposed variant that speaks zstd."""
    base = manager.variants.propose("plain JSON", {"wire": "json"}, id="json")
    base = manager.variants.activate(base)
    canary = manager.variants.propose("zstd", {"wire": "zstd"}, id="zstd", **zstd)
    return base, canary


def traffic(
    manager: EmergenceManager,
    clock: Clock,
    names: list[str],
    seed: int,
    bad: float = 0.0,
    rounds: int = 60,
) -> None:
    """Fleet traffic with failures of both arms, the canary's more often by ``bad``."""
    draw = random.Random(seed)
    for _ in range(rounds):
        for name in names:
            chosen = manager.select(name)
            worse = bad if chosen.variant.id == "zstd" else 0.0
            ok = draw.random() >= 0.01 + worse
            manager.report(chosen, name, success=ok, latency_ms=draw.lognormvariate(2.0, 0.3))
        clock.advance(60)
        manager.tick()


def status(manager: EmergenceManager, variant: str = "zstd") -> str:
    """The variant's status."""
    return str(manager.variants.get(variant).status)


def canary(manager: EmergenceManager, **zstd: Any) -> tuple[list[str], list[str]]:
    """A rollout of ``zstd``; the agents it is served, and the others."""
    names = fleet(manager)
    _, variant = json_and_zstd(manager, **zstd)
    manager.canaries.start(variant, seed=1, initial_fraction=0.2)
    inside = [n for n in names if manager.canaries.routes("zstd", n)]
    return inside, [n for n in names if n not in inside]


def break_point(manager: EmergenceManager, point: Any) -> None:
    """Change the object of a point."""
    key = manager._runtime.value("point", f"{point.variant_id}/{int(point.id.split('@')[1]):08d}")[
        "object"
    ]
    chunks = manager._runtime.chunks
    chunks.put(key, chunks.get(key)[:-1] + b"?", if_absent=False)
