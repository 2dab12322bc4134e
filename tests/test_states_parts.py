"""States in parts: patched, read lazily, within limits, by several writers."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.desk import CHUNK, Desk, noise

from xenolect import (
    ConflictError,
    InvalidError,
    LimitError,
    StateNotFoundError,
)
from xenolect.testing import FaultyChunks
from xenolect_backends.memory import MemoryChunks, MemoryIndex

TOTAL = hashlib.sha256


@pytest.fixture
def desk():
    """One process on memory parts, chunks of 1 KiB."""
    return Desk()


# -- patching and reading in parts ------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_patches_do_what_slices_do(data):
    """A model that is a bytearray agrees after any series of patches, also through the reader."""
    desk = Desk(chunk_size=16)
    model = bytearray(data.draw(st.binary(max_size=100)))
    desk.states.put("zstd", bytes(model))
    for _ in range(data.draw(st.integers(1, 4))):
        cuts = sorted(data.draw(st.lists(st.integers(0, len(model)), max_size=4)))
        patch = {}
        for start, stop in zip(cuts[::2], cuts[1::2], strict=False):
            if start not in patch:
                patch[start] = data.draw(st.binary(max_size=stop - start))
        if data.draw(st.booleans()):
            patch[len(model)] = data.draw(st.binary(max_size=50))
        for offset, part in patch.items():
            model[offset : offset + len(part)] = part

        ref = desk.states.patch("zstd", patch)

        assert desk.states.get("zstd") == model
        assert ref.size == len(model)
        assert ref.sha256 in (None, TOTAL(model).hexdigest())
        with desk.states.open("zstd") as reader:
            at = data.draw(st.integers(0, len(model) + 5))
            size = data.draw(st.integers(0, 60))
            reader.seek(at)
            assert reader.read(size) == model[at : at + size]
    whole = Desk(chunk_size=16)
    assert whole.states.put("zstd", bytes(model)).root == ref.root


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({11: b"x"}, "a patch at 11 leaves a gap behind the end at 10"),
        ({0: b"abc", 2: b"x"}, "the patch at 0 reaches over the one at 2"),
        ({-1: b"x"}, "the offset -1 is no whole number"),
        ({True: b"x"}, "the offset True is no whole number"),
        ({0: "text"}, "the patch at 0 is str; give bytes"),
        (b"bytes", "a patch is a mapping"),
    ],
)
def test_patches_that_mean_nothing_are_refused(desk, patch, message):
    """Gaps, overlaps, negative offsets, text: nothing is changed."""
    desk.states.put("zstd", bytes(10))

    with pytest.raises(InvalidError, match=message):
        desk.states.patch("zstd", patch)

    assert desk.states.versions("zstd")[-1].version == 1


def test_json_is_not_patched(desk):
    """Patched text need not be JSON; the error says what to do instead."""
    desk.states.put("zstd", {"a": 1})

    with pytest.raises(InvalidError, match="is JSON, and patched text need not be JSON; get it"):
        desk.states.patch("zstd", {0: b"{"})
    with pytest.raises(StateNotFoundError):
        desk.states.patch("json", {0: b"x"})


def test_a_reader_reads_only_the_chunks_it_shows():
    """Opening reads no chunk; each one is read when its first byte is asked for, and seeks are free."""
    chunks = FaultyChunks(MemoryChunks(), only="get")
    desk = Desk(chunks=chunks)
    data = noise(7 * CHUNK + 100)
    desk.states.put("zstd", data)
    before = len(chunks.calls)

    with desk.states.open("zstd") as reader:
        assert len(chunks.calls) == before
        assert reader.seekable()
        assert reader.readable()
        assert not reader.writable()
        assert reader.raw.ref.version == 1
        assert reader.seek(-50, io.SEEK_END) == len(data) - 50
        assert reader.raw.read(10) == data[-50:-40]
        assert len(chunks.calls) == before + 1
        assert reader.seek(3) == 3
        assert reader.read(5) == data[3:8]
        assert reader.seek(len(data) + 10) == len(data) + 10
        assert reader.read() == b""
        with pytest.raises(InvalidError):
            reader.raw.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        reader.read()


def test_read_into_says_what_it_needs(desk):
    """Short and read-only buffers, unknown checks, and tags where there is no cipher."""
    desk.states.put("zstd", bytes(100))
    for buffer, verify, message in (
        (bytearray(99), "sha256", "has 100 bytes, the buffer is 99 bytes long"),
        (bytes(100), "sha256", "the buffer is read-only"),
        (bytearray(100), "crc", "must be 'sha256' or 'tag'"),
        (bytearray(100), "tag", "needs a cipher: without one nothing but the SHA-256 tells"),
        ("text", "sha256", "str is no buffer"),
    ):
        with pytest.raises(InvalidError, match=message):
            desk.states.read_into("zstd", buffer, verify=verify)


# -- limits and memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "stream", "json", "patch"])
def test_states_above_the_limit_are_refused(kind):
    """By the size where it is known, else when it is passed; nothing stays behind."""
    desk = Desk(max_size=5000)
    desk.states.put("zstd", noise(5000))
    before = desk.objects()
    big = noise(5001, seed=2)
    act = {
        "bytes": lambda: desk.states.put("zstd", big),
        "stream": lambda: desk.states.put("zstd", io.BytesIO(big)),
        "json": lambda: desk.states.put("zstd", ["x" * 100] * 50),
        "patch": lambda: desk.states.patch("zstd", {5000: b"x"}),
    }[kind]

    with pytest.raises(LimitError, match=r"larger than 4.883 KiB \(state.max_size\)"):
        act()

    assert desk.objects() == before
    assert desk.states.get("zstd") == noise(5000)


class Endless(io.RawIOBase):
    """A file of noise that exists nowhere."""

    def __init__(self, size):
        super().__init__()
        self.left = size
        self.block = noise(1 << 16)

    def readable(self):
        return True

    def readinto(self, buffer):
        count = min(len(buffer), self.left, len(self.block))
        buffer[:count] = self.block[:count]
        self.left -= count
        return count


class Nowhere(MemoryChunks):
    """Forgets chunks, so that only what the put itself holds is counted."""

    def put(self, key, data, *, if_absent=True):
        super().put(key, b"" if "chunk_" in key else data, if_absent=if_absent)


def test_a_stream_is_never_whole_in_memory():
    """64 MiB in chunks of 1 MiB: the peak is a few chunks, far below the content."""
    size = 64 << 20
    desk = Desk(chunks=Nowhere(), chunk_size=1 << 20)
    desk.states.put("json", io.BytesIO(noise(5 << 20)))
    tracemalloc.start()
    try:
        ref = desk.states.put("zstd", Endless(size))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (ref.size, ref.chunks) == (size, 64)
    assert peak < 24 << 20


BIG_PUT = """
import io, resource, sys
sys.path.insert(0, sys.argv[1])
from tests.desk import Desk, noise, CHUNK
from tests.test_states_parts import Endless
from xenolect_backends.fsspec_chunks import FsspecChunks
desk = Desk(chunks=FsspecChunks(sys.argv[2]), chunk_size=1 << 20)
desk.states.put("json", Endless(4 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
desk.states.put("zstd", Endless(64 << 20))
with desk.states.open("zstd") as reader:
    while reader.read(1 << 18):
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="measured with getrusage")
def test_a_process_stays_small_with_large_states(tmp_path):
    """The resident memory of a process that stores and reads 64 MiB on disk grows by less than half."""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
    done = subprocess.run(
        [sys.executable, "-c", BIG_PUT, str(Path(__file__).parent.parent), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    unit = 1 if sys.platform == "darwin" else 1024

    assert int(done.stdout) * unit < 32 << 20


# -- several writers --------------------------------------------------------------------------------


def test_the_last_writer_wins_without_an_expected_version():
    """A put that finds another one committed meanwhile goes on top of it, without storing chunks again;
    with an expected version it is refused."""
    index, inner = MemoryIndex(), MemoryChunks()
    chunks = FaultyChunks(inner, only="put")
    one, two = Desk(index, chunks, seed=1), Desk(index, inner, seed=2)
    one.states.put("zstd", noise(3 * CHUNK))
    two.catch_up()

    def intrude():
        one.before_commit = lambda: None
        two.states.put("zstd", b"between")

    one.before_commit = intrude
    before = len(chunks.calls)
    ref = one.states.put("zstd", noise(3 * CHUNK, seed=9))
    assert ref.version == 3
    assert len(chunks.calls) - before == 3 + 2 + 0  # chunks once, a manifest for each attempt
    assert two.states.get("zstd", version=2) == b"between"
    two.catch_up()
    assert two.states.get("zstd") == noise(3 * CHUNK, seed=9)

    one.before_commit = intrude
    with pytest.raises(ConflictError) as caught:
        one.states.put("zstd", b"late", expected_version=3)
    assert (caught.value.expected, caught.value.found) == (3, 4)

    one.before_commit = intrude
    one.states.patch("zstd", {0: b"B"})
    two.catch_up()
    assert two.states.get("zstd") == b"Between"
    assert one.states.verify().problems == ()


def test_threads_lose_no_version():
    """Four threads on two processes put and patch at once: every acknowledged version is there once."""
    index, chunks = MemoryIndex(), MemoryChunks()
    desks = [Desk(index, chunks, seed=seed) for seed in range(4)]
    desks[0].states.put("zstd", noise(4 * CHUNK))

    def work(number):
        desk = desks[number]
        refs = []
        for i in range(15):
            if i % 3:
                refs.append(desk.states.patch("zstd", {number * CHUNK: f"{number} {i};".encode()}))
            else:
                refs.append(desk.states.put("zstd", noise(4 * CHUNK, seed=f"{number} {i}")))
        return refs

    with ThreadPoolExecutor(4) as pool:
        refs = [ref for found in pool.map(work, range(4)) for ref in found]

    assert sorted(ref.version for ref in refs) == list(range(2, 62))
    fresh = Desk(index, chunks)
    assert {ref.version: ref.root for ref in refs} == {
        ref.version: ref.root for ref in fresh.states.versions("zstd")[1:]
    }
    assert fresh.states.verify().problems == ()
    assert fresh.states.gc(0).removed
    assert fresh.states.verify().problems == ()


def test_put_async_stores_in_order_and_carries_errors(desk):
    """Futures give the refs in the order of the calls; what goes wrong is raised by ``result``."""
    futures = [desk.states.put_async("zstd", {"i": i}) for i in range(10)]
    bad = desk.states.put_async("zstd", {"i": float("nan")})

    assert [future.result(10).version for future in futures] == list(range(1, 11))
    with pytest.raises(InvalidError, match="state.i: nan"):
        bad.result(10)
    desk.states.close()
    assert desk.states.get("zstd") == {"i": 9}


def test_progress_tells_bytes(desk):
    """Monotonic, ends at the size, for puts, gets and verification."""
    data = noise(9 * CHUNK)
    for act in (
        lambda progress: desk.states.put("zstd", data, progress=progress),
        lambda progress: desk.states.get("zstd", progress=progress),
        lambda progress: desk.states.verify(progress=progress),
    ):
        heard = []
        act(lambda done, total, heard=heard: heard.append((done, total)))
        assert heard[-1] == (len(data), len(data))
        assert [done for done, _ in heard] == sorted(done for done, _ in heard)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own(desk):
    """A child whose parent's pool ran can still read and write large states."""
    desk.states.put("zstd", noise(20 * CHUNK))
    assert desk.states.get("zstd") == noise(20 * CHUNK)

    child = os.fork()
    if not child:
        good = desk.states.get("zstd") == noise(20 * CHUNK)
        desk.states.put("zstd", noise(21 * CHUNK, seed=2))
        os._exit(0 if good and desk.states.get("zstd") == noise(21 * CHUNK, seed=2) else 1)
    assert os.waitpid(child, 0)[1] == 0
