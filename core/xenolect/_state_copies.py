"""Objects that only repeat what the index says: mirrors and rollback points; damaged ones are rewritten."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from xenolect import _envelope
from xenolect._upkeep_report import Problem, problem_of
from xenolect.errors import CorruptError, NotFoundError
from xenolect.facts import canonical

if TYPE_CHECKING:
    from xenolect._state_objects import Objects
    from xenolect._state_versions import Versions
    from xenolect._states import Door

__all__ = ["Copies"]

_MAX = 256 * 1024 * 1024


class Copies:
    """``state/index.json`` and ``points/<seq>.json`` of every variant."""

    def __init__(self, door: Door, objects: Objects, versions: Versions) -> None:
        self._door = door
        self._objects = objects
        self._versions = versions

    def check(self, variant_id: str | None) -> Iterator[Problem]:
        """What is wrong with them. A missing or older mirror is only behind, which is no damage."""
        for (kind, key), fact in list(self._door.facts.items()):
            if fact.value is None:
                continue
            if kind == "state" and variant_id in (None, key):
                yield from self._mirror(key, int(fact.value["version"]))
            elif kind == "point" and variant_id in (None, key.rpartition("/")[0]):
                yield from self._point(key, fact.value["object"], fact.value["sha256"])

    def _mirror(self, owner: str, version: int) -> Iterator[Problem]:
        key = _mirror_key(owner)
        try:
            data = self._door.chunks.get(key)
        except NotFoundError:
            return
        try:
            self._objects.unseal(_envelope.MIRROR, key, data, owner, limit=_MAX)
            header, _ = _envelope.Header.decode(data, key)
            if header.sequence > version:
                self._door.catch_up()
                version = self._versions.head(owner).version
            if header.sequence > version:
                raise CorruptError(
                    f"{key} is of state version {header.sequence}, the index knows {version}: the index "
                    f"was replaced by an older one; `xenolect reindex` rebuilds it"
                )
        except CorruptError as error:
            yield problem_of(error, key, owner, version)

    def _point(self, name: str, key: str, sha256: str) -> Iterator[Problem]:
        owner, _, sequence = name.rpartition("/")
        try:
            data = self._door.chunks.get(key)
            content = self._objects.unseal(_envelope.POINT, key, data, owner, vouched=True)
            found = hashlib.sha256(content).hexdigest()
        except NotFoundError:
            fact = self._door.fact("point", name)
            if fact is not None and fact.value is not None and fact.value.get("later"):
                return  # behind, as after a process that died: whoever needs it writes it first
            yield Problem(key, None, sha256, None, f"{key} is missing", owner, int(sequence))
            return
        except CorruptError as error:
            yield attrs.evolve(problem_of(error, key, owner, int(sequence)), expected=sha256)
            return
        if found != sha256:
            what = f"{key} is not what was written"
            yield Problem(key, 0, sha256, found, what, owner, int(sequence))

    def holds(self, key: str) -> bool:
        """Is this one of them?"""
        return "/points/" in key or key.endswith("/state/index.json")

    def rewrite(self, problem: Problem) -> bool:
        """Write a damaged one again from the index; False where the index can not say what it was."""
        chunks = self._door.chunks
        if "/points/" in problem.key:
            fact = self._door.fact("point", f"{problem.variant_id}/{problem.version:08d}")
            if fact is None or fact.value is None:
                return False
            content = canonical(fact.value["manifest"]).encode()
            if hashlib.sha256(content).hexdigest() != problem.expected:
                return False
            data = self._objects.seal(
                _envelope.POINT, problem.key, content, problem.variant_id, problem.version
            )
            chunks.put(problem.key, data, if_absent=False)
            return True
        head = self._versions.head(problem.variant_id)
        if head.value is None or head.version < 1:
            return False
        chunks.delete(problem.key)
        table = self._versions.parent(problem.variant_id, head)
        self._objects.put_mirror(problem.variant_id, dict(head.value), table)
        return True


def _mirror_key(variant_id: str) -> str:
    return f"variants/{variant_id}/state/index.json"
