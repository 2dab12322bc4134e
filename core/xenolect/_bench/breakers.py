"""What a closed breaker adds to a call, and what it costs when calls are slow and many."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from xenolect._bench.rows import Plan, Progress, Row, cpu
from xenolect.breaker import CircuitBreaker

__all__ = ["rows"]

THREADS = 8


def rows(plan: Plan, progress: Progress) -> Iterator[Row]:
    """The group's rows."""
    progress("closed breakers")

    def nothing() -> None:
        pass

    bare = cpu(nothing, 50_000)
    modes: tuple[tuple[str, dict[str, Any], float], ...] = (
        ("consecutive failures", {"failure_rate": None}, 0.3),
        ("with a window", {}, 0.5),
    )
    for mode, options, within in modes:
        guarded = CircuitBreaker(**options)(nothing)
        yield Row(
            f"guarded call, closed, {mode}",
            cpu(guarded, 50_000),
            bare,
            "the bare call",
            within=within,
        )
    progress("slow calls on 8 threads")
    sleep = partial(time.sleep, 0.005)
    ours, floor = side_by_side(CircuitBreaker()(sleep), sleep)
    yield Row("guarded 5 ms calls on 8 threads", ours, floor, "the same unguarded", at_least=0.95)


def side_by_side(*operations: Callable[[], object], number: int = 60) -> list[float]:
    """Median wall microseconds per call of 8 threads that make ``number`` calls each.

    The operations take turns, nine each, so that a busy neighbour disturbs all of them alike.
    """
    times: list[list[float]] = [[] for _ in operations]
    for _ in range(9):
        for operation, taken in zip(operations, times, strict=True):
            taken.append(_crowd(operation, number))
    return [statistics.median(taken) * 1e6 for taken in times]


def _crowd(operation: Callable[[], object], number: int) -> float:
    def work() -> None:
        for _ in range(number):
            operation()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - began) / (THREADS * number)
