"""What observers hear, after the commit: ``xenolect_observe(event)`` and ``manager.on(callback)``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

__all__ = ["Event"]


@attrs.frozen
class Event:
    """Something happened and is committed.

    kind: ``variant.proposed|updated|testing|activated|deprecated|archived``, ``agent.registered|
    updated|removed``, ``canary.started|level|hold|resumed|suspended|recovering|paused|aborted``,
    ``canary.alert``, ``canary.verdict`` (in mode observe), ``variant.promoted``, ``variant.rolled_back``,
    ``variant.critical``, ``critical.reported`` (one agent says so), ``breaker.changed``,
    ``state.stored``, ``point.created|restored``, ``mode.changed``, ``safe_mode.entered|left``. New
    kinds may come.
    """

    kind: str
    at: datetime
    revision: int
    variant_id: str | None = None
    detail: Mapping[str, Any] = attrs.field(factory=dict)
