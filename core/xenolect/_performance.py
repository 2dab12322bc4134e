"""What was measured: recent history in memory for scoring, windows on their way to the index.

``record`` is O(1): it adds to the variant's counters and sketch, and to the window that the next flush
appends. Counters lose half their weight every ``half_life`` (applied by ``decay``, never in between).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from xenolect._agents_lately import Agents, is_hour
from xenolect._codec import moment
from xenolect.config import MetricsConfig
from xenolect.errors import LimitError
from xenolect.facts import Observation, Window
from xenolect.interfaces import Index
from xenolect.model import PerformanceHistory, PerformanceMetrics, Stability
from xenolect.sketch import Sketch

__all__ = ["Performance", "Track"]

LEAST = 200  # fewer latencies of its own, and an agent is compared with the pooled ones
HOUR = 3600.0


class Track:
    """The decayed counters of one variant; ``agents`` holds what single ones did lately."""

    __slots__ = ("agents", "count", "failed", "failures", "passed", "sketch", "sums", "until")

    def __init__(self) -> None:
        self.count = 0.0
        self.failures = 0.0
        self.sketch = Sketch()
        self.sums: dict[str, list[float]] = {}
        self.until: float | None = None
        self.passed = 0.0
        self.failed = 0.0
        self.agents = Agents()

    def add(self, window: Window, weight: float) -> None:
        """Add a window with a weight in [0, 1]."""
        self.count += window.count * weight
        self.failures += window.failures * weight
        bins = self.sketch.bins
        for index, count in window.bins:
            bins[index] = bins.get(index, 0) + count * weight
            self.sketch.count += count * weight
        for name, (total, mass) in window.sums.items():
            slot = self.sums.setdefault(name, [0.0, 0.0])
            slot[0] += total * weight
            slot[1] += mass * weight
        self.until = max(self.until or 0.0, window.start + window.span)

    def scale(self, factor: float) -> None:
        """Let everything lose weight."""
        self.count *= factor
        self.failures *= factor
        self.passed *= factor
        self.failed *= factor
        bins = self.sketch.bins
        kept = {index: count * factor for index, count in bins.items() if count * factor > 1e-3}
        self.sketch.bins = kept
        self.sketch.count = sum(kept.values())
        for slot in self.sums.values():
            slot[0] *= factor
            slot[1] *= factor

    def history(self) -> PerformanceHistory:
        """The counters as a record."""
        sums = {name: total / mass for name, (total, mass) in self.sums.items() if mass > 0}
        median = self.sketch.quantile(0.5)
        return PerformanceHistory(
            count=self.count,
            failures=self.failures,
            success_rate=1.0 - self.failures / self.count if self.count else None,
            latency_ms=median,
            p50=median,
            p95=self.sketch.quantile(0.95),
            p99=self.sketch.quantile(0.99),
            resource_usage=sums.pop("resource_usage", None),
            throughput=sums.pop("throughput", None),
            custom={name[7:]: value for name, value in sums.items()},
            until=moment(self.until) if self.until else None,
        )


class _Open:
    """A window being filled."""

    __slots__ = ("bins", "count", "failures", "sums")

    def __init__(self) -> None:
        self.count = 0
        self.failures = 0
        self.bins: dict[int, int] = {}
        self.sums: dict[str, list[float]] = {}


class Performance:
    """``manager.performance``: histories and windows of every variant."""

    def __init__(
        self,
        config: MetricsConfig,
        index: Callable[[], Index],
        clock: Callable[[], float],
        resolve: Callable[[Any], str],
        flush: Callable[[], None],
    ) -> None:
        self._config = config
        self._index = index
        self._clock = clock
        self._resolve = resolve
        self._flush = flush
        self.fold = threading.RLock()  # guards counters, windows and evidence; never held over I/O
        self.tracks: dict[str, Track] = {}
        self.stamp = 0  # grows with each record: scores computed before are stale
        self.rejected = 0
        self._open: dict[tuple[str, float], _Open] = {}
        self._observations: list[Observation] = []
        self._pending = 0
        self._decayed_at = clock()
        self._hour = clock()  # when what single agents did was last put into windows
        self._hours: list[Window] = []

    # -- writing --------------------------------------------------------------------------------

    def add(
        self,
        variant_id: str,
        metrics: PerformanceMetrics,
        failures: int,
        now: float,
        unit: str | None,
    ) -> None:
        """Fold one checked measurement; the caller holds ``fold``."""
        if self._pending >= self._config.queue:
            raise LimitError(
                f"{self._pending} measurements wait to be stored, the limit is "
                f"{self._config.queue} ([metrics] queue); try again after the next flush",
                retry_after=self._config.flush_interval,
            )
        track = self.tracks.get(variant_id)
        if track is None:
            track = self.tracks[variant_id] = Track()
        count = metrics.count
        span = self._config.interval
        key = (variant_id, now - now % span)
        window = self._open.get(key)
        if window is None:
            window = self._open[key] = _Open()
        track.count += count
        track.failures += failures
        track.until = now
        window.count += count
        window.failures += failures
        index: int | None = None
        if metrics.latency_ms is not None:
            index = Sketch.bin_of(metrics.latency_ms)
            bins = track.sketch.bins
            bins[index] = bins.get(index, 0) + 1
            track.sketch.count += 1
            window.bins[index] = window.bins.get(index, 0) + 1
        if metrics.resource_usage is not None:
            _sum(track.sums, window.sums, "resource_usage", metrics.resource_usage, count)
        if metrics.throughput is not None:
            _sum(track.sums, window.sums, "throughput", metrics.throughput, count)
        for name, value in metrics.custom.items():
            _sum(track.sums, window.sums, f"custom.{name}", value, count)
        if unit is not None:
            track.agents.add(unit, count, failures, index)
        self._pending += 1
        self.stamp += 1

    def agents_of(self, variant_id: str) -> int:
        """How many agents spoke a variant within the hour, in this process."""
        track = self.tracks.get(variant_id)
        return 0 if track is None else len(track.agents.counts)

    def observe(self, observation: Observation) -> None:
        """Queue evidence of a rollout; the caller holds ``fold``."""
        self._observations.append(observation)

    def incident(self, variant_id: str, *, passed: float = 0.0, failed: float = 0.0) -> None:
        """Count health checks passed, or incidents by weight (check 1, breaker 3, rollback 10)."""
        with self.fold:
            track = self.tracks.setdefault(variant_id, Track())
            track.passed += passed
            track.failed += failed
            self.stamp += 1

    def decay(self, now: float) -> None:
        """Apply the half-life for the time since the last call (at most once a minute)."""
        passed = now - self._decayed_at
        if passed < 60.0:
            return
        with self.fold:
            self._decayed_at = now
            factor = 0.5 ** (passed / self._config.half_life)
            for track in self.tracks.values():
                track.scale(factor)
            self.stamp += 1

    # -- on the way to the index ----------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Measurements not yet stored."""
        return self._pending

    def waiting(self) -> list[Observation]:
        """Evidence not yet stored, in order; the caller holds ``fold``."""
        return list(self._observations)

    def take(self) -> tuple[list[Window], list[Observation]]:
        """What waits, in order; the caller stores it or gives it back."""
        with self.fold:
            if self._clock() - self._hour >= HOUR:
                self.end_hour()
            span = self._config.interval
            windows = [
                Window(
                    variant_id,
                    start,
                    span,
                    window.count,
                    window.failures,
                    [list(pair) for pair in sorted(window.bins.items())],
                    window.sums,
                )
                for (variant_id, start), window in self._open.items()
            ]
            windows += self._hours
            self._hours = []
            observations = self._observations
            self._open, self._observations, self._pending = {}, [], 0
            return windows, observations

    def end_hour(self) -> None:
        """Put what single agents did into windows, for the next flush: hourly, and before closing."""
        with self.fold:
            now = self._clock()
            for variant_id, track in self.tracks.items():
                self._hours += track.agents.windows(variant_id, self._hour, now)
                track.agents = Agents()
            self._hour = now

    def give_back(self, windows: Iterable[Window], observations: list[Observation]) -> None:
        """Storing failed: nothing is lost, the next flush tries again."""
        with self.fold:
            for window in windows:
                if is_hour(window):
                    self._hours.append(window)
                    continue
                slot = self._open.setdefault((window.variant_id, window.start), _Open())
                slot.count += window.count
                slot.failures += window.failures
                for index, count in window.bins:
                    slot.bins[index] = slot.bins.get(index, 0) + count
                for name, (total, mass) in window.sums.items():
                    sums = slot.sums.setdefault(name, [0.0, 0.0])
                    sums[0] += total
                    sums[1] += mass
                self._pending += 1
            self._observations[:0] = observations

    def restore(self, variant_ids: Iterable[str], now: float) -> None:
        """Rebuild the counters from stored windows, each weighted by its age."""
        half_life = self._config.half_life
        for variant_id in variant_ids:
            track = Track()
            for window in self._index().windows(variant_id, now - 10 * half_life, now + 86400.0):
                age = max(0.0, now - window.start - window.span)
                track.add(window, 0.5 ** (age / half_life))
            with self.fold:
                self.tracks[variant_id] = track
        self._decayed_at = now
        self.stamp += 1

    # -- reading --------------------------------------------------------------------------------

    def recent(self, variant_id: str) -> tuple[PerformanceHistory, Stability]:
        """Decayed history and stability, for scoring."""
        track = self.tracks.get(variant_id)
        if track is None:
            return PerformanceHistory(), Stability()
        return track.history(), Stability(track.passed, track.failed)

    def history(self, variant: Any, window: timedelta = timedelta(hours=24)) -> PerformanceHistory:
        """Everything measured of a variant in the last ``window``, exactly, from all processes."""
        history, first = self._stored(variant, window)
        if first is None:
            return history.history()
        import attrs

        found = history.history()
        return attrs.evolve(
            found, count=int(found.count), failures=int(found.failures), since=moment(first)
        )

    def baseline(self, variant: Any, *, by_agent: bool) -> dict[str, Any]:
        """The last 24 hours of a variant, to be frozen when a rollout starts.

        From all processes, and with ``by_agent`` for each agent apart (what others saw of single
        agents arrives with an hour's delay), with its latencies where there are ``LEAST`` of them.
        """
        total, _ = self._stored(variant, timedelta(hours=24))
        agents = Agents()
        if by_agent:
            variant_id, now = self._resolve(variant), self._clock()
            for part in agents.parts(variant_id):
                for window in self._index().windows(part, now - 86400.0 - HOUR, now + 86400.0):
                    agents.merge(window)
            with self.fold:
                track = self.tracks.get(variant_id)
                waiting = [] if track is None else track.agents.windows(variant_id, now, now)
            for window in (*self._hours, *waiting):
                if window.variant_id in agents.parts(variant_id):
                    agents.merge(window)
        return {
            "operations": int(total.count),
            "failures": int(total.failures),
            "units": agents.counts,
            "latency": total.sketch.to_json(),
            "unit_latency": {
                unit: [list(pair) for pair in sorted(bins.items())]
                for unit, bins in agents.latencies.items()
                if sum(bins.values()) >= LEAST
            },
        }

    def _stored(self, variant: Any, window: timedelta) -> tuple[Track, float | None]:
        """Everything stored of a variant since ``window`` ago, and when that begins."""
        variant_id = self._resolve(variant)
        self._flush()
        now = self._clock()
        since = now - window.total_seconds()
        total = Track()
        first: float | None = None
        for stored in self._index().windows(variant_id, since - self._config.interval, now + 86400):
            total.add(stored, 1.0)
            first = stored.start if first is None else min(first, stored.start)
        return total, first


def _sum(
    first: dict[str, list[float]],
    second: dict[str, list[float]],
    name: str,
    value: float,
    mass: float,
) -> None:
    for sums in (first, second):
        slot = sums.get(name)
        if slot is None:
            slot = sums[name] = [0.0, 0.0]
        slot[0] += value * mass
        slot[1] += mass
