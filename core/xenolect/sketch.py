"""A mergeable quantile sketch of positive numbers, with a bounded relative error.

Values fall into bins whose edges grow by a constant ratio, so a quantile is off by at most
``sqrt(RATIO) - 1`` (about 2 %) of its value, two sketches merge by adding counts, and merging is
exact: any split of the data over processes, windows or roll-ups gives the same sketch.
The construction is that of DDSketch (Masson, Rim & Lee, VLDB 2019, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

__all__ = ["RATIO", "Sketch"]

RATIO = 1.04
SCALE = 1.0 / math.log(RATIO)
_MIDDLE = 2.0 / (1.0 + 1.0 / RATIO)  # a bin (RATIO**(i-1), RATIO**i] is represented by its middle
LEAST = 1e-6  # below a nanosecond (in milliseconds) everything is zero
ZERO = -(10**6)  # the bin of values under LEAST


class Sketch:
    """Counts per logarithmic bin; ``add``, ``merge``, ``quantile``, ``rank`` and a JSON form."""

    __slots__ = ("bins", "count")

    def __init__(self, bins: Mapping[int, float] | None = None) -> None:
        self.bins: dict[int, float] = dict(bins or {})  # whole, unless weighted by age
        self.count: float = sum(self.bins.values())

    @staticmethod
    def bin_of(value: float) -> int:
        """The bin of one value (any unit; here milliseconds)."""
        return math.ceil(math.log(value) * SCALE) if value > LEAST else ZERO

    @staticmethod
    def value_of(index: int) -> float:
        """The value that stands for a bin, within 2 % of each value in it."""
        return RATIO ** (index - 1) * _MIDDLE if index != ZERO else 0.0

    def add(self, value: float, count: float = 1) -> None:
        """Add ``count`` observations of ``value``."""
        index = math.ceil(math.log(value) * SCALE) if value > LEAST else ZERO
        bins = self.bins
        bins[index] = bins.get(index, 0) + count
        self.count += count

    def merge(self, other: Sketch) -> None:
        """Add everything the other sketch has seen."""
        bins = self.bins
        for index, count in list(other.bins.items()):
            bins[index] = bins.get(index, 0) + count
        self.count += other.count

    def quantile(self, q: float) -> float | None:
        """The value at quantile ``q`` in [0, 1], or None when nothing was added."""
        bins = sorted(self.bins.items())
        total = sum(count for _, count in bins)
        if not total:
            return None
        rank = q * (total - 1)
        seen = 0.0
        for index, count in bins:
            seen += count
            if seen > rank:
                return self.value_of(index)
        return self.value_of(bins[-1][0])

    def rank(self, value: float) -> float:
        """The share of observations below ``value``, ties counted half (mid-rank), in [0, 1]."""
        if not self.count:
            return 0.5
        index = self.bin_of(value)
        below = sum(count for i, count in self.bins.items() if i < index)
        return (below + 0.5 * self.bins.get(index, 0)) / self.count

    def to_json(self) -> list[list[int]]:
        """``[[bin, count], ...]`` in ascending order."""
        return [[index, round(count)] for index, count in sorted(self.bins.items())]

    @classmethod
    def from_json(cls, pairs: Iterable[Iterable[int]]) -> Sketch:
        """Read what ``to_json`` wrote."""
        return cls({int(index): int(count) for index, count in pairs})

    def copy(self) -> Sketch:
        """An independent sketch with the same content."""
        return Sketch(self.bins)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sketch) and self.bins == other.bins

    def __repr__(self) -> str:
        return f"Sketch(count={self.count}, p50={self.quantile(0.5)})"
