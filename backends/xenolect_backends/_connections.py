"""The connections of one process to one SQLite file: one that writes, some that read.

SQLite 3.7.0 to 3.51.2 can lose commits when one connection checkpoints the write-ahead log while
another resets it, and most Pythons link such a version. So nothing here is left to SQLite's own
timing: automatic checkpoints are off, and every write and every checkpoint happens under one lock
between processes. The checkpoint that SQLite runs when the last connection closes is inside it too.

No connection is open when the process forks. SQLite keeps the file locks of a process in its memory, a
child inherits them as its own, and what it opens later rests on locks that the kernel never gave it:
when the parent closed, it removed the log that the child went on writing, and with it what the child
had committed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from xenolect import forks
from xenolect.errors import (
    ConfigError,
    CorruptError,
    EmergenceError,
    InvalidError,
    StorageError,
    StorageFullError,
    UnavailableError,
)
from xenolect_backends import _schema
from xenolect_backends._file_lock import FileLock
from xenolect_backends._local import FULL, sync_directory

__all__ = ["FOREIGN", "Connections", "raise_translated"]

_CHECKPOINT_PAGES = 1000  # what SQLite itself takes: 8 MB of log, 3 ms to copy back
_LOG_HEADER = 32  # bytes, and in front of each page:
_FRAME_HEADER = 24
_IDLE_READERS = 4

_BAD_VALUES = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    UnicodeEncodeError,
    OverflowError,
)

_OF_THE_FILE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL)
"""One unlock that failed once kept the process from reading or writing for as long as a connection was open."""

_abandoned: list[object] = []
"""Connections of a parent process: even closing them here could harm the parent, so they are kept."""


FOREIGN = (sqlite3.Error, UnicodeError, OverflowError, OSError)
"""What a statement may raise: the two in the middle for values that no column can hold, the last from
the lock's file."""


def raise_translated(error: Exception, path: Path) -> NoReturn:
    """Raise ours for SQLite's: full, not answering, corrupt, a bad value, or a plain StorageError."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or getattr(error, "errno", None) in FULL:
        raise StorageFullError(
            f"no space is left for the index {path}; free some, nothing was changed"
        ) from error
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise UnavailableError(
            f"the index {path} is locked by another program; try again, nothing was changed"
        ) from error
    undecodable = isinstance(error, UnicodeDecodeError) or "Could not decode" in str(error)
    if undecodable or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        raise CorruptError(
            f"the index {path} is damaged ({error}); restore it from a backup, or rebuild it with "
            f"`xenolect reindex`",
            key=str(path),
        ) from error
    if isinstance(error, _BAD_VALUES):
        raise InvalidError(f"the index refuses a value: {error}; nothing was changed") from error
    raise StorageError(f"the index {path} failed: {error}; nothing was acknowledged") from error


def _of_the_file(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_FILE


def _make(folder: Path) -> None:
    """Create a folder, and those above it, with durable names."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        sync_directory(str(each.parent))


