"""``manager.states``: the state of each variant, in immutable versions.

A version becomes true in one index commit; everything it refers to is durable before. A process that
dies earlier leaves objects nobody refers to, and the old state whole.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from xenolect._chunking import Source, source_of
from xenolect._maintenance import Maintenance
from xenolect._manifest import Entry, root_of
from xenolect._migrations import Migrations
from xenolect._patching import Patch
from xenolect._state_cache import Cache
from xenolect._state_mirrors import Mirrors
from xenolect._state_objects import Objects
from xenolect._state_reading import Reading, ReadReport
from xenolect._state_versions import Draft, Fenced, Moved, Versions, link_of
from xenolect._state_workers import Workers
from xenolect._upkeep import Upkeep
from xenolect._upload import WHOLE, Progress, Upload, check_size
from xenolect.errors import ConflictError, InvalidError, LimitError
from xenolect.facts import Change, Fact
from xenolect.model import ProtocolVariant, StateRef

if TYPE_CHECKING:
    from xenolect.config import Config
    from xenolect.interfaces import ChunkStore, Cipher, EnvelopeCipher

__all__ = ["Door", "ReadReport", "States"]

_RETRIES = 32
_QUEUED = 64


class Door(Protocol):
    """What the state store needs of the open manager."""

    chunks: ChunkStore
    cipher: Cipher | EnvelopeCipher
    config: Config
    facts: dict[tuple[str, str], Fact]

    def clock(self) -> float:
        """Seconds since the epoch."""
        ...

    def token(self, size: int, /) -> str:
        """Random bytes in hex."""
        ...

    def fact(self, kind: str, key: str, /) -> Fact | None:
        """A fact as of the last applied revision."""
        ...

    def variant(self, variant: Any, /) -> ProtocolVariant:
        """The variant as of now; VariantNotFoundError."""
        ...

    def commit_retrying(self, build: Callable[[], Sequence[Change]], *, actor: str = "") -> int:
        """Commit what ``build`` decides on the newest facts; what it raises comes out."""
        ...

    def catch_up(self) -> None:
        """Apply what others committed."""
        ...

    def tell(self, kind: str, variant_id: str | None = None, /, **detail: Any) -> None:
        """Queue an event."""
        ...

    def later(self, job: Callable[[], None], /) -> None:
        """Run a job soon, off the caller's path where there is a thread."""
        ...

    def settle(self) -> None:
        """Without a thread, finish in the call what the thread would do."""
        ...


