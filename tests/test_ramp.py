"""The ramp, row by row of its table, and every state it can reach."""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs
import pytest

from xenolect import CanaryState as C
from xenolect import ConfigError, Verdict
from xenolect import safeguards as sg
from xenolect.errors import CorruptError
from xenolect.ramps import levels
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


@pytest.mark.parametrize("row", TABLE)
def test_every_row_of_the_table(row: str) -> None:
    """State, event and guard on the left give the state and the actions on the right, nothing else."""
    state, event, changed, kinds = TABLE[row]
    now = T0 + (2000.0 if row in LATE else 300.0)

    after, reply, actions = RAMP.step(state, event, now, 0.5)

    assert after == attrs.evolve(state, **changed)
    assert reply is None
    assert tuple(type(action) for action in actions) == kinds
    assert [a.ppm for a in actions if isinstance(a, sg.SetShare)] in ([], [after.ppm])


@pytest.mark.parametrize("active", ACTIVE)
@pytest.mark.parametrize(
    ("event", "blame"),
    [
        (sg.Proved("critical: its state is damaged"), True),
        (sg.Check(Verdict.ROLLBACK, True, True, False), True),
        (LATCHED, True),
        (sg.Abort(), False),
    ],
)
def test_harm_ends_a_rollout_in_every_state(active: str, event: sg.Event, blame: bool) -> None:
    """Proof, a latched breaker and an abort: share 0, and back; only an abort blames nobody."""
    after, _, actions = RAMP.step(ACTIVE[active], event, T0, 0.5)

    assert after.state == (C.ROLLED_BACK if blame else C.ABORTED)
    assert after.ppm == 0
    assert actions[0] == sg.SetShare(0)
    assert isinstance(actions[1], sg.RollBack)
    assert actions[1].blame is blame


@pytest.mark.parametrize(
    ("state", "event", "why"),
    [
        (LEVEL1, sg.Promote(evidence=False), "no evidence yet"),
        (HELD, sg.Promote(evidence=True), "it is hold"),
        (SUSPENDED, sg.Promote(evidence=True), "it is suspended"),
        (RECOVERING, sg.Promote(evidence=True), "it is recovering"),
        (PAUSED, sg.Promote(evidence=True, force=True), "resume it first"),
        (LEVEL1, sg.Resume(), "only a paused or held"),
        (attrs.evolve(LEVEL1, state=C.PROMOTED), GOOD, "it is over"),
        (attrs.evolve(LEVEL1, state=C.ABORTED), sg.Resume(), "it is over"),
        (attrs.evolve(LEVEL1, state=C.ROLLED_BACK), sg.Promote(True, True), "it is over"),
    ],
)
def test_what_is_refused_is_said(state: Ramp, event: sg.Event, why: str) -> None:
    """The state stays as it is, and the reply has the reason in words."""
    after, reply, actions = RAMP.step(state, event, T0, 0.5)

    assert after == state
    assert actions == ()
    assert isinstance(reply, sg.Refuse)
    assert why in reply.reason


@pytest.mark.parametrize("policy", ["hold", "abort", "promote"])
@pytest.mark.parametrize("active", ACTIVE)
def test_after_max_duration_the_policy_decides(policy: str, active: str) -> None:
    """hold and abort wherever it stands; promote only where nothing speaks against it."""
    ramp = attrs.evolve(RAMP, on_inconclusive=policy)
    unclear = attrs.evolve(UNSURE, missing="no control" if active == "hold" else "")
    if active == "recovering":
        unclear = attrs.evolve(unclear, clean=False)

    before, _, _ = ramp.step(ACTIVE[active], unclear, T0 + 999.0, 0.5)
    after, _, actions = ramp.step(ACTIVE[active], unclear, T0 + 1000.0, 0.5)

    assert before.state == ACTIVE[active].state
    asleep = active in ("suspended", "paused")
    if policy == "abort":
        assert after.state == C.ABORTED
        assert actions[1] == sg.RollBack("no decision in max_duration", blame=False)
    elif policy == "promote" and active in ("ramping", "last"):
        assert after.state == C.PROMOTED
    else:
        assert after.state == (ACTIVE[active].state if asleep else C.HOLD)


