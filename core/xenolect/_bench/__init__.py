"""What the promised paths cost: each beside a floor measured in the same run, as a ratio.

A floor is the least Python that does only that job. Hot paths are CPU time per operation (thread time,
the median of batches), so a busy neighbour disturbs little; durable rows and those of whole states are
wall time, and compare with the bare steps on the same disk.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from xenolect._bench import (
    breakers,
    durable,
    hooks,
    measuring,
    rollups,
    selection,
    states,
    transitions,
)
from xenolect._bench.rows import FULL, Group, Plan, Progress, Row

__all__ = ["FULL", "GROUPS", "Plan", "Row", "run"]

GROUPS: dict[str, Group] = {
    "selection": selection.rows,
    "measuring": measuring.rows,
    "rollups": rollups.rows,
    "breakers": breakers.rows,
    "hooks": hooks.rows,
    "durable": durable.rows,
    "transitions": transitions.rows,
    "states": states.rows,
}


def run(plan: Plan, only: Iterable[str] = (), progress: Progress = lambda _: None) -> Iterator[Row]:
    """Measure all groups, or only those named; rows come as they are ready."""
    logging.getLogger("xenolect").addHandler(logging.NullHandler())
    wanted = set(only) or set(GROUPS)
    for name, rows in GROUPS.items():
        if name in wanted:
            yield from rows(plan, progress)
