"""The live counters of one variant, and the feed that tells readers whose counters moved.

A writer changes data first, then the version, then the feed; a reader reads them the other way round.
So whoever sees the entry sees the data, without a lock between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from xenolect._agents_lately import Agents
from xenolect._codec import moment
from xenolect.facts import Window
from xenolect.model import PerformanceHistory
from xenolect.sketch import LEAST, SCALE, ZERO, Sketch
from xenolect.tallies import Tally

__all__ = ["CLASS", "LATENCY", "LEAST_LOG", "Cell", "Feed", "Track", "add_sum", "merged", "whole"]

CLASS = "_class."  # in a window's sums: what one class of agents saw, [failures, operations]
LATENCY = "_latency"  # and [sum of logarithms, observations], of all or of a class
_log, _ceil = math.log, math.ceil
LEAST_LOG = _log(LEAST)  # stands for a latency of nothing
_LONG = 4_096  # entries after which a feed starts over, and readers compare versions instead


class Feed:
    """Whose counters moved, in order: one per protocol."""

    __slots__ = ("log",)

    def __init__(self) -> None:
        self.log: list[Track] = []

    def tell(self, track: Track) -> None:
        """The track moved."""
        log = self.log
        log.append(track)
        if len(log) >= _LONG:
            self.log = []  # who holds the old one compares versions: nothing is missed

    def restart(self) -> None:
        """Everything may have moved."""
        self.log = []


class Cell:
    """A window being filled. ``classes``: class -> [count, failures, latencies, logarithms]."""

    __slots__ = ("bins", "classes", "count", "failures", "latency_logs", "start", "sums", "until")

    def __init__(self, start: float, until: float) -> None:
        self.start = start
        self.until = until
        self.count = 0
        self.failures = 0
        self.latency_logs = 0.0
        self.bins: dict[int, int] = {}
        self.sums: dict[str, list[float]] = {}
        self.classes: dict[str, list[float]] = {}

    def window(self, variant_id: str, span: float, writer: str) -> Window:
        """What was filled in, to be stored."""
        sums = {name: list(slot) for name, slot in self.sums.items()}
        if self.bins:
            sums[LATENCY] = [self.latency_logs, sum(self.bins.values())]
        for name, (count, failures, latencies, logs) in self.classes.items():
            sums[CLASS + name] = [failures, count]
            if latencies:
                sums[CLASS + name + LATENCY] = [logs, latencies]
        return Window(
            variant_id,
            self.start,
            span,
            self.count,
            self.failures,
            [list(pair) for pair in sorted(self.bins.items())],
            sums,
            writer,
        )


class Track:
    """The decayed counters of one variant; ``agents`` holds what single ones did lately.

    ``tally`` is always fresh. ``sketch`` and ``classes`` lack what is still in ``cell``, the window
    being filled: it is added when the window is stored.
    """

    __slots__ = (
        "agents",
        "cell",
        "classes",
        "feed",
        "sketch",
        "tally",
        "until",
        "variant_id",
        "version",
    )

    def __init__(self, variant_id: str, feed: Feed) -> None:
        self.variant_id = variant_id
        self.feed = feed
        self.version = 0
        self.tally = Tally()
        self.sketch = Sketch()
        self.classes: dict[str, list[float]] = {}
        self.until: float | None = None
        self.cell: Cell | None = None
        self.agents = Agents()

    def moved(self) -> None:
        """The counters changed: tell the readers."""
        self.version += 1
        self.feed.tell(self)

    def own(self, name: str) -> Sequence[float]:
        """What a class of agents saw: count, failures, latencies, sum of logarithms; () for nothing."""
        kept = self.classes.get(name)
        cell = self.cell
        new = None if cell is None else cell.classes.get(name)
        if kept is None or new is None:
            return kept or new or ()
        return [a + b for a, b in zip(kept, new, strict=True)]

    def add(self, window: Window, weight: float) -> None:
        """Add a stored window with a weight in [0, 1]."""
        tally = self.tally
        tally.count += window.count * weight
        tally.failures += window.failures * weight
        if window.bins:
            logs, seen = window.sums.get(LATENCY) or logarithms(window.bins)
            tally.latencies += seen * weight
            tally.latency_logs += logs * weight
            self._bins(window.bins, weight)
        for name, (total, mass) in window.sums.items():
            if name.startswith(CLASS):
                inner = name[len(CLASS) :]
                late = inner.endswith(LATENCY)
                slot = self.classes.setdefault(
                    inner[: -len(LATENCY)] if late else inner, [0.0, 0.0, 0.0, 0.0]
                )
                slot[2 if late else 0] += mass * weight
                slot[3 if late else 1] += total * weight
            elif not name.startswith("_"):
                slot = tally.sums.setdefault(name, [0.0, 0.0])
                slot[0] += total * weight
                slot[1] += mass * weight
        self.until = max(self.until or 0.0, window.start + window.span)

    def add_calls(self, cell: Cell, latencies: Sequence[float | None]) -> None:
        """Fold single operations that went well, here and into the cell being filled."""
        tally, bins = self.tally, cell.bins
        seen, total = 0, 0.0
        for latency in latencies:
            if latency is None:
                continue
            if latency > LEAST:
                logarithm = _log(latency)
                index = _ceil(logarithm * SCALE)
            else:
                logarithm, index = LEAST_LOG, ZERO
            bins[index] = bins.get(index, 0) + 1
            total += logarithm
            seen += 1
        tally.count += len(latencies)
        cell.count += len(latencies)
        tally.latencies += seen
        tally.latency_logs += total
        cell.latency_logs += total

    def _bins(self, bins: Sequence[Sequence[int]], weight: float) -> None:
        sketch = self.sketch
        into = sketch.bins
        for index, count in bins:
            into[index] = into.get(index, 0) + count * weight
            sketch.count += count * weight

    def put_away(self, cell: Cell) -> None:
        """The cell is being stored: its latencies and classes go where they lose weight with age."""
        if self.cell is cell:
            self.cell = None
        self._bins(list(cell.bins.items()), 1.0)
        for name, new in cell.classes.items():
            kept = self.classes.get(name)
            self.classes[name] = (
                new if kept is None else [a + b for a, b in zip(kept, new, strict=True)]
            )

    def scale(self, factor: float) -> None:
        """Let everything lose weight; what is in the cell as well, with the rest, when it is stored."""
        self.tally.scale(factor)
        bins = {i: c * factor for i, c in self.sketch.bins.items() if c * factor > 1e-3}
        self.sketch.bins = bins
        self.sketch.count = sum(bins.values())
        self.classes = {name: [x * factor for x in slot] for name, slot in self.classes.items()}

    def history(self) -> PerformanceHistory:
        """The counters as a record."""
        tally, sketch = self.tally, self.sketch
        cell = self.cell
        if cell is not None and cell.bins:
            sketch = sketch.copy()
            sketch.merge(Sketch(cell.bins))
        sums = {name: total / mass for name, (total, mass) in list(tally.sums.items()) if mass > 0}
        median = sketch.quantile(0.5)
        failures = min(tally.failures, tally.count)
        return PerformanceHistory(
            count=tally.count,
            failures=failures,
            success_rate=1.0 - failures / tally.count if tally.count else None,
            latency_ms=median,
            p50=median,
            p95=sketch.quantile(0.95),
            p99=sketch.quantile(0.99),
            resource_usage=sums.pop("resource_usage", None),
            throughput=sums.pop("throughput", None),
            custom={name[7:]: value for name, value in sums.items()},
            until=moment(self.until) if self.until else None,
        )


def logarithms(bins: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Sum of logarithms and count of binned latencies, within 2 % of each value."""
    total = seen = 0.0
    for index, count in bins:
        total += count * math.log(max(Sketch.value_of(index), 1e-6))
        seen += count
    return total, seen