def test_recovery_serves_nobody_new_before_the_old_level() -> None:
    """From level 3 down to nothing, then half the first share, then one level per clean check."""
    ramp = attrs.evolve(RAMP, levels=(*LEVELS[:3], 700_000, 950_000))
    state, _, _ = ramp.step(Ramp(level=3, ppm=700_000, started=T0), OPEN, T0, 0.5)
    shares = [state.ppm]
    state, _, _ = ramp.step(state, CLOSED, T0, 0.5)
    shares.append(state.ppm)
    while state.state == C.RECOVERING:
        state, _, _ = ramp.step(state, UNSURE, T0, 0.5)
        shares.append(state.ppm)

    assert shares == [0, 50_000, 100_000, 250_000, 500_000, 700_000]
    assert (state.state, state.level, state.attempts) == (C.RAMPING, 3, 1)


def test_an_adaptive_ramp_skips_levels_on_strong_evidence_only() -> None:
    """Two levels at once, but the last one with its holdback is always held; off by default."""
    strong = attrs.evolve(GOOD, strong=True)
    adaptive = attrs.evolve(RAMP, adaptive=True)

    def walk(ramp: Canary, check: sg.Check) -> list[int]:
        state, seen = Ramp(ppm=LEVELS[0], started=T0), [0]
        while state.state == C.RAMPING:
            state, _, _ = ramp.step(state, check, T0, 0.5)
            seen.append(state.level)
        return seen

    assert walk(adaptive, strong) == [0, 2, 3, 3]
    assert walk(adaptive, GOOD) == walk(RAMP, strong) == [0, 1, 2, 3, 3]
    assert Canary().adaptive is False


CHECKS = [
    sg.Check(verdict, fresh, sampled, quiet, clean, missing, strong)
    for verdict in Verdict
    for fresh in (True, False)
    for sampled in (True, False)
    for quiet in (True, False)
    for clean in (True, False)
    for missing in ("", "no control")
    for strong in (True, False)
]
EVENTS: list[sg.Event] = [
    *CHECKS,
    OPEN,
    CLOSED,
    LATCHED,
    BOTH_OPEN,
    BOTH_LATCHED,
    sg.Proved("harm"),
    sg.Pause(),
    sg.Resume(),
    sg.Abort(),
    sg.Promote(evidence=False),
    sg.Promote(evidence=True),
    sg.Promote(evidence=False, force=True),
]


