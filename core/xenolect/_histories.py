"""What was measured, read back: of the last hours, by hour, day or month, and before a rollout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import attrs

from xenolect._agents_lately import Agents
from xenolect._buckets import RESOLUTIONS, begin, end
from xenolect._codec import moment
from xenolect._stored import Stored
from xenolect._tracks import Feed, Track, whole
from xenolect.errors import InvalidError
from xenolect.facts import Window
from xenolect.model import PerformanceHistory

__all__ = ["Histories"]

LEAST = 200  # fewer latencies of its own, and an agent is compared with the pooled ones
HOUR = 3600.0


class Histories:
    """Reads windows and roll-ups, after what waits is stored.

    ``unstored``: what single agents did on a variant that no flush stores yet.
    """

    def __init__(
        self,
        windows: Stored,
        clock: Callable[[], float],
        resolve: Callable[[Any], str],
        flush: Callable[[], None],
        unstored: Callable[[str, float], Sequence[Window]],
    ) -> None:
        self._windows = windows
        self._clock = clock
        self._resolve = resolve
        self._flush = flush
        self._unstored = unstored

    def history(self, variant: Any, window: timedelta = timedelta(hours=24)) -> PerformanceHistory:
        """Everything measured of a variant in the last ``window``, exactly, from all processes."""
        history, first = self._total(variant, window)
        if first is None:
            return history.history()
        return attrs.evolve(whole(history.history()), since=moment(first))

    def rollups(self, variant: Any, resolution: str = "hourly") -> list[PerformanceHistory]:
        """What was measured of a variant in each hour, day or month (UTC) that is kept, oldest first.

        ``since`` and ``until`` of each are the ends of its bucket. Exact, from all processes, the bucket
        that is not over included. InvalidError unless "hourly", "daily" or "monthly".
        """
        if resolution not in RESOLUTIONS:
            raise InvalidError(
                f"resolution must be 'hourly', 'daily' or 'monthly', got {resolution!r}"
            )
        variant_id = self._resolve(variant)
        self._flush()
        found: dict[float, Track] = {}
        for each in self._windows.rolled(variant_id, resolution, self._clock())[1]:
            start = begin(resolution, each.start)
            found.setdefault(start, Track(variant_id, Feed())).add(each, 1.0)
        return [
            attrs.evolve(
                whole(track.history()), since=moment(start), until=moment(end(resolution, start))
            )
            for start, track in sorted(found.items())
        ]

    def baseline(self, variant: Any, *, by_agent: bool) -> dict[str, Any]:
        """The last 24 hours of a variant, to be frozen when a rollout starts.

        From all processes, and with ``by_agent`` for each agent apart (what others saw of single
        agents arrives with an hour's delay), with its latencies where there are ``LEAST`` of them.
        """
        total, _ = self._total(variant, timedelta(hours=24))
        agents = Agents()
        if by_agent:
            variant_id, now = self._resolve(variant), self._clock()
            for part in agents.parts(variant_id):
                for window in self._windows.lately(part, now - 86400.0 - HOUR, now)[1]:
                    agents.merge(window)
            for window in self._unstored(variant_id, now):
                if window.variant_id in agents.parts(variant_id):
                    agents.merge(window)
        return {
            "operations": int(total.tally.count),
            "failures": int(total.tally.failures),
            "units": agents.counts,
            "latency": total.sketch.to_json(),
            "unit_latency": {
                unit: [list(pair) for pair in sorted(bins.items())]
                for unit, bins in agents.latencies.items()
                if sum(bins.values()) >= LEAST
            },
        }

    def _total(self, variant: Any, window: timedelta) -> tuple[Track, float | None]:
        """Everything stored of a variant since ``window`` ago, and when that begins."""
        variant_id = self._resolve(variant)
        self._flush()
        now = self._clock()
        since = now - window.total_seconds()
        total = Track(variant_id, Feed())
        first: float | None = None
        for stored in self._windows.since(variant_id, since, now)[1]:
            total.add(stored, 1.0)
            first = stored.start if first is None else min(first, stored.start)
        return total, first
