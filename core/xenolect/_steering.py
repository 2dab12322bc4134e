"""Steering a rollout: health checks and operators' verbs through the ramp, to promotion or the end.

The ramp decides (``Safeguard.step``); this module gathers what its gates look at, commits what it became,
and carries out what it asks for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from xenolect import safeguards as sg
from xenolect._evidence import (
    ENDED,
    Rollout,
    Weighed,
    event_to_json,
    evidence_to_json,
    health_check,
)
from xenolect._outcomes import outcome
from xenolect._points import Points
from xenolect._runtime import Runtime
from xenolect._sample_ratio import Share
from xenolect._variants import Variants
from xenolect.errors import ConflictError, CorruptError
from xenolect.facts import Change, Put
from xenolect.model import CanaryState, Mode, VariantStatus, Verdict

__all__ = ["Steering"]

log = logging.getLogger("xenolect.safeguards")
S = VariantStatus


class Steering:
    """Steps the ramps of running rollouts and commits what follows."""

    def __init__(
        self,
        runtime: Runtime,
        variants: Variants,
        points: Points,
        rollouts: Mapping[str, Rollout],
        eligible: Callable[[Rollout, str | None], bool],
        shut: Callable[[str], None],
    ) -> None:
        self._runtime = runtime
        self._variants = variants
        self._points = points
        self._rollouts = rollouts
        self._eligible = eligible
        self._shut = shut

    def check(self, rollout: Rollout, now: float) -> None:
        """A health check that is due."""
        version, weighed = rollout.version, rollout.weighed
        interval = self._runtime.config.metrics.interval
        check = health_check(rollout, weighed, now, interval, self._units_needed(rollout))
        before = rollout.state
        self.step(rollout, check, now, weighed, version)
        passed = rollout.ended or rollout.state.level > before.level
        held = rollout.state.state == CanaryState.HOLD
        fresh = check.fresh
        self._runtime.performance.incident(
            rollout.variant_id, passed=0.0 if held else 1.0, failed=1.0 if held and fresh else 0.0
        )
        if passed:
            log.info(
                "the rollout of %s goes on: %s",
                rollout.variant_id,
                rollout.state,
                extra={"variant_id": rollout.variant_id, "rollout": rollout.id},
            )

    def _units_needed(self, rollout: Rollout) -> int:
        needed = int(rollout.document["min_units"])
        if rollout.by_session:
            return needed
        inside = 0
        for agent_id in list(self._runtime.agents):
            if rollout.inside(agent_id) and self._eligible(rollout, agent_id):
                inside += 1
                if inside >= needed:
                    return needed
        return min(needed, max(1, inside)) if self._runtime.agents else needed

    def step(
        self,
        rollout: Rollout,
        event: sg.Event,
        now: float,
        weighed: Weighed | None = None,
        version: int | None = None,
    ) -> sg.Reply:
        """Step the ramp, commit what it became, carry out what it asks for.

        ``weighed``: what a health check looked at, at this ``version`` of the rollout.
        """
        runtime = self._runtime
        checked = weighed is not None
        # First: what is decided on this version is committed on this version, or not at all. Writing a
        # point may hear of a newer one in between.
        version = rollout.version if version is None else version
        weighed = weighed or rollout.weighed
        if runtime.mode is Mode.OBSERVE and checked:
            runtime.tell(
                "canary.verdict",
                rollout.variant_id,
                verdict=str(weighed.verdict),
                evidence=evidence_to_json(weighed.evidence),
            )
            return None
        before, last = rollout.state, rollout.document
        draw = runtime.rng.random()
        state, reply, actions = rollout.ramp.step(before, event, now, draw)
        ending: sg.Action | None = None
        for action in actions:
            if isinstance(action, sg.Alert):
                runtime.tell("canary.alert", rollout.variant_id, message=action.message)
                log.warning(
                    "%s: %s",
                    rollout.variant_id,
                    action.message,
                    extra={"variant_id": rollout.variant_id, "rollout": rollout.id},
                )
            elif isinstance(action, (sg.Finish, sg.RollBack)):
                ending = action
        if isinstance(ending, sg.RollBack):
            if ending.blame:  # harm was proved of this content; an operator means what there is
                self._points.roll_back(rollout.variant_id, ending.reason, rollout_id=rollout.id)
            else:
                self._points.roll_back(rollout.variant_id, ending.reason, blame=False)
            return reply
        made = event_to_json(event, now, draw)
        document = self._document(rollout, last, before, state, now, weighed, made)
        if checked:
            document["next_check_at"] = now + document["check_interval"]
            document["checks"] = document.get("checks", 0) + 1
        if isinstance(ending, sg.Finish):
            forced = isinstance(event, sg.Promote) and event.force
            self._promote(rollout, version, document, forced=forced)
            return reply
        if state == before and not checked:
            return reply
        variant = runtime.variant(rollout.variant_id)
        changes: list[Change] = [Put("rollout", rollout.variant_id, document, version)]
        paused = state.state == CanaryState.PAUSED
        if paused and variant.status == S.CANARY:
            changes.append(self._variants.moved(variant, S.PAUSED))
        elif not paused and variant.status == S.PAUSED:
            changes.append(self._variants.moved(variant, S.CANARY))
        runtime.commit(changes, actor="health check" if checked else "ramp")
        if state.state != before.state or state.level != before.level:
            kind = {
                CanaryState.HOLD: "canary.hold",
                CanaryState.SUSPENDED: "canary.suspended",
                CanaryState.RECOVERING: "canary.recovering",
                CanaryState.PAUSED: "canary.paused",
            }.get(state.state, "canary.level")
            runtime.tell(
                kind, rollout.variant_id, level=state.level, ppm=state.ppm, reason=state.reason
            )
        return reply

    def _document(
        self,
        rollout: Rollout,
        last: Mapping[str, Any],
        before: Any,
        state: Any,
        now: float,
        weighed: Weighed,
        made: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The document after ``last``; with ``step`` and ``sequence`` it can be recomputed."""
        document = {
            **last,
            "state": rollout.ramp.dump(state),
            "step": made,
            "verdict": str(weighed.verdict),
            "evidence": evidence_to_json(weighed.evidence),
            "sequence": weighed.sequence,
            "ratio": None if weighed.ratio is None else weighed.ratio.to_json(),
            "decided": {"by": "nobody"} if weighed.failed else None,
        }
        if state.state not in ENDED and (state.ppm != before.ppm or made["event"] == "Resume"):
            share = Share.of(last).next(state.ppm, now, self._newest(rollout, weighed))
            document["share"] = share.to_json()
        if state.state != before.state:
            document["changed_at"] = now
        if state.level != before.level or state.state != before.state:
            document["level_sequence"] = weighed.sequence
        return document

    def _newest(self, rollout: Rollout, weighed: Weighed) -> int:
        """The last sequence stored of a rollout; a process that does not lead has folded less."""
        after = max(weighed.sequence, rollout.cursor)
        stored = self._runtime.index.observations(rollout.id, after)
        return stored[-1].sequence if stored else after

    def _promote(
        self, rollout: Rollout, version: int, document: dict[str, Any], *, forced: bool
    ) -> None:
        """The canary becomes active; what it replaces steps down; one commit."""
        runtime = self._runtime
        variant = runtime.variant(rollout.variant_id)
        document["ended_at"] = runtime.clock()
        active = self._variants.moved(variant, S.ACTIVE)
        after = attrs.evolve(variant, status=S.ACTIVE, version=variant.version + 1)
        try:
            _, point = self._points.write(after, "promoted", proven=True, later=True)
        except CorruptError as error:  # what can not be kept is not promoted
            evidence = {"rule": "corrupt_state", "found": str(error)}
            reason = f"promoting it found damage: {error}"
            self._shut(variant.id)
            self._points.roll_back(variant, reason, evidence=evidence, actor="critical", deep=True)
            return

        def build() -> Sequence[Change]:
            fact = runtime.fact("rollout", variant.id)
            found = fact.version if fact else 0
            if found != version or runtime.variant(variant.id).version != variant.version:
                raise ConflictError(
                    f"the rollout of {variant.id!r} was moved by somebody else (version {version} -> "
                    f"{found}) while it was promoted; look at it and decide again",
                    expected=version,
                    found=found,
                )
            changes: list[Change] = [
                active,
                point,
                outcome(runtime, variant.id, "promoted"),
                *self._points.prune(variant.id),
            ]
            document.pop("replaced", None)
            replaced = runtime.variants.get(document["replaces"] or "")
            if replaced is not None and replaced.status == S.ACTIVE:
                baseline = runtime.baseline(variant.protocol) == replaced.id
                document["replaced"] = {"id": replaced.id, "baseline": baseline}
                changes.append(self._variants.moved(replaced, S.DEPRECATED))
                if baseline:
                    changes.append(Put("baseline", variant.protocol, {"variant_id": variant.id}))
            return [*changes, Put("rollout", rollout.variant_id, document, version)]

        # on the newest facts: who is the baseline may change while the point is written
        runtime.commit_retrying(build, actor="force promote" if forced else "promote")
        runtime.later(lambda: self._points.complete(point.key))
        runtime.tell(
            "variant.promoted",
            variant.id,
            forced=forced,
            replaced=document["replaces"],
            reason=document["state"]["reason"],
        )
        log.info(
            "variant %s is promoted",
            variant.id,
            extra={"variant_id": variant.id, "rollout": rollout.id, "revision": runtime.revision},
        )

    def ended(self, variant_id: str, reason: str, blame: bool, evidence: Any) -> Sequence[Change]:
        """The rollout's part of the rollback commit."""
        rollout = self._rollouts.get(variant_id)
        now = self._runtime.clock()
        if rollout is None:
            stored = self._runtime.value("rollout", variant_id)
            if stored is None:
                return ()
            ended = {**stored, "rolled_back_at": now, "reason": reason}
            return [Put("rollout", variant_id, ended)]
        event: sg.Event = sg.Proved(reason) if blame else sg.Abort()
        state, _, _ = rollout.ramp.step(rollout.state, event, now, 0.0)
        made = event_to_json(event, now, 0.0)
        document = self._document(
            rollout, rollout.document, rollout.state, state, now, rollout.weighed, made
        )
        if evidence is not None and "rule" in evidence:  # a critical failure: no judge was asked
            document["critical"] = evidence
        elif evidence is not None:  # of the judge that proved harm, local or merged
            document["evidence"] = evidence
            document["verdict"] = str(Verdict.ROLLBACK)
            document["decided"] = rollout.decided
        document["reason"] = reason
        document["ended_at"] = now
        return [Put("rollout", variant_id, document)]
