"""What the entry point names: the ``demo`` command, imported when it is run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xenolect import hookimpl, offer

__all__ = ["xenolect_commands"]


def _demo() -> Any:
    from xenolect_mcp.demo.command import demo

    return demo


@hookimpl
def xenolect_commands() -> Iterable[Any]:
    """Offer ``xenolect demo``."""
    yield offer("demo", _demo)
