"""Selections as feature-flag evaluations, by the semantic conventions of OpenTelemetry.

The event is ``feature_flag.evaluation``; the flag is the protocol. The agent is its context's id, which
may be personal and has as many values as there are agents: only where it is asked for.
"""

from __future__ import annotations

from typing import Any

from opentelemetry._logs import LoggerProvider, LogRecord, get_logger_provider
from opentelemetry.trace import Span, get_current_span

from xenolect import Selection

__all__ = ["EVENT", "attributes_of", "emit", "on_span"]

EVENT = "feature_flag.evaluation"
_REASONS = {
    "canary": "split",
    "control": "split",
    "baseline": "static",
    "only": "static",
    "default": "default",
}  # any other choice was made for this agent: targeting_match


def attributes_of(selection: Selection, *, context_id: bool = False) -> dict[str, Any]:
    """The attributes of an evaluation."""
    variant = getattr(selection.variant, "id", selection.variant)
    found: dict[str, Any] = {
        "feature_flag.key": selection.protocol,
        "feature_flag.result.variant": str(variant),
        "feature_flag.result.reason": _REASONS.get(str(selection.reason), "targeting_match"),
        "feature_flag.provider.name": "xenolect",
    }
    if context_id:
        found["feature_flag.context.id"] = str(selection.agent_id)
    return found


def on_span(selection: Selection, span: Span | None = None, *, context_id: bool = False) -> None:
    """Put a selection on a span (the current one when none is given), as an event."""
    span = span if span is not None else get_current_span()
    if span.is_recording():
        span.add_event(EVENT, attributes_of(selection, context_id=context_id))


def emit(
    selection: Selection, provider: LoggerProvider | None = None, *, context_id: bool = False
) -> None:
    """Emit a selection as an event of the logs, which the SDK ties to the current span."""
    logger = (provider or get_logger_provider()).get_logger("xenolect", "0.1.0")
    attributes = attributes_of(selection, context_id=context_id)
    logger.emit(LogRecord(event_name=EVENT, attributes=attributes))
