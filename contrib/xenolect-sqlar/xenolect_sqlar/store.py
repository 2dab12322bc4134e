"""A chunk store in one SQLite file, in the layout of SQLite's own archives (``sqlite3 -A`` lists it).

One file is easy to copy, to attach and to keep beside a program. For throughput the bundled store of
one file per object is better: here every object costs a transaction, and writers take turns.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from xenolect import forks
from xenolect.errors import (
    CorruptError,
    DuplicateError,
    InvalidError,
    NotFoundError,
    StorageError,
    StorageFullError,
    UnavailableError,
)
from xenolect.interfaces import Buffer
from xenolect.objects import as_bytes, check_key, check_prefix, check_range
from xenolect.units import Seconds

__all__ = ["SqlarChunks"]

# The archive's table, to the letter: https://sqlite.org/sqlar.html
_TABLE = (
    "CREATE TABLE IF NOT EXISTS sqlar("
    "name TEXT PRIMARY KEY, mode INT, mtime INT, sz INT, data BLOB)"
)
_FILE = 0o100444  # a regular file, read-only: what the archive's tools show
_PAGE = 500  # names read at once while listing

_abandoned: list[sqlite3.Connection] = []
"""A parent's, which it could not close before it forked: closing them in the child would hurt it."""


@attrs.define(eq=False)
class SqlarChunks:
    """Objects as rows of the file ``path``. Safe for threads, processes and forks.

    The journal is a rollback journal with ``synchronous=EXTRA``: an object is on the disk, and so is
    the directory entry, when ``put`` returns. The write-ahead log would be faster, but needs every
    checkpoint under a lock: SQLite up to 3.51.2 can lose commits between two of them. No connection is
    open across a fork, since SQLite keeps the locks of its process in memory, and a child would take
    them for its own.
    """

    path: str
    busy_timeout: Seconds = Seconds(30.0)
    _path: Path = attrs.field(init=False)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock, repr=False)
    _connection: sqlite3.Connection | None = attrs.field(init=False, default=None, repr=False)
    _door: forks.Door = attrs.field(init=False, factory=forks.Door, repr=False)
    _held: bool = attrs.field(init=False, default=False, repr=False)
    _closed: bool = attrs.field(init=False, default=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._path = Path(self.path).absolute()
        try:
            with self._use(writing=True) as db:
                db.execute(_TABLE)
        except BaseException:
            if self._connection is not None:
                self._connection.close()
            raise
        forks.watch(self, store=True)

    # -- the connection -----------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(
            self._path, timeout=self.busy_timeout, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute("PRAGMA page_size = 8192")
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("PRAGMA synchronous = EXTRA")
            db.execute("PRAGMA trusted_schema = OFF")
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _use(self, *, writing: bool = False) -> Iterator[sqlite3.Connection]:
        """The connection for one transaction, one thread at a time; SQLite's errors become ours."""
        self._door.enter()
        with self._lock:
            if self._closed:
                raise InvalidError(f"the store {self._path} is closed; open it again")
            try:
                if self._connection is None:
                    self._connection = self._connect()
                db = self._connection
                db.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, UnicodeError, OSError) as error:
                raise self._translated(error) from error

    def _translated(self, error: Exception) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StorageFullError(f"no space is left for {self._path}; nothing was changed")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return UnavailableError(
                f"{self._path} is written by another process for longer than busy_timeout; try again"
            )
        undecodable = isinstance(error, UnicodeError)
        if undecodable or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return CorruptError(
                f"{self._path} is no archive, or damaged ({error}); restore it from a copy",
                key=str(self._path),
            )
        if code == sqlite3.SQLITE_TOOBIG:
            return InvalidError(f"an object is larger than SQLite takes (1 GB): {error}")
        return StorageError(f"{self._path} failed: {error}; nothing was acknowledged")

    # -- the verbs ------------------------------------------------------------------------------------

    def put(self, key: str, data: Buffer, *, if_absent: bool = True) -> None:
        """One row, whole and durable; an existing key is a DuplicateError with ``if_absent``."""
        check_key(key)
        view = as_bytes(data)
        verb = "INSERT OR IGNORE" if if_absent else "INSERT OR REPLACE"
        with self._use(writing=True) as db:
            done = db.execute(
                f"{verb} INTO sqlar(name, mode, mtime, sz, data) VALUES (?, ?, ?, ?, ?)",
                (key, _FILE, int(time.time()), len(view), view),
            )
            if done.rowcount == 0:
                raise DuplicateError(f"{key!r} exists already; an object is written once")

    def get(self, key: str) -> bytes:
        """The whole object."""
        check_key(key)
        with self._use() as db:
            row = db.execute("SELECT data FROM sqlar WHERE name = ?", (key,)).fetchone()
        if row is None:
            raise self._missing(key)
        return bytes(row[0])

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``, of which only their pages are read."""
        check_key(key)
        check_range(start, stop)
        with self._use() as db:
            row = db.execute("SELECT rowid, sz FROM sqlar WHERE name = ?", (key,)).fetchone()
            if row is None:
                raise self._missing(key)
            with db.blobopen("sqlar", "data", row[0], readonly=True) as blob:
                start = min(start, len(blob))
                blob.seek(start)
                return blob.read(max(0, min(stop, len(blob)) - start))

    def _missing(self, key: str) -> NotFoundError:
        return NotFoundError(f"no object {key!r} in {self._path}")

    def delete(self, key: str) -> None:
        """Remove the row if it is there; SQLite uses its pages for later objects."""
        check_key(key)
        with self._use(writing=True) as db:
            db.execute("DELETE FROM sqlar WHERE name = ?", (key,))

    def list(self, prefix: str) -> Iterator[str]:
        """Every key that starts with ``prefix``, ascending; read page by page."""
        check_prefix(prefix)
        beyond = prefix + "\x7f"  # keys are ASCII below it
        last = ""
        while True:
            with self._use() as db:
                rows = db.execute(
                    "SELECT name FROM sqlar WHERE name >= ? AND name < ? AND name > ? "
                    "ORDER BY name LIMIT ?",
                    (prefix, beyond, last, _PAGE),
                ).fetchall()
            yield from (name for (name,) in rows)
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def close(self) -> None:
        """Let go of the file; twice is fine."""
        self._door.enter()
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # -- forking ------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Close the connection once nobody uses it; who wants to waits until the fork is over."""
        self._door.shut()
        self._held = self._lock.acquire(timeout=self.busy_timeout)
        if self._held and self._connection is not None:
            self._connection.close()
            self._connection = None

    def after_fork(self, child: bool) -> None:
        """Open again when it is needed."""
        if self._held:
            self._held = False
            self._lock.release()
        elif (
            child
        ):  # a call of the parent's that did not end: its lock and connection are the parent's
            self._lock = threading.Lock()
            if self._connection is not None:
                _abandoned.append(self._connection)
                self._connection = None
        self._door.open()
