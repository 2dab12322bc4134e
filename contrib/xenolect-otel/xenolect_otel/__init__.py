"""xenolect in OpenTelemetry and Prometheus: metrics, and selections as feature-flag evaluations."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xenolect_otel.evaluations import attributes_of, emit, on_span
    from xenolect_otel.instruments import Instruments, instrument
    from xenolect_otel.readings import READINGS, Definition, Reading, read

__all__ = [
    "READINGS",
    "Definition",
    "Instruments",
    "Reading",
    "attributes_of",
    "emit",
    "instrument",
    "on_span",
    "read",
]

# Loaded when asked for: `xenolect --help` imports this package to find its command.
_HOME = {
    **dict.fromkeys(("attributes_of", "emit", "on_span"), "evaluations"),
    **dict.fromkeys(("Instruments", "instrument"), "instruments"),
    **dict.fromkeys(("READINGS", "Definition", "Reading", "read"), "readings"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
