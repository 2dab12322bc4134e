"""A manager in memory with some active variants and one agent."""

from __future__ import annotations

from xenolect.manager import EmergenceManager
from xenolect.model import AgentContext

__all__ = ["fleet"]


def fleet(variants: int) -> EmergenceManager:
    """``v0`` .. of that many variants, and ``agent-0``."""
    manager = EmergenceManager.open("memory://", background=False, max_variants=variants + 1)
    for i in range(variants):
        variant = manager.variants.propose(f"v{i}", {"i": i}, id=f"v{i}")
        manager.variants.activate(variant, force=True)
    manager.agents.register("agent-0", AgentContext({"zstd": "1.5"}))
    return manager
