"""What the manager has made of a phase, in the demo's words."""

from __future__ import annotations

import contextlib

from xenolect import CanaryState, CanaryStatus, EmergenceManager, NotFoundError, TransitionError
from xenolect_mcp.demo.results import PhaseResult

__all__ = ["OVER", "decided", "end"]

OVER = (CanaryState.PROMOTED, CanaryState.ROLLED_BACK, CanaryState.ABORTED)


def decided(phase: PhaseResult, status: CanaryStatus) -> None:
    """What became of the phase's rollout, if anything yet."""
    phase.reason = _words(status.state, status.reason)
    if status.state == CanaryState.PROMOTED:
        phase.outcome = "promoted"
    elif status.state == CanaryState.ROLLED_BACK:
        phase.outcome = "stopped"


def end(manager: EmergenceManager, phase: PhaseResult) -> None:
    """End a rollout that was not decided in time, or hear that it was just now: the next one begins
    with what holds then."""
    with contextlib.suppress(NotFoundError, TransitionError):
        manager.canaries.abort(phase.variant)
        return
    decided(phase, manager.canaries.status(phase.variant))


_REASONS = {
    "failure_ratio": "it fails more often than the control",
    "collapse_without_control": "it fails nearly always",
    "non_inferiority": "it is shown to be no worse than the control",
}


def _words(state: CanaryState, reason: str) -> str:
    if state == CanaryState.PROMOTED:
        return _REASONS["non_inferiority"]
    return _REASONS.get(reason, reason)
