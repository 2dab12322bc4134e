"""Follows the journal and keeps its mirror: segments, checkpoints, and each variant's ``metadata.json``.

Written after the commit, in batches, by one process at a time (a lease; two would only write the same
twice). What a process that died left out is written at the next open. An index whose head is behind
its mirror was replaced by an older one or lost: that is an alarm and never repaired on the way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenolect._dependencies import Guarded
from xenolect._journal_objects import JournalObjects, Segment, in_slices
from xenolect._journal_upkeep import JournalUpkeep
from xenolect._records import Records
from xenolect.errors import (
    ConfigError,
    CorruptError,
    EmergenceError,
    NotFoundError,
    UnavailableError,
)
from xenolect.facts import Contents, Entry

if TYPE_CHECKING:
    from xenolect._runtime import Runtime
    from xenolect._states import States

__all__ = ["Mirroring"]

log = logging.getLogger("xenolect.states")
EVERY = 0.25
"""Seconds between two segments."""
LEASE = 5.0
PATIENCE = 2.0
"""Seconds a rollback waits for its mirror; it is committed, and served nowhere, before."""
MERGE = 64
"""Small segments that are made one: 250 ms of commits each, so without it a day would leave 345,600."""
CHECKPOINT = 1024
"""Entries between checkpoints, or as many as there are facts: then it costs each commit the same."""
RECENT = 64
"""Entries before the head whose mirrors may be missing after a process died."""


class Mirroring:
    """The mirror of one manager's index."""

    def __init__(self, runtime: Runtime, states: States) -> None:
        self._runtime = runtime
        self._states = states
        self._objects = states._objects
        self.journal = JournalObjects(self._objects)
        self.records = Records(runtime.facts, self._objects)
        self.upkeep = JournalUpkeep(runtime, states, self.journal, self.records)
        self._segments: list[Segment] = []
        self._checkpoints: list[int] = []
        self._looked = False
        self._near = not isinstance(runtime.chunks, Guarded)
        self.mirrored = 0
        self.error: str | None = None
        self.alarm: str | None = None
        self._behind: set[str] = set()
        self._renew()
        runtime.applied = self._notice
        runtime.mirror = self.acknowledge

    def leave_parent(self) -> None:
        """In a forked child: the parent mirrors what it committed."""
        self._behind.clear()
        self._looked = False
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._written = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._held = False
        self._held_until = self._tried_at = float("-inf")
        self._flushed_at = self._runtime.passing()  # a batch may begin now
        self._noticed_at = float("-inf")
        self._due = self._forced = False

    # -- opening and closing ----------------------------------------------------------------------

    def open(self, serving: bool) -> None:
        """Compare the index with its mirror; CorruptError when the index is behind or another one.

        A store that does not answer, or whose key is not given, is looked at before the first write.
        """
        try:
            self._objects.identity()
            self._look()
        except (UnavailableError, ConfigError) as error:  # away, or sealed with a key not given
            log.warning("the mirror of the index can not be looked at now: %s", error)
            self.error = str(error)
        if serving and (self._behind or self.mirrored < self._runtime.revision):
            # A process that died holds its lease for a while; what another one writes just now is
            # written twice, which is no harm.
            self._forced = True
            self._notice(None)

    def close(self) -> None:
        """Write what is missing, best effort, and let somebody else go on."""
        self._closed = True
        self._hurry.set()
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)
        if self._due or self._behind:
            self._tried_at = float("-inf")
            self._quietly(forced=self._forced)
        if self._held:
            self._held = False
            runtime = self._runtime
            runtime.index.lease("mirror", runtime.boot, runtime.alive(), 0.0)

    # -- noticing ---------------------------------------------------------------------------------

    def _notice(self, entry: Entry | None) -> None:
        """Something was committed, by whomever."""
        self._due = True
        self._noticed_at = self._runtime.passing()
        if self._closed:
            return
        if self._runtime.background:
            self._start()
            self._wake.set()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="xenolect-mirror", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            if not self._closed:  # it may be set while what wakes is cleared below
                self._wake.wait()
            if self._closed:
                return
            self._hurry.wait(EVERY)
            self._hurry.clear()
            self._wake.clear()
            forced, self._forced = self._forced, False
            if not self._quietly(forced=forced) and not self._closed:
                # not written: another process holds the lease, or the store does not answer
                self._wake.wait(1.0)
                self._wake.set()

    def tick(self) -> None:
        """Without a thread, write what is due."""
        if self._runtime.background or not self._due:
            return
        if self._forced or self._runtime.passing() - self._flushed_at >= EVERY:
            forced, self._forced = self._forced, False
            self._quietly(forced=forced)

    def acknowledge(self) -> None:
        """Have everything committed so far mirrored, for a rollback's caller; waits 2 s at most.

        A disk answers or fails at once, so there the caller writes it: handing it to the thread and back
        takes as long again. A service may not answer; the thread asks it.
        """
        if not self._runtime.background:
            self._quietly(forced=True)
            return
        wanted = self._runtime.revision
        self._start()
        if self._near and self._lock.acquire(timeout=PATIENCE):
            try:
                self._guarded(lambda: self._segments_due(forced=True) is not None)
            finally:
                self._lock.release()
            if self.mirrored >= wanted:
                return
        self._forced = self._due = True
        self._hurry.set()
        self._wake.set()
        with self._written:
            if not self._written.wait_for(lambda: self.mirrored >= wanted, PATIENCE):
                log.warning("entry %d is committed and not yet mirrored", wanted)

    # -- writing ----------------------------------------------------------------------------------

    def _quietly(self, *, forced: bool) -> bool:
        """``flush``; what fails is logged and tried again. Is nothing left to do?"""
        return self._guarded(lambda: self.flush(forced=forced))

    def _guarded(self, write: Callable[[], bool]) -> bool:
        try:
            return write()
        except EmergenceError as error:
            if self.error != str(error):
                log.warning("the mirror of the index is behind and written later: %s", error)
            self.error = str(error)
            return False
        except Exception as error:
            log.exception("the mirror of the index is behind and written later")
            self.error = f"{type(error).__name__}: {error}"
            return False

    def flush(self, *, forced: bool = False) -> bool:
        """Write what is missing. ``forced``: also where another process is at it.

        False where that was left to the other process.
        """
        mine = self._segments_due(forced=forced)
        if mine is None:
            return not self._due
        with self._lock:
            if mine:
                self._merge()
                self._check_in()
            self._write_records()
        return True

    def _segments_due(self, *, forced: bool) -> bool | None:
        """Write the journal's part. Is the lease this process's? None: left to who holds it."""
        with self._lock:
            self._flushed_at = self._runtime.passing()
            mine = self._mine()
            if not mine and not forced:
                if self._flushed_at - self._noticed_at > LEASE:
                    self._due = False  # who lives so much longer than the commit has mirrored it
                return None
            if not self._looked or not mine:
                self._look()
            self._due = False
            try:
                self._append()
            except BaseException:
                self._due = True
                raise
            self.error = None
        with self._written:
            self._written.notify_all()
        return mine

    def _mine(self) -> bool:
        """Is it this process that writes the mirror? Takes the lease where it is free."""
        runtime = self._runtime
        now = self._runtime.passing()
        if self._held and now < self._held_until - LEASE / 2:
            return True
        if not self._held and now - self._tried_at < LEASE / 5:
            return False
        self._tried_at = now
        lease = runtime.index.lease("mirror", runtime.boot, runtime.alive(), LEASE)
        held = lease.holder == runtime.boot
        if held and not self._held:
            self._looked = False  # another one may have written since
        self._held, self._held_until = held, now + LEASE
        return held

    def _look(self) -> None:
        """See what is there, and that the index is not behind it."""
        runtime = self._runtime
        segments, checkpoints = self.journal.names()
        head = max((segment.last for segment in segments), default=0)
        if head > runtime.revision:
            runtime.catch_up()  # committed and mirrored by another process meanwhile
        if head > runtime.revision:
            lost = "has nothing" if not runtime.revision else f"ends at entry {runtime.revision}"
            self._raise(
                f"the index {lost}, but entry {head} of it is mirrored in the object store: it was lost "
                f"or replaced by an older one; `xenolect reindex` rebuilds it from the mirror"
            )
        self._compare(segments)
        self._segments, self._checkpoints = segments, checkpoints
        self.mirrored, self._looked = head, True

    def _compare(self, segments: list[Segment]) -> None:
        """Both must agree about the newest entry that is mirrored."""
        for segment in sorted(segments, key=lambda s: -s.last)[:2]:
            try:
                entries = self.journal.read(segment)
            except (CorruptError, NotFoundError) as error:
                log.error("a part of the journal's mirror is damaged: %s", error)
                continue
            last = entries[-1]
            found = self._runtime.index.changes(last.revision - 1)[0]
            if found.digest != last.digest:
                self._raise(
                    f"the index and its mirror disagree about entry {last.revision}: the index was "
                    f"edited, or belongs to another store; put the right one back, or rebuild it from "
                    f"the mirror with `xenolect reindex`"
                )
            self._remember(entries[-RECENT:])
            return

    def _raise(self, message: str) -> None:
        if self.alarm != message:
            self.alarm = message
            self._runtime.tell("index.alarm", None, message=message)
        raise CorruptError(message, key="journal")

    def _append(self) -> None:
        entries = self._runtime.index.changes(self.mirrored)
        for part in in_slices(entries):
            segment = self.journal.write(part)
            self._segments.append(segment)
            self.mirrored = segment.last
        self._remember(entries)

    def _remember(self, entries: Any) -> None:
        for entry in entries:
            for change in entry.changes:
                if change.kind == "variant":
                    self._behind.add(change.key)
                elif change.kind == "state":
                    self._states._mirrors.touch(change.key)

    def _write_records(self) -> None:
        self._states._mirrors.write()
        while self._behind:
            variant_id = self._behind.pop()
            try:
                self.records.write(variant_id)
            except BaseException:
                self._behind.add(variant_id)
                raise

    # -- keeping it small -------------------------------------------------------------------------

    def _merge(self) -> None:
        """Make the newest small segments one."""
        small: list[Segment] = []
        for segment in reversed(self._segments):
            if segment.entries >= CHECKPOINT:
                break
            small.insert(0, segment)
        if len(small) < MERGE:
            return
        first, last = small[0].first, max(segment.last for segment in small)
        entries = [e for e in self._runtime.index.changes(first - 1) if e.revision <= last]
        made = [self.journal.write(part) for part in in_slices(entries)]
        self.journal.delete(segment for segment in small if segment not in made)
        self._segments = [s for s in self._segments if s not in small] + made

    def _check_in(self) -> None:
        """Store a checkpoint where one is due."""
        runtime = self._runtime
        newest = self._checkpoints[-1] if self._checkpoints else 0
        if self.mirrored - newest < max(CHECKPOINT, len(runtime.facts)):
            return
        with runtime.lock:
            revision, digest, facts = runtime.revision, runtime.digest, dict(runtime.facts)
        contents = Contents(revision, digest, tuple(facts[name] for name in sorted(facts)))
        self.journal.write_checkpoint(contents, runtime.config_digest)
        self._checkpoints.append(revision)
        self.journal.delete_checkpoints(self._checkpoints[:-2])
        self._checkpoints = self._checkpoints[-2:]

    def status(self) -> dict[str, Any]:
        """How far the mirror is, and what is wrong with it."""
        return {
            "revision": self.mirrored,
            "behind": max(0, self._runtime.revision - self.mirrored),
            "error": self.alarm or self.error,
        }
