"""The ramp of a rollout as a pure function: what a health check, a breaker or an operator changes.

States and guards are in docs/canary.md. Level k serves ``levels[k]`` parts per million; a level is
left upwards only by a health check with the judge's positive evidence and every gate open.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from xenolect import safeguards as sg
from xenolect.errors import CorruptError
from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.interfaces import Safeguard
from xenolect.model import CanaryState as C
from xenolect.model import Verdict
from xenolect.units import Seconds

__all__ = ["Canary", "Ramp"]

Answer = tuple["Ramp", sg.Reply, tuple[sg.Action, ...]]
ENDED = (C.PROMOTED, C.ROLLED_BACK, C.ABORTED)


@attrs.frozen
class Ramp:
    """Where a rollout stands. ``ppm``: the share to route now. ``step``: the clean checks a recovery
    has passed. ``alerted``: the operator knows of this hold. ``inner``: what a hold or a pause
    interrupted, "ramping", "recovering" or "suspended", and goes on with."""

    state: C = C.RAMPING
    level: int = 0
    ppm: int = 0
    attempts: int = 0
    reason: str = ""
    started: float = 0.0
    step: int = 0
    alerted: bool = False
    inner: C = C.RAMPING


@attrs.frozen
class Canary:
    """Ramps up on evidence, holds without it, suspends with the breaker, ends on harm.

    levels: shares in parts per million, ascending. check_interval: seconds between health checks.
    max_attempts: suspensions before it gives up. max_duration: seconds after which a rollout without a
    decision does ``on_inconclusive``: "hold" (and alert), "abort" or "promote". adaptive: strong
    evidence skips a level, never the last.
    """

    levels: tuple[int, ...] = (100_000, 158_489, 251_189, 398_107, 630_957, 950_000)
    check_interval: Seconds = Seconds(300.0)
    max_attempts: int = 3
    max_duration: Seconds = Seconds(86400.0)
    on_inconclusive: str = "hold"
    adaptive: bool = False

    def start(self) -> Ramp:
        """Before ``Start``: nobody is routed."""
        return Ramp()

    def step(self, state: Ramp, event: sg.Event, now: float, draw: float) -> Answer:
        """The table of docs/canary.md."""
        if state.state in ENDED:
            return state, sg.Refuse(reason=f"it is over ({state.state})"), ()
        if isinstance(event, sg.Start):
            share = self.levels[0]
            return Ramp(ppm=share, started=now), None, (sg.SetShare(share),)
        if isinstance(event, sg.Check):
            return self._check(state, event, now)
        if isinstance(event, sg.Proved):
            return self._end(state, C.ROLLED_BACK, event.reason, blame=True)
        if isinstance(event, sg.BreakerNews):
            return self._breaker(state, event)
        if isinstance(event, sg.Pause):
            return self._pause(state)
        if isinstance(event, sg.Resume):
            return self._resume(state)
        if isinstance(event, sg.Promote):
            return self._promote(state, event)
        if isinstance(event, sg.Abort):
            return self._end(state, C.ABORTED, "aborted by the operator", blame=False)
        return state, None, ()

    # -- health checks ------------------------------------------------------------------------------

    def _check(self, state: Ramp, check: sg.Check, now: float) -> Answer:
        if check.verdict == Verdict.ROLLBACK:
            return self._end(state, C.ROLLED_BACK, "harm was proved", blame=True)
        if state.state in (C.PAUSED, C.SUSPENDED):
            return self._inconclusive(state, now)
        problem = self._problem(check)
        if state.state == C.RECOVERING:
            if not problem and check.clean and check.sampled:
                return self._recover(state)
            return self._inconclusive(state, now)
        if problem:
            return self._hold(state, problem, now)
        passed = check.verdict == Verdict.PROMOTE and check.sampled and check.clean
        if state.state == C.HOLD:
            late = now - state.started >= self.max_duration
            if late and not passed and self.on_inconclusive == "hold":
                return state, None, ()  # ramping again would alert again and again
            return self._again(state)
        if passed:
            return self._up(state, 2 if self.adaptive and check.strong else 1)
        waiting = (
            "more operations or units are needed at this level"
            if not check.sampled
            else "the breaker moved in this interval"
            if not check.clean
            else "the judge needs more evidence"
        )
        return self._inconclusive(attrs.evolve(state, reason=waiting), now)

    @staticmethod
    def _problem(check: sg.Check) -> str:
        if check.missing:
            return check.missing
        if not check.fresh:
            return "stale data"
        if check.verdict == Verdict.HOLD or not check.quiet:
            return "evidence of harm, not yet proof"
        return ""

    def _hold(self, state: Ramp, reason: str, now: float) -> Answer:
        held = self._held(state, reason)
        actions: tuple[sg.Action, ...] = ()
        if not state.alerted:
            actions = (sg.Alert(f"the rollout is on hold: {reason}"),)
        after, reply, more = self._inconclusive(held, now)
        return after, reply, (*actions, *more)

    @staticmethod
    def _held(state: Ramp, reason: str) -> Ramp:
        """On hold: the share stays, and what it was goes on when the reason is gone."""
        inner = state.inner if state.state == C.HOLD else state.state
        return attrs.evolve(state, state=C.HOLD, inner=inner, reason=reason, alerted=True)

    def _inconclusive(self, state: Ramp, now: float) -> Answer:
        """Nothing decided at this check; after ``max_duration`` the policy says what then."""
        if now - state.started < self.max_duration:
            return state, None, ()
        if self.on_inconclusive == "abort":
            return self._end(state, C.ABORTED, "no decision in max_duration", blame=False)
        if self.on_inconclusive == "promote" and state.state == C.RAMPING:  # never out of a hold
            return self._finish(state, "no decision in max_duration; the policy promotes")
        if state.state in (C.PAUSED, C.SUSPENDED):
            return state, None, ()
        reason = state.reason or "no decision in max_duration"
        held = self._held(state, reason)
        if state.alerted:
            return held, None, ()
        return held, None, (sg.Alert(f"the rollout has no decision yet: {reason}"),)

    def _up(self, state: Ramp, levels: int) -> Answer:
        if state.level + 1 >= len(self.levels):
            return self._finish(state, "every level passed")
        level = min(state.level + levels, len(self.levels) - 1)
        share = self.levels[level]
        up = attrs.evolve(state, level=level, ppm=share, reason="")
        return up, None, (sg.SetShare(share),)

    def _finish(self, state: Ramp, reason: str) -> Answer:
        done = attrs.evolve(state, state=C.PROMOTED, ppm=0, reason=reason)
        return done, None, (sg.Finish(),)

    def _end(self, state: Ramp, to: C, reason: str, *, blame: bool) -> Answer:
        ended = attrs.evolve(state, state=to, ppm=0, reason=reason)
        return ended, None, (sg.SetShare(0), sg.RollBack(reason, blame))

    # -- breaker and recovery -----------------------------------------------------------------------

    def _breaker(self, state: Ramp, news: sg.BreakerNews) -> Answer:
        if state.state == C.PAUSED:
            return self._while_paused(state, news)
        if news.state == "closed":
            if state.state != C.SUSPENDED:
                return state, None, ()
            share = self.levels[0] // 2
            back = attrs.evolve(
                state, state=C.RECOVERING, ppm=share, step=0, reason="recovering", alerted=False
            )
            return back, None, (sg.SetShare(share),)
        if news.control_shut:
            reason = "common cause: the control's breaker is open too"
            if state.state == C.SUSPENDED:
                return attrs.evolve(state, reason=reason, alerted=True), None, ()
            held = self._held(state, reason)
            if state.alerted or state.state == C.HOLD:
                return held, None, ()
            return held, None, (sg.Alert("both arms fail: nobody is blamed"),)
        if news.state == "latched":
            return self._end(state, C.ROLLED_BACK, "its breaker latched", blame=True)
        if state.state == C.SUSPENDED:
            return state, None, ()
        attempts = state.attempts + 1
        if attempts > self.max_attempts:
            why = f"breaker_exhausted: suspended more than {self.max_attempts} times"
            return self._end(state, C.ROLLED_BACK, why, blame=True)
        suspended = attrs.evolve(
            state,
            state=C.SUSPENDED,
            inner=C.RAMPING,
            ppm=0,
            attempts=attempts,
            reason="its breaker opened",
        )
        return suspended, None, (sg.SetShare(0),)

    def _while_paused(self, state: Ramp, news: sg.BreakerNews) -> Answer:
        """A pause does not stop the breaker: what goes on after it has moved, nobody is routed."""
        answer = self._breaker(attrs.evolve(state, state=state.inner), news)
        moved = answer[0]
        if moved.state in ENDED:
            return answer
        inner = moved.inner if moved.state == C.HOLD else moved.state
        paused = attrs.evolve(
            moved, state=C.PAUSED, inner=inner, ppm=0, reason=state.reason, alerted=state.alerted
        )
        return paused, None, ()

    def _recover(self, state: Ramp) -> Answer:
        """One level per clean check, from half the first up to where it was suspended."""
        level = state.step
        share = self.levels[level]
        if level >= state.level:
            back = attrs.evolve(state, state=C.RAMPING, ppm=share, step=0, reason="")
        else:
            back = attrs.evolve(state, ppm=share, step=level + 1)
        return back, None, (sg.SetShare(share),)

    # -- operators ----------------------------------------------------------------------------------

    def _pause(self, state: Ramp) -> Answer:
        if state.state == C.PAUSED:
            return state, None, ()
        inner = state.inner if state.state == C.HOLD else state.state
        paused = attrs.evolve(
            state, state=C.PAUSED, inner=inner, ppm=0, reason="paused by the operator"
        )
        return paused, None, (sg.SetShare(0),)

    def _resume(self, state: Ramp) -> Answer:
        if state.state not in (C.HOLD, C.PAUSED):
            why = f"only a paused or held rollout can be resumed, this one is {state.state}"
            return state, sg.Refuse(reason=why), ()
        return self._again(state)

    def _again(self, state: Ramp) -> Answer:
        """Go on with what was interrupted, at its share."""
        to = state.inner
        share = self.levels[state.level]
        if to == C.SUSPENDED:
            share = 0
        elif to == C.RECOVERING:
            share = self.levels[state.step - 1] if state.step else self.levels[0] // 2
        reason = "" if to == C.RAMPING else str(to)
        again = attrs.evolve(
            state, state=to, inner=C.RAMPING, ppm=share, reason=reason, alerted=False
        )
        return again, None, () if share == state.ppm else (sg.SetShare(share),)

    def _promote(self, state: Ramp, event: sg.Promote) -> Answer:
        why = ""
        if state.state == C.PAUSED:
            why = "it is paused, so nobody is served by it; resume it first"
        elif not event.force:
            if not event.evidence:
                why = "the judge has no evidence yet that it is not worse; wait for a health check"
            elif state.state != C.RAMPING:
                why = f"it is {state.state} ({state.reason}); wait until that is over"
            if why:
                why += ", or promote with force=True (audited)"
        if why:
            return state, sg.Refuse(reason=why), ()
        done = "promoted by the operator" + (" by force" if event.force else "")
        return self._finish(state, f"{done}: {event.reason}" if event.reason else done)

    # -- keeping ------------------------------------------------------------------------------------

    def dump(self, state: Ramp) -> Any:
        """The state as JSON."""
        return attrs.asdict(state) | {"state": str(state.state), "inner": str(state.inner)}

    def load(self, data: Any) -> Ramp:
        """Read what ``dump`` wrote; CorruptError."""
        try:
            return Ramp(
                C(data["state"]),
                int(data["level"]),
                int(data["ppm"]),
                int(data["attempts"]),
                str(data["reason"]),
                float(data["started"]),
                int(data["step"]),
                bool(data["alerted"]),
                C(data.get("inner", C.RAMPING)),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as cause:
            raise CorruptError(f"the state of a rollout can not be read: {cause!r}") from cause


@hookimpl
def xenolect_safeguards() -> Iterable[Offer[Safeguard[Any]]]:
    """Offer the ramp."""
    yield offer("canary", Canary)
