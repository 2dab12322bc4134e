"""The ramp, row by row of its table, and every state it can reach."""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs
import pytest
from tests.ramp_table import (
    ACTIVE,
    BOTH_LATCHED,
    BOTH_OPEN,
    CLOSED,
    GOOD,
    HELD,
    LATCHED,
    LATE,
    LEVEL1,
    LEVELS,
    OPEN,
    PAUSED,
    RAMP,
    RECOVERING,
    SUSPENDED,
    T0,
    TABLE,
    UNSURE,
)

from xenolect import CanaryState as C
from xenolect import ConfigError, Verdict
from xenolect import safeguards as sg
from xenolect.errors import CorruptError
from xenolect.ramps import levels
from xenolect_plugins.canary import Canary, Ramp


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
