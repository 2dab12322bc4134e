"""Recording, and calls that select, time and report."""

from __future__ import annotations

from collections.abc import Iterator

from xenolect._bench.fleet import fleet
from xenolect._bench.rows import Plan, Progress, Row, cpu
from xenolect.model import PerformanceMetrics

__all__ = ["rows"]


def rows(plan: Plan, progress: Progress) -> Iterator[Row]:
    """The group's rows."""
    progress("record")
    with fleet(2) as manager:
        metrics = PerformanceMetrics(1.0, latency_ms=12.5)
        sums = [0, 0, 0.0]
        bins: dict[int, int] = {}

        def fold() -> None:
            sums[0] += 1
            sums[2] += 12.5
            bins[64] = bins.get(64, 0) + 1

        yield Row(
            "record, in memory",
            cpu(lambda: manager.record("v1", metrics), 500),
            cpu(fold, 5_000),
            "two sums and a bin",
        )

        def nothing() -> None:
            pass

        def guarded() -> None:
            with manager.call("agent-0"):
                nothing()

        yield Row("manager.call", cpu(guarded, 500), cpu(nothing, 5_000), "the bare call")
