"""States under attack: flipped bits, swapped objects, bombs, crashes, garbage collection at work."""

from __future__ import annotations

import hashlib
import hmac
import io
import resource
import sys

import attrs
import pytest
import zstandard
from tests.desk import CHUNK, Desk, noise, snapshot

from xenolect import ConfigError, CorruptError, StorageError
from xenolect._envelope import CHUNK as CHUNK_KIND
from xenolect._envelope import CRC, ZSTD, Header, seal, unseal_into


def reads(desk):
    """Every way to read the newest state of ``zstd``, as bytes."""
    size = desk.states.versions("zstd")[-1].size

    def into():
        buffer = bytearray(size)
        desk.states.read_into("zstd", buffer)
        return bytes(buffer)

    def lazily():
        with desk.states.open("zstd") as reader:
            return reader.read()

    return [lambda: desk.states.get("zstd"), into, lazily]


def store_of_two_versions():
    """A state of three chunks, one that compresses, one patched: chunks and manifests of every kind."""
    desk = Desk(chunk_size=256)
    data = bytearray(noise(256) + b"abc" * 85 + b"!" + noise(40))
    desk.states.put("zstd", bytes(data))
    desk.states.patch("zstd", {3: b"patched"})
    data[3:10] = b"patched"
    return desk, bytes(data)


def test_no_flipped_bit_is_ever_read():
    """Each byte of each chunk and manifest, one bit or all of them flipped: every way to read says
    CorruptError with the key, and ``verify`` names the object."""
    desk, data = store_of_two_versions()
    objects = snapshot(desk.chunks)
    versions = {v: desk.states.get("zstd", version=v) for v in (1, 2)}
    flipped = 0
    for key, original in objects.items():
        if not key.startswith("variants/") or key.endswith("index.json"):
            continue
        for i in range(len(original)):
            for mask in (1 << i % 8, 0xFF):
                damaged = bytearray(original)
                damaged[i] ^= mask
                desk.chunks.put(key, damaged, if_absent=False)
                fresh = Desk(desk.index, desk.chunks, chunk_size=256)
                wrong = 0
                for version in (1, 2):
                    try:
                        read = fresh.states.get("zstd", version=version)
                    except CorruptError as error:
                        named = error.key
                    else:
                        assert read == versions[version]
                        continue
                    assert named == key
                    wrong += 1
                assert wrong, f"byte {i} of {key} may be anything"
                flipped += 1
        assert key in {problem.key for problem in fresh.states.verify().problems}
        desk.chunks.put(key, original, if_absent=False)
    assert flipped > 4000
    assert all(read() == data for read in reads(desk))


@pytest.mark.parametrize("damage", ["missing", "cut", "longer", "empty", "swapped", "not ours"])
def test_damaged_objects_are_named(damage):
    """Whatever happens to a chunk or a manifest, reading says what and where; old versions that do not
    need it are fine."""
    desk, data = store_of_two_versions()
    objects = snapshot(desk.chunks)
    new = [
        entry.object
        for entry in desk.states._versions.located("zstd", 2)[1].manifest.changed.values()
    ]
    assert len(new) == 1
    chunk = f"variants/zstd/state/{new[0]}"
    other = next(k for k in objects if "chunk_" in k and k != chunk)
    for key in (chunk, "variants/zstd/state/00000002.json"):
        if damage == "missing":
            desk.chunks.delete(key)
        else:
            content = {
                "cut": objects[key][:-1],
                "longer": objects[key] + b"\0",
                "empty": b"",
                "swapped": objects[other],
                "not ours": b"<html>" * 100,
            }[damage]
            desk.chunks.put(key, content, if_absent=False)
        fresh = Desk(desk.index, desk.chunks, chunk_size=256)
        for read in reads(fresh):
            with pytest.raises(CorruptError) as caught:
                read()
            assert caught.value.key == key
        with pytest.raises(CorruptError):
            fresh.states.check("zstd", 2)
        assert fresh.states.get("zstd", version=1) == data[:3] + noise(10)[3:10] + data[10:]
        report = fresh.states.verify("zstd")
        assert [problem.key for problem in report.problems] == [key]
        assert (report.problems[0].version, report.ok) == (2, False)
        shallow = fresh.states.verify(deep=False)
        assert bool(shallow.problems) == (damage == "missing" or key.endswith(".json"))
        desk.chunks.put(key, objects[key], if_absent=False)
    assert Desk(desk.index, desk.chunks).states.verify().ok


