"""Rollback: one commit takes a variant back, whole; a protocol with nothing good left goes to safe mode.

Restoring writes metadata only: the content of a point, a state version that says "same as n", the
status, the routing and the breaker, all in one ``commit``; readers see all of the old or all of the new.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from xenolect._breakers import Breakers
from xenolect._codec import moment, variant_to_json
from xenolect._keyring import of_keys
from xenolect._outcomes import outcome
from xenolect._point_store import Kept
from xenolect._runtime import Runtime
from xenolect._states import States
from xenolect._variant_content import CONTENT
from xenolect._variants import Variants
from xenolect.errors import ConflictError, CorruptError, EmergenceError, TransitionError
from xenolect.facts import Change, Put
from xenolect.model import ProtocolVariant, VariantStatus

__all__ = ["Points"]

log = logging.getLogger("xenolect.safeguards")
S = VariantStatus
SERVED = (S.CANARY, S.PAUSED, S.ACTIVE)
Changes = list[Change]
Strings = list[str]


class Points(Kept):
    """``manager.points``, and the rollback that every safeguard asks for."""

    def __init__(
        self, runtime: Runtime, variants: Variants, states: States, breakers: Breakers
    ) -> None:
        super().__init__(runtime, variants, states)
        self._breakers = breakers
        # set by the manager: the rollout's share of the one commit
        self.ended: Callable[[str, str, bool, Any], Sequence[Change]] = lambda *_: ()
        self.shut: Callable[[str], None] = lambda _: None

    def restore(self, point: Any) -> ProtocolVariant:
        """Put the variant's content and state back to a point; its status stays. One commit."""
        _, value = self._find(point)
        self._check(value, deep=True)
        variant_id = value["manifest"]["point"]["variant_id"]
        runtime = self._runtime

        def build() -> Sequence[Change]:
            current = runtime.variant(variant_id)
            return self._content(current, value, current.status)

        runtime.commit_retrying(build, actor="restore")
        runtime.tell("point.restored", variant_id, point=value["manifest"]["point"]["id"])
        runtime.settle()
        return runtime.variant(variant_id)

    def _content(self, current: ProtocolVariant, value: Any, status: S) -> Changes:
        """The changes that give a variant a point's content and state."""
        manifest = value["manifest"]
        restored = attrs.evolve(
            current,
            status=status,
            updated_at=moment(self._runtime.clock()),
            **{name: manifest["content"][name] for name in CONTENT},
        )
        changes: Changes = [self._variants.put(restored, current.version)]
        head = self._runtime.value("state", current.id)
        now = head and head.get("ref")
        then = manifest["state"]
        if then is None:
            if now is not None:
                changes.extend(self._states.without(current.id))
        elif now is None or now["root"] != then["root"] or now["kind"] != then["kind"]:
            changes.extend(self._states.same_as(current.id, then["version"]))
        return changes

    # -- rolling back -----------------------------------------------------------------------------

    def roll_back(
        self,
        variant: Any,
        reason: str,
        *,
        blame: bool = True,
        evidence: Any = None,
        actor: str = "",
        deep: bool = False,
        rollout_id: str | None = None,
    ) -> ProtocolVariant:
        """Take a variant back to its last proven point, whole, in one commit; again is no harm.

        Rolling back wins over whatever else changes the variant meanwhile. Where every point is
        corrupt the variant is taken out of service as it is, the protocol goes to its baseline only
        (safe mode) and CorruptError says so. ``deep`` re-reads states of any size. ``rollout_id``: only
        in that rollout; one that began anew meanwhile is of other content, of which nothing is proved.
        """
        runtime = self._runtime
        current = runtime.variant(variant)
        if current.status not in SERVED:
            return self._back(current)
        if not self._goes_on(current.id, rollout_id):
            return current
        if not self.stays(current):
            self.shut(current.id)
        value, skipped = self._good(current, deep)
        done = False
        with runtime.writer.flushing, runtime.performance.sending.evidence() as taken:
            for attempt in range(50):
                with runtime.lock:
                    runtime.catch_up()
                    now = runtime.variant(current.id)
                    changes: Sequence[Change] = ()
                    if now.status in SERVED and self._goes_on(now.id, rollout_id):
                        changes = self._changes(now, value, skipped, reason, blame, evidence)
                    if not changes:
                        break
                    try:
                        runtime.commit(
                            changes,
                            actor=actor or "rollback",
                            evidence=taken,
                            after=runtime.revision,
                        )
                        done = True
                        break
                    except ConflictError:
                        pass
                time.sleep(runtime.rng.random() * 0.002 * attempt)
            else:
                raise ConflictError(
                    f"variant {current.id!r} is changed by others faster than it can be rolled "
                    f"back; it is shut in this process, try again",
                    retry_after=0.1,
                )
        if done:
            runtime.mirror()  # a rollback survives the loss of the index once it is acknowledged
            self._told(current, reason, skipped, blame=blame, lost=value is None and bool(skipped))
        now = runtime.variant(current.id)
        return now if done or now.status in SERVED else self._back(now)

    def give_up(self, variant_id: str, why: str) -> str | None:
        """Take a variant whose state can not be repaired out of service; None if nobody is served it."""
        if self._runtime.variant(variant_id).status not in SERVED:
            return None
        try:
            self.roll_back(
                variant_id, f"its state is damaged beyond repair: {why}"[:200], actor="repair"
            )
        except CorruptError as error:
            return str(error)
        return "rolled back to its newest intact point"

    def _goes_on(self, variant_id: str, rollout_id: str | None) -> bool:
        """Is this the variant's rollout still?"""
        found = self._runtime.value("rollout", variant_id)
        return rollout_id is None or (found is not None and found["rollout"] == rollout_id)

    def _back(self, current: ProtocolVariant) -> ProtocolVariant:
        """A variant that nobody is served by: rolled back it stays so, else there is nothing to do."""
        if current.status == S.ROLLED_BACK:
            return current
        raise TransitionError(
            f"variant {current.id!r} is {current.status}: nobody is served by it, so there is "
            f"nothing to roll back; points.restore(id) puts older content back"
        )

    def _told(
        self, current: ProtocolVariant, reason: str, skipped: Strings, *, blame: bool, lost: bool
    ) -> None:
        """What follows a rollback's commit."""
        runtime = self._runtime
        self._breakers.forget(current.id)
        if blame:
            runtime.performance.incident(current.id, failed=10.0)
        runtime.tell("variant.rolled_back", current.id, reason=reason, skipped=skipped)
        log.info(
            "variant %s is rolled back: %s",
            current.id,
            reason,
            extra={"variant_id": current.id, "revision": runtime.revision},
        )
        if lost:
            runtime.tell("safe_mode.entered", current.id, why=skipped)
            runtime.settle()
            raise CorruptError(
                f"no rollback point of {current.id!r} is intact ({'; '.join(skipped)}); protocol "
                f"{current.protocol!r} serves only its baseline until an operator has repaired it and "
                f"calls points.leave_safe_mode({current.protocol!r})"
            )

    def stays(self, variant: ProtocolVariant) -> bool:
        """Would a rollback leave it active? A baseline that replaced nobody is restored in place."""
        return self._runtime.baseline(variant.protocol) == variant.id and (
            self._replaced(variant) is None
        )

    def _replaced(self, variant: ProtocolVariant) -> ProtocolVariant | None:
        """The variant that this one's promotion deprecated, if it still waits to come back."""
        if variant.status != S.ACTIVE:
            return None
        replaced = (self._runtime.value("rollout", variant.id) or {}).get("replaced")
        back = self._runtime.variants.get(replaced["id"]) if replaced else None
        return None if back is None or back.status != S.DEPRECATED else back

    def _good(self, current: ProtocolVariant, deep: bool) -> tuple[Any, Strings]:
        """The newest proven point that is intact, and what was wrong with newer ones.

        In a rollout that is the one written before it, then older ones: a newer one may hold what is
        being judged.
        """
        values = [value for _, value in reversed(self._facts(current.id))]
        if current.status == S.ACTIVE:
            best = [v.get("proven") or v["manifest"]["point"]["pinned"] for v in values]
        else:
            first = (self._runtime.value("rollout", current.id) or {}).get("point")
            best = [v["manifest"]["point"]["id"] == first for v in values]
        candidates = values[best.index(True) :] if True in best else values
        skipped: Strings = []
        for value in candidates:
            try:
                self._check(value, deep=deep)
            except EmergenceError as error:
                if of_keys(error):
                    # The store does not answer, or a key is not there, which says nothing about the
                    # point: its manifest is in the index as well, and nobody is to be served harm
                    # until the store or the key is back.
                    log.warning(
                        "point %s is taken unread: %s", value["manifest"]["point"]["id"], error
                    )
                    return value, skipped
                skipped.append(str(error))
                log.error("point %s is passed over: %s", value["manifest"]["point"]["id"], error)
                continue
            return value, skipped
        return None, skipped

    def _changes(
        self,
        current: ProtocolVariant,
        value: Any,
        skipped: Strings,
        reason: str,
        blame: bool,
        evidence: Any,
    ) -> Sequence[Change]:
        runtime = self._runtime
        back = self._replaced(current)
        stays = self.stays(current)
        status = S.ACTIVE if stays else S.ROLLED_BACK
        lost = value is None and bool(skipped)
        safe = bool(runtime.value("safe_mode", current.protocol))
        shut = bool((runtime.value("breaker", current.id) or {}).get("state"))
        if stays and not shut and (safe if lost else value is None or self._is_at(current, value)):
            return ()  # nothing would be different
        changes: Changes = []
        if value is not None:
            changes.extend(self._content(current, value, status))
        elif not stays:
            changes.append(self._variants.moved(current, status))
        if back is not None:
            changes.append(self._variants.moved(back, S.ACTIVE))
            if runtime.baseline(current.protocol) == current.id:
                changes.append(Put("baseline", current.protocol, {"variant_id": back.id}))
        changes.extend(self.ended(current.id, reason, blame, evidence))
        if runtime.fact("breaker", current.id) is not None:
            changes.append(Put("breaker", current.id, {"state": None}))
        if blame and not stays:
            until = runtime.clock() + runtime.config.rollback.quarantine
            why = {"until": until, "reason": reason}
            if evidence is not None and "rule" in evidence:
                why["evidence"] = evidence
            changes.append(Put("quarantine", current.id, why))
        changes.append(outcome(runtime, current.id, "rolled_back" if blame else "aborted"))
        if lost and not safe:
            entered = {"since": runtime.clock(), "variant_id": current.id, "why": skipped}
            changes.append(Put("safe_mode", current.protocol, entered))
        return changes

    def _is_at(self, current: ProtocolVariant, value: Any) -> bool:
        """Does the variant hold a point's content and state already?"""
        changes = self._content(current, value, current.status)
        stored = variant_to_json(current)
        content = value["manifest"]["content"]
        return len(changes) == 1 and all(stored[name] == content[name] for name in CONTENT)

    # -- safe mode --------------------------------------------------------------------------------

    def leave_safe_mode(self, protocol: str = "default") -> ProtocolVariant:
        """Serve all active variants and rollouts of a protocol again; returns its baseline.

        Only with something good to fall back to: an active baseline whose state is intact, and an
        intact rollback point of it. TransitionError says what is missing.
        """
        runtime = self._runtime
        runtime.catch_up()
        if not runtime.value("safe_mode", protocol):
            raise TransitionError(f"protocol {protocol!r} is not in safe mode; nothing to leave")
        baseline = runtime.variants.get(runtime.baseline(protocol) or "")
        if baseline is None or baseline.status != S.ACTIVE:
            raise TransitionError(
                f"protocol {protocol!r} has no active baseline to fall back to; activate one, or name "
                f"it with variants.baseline({protocol!r}, variant)"
            )
        head = runtime.value("state", baseline.id)
        try:
            if head and head.get("ref"):
                self._states.check(baseline.id, head["version"])
        except CorruptError as error:
            raise TransitionError(
                f"the state of the baseline {baseline.id!r} is damaged ({error}); put it again with "
                f"states.put, or bring the store back from a backup"
            ) from error
        value, skipped = self._good(baseline, True)
        if value is None:
            why = "; ".join(skipped) or "it has none"
            raise TransitionError(
                f"no rollback point of the baseline {baseline.id!r} is intact ({why}); store one of "
                f"it as it is with points.create({baseline.id!r}, pinned=True)"
            )
        fact = runtime.fact("safe_mode", protocol)
        assert fact is not None
        runtime.commit([Put("safe_mode", protocol, {}, fact.version)], actor="leave safe mode")
        runtime.tell("safe_mode.left", baseline.id, protocol=protocol)
        log.warning("protocol %s left safe mode", protocol)
        runtime.settle()
        return runtime.variant(baseline)
