"""Every bundled chunk store passes the kit; what is special about files is shown apart."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xenolect._registry import Registry
from xenolect.errors import (
    CorruptError,
    InvalidError,
    NotFoundError,
    StorageError,
    StorageFullError,
)
from xenolect.interfaces import ChunkStore
from xenolect.testing import ChunkStoreTests, FaultyChunks
from xenolect_backends import xenolect_chunk_storage
from xenolect_backends.fsspec_chunks import FsspecChunks
from xenolect_backends.memory import MemoryChunks


class TestMemory(ChunkStoreTests):
    """Chunks in a dictionary."""

    def make(self, place: Path) -> ChunkStore:
        return MemoryChunks(str(place))


class TestFiles(ChunkStoreTests):
    """Chunks in a directory."""

    examples = 10

    def make(self, place: Path) -> ChunkStore:
        return FsspecChunks(place)

    def peek(self, place: Path, key: str) -> bytes:
        return (place / key).read_bytes()


class TestFileUrl(ChunkStoreTests):
    """The same directory as a URL."""

    examples = 2

    def make(self, place: Path) -> ChunkStore:
        return FsspecChunks(place.as_uri())

    def peek(self, place: Path, key: str) -> bytes:
        return (place / key).read_bytes()


class TestFsspecMemory(ChunkStoreTests):
    """A file system of fsspec's that is not local."""

    def make(self, place: Path) -> ChunkStore:
        return FsspecChunks(f"memory://{place.as_posix()}")


# -- offers -------------------------------------------------------------------------------------


def test_offers_are_made_by_name(tmp_path: Path) -> None:
    """A configuration picks a store by name and fills its options; a wrong option is named."""
    registry = Registry.collect(bundled=["xenolect_backends"])
    assert {each.name for each in xenolect_chunk_storage()} == {"fsspec", "memory", "obstore"}
    made = registry.make(
        "chunks", "fsspec", {"url": str(tmp_path / "s"), "timeout": "5s"}, "chunks"
    )
    made.put("a", b"x")
    assert (tmp_path / "s" / "a").read_bytes() == b"x"
    registry.make("chunks", "memory", {}, "chunks").put("a", b"x")
    with pytest.raises(InvalidError, match=r"chunks\.ulr.*did you mean 'url'"):
        registry.make("chunks", "fsspec", {"ulr": "x"}, "chunks")