@pytest.mark.parametrize(
    ("policy", "adaptive"), [("hold", True), ("abort", False), ("promote", False)]
)
def test_every_state_that_can_be_reached_keeps_the_rules(policy: str, adaptive: bool) -> None:
    """Every event in every reachable state (but for the words of its reason), before and after max_duration: shares never rise above
    what was allowed, nobody is promoted without evidence, force or the policy, what is over is over,
    and every state comes back from JSON."""
    ramp = attrs.evolve(RAMP, levels=LEVELS[1:], on_inconclusive=policy, adaptive=adaptive)
    first, _, _ = ramp.step(ramp.start(), sg.Start(), T0, 0.5)
    seen, waiting = {first}, deque([first])
    while waiting:
        state = waiting.popleft()
        assert ramp.load(ramp.dump(state)) == state
        for event in EVENTS:
            for late in (False, True):
                after, reply, actions = ramp.step(state, event, T0 + 2000.0 * late, 0.5)
                assert 0 <= after.ppm <= ramp.levels[after.level], (state, event, after)
                assert after.attempts <= ramp.max_attempts, (state, event, after)
                shares = [a.ppm for a in actions if isinstance(a, sg.SetShare)]
                assert (after.ppm != state.ppm) <= (shares == [after.ppm] or after.ppm == 0), (
                    state,
                    event,
                    after,
                )
                if after.state in (C.PAUSED, C.SUSPENDED, C.ROLLED_BACK, C.ABORTED, C.PROMOTED):
                    assert after.ppm == 0, (state, event, after)
                if after.state == C.HOLD:
                    assert after.alerted, (state, event, after)
                    assert after.ppm == state.ppm, (state, event, after)
                if after.state != C.HOLD and after.state != C.PAUSED:
                    assert after.inner == C.RAMPING or after.state in ENDED, (state, event, after)
                if after.level > state.level or after.state == C.PROMOTED != state.state:
                    allowed = (
                        isinstance(event, sg.Check)
                        and event.verdict == Verdict.PROMOTE
                        and event.fresh
                        and event.sampled
                        and event.quiet
                        and event.clean
                        and not event.missing
                        and state.state == C.RAMPING
                    )
                    operator = isinstance(event, sg.Promote) and (
                        event.force or (event.evidence and state.state == C.RAMPING)
                    )
                    by_policy = policy == "promote" and late and state.state == C.RAMPING
                    assert allowed or operator or by_policy, (state, event, after)
                if state.state in ENDED:
                    assert after == state, (state, event, after)
                    assert isinstance(reply, sg.Refuse), (state, event, after)
                if after.ppm > state.ppm:
                    assert isinstance(event, (sg.Check, sg.Resume)) or event == CLOSED, (
                        state,
                        event,
                        after,
                    )
                bare = attrs.evolve(after, reason="")
                if bare not in seen:
                    seen.add(bare)
                    waiting.append(bare)
    assert {s.state for s in seen} == set(C)
    assert len(seen) > 100


ENDED = (C.PROMOTED, C.ROLLED_BACK, C.ABORTED)


def test_a_state_of_an_older_release_is_read() -> None:
    """One without the newest field means what it meant; garbage is CorruptError."""
    data = RAMP.dump(LEVEL1)
    del data["inner"]

    assert RAMP.load(data) == LEVEL1
    for bad in (None, [], {"state": "flying"}, {**data, "inner": "flying"}):
        with pytest.raises(CorruptError, match="can not be read"):
            RAMP.load(bad)


# -- levels ---------------------------------------------------------------------------------------


def test_levels_are_geometric_linear_or_explicit() -> None:
    """10, 15.8, 25.1, 39.8, 63.1 and 95 %; equal steps; or as they are given; always a holdback."""
    assert levels(0.1, 5) == (100_000, 158_489, 251_189, 398_107, 630_957, 950_000)
    assert levels(0.1, 5, "linear") == (100_000, 280_000, 460_000, 640_000, 820_000, 950_000)
    assert levels(0.1, 5, explicit=[0.01, 0.2, 1]) == (10_000, 200_000, 950_000)
    assert levels(0.1, 5, explicit=[0.01, 0.2]) == (10_000, 200_000)
    assert levels(0.1, 2, holdback=0.2)[-1] == 800_000
    assert levels(0.95, 5) == (950_000,)
    assert levels(0.5, 0) == (500_000,)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"initial_fraction": 0.951, "steps": 5}, "at most 0.95"),
        ({"initial_fraction": 0.0, "steps": 5}, "more than 0"),
        ({"initial_fraction": 0.1, "steps": -1}, "ramp_steps"),
        ({"initial_fraction": 0.1, "steps": 5, "ramp": "cubic"}, "'geometric' or 'linear'"),
        ({"initial_fraction": 0.1, "steps": 5, "explicit": []}, "ascending"),
        ({"initial_fraction": 0.1, "steps": 5, "explicit": [0.5, 0.2]}, "ascending"),
        ({"initial_fraction": 0.1, "steps": 5, "explicit": [0.5, 1.2]}, "ascending"),
        ({"initial_fraction": 0.1, "steps": 5, "holdback": 1.0}, "holdback"),
    ],
)
def test_impossible_levels_are_refused(given: Any, words: str) -> None:
    """With what is expected."""
    with pytest.raises(ConfigError, match=words):
        levels(**given)
