"""What was counted of one variant, as plain sums: what a scorer that follows every record reads.

Sums add: over windows, processes, classes of agents. All of them lose weight with age alike, so a
``count`` is an effective number of operations.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeAlias

import attrs

from xenolect.model import ProtocolVariant

__all__ = ["Binding", "Custom", "Own", "Rate", "Tally"]


class Tally:
    """Counters of one variant (or of one class of agents on it); read-only to scorers.

    latencies, latency_logs: how many were observed and the sum of their natural logarithms (ms).
    sums: metric -> [sum of value x operations, operations], for resource_usage, throughput, custom.NAME.
    passed, failed: health checks passed, and incidents by weight.
    """

    __slots__ = ("count", "failed", "failures", "latencies", "latency_logs", "passed", "sums")

    def __init__(self) -> None:
        self.count = 0.0
        self.failures = 0.0
        self.latencies = 0.0
        self.latency_logs = 0.0
        self.sums: dict[str, list[float]] = {}
        self.passed = 0.0
        self.failed = 0.0

    def scale(self, factor: float) -> None:
        """Let everything lose weight."""
        self.count *= factor
        self.failures *= factor
        self.latencies *= factor
        self.latency_logs *= factor
        self.passed *= factor
        self.failed *= factor
        for slot in self.sums.values():
            slot[0] *= factor
            slot[1] *= factor


Own: TypeAlias = Sequence[float]
"""``(count, failures, latencies, latency_logs)`` of the agent's class, () for none."""

Rate: TypeAlias = Callable[[ProtocolVariant, Tally, Own, float | None, float | None], float]
"""variant, its tally, its class's, the reference latency in ms (None: not known), doubt -> in [0, 1].

``doubt``: how many standard deviations under the mean; None for the scorer's own choice of them. With 0
and 1 it tells the mean and the deviation, to explore by."""


@attrs.frozen
class Binding:
    """A scorer made ready for one agent. ``key``: bindings with equal keys answer alike, so that
    agents share what was computed; None shares with nobody. ``by_class``: reads the agent's class."""

    rate: Rate
    key: Hashable | None = ()
    by_class: bool = False


Custom: TypeAlias = Mapping[str, tuple[float, float]]
"""Declared metric -> the value that is worth 0 and the one that is worth 1."""
