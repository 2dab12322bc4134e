"""Prefer variants whose median latency is under a goal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from xenolect import Agent, Candidate, hookimpl, offer
from xenolect.hookspecs import Offer


@attrs.frozen
class LowLatency:
    """``goal / (goal + median)``: 0.5 at the goal. What was never measured counts as at the goal."""

    goal_ms: float = attrs.field(default=50.0, validator=attrs.validators.gt(0))

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        """One number in (0, 1] per candidate."""
        medians = (c.history.latency_ms if c.history.count else None for c in candidates)
        return [
            self.goal_ms / (self.goal_ms + (self.goal_ms if median is None else median))
            for median in medians
        ]


@hookimpl
def xenolect_scoring() -> Iterator[Offer[LowLatency]]:
    """Offer it as ``low_latency``."""
    yield offer("low_latency", LowLatency)
