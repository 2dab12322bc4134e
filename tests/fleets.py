"""A small fleet and two variants, for any manager."""

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
