"""``manager.canaries``: start a rollout, weigh its evidence, ramp it, end it.

The ramp (a pure machine) decides; the judge weighs; this module feeds both and commits what they say.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from xenolect import safeguards as sg
from xenolect._breakers import Breakers
from xenolect._codec import moment
from xenolect._evidence import (
    Rollout,
    baseline_from_json,
    event_to_json,
    evidence_to_json,
    frozen_of,
)
from xenolect._harm import Harm
from xenolect._launch import Launch
from xenolect._leading import Leader
from xenolect._lifecycle import check_transition
from xenolect._membership import Membership
from xenolect._points import Points
from xenolect._runtime import Runtime
from xenolect._sample_ratio import Share
from xenolect._selection import Selector
from xenolect._steering import Steering
from xenolect._trust import LateJudge
from xenolect._validate import check_name
from xenolect._variants import Variants
from xenolect.errors import (
    ConflictError,
    NotFoundError,
    TransitionError,
)
from xenolect.facts import Change, Drop, Observation, Put
from xenolect.model import (
    BreakerState,
    CanaryState,
    CanaryStatus,
    ProtocolVariant,
    VariantStatus,
    Verdict,
)

__all__ = ["Canaries"]

log = logging.getLogger("xenolect.safeguards")
S = VariantStatus
ROLLBACK = Verdict.ROLLBACK  # Python 3.11 takes 0.1 us to look a member of an enumeration up


class Canaries:
    """The rollouts of one manager."""

    def __init__(
        self,
        runtime: Runtime,
        variants: Variants,
        points: Points,
        breakers: Breakers,
        selector: Selector,
    ) -> None:
        self._runtime = runtime
        self._variants = variants
        self._points = points
        self._breakers = breakers
        self._selector = selector
        self._launch = Launch(runtime, selector)
        self._rollouts: dict[str, Rollout] = {}  # running, by variant id
        self.running = self._rollouts  # empty: no measurement is evidence
        self._membership = Membership(runtime, self._rollouts, breakers, selector)
        self.serves = self._membership.serves
        self._harm = Harm(runtime, points, breakers, selector)
        self._steering = Steering(
            runtime, variants, points, self._rollouts, self._membership.eligible, self._harm.shut
        )
        self.leader = Leader(
            runtime, self._rollouts, breakers, self._membership, self._harm, self._steering
        )
        self.join = self.leader.join
        runtime.appliers["rollout"] = self._apply
        runtime.routes = self._membership.routes
        runtime.on_flushed = self.leader.fold
        points.ended = self._steering.ended
        points.shut = self._harm.shut
        variants.restart = self._restart

    # -- starting ---------------------------------------------------------------------------------

    def start(
        self,
        variant: Any,
        control: Any = None,
        replaces: Any = None,
        initial_fraction: float | None = None,
        ramp_steps: int | None = None,
        unit: str | None = None,
        judge: Any = None,
        min_effect: float | None = None,
        seed: object = None,
        **options: Any,
    ) -> CanaryStatus:
        """Let a variant reach a few units first. A rollback point is written and verified before.

        control: whom it is compared with (default: the baseline). replaces: the active variant that
        its promotion deprecates. unit: "agent" or "session", what is routed and counted as one.
        seed: makes the routing reproducible. options: any other setting of ``[canary]``
        (``levels``, ``min_operations``, ``health_check_interval``, ...), the rest are the judge's.
        """
        runtime = self._runtime
        current = runtime.variant(variant)
        check_transition(current, S.CANARY)
        if current.status == S.PAUSED:
            raise TransitionError(f"the rollout of {current.id!r} is paused; canaries.resume it")
        given = {
            "initial_fraction": initial_fraction,
            "ramp_steps": ramp_steps,
            "unit": unit,
            "judge": judge,
            "min_effect": min_effect,
            **options,
        }
        plan = self._launch.plan(
            current, control, replaces, {k: v for k, v in given.items() if v is not None}, seed
        )
        point, point_change = self._points.write(current, "before canary")
        document = self._launch.document(
            plan, current, point.id, self._attempt(current.id), self._process_count()
        )
        self._begin(document, plan.ramp)

        def build() -> Sequence[Change]:
            now = runtime.variant(current.id)
            check_transition(now, S.CANARY)
            if now.version != current.version:
                raise ConflictError(
                    f"variant {current.id!r} changed while its rollout was prepared (version "
                    f"{current.version} -> {now.version}); start it again",
                    expected=current.version,
                    found=now.version,
                )
            self._launch.still(plan, now)
            return [
                self._variants.moved(now, S.CANARY),
                *self._freeze(current.id, document["baseline"], plan.baseline),
                Put("rollout", current.id, document),
                point_change,
                *self._points.prune(current.id),
            ]

        runtime.commit_retrying(build, actor="canary start")
        self.join()
        expected = document["expected"]
        runtime.tell(
            "canary.started", current.id, control=document["control_id"], expected_decision=expected
        )
        if left := self._launch.left_behind(plan, current):
            log.warning(
                "%d registered agents (%r and so on) can speak %s, but neither %s nor anything else that "
                "stays active: once it replaces the former, nothing is left for them. Leave `replaces` "
                "out to keep both",
                len(left),
                left[0],
                document["replaces"],
                current.id,
                extra={"variant_id": current.id, "rollout": document["rollout"]},
            )
        if expected is not None and expected > 86400.0:
            log.warning(
                "the rollout of %s is expected to need %.1f days to decide at the traffic seen; "
                "unit='session', a larger min_effect or a larger initial_fraction decide sooner",
                current.id,
                expected / 86400.0,
                extra={"variant_id": current.id, "rollout": document["rollout"]},
            )
        runtime.settle()
        return self.status(current.id)

    def _begin(self, document: dict[str, Any], ramp: Any) -> None:
        state, _, _ = ramp.step(ramp.start(), sg.Start(), document["started_at"], 0.0)
        document["state"] = ramp.dump(state)
        document["share"] = Share(state.ppm, document["started_at"]).to_json()
        document["step"] = event_to_json(sg.Start(), document["started_at"], 0.0)
        document["decided"] = None

    def _freeze(self, variant_id: str, name: str, baseline: Mapping[str, Any]) -> Sequence[Change]:
        """Store a rollout's baseline apart from its document, which is written at each step; the one
        of the variant's last rollout goes (the journal keeps it)."""
        last = self._runtime.value("rollout", variant_id)
        apart = last is not None and isinstance(last["baseline"], str)
        gone = [Drop("frozen", last["baseline"])] if apart else []
        return [*gone, Put("frozen", name, dict(baseline))]

    def _attempt(self, variant_id: str) -> int:
        last = self._runtime.value("rollout", variant_id)
        return 1 if last is None else int(last["attempt"]) + 1

    def _process_count(self) -> int:
        return max(1, len(self._runtime.index.leases("process/", self._runtime.alive())))

    def _restart(self, updated: ProtocolVariant) -> Sequence[Change]:
        """The changes that begin a rollout anew because its content was edited."""
        last = self._runtime.value("rollout", updated.id)
        document = {
            **last,
            "rollout": self._runtime.token(8),
            "attempt": last["attempt"] + 1,
            "processes": self._process_count(),
            **Launch.fresh(self._runtime.clock(), last["check_interval"]),
        }
        self._begin(document, self._launch.ramp_of(document))
        return [Put("rollout", updated.id, document)]

    # -- the documents ----------------------------------------------------------------------------

    def _apply(self, key: str, value: Any, version: int, at_open: bool) -> None:
        variant = self._runtime.variants.get(key)
        if variant is not None:
            self._runtime.touch(variant.protocol)
        with self.leader.folding, self._runtime.performance.fold:
            current = self._rollouts.get(key)
            if value is None:
                self._rollouts.pop(key, None)
                self._membership.changed()
                return
            if current is not None and current.id == value["rollout"]:
                current.take(value, version)
            else:
                current = Rollout(
                    value,
                    version,
                    LateJudge(partial(self._launch.judge_of, value)),
                    self._launch.ramp_of(value),
                    baseline_from_json(frozen_of(value, partial(self._runtime.value, "frozen"))),
                )
                if not current.ended:
                    self._breakers.shut.discard(key)
                    self._rollouts[key] = current
            if current.ended:
                self._rollouts.pop(key, None)
                self._selector.forget(key)
            self._membership.changed()

    def _running(self, variant: Any) -> Rollout:
        variant_id = self._runtime.variant(variant).id
        rollout = self._rollouts.get(variant_id)
        if rollout is None:
            raise NotFoundError(
                f"variant {variant_id!r} has no running rollout; canaries.start begins one"
            )
        return rollout

    # -- evidence ---------------------------------------------------------------------------------

    def observe(
        self,
        variant: ProtocolVariant,
        agent_id: str | None,
        session: str | None,
        operations: int,
        failures: int,
        latency_ms: float | None,
        custom: Mapping[str, float],
        now: float,
    ) -> None:
        """Weigh one measurement in every rollout it belongs to; the caller holds ``fold``."""
        if not self._rollouts:
            return
        variant_id, agents = variant.id, self._breakers.agents
        if agent_id is not None and agents.out and agents.is_out(variant_id, agent_id):
            return  # an agent that was taken out is evidence in neither arm
        earlier: list[tuple[Rollout, str]] = []
        for rollout in self._membership.of(variant.protocol):
            if variant_id != rollout.variant_id and variant_id != rollout.control_id:
                continue
            unit = session if rollout.by_session else agent_id
            if unit is None:
                rollout.unattributed += operations
                continue
            if not self._membership.eligible(rollout, agent_id):
                continue
            if rollout.by_session and self._selector.pinned_before(
                variant.protocol, unit, rollout.document["started_at"]
            ):
                continue  # chosen before there was a rollout: in neither arm
            arm = rollout.arm(variant_id, unit)
            if earlier and any(other.inside(u) for other, u in earlier):
                arm = None  # treated by an earlier rollout: in neither arm of this one
            earlier.append((rollout, unit))
            if arm is None:
                continue
            observation = Observation(
                rollout.id,
                arm,
                unit,
                operations,
                failures,
                now,
                latency_ms,
                dict(custom),
                self._runtime.boot,
            )
            self._runtime.performance.observe(observation)
            answer = rollout.saw(observation)
            if answer is not None and answer[0] is ROLLBACK:
                self._harm.prove(rollout, answer[1], local=True)

    # -- the leader -------------------------------------------------------------------------------

    # -- the breakers' news -----------------------------------------------------------------------

    def breaker_moved(self, variant_id: str, before: BreakerState, after: BreakerState) -> None:
        """The breaker of a variant moved; its rollout, if any, follows."""
        runtime = self._runtime
        runtime.tell("breaker.changed", variant_id, before=str(before), after=str(after))
        if after == BreakerState.OPEN and before == BreakerState.CLOSED:
            runtime.performance.incident(variant_id, failed=3.0)
        rollout = self._rollouts.get(variant_id)
        if rollout is None or rollout.proved:
            return
        rollout.disturbed_at = runtime.clock()
        news = {
            BreakerState.OPEN: "open",
            BreakerState.FORCED_OPEN: "open",
            BreakerState.CLOSED: "closed",
            BreakerState.LATCHED: "latched",
        }.get(after)
        if news is not None and not (news == "open" and before == BreakerState.HALF_OPEN):
            control_shut = self._breakers.is_shut(rollout.control_id)
            runtime.later(lambda: self._news(rollout.id, variant_id, news, control_shut))

    def _news(self, rollout_id: str, variant_id: str, news: str, control_shut: bool) -> None:
        rollout = self._rollouts.get(variant_id)
        if rollout is None or rollout.id != rollout_id or rollout.ended:
            return
        try:
            self._steering.step(rollout, sg.BreakerNews(news, control_shut), self._runtime.clock())
        except (ConflictError, TransitionError):
            self._runtime.catch_up()  # somebody else moved the rollout: theirs counts

    def gave_up(self, variant_id: str, reason: str) -> None:
        """A variant's breaker latched: take the variant back, unless its control is shut as well."""
        runtime = self._runtime
        variant = runtime.variants.get(variant_id)
        rollout = self._rollouts.get(variant_id)
        if variant is None or (rollout and self._breakers.is_shut(rollout.control_id)):
            return
        if rollout is None and not self._points.stays(variant):
            runtime.later(lambda: self._harm.take_back(variant_id, f"breaker: {reason}", None))

    # -- the public face --------------------------------------------------------------------------

    def status(self, variant: Any) -> CanaryStatus:
        """Where the variant's rollout (running, or the last one) stands; NotFoundError."""
        current = self._runtime.variant(variant)
        document = self._runtime.value("rollout", current.id)
        if document is None:
            raise NotFoundError(f"variant {current.id!r} never had a rollout")
        rollout = self._rollouts.get(current.id)
        state = self._launch.ramp_of(document).load(document["state"])
        verdict, evidence = document["verdict"], document["evidence"]
        ratio = document.get("ratio")
        if rollout is not None and (rollout.evidence.canary_operations or rollout.failure):
            weighed = rollout.weighed
            verdict, evidence = weighed.verdict, evidence_to_json(weighed.evidence)
            ratio = ratio if weighed.ratio is None else weighed.ratio.to_json()
        ended = document.get("ended_at") is not None
        return CanaryStatus(
            current.id,
            document["control_id"],
            CanaryState(state.state),
            state.level,
            (1.0 if state.state == CanaryState.PROMOTED else state.ppm / 1_000_000),
            tuple(level / 1_000_000 for level in document["levels"]),
            moment(document["started_at"]),
            None if ended else moment(document["next_check_at"]),
            Verdict(verdict),
            {**evidence, "sample_ratio": ratio} if ratio is not None else evidence,
            document.get("reason") or state.reason or "",
            document["unit"],
            document["attempt"],
            document["expected"],
        )

    def routes(self, variant: Any, agent_id: str, session: str | None = None) -> bool:
        """Is this unit in the canary's share now? Pure: the same in every process."""
        current = self._runtime.variant(variant)
        return self._membership.inside(current, agent_id, session)

    def pause(self, variant: Any) -> CanaryStatus:
        """CANARY -> PAUSED: share 0 until ``resume``."""
        return self._operate(variant, sg.Pause())

    def resume(self, variant: Any) -> CanaryStatus:
        """Go on at the level it was paused at; also ends a hold that waits for the operator."""
        return self._operate(variant, sg.Resume())

    def promote(self, variant: Any, force: bool = False, reason: str = "") -> CanaryStatus:
        """To ACTIVE now: needs the judge's evidence, or ``force`` (audited, with ``reason``)."""
        rollout = self._running(variant)
        if reason:
            check_name(reason, "reason")
        self._runtime.flush()
        evidence = rollout.verdict == Verdict.PROMOTE
        return self._operate(variant, sg.Promote(evidence, force, reason))

    def abort(self, variant: Any) -> CanaryStatus:
        """End the rollout without blame: content and state go back, there is no quarantine."""
        return self._operate(variant, sg.Abort())

    def _operate(self, variant: Any, event: sg.Event) -> CanaryStatus:
        rollout = self._running(variant)
        variant_id = rollout.variant_id
        reply = self._steering.step(rollout, event, self._runtime.clock())
        if isinstance(reply, sg.Refuse):
            raise TransitionError(f"the rollout of {variant_id!r}: {reply.reason}")
        self._runtime.settle()
        return self.status(variant_id)
