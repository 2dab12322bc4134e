"""States: what is put comes back, in versions, in parts, in bounded memory."""

from __future__ import annotations

import array
import hashlib
import io
import json
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
from tests.desk import Desk

from xenolect import (
    ConflictError,
    InvalidError,
    LimitError,
    StateNotFoundError,
    VariantNotFoundError,
)
from xenolect._json_text import text_pieces
from xenolect.testing import FaultyChunks
from xenolect_backends.memory import MemoryChunks, MemoryIndex

CHUNK = 1024
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + CHUNK // 2]
TOTAL = hashlib.sha256


def noise(size, seed=1):
    """Bytes that do not compress."""
    out = bytearray()
    while len(out) < size:
        out += hashlib.sha256(f"{seed} {len(out)}".encode()).digest()
    return bytes(out[:size])


@pytest.fixture
def desk():
    """One process on memory parts, chunks of 1 KiB."""
    return Desk()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fill", ["noise", "zeros"])
def test_bytes_and_files_come_back(desk, size, fill):
    """Sizes around the chunk size, compressible or not, from memory and from a file."""
    data = noise(size) if fill == "noise" else bytes(size)

    first = desk.states.put("zstd", data)
    second = desk.states.put("json", io.BytesIO(data))

    assert (first.kind, first.size, first.version) == ("bytes", size, 1)
    assert (second.kind, second.size, second.version) == ("stream", size, 1)
    assert first.chunks == second.chunks == -(-size // CHUNK)
    assert first.sha256 == second.sha256 == TOTAL(data).hexdigest()
    digests = [TOTAL(data[i : i + CHUNK]).digest() for i in range(0, size, CHUNK)]
    assert first.root == second.root == TOTAL(b"".join(digests)).hexdigest()
    for name in ("zstd", "json"):
        assert desk.states.get(name) == data
        assert type(desk.states.get(name)) is bytes
        buffer = bytearray(size + 3)
        report = desk.states.read_into(name, buffer)
        assert buffer == data + b"\0\0\0"
        assert (report.sha256, report.tag, report.bytes) == (first.chunks, 0, size)
        with desk.states.open(name) as reader:
            assert reader.read() == data
    assert desk.states.verify().problems == ()


def test_anything_with_a_buffer_is_bytes(desk):
    """bytearray, strided memoryview, array: stored as their bytes; ``raw`` where nothing is saved."""
    for state in (bytearray(b"abc"), memoryview(b"aXbXcX")[::2], array.array("B", b"abc")):
        desk.states.put("zstd", state)
        assert desk.states.get("zstd") == b"abc"
    desk.states.put("zstd", array.array("i", [1, 2]))
    assert desk.states.get("zstd") == array.array("i", [1, 2]).tobytes()


def test_files_that_are_no_binary_files_are_refused(desk):
    """Text, non-blocking files without data, and ones that give more than asked for."""

    class Odd:
        def __init__(self, answer):
            self.answer = answer

        def read(self, size):
            return self.answer

    for file in (io.StringIO("text"), Odd(None), Odd(bytes(CHUNK + 1))):
        with pytest.raises(InvalidError, match="file"):
            desk.states.put("zstd", file)
    with pytest.raises(StateNotFoundError, match="has no state; states.put stores one"):
        desk.states.get("zstd")


def test_short_reads_are_put_together(desk):
    """A pipe gives what it has; chunks are full all the same, and only what is left is read."""
    reader, writer = os.pipe()
    data = noise(10 * CHUNK + 7)
    with ThreadPoolExecutor(1) as pool, open(reader, "rb", buffering=0) as file:

        def feed():
            with open(writer, "wb", buffering=0) as out:
                out.writelines(data[start : start + 100] for start in range(0, len(data), 100))

        pool.submit(feed)
        ref = desk.states.put("zstd", file)

    assert ref.chunks == 11
    assert desk.states.get("zstd") == data


# -- JSON -----------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(
    LEAVES, lambda each: st.lists(each) | st.dictionaries(TEXT, each), max_leaves=30
)


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_json_comes_back(value):
    """Any JSON value is equal after a round trip, whatever it looks like and however it is cut."""
    desk = Desk(chunk_size=7)

    ref = desk.states.put("zstd", value)

    assert ref.kind == "json"
    assert desk.states.get("zstd") == value
    assert repr(desk.states.get("zstd")) == repr(json.loads(json.dumps(value, sort_keys=True)))
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    with desk.states.open("zstd") as reader:
        assert reader.read().decode() == text


