"""``manager.canaries``: start a rollout, weigh its evidence, ramp it, end it.

The ramp (a pure machine) decides; the judge weighs; this module feeds both and commits what they say.
Exactly one process, the leader by lease, folds the merged evidence and makes health checks.
"""

from __future__ import annotations

import logging
import threading
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
from xenolect._launch import Launch
from xenolect._lifecycle import check_transition
from xenolect._points import Points
from xenolect._runtime import Runtime
from xenolect._sample_ratio import Share
from xenolect._selection import Selector
from xenolect._silence import silences
from xenolect._steering import Steering
from xenolect._structure import Route
from xenolect._trust import LateJudge
from xenolect._validate import check_name
from xenolect._variants import Variants
from xenolect.errors import (
    ConflictError,
    CorruptError,
    EmergenceError,
    InvalidError,
    NotFoundError,
    TransitionError,
)
from xenolect.facts import Change, Drop, Observation, Put
from xenolect.judges import Evidence
from xenolect.model import (
    BreakerState,
    CanaryState,
    CanaryStatus,
    Mode,
    ProtocolVariant,
    VariantStatus,
    Verdict,
)

__all__ = ["Canaries"]

log = logging.getLogger("xenolect.safeguards")
S = VariantStatus
LEASE = 5.0  # seconds a leader is believed to live after its last sign
SEAT = 400 * 86400.0  # a seat of local evidence is taken once and never given again
CALM = 60.0  # seconds without a failure after which a judge's next one counts as its first
ORPHANED = 900.0  # a suspension nobody heals for so long is tried again by the leader


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
        self._folding = threading.RLock()  # owns every ``merged`` judge
        self._steering = Steering(
            runtime, variants, points, self._rollouts, self._eligible, self._shut
        )
        runtime.appliers["rollout"] = self._apply
        runtime.routes = self._routes
        runtime.on_flushed = self.fold
        self._left = False
        points.ended = self._steering.ended
        points.shut = self._shut
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
        with self._folding, self._runtime.performance.fold:
            current = self._rollouts.get(key)
            if value is None:
                self._rollouts.pop(key, None)
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

    def _running(self, variant: Any) -> Rollout:
        variant_id = self._runtime.variant(variant).id
        rollout = self._rollouts.get(variant_id)
        if rollout is None:
            raise NotFoundError(
                f"variant {variant_id!r} has no running rollout; canaries.start begins one"
            )
        return rollout

    def _of(self, protocol: str) -> list[Rollout]:
        """The running rollouts of a protocol, in order of their start."""
        variants = self._runtime.variants
        found = [
            r
            for r in list(self._rollouts.values())
            if r.variant_id in variants and variants[r.variant_id].protocol == protocol
        ]
        return sorted(found, key=lambda r: (r.document["started_at"], r.id))

    def _routes(self, protocol: str) -> Sequence[Route]:
        return [
            Route(
                r.id,
                self._runtime.variants[r.variant_id],
                r.control_id,
                r.salt,
                r.ppm,
                r.recovery_ppm,
                r.by_session,
            )
            for r in self._of(protocol)
            if self._runtime.variants[r.variant_id].status == S.CANARY
        ]

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
        if agent_id is not None and self._breakers.agents.is_out(variant.id, agent_id):
            return  # an agent that was taken out is evidence in neither arm
        earlier: list[tuple[Rollout, str]] = []
        for rollout in self._of(variant.protocol):
            if variant.id not in (rollout.variant_id, rollout.control_id):
                continue
            unit = rollout.unit(agent_id, session)
            if unit is None:
                rollout.unattributed += operations
                continue
            if not self._eligible(rollout, agent_id):
                continue
            if rollout.by_session and self._selector.pinned_before(
                variant.protocol, unit, rollout.document["started_at"]
            ):
                continue  # chosen before there was a rollout: in neither arm
            arm = rollout.arm(variant.id, unit)
            if any(other.inside(u) for other, u in earlier):
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
            if answer is not None and answer[0] == Verdict.ROLLBACK:
                self._prove(rollout, answer[1], local=True)

    def _eligible(self, rollout: Rollout, agent_id: str | None) -> bool:
        canary = self._runtime.variants.get(rollout.variant_id)
        if canary is None:
            return False
        profile = None if agent_id is None else self._selector.known(agent_id)
        if profile is None:
            return not canary.requirements and not canary.conflicts
        structure = self._runtime.structures.get(canary.protocol)
        mask = None if structure is None else structure.masks.get(profile)
        if mask is not None and any(v.id == canary.id for v in structure.variants):  # type: ignore[union-attr]
            return canary.id not in mask.refused
        return self._runtime.refuses(canary, profile.context) is None

    def serves(self, variant: ProtocolVariant, agent_id: str, session: str | None) -> bool:
        """Can this agent know the variant from serving it: is it routed to it, or may it speak it?"""
        if variant.status != S.ACTIVE:
            rollout = self._rollouts.get(variant.id)
            unit = None if rollout is None else rollout.unit(agent_id, session)
            return (
                rollout is not None
                and unit is not None
                and rollout.inside(unit)
                and self._eligible(rollout, agent_id)
                and not self._taken(rollout, agent_id, session)
            )
        profile = self._selector.known(agent_id)
        return profile is not None and self._runtime.refuses(variant, profile.context) is None

    def _taken(self, rollout: Rollout, agent_id: str, session: str | None) -> bool:
        """Is the unit served the canary of a rollout that began earlier?"""
        for other in self._of(rollout.document["protocol"]):
            if other is rollout:
                break
            unit = other.unit(agent_id, session)
            if (
                unit is not None
                and other.control_id == rollout.control_id
                and other.ppm
                and other.inside(unit)
                and not self._breakers.is_shut(other.variant_id)
                and self._eligible(other, agent_id)
            ):
                return True
        return False

    def _prove(self, rollout: Rollout, evidence: Evidence, *, local: bool) -> None:
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
        self._shut(variant_id)
        self._runtime.later(lambda: self._finish_badly(variant_id, reason, detail, rollout.id))

    def _finish_badly(
        self, variant_id: str, reason: str, evidence: Any, rollout_id: str | None = None
    ) -> None:
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

    def _shut(self, variant_id: str) -> None:
        self._breakers.shut.add(variant_id)
        self._selector.forget(variant_id)

    def leave_parent(self) -> None:
        """In a forked child: no leader, no seat, and nothing weighed before it joins."""
        self._folding = threading.RLock()
        self._left = False
        for rollout in list(self._rollouts.values()):
            rollout.begin()

    # -- the leader -------------------------------------------------------------------------------

    def join(self) -> None:
        """Take this process's place in rollouts it has not joined yet; again where the judge failed."""
        for rollout in list(self._rollouts.values()):
            if not rollout.joined and self._may_try(rollout):
                self._join(rollout)

    def _may_try(self, rollout: Rollout) -> bool:
        """A judge that fails is asked again, with everything, ever more rarely."""
        if not rollout.failure:
            return True
        now = self._runtime.clock()
        if now < rollout.retry_at:
            return False
        if now - rollout.retry_at > CALM:
            rollout.failures = 1  # the first for a long time
        rollout.retry_at = now + min(CALM / 2, 0.25 * 2.0 ** min(rollout.failures, 16))
        log.error(
            "the rollout of %s holds: %s",
            rollout.variant_id,
            rollout.failure,
            extra={"variant_id": rollout.variant_id, "rollout": rollout.id},
        )
        return True

    def _join(self, rollout: Rollout) -> None:
        """Find this process's place: leader, a seat of local evidence, or neither."""
        runtime = self._runtime
        now = runtime.alive()
        with self._folding:
            if rollout.failure and not rollout.begin():
                return
            leads = self._leads(rollout)
            acts = leads
            if rollout.processes > 1:
                acts = any(
                    runtime.index.lease(f"seat/{rollout.id}/{k}", runtime.boot, now, SEAT).holder
                    == runtime.boot
                    for k in range(rollout.processes)
                )
            with runtime.performance.fold:
                stored = self._stored(rollout, 0)
                if stored is None:
                    return
                rollout.fold(stored, runtime.boot)
                waiting = [o for o in runtime.performance.waiting() if o.rollout == rollout.id]
                rollout.joined_at = rollout.cursor
                rollout.saw_many([*stored, *waiting] if rollout.processes == 1 else waiting)
                verdict, evidence = rollout.saw_many(())
                if rollout.failure:
                    return
                rollout.acts = acts
                rollout.joined = True
                if acts and verdict == Verdict.ROLLBACK:
                    self._prove(rollout, evidence, local=True)

    def _stored(self, rollout: Rollout, after: int) -> Sequence[Observation] | None:
        """The rollout's evidence; None where it is damaged: then it holds, as for a failing judge."""
        try:
            return self._runtime.index.observations(rollout.id, after)
        except CorruptError as error:
            log.error("the rollout of %s holds: %s", rollout.variant_id, error)
            rollout.fail(error)
            return None

    def _leads(self, rollout: Rollout) -> bool:
        if self._left:
            return False
        boot, now = self._runtime.boot, self._runtime.alive()
        lease = self._runtime.index.lease(f"leader/{rollout.id}", boot, now, LEASE)
        leads = lease.holder == self._runtime.boot
        if leads and rollout.processes == 1:
            rollout.acts = True  # a tool that started the rollout may have led when this one joined
        return leads

    def leave(self) -> None:
        """Give leader leases back, so that another process can lead at once; for good, since the last
        flush of closing would take them again."""
        now = self._runtime.alive()
        with self._folding:
            self._left = True
            for rollout in list(self._rollouts.values()):
                if rollout.joined:
                    name = f"leader/{rollout.id}"
                    self._runtime.index.lease(name, self._runtime.boot, now, 0.0)

    def fold(self) -> None:
        """After a flush: the leader folds what all processes stored since."""
        if not self._rollouts:
            return
        with self._folding:
            self.join()
            for rollout in list(self._rollouts.values()):
                if self._leads(rollout):
                    self._fold(rollout)

    def _fold(self, rollout: Rollout) -> None:
        if not rollout.joined:
            return  # the judge failed and is asked again later
        if rollout.ratio.stale:  # a share had ended before the last records were folded
            every = self._stored(rollout, 0)
            if every is None:
                return
            rollout.recount(every)
        new = self._stored(rollout, rollout.cursor)
        if new is None:
            return
        if new:
            rollout.fold(new, self._runtime.boot)
        if rollout.verdict == Verdict.ROLLBACK:  # as of joining, perhaps
            self._prove(rollout, rollout.evidence, local=False)

    def tick(self, now: float) -> None:
        """Health checks that are due, by the leader of each rollout."""
        due: list[tuple[Rollout, bool]] = []
        with self._folding:
            self.join()
            for rollout in list(self._rollouts.values()):
                if not self._leads(rollout):
                    continue
                self._fold(rollout)
                state = rollout.state.state
                if state in (CanaryState.RAMPING, CanaryState.HOLD):
                    self._listen(rollout, now)
                since = rollout.document["changed_at"]
                if (
                    state == CanaryState.SUSPENDED
                    and now - since > ORPHANED
                    and not self._breakers.is_shut(rollout.variant_id)
                ):
                    due.append((rollout, True))
                elif now >= rollout.document["next_check_at"] and not rollout.proved:
                    due.append((rollout, False))
        for rollout, orphaned in due:  # outside the lock: committing takes another first
            try:
                if orphaned:
                    self._steering.step(rollout, sg.BreakerNews("closed"), now)
                else:
                    self._steering.check(rollout, now)
            except (ConflictError, TransitionError):
                self._runtime.catch_up()  # somebody else moved it: theirs counts

    def _listen(self, rollout: Rollout, now: float) -> None:
        """Count agents that fell silent as evidence, once an interval."""
        runtime = self._runtime
        interval = runtime.config.metrics.interval
        if now - rollout.listened_at < interval:
            return
        rollout.listened_at = now
        out = self._breakers.agents.is_out
        found = silences(
            rollout,
            lambda unit: (
                unit in runtime.agents
                and not any(out(each, unit) for each in (rollout.variant_id, rollout.control_id))
                and self._eligible(rollout, unit)
            ),
            now,
            interval,
            runtime.boot,
        )
        with runtime.performance.fold:
            for observation in found:
                rollout.silent.add(observation.unit)
                runtime.performance.observe(observation)
                answer = rollout.saw(observation)
                if answer is not None and answer[0] == Verdict.ROLLBACK:
                    self._prove(rollout, answer[1], local=True)
                    break

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
            runtime.later(lambda: self._finish_badly(variant_id, f"breaker: {reason}", None))

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
        rollout = self._rollouts.get(current.id)
        if rollout is None or current.status != S.CANARY or rollout.proved:
            return False
        unit = rollout.unit(agent_id, session)
        if unit is None:
            raise InvalidError(
                f"the rollout of {current.id!r} assigns sessions; pass session= to routes()"
            )
        if rollout.ppm == 0 or not rollout.inside(unit):
            return False
        if self._taken(rollout, agent_id, session):
            return False
        profile = self._selector.known(agent_id)
        return profile is None or self._runtime.refuses(current, profile.context) is None

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
