"""Every bundled index passes the kit; what is special about SQLite is shown apart."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenolect._registry import Registry
from xenolect.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    InvalidError,
    StorageError,
    StorageFullError,
    UnavailableError,
)
from xenolect.facts import Batch, Observation, Put, Rollup, Window
from xenolect.interfaces import Index
from xenolect.testing import IndexTests
from xenolect.testing.index import replayed
from xenolect_backends import xenolect_index_storage
from xenolect_backends._file_lock import FileLock
from xenolect_backends.memory import MemoryIndex
from xenolect_backends.sqlite_index import SqliteIndex


class TestMemory(IndexTests):
    """An index in dictionaries."""

    def make(self, place: Path) -> Index:
        return MemoryIndex(str(place))


class TestSqlite(IndexTests):
    """An index in a file."""

    examples = 12
    steps = 20

    def make(self, place: Path) -> Index:
        return SqliteIndex(place / "index.db")


# -- offers -------------------------------------------------------------------------------------


def test_offers_are_made_by_name(tmp_path: Path) -> None:
    """A configuration picks an index by name; its options reach SQLite, a wrong one is refused."""
    registry = Registry.collect(bundled=["xenolect_backends"])
    assert {each.name for each in xenolect_index_storage()} == {"sqlite", "memory"}
    path = tmp_path / "deep" / "er" / "index.db"
    options = {
        "path": str(path),
        "page_size": 4096,
        "cache_nodes": 50,
        "btree_order": 64,
        "busy_timeout": "2s",
    }
    index = registry.make("index", "sqlite", options, "index")
    index.commit([Put("v", "a", 1)], actor="", at=0)
    index.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA page_size").fetchone() == (4096,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with pytest.raises(InvalidError, match=r"index\.page_size"):
        registry.make("index", "sqlite", {"page_size": 5000}, "index")
    first = registry.make("index", "memory", {"name": "shared by two"}, "index")
    first.commit([Put("v", "a", 1)], actor="", at=0)
    second = registry.make("index", "memory", {"name": "shared by two"}, "index")
    assert second.get("v", "a") == 1
    assert registry.make("index", "memory", {}, "index").get("v", "a") is None


# -- what the file is ---------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the index is."""
    return tmp_path / "index.db"


def _filled(path: Path, commits: int = 10) -> None:
    index = SqliteIndex(path)
    for number in range(commits):
        index.commit([Put("variant", f"v{number}", {"n": number})], actor="me", at=number)
    index.close()


