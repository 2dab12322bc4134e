"""States that were read whole and checked, kept in memory that nobody can write to any more.

A hit costs no check and no copy: what is kept is sealed by the system (on Linux against every process,
this one included; elsewhere the view is read-only). An entry is known by the digest of its version's
manifest, so a version made by a rollback, which shares the manifest, is a hit as well.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections import OrderedDict
from typing import Any

import attrs

from xenolect._kept import arena

__all__ = ["Cache", "CacheStatus", "Room"]

Key = tuple[str, str]  # variant id, SHA-256 of the manifest's object


@attrs.frozen
class CacheStatus:
    """The cache in numbers: bytes and states kept, and how often a state was there."""

    limit: int
    bytes: int
    states: int
    hits: int
    misses: int

    @property
    def hit_rate(self) -> float | None:
        """Hits of all looks; None before the first."""
        looks = self.hits + self.misses
        return self.hits / looks if looks else None

    def row(self) -> dict[str, Any]:
        """For ``status``."""
        return {**attrs.asdict(self), "hit_rate": self.hit_rate}


class Room:
    """Memory for one state: written once, then sealed."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._file = _memory_file(size)
        self._map = self._mapped(size)
        self.view = memoryview(self._map)

    def _mapped(self, size: int) -> mmap.mmap:
        if self._file is not None:
            try:
                return mmap.mmap(self._file, size)
            except OSError:  # it needs a descriptor more
                os.close(self._file)
                self._file = None
        return arena(size)

    def seal(self) -> memoryview:
        """The same bytes, read-only from now on."""
        self.view.release()
        if self._file is None:
            return memoryview(self._map).toreadonly()
        file, self._file = self._file, None
        try:
            self._map.close()
        except BufferError:  # some traceback still holds a part of it
            os.close(file)
            return memoryview(self._map).toreadonly()
        try:
            try:
                _seal(file)
                return memoryview(mmap.mmap(file, self._size, prot=mmap.PROT_READ))
            except OSError:
                return memoryview(_copied(file, self._size)).toreadonly()
        finally:
            os.close(file)

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]


def _copied(file: int, size: int) -> mmap.mmap:
    """What a file in memory holds, where it can not be mapped a second time."""
    room = arena(size)
    at = 0
    with memoryview(room) as view:
        while at < size and (count := os.preadv(file, [view[at:]], at)):
            at += count
    return room


class Cache:
    """At most ``limit`` bytes of states; the one not used for longest goes first. Safe for threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, memoryview] = OrderedDict()
        self._bytes = 0
        self._hits = 0
        self._misses = 0

    def after_fork(self) -> None:
        """The lock belongs to the parent's threads; what is kept is good for both."""
        self._lock = threading.Lock()

    def fits(self, size: int) -> bool:
        """Is a state of this size kept at all?"""
        return 0 < size <= self._limit

    def find(self, key: Key, size: int) -> memoryview | None:
        """A state's bytes, read-only."""
        if not self.fits(size):
            return None
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._kept.move_to_end(key)
            return found

    def keep(self, key: Key, room: Room) -> memoryview:
        """Seal what was read and checked, and keep it."""
        view = room.seal()
        with self._lock:
            old = self._kept.pop(key, None)
            self._bytes += len(view) - (len(old) if old is not None else 0)
            self._kept[key] = view
            while self._bytes > self._limit:
                _, gone = self._kept.popitem(last=False)
                self._bytes -= len(gone)
        return view

    def clear(self, variant_id: str | None = None) -> int:
        """Let go of a variant's states, or of all; how many bytes. Views handed out stay good."""
        with self._lock:
            gone = [key for key in self._kept if variant_id in (None, key[0])]
            freed = sum(len(self._kept.pop(key)) for key in gone)
            self._bytes -= freed
        return freed

    def status(self) -> CacheStatus:
        """As of now."""
        with self._lock:
            return CacheStatus(self._limit, self._bytes, len(self._kept), self._hits, self._misses)


# memfd is Linux's; each is imported where it is called.

if sys.platform == "linux":

    def _memory_file(size: int) -> int | None:
        try:
            file = os.memfd_create("xenolect-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return None
        try:
            os.ftruncate(file, size)
        except OSError:
            os.close(file)
            return None
        return file

    def _seal(file: int) -> None:
        import fcntl

        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)

else:

    def _memory_file(size: int) -> int | None:
        return None

    def _seal(file: int) -> None:
        return None
