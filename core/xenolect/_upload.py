"""The chunks of one put: hashed, compared with the parent's, compressed, sealed and stored, in parallel."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from xenolect._chunking import Ring
from xenolect._packs import Packs
from xenolect._state_workers import INLINE, THREADS, Workers
from xenolect.errors import EmergenceError, LimitError
from xenolect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from xenolect._chunking import Source
    from xenolect._manifest import Entry
    from xenolect._state_objects import Objects
    from xenolect.interfaces import Buffer, ChunkStore

__all__ = ["WHOLE", "Progress", "Upload", "check_size"]

_ALONE = 8
"""This many chunks of an upload are objects of their own, so that what small changes leave behind is
collected chunk by chunk; those that follow are a bulk save and go into packs."""
WHOLE = 16
"""Up to this many chunks the SHA-256 of all is computed as well: it takes as long again as that of the
chunks does, which is a quarter of what storing JSON text takes, and ``root`` identifies a content too."""

Progress = Callable[[int, int | None], object] | None
"""Told how many bytes are done, and of how many where that is known."""


def check_size(size: int, limit: int) -> None:
    """LimitError above ``state.max_size``."""
    if size > limit:
        raise LimitError(
            f"the state is larger than {format_bytes(limit)} (state.max_size); store less, or raise it"
        )


class Upload:
    """One attempt to store chunks on top of a parent's table. Not shared between threads."""

    def __init__(
        self,
        objects: Objects,
        variant_id: str,
        sequence: int,
        parent: Sequence[Entry],
        write: str,
        workers: Workers,
    ) -> None:
        self._objects = objects
        self._variant_id = variant_id
        self._sequence = sequence
        self._parent = parent
        self._write = write
        self._workers = workers
        self._stored: list[str] = []
        self._packs = Packs(objects, variant_id, workers)
        self._changed = itertools.count()
        self.changed = False

    def store(self, position: int, plain: Buffer) -> Entry:
        """The entry of one chunk: the parent's where the content is the same, else a new object."""
        digest = hashlib.sha256(plain).digest()
        if position < len(self._parent) and self._parent[position].digest == digest:
            return self._parent[position]
        self.changed = True
        alone = next(self._changed) < _ALONE
        entry = self._objects.put_chunk(
            self._variant_id,
            self._sequence,
            position,
            plain,
            digest,
            self._write,
            None if alone else self._packs.mine(),
        )
        if alone:
            self._stored.append(entry.object)
        else:
            self._packs.filled()
        return entry

    def finish(self) -> None:
        """Return when everything is durable."""
        self._packs.finish()

    def run(
        self, source: Source, chunk_size: int, limit: int, progress: Progress
    ) -> tuple[list[Entry], int, str | None]:
        """Store a whole content, durable on return: its table, its size, and its SHA-256.

        The SHA-256 of all is None where content that can be read again has not changed at all (the
        parent's holds then), and for many chunks. At most twice as many chunks as there are threads
        are in memory, besides their packs.
        """
        if source.size is not None:
            check_size(source.size, limit)
        whole = hashlib.sha256()
        hashed = size = 0
        most = WHOLE * chunk_size
        table: list[Entry] = []
        waiting: deque[Future[Entry]] = deque()
        try:
            for position, chunk in enumerate(source.cut(chunk_size, Ring(2 * THREADS + 2))):
                size += len(chunk)
                check_size(size, limit)
                if position < INLINE:
                    table.append(self.store(position, chunk))
                else:
                    waiting.append(self._workers.submit(self.store, position, chunk))
                if size > most:
                    pass
                elif source.fixed is None:
                    whole.update(chunk)
                elif self.changed:
                    whole.update(source.fixed[hashed:size])
                    hashed = size
                if len(waiting) >= 2 * THREADS:
                    table.append(waiting.popleft().result())
                if progress is not None:
                    progress(size, source.size)
            while waiting:
                table.append(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()
            for future in waiting:
                if not future.cancelled():
                    future.exception()
        self.finish()
        if size > most or (source.fixed is not None and not self.changed):
            return table, size, None
        if source.fixed is not None:
            whole.update(source.fixed[hashed:size])
        return table, size, whole.hexdigest()

    def discard(self, chunks: ChunkStore) -> None:
        """Remove what was stored, best effort; only for content that can not have been committed."""
        self._packs.settle()
        for name in (*self._stored, *self._packs.names):
            try:
                chunks.delete(f"variants/{self._variant_id}/state/{name}")
            except EmergenceError:
                return  # the garbage collector finds the rest