def add_sum(
    first: dict[str, list[float]],
    second: dict[str, list[float]],
    name: str,
    value: float,
    mass: float,
) -> None:
    """Add a value, weighted by operations, to two tables of sums."""
    for sums in (first, second):
        slot = sums.get(name)
        if slot is None:
            slot = sums[name] = [0.0, 0.0]
        slot[0] += value * mass
        slot[1] += mass


def merged(windows: Sequence[Window]) -> list[Window]:
    """The same measurements in one window for each variant, start and writer."""
    found: dict[tuple[str, float, str], Window] = {}
    for window in windows:
        key = (window.variant_id, window.start, window.writer)
        other = found.get(key)
        if other is None:
            found[key] = window
            continue
        bins: dict[int, int] = {}
        for index, count in (*other.bins, *window.bins):
            bins[index] = bins.get(index, 0) + count
        sums = {name: list(slot) for name, slot in other.sums.items()}
        for name, (total, mass) in window.sums.items():
            slot = sums.setdefault(name, [0.0, 0.0])
            slot[0] += total
            slot[1] += mass
        found[key] = attrs.evolve(
            other,
            count=other.count + window.count,
            failures=other.failures + window.failures,
            bins=[list(pair) for pair in sorted(bins.items())],
            sums=sums,
        )
    return list(found.values())


def whole(history: PerformanceHistory) -> PerformanceHistory:
    """Counts that have no weight of age are whole."""
    return attrs.evolve(history, count=int(history.count), failures=int(history.failures))
