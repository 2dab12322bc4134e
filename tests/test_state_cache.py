"""The verified cache: what was read whole and checked is there again, and nobody can change it."""

import ctypes
import io
import mmap
import os
import sys

import pytest
from tests.desk import Desk

from xenolect import EmergenceManager
from xenolect._state_cache import Cache, Room
from xenolect.testing import FaultyChunks
from xenolect_backends.memory import MemoryChunks

CHUNK = 1024


def counted(size=100_000):
    """A desk with a cache, and the store's reads."""
    chunks = FaultyChunks(MemoryChunks())
    return Desk(chunks=chunks, cache_size=size), chunks


def test_a_second_read_touches_no_chunk():
    """get, a reader and its buffer give the same bytes, whichever of them read first."""
    data = os.urandom(10 * CHUNK + 7)
    reads = {
        "get": lambda desk: desk.states.get("zstd"),
        "read": lambda desk: desk.states.open("zstd").read(),
        "getbuffer": _buffer,
        "seek": lambda desk: data[:500] + _after(desk, 500),
    }
    for first in ("get", "read", "getbuffer"):
        desk, chunks = counted()
        desk.states.put("zstd", data)
        assert reads[first](desk) == data
        before = len(chunks.calls)
        for read in reads.values():
            assert read(desk) == data
        assert len(chunks.calls) == before
        status = desk.states.cache()
        assert (status.hits, status.misses, status.states) == (4, 1, 1)
        assert status.bytes == len(data)
        assert status.hit_rate == 0.8


def _buffer(desk):
    with desk.states.open("zstd") as reader:
        return reader.raw.getbuffer()


def _after(desk, start):
    with desk.states.open("zstd") as reader:
        reader.seek(start)
        return reader.read()


def test_a_hit_is_no_copy():
    """Two readers show the same memory, which stays good after they are closed."""
    desk, _ = counted()
    data = os.urandom(5 * CHUNK)
    desk.states.put("zstd", data)
    views = []
    for _ in range(3):
        with desk.states.open("zstd") as reader:
            views.append(reader.raw.getbuffer())
    assert all(view == data for view in views)
    assert all(view.obj is views[0].obj for view in views[1:])


def test_json_is_kept_as_its_text():
    """A value that a caller changes is the caller's own."""
    desk, chunks = counted()
    desk.states.put("json", {"window": [1, 2]})
    desk.states.get("json")["window"].append(3)
    before = len(chunks.calls)
    assert desk.states.get("json") == {"window": [1, 2]}
    assert len(chunks.calls) == before


def test_versions_are_told_apart_and_a_version_that_is_the_same_is_a_hit():
    """By the manifest: a new content is never answered with an old one."""
    desk, _ = counted()
    for text in (b"one", b"two", b"two"):
        desk.states.put("zstd", text)
    assert [desk.states.get("zstd", version=v) for v in (1, 2, 3, 1)] == [
        b"one",
        b"two",
        b"two",
        b"one",
    ]
    assert desk.states.cache().states == 2
    assert desk.states.cache().hits == 2


def test_the_cache_is_bounded_by_bytes():
    """The least recently used goes; what is larger than all of it is not kept, nor counted."""
    desk, _ = counted(size=3 * CHUNK)
    for _ in range(4):
        desk.states.put("zstd", os.urandom(CHUNK))
    for version in (1, 2, 3, 1, 4):
        desk.states.get("zstd", version=version)
    assert desk.states.cache().bytes == 3 * CHUNK
    hits = desk.states.cache().hits
    desk.states.get("zstd", version=1)
    assert desk.states.cache().hits == hits + 1
    desk.states.get("zstd", version=2)
    assert desk.states.cache().hits == hits + 1

    desk.states.put("json", os.urandom(3 * CHUNK + 1))
    looks = desk.states.cache()
    desk.states.get("json")
    assert desk.states.cache() == looks
    none, _ = counted(size=0)
    none.states.put("zstd", b"x")
    none.states.get("zstd")
    assert none.states.cache().row() == {
        "limit": 0, "bytes": 0, "states": 0, "hits": 0, "misses": 0, "hit_rate": None,
    }  # fmt: skip


def test_the_cache_is_cleared_for_one_or_for_all():
    """Views handed out stay good."""
    desk, _ = counted()
    desk.states.put("zstd", b"z" * 9)
    desk.states.put("json", b"j" * 7)
    view = _buffer(desk)
    desk.states.get("json")
    assert desk.states.clear_cache("zstd") == 9
    assert desk.states.cache().states == 1
    assert desk.states.clear_cache() == 7
    assert desk.states.cache().bytes == 0
    assert view == b"z" * 9


def test_what_fails_its_check_is_not_kept():
    """A damaged state is read from the store, and refused, each time."""
    desk, _ = counted()
    desk.states.put("zstd", os.urandom(3 * CHUNK))
    key = next(k for k in desk.objects() if "chunk_" in k)
    good = desk.chunks.get(key)
    desk.chunks.delete(key)
    desk.chunks.put(key, good[:-1] + bytes([good[-1] ^ 1]))
    for _ in range(2):
        with pytest.raises(Exception, match="chunk_"):
            desk.states.get("zstd")
    assert desk.states.cache().states == 0


def test_what_is_kept_can_not_be_written():
    """Not through the view, and on Linux not through the memory below it either."""
    room = Room(CHUNK)
    room.view[:] = b"x" * CHUNK
    view = Cache(CHUNK).keep(("v", "d"), room)
    with pytest.raises(TypeError):
        view[0] = 1
    assert view == b"x" * CHUNK
    if sys.platform == "linux":
        assert isinstance(view.obj, mmap.mmap)
        with pytest.raises(TypeError):  # not even ctypes gets at memory that is mapped to be read
            ctypes.c_char.from_buffer(view)


def test_a_traceback_that_holds_a_part_does_no_harm():
    """The memory can not be mapped anew then; the view is read-only all the same."""
    room = Room(CHUNK)
    part = room.view[:10]
    view = room.seal()
    assert view.readonly
    assert len(view) == CHUNK
    assert bytes(part) == bytes(10)


def test_status_tells_the_hit_rate(tmp_path):
    """As ``manager.status()``."""
    with EmergenceManager.open(tmp_path, background=False) as manager:
        manager.variants.propose("x", {}, id="x")
        manager.states.put("x", io.BytesIO(b"state"))
        assert manager.status()["state_cache"]["hit_rate"] is None
        for _ in range(4):
            assert manager.states.get("x") == b"state"
        row = manager.status()["state_cache"]
        assert (row["hits"], row["misses"], row["hit_rate"]) == (3, 1, 0.75)
        assert row["limit"] == 256 * 1024 * 1024