def test_two_chunks_of_one_content_can_not_be_swapped():
    """Objects with equal content at other positions or of other variants are not accepted, so what
    a chunk says of itself can be relied on when tables are lost."""
    desk = Desk()
    desk.states.put("zstd", noise(CHUNK) * 2)
    desk.states.put("json", noise(CHUNK))
    first, second = desk.states._versions.located("zstd", None)[1].table
    (alien,) = desk.states._versions.located("json", None)[1].table
    target = f"variants/zstd/state/{second.object}"
    for source in (f"variants/zstd/state/{first.object}", f"variants/json/state/{alien.object}"):
        desk.chunks.put(target, desk.chunks.get(source), if_absent=False)
        with pytest.raises(CorruptError, match="objects were swapped"):
            desk.states.get("zstd")


def test_a_damaged_chunk_leaves_zeros_in_the_buffer():
    """No unverified byte stays in the caller's buffer."""
    desk = Desk()
    desk.states.put("zstd", b"\1" * 100)
    key = next(k for k in desk.objects() if "chunk_" in k)
    whole = bytearray(desk.chunks.get(key))
    header, _ = Header.decode(whole, key)
    forged = seal(header, b"\2" * 100, b"", desk.cipher, True)
    assert len(forged) == len(whole)
    desk.chunks.put(key, forged, if_absent=False)
    buffer = bytearray(b"\3" * 100)

    with pytest.raises(CorruptError, match="is not what was written"):
        desk.states.read_into("zstd", buffer)

    assert buffer == bytes(100)


def bomb(claims):
    """An object of 6 KB whose frame holds 200 MiB, with a header that is right for 1 MiB."""
    if claims:
        frame = zstandard.ZstdCompressor(level=1).compress(bytes(200 << 20))
    else:
        out = io.BytesIO()
        compressor = zstandard.ZstdCompressor(level=1, write_content_size=False)
        with compressor.stream_writer(out, closefd=False) as writer:
            for _ in range(200):
                writer.write(bytes(1 << 20))
        frame = out.getvalue()
    header = Header(CHUNK_KIND, bytes(16), bytes(8), "zstd", 1, 0, 1 << 20, 0, ZSTD)
    return attrs.evolve(header, packed=len(frame)).encode() + frame


@pytest.mark.skipif(sys.platform == "win32", reason="measured with getrusage")
@pytest.mark.parametrize("claims", [True, False])
def test_a_bomb_is_refused_without_growing(claims):
    """What a frame claims of itself is not believed: no memory beyond the chunk's is taken."""
    data = bomb(claims)
    assert len(data) < 30_000
    target = memoryview(bytearray(b"x" * (1 << 20)))
    good = seal(
        Header(CHUNK_KIND, bytes(16), bytes(8), "zstd", 1, 0, 1 << 20, 0),
        bytes(1 << 20),
        b"",
        Desk().cipher,
        True,
    )
    unseal_into(good, target, b"", Desk().cipher, "good", CHUNK_KIND)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(CorruptError, match="decompresses to more than the 1048576 bytes recorded"):
        unseal_into(data, target, b"", Desk().cipher, "bomb", CHUNK_KIND)

    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 16 << 20


