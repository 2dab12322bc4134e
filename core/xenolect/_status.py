"""``manager.status()``: what runs, how it goes, and what it takes, as plain JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenolect._outcomes import outcomes
from xenolect._system import cpu_seconds, memory_bytes, peak_bytes
from xenolect.model import CanaryStatus, VariantStatus

if TYPE_CHECKING:
    from xenolect.manager import EmergenceManager

__all__ = ["status_of"]


def status_of(manager: EmergenceManager) -> dict[str, Any]:
    """Everything that ``status`` says; sizes on disk are a minute old at most."""
    runtime = manager._runtime
    variants = list(runtime.variants.values())
    counts = {str(s): sum(v.status == s for v in variants) for s in VariantStatus}
    ended = outcomes(runtime.facts, runtime.clock())
    rollbacks = ended.pop("rollbacks_in_30_days")
    return {
        "mode": str(runtime.mode),
        "revision": runtime.revision,
        "storage": runtime.config.storage,
        "parts": dict(runtime.parts.options()),
        "variants": counts,
        "baselines": {
            key: fact.value["variant_id"]
            for (kind, key), fact in list(runtime.facts.items())
            if kind == "baseline" and fact.value
        },
        "agents": len(runtime.agents),
        "rollouts": {
            "running": [
                _status_row(manager.canaries.status(v.id))
                for v in variants
                if v.status in (VariantStatus.CANARY, VariantStatus.PAUSED)
            ],
            **ended,
        },
        "rollbacks": {"total": ended["rolled_back"], "in_30_days": rollbacks},
        "breakers_shut": sorted(manager._breakers.shut),
        "dependencies": {
            name: str(each.status.state) for name, each in runtime.parts.dependencies.items()
        },
        "agents_ejected": {v: len(out) for v, out in sorted(manager._breakers.agents.out.items())},
        "safe_mode": sorted(
            key
            for (kind, key), fact in list(runtime.facts.items())
            if kind == "safe_mode" and fact.value
        ),
        "processes": len(runtime.index.leases("process/", runtime.alive())),
        "measurements": {
            "pending": runtime.performance.pending,
            "rejected": runtime.performance.rejected,
            "late": runtime.performance.late,
            "duplicates": runtime.performance.once.duplicates,
        },
        "state_cache": manager.states.cache().row(),
        "disk": manager._disk.row(),
        "process": {
            "memory_bytes": memory_bytes(),
            "memory_peak_bytes": peak_bytes(),
            "cpu_seconds": cpu_seconds(),
        },
        "rollups": {"error": manager._rollups.error, "behind": manager._rollups.behind},
        "events_dropped": runtime.events.dropped,
        "stale": runtime.stale,
        "mirror": manager._mirroring.status(),
        "scrub": manager._scrubber.status(),
    }


def _status_row(status: CanaryStatus) -> dict[str, Any]:
    return {
        "variant": status.variant_id,
        "control": status.control_id,
        "state": str(status.state),
        "level": status.level,
        "fraction": status.fraction,
        "verdict": str(status.verdict),
        "reason": status.reason,
    }
