"""Taking measurements in: checked, counted once, folded, weighed, and the breaker told.

In memory before the call returns; on disk with the next group commit, or before the call returns where
it asks for that. What is late says nothing of how things are now: it goes into history only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from xenolect._breakers import Breakers
from xenolect._call import Receipt
from xenolect._critical import Critical
from xenolect._rollouts import Canaries
from xenolect._runtime import Runtime
from xenolect._selection import Selector
from xenolect._structure import Profile
from xenolect._validate import check_name, failures_of
from xenolect.errors import InvalidMetricsError
from xenolect.model import PerformanceMetrics, ProtocolVariant

__all__ = ["Recorder"]

_INF = math.inf
Checked = tuple[ProtocolVariant, PerformanceMetrics, int, str | None, Any]


class Recorder:
    """``record``, ``record_many`` and ``report`` of one manager."""

    def __init__(
        self,
        runtime: Runtime,
        selector: Selector,
        canaries: Canaries,
        breakers: Breakers,
        critical: Critical,
    ) -> None:
        self._runtime = runtime
        self._performance = runtime.performance
        self._canaries = canaries
        self._breakers = breakers
        self._critical = critical
        self._known: Callable[[str], Profile | None] = selector.known
        self._lateness = runtime.config.metrics.lateness
        self._queue = runtime.config.metrics.queue
        self._often = runtime.config.metrics.flush_records
        self._receipt = Receipt(runtime)

    def check(self, metrics: PerformanceMetrics) -> int:
        """The failures of a measurement; InvalidMetricsError, counted, when it is not one."""
        rate, latency = metrics.success_rate, metrics.latency_ms
        if (  # what nearly all are, in 0.2 us instead of 2
            metrics.count == 1
            and type(metrics.count) is int
            and type(rate) is float
            and (rate == 1.0 or rate == 0.0)
            and (latency is None or (type(latency) is float and 0.0 <= latency < _INF))
            and metrics.resource_usage is None
            and metrics.throughput is None
            and not metrics.custom
        ):
            return 0 if rate else 1
        try:
            return failures_of(metrics)
        except InvalidMetricsError:
            self._performance.rejected += 1
            raise

    def record(
        self,
        variant: Any,
        metrics: PerformanceMetrics,
        agent_id: str | None,
        session: str | None,
        durable: bool,
        permit: Any,
        key: Any = None,
        failure: str | None = None,
    ) -> Receipt:
        """One measurement; ``failure`` names a critical one."""
        runtime, performance, canaries = self._runtime, self._performance, self._canaries
        if runtime.asleep:
            runtime.wake()
        failures = self.check(metrics)
        if agent_id is not None and type(agent_id) is not str:
            check_name(agent_id, "agent id")
        if key is not None:
            key = check_key(key, agent_id)
        current = runtime.variants.get(variant) if type(variant) is str else None
        if current is None:
            current = runtime.variant(variant)
        now = runtime.clock()
        if metrics.timestamp is not None and self._late(metrics.timestamp, now):
            with performance.fold:
                performance.room()
                if key is None or performance.once.first(*key):
                    at = metrics.timestamp.timestamp()
                    performance.add_late(current.id, metrics, failures, at)
        else:
            profile = None if agent_id is None else self._known(agent_id)
            group = "" if profile is None else profile.group
            variant_id, running = current.id, canaries.running
            if running and not runtime.background:
                canaries.join()
            with performance.fold:
                if performance.pending >= self._queue:
                    raise performance.full()
                if key is not None and not performance.once.first(*key):
                    if permit is not None:
                        permit.ignore()
                    return self._receipt
                track = performance.tracks.get(variant_id) or performance.track(variant_id)
                performance.add(track, metrics, failures, now, agent_id, group)
                if running:
                    canaries.observe(
                        current,
                        agent_id,
                        session,
                        metrics.count,
                        failures,
                        metrics.latency_ms,
                        metrics.custom,
                        now,
                    )
            breakers, count = self._breakers, metrics.count
            if failures or permit is not None or not breakers.well(variant_id, count, agent_id):
                latency = metrics.latency_ms
                breakers.outcome(variant_id, count - failures, failures, permit, latency, agent_id)
            if self._critical.limited:
                self._critical.measured(current, metrics, agent_id, session)
            if failure is not None and agent_id is not None:
                self._critical.report(current, failure, agent_id, session)
        if not runtime.background or performance.pending >= self._often:
            runtime.after_record(now)
        if durable:
            runtime.flush(durable=True)
        return self._receipt

    def record_many(self, records: Iterable[Any], durable: bool) -> Receipt:
        """A batch: everything is checked before anything is recorded, and stored in one transaction."""
        runtime, performance, canaries = self._runtime, self._performance, self._canaries
        if runtime.asleep:
            runtime.wake()
        variants, check = runtime.variants, self.check
        batch: list[Checked] = []
        for record in records:
            size = len(record)
            variant, metrics = record[0], record[1]
            agent_id = record[2] if size > 2 else None
            failures = check(metrics)
            if agent_id is not None and type(agent_id) is not str:
                check_name(agent_id, "agent id")
            key = check_key(record[3], agent_id) if size > 3 and record[3] is not None else None
            current = variants.get(variant) if type(variant) is str else None
            batch.append((current or runtime.variant(variant), metrics, failures, agent_id, key))
        now = runtime.clock()
        if canaries.running and not runtime.background:
            canaries.join()
        tracks, known, add, first = (
            performance.tracks,
            self._known,
            performance.add,
            performance.once.first,
        )
        outcomes = []
        with performance.fold:
            performance.room(len(batch))
            for current, metrics, failures, agent_id, key in batch:
                if key is not None and not first(*key):
                    continue
                variant_id = current.id
                if metrics.timestamp is not None and self._late(metrics.timestamp, now):
                    at = metrics.timestamp.timestamp()
                    performance.add_late(variant_id, metrics, failures, at)
                    continue
                profile = None if agent_id is None else known(agent_id)
                group = "" if profile is None else profile.group
                track = tracks.get(variant_id) or performance.track(variant_id)
                add(track, metrics, failures, now, agent_id, group)
                if canaries.running:
                    count, custom = metrics.count, metrics.custom
                    canaries.observe(
                        current, agent_id, None, count, failures, metrics.latency_ms, custom, now
                    )
                outcomes.append((current, metrics, failures, agent_id))
        well, outcome = self._breakers.well, self._breakers.outcome
        for current, metrics, failures, agent_id in outcomes:
            count = metrics.count
            if failures or not well(current.id, count, agent_id):
                latency = metrics.latency_ms
                outcome(current.id, count - failures, failures, None, latency, agent_id)
            if self._critical.limited:
                self._critical.measured(current, metrics, agent_id, None)
        if not runtime.background or performance.pending >= self._often:
            runtime.after_record(now)
        if durable:
            runtime.flush(durable=True)
        return self._receipt

    def _late(self, timestamp: datetime, now: float) -> bool:
        return now - timestamp.timestamp() > self._lateness


def check_key(key: Any, agent_id: str | None) -> tuple[str, str, int]:
    """(agent, boot, sequence) from a given ``(boot, sequence)``; InvalidMetricsError."""
    boot, sequence = key if isinstance(key, (tuple, list)) and len(key) == 2 else (None, None)
    if (
        not isinstance(sequence, int)
        or isinstance(sequence, bool)
        or not 0 <= sequence < 2**53
        or not isinstance(boot, str)
        or not boot.isprintable()
        or not 0 < len(boot) <= 64
    ):
        raise InvalidMetricsError(
            f"key must be (boot, sequence): a short text that names the sender's start, and a number "
            f"that grows with each of its measurements, got {key!r}"
        )
    if agent_id is None or " " in boot:
        raise InvalidMetricsError(
            "a key counts measurements of one agent; give agent_id, and a boot without spaces"
        )
    return agent_id, boot, sequence
