"""The latency that counts as neutral for a protocol: declared, or the baseline's median.

The median is frozen for the day (UTC): were it to move with every measurement, so would the score of
every variant. A protocol whose baseline was not measured yet gets one as soon as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from xenolect._performance import Performance
from xenolect._structure import Structure

__all__ = ["References"]

DAY = 86400.0


class References:
    """The references of one manager's protocols, in milliseconds."""

    def __init__(
        self, performance: Performance, clock: Callable[[], float], target: float | None
    ) -> None:
        self._performance = performance
        self._clock = clock
        self._target = None if target is None else target * 1000.0
        self._frozen: dict[str, tuple[str, int, float]] = {}  # protocol -> baseline, day, ms

    def of(self, protocol: str, baseline_id: str | None) -> float | None:
        """The reference of a protocol now; None where nothing is known."""
        if self._target is not None or baseline_id is None:
            return self._target
        day = int(self._clock() // DAY)
        frozen = self._frozen.get(protocol)
        if frozen is not None and frozen[:2] == (baseline_id, day):
            return frozen[2]
        median = self._performance.recent(baseline_id)[0].latency_ms
        if median:
            self._frozen[protocol] = (baseline_id, day, median)
        elif frozen is not None and frozen[0] == baseline_id:
            return frozen[2]
        return median or None

    def renew(self, structures: Iterable[Structure]) -> None:
        """Give protocols the reference of today; their variants are rated anew where it moved."""
        for structure in structures:
            if structure.baseline < 0:
                continue
            baseline_id = structure.variants[structure.baseline].id
            reference = self.of(structure.protocol, baseline_id)
            if reference != structure.reference:
                structure.reference = reference
                for vector in list(structure.vectors.values()):
                    vector.forget()
                structure.feed.restart()
