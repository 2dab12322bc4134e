"""Promotions and rollbacks: metadata only, so beside one durable commit of the same index.

With the background thread, as a program runs; between two of them it is left the time to write the
mirrors, so that a measurement waits for what its own transition needs and no more. Medians.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from xenolect._bench.rows import Plan, Progress, Row
from xenolect.facts import Put
from xenolect.manager import EmergenceManager
from xenolect.model import AgentContext, ProtocolVariant

__all__ = ["rows"]

_TIMES = 15
_REST = 0.35  # seconds; mirrors are written every 250 ms


def rows(plan: Plan, progress: Progress) -> Iterator[Row]:
    """The group's rows."""
    progress("promote and roll back")
    with (
        tempfile.TemporaryDirectory() as place,
        EmergenceManager.open(Path(place) / "store") as manager,
    ):
        manager.variants.propose("x", {"n": 0}, id="x")
        manager.variants.activate("x")
        manager.agents.register_many([(f"a{i}", AgentContext()) for i in range(30)])
        canaries = iter(range(10**9))

        def canary() -> ProtocolVariant:
            i = next(canaries)
            made = manager.variants.propose(f"c{i}", {"i": i}, id=f"c{i}")
            manager.states.put(made, {"window": i})
            manager.canaries.start(made)
            manager.states.put(made, {"window": -i})
            return made

        index, numbers = manager._runtime.index, iter(range(10**9))

        def commit() -> None:
            change = Put("bench", "row", {"n": next(numbers), "text": "x" * 200})
            index.commit([change], actor="bench", at=manager._runtime.clock())

        for name, transition in (
            ("promote", lambda canary: manager.canaries.promote(canary, force=True)),
            ("rollback", lambda canary: manager.rollback(canary, reason="bench")),
        ):
            ours, floor = _spaced(transition, canary, commit)
            yield Row(f"{name}, durable", ours, floor, "one durable index commit", at_most=2.0)


def _spaced(
    transition: Callable[[ProtocolVariant], object],
    canary: Callable[[], ProtocolVariant],
    commit: Callable[[], object],
) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_TIMES):
        time.sleep(_REST)
        began = time.perf_counter()
        commit()
        halfway = time.perf_counter()
        times[1].append((halfway - began) * 1e6)
        one = canary()
        time.sleep(_REST)
        began = time.perf_counter()
        transition(one)
        times[0].append((time.perf_counter() - began) * 1e6)
    return statistics.median(times[0]), statistics.median(times[1])
