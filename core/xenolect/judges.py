"""The vocabulary between the manager and a judge: a frozen baseline in, verdicts with evidence out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from xenolect.facts import Observation
from xenolect.model import Verdict

__all__ = [
    "AT_RISK",
    "SILENT",
    "Baseline",
    "Evidence",
    "Guardrail",
    "JudgeConfig",
    "Observation",
    "Verdict",
]

SILENT = "_silent"
"""Marks, among an observation's custom values, one that stands for a unit gone silent."""
AT_RISK = ("_canary", "_control")
"""Beside it: how many units of each arm could have fallen silent."""


@attrs.frozen
class Baseline:
    """What was known of the control before the rollout; frozen at its start, stored with it.

    ``units`` maps a unit to ``(operations, failures)`` on the control in the 24 h before.
    ``latency`` is the pooled latency sketch (milliseconds) in JSON form, ``unit_latency`` those of the
    busiest units.
    """

    operations: int = 0
    failures: int = 0
    units: Mapping[str, tuple[int, int]] = attrs.field(factory=dict)
    latency: tuple[tuple[int, int], ...] = ()
    unit_latency: Mapping[str, tuple[tuple[int, int], ...]] = attrs.field(factory=dict)


@attrs.frozen
class Guardrail:
    """A declared metric that must not get worse.

    With bounds (``low``, ``high``, in the metric's unit) by no more than ``margin``, a share of the
    distance between them; without, by no more than the factor ``ratio``.
    """

    name: str
    higher_is_better: bool = False
    low: float | None = None
    high: float | None = None
    margin: float = 0.05
    ratio: float = 1.10


@attrs.frozen
class JudgeConfig:
    """What the manager declares to a judge for one rollout.

    ``alpha``: the chance of a false rollback this judge may spend (already divided by attempt and by
    process). ``min_effect``: the smallest difference in failure probability that matters.
    ``share``: the canary's share of eligible units at the start, in (0, 1). ``seed``: for judges that
    draw; the same seed gives the same verdicts. ``guardrails``: the declared metrics to watch.
    """

    alpha: float = 0.01
    min_effect: float = 0.01
    share: float = 0.1
    seed: int = 0
    levels: tuple[float, ...] = ()
    guardrails: tuple[Guardrail, ...] = ()


@attrs.frozen
class Evidence:
    """What a verdict stands on, in numbers.

    ``e_value``: evidence of harm (rollback at ``threshold``), ``parts`` by process; of a judge that does
    not bet, its own statistic and limit.
    ``noninferiority``: evidence that the canary is not worse by the margin (promotion at
    ``promote_at``). ``reason``: the name of the process that decided, or what is missing.
    """

    e_value: float = 1.0
    threshold: float = 100.0
    noninferiority: float = 1.0
    promote_at: float = 20.0
    reason: str = ""
    parts: Mapping[str, float] = attrs.field(factory=dict)
    canary_operations: int = 0
    canary_failures: int = 0
    canary_units: int = 0
    control_operations: int = 0
    control_failures: int = 0
    control_units: int = 0
    detail: Mapping[str, Any] = attrs.field(factory=dict)
