"""The SQLite index under limits and locks."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from xenolect.errors import (
    StorageError,
    StorageFullError,
    UnavailableError,
)
from xenolect.facts import Put, Window
from xenolect.testing import fork_among_threads
from xenolect.testing.index import replayed
from xenolect_backends._file_lock import FileLock
from xenolect_backends.sqlite_index import SqliteIndex


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the index is."""
    return tmp_path / "index.db"


# -- limits and locks ---------------------------------------------------------------------------


def test_a_lock_held_elsewhere_times_out(path: Path) -> None:
    """Another program's write lock is UnavailableError after the time-out; then all goes on."""
    index = SqliteIndex(path, busy_timeout=0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnavailableError, match="locked"):
        index.commit([Put("v", "a", 1)], actor="", at=0)
    other.execute("ROLLBACK")
    other.close()
    lock = FileLock(path.with_name("index.db-lock"))
    lock.acquire(1.0)
    with pytest.raises(UnavailableError, match="another process"):
        index.commit([Put("v", "a", 1)], actor="", at=0)
    assert index.get("v", "a") is None  # reading needs no lock
    lock.release()
    assert index.commit([Put("v", "a", 1)], actor="", at=0) == 1
    lock.forget()
    index.close()


def test_a_removed_lock_file_still_keeps_others_out(tmp_path: Path) -> None:
    """Who locks a file that was removed notices, and takes the new one."""
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    first.acquire(1.0)
    first.release()
    (tmp_path / "lock").unlink()
    second.acquire(1.0)
    with pytest.raises(UnavailableError):
        first.acquire(0.05)
    second.release()
    first.acquire(1.0)
    first.forget()
    second.forget()


def test_a_full_database_is_said(path: Path) -> None:
    """SQLite's "disk is full" is StorageFullError; nothing of the commit is there, reading works."""
    index = SqliteIndex(path)
    index.commit([Put("v", "a", 1)], actor="", at=0)
    pages = index._connections._writer.execute("PRAGMA page_count").fetchone()[0]
    index._connections._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFullError, match="no space"):
        index.commit([Put("v", "b", "x" * 500_000)], actor="", at=0)
    assert index.load().revision == 1
    assert index.get("v", "a") == 1
    index._connections._writer.execute("PRAGMA max_page_count = 1000000")
    assert index.commit([Put("v", "b", "x" * 500_000)], actor="", at=0) == 2
    index.close()


def test_the_log_is_copied_back_when_it_is_long(path: Path) -> None:
    """Explicit checkpoints keep the log near 8 MB however much is written."""
    index = SqliteIndex(path)
    longest = 0
    for number in range(60):
        batch = [Window(f"v{number}", float(n), 60.0, 1, 0, [[n, 1]] * 20) for n in range(2000)]
        index.append_windows(batch)
        longest = max(longest, Path(f"{path}-wal").stat().st_size)
    assert path.stat().st_size > 20_000_000
    assert longest < 12_000_000
    index.close()
    assert not Path(f"{path}-wal").exists()


def test_feed_without_news_reads_nothing(path: Path) -> None:
    """With no commit since, changes() asks only whether there was one."""
    index = SqliteIndex(path)
    for number in range(3):
        index.commit([Put("v", "a", number)], actor="", at=0)
    assert len(index.changes(2)) == 1
    statements: list[str] = []
    with index._connections.following() as feed:
        feed.set_trace_callback(statements.append)
    assert list(index.changes(3)) == []
    assert statements == ["PRAGMA data_version"]
    index.commit([Put("v", "a", 3)], actor="", at=0)
    assert len(index.changes(3)) == 1
    index.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("stuck", [False, True], ids=["in turn", "while a write does not end"])
def test_a_fork_opens_its_own_connections(path: Path, stuck: bool) -> None:
    """Parent and child go on with the same object, also when a thread was writing at the fork."""
    index = SqliteIndex(path, busy_timeout=0.5)
    index.commit([Put("v", "parent", 0)], actor="", at=0)
    if stuck:
        index._connections._turn.acquire()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for number in range(20):
                index.commit([Put("v", "child", number, number)], actor="child", at=0)
            assert index.get("v", "parent") is not None
            index.close()
            status = 0
        finally:
            os._exit(status)
    if stuck:
        index._connections._turn.release()
    for number in range(20):
        index.commit([Put("v", "parent", number)], actor="parent", at=0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert index.get("v", "child") == 19
    assert index.load().revision == 41
    assert replayed(index.changes(0)) == index.load()
    index.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_parent_that_closes_takes_nothing_from_its_child(path: Path) -> None:
    """The child goes on after its parent closed: what it commits then is there for everybody."""
    index = SqliteIndex(path)
    index.commit([Put("v", "before", 0)], actor="", at=0)
    ready, closed = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            index.commit([Put("v", "between", 0)], actor="child", at=0)
            os.write(ready[1], b".")
            os.read(closed[0], 1)
            index.commit([Put("v", "after", 0)], actor="child", at=0)
            status = 0
        finally:
            os._exit(status)
    os.read(ready[0], 1)
    index.close()
    os.write(closed[1], b".")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for end in (*ready, *closed):
        os.close(end)
    index = SqliteIndex(path)
    assert [fact.key for fact in index.load().facts] == ["after", "before", "between"]
    index.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forks_among_threads_that_read_and_write(path: Path) -> None:
    """Ten children of a process whose threads never rest: each commits and reads, none is stuck."""
    index = SqliteIndex(path, busy_timeout=60)
    index.commit([Put("v", "parent", 0)], actor="", at=0)

    def child(number: int) -> None:
        index.commit([Put("c", str(number), number)], actor="child", at=0)
        assert index.get("c", str(number)) == number

    fork_among_threads(
        [
            lambda n: index.commit([Put("v", "parent", n)], actor="parent", at=0),
            lambda _: index.get("v", "parent"),
            lambda _: index.changes(1),
        ],
        child,
        10,
    )
    assert sum(fact.kind == "c" for fact in index.load().facts) == 10
    assert replayed(index.changes(0)) == index.load()
    index.close()


def test_closing_while_others_read(path: Path) -> None:
    """Threads in the middle of reading get an error of ours or an answer, never a crash."""
    index = SqliteIndex(path)
    index.commit([Put("v", "a", 1)], actor="", at=0)
    strange: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                index.get("v", "a")
                index.changes(1)
                index.load()
            except StorageError:
                return
            except BaseException as error:
                strange.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    time.sleep(0.05)
    index.close()
    stop.set()
    for reader in readers:
        reader.join()
    assert strange == []
