"""Harm that was proved: the canary is shut in the call that proved it, and taken back right after."""

from __future__ import annotations

import logging
from typing import Any

from xenolect._breakers import Breakers
from xenolect._evidence import Rollout, evidence_to_json
from xenolect._points import Points
from xenolect._runtime import Runtime
from xenolect._selection import Selector
from xenolect.errors import EmergenceError, NotFoundError, TransitionError
from xenolect.judges import Evidence
from xenolect.model import Mode

__all__ = ["Harm"]

log = logging.getLogger("xenolect.safeguards")


class Harm:
    """Shuts variants, and has them taken back on the writer."""

    def __init__(
        self, runtime: Runtime, points: Points, breakers: Breakers, selector: Selector
    ) -> None:
        self._runtime = runtime
        self._points = points
        self._breakers = breakers
        self._selector = selector

    def prove(self, rollout: Rollout, evidence: Evidence, *, local: bool) -> None:
        """Harm is proved: shut the variant at once, commit right after."""
        if rollout.proved:
            return
        rollout.proved = True
        variant_id = rollout.variant_id
        detail = evidence_to_json(evidence)
        rollout.decided = (
            {
                "by": "local",
                "writer": self._runtime.boot,
                "joined": rollout.joined_at,
                "records": rollout.folded,
            }
            if local
            else {"by": "merged", "sequence": rollout.weighed.sequence}
        )
        reason = evidence.reason or "evidence of harm"
        if self._runtime.mode is Mode.OBSERVE:
            self._runtime.tell("canary.verdict", variant_id, verdict="rollback", evidence=detail)
            return
        self.shut(variant_id)
        self._runtime.later(lambda: self.take_back(variant_id, reason, detail, rollout.id))

    def shut(self, variant_id: str) -> None:
        """From now on nobody is served the variant in this process."""
        self._breakers.shut.add(variant_id)
        self._selector.forget(variant_id)

    def take_back(
        self, variant_id: str, reason: str, evidence: Any, rollout_id: str | None = None
    ) -> None:
        """Roll a variant back because of what it did, unless somebody else ended it."""
        try:
            self._points.roll_back(
                variant_id, reason, evidence=evidence, actor="judge", rollout_id=rollout_id
            )
        except (TransitionError, NotFoundError):
            return  # somebody else ended it
        except EmergenceError as error:
            if error.retryable:
                raise
            log.error(
                "rolling back %s: %s",
                variant_id,
                error,
                extra={"variant_id": variant_id, "rollout": rollout_id},
            )
