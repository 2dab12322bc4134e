"""What the entry point names: the ``demo`` command, imported when it is run, and a scorer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from xenolect import Agent, Candidate, hookimpl, offer

__all__ = ["FewestBytes", "xenolect_commands", "xenolect_scoring"]


@attrs.frozen
class FewestBytes:
    """Prefer variants that need few bytes on the wire per byte of JSON.

    Reported in the custom metric ``wire_ratio``, so that variants which saw different calls can be
    compared. ``unknown``: the ratio assumed where nothing was reported.
    """

    unknown: float = 0.5

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        """``1 - ratio`` for each candidate; what grows on the wire scores 0."""
        ratios = [c.history.custom.get("wire_ratio", self.unknown) for c in candidates]
        return [1.0 - min(max(ratio, 0.0), 1.0) for ratio in ratios]


def _demo() -> Any:
    from xenolect_mcp.demo.command import demo

    return demo


@hookimpl
def xenolect_commands() -> Iterable[Any]:
    """Offer ``xenolect demo``."""
    yield offer("demo", _demo)


@hookimpl
def xenolect_scoring() -> Iterable[Any]:
    """Offer the scorer ``fewest-bytes``."""
    yield offer("fewest-bytes", FewestBytes)
