"""The table of the ramp: every state and event, and what follows."""

from __future__ import annotations

from typing import Any

import attrs

from xenolect import CanaryState as C
from xenolect import Verdict
from xenolect import safeguards as sg
from xenolect_plugins.canary import Canary, Ramp

LEVELS = (100_000, 250_000, 500_000, 950_000)
RAMP = Canary(levels=LEVELS, max_attempts=2, max_duration=1000.0)
T0 = 5_000.0
GOOD = sg.Check(Verdict.PROMOTE, fresh=True, sampled=True, quiet=True)
UNSURE = attrs.evolve(GOOD, verdict=Verdict.CONTINUE)
HARM = sg.Check(Verdict.HOLD, fresh=True, sampled=True, quiet=False)
LEVEL1 = Ramp(level=1, ppm=250_000, started=T0)
LAST = Ramp(level=3, ppm=950_000, started=T0)
HELD = attrs.evolve(LEVEL1, state=C.HOLD, reason="no control", alerted=True)
SUSPENDED = attrs.evolve(LEVEL1, state=C.SUSPENDED, ppm=0, attempts=1, reason="its breaker opened")
RECOVERING = attrs.evolve(SUSPENDED, state=C.RECOVERING, ppm=50_000, reason="recovering")
HELD_IN_RECOVERY = attrs.evolve(RECOVERING, state=C.HOLD, inner=C.RECOVERING, alerted=True)
PAUSED = attrs.evolve(LEVEL1, state=C.PAUSED, ppm=0, reason="paused by the operator")
OPEN, CLOSED, LATCHED = (sg.BreakerNews(name) for name in ("open", "closed", "latched"))
BOTH_OPEN, BOTH_LATCHED = sg.BreakerNews("open", True), sg.BreakerNews("latched", True)
ACTIVE = {
    "ramping": LEVEL1,
    "last": LAST,
    "hold": HELD,
    "suspended": SUSPENDED,
    "recovering": RECOVERING,
    "paused": PAUSED,
}


def share(ppm: int) -> tuple[sg.Action, ...]:
    """The one action of a change of the share."""
    return (sg.SetShare(ppm),)