def _edit(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


def test_the_pragmas_are_what_is_promised(path: Path) -> None:
    """Pages of 8 KiB, WAL, strict tables, a sound file; the log is gone after the last close."""
    _filled(path)
    assert sorted(each.name for each in path.parent.iterdir()) == ["index.db", "index.db-lock"]
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA page_size").fetchone() == (8192,)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    strict = {row[1]: row[5] for row in db.execute("PRAGMA table_list") if row[2] == "table"}
    ours = ("meta", "facts", "journal", "observations", "windows", "leases")
    assert [strict[name] for name in ours] == [1] * 6
    db.close()


def test_commits_are_synced_and_batches_are_not(path: Path) -> None:
    """synchronous is FULL inside a commit and NORMAL inside a batch of measurements."""
    index = SqliteIndex(path)
    connections = index._connections
    statements: list[str] = []
    connections._writer.set_trace_callback(statements.append)
    for _ in range(2):
        index.append_windows([Window("a", 0.0, 60.0, 1, 0)])
        index.commit([Put("v", "a", 1)], actor="", at=0)
    steps = [each.split("(")[0].strip() for each in statements]
    assert [
        each
        for each in steps
        if each.startswith(("PRAGMA", "BEGIN", "INSERT INTO w", "COMMIT"))
        or ("journal" in each and "INSERT" in each)
    ] == [
        *("PRAGMA synchronous = NORMAL", "BEGIN IMMEDIATE", "INSERT INTO windows", "COMMIT"),
        *("PRAGMA synchronous = FULL", "BEGIN IMMEDIATE", "INSERT INTO journal", "COMMIT"),
    ] * 2
    assert connections._writer.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    with connections.following() as feed:
        assert feed.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        with pytest.raises(sqlite3.OperationalError):
            feed.execute("DELETE FROM facts")
    index.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE facts SET value = replace(value, '3', '4') WHERE key = 'v3'",
        "UPDATE facts SET version = 2 WHERE key = 'v3'",
        "UPDATE facts SET key = 'v33' WHERE key = 'v3'",
        "UPDATE facts SET value = NULL WHERE key = 'v3'",
        "UPDATE facts SET digest = replace(digest, substr(digest, 1, 1), 'x') WHERE key = 'v3'",
    ],
)
def test_an_edited_fact_is_detected(path: Path, statement: str) -> None:
    """A row that is not what was written is a CorruptError that names kind and key."""
    _filled(path)
    _edit(path, statement)
    index = SqliteIndex(path)
    with pytest.raises(CorruptError, match="variant 'v33?'") as caught:
        index.load()
    assert caught.value.key in ("variant/v3", "variant/v33")
    with pytest.raises(CorruptError):
        index.get("variant", "v33" if "v33" in statement else "v3")
    assert index.get("variant", "v4") == {"n": 4}
    index.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET changes = replace(changes, '4', '5') WHERE revision = 5",
        "UPDATE journal SET actor = 'you' WHERE revision = 5",
        "UPDATE journal SET at = at + 1 WHERE revision = 5",
        "UPDATE journal SET changes = 'no json' WHERE revision = 5",
        "UPDATE journal SET previous = (SELECT previous FROM journal WHERE revision = 4) "
        "WHERE revision = 5",
        "DELETE FROM journal WHERE revision = 5",
    ],
)
def test_an_edited_journal_is_detected(path: Path, statement: str) -> None:
    """The chain of digests does not close over an edited, forged or missing entry."""
    _filled(path)
    _edit(path, statement)
    index = SqliteIndex(path)
    for after in (0, 3, 4):
        with pytest.raises(CorruptError, match="journal entry 5") as caught:
            index.changes(after)
        assert caught.value.key == "journal/5"
    assert len(index.changes(6)) == 4
    index.close()


def test_a_cut_tail_is_an_alarm_for_who_has_read_it(path: Path) -> None:
    """Removing the newest entries leaves a valid chain, but not for a process that saw more."""
    _filled(path)
    index = SqliteIndex(path)
    assert len(index.changes(0)) == 10
    _edit(path, "DELETE FROM journal WHERE revision > 7")
    with pytest.raises(CorruptError, match="revision 7, but 10 was read"):
        index.changes(10)
    index.close()


def test_damage_to_the_file_is_a_corrupt_error(path: Path) -> None:
    """Overwritten pages, and a file that is no database at all."""
    _filled(path, 200)
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 8192 * 3)
    with (
        pytest.raises(CorruptError, match="index.db is damaged"),
        contextlib.closing(SqliteIndex(path)) as index,
    ):
        index.load()
    path.write_bytes(b"this is not a database, but it is long enough to look at" * 100)
    with pytest.raises(CorruptError, match="damaged"):
        SqliteIndex(path)


def test_a_newer_schema_is_refused_untouched(path: Path) -> None:
    """A newer major says what to do; a newer minor is read and written on."""
    _filled(path)
    _edit(path, "UPDATE meta SET value = '2.0' WHERE key = 'schema'")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"schema 2\.0.*upgrade xenolect"):
        SqliteIndex(path)
    assert path.read_bytes() == before
    _edit(
        path,
        "UPDATE meta SET value = '1.7' WHERE key = 'schema'",
        "ALTER TABLE facts ADD COLUMN more TEXT DEFAULT 'kept'",
    )
    index = SqliteIndex(path)
    index.commit([Put("variant", "v1", "again")], actor="", at=0)
    index.close()
    db = sqlite3.connect(path)
    assert db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == ("1.7",)
    assert db.execute("SELECT more FROM facts WHERE key = 'v1'").fetchone() == ("kept",)
    db.close()


def test_a_foreign_database_is_refused_untouched(path: Path) -> None:
    """A database of something else is not written into."""
    _edit(path, "CREATE TABLE songs (title TEXT)")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="something else"):
        SqliteIndex(path)
    assert path.read_bytes() == before