def test_a_frame_that_asks_for_a_huge_window_is_refused():
    """A frame's window is allocated before its content is seen."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    out = io.BytesIO()
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    with compressor.stream_writer(out, closefd=False) as writer:
        writer.write(bytes(1024))
    frame = out.getvalue()
    header = Header(CHUNK_KIND, bytes(16), bytes(8), "zstd", 1, 0, 1024, 0, ZSTD)
    data = attrs.evolve(header, packed=len(frame)).encode() + frame

    with pytest.raises(CorruptError, match="can not be decompressed"):
        unseal_into(data, memoryview(bytearray(1024)), b"", Desk().cipher, "k", CHUNK_KIND)


# -- the envelope with a cipher ---------------------------------------------------------------------


class Tagged:
    """A toy that scrambles and authenticates, to show where a real cipher fits in."""

    id = "tagged"

    def __init__(self, key=b"k"):
        self.key = key
        self.bounds = []

    def _mask(self, length):
        return (hashlib.sha256(self.key).digest() * (length // 32 + 1))[:length]

    def seal(self, plain, bound):
        body = bytes(a ^ b for a, b in zip(bytes(plain), self._mask(len(plain)), strict=True))
        self.bounds.append(bound)
        return body + hmac.digest(self.key, bound + body, "sha256")

    def open(self, sealed, bound):
        sealed = bytes(sealed)
        body, tag = sealed[:-32], sealed[-32:]
        if not hmac.compare_digest(tag, hmac.digest(self.key, bound + body, "sha256")):
            raise CorruptError("the tag does not match")
        return bytes(a ^ b for a, b in zip(body, self._mask(len(body)), strict=True))


def test_a_cipher_slots_in():
    """The same format sealed: payloads are unreadable, header, name and digest are bound, "tag" reads
    hash nothing, any flipped bit and a wrong key are noticed, an unsealed past stays readable."""
    past = Desk(chunk_size=256)
    past.states.put("json", {"secret": 1})
    cipher = Tagged()
    desk = Desk(past.index, past.chunks, cipher=cipher, chunk_size=256)
    data = b"attack at dawn " * 30
    desk.states.put("zstd", data)

    keys = [k for k in desk.objects() if k.startswith("variants/zstd/") and "chunk_" in k]
    assert all(read() == data for read in reads(desk))
    assert desk.states.get("json") == {"secret": 1}
    assert all(b"attack" not in desk.chunks.get(k) for k in desk.objects())
    for key in keys:
        digest = hashlib.sha256(data[:256] if len(desk.chunks.get(key)) > 0 else b"").digest()
        assert digest.hex()[:16] not in key
        name = key.rpartition("/")[2].encode()
        (bound,) = [b for b in cipher.bounds if name + b"\0" in b]
        start = Header.decode(desk.chunks.get(key), key)[1]
        assert bound[:start] == desk.chunks.get(key)[:start]
    buffer = bytearray(len(data))
    report = desk.states.read_into("zstd", buffer, verify="tag")
    assert (buffer, report.tag, report.sha256) == (data, len(keys), 0)
    report = desk.states.read_into("json", bytearray(20), verify="tag")
    assert (report.tag, report.sha256) == (0, 1)
    for key in keys:
        original = desk.chunks.get(key)
        for i in range(len(original)):
            damaged = bytearray(original)
            damaged[i] ^= 0x10
            desk.chunks.put(key, damaged, if_absent=False)
            with pytest.raises(CorruptError):
                desk.states.read_into("zstd", buffer, verify="tag")
        desk.chunks.put(key, original, if_absent=False)
    with pytest.raises(CorruptError, match="can not be opened: the tag does not match"):
        Desk(desk.index, desk.chunks, cipher=Tagged(b"other")).states.get("zstd")
    with pytest.raises(ConfigError, match="is sealed with 'tagged', and 'none' is configured"):
        Desk(desk.index, desk.chunks).states.get("zstd")


def test_the_flags_say_how_a_chunk_is_stored():
    """Compressed where that saves 5 %, raw otherwise and when compression is off."""
    plain = Desk().cipher
    header = Header(CHUNK_KIND, bytes(16), bytes(8), "zstd", 1, 0, 1000, 0)

    def flags(data, compress=True):
        return Header.decode(seal(header, data, b"", plain, compress), "k")[0].flags

    assert flags(b"a" * 1000) == ZSTD | CRC
    assert flags(noise(1000)) == 0
    assert flags(noise(970) + bytes(30)) == 0
    assert flags(b"a" * 1000, compress=False) == 0


def test_an_object_of_a_later_format_is_refused_with_the_way_out():
    """Not damaged, only newer."""
    desk = Desk()
    desk.states.put("zstd", b"x")
    key = next(k for k in desk.objects() if "chunk_" in k)
    data = desk.chunks.get(key)
    end = Header.decode(data, key)[1]
    header = b"XLC3" + data[4 : end - 8]  # with a check of its own: one flipped bit is damage
    later = header + hashlib.sha256(header).digest()[:8] + data[end:]
    desk.chunks.put(key, later, if_absent=False)

    with pytest.raises(StorageError, match="has format 3, this release reads 2; upgrade"):
        desk.states.get("zstd")


def test_chunks_of_another_store_are_refused():
    """An index opened with the wrong object store says so before anything is written."""
    desk = Desk()
    desk.states.put("zstd", b"x")
    elsewhere = Desk(seed=5)
    elsewhere.states.put("zstd", b"y")
    mixed = Desk(desk.index, elsewhere.chunks)

    with pytest.raises(StorageError, match="correct chunks.url or"):
        mixed.states.put("zstd", b"z")


def test_a_lost_store_file_is_written_again_as_it_was():
    """The index remembers the store's id."""
    desk = Desk()
    desk.states.put("zstd", b"x")
    before = desk.chunks.get("store.json")
    desk.chunks.delete("store.json")

    Desk(desk.index, desk.chunks, seed=7).states.put("zstd", b"y")

    assert desk.chunks.get("store.json") == before
