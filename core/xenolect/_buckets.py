"""Hours, days and months in UTC, and what was measured in one of them, added up.

Counts, sums and bins are added, never averaged, so that any split of the same measurements over
processes, windows and buckets comes to the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from xenolect._agents_lately import Agents, is_hour
from xenolect._once import Once, is_once
from xenolect.facts import Rollup, Window

__all__ = [
    "INTERVAL",
    "LATELY",
    "RESOLUTIONS",
    "Bucket",
    "begin",
    "bucket_of",
    "end",
    "label",
    "span_of",
]

INTERVAL = "interval"
"""The resolution of what is kept for ``metrics.retention``: one roll-up for each window of time."""
LATELY = "lately"
"""The resolution of what is no variant's history: keys seen, and single agents; by the hour."""
RESOLUTIONS = ("hourly", "daily", "monthly")
HOUR, DAY = 3600.0, 86400.0


def begin(resolution: str, at: float, interval: float = 60.0) -> float:
    """When the bucket begins that a time is in; seconds since the epoch."""
    if resolution == "monthly":
        month = datetime.fromtimestamp(at, UTC)
        return datetime(month.year, month.month, 1, tzinfo=UTC).timestamp()
    return at - at % _span(resolution, interval)


def end(resolution: str, start: float, interval: float = 60.0) -> float:
    """When the bucket ends that begins at ``start``."""
    if resolution == "monthly":
        month = datetime.fromtimestamp(start, UTC)
        following = (month.year + 1, 1) if month.month == 12 else (month.year, month.month + 1)
        return datetime(*following, 1, tzinfo=UTC).timestamp()
    return start + _span(resolution, interval)


def label(resolution: str, start: float) -> str:
    """``2026-11-25-13``, ``2026-11-25`` or ``2026-11``."""
    shape = {"hourly": "%Y-%m-%d-%H", "daily": "%Y-%m-%d", "monthly": "%Y-%m"}[resolution]
    return datetime.fromtimestamp(start, UTC).strftime(shape)


def span_of(name: str) -> tuple[float, float]:
    """From when to when: the other way round than ``label``."""
    kind = ("monthly", "daily", "hourly")[name.count("-") - 1]
    shape = ("%Y-%m", "%Y-%m-%d", "%Y-%m-%d-%H")[name.count("-") - 1]
    start = datetime.strptime(name, shape).replace(tzinfo=UTC).timestamp()
    return start, end(kind, start)


def _span(resolution: str, interval: float) -> float:
    if resolution == INTERVAL:
        return interval
    return DAY if resolution == "daily" else HOUR


class Bucket:
    """A roll-up being filled."""

    __slots__ = ("bins", "count", "failures", "resolution", "span", "start", "sums", "variant_id")

    def __init__(self, variant_id: str, resolution: str, start: float, span: float) -> None:
        self.variant_id = variant_id
        self.resolution = resolution
        self.start = start
        self.span = span
        self.count = 0
        self.failures = 0
        self.bins: dict[int, int] = {}
        self.sums: dict[str, list[float]] = {}

    def add(self, window: Window) -> None:
        """Add what a window holds."""
        self.count += window.count
        self.failures += window.failures
        bins, sums = self.bins, self.sums
        for index, count in window.bins:
            bins[index] = bins.get(index, 0) + count
        for name, (total, mass) in window.sums.items():
            slot = sums.get(name)
            if slot is None:
                sums[name] = [total, mass]
            else:
                slot[0] += total
                slot[1] += mass

    def rollup(self) -> Rollup:
        """What was added, to be stored."""
        return Rollup(
            self.variant_id,
            self.start,
            self.span,
            self.count,
            self.failures,
            [list(pair) for pair in sorted(self.bins.items())],
            {name: list(slot) for name, slot in self.sums.items()},
            resolution=self.resolution,
        )


class _Agents(Bucket):
    """What single agents did: counts, or latencies as pairs of bin and count."""

    __slots__ = ("agents",)

    def __init__(self, variant_id: str, resolution: str, start: float, span: float) -> None:
        super().__init__(variant_id, resolution, start, span)
        self.agents = Agents()

    def add(self, window: Window) -> None:
        self.agents.merge(window)

    def rollup(self) -> Rollup:
        owner = self.variant_id.partition("#")[0]
        agents = self.agents
        agents.counts = agents.counts or {name: [0, 0] for name in agents.latencies}
        for window in agents.windows(owner, self.start, self.start + self.span):
            if window.variant_id == self.variant_id:
                return _rolled(window, self)
        return super().rollup()


class _Keys(Bucket):
    """Which keys of measurements were seen."""

    __slots__ = ("once",)

    def __init__(self, variant_id: str, resolution: str, start: float, span: float) -> None:
        super().__init__(variant_id, resolution, start, span)
        self.once = Once()

    def add(self, window: Window) -> None:
        self.once.learn(window)

    def rollup(self) -> Rollup:
        return _rolled(self.once.whole(self.start), self)


def _rolled(window: Window, bucket: Bucket) -> Rollup:
    return Rollup(
        bucket.variant_id,
        bucket.start,
        bucket.span,
        0,
        0,
        (),
        window.sums,
        resolution=bucket.resolution,
    )


def bucket_of(
    window: Window, resolution: str, interval: float, stored: Iterable[Rollup] = ()
) -> Bucket:
    """The bucket of a window, with what is stored of it already."""
    kind = _Keys if is_once(window) else _Agents if is_hour(window) else Bucket
    start = begin(resolution, window.start, interval)
    made = kind(window.variant_id, resolution, start, end(resolution, start, interval) - start)
    for each in stored:
        made.add(each)
    return made
