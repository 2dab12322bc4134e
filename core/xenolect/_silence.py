"""Agents that should have spoken and did not: a variant that kills its agents sends no bad metrics.

Counted in both arms alike: agents go offline for reasons of their own, and what is counted on one side
only would blame the canary for them.
"""

from __future__ import annotations

from collections.abc import Callable

from xenolect._evidence import Rollout
from xenolect.facts import Observation
from xenolect.judges import AT_RISK, SILENT

__all__ = ["silences"]

INTERVALS = 3  # an agent that says nothing for so many is silent,
REPORTING = 0.9  # where more than this share of the control's agents reports,
FEWEST = 5  # and the control has at least so many


def silences(
    rollout: Rollout, able: Callable[[str], bool], now: float, interval: float, writer: str
) -> list[Observation]:
    """One observation for each agent that fell silent since the last look.

    ``able``: whether an agent is registered and eligible; only those that spoke in the day before the
    rollout are expected to speak. ``interval``: seconds in which each of them should be heard.
    """
    quiet = INTERVALS * interval
    since = rollout.document["changed_at"]
    if rollout.by_session or now - since < quiet:
        return []
    arms: dict[str, list[tuple[str, bool]]] = {"canary": [], "control": []}
    for unit in rollout.known:
        if able(unit):
            spoke = now - rollout.heard.get(unit, float("-inf")) < quiet
            arms["canary" if rollout.inside(unit) else "control"].append((unit, spoke))
    control = arms["control"]
    reporting = sum(spoke for _, spoke in control)
    if len(control) < FEWEST or reporting <= REPORTING * len(control):
        return []  # agents are slow, or what reports is down: silence means nothing
    marks = {SILENT: 1.0, **{name: float(len(arms[name[1:]])) for name in AT_RISK}}
    return [
        Observation(rollout.id, arm, unit, 1, 1, now, None, marks, writer)
        for arm, units in arms.items()
        for unit, spoke in units
        if not spoke and unit not in rollout.silent
    ]
