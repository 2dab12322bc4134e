"""Candidates as a bandit's arms, and any bound as a score.

The score is about success alone: what else a variant is good for is the work of other columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from xenolect import Candidate

__all__ = ["Arm", "arm_of", "arms_of", "squashed"]


@attrs.frozen(order=True)
class Arm:
    """A variant's evidence: effective operations, and how many of them succeeded."""

    id: str
    count: float
    successes: float

    def rows(self, cap: int) -> tuple[int, int]:
        """Whole operations and successes, as MABWiser takes one row for each: ``count`` rounded, at most
        ``cap``, and the same share of successes, rounded. Under half an operation is none."""
        rows = min(cap, round(self.count))
        return rows, round(rows * self.successes / self.count) if rows else 0


def arm_of(candidate: Candidate) -> Arm:
    """What was counted of a candidate."""
    history = candidate.history
    return Arm(
        candidate.variant.id, history.count, max(0.0, history.count - max(0.0, history.failures))
    )


def arms_of(candidates: Sequence[Candidate]) -> tuple[Arm, ...]:
    """Each once and in the order of their ids: the order of candidates must not matter."""
    return tuple(sorted({arm_of(candidate) for candidate in candidates}))


def squashed(bound: float) -> float:
    """A bound in [0, infinity] as a score in [0, 1], in the same order.

    Half of it up to 1, where all bounds of well-known variants are, so that their differences keep one
    proportion; ``1 - 1/(2 bound)`` above, which meets it with the same slope. Below 0 is 0.
    """
    return 1.0 - 0.5 / bound if bound > 1.0 else 0.5 * max(0.0, bound)
