"""Whoever watches the demo."""

from __future__ import annotations

from xenolect_mcp.demo.results import PhaseResult

__all__ = ["Screen"]


class Screen:
    """What the play tells whoever watches; this one says nothing."""

    def began(self, text: str) -> None:
        """Something that takes a moment begins."""

    def phase(self, phase: PhaseResult) -> None:
        """A phase begins."""

    def moved(self, phase: PhaseResult) -> None:
        """The phase has a new sample."""

    def decided(self, phase: PhaseResult) -> None:
        """The phase is over."""
