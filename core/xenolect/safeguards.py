"""The vocabulary between the manager and a safeguard: events in, replies and actions out.

A safeguard is a pure state machine. It gets time and randomness as arguments and answers with a new
frozen state; the manager carries the actions out. Two kinds exist: a *breaker* (``Acquire``,
``Outcome``, operator events) and a *ramp* (``Check``, ``Proved``, breaker news, operator events).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from xenolect.model import Verdict

__all__ = [
    "Abort",
    "Acquire",
    "Action",
    "Admit",
    "Alert",
    "AskRollback",
    "BreakerNews",
    "Changed",
    "Check",
    "Disable",
    "Event",
    "Finish",
    "ForceOpen",
    "Outcome",
    "Pause",
    "Promote",
    "Proved",
    "Refuse",
    "Reply",
    "Reset",
    "Resume",
    "RollBack",
    "SetShare",
    "Start",
    "Tick",
    "Token",
]


@attrs.frozen
class Token:
    """An admission: results count only for the generation that admitted them. id 0: no probe."""

    generation: int
    id: int = 0


# -- events -------------------------------------------------------------------------------------


@attrs.frozen
class Acquire:
    """May a call pass? Answered with ``Admit`` or ``Refuse``."""


@attrs.frozen
class Outcome:
    """Calls ended: how many succeeded, failed, were slow; or were to be ignored.

    ``token`` None is a report without a permit: it counts while closed and is never a probe.
    """

    successes: int = 0
    failures: int = 0
    slow: int = 0
    ignored: bool = False
    token: Token | None = None


@attrs.frozen
class Tick:
    """Time has passed."""


@attrs.frozen
class ForceOpen:
    """The operator refuses all calls until ``Reset``."""


@attrs.frozen
class Disable:
    """The operator admits all calls until ``until`` (the machine's clock)."""

    until: float


@attrs.frozen
class Reset:
    """The operator asks for probes now, attempts forgotten."""


@attrs.frozen
class Start:
    """A rollout begins at level 0."""


@attrs.frozen
class Check:
    """A health check of a rollout, with everything the gates look at.

    verdict: the judge's. fresh: canary data is not stale. sampled: enough operations and units at
    this level. quiet: the judge's evidence of harm is under its hold threshold. missing: what the
    judge lacks ("no data", "no control", ...) or "". clean: the breaker was closed all the interval.
    strong: far more evidence than promotion needs, and none of harm.
    """

    verdict: Verdict
    fresh: bool
    sampled: bool
    quiet: bool
    clean: bool = True
    missing: str = ""
    strong: bool = False


@attrs.frozen
class Proved:
    """Harm is proved (by a judge, a latched breaker, a critical failure, or the operator)."""

    reason: str


@attrs.frozen
class BreakerNews:
    """The canary's breaker changed: "open", "closed" or "latched"; and is the control's shut too?"""

    state: str
    control_shut: bool = False


@attrs.frozen
class Pause:
    """The operator pauses the rollout: share 0."""


@attrs.frozen
class Resume:
    """The operator goes on where it was paused."""


@attrs.frozen
class Promote:
    """The operator promotes; ``force`` without evidence. ``reason``: why, in the operator's words."""

    evidence: bool
    force: bool = False
    reason: str = ""


@attrs.frozen
class Abort:
    """The operator ends the rollout without blame."""


Event = (
    Acquire
    | Outcome
    | Tick
    | ForceOpen
    | Disable
    | Reset
    | Start
    | Check
    | Proved
    | BreakerNews
    | Pause
    | Resume
    | Promote
    | Abort
)

# -- replies ------------------------------------------------------------------------------------


@attrs.frozen
class Admit:
    """The call may pass; hand the token back with its outcome."""

    token: Token


@attrs.frozen
class Refuse:
    """The call may not pass; try again after ``retry_after`` seconds (None: not by itself).

    A ramp answers an operator's event it can not follow with ``Refuse`` and the reason in words.
    """

    retry_after: float | None = None
    reason: str = ""


Reply = Admit | Refuse | None

# -- actions ------------------------------------------------------------------------------------


@attrs.frozen
class Changed:
    """The breaker moved to ``state``; ``permits`` probes may now be handed out."""

    state: str
    permits: int = 0


@attrs.frozen
class AskRollback:
    """The breaker gave up on its variant."""

    reason: str


@attrs.frozen
class SetShare:
    """The ramp moved: route this fraction (parts per million) of the eligible units."""

    ppm: int


@attrs.frozen
class Finish:
    """The rollout ends well: the canary becomes active."""


@attrs.frozen
class RollBack:
    """The rollout ends badly; ``blame`` False (an abort) means no quarantine."""

    reason: str
    blame: bool = True


@attrs.frozen
class Alert:
    """Tell the operator once."""

    message: str
    detail: Mapping[str, Any] = attrs.field(factory=dict)


Action = Changed | AskRollback | SetShare | Finish | RollBack | Alert
