"""What the entry point names: the ``demo`` command, imported when it is run, and a scorer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from xenolect import Agent, Candidate, hookimpl, offer

__all__ = ["FewestBytes", "xenolect_commands", "xenolect_scoring"]


@attrs.frozen
class FewestBytes:
    """Prefer variants whose calls need few bytes, as reported in the custom metric ``bytes``.

    ``reference``: the bytes of a call that score one half. Nothing reported scores one half as well.
    """

    reference: float = 1000.0

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        """``reference / (reference + bytes)`` for each candidate."""
        means = [c.history.custom.get("bytes", self.reference) for c in candidates]
        return [self.reference / (self.reference + mean) for mean in means]


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
