"""States: what is put comes back, in versions, in parts, in bounded memory."""

from __future__ import annotations

import array
import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.desk import CHUNK, Desk, noise

from xenolect import (
    ConflictError,
    InvalidError,
    StateNotFoundError,
    VariantNotFoundError,
)
from xenolect._json_text import text_pieces
from xenolect.testing import FaultyChunks
from xenolect_backends.memory import MemoryChunks

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + CHUNK // 2]
TOTAL = hashlib.sha256


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
