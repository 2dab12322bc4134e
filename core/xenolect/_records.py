"""``metadata.json`` of each variant: a sealed mirror of its newest record. Best effort, never backwards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from xenolect import _envelope
from xenolect._manifest import FORMAT
from xenolect._upkeep_report import Problem, problem_of
from xenolect.errors import CorruptError, NotFoundError
from xenolect.facts import Fact, canonical

if TYPE_CHECKING:
    from xenolect._state_objects import Objects

__all__ = ["Records"]


class Records:
    """Writes and checks them. ``facts`` are those in memory."""

    def __init__(self, facts: Mapping[tuple[str, str], Fact], objects: Objects) -> None:
        self._facts = facts
        self._objects = objects

    def write(self, variant_id: str) -> None:
        """Write one variant's, unless a newer one is there."""
        fact = self._facts.get(("variant", variant_id))
        if fact is None or fact.value is None:
            return
        key = _key(variant_id)
        try:
            start = self._objects.chunks.get_range(key, 0, _envelope.HEADER_MAX)
            if _envelope.Header.decode(start, key)[0].sequence >= fact.version:
                return
        except (NotFoundError, CorruptError):
            pass
        document = {
            "format": FORMAT,
            "variant": variant_id,
            "version": fact.version,
            "record": fact.value,
        }
        plain = canonical(document).encode()
        # For the store and not the variant: shredding a variant's states leaves what it is.
        data = self._objects.seal(_envelope.MIRROR, key, plain, sequence=fact.version)
        self._objects.chunks.put(key, data, if_absent=False)

    def read(self, variant_id: str) -> tuple[int, Any]:
        """The version and the record; NotFoundError, CorruptError."""
        key = _key(variant_id)
        header, plain = self._objects.get_record(_envelope.MIRROR, key)
        try:
            found = json.loads(plain)
            version, record = found["version"], found["record"]
            owner = found["variant"]
        except (ValueError, TypeError, LookupError) as cause:
            raise CorruptError(f"{key} is no record: {cause!r}", key=key, offset=0) from cause
        if owner != variant_id or header.sequence != version:
            raise CorruptError(f"{key} is of {owner!r}: objects were swapped", key=key)
        return version, record

    def check(self, variant_id: str | None) -> Iterator[Problem]:
        """What is damaged, or newer than the index. A missing or older one is only behind."""
        for (kind, owner), fact in list(self._facts.items()):
            if kind != "variant" or fact.value is None or variant_id not in (None, owner):
                continue
            try:
                version, record = self.read(owner)
                # Read again: somebody may have committed and mirrored meanwhile.
                now = self._facts[kind, owner]
                if version == now.version and record != now.value:
                    raise CorruptError(f"{_key(owner)} is not what the index says", key=_key(owner))
            except NotFoundError:
                continue
            except CorruptError as error:
                yield problem_of(error, _key(owner), owner, fact.version)

    def holds(self, key: str) -> bool:
        """Is this one of them?"""
        return key.endswith("/metadata.json")

    def rewrite(self, problem: Problem) -> bool:
        """Write a damaged one again."""
        self._objects.chunks.delete(problem.key)
        self.write(problem.variant_id)
        return True


def _key(variant_id: str) -> str:
    return f"variants/{variant_id}/metadata.json"
