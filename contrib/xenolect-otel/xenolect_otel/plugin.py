"""What the entry point names: the ``prometheus`` command, imported when it is run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xenolect import hookimpl, offer

__all__ = ["xenolect_commands"]


def _prometheus() -> Any:
    from xenolect_otel.command import prometheus

    return prometheus


@hookimpl
def xenolect_commands() -> Iterable[Any]:
    """Offer ``xenolect prometheus``."""
    yield offer("prometheus", _prometheus)
