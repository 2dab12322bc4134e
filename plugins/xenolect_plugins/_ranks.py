"""Where a latency stands among those of before: ranks instead of milliseconds, so units compare.

Ranks lie in [0, 1] whatever the distribution, which is what a bet needs; means do not (under a
Pareto tail a +20 % shift took 2,700 operations to find by means and 64 by ranks, simulated).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from xenolect.sketch import RATIO, Sketch

__all__ = ["Ranks"]

Bins = Sequence[Sequence[int]]


def _edge(index: int) -> float:
    """The upper edge of a bin, rounded to 12 digits: C libraries' ``pow`` differ in the last bit."""
    return float(f"{RATIO**index:.12g}")


class Ranks:
    """The distribution function of a latency sketch, and a quantile of its tail.

    Bins hold mid-ranks, so equal values count half below and half above. Compared by bisection over
    rounded edges: the same latency gets the same rank on every platform.
    """

    __slots__ = ("_edges", "_ranks", "tail")

    def __init__(self, bins: Bins, tail: float) -> None:
        counts = {int(index): int(count) for index, count in bins if count > 0}
        zero = Sketch.bin_of(0.0)
        under = counts.pop(zero, 0)
        total = under + sum(counts.values())
        if not counts:
            self._edges: list[float] = []
            self._ranks = [0.5]
            self.tail = 0.0
            return
        low, high = min(counts), max(counts)
        self._edges = [_edge(index) for index in range(low - 1, high + 1)]
        dense = [counts.get(index, 0) for index in range(low, high + 1)]
        before = accumulate(dense, initial=under)
        middles = [(b + 0.5 * n) / total for b, n in zip(before, dense, strict=False)]
        self._ranks = [0.5 * under / total if under else 0.0, *middles, 1.0]
        self.tail = Sketch(counts | ({zero: under} if under else {})).quantile(tail) or 0.0

    def of(self, value: float) -> float:
        """The share of earlier values below ``value``, ties counted half."""
        return self._ranks[bisect_left(self._edges, value)]


def own_or_pooled(bins: Iterable[Sequence[int]], pooled: Ranks, least: int, tail: float) -> Ranks:
    """A unit's own ranks when it has at least ``least`` values, else the pooled ones."""
    kept = [pair for pair in bins if pair[1] > 0]
    return Ranks(kept, tail) if sum(pair[1] for pair in kept) >= least else pooled
