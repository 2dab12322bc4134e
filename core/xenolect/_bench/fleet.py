"""A manager in memory with some active variants and one agent."""

from __future__ import annotations

import random
from typing import Any

from xenolect._codec import variant_to_json
from xenolect.facts import Put
from xenolect.manager import EmergenceManager
from xenolect.model import AgentContext, PerformanceMetrics, ProtocolVariant, VariantStatus

__all__ = ["fleet"]

_QUIET = {"flush_interval": "1h", "flush_records": 10**9, "queue": 10**9}


def fleet(variants: int, *, measured: bool = False, **given: Any) -> EmergenceManager:
    """``v0`` .. of that many variants, and ``agent-0``; each with a history of its own if ``measured``.

    With the background thread, as a program runs; measurements stay in memory, so that a row shows what
    it says and not a flush now and then.
    """
    manager = EmergenceManager.open("memory://", max_variants=variants + 1, metrics=_QUIET, **given)
    active = [ProtocolVariant(f"v{i}", status=VariantStatus.ACTIVE) for i in range(variants)]
    manager._runtime.commit(  # at once: one by one, 10,000 take minutes
        [
            *(Put("variant", v.id, variant_to_json(v), 0) for v in active),
            Put("baseline", "default", {"variant_id": "v0"}, 0),
        ]
    )
    manager.agents.register("agent-0", AgentContext({"zstd": "1.5"}))
    if measured:
        draw = random.Random(1)
        for v in active:
            latency, count = draw.uniform(5.0, 50.0), draw.randint(20, 200)
            manager.record(v.id, PerformanceMetrics(1.0, latency_ms=latency, count=count))
    return manager
