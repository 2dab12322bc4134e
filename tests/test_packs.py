"""Bulk saves: chunks that share an object."""

import hashlib
import io
import itertools
import random

import pytest
from tests.desk import Desk

from xenolect.errors import CorruptError, StorageError
from xenolect.testing import FaultyChunks
from xenolect_backends import fsspec_chunks
from xenolect_backends.memory import MemoryChunks

CHUNK = 1024
MANY = 150


def noise(size, seed=1):
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def packs(desk):
    """The keys of the packs."""
    return sorted(key for key in desk.objects() if "/pack_" in key)


def entries(desk, version=None):
    """The table of a version."""
    return desk.states._versions.located("zstd", version)[1].table


@pytest.mark.parametrize("make", [bytes, bytearray, io.BytesIO])
def test_a_bulk_save_makes_few_objects(make):
    """8 chunks alone, the others in packs of up to 64 chunks; every way to read gives them back."""
    chunks = FaultyChunks(MemoryChunks(), only="put")
    desk = Desk(chunks=chunks)
    data = noise(MANY * CHUNK + 5)

    ref = desk.states.put("zstd", make(data))

    assert ref.chunks == MANY + 1
    inside = [entry for entry in entries(desk) if entry.object.startswith("pack_")]
    assert len(inside) == MANY + 1 - 8
    assert len({entry.object for entry in inside}) == len(packs(desk)) <= 4
    for name in {entry.object for entry in inside}:
        places = sorted((e.offset, e.length) for e in inside if e.object == name)
        assert len(places) <= 64
        assert places[0][0] == 0
        assert all(a + n == b for (a, n), (b, _) in itertools.pairwise(places))
    assert desk.states.get("zstd") == data
    with desk.states.open("zstd") as reader:
        reader.seek(77 * CHUNK - 3)
        assert reader.read(9) == data[77 * CHUNK - 3 :][:9]
    assert desk.states.verify().problems == ()


def test_files_read_parts_of_packs(tmp_path):
    """The same from a directory, where reading goes into kept memory."""
    desk = Desk(chunks=fsspec_chunks.FsspecChunks(tmp_path))
    data = noise(MANY * CHUNK)
    desk.states.put("zstd", data)

    buffer = bytearray(len(data))
    desk.states.read_into("zstd", buffer)

    assert buffer == data
    assert len(list(tmp_path.rglob("pack_*"))) == len(packs(desk)) >= 1


def test_a_chunk_in_a_pack_is_patched_alone_and_the_pack_stays():
    """While any of its chunks is needed; gc removes it once none is."""
    desk = Desk(gc_grace=0)
    data = bytearray(noise(MANY * CHUNK))
    desk.states.put("zstd", data)
    before = packs(desk)

    desk.states.patch("zstd", {100 * CHUNK: b"new"})
    data[100 * CHUNK : 100 * CHUNK + 3] = b"new"

    assert desk.states.get("zstd") == data
    assert packs(desk) == before
    assert entries(desk)[100].object.startswith("chunk_")
    desk.states.gc(grace=0)
    assert packs(desk) == before


@pytest.mark.parametrize("how", ["flip", "short", "gone", "swap"])
def test_damage_in_a_pack_is_named(how):
    """A flipped byte, a missing end, a missing pack, two packs in each other's place."""
    desk = Desk()
    desk.states.put("zstd", noise(MANY * CHUNK))
    victim = next(entry for entry in reversed(entries(desk)) if entry.offset)
    key = f"variants/zstd/state/{victim.object}"
    data = bytearray(desk.chunks.get(key))
    other = next(k for k in packs(desk) if k != key)
    if how == "flip":
        data[victim.offset + victim.length // 2] ^= 1
    elif how == "short":
        del data[-1:]
    elif how == "swap":
        data = desk.chunks.get(other)
    desk.chunks.delete(key)
    if how != "gone":
        desk.chunks.put(key, bytes(data))

    with pytest.raises(CorruptError, match=r"pack_"):
        desk.states.get("zstd")
    assert {problem.key for problem in desk.states.verify().problems} == {key}


@pytest.mark.parametrize("which", ["first", "later"])
def test_a_pack_that_can_not_be_stored_stores_nothing(which):
    """The error comes out, the old state stays, and what was stored is removed again."""
    memory = MemoryChunks()
    desk = Desk(chunks=memory)
    old = noise(CHUNK, 2)
    desk.states.put("zstd", old)
    before = sorted(desk.objects())

    class Full(FaultyChunks):
        def put(self, key, data, *, if_absent=True):
            if "/pack_" in key:
                super().put(key, data, if_absent=if_absent)
            else:
                self.inner.put(key, data, if_absent=if_absent)

    desk.chunks = Full(memory, only="put", fail_at=1 if which == "first" else 2, lasting=True)
    with pytest.raises(StorageError):
        desk.states.put("zstd", noise(MANY * CHUNK))
    desk.chunks = memory

    assert desk.states.get("zstd") == old
    assert sorted(desk.objects()) == before


def test_the_sha256_of_all_is_known_up_to_16_chunks():
    """Above, root identifies the content."""
    desk = Desk()
    for count in (16, 17):
        for state in (noise(count * CHUNK), bytearray(noise(count * CHUNK))):
            for _ in range(2):
                ref = desk.states.put("zstd", state)
                known = hashlib.sha256(state).hexdigest() if count == 16 else None
                assert ref.sha256 == known
