"""A patch of a byte state: which bytes go where, chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import attrs

from xenolect.errors import InvalidError

__all__ = ["Patch", "Touch"]


@attrs.frozen
class Touch:
    """What happens to one chunk: ``(start within the chunk, bytes)``, ascending."""

    parts: list[tuple[int, memoryview]] = attrs.field(factory=list)

    def covers(self, length: int) -> bool:
        """Are the first ``length`` bytes all overwritten?"""
        reach = 0
        for start, part in self.parts:
            if start > reach:
                return False
            reach = start + len(part)
        return reach >= length

    def apply(self, chunk: bytearray) -> None:
        """Overwrite."""
        for start, part in self.parts:
            chunk[start : start + len(part)] = part


@attrs.frozen
class Patch:
    """Parts in ascending order that do not overlap."""

    parts: tuple[tuple[int, memoryview], ...]

    @classmethod
    def of(cls, changes: Mapping[int, Any]) -> Patch:
        """From ``{offset: bytes}``; InvalidError for what is not that, and for overlaps."""
        if not isinstance(changes, Mapping):
            raise InvalidError(
                f"a patch is a mapping of offsets to bytes, got {type(changes).__name__}"
            )
        parts = []
        for offset, data in changes.items():
            if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
                raise InvalidError(f"the offset {offset!r} is no whole number of bytes >= 0")
            try:
                view = memoryview(data)
            except TypeError as cause:
                raise InvalidError(
                    f"the patch at {offset} is {type(data).__name__}; give bytes"
                ) from cause
            parts.append((offset, memoryview(view.tobytes())))  # ours: it is digested, then stored
        parts.sort(key=lambda part: part[0])
        for (first, data), (second, _) in pairwise(parts):
            if first + len(data) > second:
                raise InvalidError(
                    f"the patch at {first} reaches over the one at {second}; which should win? Give "
                    f"parts that do not overlap"
                )
        return cls(tuple(part for part in parts if len(part[1])))

    def size_after(self, size: int) -> int:
        """The state's size after the patch; InvalidError if that left a gap."""
        for offset, data in self.parts:
            if offset > size:
                raise InvalidError(
                    f"a patch at {offset} leaves a gap behind the end at {size}; fill it with bytes of "
                    f"your choice"
                )
            size = max(size, offset + len(data))
        return size

    def by_chunk(self, chunk_size: int) -> dict[int, Touch]:
        """Position -> what happens to that chunk."""
        touched: dict[int, Touch] = {}
        for offset, data in self.parts:
            done = 0
            while done < len(data):
                position, start = divmod(offset + done, chunk_size)
                part = data[done : done + chunk_size - start]
                touched.setdefault(position, Touch()).parts.append((start, part))
                done += len(part)
        return touched
