"""Taking measurements in: checked, counted once, folded, weighed, and the breaker told.

In memory before the call returns; on disk with the next group commit, or before the call returns where
it asks for that. What is late says nothing of how things are now: it goes into history only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sized
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
Checked = tuple[ProtocolVariant, PerformanceMetrics, int, str | None, Any, int]
"""variant, measurement, failures, agent, key, how many of the variant's ``calls`` came before"""
Ended = tuple[ProtocolVariant, PerformanceMetrics, int, str | None, int]


def is_call(metrics: PerformanceMetrics) -> bool:
    """Is it right, and one operation with a latency at most: what nearly all are, told in 0.1 us, not in 2?"""
    rate, latency = metrics.success_rate, metrics.latency_ms
    return (
        metrics.count == 1
        and type(metrics.count) is int
        and type(rate) is float
        and (rate == 1.0 or rate == 0.0)
        and (latency is None or (type(latency) is float and 0.0 <= latency < _INF))
        and metrics.resource_usage is None
        and metrics.throughput is None
        and not metrics.custom
    )


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
        # Bound once: Python 3.11 looks a method of an object with many attributes up anew each time.
        self._clock, self._variants = runtime.clock, runtime.variants
        self._add, self._tracks = self._performance.add, self._performance.tracks
        self._made, self._failed = breakers.made, breakers.agents.kept
        self._lateness = runtime.config.metrics.lateness
        self._queue = runtime.config.metrics.queue
        self._often = runtime.config.metrics.flush_records
        self._background = runtime.background
        self._receipt = Receipt(runtime)

    def check(self, metrics: PerformanceMetrics) -> int:
        """The failures of a measurement; InvalidMetricsError, counted, when it is not one."""
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
        if is_call(metrics):
            failures = 0 if metrics.success_rate else 1
        else:
            failures = self.check(metrics)
        if agent_id is not None and type(agent_id) is not str:
            check_name(agent_id, "agent id")
        if key is not None:
            key = check_key(key, agent_id)
        current = self._variants.get(variant) if type(variant) is str else None
        if current is None:
            current = runtime.variant(variant)
        now = self._clock()
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
            if running and not self._background:
                canaries.join()
            fold = performance.fold
            fold.acquire()  # ``with`` costs 0.07 us more
            try:
                if performance.pending >= self._queue:
                    raise performance.full()
                if key is not None and not performance.once.first(*key):
                    if permit is not None:
                        permit.ignore()
                    return self._receipt
                track = self._tracks.get(variant_id) or performance.track(variant_id)
                self._add(track, metrics, failures, now, agent_id, group)
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
            finally:
                fold.release()
            count = metrics.count
            if failures or permit is not None or not self._well(variant_id, count, agent_id):
                latency, well = metrics.latency_ms, count - failures
                self._breakers.outcome(variant_id, well, failures, permit, latency, agent_id)
            if self._critical.limited:
                self._critical.measured(current, metrics, agent_id, session)
            if failure is not None and agent_id is not None:
                self._critical.report(current, failure, agent_id, session)
        if durable:
            runtime.flush(durable=True)
        elif performance.pending >= self._often or not self._background:
            runtime.after_record(now)
        return self._receipt

    def record_many(self, records: Iterable[Any], durable: bool) -> Receipt:
        """A batch: everything is checked before anything is recorded, and stored in one transaction."""
        runtime, performance, canaries = self._runtime, self._performance, self._canaries
        if runtime.asleep:
            runtime.wake()
        variants, running, limited = self._variants, canaries.running, self._critical.limited
        # Nobody's successes say the same in any order: folded by the variant they cost half as much.
        apart = bool(running) or limited or self._breakers.slow_calls
        calls: dict[str, list[float | None]] = {}  # their latencies
        batch: list[Checked] = []  # all others
        for record in records:
            if len(record) == 2:
                (variant, metrics), agent_id, key = record, None, None
            else:
                variant, metrics, agent_id = record[:3]
                key = (
                    check_key(record[3], agent_id)
                    if len(record) > 3 and record[3] is not None
                    else None
                )
            if agent_id is not None and type(agent_id) is not str:
                check_name(agent_id, "agent id")
            current = variants.get(variant) if type(variant) is str else None
            if current is None:
                current = runtime.variant(variant)
            alike = calls.get(current.id)
            if (
                not apart
                and agent_id is None
                and is_call(metrics)
                and metrics.success_rate
                and metrics.timestamp is None
            ):
                if alike is None:
                    calls[current.id] = [metrics.latency_ms]
                else:
                    alike.append(metrics.latency_ms)
                continue
            before = 0 if alike is None else len(alike)
            batch.append((current, metrics, self.check(metrics), agent_id, key, before))
        now = self._clock()
        if running and not self._background:
            canaries.join()
        known, first = self._known, performance.once.first
        ended = []
        with performance.fold:
            performance.room(len(batch) + sum(map(len, calls.values())))
            for variant_id, latencies in calls.items():
                performance.add_calls(variant_id, latencies, now)
            for current, metrics, failures, agent_id, key, before in batch:
                if key is not None and not first(*key):
                    continue
                if metrics.timestamp is not None and self._late(metrics.timestamp, now):
                    at = metrics.timestamp.timestamp()
                    performance.add_late(current.id, metrics, failures, at)
                    continue
                profile = None if agent_id is None else known(agent_id)
                group = "" if profile is None else profile.group
                track = self._tracks.get(current.id) or performance.track(current.id)
                self._add(track, metrics, failures, now, agent_id, group)
                if running:
                    latency, custom = metrics.latency_ms, metrics.custom
                    canaries.observe(
                        current, agent_id, None, metrics.count, failures, latency, custom, now
                    )
                ended.append((current, metrics, failures, agent_id, before))
        self._tell(ended, calls)
        if limited:
            for current, metrics, _, agent_id, _ in ended:
                self._critical.measured(current, metrics, agent_id, None)
        if durable:  # in one transaction, not in a plain one before it
            runtime.flush(durable=True)
        elif not self._background or performance.pending >= self._often:
            runtime.after_record(now)
        return self._receipt

    def _tell(self, ended: Iterable[Ended], calls: Mapping[str, Sized]) -> None:
        """Let the breakers hear of a batch in order: each of ``ended`` came after so many of ``calls``."""
        breakers, told = self._breakers, dict.fromkeys(calls, 0)
        for current, metrics, failures, agent_id, before in ended:
            variant_id, count = current.id, metrics.count
            if before > told.get(variant_id, 0):
                breakers.of(variant_id).went_well(before - told[variant_id])
                told[variant_id] = before
            if failures or not self._well(variant_id, count, agent_id):
                latency, well = metrics.latency_ms, count - failures
                breakers.outcome(variant_id, well, failures, None, latency, agent_id)
        for variant_id, alike in calls.items():
            if len(alike) > told[variant_id]:
                breakers.of(variant_id).went_well(len(alike) - told[variant_id])

    def _well(self, variant_id: str, count: int, agent_id: str | None) -> bool:
        """Tell the breaker of one success without a permit; False where that needs a closer look."""
        breaker = self._made.get(variant_id)
        if breaker is None or count != 1 or breaker.slow_call is not None:
            return False
        if self._failed and (variant_id, agent_id) in self._failed:
            return False
        breaker.went_well()
        return True

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