@settings(max_examples=60, deadline=None)
@given(JSON, st.integers(1, 20))
def test_json_text_in_pieces_is_the_text(value, big):
    """Writing large containers piece by piece gives the very text of writing them at once."""
    from xenolect import _json_text

    before = _json_text._BIG, _json_text._SMALL
    _json_text._BIG, _json_text._SMALL = big, 2
    try:
        pieces = b"".join(text_pieces(value)).decode()
    finally:
        _json_text._BIG, _json_text._SMALL = before

    assert pieces == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def nested(depth):
    """That many lists in each other."""
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [{1: 2}]}, "state.a[0]: the key 1 is int; JSON keys are text"),
        ({"a": {None: 2}}, "state.a: the key None is NoneType; JSON keys are text"),
        ([0.5, float("nan")], "state[1]: nan is not JSON; leave it out or use null"),
        (float("inf"), "state: inf is not JSON; leave it out or use null"),
        ({"a": "\ud800"}, "state.a: lone surrogates are not text; decode it first"),
        ({"x": {"\udfff": 1}}, "state.x.'\\udfff': lone surrogates are not text; decode it first"),
        (["ok", 2**63], "state[1]: 0x8000000000000000 does not fit in 64 bits; write it as text"),
        (
            [{1, 2}],
            "state[0]: set is not JSON; use text, numbers, lists and objects, or hand over bytes",
        ),
        (nested(65), f"state{'[0]' * 64}: nested deeper than 64 levels; flatten it"),
    ],
)
def test_what_is_not_json_is_refused_with_its_path(desk, value, message):
    """Nothing is coerced, nothing is stored."""
    with pytest.raises(InvalidError) as caught:
        desk.states.put("zstd", value)

    assert str(caught.value) == message
    assert desk.states.versions("zstd") == []


def test_sixty_four_levels_and_tuples_are_json(desk):
    """The deepest that is allowed; tuples come back as lists."""
    desk.states.put("zstd", nested(64))
    assert desk.states.get("zstd") == nested(64)
    desk.states.put("zstd", {"t": (1, (2,))})
    assert desk.states.get("zstd") == {"t": [1, [2]]}


# -- versions -------------------------------------------------------------------------------------


def test_versions_grow_by_one_and_stay(desk):
    """Each put is the next version of its kind; older ones stay readable."""
    refs = [desk.states.put("zstd", state) for state in ({"a": 1}, b"two", io.BytesIO(b"three"))]

    assert [ref.version for ref in refs] == [1, 2, 3]
    assert desk.states.versions("zstd") == refs
    assert desk.states.get("zstd", version=1) == {"a": 1}
    assert desk.states.get("zstd", version=2) == b"two"
    assert desk.states.get("zstd") == b"three"
    with pytest.raises(StateNotFoundError, match="no state version 4, the newest is 3"):
        desk.states.get("zstd", version=4)
    with pytest.raises(VariantNotFoundError):
        desk.states.get("nobody")
    assert desk.told[-1] == (
        "state.stored",
        "zstd",
        {"version": 3, "kind": "stream", "size": 5},
    )


def test_a_stale_expected_version_is_a_conflict(desk):
    """Both versions are named; nothing is stored."""
    desk.states.put("zstd", b"one", expected_version=0)
    desk.states.put("zstd", b"two", expected_version=1)
    before = desk.objects()

    for act in (
        lambda: desk.states.put("zstd", b"lost", expected_version=1),
        lambda: desk.states.patch("zstd", {0: b"lost"}, expected_version=1),
    ):
        with pytest.raises(ConflictError) as caught:
            act()
        assert (caught.value.expected, caught.value.found) == (1, 2)

    assert desk.states.get("zstd") == b"two"
    assert desk.objects() == before


def test_unchanged_chunks_are_not_written_again():
    """A put writes the chunks that differ at their position and a manifest; equal content only commits."""
    chunks = FaultyChunks(MemoryChunks(), only="put")
    desk = Desk(chunks=chunks)
    data = bytearray(noise(8 * CHUNK))
    desk.states.put("zstd", data)

    def puts(act):
        desk.states.flush()
        before = len(chunks.calls)
        desk.jobs.append(lambda: None)
        act()
        return len(chunks.calls) - before

    data[3 * CHUNK + 5] ^= 1
    changed = puts(lambda: desk.states.put("zstd", data))
    same = puts(lambda: desk.states.put("zstd", data))
    patched = puts(lambda: desk.states.patch("zstd", {CHUNK - 1: b"ab"}))
    void = puts(lambda: desk.states.patch("zstd", {0: data[:10]}))

    assert (changed, same, patched, void) == (1 + 1, 0, 2 + 1, 0)
    assert desk.states.get("zstd", version=3) == data
    assert [ref.version for ref in desk.states.versions("zstd")] == [1, 2, 3, 4, 5]
    refs = desk.states.versions("zstd")
    assert refs[1].sha256 == refs[2].sha256 == TOTAL(data).hexdigest()
    assert refs[3].sha256 is None
    assert refs[3].root == refs[4].root