def test_creation_cut_short_is_completed(path: Path) -> None:
    """A file whose first opening died between its steps is finished by the next one."""
    _filled(path)
    _edit(path, "DELETE FROM meta", "PRAGMA application_id = 0")
    index = SqliteIndex(path)
    assert index.load().revision == 10
    index.close()


def test_opening_again_spares_the_migrations(path: Path) -> None:
    """sqlite_utils is imported to create or migrate a file, never to open a current one."""
    _filled(path)
    script = (
        "import sys; from xenolect_backends.sqlite_index import SqliteIndex;"
        "i = SqliteIndex(sys.argv[1]); i.load(); i.close(); print('sqlite_utils' in sys.modules)"
    )
    out = subprocess.check_output([sys.executable, "-c", script, str(path)], text=True)
    assert out.strip() == "False"


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
    stop, strange = threading.Event(), []

    def work(job: Callable[[int], object]) -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                job(number)
        except BaseException as error:
            strange.append(error)

    jobs: list[Callable[[int], object]] = [
        lambda n: index.commit([Put("v", "parent", n)], actor="parent", at=0),
        lambda _: index.get("v", "parent"),
        lambda _: index.changes(1),
    ]
    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    children = []
    for number in range(10):
        children.append(os.fork())
        if children[-1] == 0:
            status = 1
            try:
                index.commit([Put("c", str(number), number)], actor="child", at=0)
                assert index.get("c", str(number)) == number
                status = 0
            finally:
                os._exit(status)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    stop.set()
    for thread in threads:
        thread.join()
    assert (statuses, strange) == ([0] * 10, [])
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


# -- several processes --------------------------------------------------------------------------


def _spawn(script: str, *arguments: object) -> subprocess.Popen[str]:
    prelude = """
        import sys
        from xenolect.errors import ConflictError
        from xenolect.facts import Drop, Observation, Put, Window
        from xenolect_backends.sqlite_index import SqliteIndex
        index = SqliteIndex(sys.argv[1])
    """
    code = textwrap.dedent(prelude) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_one_version(path: Path) -> None:
    """Both write the same fact from version 3: one wins, the other reads both versions in the error."""
    index = SqliteIndex(path)
    for number in range(3):
        index.commit([Put("variant", "zstd", number)], actor="", at=0)
    script = """
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            index.commit([Put("variant", "zstd", sys.argv[2], 3)], actor=sys.argv[2], at=0)
            print("won")
        except ConflictError as error:
            print(error, error.expected, error.found)
    """
    racers = [_spawn(script, path, name) for name in ("p1", "p2")]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate(timeout=30)[0].strip() for racer in racers]
    assert sorted(answers) == [
        "variant 'zstd' is at version 4, you expected 3; read it again and decide again 3 4",
        "won",
    ]
    assert index.get("variant", "zstd") == f"p{answers.index('won') + 1}"
    index.close()


