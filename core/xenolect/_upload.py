"""The chunks of one put: hashed, compared with the parent's, compressed, sealed and stored, in parallel."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

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

__all__ = ["Progress", "Upload", "check_size"]

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
        self.changed = False

    def store(self, position: int, plain: Buffer) -> Entry:
        """The entry of one chunk: the parent's where the content is the same, else a new object."""
        digest = hashlib.sha256(plain).digest()
        if position < len(self._parent) and self._parent[position].digest == digest:
            return self._parent[position]
        self.changed = True
        entry = self._objects.put_chunk(
            self._variant_id, self._sequence, position, plain, digest, self._write
        )
        self._stored.append(entry.object)
        return entry

    def run(
        self, source: Source, chunk_size: int, limit: int, progress: Progress
    ) -> tuple[list[Entry], int, str | None]:
        """Store a whole content: its table, its size, and its SHA-256.

        The SHA-256 of all is None where content that can be read again has not changed at all (the
        parent's holds then): hashing twice would double the cost of such a put. At most twice as many
        chunks as there are threads are in memory.
        """
        if source.size is not None:
            check_size(source.size, limit)
        whole = hashlib.sha256()
        hashed = size = 0
        table: list[Entry] = []
        waiting: deque[Future[Entry]] = deque()
        try:
            for position, chunk in enumerate(source.cut(chunk_size)):
                size += len(chunk)
                check_size(size, limit)
                if position < INLINE:
                    table.append(self.store(position, chunk))
                else:
                    waiting.append(self._workers.submit(self.store, position, chunk))
                if source.fixed is None:
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
        if source.fixed is not None:
            if not self.changed:
                return table, size, None
            whole.update(source.fixed[hashed:size])
        return table, size, whole.hexdigest()

    def discard(self, chunks: ChunkStore) -> None:
        """Remove what was stored, best effort; only for content that can not have been committed."""
        for name in self._stored:
            try:
                chunks.delete(f"variants/{self._variant_id}/state/{name}")
            except EmergenceError:
                return  # the garbage collector finds the rest
