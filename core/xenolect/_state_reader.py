"""A lazy view of a stored state: each chunk is checked before its first byte is seen."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from xenolect.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenolect._manifest import Content
    from xenolect.model import StateRef

__all__ = ["StateReader"]


class StateReader(io.RawIOBase):
    """A seekable binary reader over the chunks of one version, ``ref``; holds one chunk in memory.

    ``whole`` reads and checks all of it; ``held`` is what that gave before, if it is still there.
    """

    def __init__(
        self,
        ref: StateRef,
        content: Content,
        fill: Callable[[int, memoryview], Any],
        whole: Callable[[], memoryview],
        held: memoryview | None = None,
    ) -> None:
        super().__init__()
        self.ref = ref
        self._content = content
        self._fill = fill
        self._whole = whole
        self._all = held
        self._at = 0
        self._held = -1
        self._chunk = b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next byte comes from."""
        self._check_open()
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; behind the end nothing is read."""
        self._check_open()
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.ref.size}.get(whence)
        if start is None or start + offset < 0:
            raise InvalidError(f"seek({offset}, {whence}) leads nowhere in {self.ref.size} bytes")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As many bytes as fit and are there; whole chunks go straight into ``buffer``."""
        self._check_open()
        target = memoryview(buffer).cast("B")
        if self._all is not None:
            count = max(0, min(len(target), self.ref.size - self._at))
            target[:count] = self._all[self._at : self._at + count]
            self._at += count
            return count
        size = self._content.manifest.chunk_size
        done = 0
        while done < len(target) and self._at < self.ref.size:
            position, start = divmod(self._at, size)
            length = self._content.plain(position)
            room = target[done : done + length]
            if start == 0 and len(room) == length and position != self._held:
                self._fill(position, room)
                count = length
            else:
                part = memoryview(self._hold(position))[start : start + len(room)]
                count = len(part)
                room[:count] = part
            self._at += count
            done += count
        return done

    def readall(self) -> bytes:
        """Everything from here to the end."""
        self._check_open()
        if self._at == 0:
            self.getbuffer()
        rest = bytearray(max(0, self.ref.size - self._at))
        self.readinto(rest)
        return bytes(rest)

    def getbuffer(self) -> memoryview:
        """All bytes, read-only, wherever the reader stands: read and checked now, or no copy at all
        where the verified cache has them. Good after the reader is closed, too."""
        self._check_open()
        if self._all is None:
            self._all = self._whole()
        return self._all

    def close(self) -> None:
        """Let go of what is in memory."""
        self._chunk, self._held, self._all = b"", -1, None
        super().close()

    def _hold(self, position: int) -> bytes:
        if position != self._held:
            chunk = bytearray(self._content.plain(position))
            self._fill(position, memoryview(chunk))
            self._chunk, self._held = bytes(chunk), position
        return self._chunk

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the reader is closed; open the state again")
