"""A small fleet and two variants, for any manager."""

from __future__ import annotations

from typing import Any

from xenolect import AgentContext, EmergenceManager, ProtocolVariant


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