# state, event -> what changed, the kinds of actions
TABLE: dict[str, tuple[Ramp, sg.Event, dict[str, Any], tuple[type[Any], ...]]] = {
    # -- health checks
    "all gates pass, below the last level: one up": (
        LEVEL1,
        GOOD,
        {"level": 2, "ppm": 500_000},
        (sg.SetShare,),
    ),
    "all gates pass at the last level, with its holdback: promoted": (
        LAST,
        GOOD,
        {"state": C.PROMOTED, "ppm": 0, "reason": "every level passed"},
        (sg.Finish,),
    ),
    "the judge is not sure: stays, with the reason": (
        LEVEL1,
        UNSURE,
        {"reason": "the judge needs more evidence"},
        (),
    ),
    "too little at this level: stays": (
        LEVEL1,
        attrs.evolve(GOOD, sampled=False),
        {"reason": "more operations or units are needed at this level"},
        (),
    ),
    "the breaker moved in the interval: stays": (
        LEVEL1,
        attrs.evolve(GOOD, clean=False),
        {"reason": "the breaker moved in this interval"},
        (),
    ),
    "evidence of harm: hold, the share stays": (
        LEVEL1,
        HARM,
        {"state": C.HOLD, "reason": "evidence of harm, not yet proof", "alerted": True},
        (sg.Alert,),
    ),
    "sample ratio mismatch (the judge holds and says why): hold": (
        LEVEL1,
        attrs.evolve(HARM, quiet=True, missing="sample ratio mismatch"),
        {"state": C.HOLD, "reason": "sample ratio mismatch", "alerted": True},
        (sg.Alert,),
    ),
    "no data: hold": (
        LEVEL1,
        attrs.evolve(UNSURE, missing="no data"),
        {"state": C.HOLD, "reason": "no data", "alerted": True},
        (sg.Alert,),
    ),
    "control missing, whatever else is good: hold": (
        LAST,
        attrs.evolve(GOOD, missing="no control"),
        {"state": C.HOLD, "reason": "no control", "alerted": True},
        (sg.Alert,),
    ),
    "stale data: hold": (
        LEVEL1,
        attrs.evolve(GOOD, fresh=False),
        {"state": C.HOLD, "reason": "stale data", "alerted": True},
        (sg.Alert,),
    ),
    "a hold goes on without another alert": (
        HELD,
        attrs.evolve(GOOD, missing="no data"),
        {"reason": "no data"},
        (),
    ),
    "the reason of a hold is gone for one check: ramping, no step yet": (
        HELD,
        GOOD,
        {"state": C.RAMPING, "reason": "", "alerted": False},
        (),
    ),
    # -- the breaker
    "the breaker opens, the control's is closed: suspended": (
        LEVEL1,
        OPEN,
        {"state": C.SUSPENDED, "ppm": 0, "attempts": 1, "reason": "its breaker opened"},
        (sg.SetShare,),
    ),
    "the breaker opens in a hold: suspended": (
        HELD,
        OPEN,
        {
            "state": C.SUSPENDED,
            "ppm": 0,
            "attempts": 1,
            "reason": "its breaker opened",
        },
        (sg.SetShare,),
    ),
    "the breaker opens, the control's too: hold, nobody is blamed": (
        LEVEL1,
        BOTH_OPEN,
        {
            "state": C.HOLD,
            "reason": "common cause: the control's breaker is open too",
            "alerted": True,
        },
        (sg.Alert,),
    ),
    "the breaker latches, the control's is open too: hold": (
        LEVEL1,
        BOTH_LATCHED,
        {
            "state": C.HOLD,
            "reason": "common cause: the control's breaker is open too",
            "alerted": True,
        },
        (sg.Alert,),
    ),
    "the breaker closes: recovering, at half the first share": (
        SUSPENDED,
        CLOSED,
        {"state": C.RECOVERING, "ppm": 50_000, "reason": "recovering"},
        (sg.SetShare,),
    ),
    "a clean check: the first share": (
        RECOVERING,
        UNSURE,
        {"ppm": 100_000, "step": 1},
        (sg.SetShare,),
    ),
    "another clean check: where it was suspended, ramping": (
        attrs.evolve(RECOVERING, ppm=100_000, step=1),
        UNSURE,
        {"state": C.RAMPING, "ppm": 250_000, "step": 0, "reason": ""},
        (sg.SetShare,),
    ),
    "a check that is not clean: no step": (RECOVERING, attrs.evolve(GOOD, clean=False), {}, ()),
    "too little seen while recovering: no step": (
        RECOVERING,
        attrs.evolve(GOOD, sampled=False),
        {},
        (),
    ),
    "evidence of harm while recovering: no step": (RECOVERING, HARM, {}, ()),
    "the breaker opens again: suspended, one attempt more": (
        RECOVERING,
        OPEN,
        {"state": C.SUSPENDED, "ppm": 0, "attempts": 2, "reason": "its breaker opened"},
        (sg.SetShare,),
    ),
    "attempts exhausted: rolled back": (
        attrs.evolve(RECOVERING, attempts=2),
        OPEN,
        {
            "state": C.ROLLED_BACK,
            "ppm": 0,
            "reason": "breaker_exhausted: suspended more than 2 times",
        },
        (sg.SetShare, sg.RollBack),
    ),
    "common cause while recovering: hold at the share it had": (
        RECOVERING,
        BOTH_OPEN,
        {
            "state": C.HOLD,
            "inner": C.RECOVERING,
            "reason": "common cause: the control's breaker is open too",
            "alerted": True,
        },
        (sg.Alert,),
    ),
    "after it the recovery goes on, not the level": (
        HELD_IN_RECOVERY,
        GOOD,
        {"state": C.RECOVERING, "inner": C.RAMPING, "alerted": False},
        (),
    ),
    "common cause while suspended: still suspended": (
        SUSPENDED,
        BOTH_OPEN,
        {"reason": "common cause: the control's breaker is open too", "alerted": True},
        (),
    ),
    # -- operators
    "pause: share 0": (
        LEVEL1,
        sg.Pause(),
        {"state": C.PAUSED, "ppm": 0, "reason": "paused by the operator"},
        (sg.SetShare,),
    ),
    "pause in a recovery": (
        RECOVERING,
        sg.Pause(),
        {
            "state": C.PAUSED,
            "inner": C.RECOVERING,
            "ppm": 0,
            "reason": "paused by the operator",
        },
        (sg.SetShare,),
    ),
    "pausing twice changes nothing": (PAUSED, sg.Pause(), {}, ()),
    "resume: the level it was paused at": (
        PAUSED,
        sg.Resume(),
        {"state": C.RAMPING, "ppm": 250_000, "reason": ""},
        (sg.SetShare,),
    ),
    "resume of a recovery goes on recovering": (
        attrs.evolve(PAUSED, inner=C.RECOVERING, step=1),
        sg.Resume(),
        {
            "state": C.RECOVERING,
            "inner": C.RAMPING,
            "ppm": 100_000,
            "reason": "recovering",
        },
        (sg.SetShare,),
    ),
    "resume while the breaker is open routes nobody": (
        attrs.evolve(PAUSED, inner=C.SUSPENDED),
        sg.Resume(),
        {"state": C.SUSPENDED, "inner": C.RAMPING, "reason": "suspended"},
        (),
    ),
    "the breaker opens in a pause: still paused, to go on suspended": (
        PAUSED,
        OPEN,
        {"inner": C.SUSPENDED, "attempts": 1},
        (),
    ),
    "the breaker closes in a pause: still paused, to go on recovering": (
        attrs.evolve(PAUSED, inner=C.SUSPENDED),
        CLOSED,
        {"inner": C.RECOVERING},
        (),
    ),
    "a check in a pause decides nothing": (PAUSED, GOOD, {}, ()),
    "resume of a hold": (
        HELD,
        sg.Resume(),
        {"state": C.RAMPING, "reason": "", "alerted": False},
        (),
    ),
    "promote with evidence": (
        LEVEL1,
        sg.Promote(evidence=True),
        {"state": C.PROMOTED, "ppm": 0, "reason": "promoted by the operator"},
        (sg.Finish,),
    ),
    "promote by force, with the reason": (
        SUSPENDED,
        sg.Promote(evidence=False, force=True, reason="ticket 7"),
        {"state": C.PROMOTED, "ppm": 0, "reason": "promoted by the operator by force: ticket 7"},
        (sg.Finish,),
    ),
    # -- time
    "no decision in max_duration: hold": (
        LEVEL1,
        UNSURE,
        {"state": C.HOLD, "reason": "the judge needs more evidence", "alerted": True},
        (sg.Alert,),
    ),
    "and it stays so, without another alert": (
        attrs.evolve(HELD, reason="the judge needs more evidence"),
        UNSURE,
        {},
        (),
    ),
    "evidence that comes late still counts": (
        HELD,
        GOOD,
        {"state": C.RAMPING, "reason": "", "alerted": False},
        (),
    ),
}
LATE = list(TABLE)[-3:]
