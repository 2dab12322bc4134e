"""What a put is given, cut into chunks: buffers, binary files, JSON values.

Nothing here holds more than a chunk and what was read ahead for it, so a stream's size is bounded by
the disk and not by memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Protocol

from xenolect._json_text import text_pieces
from xenolect.errors import ConflictError, InvalidError, StorageError

__all__ = ["Ring", "Source", "source_of"]

_READS_INTO = (io.BytesIO, io.FileIO, io.BufferedReader, io.BufferedRandom)
"""Not their subclasses, which may have a ``read`` of their own."""


class Ring:
    """As many buffers as chunks are in the making, used in turn."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._buffers: list[bytearray] = []
        self._at = 0

    def next(self, size: int) -> memoryview:
        """The buffer that was used longest ago."""
        self._at = (self._at + 1) % self._count
        if len(self._buffers) < self._count:
            self._buffers.append(bytearray(size))
            self._at = len(self._buffers) - 1
        return memoryview(self._buffers[self._at])


class Source(Protocol):
    """Content to store. ``size`` in bytes where it is known before; ``fixed`` where it can not change
    under us, so that any part of it may be read again."""

    kind: str
    size: int | None
    fixed: memoryview | None

    def cut(self, size: int, ring: Ring) -> Iterator[bytes | memoryview]:
        """The content in chunks of ``size`` bytes, the last one shorter; again from the start. A chunk
        may lie in the ring, and is good until all of that was used again."""
        ...


class BufferSource:
    """Anything with the buffer interface."""

    kind = "bytes"

    def __init__(self, view: memoryview) -> None:
        if not view.contiguous:
            view = memoryview(view.tobytes())
        self._view = view.cast("B") if view.nbytes else memoryview(b"")
        self.size: int | None = self._view.nbytes
        self.fixed = self._view if isinstance(view.obj, bytes) else None

    def cut(self, size: int, ring: Ring) -> Iterator[bytes | memoryview]:
        """Views of what can not change, copies of what can."""
        for start in range(0, self._view.nbytes, size):
            part = self._view[start : start + size]
            if self.fixed is None:
                # A bytearray edited by another thread would get a digest that is not its chunk's.
                kept = ring.next(size)[: len(part)]
                kept[:] = part
                part = kept
            yield part


class StreamSource:
    """A binary file object, read once from where it stands."""

    kind = "stream"
    size: int | None = None
    fixed: memoryview | None = None

    def __init__(self, file: Any) -> None:
        self._file = file
        self._begun = False
        try:
            self._start = file.tell() if file.seekable() else None
        except (AttributeError, OSError, ValueError):
            self._start = None

    def cut(self, size: int, ring: Ring) -> Iterator[bytes | memoryview]:
        """Chunks; a second time only if the file can go back."""
        if self._begun:
            if self._start is None:
                raise ConflictError(
                    "the state's objects must be written again, because garbage was collected meanwhile, "
                    "and this file can not go back to its start; open it and put it again"
                )
            self._file.seek(self._start)
        self._begun = True
        if type(self._file) in _READS_INTO:
            return self._fill(size, ring)
        return self._read(size)

    def _fill(self, size: int, ring: Ring) -> Iterator[memoryview]:
        """The same for a file that reads into memory of ours."""
        count = size
        while count == size:
            chunk, count = ring.next(size), 0
            while count < size:
                try:
                    read = self._file.readinto(chunk[count:])
                except OSError as error:
                    raise StorageError(f"the file to be stored can not be read: {error}") from error
                if read is None:
                    raise InvalidError(
                        "readinto() of the file to be stored has nothing yet; open it blocking"
                    )
                if not read:
                    break
                count += read
            if count:
                yield chunk[:count]

    def _read(self, size: int) -> Iterator[bytes]:
        parts: list[bytes] = []
        missing = size
        while True:
            try:
                part = self._file.read(missing)
            except OSError as error:
                raise StorageError(f"the file to be stored can not be read: {error}") from error
            if not isinstance(part, (bytes, bytearray, memoryview)):
                raise InvalidError(
                    f"read() of the file to be stored gave {type(part).__name__}, not bytes; open it "
                    f"with mode 'rb', blocking"
                )
            if len(part) > missing:
                raise InvalidError(
                    f"read({missing}) of the file to be stored gave {len(part)} bytes; it is no binary "
                    f"file object"
                )
            if part:
                parts.append(bytes(part))
                missing -= len(part)
                if missing:
                    continue
            if parts:
                yield parts[0] if len(parts) == 1 else b"".join(parts)
            if not part:
                return
            parts, missing = [], size


class JsonSource:
    """A JSON value; it must not be changed until the put is done."""

    kind = "json"
    size: int | None = None
    fixed: memoryview | None = None

    def __init__(self, value: Any) -> None:
        self._value = value

    def cut(self, size: int, ring: Ring) -> Iterator[bytes | memoryview]:
        """The text in chunks; the whole value is checked before the first."""
        pending = bytearray()
        for piece in text_pieces(self._value):
            pending += piece
            start = 0
            while len(pending) - start >= size:
                yield bytes(pending[start : start + size])
                start += size
            del pending[:start]
        if pending:
            yield bytes(pending)


def source_of(state: Any) -> Source:
    """The right source: buffers are bytes, what has ``read`` is a stream, everything else is JSON."""
    try:
        return BufferSource(memoryview(state))
    except TypeError:
        pass
    if callable(getattr(state, "read", None)):
        return StreamSource(state)
    return JsonSource(state)