def test_writers_that_checkpoint_at_once_lose_nothing(path: Path) -> None:
    """Four processes commit, append and copy the log back all the time: every acknowledged
    commit and observation is there once, and the chain is whole."""
    script = """
        connections = index._connections
        connections._checkpoint_at = 0
        for number in range(150):
            connections._checkpoint_at = 8192 * (number % 7)
            index.commit(
                [Put("count", sys.argv[2], number, number), Put("last", "writer", sys.argv[2])],
                actor=sys.argv[2], at=number,
                observations=[Observation("r", "canary", sys.argv[2], 1, 0, number)],
            )
            if number % 5 == 0:
                index.append_windows([Window(sys.argv[2], number, 60.0, 1, 0)] * 20)
            if number % 50 == 49:
                index.close()
                index = SqliteIndex(sys.argv[1], busy_timeout=60)
                connections = index._connections
        index.close()
        print("done")
    """
    writers = [_spawn(script, path, f"w{number}") for number in range(4)]
    for writer in writers:
        assert writer.communicate(timeout=100)[0] == "done\n"
    index = SqliteIndex(path)
    assert index.load().revision == 600
    assert replayed(index.changes(0)) == index.load()
    assert [each.sequence for each in index.observations("r", 0)] == list(range(1, 601))
    for number in range(4):
        assert index.get("count", f"w{number}") == 149
        assert sum(1 for _ in index.windows(f"w{number}", 0, 1e9)) == 600
    index.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_writers_lose_nothing_acknowledged(path: Path) -> None:
    """Kill a writer at random moments, twenty times: every acknowledged commit is there, whole, the
    chain is valid, and the next one goes on at once."""
    script = """
        print("ready", flush=True)
        index._connections._checkpoint_at = 8192 * 4
        for number in range(1_000_000):
            revision = index.commit(
                [Put("left", sys.argv[2], number), Put("right", sys.argv[2], number)],
                actor=sys.argv[2], at=number,
                observations=[Observation("r", "canary", sys.argv[2], 1, 0, number)],
            )
            print(number, revision, flush=True)
            index._connections._checkpoint_at = 8192 * (number % 5)
            index.append_windows([Window(sys.argv[2], number, 60.0, 1, 0)] * 3)
    """
    index: SqliteIndex | None = None
    acknowledged = 0
    for round_ in range(20):
        writer = _spawn(script, path, f"w{round_}")
        assert writer.stdout is not None
        writer.stdout.readline()
        # every second one not before its first commit, which a busy machine may not reach in time
        first = writer.stdout.readline() if round_ % 2 else ""
        time.sleep(0.0037 * round_)
        writer.send_signal(signal.SIGKILL)
        out = first + writer.communicate()[0]
        told = [tuple(map(int, line.split())) for line in out.split("\n")[:-1] if " " in line]
        if index is None or round_ % 3 == 0:  # with a reader there all the time, and without
            if index is not None:
                index.close()
            index = SqliteIndex(path)
        entries = index.changes(0)
        contents = index.load()
        assert replayed(entries) == contents
        mine = [entry for entry in entries if entry.actor == f"w{round_}"]
        for number, revision in told:
            assert entries[revision - 1].actor == f"w{round_}"
            assert entries[revision - 1].at == number
        # At most the one commit that was under way may be there without having been told.
        assert len(told) <= len(mine) <= len(told) + 1
        left = {fact.key: fact.value for fact in contents.facts if fact.kind == "left"}
        right = {fact.key: fact.value for fact in contents.facts if fact.kind == "right"}
        assert left == right
        assert len(index.observations("r", 0)) == contents.revision
        seen = sum(1 for _ in index.windows(f"w{round_}", 0, 1e9))
        assert seen % 3 == 0
        assert seen // 3 >= len(told) - 1
        acknowledged += len(told)
    assert index is not None
    assert acknowledged >= 10  # how many more depends on the disk
    index.close()


def test_one_process_hears_another(path: Path) -> None:
    """A commit of another process is in the feed at once, leases hold across processes."""
    index = SqliteIndex(path)
    assert index.lease("leader", "here", 0.0, 100.0).holder == "here"
    script = """
        print(index.lease("leader", "there", 50.0, 100.0).holder, flush=True)
        for line in sys.stdin:
            print(index.commit([Put("v", "a", line.strip())], actor="there", at=0), flush=True)
    """
    other = _spawn(script, path)
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "here\n"
    for number in range(1, 6):
        assert list(index.changes(number - 1)) == []
        other.stdin.write(f"{number}\n")
        other.stdin.flush()
        assert other.stdout.readline() == f"{number}\n"
        (entry,) = index.changes(number - 1)
        assert entry.actor == "there"
        assert index.get("v", "a") == str(number)
    other.communicate()
    with pytest.raises(ConflictError):
        index.commit([Put("v", "a", 1, 2)], actor="", at=0)
    index.append_windows([Observation("r", "canary", "u", 1, 0, 0.0)])
    index.close()


