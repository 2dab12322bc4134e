"""What was measured: recent history in memory for scoring, windows on their way to the index.

``record`` is O(1): it adds to the variant's counters, and to the window that the next flush appends.
Counters lose half their weight every ``half_life`` (applied by ``decay``, never in between). What other
processes measured is added by ``follow``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

from xenolect._agents_lately import Agents, is_hour
from xenolect._histories import Histories
from xenolect._once import Once, is_once
from xenolect._sending import Sending
from xenolect._stored import Stored
from xenolect._tracks import LEAST_LOG, Cell, Feed, Track, merged
from xenolect._tracks import add_sum as _sum
from xenolect.config import MetricsConfig
from xenolect.errors import LimitError
from xenolect.facts import Observation, Window
from xenolect.interfaces import Index
from xenolect.model import PerformanceHistory, PerformanceMetrics, Stability
from xenolect.sketch import LEAST as NOTHING
from xenolect.sketch import SCALE, ZERO

__all__ = ["Performance"]

HOUR = 3600.0
CLASSES = 64  # classes of agents counted apart; the rest is pooled
PAGE = 1000  # windows of others taken in at a time
_log, _ceil = math.log, math.ceil


class Performance:
    """``manager.performance``: histories and windows of every variant."""

    def __init__(
        self,
        config: MetricsConfig,
        index: Callable[[], Index],
        clock: Callable[[], float],
        resolve: Callable[[Any], str],
        flush: Callable[[], None],
        writer: Callable[[], str] = lambda: "",
    ) -> None:
        self._config = config
        self._index = index
        self._clock = clock
        self._writer = writer
        self.fold = threading.RLock()  # guards counters, windows and evidence; never held over I/O
        self.tracks: dict[str, Track] = {}
        self.feeds: dict[str, Feed] = {}
        self.once = Once()
        self.rejected = 0
        self.late = 0
        self.pending = 0  # measurements not yet stored
        self._nowhere = Feed()  # of variants that nobody may be served
        self._classes: dict[str, str] = {}
        self._open: list[tuple[str, Cell]] = []
        self._given_back: list[Window] = []
        self._observations: list[Observation] = []
        self._decayed_at = clock()
        self._hour = clock()  # when what single agents did was last put into windows
        self._hours: list[Window] = []
        self._followed = 0
        self._heard: dict[str, int] = {}  # what of a variant ``restore`` read already
        self.stored = Stored(index, config)
        self.sending = Sending(self, index, writer)
        self._histories = Histories(self.stored, clock, resolve, flush, self._of_agents)
        self.unheard = False  # did this process store anything since it last followed?

    # -- who and what ---------------------------------------------------------------------------

    def track(self, variant_id: str, feed: Feed | None = None) -> Track:
        """The counters of a variant, made at first use and never replaced."""
        track = self.tracks.get(variant_id)
        if track is None:
            track = self.tracks.setdefault(variant_id, Track(variant_id, feed or self._nowhere))
        if feed is not None:
            track.feed = feed
        return track

    def feed(self, protocol: str) -> Feed:
        """What readers of a protocol's scores follow."""
        return self.feeds.setdefault(protocol, Feed())

    def touch(self, variant_id: str) -> None:
        """Something that selection reads of the variant changed."""
        track = self.tracks.get(variant_id)
        if track is not None:
            track.moved()

    def admit(self, name: str) -> str:
        """The class of agents under which a name is counted: itself, or "" when there are too many."""
        found = self._classes.get(name)
        if found is None and len(self._classes) < CLASSES:
            found = self._classes.setdefault(name, name)
        return found or ""

    # -- writing --------------------------------------------------------------------------------

    def full(self, more: int = 1) -> LimitError:
        """The error of a queue that can not take so many measurements now."""
        limit = self._config.queue
        if more > limit:
            return LimitError(
                f"{more} measurements at once, the limit is {limit} ([metrics] queue); split them"
            )
        return LimitError(
            f"{self.pending} measurements wait to be stored, the limit is {limit} ([metrics] queue); "
            f"try again after the next flush",
            retry_after=self._config.flush_interval,
        )

    def room(self, more: int = 1) -> None:
        """LimitError unless so many measurements may wait as well."""
        if self.pending + more > self._config.queue:
            raise self.full(more)

    def add(
        self,
        track: Track,
        metrics: PerformanceMetrics,
        failures: int,
        now: float,
        unit: str | None,
        group: str,
    ) -> None:
        """Fold one checked measurement; the caller holds ``fold`` and asked for ``room``.

        The hottest lines of the package, hence written out: 1.0 us with a latency, 1.6 with an agent.
        """
        count = metrics.count
        cell = track.cell
        if cell is None or not cell.start <= now < cell.until:
            cell = self._new_cell(track, now)
        tally = track.tally
        tally.count += count
        cell.count += count
        if failures:
            tally.failures += failures
            cell.failures += failures
        latency = metrics.latency_ms
        index: int | None = None
        logarithm = 0.0
        if latency is not None:
            if latency > NOTHING:
                logarithm = _log(latency)
                index = _ceil(logarithm * SCALE)
            else:
                logarithm, index = LEAST_LOG, ZERO
            tally.latencies += 1.0
            tally.latency_logs += logarithm
            cell.latency_logs += logarithm
            bins = cell.bins
            bins[index] = bins.get(index, 0) + 1
        if metrics.resource_usage is not None:
            _sum(tally.sums, cell.sums, "resource_usage", metrics.resource_usage, count)
        if metrics.throughput is not None:
            _sum(tally.sums, cell.sums, "throughput", metrics.throughput, count)
        if metrics.custom:
            for name, value in metrics.custom.items():
                _sum(tally.sums, cell.sums, f"custom.{name}", value, count)
        if group:
            own = cell.classes.get(group)
            if own is None:
                own = cell.classes[group] = [0.0, 0.0, 0.0, 0.0]
            own[0] += count
            if failures:
                own[1] += failures
            if index is not None:
                own[2] += 1.0
                own[3] += logarithm
        if unit is not None:
            track.agents.add(unit, count, failures, index)
        track.until = now
        self.pending += 1
        track.version += 1
        feed = track.feed
        log = feed.log
        log.append(track)
        if len(log) >= 4096:
            feed.restart()

    def add_calls(self, variant_id: str, latencies: Sequence[float | None], now: float) -> None:
        """``add`` single operations that went well and are of no agent: a latency or None for each."""
        track = self.track(variant_id)
        cell = track.cell
        if cell is None or not cell.start <= now < cell.until:
            cell = self._new_cell(track, now)
        track.add_calls(cell, latencies)
        track.until = now
        self.pending += len(latencies)
        track.moved()

    def _new_cell(self, track: Track, now: float) -> Cell:
        span = self._config.interval
        if track.cell is not None:
            track.put_away(track.cell)  # still in ``_open``: it is stored with the next flush
        start = now - now % span
        cell = track.cell = Cell(start, start + span)
        self._open.append((track.variant_id, cell))
        return cell

    def add_late(
        self, variant_id: str, metrics: PerformanceMetrics, failures: int, at: float
    ) -> None:
        """A measurement that is too old to say how things are: into the window of its own time only.

        The caller holds ``fold`` and asked for ``room``.
        """
        track = Track(variant_id, Feed())
        span = self._config.interval
        start = at - at % span
        cell = track.cell = Cell(start, start + span)
        self.add(track, metrics, failures, at, None, "")
        self._given_back.append(cell.window(variant_id, span, self._writer()))
        self.late += 1

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
            track = self.track(variant_id)
            track.tally.passed += passed
            track.tally.failed += failed
            track.moved()

    def decay(self, now: float) -> bool:
        """Apply the half-life for the time since the last call (at most once a minute); was it?"""
        passed = now - self._decayed_at
        if passed < 60.0:
            return False
        factor = 0.5 ** (passed / self._config.half_life)
        self._decayed_at = now
        for track in list(self.tracks.values()):
            with self.fold:  # one at a time: who records in between waits for microseconds
                track.scale(factor)
                track.version += 1
        for feed in list(self.feeds.values()):
            feed.restart()
        return True

    # -- on the way to the index ----------------------------------------------------------------

    def waiting(self) -> list[Observation]:
        """Evidence not yet stored, in order; the caller holds ``fold``."""
        return [*self.sending.unsure, *self._observations]

    def take(self) -> tuple[list[Window], list[Observation]]:
        """What waits, in order; the caller stores it or gives it back."""
        with self.fold:
            if self._clock() - self._hour >= HOUR:
                self.end_hour()
            open_, hours, back = self._open, self._hours, self._given_back
            observations = self._observations
            for variant_id, cell in open_:
                track = self.tracks[variant_id]
                if track.cell is cell:
                    track.put_away(cell)
            self._open, self._hours, self._given_back = [], [], []
            self._observations, self.pending = [], 0
            once = self.once.take()
        span, writer = self._config.interval, self._writer()
        windows = [cell.window(variant_id, span, writer) for variant_id, cell in open_]
        windows += back + hours
        if once:
            windows.append(Once.window(once, self._clock(), writer))
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
                else:
                    self._given_back.append(window)
                    self.pending += 1
            if len(self._given_back) > 1_000:  # an index that is away for long: one for each start
                self._given_back = merged(self._given_back)
            self._observations[:0] = observations

    def restore(self, variant_ids: Iterable[str], now: float) -> None:
        """Rebuild the counters from stored windows, each weighted by its age."""
        half_life = self._config.half_life
        head, _ = self._index().appended(None, 0)
        for variant_id in variant_ids:
            track = self.track(variant_id)
            cursor, windows = self.stored.fresh(variant_id, now)
            for window in windows:
                if window.sequence <= head:
                    long = window.span > self._config.interval  # an hour: as old as its middle
                    age = now - window.start - window.span * (0.5 if long else 1.0)
                    track.add(window, 0.5 ** (max(0.0, age) / half_life))
            self._heard[variant_id] = max(head, cursor)
            for name in track.classes:
                self.admit(name)
            track.moved()
        for window in self.stored.lately(Once.NAME, now - 86400.0, now)[1]:
            self.once.learn(window)
        self._followed = head
        self._decayed_at = now

    def leave_parent(self) -> None:
        """In a forked child: what waits is the parent's to store. It is taken off the counters, since it
        comes back by ``follow``; what an index that failed gave back counts twice, until it decays."""
        self.fold = threading.RLock()
        for variant_id, cell in self._open:
            track = self.tracks[variant_id]
            if track.cell is cell:
                track.put_away(cell)
            track.add(cell.window(variant_id, cell.until - cell.start, ""), -1.0)
        self.take()
        self.sending.leave_parent()
        for track in self.tracks.values():
            track.agents = Agents()
            track.moved()
        self._hours, self._hour = [], self._clock()

    def follow(self) -> None:
        """Add what other processes stored since the last call."""
        while True:
            since, self.unheard = self._followed, False
            cursor, windows = self._index().appended(since, PAGE, self._writer())
            now = self._clock()
            with self.fold:
                if self._followed != since:
                    continue  # another thread took them in meanwhile
                for window in windows:
                    if is_once(window):
                        self.once.learn(window)
                    elif not is_hour(window):
                        self._hear(window, now)
                self._followed = cursor
            if len(windows) < PAGE:
                return

    def _hear(self, window: Window, now: float) -> None:
        age = max(0.0, now - window.start - window.span)
        if age > 10 * self._config.half_life:
            return
        if window.sequence <= self._heard.get(window.variant_id, 0):
            return
        track = self.track(window.variant_id)
        track.add(window, 0.5 ** (age / self._config.half_life))
        for name in track.classes:
            self.admit(name)
        track.moved()

    # -- reading --------------------------------------------------------------------------------

    def recent(self, variant_id: str) -> tuple[PerformanceHistory, Stability]:
        """Decayed history and stability, for scoring."""
        track = self.tracks.get(variant_id)
        if track is None:
            return PerformanceHistory(), Stability()
        return track.history(), Stability(track.tally.passed, track.tally.failed)

    def history(self, variant: Any, window: timedelta = timedelta(hours=24)) -> PerformanceHistory:
        """Everything measured of a variant in the last ``window``, exactly, from all processes."""
        return self._histories.history(variant, window)

    def rollups(self, variant: Any, resolution: str = "hourly") -> list[PerformanceHistory]:
        """What was measured of a variant in each hour, day or month (UTC) that is kept, oldest first.

        ``since`` and ``until`` of each are the ends of its bucket. Exact, from all processes, the bucket
        that is not over included. InvalidError unless "hourly", "daily" or "monthly".
        """
        return self._histories.rollups(variant, resolution)

    def baseline(self, variant: Any, *, by_agent: bool) -> dict[str, Any]:
        """The last 24 hours of a variant, to be frozen when a rollout starts."""
        return self._histories.baseline(variant, by_agent=by_agent)

    def _of_agents(self, variant_id: str, now: float) -> list[Window]:
        """What single agents did that no flush stores yet."""
        with self.fold:
            track = self.tracks.get(variant_id)
            waiting = [] if track is None else track.agents.windows(variant_id, now, now)
        return [*self._hours, *waiting]