class Connections:
    """Opens the file, hands out its connections, checkpoints. Belongs to the process that made it."""

    def __init__(
        self, path: Path, *, cache_nodes: int, page_size: int, busy_timeout: float
    ) -> None:
        self.path = path
        self.pid = os.getpid()
        self._feed_lock = threading.Lock()
        self.feed_seen: tuple[int, int] | None = None
        """What ``PRAGMA data_version`` said when the feed was last read, and the head read then."""
        self._cache_nodes = cache_nodes
        self._busy_timeout = busy_timeout
        self._turn = threading.Lock()
        self._lent = 0  # connections that threads read with now
        self._back = threading.Condition(threading.Lock())
        self._parted = False  # was everything closed at the last fork?
        self._door = forks.Door()
        self._held: list[Any] = []  # locks, while the process forks
        self._file_lock = FileLock(path.with_name(path.name + "-lock"))
        self._log = f"{path}-wal"
        self._readers: list[sqlite3.Connection] = []
        self._synchronous = ""
        self._closed = False
        if sqlite3.sqlite_version_info < (3, 37):
            raise StorageError(
                f"SQLite {sqlite3.sqlite_version} is too old for the index (3.37 or later is needed); "
                f"use a newer Python"
            )
        try:
            _make(path.parent)
            self._file_lock.acquire(busy_timeout)
            try:
                self._writer: sqlite3.Connection | None = self._connect("rwc")
                self._create(self._writer, page_size)
            finally:
                self._file_lock.release()
            self._checkpoint_at = self._long
            try:
                self._feed: sqlite3.Connection | None = self._reader()
            except BaseException:
                self._writer.close()
                raise
        except FOREIGN as error:
            self._file_lock.forget()
            raise_translated(error, path)
        except EmergenceError:
            self._file_lock.forget()
            raise
        forks.watch(self, store=True)

    def _create(self, writer: sqlite3.Connection, page_size: int) -> None:
        try:
            writer.execute(f"PRAGMA page_size = {page_size}")  # no effect on an existing file
            _schema.check(writer, self.path)  # before anything is written into it
            mode = writer.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise ConfigError(
                    f"index: {self.path} is on a file system without shared memory (journal mode "
                    f"{mode!r}); put it on a local disk"
                )
            # A log that starts over is cut to this size, so one that is larger is that full. Cutting
            # it to nothing would tell as much, but then each commit extends the file: 110 us more.
            page = writer.execute("PRAGMA page_size").fetchone()[0]
            self._long = _LOG_HEADER + _CHECKPOINT_PAGES * (_FRAME_HEADER + page)
            writer.execute(f"PRAGMA journal_size_limit = {self._long}")
            self._set_synchronous(writer, "FULL")
            _schema.prepare(writer, self.path)
        except BaseException:
            writer.close()
            raise

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,  # transactions are begun here, never implicitly
            check_same_thread=False,  # handed from thread to thread, one at a time
            timeout=self._busy_timeout,
        )
        try:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            if sys.platform == "darwin":  # where fsync leaves the data in the drive's cache
                connection.execute("PRAGMA fullfsync = 1")
                connection.execute("PRAGMA checkpoint_fullfsync = 1")
            connection.execute(f"PRAGMA cache_size = {self._cache_nodes}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _reader(self) -> sqlite3.Connection:
        connection = self._connect("rw")
        try:
            connection.execute("PRAGMA query_only = 1")
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_synchronous(self, writer: sqlite3.Connection, level: str) -> None:
        if self._synchronous != level:
            writer.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level

    # -- reading ----------------------------------------------------------------------------------

    def borrow(self) -> sqlite3.Connection:
        """A connection to read with; give it back."""
        self._door.enter()
        with self._back:
            if self._closed:
                raise StorageError("the index is closed; open it again")
            self._lent += 1
        try:
            return self._readers.pop()
        except IndexError:
            pass
        try:
            return self._reader()
        except BaseException:
            self._returned()
            raise

    def give_back(self, connection: sqlite3.Connection) -> None:
        """End reading. A connection beyond the few that are kept is closed."""
        if len(self._readers) < _IDLE_READERS and not self._closed:
            self._readers.append(connection)
        else:
            connection.close()
        self._returned()

    def _returned(self) -> None:
        with self._back:
            self._lent -= 1
            if not self._lent:
                self._back.notify_all()

    @contextlib.contextmanager
    def following(self) -> Iterator[sqlite3.Connection]:
        """The connection that follows the journal, for one thread at a time."""
        self._door.enter()
        try:
            with self._feed_lock:
                if self._feed is None:
                    if self._closed:
                        raise StorageError("the index is closed; open it again")
                    self._feed = self._reader()
                yield self._feed
        except sqlite3.Error as error:
            self.failed(error)
            raise

    # -- writing ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """One transaction, all or nothing, in turn with every other thread and process.

        ``durable``: on the disk before this ends (synchronous FULL); otherwise the next durable one
        or checkpoint takes it along, and a power failure may lose it, whole.
        """
        self._door.enter()
        if not self._turn.acquire(timeout=self._busy_timeout):
            raise UnavailableError(
                f"another thread writes to {self.path} for more than {self._busy_timeout:g} s; try again"
            )
        try:
            if self._closed:
                raise StorageError("the index is closed; open it again")
            self._file_lock.acquire(self._busy_timeout)
            try:
                writer = self._writing()
                self._set_synchronous(writer, "FULL" if durable else "NORMAL")
                writer.execute("BEGIN IMMEDIATE")
                try:
                    yield writer
                    writer.execute("COMMIT")
                except BaseException:
                    if writer.in_transaction:
                        writer.execute("ROLLBACK")
                    raise
                self._checkpoint_if_long(writer)
            except sqlite3.OperationalError as error:
                if _of_the_file(error):
                    self._start_over()
                raise
            finally:
                self._file_lock.release()
        except FOREIGN as error:
            raise_translated(error, self.path)
        finally:
            self._turn.release()

    def failed(self, error: Exception) -> None:
        """Somebody who read has met an error; the caller holds no lock and no connection any more."""
        if _of_the_file(error) and self._turn.acquire(blocking=False):
            try:
                with contextlib.suppress(UnavailableError, OSError):
                    self._file_lock.acquire(self._busy_timeout)
                    try:
                        self._start_over()
                    finally:
                        self._file_lock.release()
            finally:
                self._turn.release()

    def _start_over(self) -> None:
        """Let go of what nobody uses now: what SQLite believes of its locks may be wrong for good."""
        while self._readers:
            self._readers.pop().close()
        if self._feed_lock.acquire(blocking=False):
            try:
                if self._feed is not None:
                    self._feed.close()
                    self._feed = self.feed_seen = None
            finally:
                self._feed_lock.release()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _writing(self) -> sqlite3.Connection:
        if self._writer is None:
            writer = self._connect("rw")
            try:
                writer.execute(f"PRAGMA journal_size_limit = {self._long}")
            except BaseException:
                writer.close()
                raise
            self._writer, self._synchronous = writer, ""
        return self._writer

    def _checkpoint_if_long(self, writer: sqlite3.Connection) -> None:
        """Copy the log back once it is long; a reader in the way only puts that off."""
        with contextlib.suppress(OSError):
            size = os.stat(self._log).st_size
            if size <= self._checkpoint_at:
                return
            self._checkpoint_at = self._long
            with contextlib.suppress(*FOREIGN):  # the commit before it stands
                _, frames, copied = writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if copied < frames:
                    self._checkpoint_at += size

    # -- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Copy the log back and close every connection, all under the lock."""
        with self._turn, self._feed_lock:
            if not self._closed:
                self._closed = True
                self._close_all(patiently=False)

    def _close_all(self, *, patiently: bool) -> bool:
        """``patiently``: not at all, rather than beside another process's write; was it done?"""
        held = False
        with contextlib.suppress(UnavailableError, OSError):
            self._file_lock.acquire(self._busy_timeout)
            held = True
        if patiently and not held:
            return False
        try:
            if held and self._writer is not None:
                with contextlib.suppress(*FOREIGN):
                    # Readers elsewhere may stay; the log is then cut by whoever is last.
                    self._writer.execute("PRAGMA busy_timeout = 0")
                    self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            while self._readers:
                self._readers.pop().close()
            for connection in (self._feed, self._writer):
                if connection is not None:
                    connection.close()
            self._feed = self._writer = None
            self.feed_seen = None
        finally:
            if held:
                self._file_lock.release()
            self._file_lock.forget()
        return True

    # -- forking ----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Close everything once nobody reads or writes; who wants to waits until the fork is over."""
        self._parted = False
        self._door.shut()
        for lock in (self._turn, self._feed_lock, self._back):
            if not lock.acquire(timeout=self._busy_timeout):
                return  # a call that does not end: the child leaves all of it alone
            self._held.append(lock)
        if not self._closed and self._back.wait_for(lambda: not self._lent, self._busy_timeout):
            self._parted = self._close_all(patiently=True)

    def after_fork(self, child: bool) -> None:
        """The parent opens again when it needs to; a child makes connections of its own."""
        while self._held:
            self._held.pop().release()
        self._door.open()

    def abandon(self) -> None:
        """In a child: leave to the parent what it has open, where it could not be closed."""
        self._file_lock.forget()
        if not self._parted:
            _abandoned.append((self._writer, self._feed, list(self._readers)))
