"""Rollback points as they are kept: written, verified, listed, pruned.

A point is an immutable, sealed manifest object and a fact with its content and digest. Pinned are those an operator pinned,
the one that a running rollout would go back to, and the last one proved good; they are never pruned.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs

from xenolect._codec import moment, point_from_json, point_to_json, variant_to_json
from xenolect._envelope import POINT
from xenolect._runtime import Runtime
from xenolect._states import States
from xenolect._validate import check_name
from xenolect._variant_content import CONTENT
from xenolect._variants import Variants
from xenolect.errors import (
    ConflictError,
    CorruptError,
    DuplicateError,
    EmergenceError,
    NotFoundError,
    PointNotFoundError,
)
from xenolect.facts import Change, Drop, Put, canonical
from xenolect.model import ProtocolVariant, RollbackPoint

__all__ = ["Kept", "Stored"]

log = logging.getLogger("xenolect.safeguards")
Changes = list[Change]
PointList = list[RollbackPoint]
Stored = list[tuple[str, Any]]
HOUR = 3600.0
DEEP = 8 * 1024 * 1024  # up to this size a rollback re-reads the whole state, above it the manifest


class Kept:
    """The points of all variants."""

    def __init__(self, runtime: Runtime, variants: Variants, states: States) -> None:
        self._runtime = runtime
        self._variants = variants
        self._states = states
        self._by_variant: dict[str, dict[int, Any]] = {}  # None: the number was used and is gone
        self._skip: dict[str, int] = {}  # numbers whose objects nobody refers to
        self._gone: list[str] = []  # objects of points that were pruned
        self._retired_at = float("-inf")
        runtime.appliers["point"] = self._apply
        variants.proven = self.proven

    def _apply(self, key: str, value: Any, version: int, at_open: bool) -> None:
        variant_id, _, sequence = key.rpartition("/")
        self._by_variant.setdefault(variant_id, {})[int(sequence)] = value
        if value is None and not at_open:
            self._gone.append(f"variants/{variant_id}/points/{sequence}.json")

    # -- creating ---------------------------------------------------------------------------------

    def create(self, variant: Any, reason: str = "", *, pinned: bool = False) -> RollbackPoint:
        """Store a point of the variant as it is now; verified before it is returned."""
        current = self._runtime.variant(variant)
        point, change = self.write(current, reason, pinned=pinned)
        self._runtime.commit([change, *self.prune(current.id)])
        self._sweep()
        self._runtime.tell("point.created", current.id, point=point.id, reason=reason)
        self._runtime.settle()
        return point

    def proven(self, variant: ProtocolVariant, reason: str) -> Sequence[Change]:
        """The changes that keep a variant as it is as its last proven one; none where its state is
        damaged, which must not stop an operator."""
        try:
            _, change = self.write(variant, reason, proven=True)
        except CorruptError as error:
            log.error(
                "no point of %s is kept (%s): %s",
                variant.id,
                reason,
                error,
                extra={"variant_id": variant.id},
            )
            return ()
        return [change, *self.prune(variant.id)]

    def write(
        self,
        variant: ProtocolVariant,
        reason: str,
        *,
        pinned: bool = False,
        proven: bool = False,
        later: bool = False,
    ) -> tuple[RollbackPoint, Put]:
        """Write and verify a point's manifest; the change that makes it true is not yet committed.

        ``later``: only the state is verified. The index has all that the object says, which
        ``complete`` writes after the commit; making a file durable takes longer than the commit does.
        """
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
            stored = variant_to_json(variant)
            manifest = {
                "format": 2,
                "point": point_to_json(point),
                "content": {name: stored[name] for name in CONTENT},
                "status": str(variant.status),
                "variant_version": variant.version,
                "state": head and head.get("ref"),
                "routing": {
                    "baseline": runtime.baseline(variant.protocol),
                    "control": rollout.get("control_id"),
                },
                "config": runtime.config_digest,
            }
            content = canonical(manifest).encode()
            name = f"variants/{variant.id}/points/{sequence:08d}.json"
            if not later and not self._written(name, key, content, sequence):
                continue
            if head and head.get("ref"):
                self._states.check(variant.id, head["version"])
            value: dict[str, Any] = {
                "manifest": manifest,
                "object": name,
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            if proven:
                value["proven"] = True
            if later:
                value["later"] = True
            return point, Put("point", key, value, 0)
        raise ConflictError(f"no free point number was found for variant {variant.id!r}; try again")

    def _written(self, name: str, key: str, content: bytes, sequence: int) -> bool:
        """Store a point's object and read it back; False where that number is not free."""
        runtime = self._runtime
        variant_id = key.rpartition("/")[0]
        data = self._states.objects.seal(POINT, name, content, variant_id, sequence)
        try:
            runtime.chunks.put(name, data)
        except DuplicateError:
            taken = runtime.fact("point", key) is not None
            if taken or runtime.chunks.get(name) != data:
                if not taken:  # an orphan of a process that died, or another process
                    self._skip[variant_id] = sequence
                    runtime.catch_up()
                return False
        if runtime.chunks.get(name) != data:
            raise CorruptError(f"{name} was read back different from what was written", key=name)
        return True

    def complete(self, key: str) -> None:
        """Store the object of a point that was committed without it, unless it is there."""
        value = self._runtime.value("point", key)
        if value is None:
            return
        owner, _, sequence = key.rpartition("/")
        content = canonical(value["manifest"]).encode()
        name = value["object"]
        data = self._states.objects.seal(POINT, name, content, owner, int(sequence))
        try:
            self._runtime.chunks.put(name, data)
        except DuplicateError:
            try:
                self._read(value)
            except CorruptError:  # left behind by a process that died: the number is this point's
                self._runtime.chunks.put(name, data, if_absent=False)

    def _next(self, variant_id: str) -> int:
        used = list(self._by_variant.get(variant_id, ()))
        return max([self._skip.get(variant_id, 0), *used], default=0) + 1

    # -- pruning ----------------------------------------------------------------------------------

    def prune(self, variant_id: str, coming: int = 1) -> Changes:
        """What must go, by number or age, when ``coming`` more points are kept."""
        rules = self._runtime.config.rollback
        points = self._facts(variant_id)
        pins = self._pins(variant_id)
        oldest = self._runtime.clock() - rules.retention
        loose = [(key, value) for key, value in points if _id(value) not in pins]
        excess = max(0, len(points) + coming - rules.max_points)
        return [
            Drop("point", key)
            for i, (key, value) in enumerate(loose)
            if i < excess
            or point_from_json(value["manifest"]["point"]).created_at.timestamp() < oldest
        ]

    def retire(self, now: float) -> None:
        """Let go of points that are too old, and of their objects; looks once an hour."""
        if now - self._retired_at < HOUR:
            return
        self._retired_at = now
        for variant_id in list(self._by_variant):
            if self.prune(variant_id, 0):
                self._runtime.commit_retrying(partial(self.prune, variant_id, 0), actor="retention")
        self._sweep()

    def _pins(self, variant_id: str) -> set[str]:
        """The points that are never pruned."""
        points = [value for _, value in self._facts(variant_id)]
        pins = {_id(value) for value in points if value["manifest"]["point"]["pinned"]}
        rollout = self._runtime.value("rollout", variant_id) or {}
        pins.add(str(rollout.get("point")))
        pins.update([_id(value) for value in points if value.get("proven")][-1:])
        return pins

    def _sweep(self) -> None:
        """Remove the objects of points that went, best effort: the facts are what counts."""
        while self._gone:
            with contextlib.suppress(EmergenceError, IndexError):
                self._runtime.chunks.delete(self._gone.pop())

    # -- reading ----------------------------------------------------------------------------------

    def _facts(self, variant_id: str) -> Stored:
        return [
            (f"{variant_id}/{sequence:08d}", value)
            for sequence, value in sorted(self._by_variant.get(variant_id, {}).copy().items())
            if value is not None
        ]

    def list(self, variant: Any) -> PointList:
        """The variant's points, oldest first; ``pinned`` are those that are not pruned now."""
        variant_id = self._runtime.variant(variant).id
        pins = self._pins(variant_id)
        return [
            attrs.evolve(point_from_json(value["manifest"]["point"]), pinned=_id(value) in pins)
            for _, value in self._facts(variant_id)
        ]

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
        try:
            self._read(value)
        except (NotFoundError, _AnotherPoint) as cause:
            if not value.get("later"):
                if isinstance(cause, _AnotherPoint):
                    raise
                raise CorruptError(f"{value['object']} is missing", key=value["object"]) from cause
            self.complete(value["object"].removeprefix("variants/").replace("/points/", "/")[:-5])
            self._read(value)
        state = value["manifest"]["state"]
        if state is not None:
            whole = deep or state["size"] <= DEEP
            self._states.check(state["variant_id"], state["version"], deep=whole)

    def _read(self, value: Any) -> None:
        """Hold a point's object against the index; NotFoundError, CorruptError."""
        name = value["object"]
        data = self._runtime.chunks.get(name)
        owner = value["manifest"]["point"]["variant_id"]
        content = self._states.objects.unseal(POINT, name, data, owner, vouched=True)
        found = hashlib.sha256(content).hexdigest()
        if found != value["sha256"] or canonical(value["manifest"]).encode() != content:
            raise _AnotherPoint(
                f"{name} is not what was written",
                key=name,
                expected=value["sha256"],
                found=found,
            )


class _AnotherPoint(CorruptError):
    """An intact object, but of a point that never came true: who wrote it died, or was refused."""


def _id(value: Any) -> str:
    return str(value["manifest"]["point"]["id"])
