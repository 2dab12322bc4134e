"""Events as log records: one stdlib logger per category, the event's fields as ``extra``."""

from __future__ import annotations

import logging

from xenolect.events import Event
from xenolect.hookspecs import hookimpl

CATEGORIES = {
    "variant": "variants",
    "agent": "agents",
    "state": "states",
    "canary": "safeguards",
    "breaker": "safeguards",
    "point": "safeguards",
    "safe_mode": "safeguards",
    "mode": "safeguards",
}
WARN = frozenset(["variant.rolled_back", "canary.alert", "canary.hold", "safe_mode.entered"])


@hookimpl
def xenolect_observe(event: Event) -> None:
    """Log state changes at INFO, what somebody should look at as WARNING."""
    logger = logging.getLogger(f"xenolect.{CATEGORIES.get(event.kind.split('.')[0], 'variants')}")
    level = logging.WARNING if event.kind in WARN else logging.INFO
    if not logger.isEnabledFor(level):
        return
    detail = " ".join(f"{name}={_plain(value)}" for name, value in event.detail.items())
    logger.log(
        level,
        "%s %s %s",
        event.kind,
        event.variant_id or "",
        detail,
        extra={
            "event": event.kind,
            "variant_id": event.variant_id,
            "agent_id": event.detail.get("agent_id") or event.detail.get("agent"),
            "rollout": event.detail.get("rollout"),
            "revision": event.revision,
            "detail": dict(event.detail),
        },
    )


def _plain(value: object) -> str:
    """A value on one line: control characters are escaped, long text is cut."""
    text = str(value)
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= 200 else text[:197] + "..."
