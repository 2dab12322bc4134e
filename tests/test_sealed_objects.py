"""A sealed store in the hands of somebody who can write: moving, exchanging, putting back, forging."""

from __future__ import annotations

import itertools
import os

import pytest
from tests.desk import CHUNK, Desk, noise, snapshot
from tests.test_states_faults import reads

from xenolect import CorruptError
from xenolect._envelope import CHUNK as CHUNK_KIND
from xenolect._envelope import MIRROR, POINT, SEGMENT, Header, seal
from xenolect_backends.local_keys import EnvKeys
from xenolect_plugins.aes_gcm import AesGcm


@pytest.fixture
def cipher(monkeypatch):
    """With a key of its own."""
    monkeypatch.setenv("SEALING_KEY", os.urandom(32).hex())
    return AesGcm(EnvKeys("SEALING_KEY"))


def filled(cipher):
    """Two variants with chunks of equal content and size, deltas, mirrors; points and segments of each."""
    desk = Desk(cipher=cipher)
    same = noise(CHUNK)
    desk.states.put("zstd", same + same + noise(CHUNK, seed=2))
    desk.states.patch("zstd", {0: b"patched"})
    desk.states.put("json", same + same + noise(CHUNK, seed=2))
    desk.states.flush()
    for number, owner in enumerate(("zstd", "json", "")):
        for kind, folder in ((POINT, "points"), (SEGMENT, "journal"), (MIRROR, "metadata")):
            key = f"variants/{owner}/{folder}/{number}.json" if owner else f"{folder}/{number}.bin"
            data = desk.states.objects.seal(kind, key, b"x" * 50, owner, 1)
            desk.chunks.put(key, data)
    return desk


def kinds(desk):
    """Sealed objects: their key, kind, variant."""
    found = {}
    for key, data in snapshot(desk.chunks).items():
        if data[:4] == b"XLC2":
            header, _ = Header.decode(data, key)
            found[key] = (header.kind, header.variant_id)
    return found


def test_no_two_objects_can_change_places(cipher):
    """Every pair of sealed objects, of every kind: neither is accepted under the other's name, by the
    reader of that kind, even where a manifest or the index would not say so."""
    desk = filled(cipher)
    objects, found = snapshot(desk.chunks), kinds(desk)
    assert {kind for kind, _ in found.values()} == {1, 2, 3, 4, 5}
    entries = {
        f"variants/{owner}/state/{entry.object}": (owner, position, entry)
        for owner in ("zstd", "json")
        for version in (1, 2)
        if desk.states.heads.version(owner, version)
        for position, entry in enumerate(desk.states.heads.located(owner, version)[1].table)
    }

    def read(key, data):
        kind, owner = found[key]
        if kind == CHUNK_KIND:
            owner, position, entry = entries[key]
            desk.chunks.put(key, data, if_absent=False)
            try:
                entry = entry._replace(length=len(data))
                plain = bytearray(Header.decode(data, key)[0].plain)
                desk.states.objects.get_chunk(owner, position, entry, memoryview(plain), tag=True)
            finally:
                desk.chunks.put(key, objects[key], if_absent=False)
        else:
            desk.states.objects.unseal(kind, key, data, owner)

    for key in found:
        read(key, objects[key])
    pairs = 0
    for key, other in itertools.permutations(found, 2):
        with pytest.raises(CorruptError):
            read(key, objects[other])
        pairs += 1
    assert pairs > 400
    assert desk.states.verify("zstd").ok


def test_a_chunk_is_not_taken_in_another_place_of_its_own_state(cipher):
    """Equal contents at two positions: objects that only differ in where they belong."""
    desk = filled(cipher)
    first, second, _ = desk.states.heads.located("json", 1)[1].table
    key = f"variants/json/state/{second.object}"
    desk.chunks.put(key, desk.chunks.get(f"variants/json/state/{first.object}"), if_absent=False)
    with pytest.raises(
        CorruptError, match="can not be opened: it (is not sealed with|was changed)"
    ):
        desk.states.get("json")