def test_a_hundred_and_thirty_versions_are_readable_anew():
    """A process that knows nothing reads each version through at most 63 parents; every 64th manifest
    holds the whole table."""
    desk = Desk()
    data = bytearray(noise(5 * CHUNK))
    desk.states.put("zstd", data)
    expected = [bytes(data)]
    for i in range(1, 130):
        data[i * 37 % len(data)] ^= 1 + i % 255
        at = i * 37 % len(data)
        desk.states.patch("zstd", {at: data[at : at + 1]})
        expected.append(bytes(data))

    chunks = FaultyChunks(desk.chunks, only="get")
    other = Desk(desk.index, chunks)
    most = 0
    for version, content in enumerate(expected, 1):
        fresh = Desk(desk.index, chunks)
        before = len(chunks.calls)
        assert fresh.states.get("zstd", version=version) == content
        most = max(most, len(chunks.calls) - before)

    assert most == 64 + 5
    full = [
        version
        for version in range(1, 131)
        if other.states._objects.content("zstd", _link(other, version), fresh=True).manifest.parent
        is None
    ]
    assert full == [1, 65, 129]
    assert other.states.verify().problems == ()


def _link(desk, version):
    from xenolect._state_versions import link_of

    return link_of(desk.fact("state_version", f"zstd/{version:08d}").value)


def test_restoring_is_metadata_and_the_next_version():
    """``same_as`` writes no object; the restored version is whole, and can be put and patched on."""
    chunks = FaultyChunks(MemoryChunks(), only="put")
    desk = Desk(chunks=chunks)
    desk.states.put("zstd", noise(3 * CHUNK))
    desk.states.put("zstd", {"other": True})
    before = len(chunks.calls)

    changes = desk.states.same_as("zstd", 1)
    assert desk.states.get("zstd") == {"other": True}
    desk.commit(changes)

    assert len(chunks.calls) == before
    assert desk.states.get("zstd") == noise(3 * CHUNK)
    assert [ref.version for ref in desk.states.versions("zstd")] == [1, 2, 3]
    assert desk.fact("state_version", "zstd/00000003").value["same_as"] == 1
    desk.states.check("zstd", 3)
    desk.commit(desk.states.same_as("zstd", 3))
    desk.states.patch("zstd", {0: b"new"})
    assert desk.states.get("zstd") == b"new" + noise(3 * CHUNK)[3:]
    assert desk.states.get("zstd", version=2) == {"other": True}
    with pytest.raises(StateNotFoundError):
        desk.states.same_as("zstd", 9)


def test_a_variant_can_be_without_a_state_again(desk):
    """As it was at a point from before its first state; older versions stay, the next one follows."""
    desk.states.put("zstd", b"one")

    desk.commit(desk.states.without("zstd"))

    with pytest.raises(StateNotFoundError):
        desk.states.get("zstd")
    assert desk.states.get("zstd", version=1) == b"one"
    assert desk.states.put("zstd", b"three", expected_version=2).version == 3
    assert [ref.version for ref in desk.states.versions("zstd")] == [1, 3]
    assert desk.states.verify().problems == ()
    assert desk.states.gc(0).removed == ()


def test_another_chunk_size_begins_a_new_table():
    """A store opened with other settings reads the old states and writes new ones whole."""
    desk = Desk()
    desk.states.put("zstd", noise(5000))
    other = Desk(desk.index, desk.chunks, chunk_size=700)

    assert other.states.get("zstd") == noise(5000)
    other.states.patch("zstd", {4999: b"!!"})
    assert other.states.get("zstd") == noise(4999) + b"!!"
    ref = other.states.put("zstd", noise(5000))

    assert ref.chunks == 8
    assert Desk(desk.index, desk.chunks).states.get("zstd") == noise(5000)


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
from tests.desk import Desk
from tests.test_states import Endless
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
