"""Rollback: points that hold content, state, routing and configuration; restoring is one commit.

A point is an immutable manifest object and a fact with its digest. Restoring writes metadata only:
the content of the point, a state version that says "same as n", the status, the routing and the
breaker, all in one ``commit``; readers see all of the old or all of the new.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from xenolect._breakers import Breakers
from xenolect._codec import moment, point_from_json, point_to_json, variant_to_json
from xenolect._runtime import Runtime
from xenolect._states import States
from xenolect._validate import check_name
from xenolect._variants import CONTENT, Variants
from xenolect.errors import (
    ConflictError,
    CorruptError,
    DuplicateError,
    EmergenceError,
    NotFoundError,
    PointNotFoundError,
    TransitionError,
)
from xenolect.facts import Change, Drop, Put, canonical
from xenolect.model import ProtocolVariant, RollbackPoint, VariantStatus

__all__ = ["Points"]

log = logging.getLogger("xenolect.safeguards")
S = VariantStatus
Changes = list[Change]
PointList = list[RollbackPoint]
Stored = list[tuple[str, Any]]
Strings = list[str]
DEEP = 8 * 1024 * 1024  # up to this size a restore re-reads the whole state, above it the manifest


class Points:
    """``manager.points``, and the rollback that every safeguard asks for."""

    def __init__(
        self, runtime: Runtime, variants: Variants, states: States, breakers: Breakers
    ) -> None:
        self._runtime = runtime
        self._variants = variants
        self._states = states
        self._breakers = breakers
        # set by the manager: the rollout's share of the one commit
        self.ended: Callable[[str, str, bool, Any], Sequence[Change]] = lambda *_: ()
        self.shut: Callable[[str], None] = lambda _: None

    # -- creating ---------------------------------------------------------------------------------

    def create(self, variant: Any, reason: str = "", *, pinned: bool = False) -> RollbackPoint:
        """Store a point of the variant as it is now; verified before it is returned."""
        current = self._runtime.variant(variant)
        point, change = self.write(current, reason, pinned=pinned)
        self._runtime.commit([change, *self._prune(current.id)])
        self._runtime.tell("point.created", current.id, point=point.id, reason=reason)
        self._runtime.settle()
        return point

    def write(
        self, variant: ProtocolVariant, reason: str, *, pinned: bool
    ) -> tuple[RollbackPoint, Put]:
        """Write and verify a point's manifest; the change that makes it true is not yet committed."""
        runtime = self._runtime
        if reason:
            check_name(reason, "reason")
        for _ in range(100):
            sequence = self._next(variant.id)
            key = f"{variant.id}/{sequence:08d}"
            point = RollbackPoint(
                f"{variant.id}@{sequence}",
                variant.id,
                moment(runtime.clock()),
                reason,
                pinned,
                True,
            )
            head = runtime.value("state", variant.id)
            rollout = runtime.value("rollout", variant.id) or {}
            manifest = {
                "format": 2,
                "point": point_to_json(point),
                "content": {name: variant_to_json(variant)[name] for name in CONTENT},
                "status": str(variant.status),
                "variant_version": variant.version,
                "state": head and head.get("ref"),
                "routing": {
                    "baseline": runtime.baseline(variant.protocol),
                    "control": rollout.get("control_id"),
                },
                "config": runtime.config.digest(),
            }
            data = canonical(manifest).encode()
            name = f"variants/{variant.id}/points/{sequence:08d}.json"
            try:
                runtime.chunks.put(name, data)
            except DuplicateError:
                if runtime.fact("point", key) is None and runtime.chunks.get(name) != data:
                    self._skip = sequence  # an orphan of a process that died, or another process
                    runtime.catch_up()
                continue
            if runtime.chunks.get(name) != data:
                raise CorruptError(
                    f"{name} was read back different from what was written", key=name
                )
            if head and head.get("ref"):
                self._states.check(variant.id, head["version"])
            value = {
                "manifest": manifest,
                "object": name,
                "sha256": hashlib.sha256(data).hexdigest(),
            }
            return point, Put("point", key, value, 0)
        raise ConflictError(f"no free point number was found for variant {variant.id!r}; try again")

    _skip = 0

    def _next(self, variant_id: str) -> int:
        prefix = f"{variant_id}/"
        used = [
            int(key.rsplit("/", 1)[1])
            for kind, key in list(self._runtime.facts)
            if kind == "point" and key.startswith(prefix)
        ]
        return max([self._skip, *used], default=0) + 1

    def _prune(self, variant_id: str) -> Changes:
        """Points over the limit of number or age; pinned ones and the newest are never among them."""
        rules = self._runtime.config.rollback
        points = self._facts(variant_id)
        oldest = self._runtime.clock() - rules.retention
        loose = [
            (key, value)
            for key, value in points[:-1]
            if not value["manifest"]["point"]["pinned"] and not self._referenced(variant_id, value)
        ]
        excess = max(0, len(points) + 1 - rules.max_points)
        return [
            Drop("point", key)
            for i, (key, value) in enumerate(loose)
            if i < excess
            or point_from_json(value["manifest"]["point"]).created_at.timestamp() < oldest
        ]

    def _referenced(self, variant_id: str, value: Any) -> bool:
        rollout = self._runtime.value("rollout", variant_id) or {}
        return bool(rollout.get("point") == value["manifest"]["point"]["id"])

    # -- reading ----------------------------------------------------------------------------------

    def _facts(self, variant_id: str) -> Stored:
        prefix = f"{variant_id}/"
        return sorted(
            (key, fact.value)
            for (kind, key), fact in list(self._runtime.facts.items())
            if kind == "point" and key.startswith(prefix) and fact.value is not None
        )

    def list(self, variant: Any) -> PointList:
        """The variant's points, oldest first."""
        variant_id = self._runtime.variant(variant).id
        return [point_from_json(value["manifest"]["point"]) for _, value in self._facts(variant_id)]

    def _find(self, point: Any) -> tuple[str, Any]:
        point_id = point if isinstance(point, str) else str(point.id)
        variant_id, _, sequence = point_id.rpartition("@")
        if sequence.isdigit():
            key = f"{variant_id}/{int(sequence):08d}"
            value = self._runtime.value("point", key)
            if value is not None:
                return key, value
        raise PointNotFoundError(
            f"there is no rollback point {point_id!r}; points.list(variant) names those kept"
        )

    def verify(self, point: Any) -> RollbackPoint:
        """Read the point's manifest and state back; CorruptError names what is not as written."""
        _, value = self._find(point)
        self._check(value, deep=True)
        return point_from_json(value["manifest"]["point"])

    def _check(self, value: Any, *, deep: bool) -> None:
        name = value["object"]
        try:
            data = self._runtime.chunks.get(name)
        except NotFoundError as cause:
            raise CorruptError(f"{name} is missing", key=name) from cause
        found = hashlib.sha256(data).hexdigest()
        if found != value["sha256"] or canonical(value["manifest"]).encode() != data:
            raise CorruptError(
                f"{name} is not what was written",
                key=name,
                expected=value["sha256"],
                found=found,
            )
        state = value["manifest"]["state"]
        if state is not None and (deep or state["size"] <= DEEP):
            self._states.check(state["variant_id"], state["version"])

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
    ) -> ProtocolVariant:
        """Take a variant back to its last proven point, whole, in one commit; again is no harm.

        Rolling back wins over whatever else changes the variant meanwhile. Where every point is
        corrupt the protocol goes to its baseline only (safe mode) and CorruptError says so.
        """
        runtime = self._runtime
        current = runtime.variant(variant)
        if current.status not in (S.CANARY, S.PAUSED, S.ACTIVE):
            if current.status == S.ROLLED_BACK:
                return current
            raise TransitionError(
                f"variant {current.id!r} is {current.status}: nobody is served by it, so there is "
                f"nothing to roll back; points.restore(id) puts older content back"
            )
        self.shut(current.id)
        value, skipped = self._good(current)
        if value is None and skipped:
            runtime.commit(
                [Put("safe_mode", current.protocol, {"since": runtime.clock(), "why": skipped})],
                actor="safe mode",
            )
            runtime.tell("safe_mode.entered", current.id, why=skipped)
            runtime.settle()
            raise CorruptError(
                f"no rollback point of {current.id!r} is intact ({'; '.join(skipped)}); protocol "
                f"{current.protocol!r} serves only its baseline until an operator repairs it"
            )

        def build() -> Sequence[Change]:
            now = runtime.variant(current.id)
            if now.status not in (S.CANARY, S.PAUSED, S.ACTIVE):
                return ()
            return self._changes(now, value, reason, blame, evidence)

        before = runtime.revision
        with runtime._flush_lock:
            windows, observations = runtime.performance.take()
            try:
                for _ in range(50):
                    with runtime.lock:
                        runtime.catch_up()
                        changes = build()
                        if not changes:
                            break
                        try:
                            runtime.commit(
                                changes,
                                actor=actor or "rollback",
                                observations=observations,
                                after=runtime.revision,
                            )
                            observations = []
                            break
                        except ConflictError:
                            continue
            finally:
                runtime.performance.give_back(windows, observations)
        after = runtime.variant(current.id)
        if runtime.revision != before:
            self._breakers.forget(current.id)
            if blame:
                runtime.performance.incident(current.id, failed=10.0)
            runtime.tell("variant.rolled_back", current.id, reason=reason, skipped=skipped)
            log.info("variant %s is rolled back: %s", current.id, reason)
        return after

    def _good(self, current: ProtocolVariant) -> tuple[Any, Strings]:
        """The newest proven point that is intact, and what was wrong with newer ones."""
        rollout = self._runtime.value("rollout", current.id) or {}
        points = self._facts(current.id)
        first = rollout.get("point")
        candidates = [v for _, v in points if v["manifest"]["point"]["id"] == first]
        if current.status == S.ACTIVE:
            pinned = [v for _, v in points if v["manifest"]["point"]["pinned"]]
            candidates = pinned[::-1]
        seen = {v["manifest"]["point"]["id"] for v in candidates}
        candidates += [v for _, v in reversed(points) if v["manifest"]["point"]["id"] not in seen]
        skipped: Strings = []
        for value in candidates:
            try:
                self._check(value, deep=False)
            except EmergenceError as error:
                skipped.append(str(error))
                log.error("point %s is passed over: %s", value["manifest"]["point"]["id"], error)
                continue
            return value, skipped
        return None, skipped

    def _changes(
        self, current: ProtocolVariant, value: Any, reason: str, blame: bool, evidence: Any
    ) -> Changes:
        runtime = self._runtime
        rollout = runtime.value("rollout", current.id) or {}
        replaced = rollout.get("replaced") if current.status == S.ACTIVE else None
        baseline = runtime.baseline(current.protocol) == current.id
        back = runtime.variants.get(replaced["id"]) if replaced else None
        if back is not None and back.status != S.DEPRECATED:
            back = None
        stays = baseline and back is None
        status = S.ACTIVE if stays else S.ROLLED_BACK
        if value is not None:
            changes = self._content(current, value, status)
        else:
            changes = [self._variants.moved(current, status)]
        if back is not None and replaced is not None:
            changes.append(self._variants.moved(back, S.ACTIVE))
            if replaced["baseline"]:
                changes.append(Put("baseline", current.protocol, {"variant_id": back.id}))
        changes.extend(self.ended(current.id, reason, blame, evidence))
        if runtime.fact("breaker", current.id) is not None:
            changes.append(Put("breaker", current.id, {"state": None}))
        if blame and not stays:
            until = runtime.clock() + runtime.config.rollback.quarantine
            changes.append(Put("quarantine", current.id, {"until": until, "reason": reason}))
        return changes