def test_equal_contents_have_one_id_and_nothing_else_in_common(cipher):
    """The id is keyed: another store gives the same content another one."""
    one, two = filled(cipher), filled(cipher)

    def ids(desk):
        return sorted(
            key.split("chunk_")[1][:16] for key in snapshot(desk.chunks) if "chunk_" in key
        )

    assert len(ids(one)) == 7
    assert len(set(ids(one))) == 3
    assert not {*ids(one)} & {*ids(two)}


def test_an_object_that_is_not_sealed_is_refused(cipher):
    """Somebody without the key writes mirrors, points and segments as a store without a cipher would."""
    desk = filled(cipher)
    plain = Desk()
    plain.states.put("json", b"forged")
    for key, (kind, owner) in kinds(desk).items():
        if kind <= 2:
            continue
        header, _ = Header.decode(desk.chunks.get(key), key)
        forged = seal(header, b"forged", b"", plain.cipher, True)
        with pytest.raises(CorruptError, match="is not sealed, and a cipher is configured"):
            desk.states.objects.unseal(kind, key, forged, owner)
    mirror = "variants/zstd/state/index.json"
    desk.chunks.put(
        mirror, plain.states.objects.seal(MIRROR, mirror, b"{}", "zstd", 9), if_absent=False
    )
    assert mirror in {problem.key for problem in desk.states.verify().problems}


@pytest.mark.parametrize("what", ["manifest", "manifest and chunks", "everything but the index"])
def test_an_older_store_is_an_alarm(cipher, what):
    """What was true once is put back, with names and seals that are all good: reading and ``verify`` say
    so, and nothing is repaired into the older state."""
    desk = Desk(cipher=cipher)
    desk.states.put("zstd", noise(3 * CHUNK))
    desk.states.flush()
    old = snapshot(desk.chunks)
    desk.states.patch("zstd", {0: b"patched"})
    desk.states.flush()
    now = snapshot(desk.chunks)
    first, second = (f"variants/zstd/state/0000000{n}.json" for n in (1, 2))
    desk.chunks.put(second, old[first], if_absent=False)
    if what != "manifest":
        was, is_ = (desk.states.heads.located("zstd", n)[1].table[0].object for n in (1, 2))
        desk.chunks.put(
            f"variants/zstd/state/{is_}", old[f"variants/zstd/state/{was}"], if_absent=False
        )
    if what.startswith("everything"):
        for key in now.keys() - old.keys():
            desk.chunks.delete(key)
        for key, data in old.items():
            desk.chunks.put(key, data, if_absent=False)
    fresh = Desk(desk.index, desk.chunks, cipher=cipher)
    for read in reads(fresh):
        with pytest.raises(CorruptError, match=r"00000002\.json is (not what was written|missing)"):
            read()
    assert second in {problem.key for problem in fresh.states.verify().problems}
    assert fresh.states.get("zstd", version=1) == noise(3 * CHUNK)


def test_an_older_index_is_an_alarm(cipher):
    """The index is put back and the objects are not: the mirror is newer than the index knows, which is
    reported, and the mirror is not written back into the past by whoever reads."""
    desk = Desk(cipher=cipher)
    desk.states.put("zstd", noise(CHUNK))
    journal = list(desk.index.changes(0))
    desk.states.put("zstd", noise(CHUNK, seed=2))
    desk.states.flush()
    mirror = desk.chunks.get("variants/zstd/state/index.json")
    older = Desk(chunks=desk.chunks, cipher=cipher)
    for entry in journal:
        older.index.commit(entry.changes, actor=entry.actor, at=entry.at)
    older.catch_up()
    assert older.states.get("zstd") == noise(CHUNK)
    (problem,) = older.states.verify().problems
    assert "the index was replaced by an older one" in problem.what
    older.states.flush()
    assert desk.chunks.get("variants/zstd/state/index.json") == mirror
