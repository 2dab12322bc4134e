"""What is read of a manager, once for every way to tell it.

Labels are variants, protocols and words of fixed lists: never an agent, of which there may be millions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from xenolect import EmergenceManager

__all__ = ["READINGS", "Definition", "Lately", "Reading", "read"]


class Definition(NamedTuple):
    """A metric: its kind ("counter" or "gauge"), its unit (UCUM), what it says, its labels."""

    kind: str
    unit: str
    text: str
    labels: tuple[str, ...] = ()


class Reading(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    labels: Mapping[str, str]


_OF = ("variant", "protocol")
READINGS = {
    "xenolect.operations": Definition("counter", "{operation}", "Operations measured.", _OF),
    "xenolect.failures": Definition("counter", "{operation}", "Operations that failed.", _OF),
    "xenolect.latency": Definition(
        "gauge", "s", "Quantiles of latency in the window, within 2 %.", (*_OF, "quantile")
    ),
    "xenolect.success.ratio": Definition("gauge", "1", "Success rate in the window.", _OF),
    "xenolect.variants": Definition("gauge", "{variant}", "Variants by status.", ("status",)),
    "xenolect.agents": Definition("gauge", "{agent}", "Registered agents."),
    "xenolect.agents.ejected": Definition(
        "gauge", "{agent}", "Agents taken out of a variant by breakers of their own.", ("variant",)
    ),
    "xenolect.processes": Definition("gauge", "{process}", "Processes that serve."),
    "xenolect.deployments": Definition(
        "counter", "{deployment}", "Deployments by how they ended.", ("outcome",)
    ),
    "xenolect.deployments.success.ratio": Definition("gauge", "1", "Share that was promoted."),
    "xenolect.rollbacks.recent": Definition("gauge", "{rollback}", "Rollbacks within 30 days."),
    "xenolect.canary.share": Definition("gauge", "1", "Share routed to a canary.", ("variant",)),
    "xenolect.canary.holding": Definition(
        "gauge", "1", "1 where a rollout is held or paused.", ("variant",)
    ),
    "xenolect.breaker.open": Definition("gauge", "1", "1 where a breaker admits nobody.", _OF),
    "xenolect.safe_mode": Definition("gauge", "{protocol}", "Protocols in safe mode."),
    "xenolect.measurements.dropped": Definition(
        "counter", "{measurement}", "Measurements that are no evidence, by reason.", ("reason",)
    ),
    "xenolect.measurements.pending": Definition(
        "gauge", "{measurement}", "Measurements not yet stored."
    ),
    "xenolect.cache.hit.ratio": Definition("gauge", "1", "Reads of states found verified."),
    "xenolect.disk.usage": Definition("gauge", "By", "Bytes on a local disk.", ("part",)),
    "xenolect.mirror.lag": Definition("gauge", "{entry}", "Entries that are not mirrored yet."),
    "xenolect.objects.damaged": Definition("gauge", "{object}", "Damaged at the last look."),
    "xenolect.stale": Definition("gauge", "1", "1 where changes of others are not heard."),
    "xenolect.events.dropped": Definition("counter", "{event}", "Events that found no room."),
    "xenolect.process.memory": Definition("gauge", "By", "Resident memory of this process."),
    "xenolect.process.cpu": Definition("counter", "s", "CPU time of this process."),
}
_HELD = ("hold", "paused", "suspended")
_SERVED = ("active", "canary", "paused")


def read(manager: EmergenceManager, window: float = 300.0) -> list[Reading]:
    """Every reading as of now. ``window``: seconds that quantiles and success rates are of.

    Counters of operations are sums of the months that are kept (10 years), of all processes together.
    """
    return list(_read(manager, window))


def _read(manager: EmergenceManager, window: float) -> Iterator[Reading]:
    status = manager.status()
    for variant in manager.variants.list():
        yield from _measured(manager, variant, window)
    shut = set(status["breakers_shut"])
    for variant in manager.variants.list():
        if str(variant.status) in _SERVED:
            labels = {"variant": variant.id, "protocol": variant.protocol}
            yield Reading("xenolect.breaker.open", float(variant.id in shut), labels)
    for rollout in status["rollouts"]["running"]:
        labels = {"variant": rollout["variant"]}
        yield Reading("xenolect.canary.share", rollout["fraction"], labels)
        held = rollout["state"] in _HELD
        yield Reading("xenolect.canary.holding", float(held), labels)
    for name, count in status["variants"].items():
        yield Reading("xenolect.variants", count, {"status": name})
    for variant_id, count in status["agents_ejected"].items():
        yield Reading("xenolect.agents.ejected", count, {"variant": variant_id})
    for outcome in ("promoted", "rolled_back", "aborted"):
        yield Reading("xenolect.deployments", status["rollouts"][outcome], {"outcome": outcome})
    for reason in ("rejected", "late", "duplicates"):
        count = status["measurements"][reason]
        yield Reading("xenolect.measurements.dropped", count, {"reason": reason})
    for part, name in (("store", "bytes"), ("index", "index_bytes")):
        if status["disk"][name] is not None:
            yield Reading("xenolect.disk.usage", status["disk"][name], {"part": part})
    alone: dict[str, Any] = {
        "xenolect.agents": status["agents"],
        "xenolect.processes": status["processes"],
        "xenolect.deployments.success.ratio": status["rollouts"]["success_rate"],
        "xenolect.rollbacks.recent": status["rollbacks"]["in_30_days"],
        "xenolect.safe_mode": len(status["safe_mode"]),
        "xenolect.measurements.pending": status["measurements"]["pending"],
        "xenolect.cache.hit.ratio": status["state_cache"]["hit_rate"],
        "xenolect.mirror.lag": status["mirror"]["behind"],
        "xenolect.objects.damaged": status["scrub"]["damaged"],
        "xenolect.stale": float(status["stale"]),
        "xenolect.events.dropped": status["events_dropped"],
        "xenolect.process.memory": status["process"]["memory_bytes"],
        "xenolect.process.cpu": status["process"]["cpu_seconds"],
    }
    for name, value in alone.items():
        if value is not None:
            yield Reading(name, value, {})


def _measured(manager: EmergenceManager, variant: Any, window: float) -> Iterator[Reading]:
    labels = {"variant": variant.id, "protocol": variant.protocol}
    months = manager.performance.rollups(variant, "monthly")
    if not months:
        return
    yield Reading("xenolect.operations", sum(each.count for each in months), labels)
    yield Reading("xenolect.failures", sum(each.failures for each in months), labels)
    lately = manager.performance.history(variant, timedelta(seconds=window))
    if lately.success_rate is not None:
        yield Reading("xenolect.success.ratio", lately.success_rate, labels)
    for quantile, value in (("0.5", lately.p50), ("0.95", lately.p95), ("0.99", lately.p99)):
        if value is not None:
            yield Reading("xenolect.latency", value / 1000.0, {**labels, "quantile": quantile})


class Lately:
    """Readings that are a second old at most: one look for all the instruments of a collection."""

    def __init__(self, look: Callable[[], list[Reading]], seconds: float = 1.0) -> None:
        self._look = look
        self._seconds = seconds
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._found: dict[str, list[Reading]] = {}

    def of(self, name: str) -> list[Reading]:
        """The readings of one metric."""
        with self._lock:
            now = time.monotonic()
            if now - self._at >= self._seconds:
                found: dict[str, list[Reading]] = {}
                for each in self._look():
                    found.setdefault(each.name, []).append(each)
                self._found, self._at = found, time.monotonic()
            return self._found.get(name, [])
