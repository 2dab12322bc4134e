"""Every bundled index passes the kit; what is special about SQLite is shown apart."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from xenolect._registry import Registry
from xenolect.errors import (
    ConfigError,
    CorruptError,
    InvalidError,
)
from xenolect.facts import Batch, Put, Window
from xenolect.interfaces import Index
from xenolect.testing import IndexTests
from xenolect_backends import xenolect_index_storage
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


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_an_index_that_can_not_be_opened_is_let_go_of(path: Path) -> None:
    """No file stays open, also where what SQLite says of the damage is no text itself."""
    _filled(path)
    whole = path.read_bytes()
    row = b"tableleasesleases"  # type, name and table of a row of the schema, which SQLite's message quotes
    assert whole.count(row) == 1
    path.write_bytes(whole.replace(row, b"tablele\xffsesleases"))
    with pytest.raises(CorruptError, match="damaged") as caught:
        SqliteIndex(path)
    assert caught.value.key == str(path)
    files = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert [file for file in files if file.startswith(str(path))] == []


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
