"""The store through the kit, in use by a manager, and read by SQLite itself."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest
from xenolect_sqlar.store import SqlarChunks

from xenolect import EmergenceManager
from xenolect.errors import CorruptError, InvalidError, StorageFullError
from xenolect.testing import ChunkStoreTests, fork_among_threads


class TestSqlar(ChunkStoreTests):
    """It keeps every promise of a chunk store."""

    examples = 5
    rounds = 3

    def make(self, place: Path) -> SqlarChunks:
        """The file beside the place."""
        return SqlarChunks(f"{place}.sqlar")

    def peek(self, place: Path, key: str) -> bytes:
        """Past the store: SQLite's own reading of the row."""
        db = sqlite3.connect(f"{place}.sqlar")
        try:
            return bytes(db.execute("SELECT data FROM sqlar WHERE name = ?", (key,)).fetchone()[0])
        finally:
            db.close()


def test_a_manager_keeps_states_in_it(tmp_path: Path) -> None:
    """Named in the configuration; states come back after a restart and verify."""
    settings = {"chunks": {"use": "sqlar", "path": str(tmp_path / "chunks.sqlar")}}
    with EmergenceManager.open(tmp_path / "store", **settings) as manager:
        manager.variants.activate(manager.variants.propose("zstd", {}, id="zstd"))
        manager.states.put("zstd", b"dictionary" * 1000)
        manager.points.create("zstd")
    with EmergenceManager.open(tmp_path / "store", **settings) as manager:
        assert manager.states.get("zstd") == b"dictionary" * 1000
        assert manager.states.verify().ok
        assert manager.status()["parts"]["chunks"] == "sqlar"


def test_it_is_an_archive(tmp_path: Path) -> None:
    """Name, mode, time, size and data are where SQLite's archive tool looks for them."""
    store = SqlarChunks(str(tmp_path / "a.sqlar"))
    store.put("a/b", b"xyz")
    store.close()
    db = sqlite3.connect(tmp_path / "a.sqlar")
    name, mode, size, data = db.execute("SELECT name, mode, sz, data FROM sqlar").fetchone()
    db.close()
    assert (name, oct(mode), size, data) == ("a/b", "0o100444", 3, b"xyz")


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    """A file of something else is left alone."""
    (tmp_path / "notes.txt").write_text("not a database, but long enough to look like one" * 40)
    with pytest.raises(CorruptError, match="notes.txt is no archive, or damaged"):
        SqlarChunks(str(tmp_path / "notes.txt"))


def test_damage_that_is_no_text_is_damage(tmp_path: Path) -> None:
    """SQLite quotes the broken name of a table in its message, which then can not be decoded."""
    path = tmp_path / "a.sqlar"
    SqlarChunks(str(path)).close()
    row = b"tablesqlarsqlar"  # type, name and table of a row of the schema
    assert path.read_bytes().count(row) == 1
    path.write_bytes(path.read_bytes().replace(row, b"tablesq\xffarsqlar"))
    with pytest.raises(CorruptError, match="no archive, or damaged"):
        SqlarChunks(str(path))


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """Nothing is lost, and it works again when there is space."""
    store = SqlarChunks(str(tmp_path / "a.sqlar"))
    store.put("kept", b"1")
    with store._use() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StorageFullError, match="nothing was changed"):
        store.put("large", b"x" * 100_000)
    assert list(store.list("")) == ["kept"]
    store._connection.execute("PRAGMA max_page_count = 1000000")
    store.put("large", b"x" * 100_000)
    assert store.get("large") == b"x" * 100_000
    store.close()
    with pytest.raises(InvalidError, match="is closed"):
        store.get("kept")


def _child(store: SqlarChunks) -> None:
    store.put("child", b"2")
    assert store.get("parent") == b"1"
    store.close()


def test_a_forked_process_opens_its_own(tmp_path: Path) -> None:
    """The child writes through a connection of its own; the parent's goes on."""
    store = SqlarChunks(str(tmp_path / "a.sqlar"))
    store.put("parent", b"1")
    process = multiprocessing.get_context("fork").Process(target=_child, args=(store,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert store.get("child") == b"2"
    store.close()


def test_forks_among_threads_that_read_and_write(tmp_path: Path) -> None:
    """A process whose threads never rest forks, and neither side loses what the other wrote."""
    store = SqlarChunks(str(tmp_path / "a.sqlar"))
    store.put("parent", b"0")
    made = []

    def put(number: int) -> None:
        store.put(f"parent-{number}", b"1")
        made.append(number)

    fork_among_threads(
        [put, lambda _: store.get("parent")], lambda n: store.put(f"child-{n}", b"2"), 5
    )
    assert len(list(store.list("child-"))) == 5
    assert len(list(store.list("parent-"))) == len(made)
    store.close()
