"""The reading half of ``manager.states``: whole, lazily, or into a buffer, always checked."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from xenolect._codec import state_ref_from_json
from xenolect._kept import arena
from xenolect._state_cache import Cache, CacheStatus, Room
from xenolect._state_reader import StateReader
from xenolect.errors import InvalidError

if TYPE_CHECKING:
    from xenolect._manifest import Content
    from xenolect._state_objects import Objects
    from xenolect._state_versions import Versions
    from xenolect._state_workers import Workers
    from xenolect._states import Door
    from xenolect._upload import Progress
    from xenolect.model import StateRef

__all__ = ["ReadReport", "Reading"]


@attrs.frozen
class ReadReport:
    """What ``read_into`` read and how it was checked.

    ``sha256``: chunks whose SHA-256 was computed; ``tag``: chunks whose cipher's tag, bound to the
    SHA-256, was checked.
    """

    ref: StateRef
    bytes: int
    sha256: int
    tag: int


class Reading:
    """What reads states; part of ``States``."""

    _door: Door
    _objects: Objects
    _versions: Versions
    _workers: Workers
    _cache: Cache
    _lock: threading.RLock
    _enter: Callable[[Any], str]
    _migrated: Callable[[StateRef, Any], Any]

    def get(self, variant: Any, version: int | None = None, progress: Progress = None) -> Any:
        """The state as it was put (a file's as bytes), every chunk's SHA-256 checked.

        JSON comes back normalised: tuples as lists. An older schema is brought up to date by the known
        migrations; what is stored stays as it is. StateNotFoundError, CorruptError.
        """
        ref, content = self._versions.located(self._enter(variant), version)
        held = self._cache.find(_key(content), ref.size)
        if held is None:
            held = self._whole(content, progress)
        # The copy to bytes costs 0.1 s per GiB; read_into and open(...).raw.getbuffer() save it.
        value = json.loads(bytes(held)) if ref.kind == "json" else bytes(held)
        return self._migrated(ref, value)

    def open(self, variant: Any, version: int | None = None) -> io.BufferedReader:
        """A seekable binary reader that opens without reading chunks and checks each before its first
        byte is seen. JSON is read as its text. ``reader.raw.ref`` is the StateRef, and
        ``reader.raw.getbuffer()`` all bytes as a read-only view: from the verified cache without a copy."""
        variant_id = self._enter(variant)
        ref, content = self._versions.located(variant_id, version)

        def fill(position: int, target: memoryview) -> None:
            self._fill(content, position, target)

        held = self._cache.find(_key(content), ref.size)
        reader = StateReader(ref, content, fill, lambda: self._whole(content, None), held)
        return io.BufferedReader(reader, 64 * 1024)

    def read_into(
        self,
        variant: Any,
        buffer: Any,
        verify: str = "sha256",
        version: int | None = None,
        progress: Progress = None,
    ) -> ReadReport:
        """Read a whole state into a writable buffer; the report says how it was checked.

        verify: "sha256" computes the SHA-256 of every chunk; "tag" relies on the cipher's tag, to which
        the SHA-256 is bound, and so needs a cipher. InvalidError, CorruptError.
        """
        variant_id = self._enter(variant)
        if verify not in ("sha256", "tag"):
            raise InvalidError(f"verify must be 'sha256' or 'tag', got {verify!r}")
        if verify == "tag" and self._door.cipher.id == "none":
            raise InvalidError(
                "verify='tag' needs a cipher: without one nothing but the SHA-256 tells whether a chunk "
                "is what was written; use verify='sha256', or configure [cipher]"
            )
        ref, content = self._versions.located(variant_id, version)
        try:
            target = memoryview(buffer).cast("B")
        except TypeError as error:
            raise InvalidError(
                f"{type(buffer).__name__} is no buffer in one piece: {error}"
            ) from error
        if target.readonly or len(target) < ref.size:
            raise InvalidError(
                f"the state has {ref.size} bytes, the buffer is "
                f"{'read-only' if target.readonly else f'{len(target)} bytes long'}; give a writable one "
                f"that is long enough, as bytearray(ref.size)"
            )
        hashed = self._read(content, target[: ref.size], verify == "tag", progress)
        return ReadReport(ref, ref.size, hashed, ref.chunks - hashed)

    def versions(self, variant: Any) -> list[StateRef]:
        """Every version of the state, oldest first."""
        variant_id = self._enter(variant)
        found = []
        for version in range(1, self._versions.head(variant_id).version + 1):
            value = self._versions.version(variant_id, version)
            if value is not None and value.get("manifest"):
                found.append(state_ref_from_json(value))
        return found

    # -- the verified cache -----------------------------------------------------------------------

    def cache(self) -> CacheStatus:
        """What the verified cache holds (at most ``state.cache_size``) and how often it was of use."""
        return self._cache.status()

    def clear_cache(self, variant: Any = None) -> int:
        """Let go of what the verified cache holds of a variant, or of all; how many bytes that was."""
        return self._cache.clear(None if variant is None else self._enter(variant))

    def _whole(self, content: Content, progress: Progress) -> memoryview:
        """All bytes, checked and read-only; kept where they fit into the cache."""
        size = content.manifest.size
        if not size:
            return memoryview(b"")
        if not self._cache.fits(size):
            held = memoryview(arena(size))
            self._read(content, held, False, progress)
            return held.toreadonly()
        room = Room(size)
        self._read(content, room.view, False, progress)
        return self._cache.keep(_key(content), room)

    # -- work in parallel -------------------------------------------------------------------------

    def _fill(self, content: Content, position: int, target: memoryview, tag: bool = False) -> bool:
        return self._objects.get_chunk(
            content.manifest.variant_id, position, content.table[position], target, tag=tag
        )

    def _read(self, content: Content, target: memoryview, tag: bool, progress: Progress) -> int:
        """Fill the target with all chunks; how many were hashed."""
        size = content.manifest.chunk_size
        hashed = done = 0

        def fill(position: int) -> None:
            nonlocal hashed, done
            start, length = position * size, content.plain(position)
            by_hash = self._fill(content, position, target[start : start + length], tag)
            with self._lock:
                hashed += by_hash
                done += length
                if progress is not None:
                    progress(done, len(target))

        self._workers.each(fill, list(range(len(content.table))))
        return hashed


def _key(content: Content) -> tuple[str, str]:
    return content.manifest.variant_id, content.link.sha256
