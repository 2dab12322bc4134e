"""One measured operation beside its floor, and how time is taken."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import attrs

__all__ = [
    "FULL",
    "MIB",
    "Group",
    "Growth",
    "Plan",
    "Progress",
    "Row",
    "cpu",
    "duration",
    "side_by_side",
    "wall",
]

MIB = 1024 * 1024
FULL = 1024 * MIB
Progress = Callable[[str], object]


@attrs.frozen
class Plan:
    """How much to measure: ``size`` is the large state's in bytes, ``FULL`` the one promised for.

    ``peers``: measure what else is installed and does such work, as well.
    """

    size: int = 64 * MIB
    peers: bool = False


@attrs.frozen
class Growth:
    """That a row is one point of a curve: what is measured, ``size`` things of a kind, which kind."""

    name: str
    size: int
    of: str


@attrs.frozen
class Row:
    """One operation: microseconds of ours and of the floor, what the floor is, and what is promised.

    ``at_most`` bounds ours / floor; ``at_least`` bounds floor / ours, for promises of speed; ``within``
    bounds ours, in microseconds. None: nothing is promised so. ``cpu`` is the ratio once more, by the
    CPU time of all threads, which a busy neighbour disturbs less; promises are about ``ratio``.
    ``growth`` joins rows to a curve.
    """

    name: str
    ours_us: float
    floor_us: float
    floor: str
    at_most: float | None = None
    at_least: float | None = None
    within: float | None = None
    cpu: float | None = None
    growth: Growth | None = None

    @property
    def ratio(self) -> float:
        """How many floors ours costs; with ``at_least`` which part of the floor's speed it reaches."""
        if self.at_least is not None:
            return self.floor_us / self.ours_us
        return self.ours_us / self.floor_us

    @property
    def promise(self) -> str:
        """What is promised, in words; "" for nothing."""
        said = []
        if self.at_most is not None:
            said.append(f"<= {self.at_most:g} x")
        if self.at_least is not None:
            said.append(f">= {self.at_least:g} x")
        if self.within is not None:
            said.append(f"<= {duration(self.within)}")
        return ", ".join(said)

    @property
    def held(self) -> bool | None:
        """Was the promise held in this run; None where nothing is promised."""
        if not self.promise:
            return None
        return (
            (self.at_most is None or self.ratio <= self.at_most)
            and (self.at_least is None or self.ratio >= self.at_least)
            and (self.within is None or self.ours_us <= self.within)
        )


Group = Callable[[Plan, Progress], Iterator[Row]]


def duration(us: float) -> str:
    """Microseconds in the unit that reads best."""
    if us < 1e3:
        return f"{us:,.3g} us"
    return f"{us / 1e3:,.3g} ms" if us < 1e6 else f"{us / 1e6:,.3g} s"


def cpu(operation: Callable[[], object], number: int, batches: int = 9) -> float:
    """Median CPU microseconds of one call, over batches of ``number``."""
    return side_by_side((operation,), number, batches)[0]


def side_by_side(
    operations: Sequence[Callable[[], object]], number: int, batches: int = 9
) -> list[float]:
    """``cpu`` of several that take turns, so that a busy neighbour disturbs all of them alike."""
    times: list[list[float]] = [[] for _ in operations]
    for _ in range(batches):
        for operation, taken in zip(operations, times, strict=True):
            began = time.thread_time()
            for _ in range(number):
                operation()
            taken.append((time.thread_time() - began) / number)
    return [statistics.median(taken) * 1e6 for taken in times]


def wall(operation: Callable[[], object], number: int) -> float:
    """Median wall microseconds of one call."""
    times = []
    for _ in range(number):
        began = time.perf_counter()
        operation()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6