class States(Reading, Maintenance):
    """The states of one manager. Every call takes a variant or its id."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._objects = Objects(door)
        self._versions = Versions(door, self._objects)
        self.migrations = Migrations()
        self._upkeep = Upkeep(door, self._objects, self._versions)
        self._cache = Cache(door.config.state.cache_size)
        self._renew()

    def leave_parent(self) -> None:
        """In a forked child: locks and threads are the parent's, and so are mirrors that are behind."""
        self._objects.after_fork()
        self._cache.after_fork()
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.RLock()
        self._locks: dict[str, threading.RLock] = {}
        self._workers = Workers()
        self._mirrors = Mirrors(
            self._objects, self._versions, getattr(self._door, "passing", time.monotonic)
        )
        self._queue: ThreadPoolExecutor | None = None
        self._queued = 0

    def _enter(self, variant: Any) -> str:
        """The variant's id."""
        return self._door.variant(variant).id

    # -- writing ----------------------------------------------------------------------------------

    def put(
        self,
        variant: Any,
        state: Any,
        expected_version: int | None = None,
        progress: Progress = None,
    ) -> StateRef:
        """Store a JSON value, bytes or a binary file object as the variant's next state version.

        Files are streamed: at most a few chunks are in memory. Chunks equal to the parent's are not
        written again. ``expected_version`` is the version the state must have now (0: none yet), else
        ConflictError; without it the last writer wins. InvalidError names the path of what is not
        JSON; LimitError above ``state.max_size``; StorageFullError.
        """
        variant_id = self._enter(variant)
        source = source_of(state)
        for _ in range(_RETRIES):
            try:
                ref = self._put(variant_id, source, expected_version, progress)
            except Fenced:
                continue
            return self._done(ref)
        raise _contended(variant_id)

    def _put(
        self, variant_id: str, source: Source, expected: int | None, progress: Progress
    ) -> StateRef:
        door = self._door
        config = door.config.state
        self._objects.keys.ready(variant_id)
        began, epoch = door.clock(), self._versions.epoch()
        head = self._versions.expect(variant_id, expected)
        parent = self._versions.parent(variant_id, head)
        write = door.token(8)
        upload = Upload(
            self._objects,
            variant_id,
            head.version + 1,
            parent.table if parent else (),
            write,
            self._workers,
        )
        try:
            table, size, sha256 = upload.run(source, config.chunk_size, config.max_size, progress)
        except BaseException:
            upload.discard(door.chunks)
            raise
        if sha256 is None and source.fixed is not None:
            if parent is not None and root_of(table) == parent.manifest.root:
                sha256 = parent.manifest.sha256
            if sha256 is None and not upload.changed and len(table) <= WHOLE:
                sha256 = hashlib.sha256(source.fixed).hexdigest()
        draft = Draft(
            table, source.kind, size, config.chunk_size, sha256, head, epoch, began, write,
            schema=self.migrations.newest(door.variant(variant_id).protocol),
        )  # fmt: skip
        for _ in range(_RETRIES):
            with self._locked(variant_id):
                head = self._versions.expect(variant_id, expected)
                try:
                    return self._versions.commit(variant_id, head, draft)
                except Moved:
                    continue
        raise _contended(variant_id)

    def patch(
        self,
        variant: Any,
        changes: Mapping[int, Any],
        expected_version: int | None = None,
        progress: Progress = None,
    ) -> StateRef:
        """Overwrite bytes: ``{offset: bytes}``. Only the chunks touched are read and written.

        May go beyond the end without leaving a gap. For states put as bytes or files; what a patch of
        JSON text gives need not be JSON, so that is an InvalidError. The new version's ``sha256`` is
        None above one chunk: nobody has read all of it.
        """
        variant_id = self._enter(variant)
        patch = Patch.of(changes)
        for _ in range(_RETRIES):
            with self._locked(variant_id):
                try:
                    ref = self._patch(variant_id, patch, expected_version, progress)
                except (Moved, Fenced):
                    continue
            return self._done(ref)
        raise _contended(variant_id)

    def _patch(
        self, variant_id: str, patch: Patch, expected: int | None, progress: Progress
    ) -> StateRef:
        door = self._door
        self._objects.keys.ready(variant_id)
        began, epoch = door.clock(), self._versions.epoch()
        head = self._versions.expect(variant_id, expected)
        ref, content = self._versions.located(variant_id, None)
        if ref.kind == "json":
            raise InvalidError(
                f"the state of variant {variant_id!r} is JSON, and patched text need not be JSON; get "
                f"it, change it and put it, or store it as bytes"
            )
        size = patch.size_after(ref.size)
        check_size(size, door.config.state.max_size)
        write = door.token(8)
        upload = Upload(
            self._objects, variant_id, head.version + 1, content.table, write, self._workers
        )
        chunk_size = content.manifest.chunk_size
        touched = patch.by_chunk(chunk_size)
        table: list[Entry | None] = list(content.table)
        table.extend([None] * (-(-size // chunk_size) - len(table)))

        def rewrite(position: int) -> None:
            length = min(chunk_size, size - position * chunk_size)
            chunk = bytearray(length)
            old = content.plain(position) if position < len(content.table) else 0
            if old and not touched[position].covers(old):
                self._fill(content, position, memoryview(chunk)[:old])
            touched[position].apply(chunk)
            table[position] = upload.store(position, chunk)
            if progress is not None:
                progress(min(size, (position + 1) * chunk_size), size)

        try:
            self._workers.each(rewrite, list(touched))
            upload.finish()
        except BaseException:
            upload.discard(door.chunks)
            raise
        whole = [entry for entry in table if entry is not None]
        sha256 = content.manifest.sha256
        if root_of(whole) != content.manifest.root:
            sha256 = whole[0].digest.hex() if len(whole) == 1 else None
        draft = Draft(whole, ref.kind, size, chunk_size, sha256, head, epoch, began, write)
        return self._versions.commit(variant_id, head, draft)

    def put_async(
        self,
        variant: Any,
        state: Any,
        expected_version: int | None = None,
        progress: Progress = None,
    ) -> Future[StateRef]:
        """``put`` on a thread of its own, in the order of the calls; ``state`` must not change until
        the future is done. LimitError when 64 are waiting."""
        self._enter(variant)
        with self._lock:
            if self._queued >= _QUEUED:
                raise LimitError(
                    f"{_QUEUED} states are waiting to be stored; wait for some of their futures",
                    retry_after=0.1,
                )
            self._queued += 1
            if self._queue is None:
                self._queue = ThreadPoolExecutor(1, "xenolect-put")
            future = self._queue.submit(self.put, variant, state, expected_version, progress)
        future.add_done_callback(self._dequeued)
        return future

    def _dequeued(self, _: Future[StateRef]) -> None:
        with self._lock:
            self._queued -= 1

    # -- committing -------------------------------------------------------------------------------

    def _done(self, ref: StateRef) -> StateRef:
        self._mirrors.touch(ref.variant_id)
        self._door.later(self._mirrors.write_due)
        self._door.tell(
            "state.stored", ref.variant_id, version=ref.version, kind=ref.kind, size=ref.size
        )
        self._door.settle()
        return ref

    # -- for rollback points ----------------------------------------------------------------------

    def same_as(self, variant_id: str, version: int) -> list[Change]:
        """The changes that make an older version current again as the next one: metadata only, for the
        caller's commit. StateNotFoundError."""
        self._mirrors.touch(variant_id)
        return self._versions.same_as(variant_id, version)

    def without(self, variant_id: str) -> list[Change]:
        """The changes that leave the variant without a state again, for the caller's commit."""
        self._mirrors.touch(variant_id)
        return self._versions.without(variant_id)

    def check(self, variant_id: str, version: int, *, deep: bool = True) -> None:
        """Read a version back from the store, every chunk of it with ``deep``; CorruptError."""
        value = self._versions.wanted(variant_id, version)
        content = self._objects.content(variant_id, link_of(value), fresh=True)
        if not deep:
            return

        def look(position: int) -> None:
            self._fill(content, position, memoryview(bytearray(content.plain(position))))

        self._workers.each(look, list(range(len(content.table))))

    def flush(self) -> None:
        """Write the mirrors that are behind, best effort."""
        self._mirrors.write()

    def close(self) -> None:
        """Wait for states being stored, write the mirrors, let go of the threads."""
        with self._lock:
            queue, self._queue = self._queue, None
        if queue is not None:
            queue.shutdown()
        self._workers.close()
        self.flush()

    def _locked(self, variant_id: str) -> threading.RLock:
        """One writer per variant at a time in this process; other processes are met at the commit."""
        with self._lock:
            return self._locks.setdefault(variant_id, threading.RLock())


def _contended(variant_id: str) -> ConflictError:
    return ConflictError(
        f"the state of variant {variant_id!r} is changed by others faster than this call can; try again",
        retry_after=0.1,
    )
