"""What a closed breaker adds to a call, and what it costs when calls are slow and many."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from xenolect._bench import peers
from xenolect._bench.rows import Growth, Plan, Progress, Row, side_by_side
from xenolect.breaker import CircuitBreaker

__all__ = ["rows"]

THREADS = 8


def rows(plan: Plan, progress: Progress) -> Iterator[Row]:
    """The group's rows."""
    progress("closed breakers")

    def nothing() -> None:
        pass

    modes: tuple[tuple[str, dict[str, Any], float], ...] = (
        ("consecutive failures", {"failure_rate": None}, 0.3),
        ("with a window", {}, 0.5),
    )
    for mode, options, within in modes:
        guarded = CircuitBreaker(**options)(nothing)
        ours, bare = side_by_side((guarded, nothing), 50_000)
        yield Row(f"guarded call, closed, {mode}", ours, bare, "the bare call", within=within)
        if plan.peers:
            yield from peers.guard(ours, nothing, mode)
    progress("slow calls on 8 threads")
    sleep = partial(time.sleep, 0.005)
    for threads in (1, 2, 4, 8):
        guarded = CircuitBreaker()(sleep)
        ours, floor = crowds(threads, guarded, sleep, number=60 if threads == THREADS else 20)
        yield Row(
            f"guarded 5 ms calls, threads: {threads}",
            ours,
            floor,
            "the same unguarded",
            at_least=0.95 if threads == THREADS else None,
            growth=Growth("guarded slow calls", threads, "threads"),
        )
    if plan.peers:
        yield from peers.crowd(ours, sleep, partial(crowds, THREADS, number=3))


def crowds(threads: int, *operations: Callable[[], object], number: int = 60) -> list[float]:
    """Median wall microseconds per call of threads that make ``number`` calls each.

    The operations take turns, nine each, so that a busy neighbour disturbs all of them alike.
    """
    times: list[list[float]] = [[] for _ in operations]
    for _ in range(9):
        for operation, taken in zip(operations, times, strict=True):
            taken.append(_crowd(threads, operation, number))
    return [statistics.median(taken) * 1e6 for taken in times]


def _crowd(count: int, operation: Callable[[], object], number: int) -> float:
    def work() -> None:
        for _ in range(number):
            operation()

    threads = [threading.Thread(target=work) for _ in range(count)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - began) / (count * number)
