"""The SQLite index in several processes, and rows that somebody edited."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from xenolect.errors import (
    ConflictError,
    CorruptError,
)
from xenolect.facts import Observation, Put, Rollup, Window
from xenolect.testing.index import replayed
from xenolect_backends.sqlite_index import SqliteIndex


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the index is."""
    return tmp_path / "index.db"


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