def test_importing_the_backends_is_cheap() -> None:
    """The package and its offers import neither fsspec nor SQLite's tools nor zstandard."""
    script = (
        "import sys, xenolect_backends as b; list(b.xenolect_chunk_storage());"
        "list(b.xenolect_index_storage());"
        "print([m for m in ('fsspec', 'sqlite_utils', 'zstandard', 'sqlite3') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


def test_the_kits_say_what_they_need() -> None:
    """Without pytest, importing the kits names the extra to install."""
    script = "import sys; sys.modules['pytest'] = None; import xenolect.testing"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'xenolect[testing]'" in done.stderr


def test_an_unknown_url_says_what_is_missing() -> None:
    """A URL whose driver is not installed is refused with its name."""
    with pytest.raises(StorageError, match="nosuch"):
        FsspecChunks("nosuch://bucket/x")


# -- files --------------------------------------------------------------------------------------


def test_links_out_of_the_store_are_not_followed(tmp_path: Path) -> None:
    """A planted link to a directory or a file is refused in every verb, and never listed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store = FsspecChunks(tmp_path / "store")
    store.put("a/real", b"x")
    (tmp_path / "store" / "dir").symlink_to(outside)
    (tmp_path / "store" / "a" / "file").symlink_to(outside / "secret")
    for key in ("dir/secret", "a/file"):
        with pytest.raises(CorruptError, match="symbolic link"):
            store.get(key)
        with pytest.raises(CorruptError, match="symbolic link"):
            store.get_range(key, 0, 3)
        with pytest.raises(CorruptError, match="symbolic link"):
            store.put(key, b"overwritten", if_absent=False)
        with pytest.raises(CorruptError, match="symbolic link"):
            store.delete(key)
    with pytest.raises(CorruptError):
        store.put("dir/new", b"x")
    assert list(store.list("")) == ["a/real"]
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    """Where the store itself lies is its owner's choice."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    FsspecChunks(tmp_path / "store").put("a/b", b"x")
    assert (tmp_path / "disk" / "a" / "b").read_bytes() == b"x"


def test_unfinished_files_are_hidden_and_old_ones_removed(tmp_path: Path) -> None:
    """What a dead writer left behind is never listed, and removed once it is a day old."""
    store = FsspecChunks(tmp_path)
    store.put("a/b", b"x")
    fresh, old = tmp_path / "a" / ".tmp-fresh", tmp_path / "a" / ".tmp-old"
    fresh.write_bytes(b"half")
    old.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert list(store.list("")) == ["a/b"]
    assert fresh.exists()
    assert not old.exists()
    with pytest.raises(InvalidError):
        store.get("a/.tmp-fresh")


def test_a_key_under_an_object_is_refused(tmp_path: Path) -> None:
    """An object can not be a directory; the message says so."""
    store = FsspecChunks(tmp_path)
    store.put("a", b"x")
    with pytest.raises(InvalidError, match="under another object"):
        store.put("a/b", b"x")


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A write the system cuts short (here: a limit of file size) is StorageFullError, no remains."""
    script = """
import resource, signal, sys
from xenolect_backends.fsspec_chunks import FsspecChunks
from xenolect.errors import StorageFullError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = FsspecChunks(sys.argv[1])
store.put("small", b"x" * 50_000)
for if_absent in (True, False):
    try:
        store.put("large", b"x" * 200_000, if_absent=if_absent)
    except StorageFullError as error:
        print("full", "large" in str(error), error.retryable)
print(list(store.list("")))
"""
    out = subprocess.check_output([sys.executable, "-c", script, str(tmp_path)], text=True)
    assert out.splitlines() == ["full True False", "full True False", "['small']"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]


def test_what_is_deleted_stays_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is synced before ``delete`` returns, also by who deletes again after that failed; a sync
    that fails is an error."""
    store = FsspecChunks(tmp_path / "store")
    store.put("keys/a.1.json", b"x")
    synced: list[str] = []

    def failing(folder: str) -> None:
        synced.append(os.path.basename(folder))
        if len(synced) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("xenolect_backends._local.sync_directory", failing)
    with pytest.raises(StorageError, match="deleting 'keys/a.1.json'"):
        store.delete("keys/a.1.json")
    store.delete("keys/a.1.json")
    store.delete("never/was")
    store.delete("keys")
    assert synced[:2] == ["keys", "keys"]
    with pytest.raises(NotFoundError):
        store.get("keys/a.1.json")


def test_foreign_errors_are_wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error and a lack of hard links are StorageErrors that say what to do."""
    store = FsspecChunks(tmp_path)

    def fail(number: int) -> None:
        def link(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", link)

    fail(errno.EIO)
    with pytest.raises(StorageError, match="writing 'a'"):
        store.put("a", b"x")
    fail(errno.EPERM)
    with pytest.raises(StorageError, match="hard links"):
        store.put("a", b"x")
    fail(errno.ENOSPC)
    with pytest.raises(StorageFullError):
        store.put("a", b"x")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_writers_leave_whole_objects_or_none(tmp_path: Path) -> None:
    """Kill a writer at random moments: every object that exists is whole, every acknowledged one is there."""
    script = """
import sys
from xenolect_backends.fsspec_chunks import FsspecChunks
store = FsspecChunks(sys.argv[1])
for n in range(100_000):
    store.put(f"chunks/{sys.argv[2]}-{n}", (b"%08d" % n) * 8192)
    print(n, flush=True)
"""
    store = FsspecChunks(tmp_path)
    for round_ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(round_)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.013 * round_)
        writer.send_signal(signal.SIGKILL)
        told = [int(line) for line in writer.communicate()[0].split(b"\n")[:-1]]
        for number in told:
            assert store.get(f"chunks/{round_}-{number}") == (b"%08d" % number) * 8192
    for key in store.list("chunks/"):
        number = int(key.rpartition("-")[2])
        assert store.get(key) == (b"%08d" % number) * 8192


def _create_in_child(place: str, number: int, queue: object) -> None:
    store = FsspecChunks(place)
    won = 0
    for round_ in range(30):
        try:
            store.put(f"race/{round_}", bytes([number]) * 100)
            won += 1
        except Exception as error:
            if type(error).__name__ != "DuplicateError":
                won = -1000
    queue.put(won)  # type: ignore[attr-defined]


def test_processes_race_for_names(tmp_path: Path) -> None:
    """Three processes create the same 30 keys: 30 successes in all."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    racers = [
        context.Process(target=_create_in_child, args=(str(tmp_path), number, queue))
        for number in range(3)
    ]
    for racer in racers:
        racer.start()
    won = [queue.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    assert sum(won) == 30


# -- doubles ------------------------------------------------------------------------------------


def test_faulty_chunks_fail_when_told() -> None:
    """The double fails at the call it was told, before anything happens, and goes on after it."""
    inner = MemoryChunks()
    store = FaultyChunks(inner, fail_at=2, only="put")
    store.put("a", b"x")
    with pytest.raises(StorageError):
        store.put("b", b"x")
    store.put("c", b"x")
    assert list(inner.list("")) == ["a", "c"]
    assert store.calls == ["put"] * 3
    full = FaultyChunks(inner, fail_at=1, error=StorageFullError("full"), lasting=True)
    for _ in range(2):
        with pytest.raises(StorageFullError):
            full.get("a")
    with pytest.raises(NotFoundError):
        FaultyChunks(inner).get("zz")