def _flip(path: Path, table: str, column: str, value: Any) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(f"UPDATE {table} SET {column} = ?", (value,))
    db.close()


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("observations", "failures", 7),
        ("observations", "arm", "control"),
        ("observations", "latency_ms", 1.0),
        ("observations", "digest", ""),
        ("windows", "count", 99),
        ("windows", "bins", "[[1,2]]"),
        ("rollups", "failures", 5),
        ("leases", "holder", "somebody"),
        ("leases", "until", 9e9),
    ],
)
def test_an_edited_measurement_is_never_believed(
    tmp_path: Path, table: str, column: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Evidence is refused whole; a window, a roll-up or a lease is left out; all are named."""
    path = tmp_path / "index.db"
    index = SqliteIndex(path)
    index.append_windows(
        [
            Observation("r", "canary", "a", 3, 1, 5, 12.5, {"bytes": 2.0}, "w"),
            Window("v", 60, 60, 10, 1, [[3, 10]], {"bytes": [4.0, 2]}),
        ]
    )
    since, until, _ = index.unrolled(10)
    index.roll_up(since, until, [Rollup("v", 0, 3600, 10, 1, [[3, 10]], resolution="hourly")])
    index.lease("leader/r", "me", 10.0, 100.0)
    assert list(index.damage()) == []
    index.close()
    _flip(path, table, column, value)

    index = SqliteIndex(path)
    assert list(index.damage()) == [f"{table}/1"]
    caplog.clear()
    if table == "observations":
        with pytest.raises(CorruptError, match=r"observation 1 .* not what was written"):
            index.observations("r", 0)
        assert column == "arm" or not caplog.records
    elif table == "windows":
        assert list(index.windows("v", 0, 1e6)) == []
    elif table == "rollups":
        assert list(index.rollups("v", "hourly", 0, 1e6)) == []
    else:
        assert [lease.holder for lease in index.leases("leader/", 20.0)] == ["(damaged)"]
        taken = index.lease("leader/r", "other", 20.0, 100.0)
        assert (taken.holder, taken.epoch) == ("other", 2)
    if table != "observations":
        assert "not what was written" in caplog.text
    index.close()


def test_an_older_file_learns_to_count_batches(tmp_path: Path) -> None:
    """A file of the schema before gets the table for them; what is in it stays, and an older release,
    which knows nothing of it, goes on appending."""
    path = tmp_path / "index.db"
    index = SqliteIndex(path)
    window = Window("v", 60.0, 60.0, 10, 1)
    index.append_windows([window])
    index.close()
    db = sqlite3.connect(path)
    with db:
        db.execute("DROP TABLE batches")
        db.execute("DELETE FROM _sqlite_migrations WHERE name = 'batches'")
        db.execute("UPDATE meta SET value = '1.3' WHERE key = 'schema'")
    db.close()
    index = SqliteIndex(path)
    for _ in range(2):
        index.append_windows([window], once=Batch("p1", 1))
    index.append_windows([window])
    assert len(list(index.windows("v", 0.0, 1e6))) == 3
    assert list(index.damage()) == []
    _edit(path, "UPDATE batches SET number = 99")
    assert list(index.damage()) == ["batches/1"]
    index.append_windows(
        [window], once=Batch("p1", 2)
    )  # a number that nobody wrote counts for nothing
    assert len(list(index.windows("v", 0.0, 1e6))) == 4
    assert list(index.damage()) == []
    index.close()


def test_an_older_file_gets_digests(tmp_path: Path) -> None:
    """Rows that were written before there were digests are sealed when the file is opened."""
    path = tmp_path / "index.db"
    index = SqliteIndex(path)
    index.append_windows([Window("v", 60.0, 60.0, 10, 1)])
    index.lease("leader/r", "me", 10.0, 100.0)
    index.close()
    db = sqlite3.connect(path)
    with db:
        for table in ("observations", "windows", "rollups", "leases"):
            db.execute(f"ALTER TABLE {table} DROP COLUMN digest")
        db.execute("DELETE FROM _sqlite_migrations WHERE name = 'digests_of_rows'")
        db.execute("UPDATE meta SET value = '1.2' WHERE key = 'schema'")
    db.close()
    index = SqliteIndex(path)
    assert [window.count for window in index.windows("v", 0.0, 1e6)] == [10]
    assert index.lease("leader/r", "me", 11.0, 100.0).epoch == 1
    assert list(index.damage()) == []
    index.close()
