"""Every byte of a small store on disk flipped; every kind of file cut, swapped, put back to an older self,
or taken away: what is read is right or an error, and damage is named."""

from __future__ import annotations

import random
import shutil

import pytest

from xenolect import AgentContext, EmergenceError
from xenolect import open as open_manager
from xenolect.errors import CorruptError
from xenolect_backends.sqlite_index import SqliteIndex

GIVEN = {
    "state": {"chunk_size": "256B", "scrub_interval": "0s"},
    "index": {"page_size": 512},
}
SEALED = {**GIVEN, "cipher": {"use": "aes-gcm", "keys": {"env": "A_KEY"}}}


@pytest.fixture(params=["plain", pytest.param("sealed", marks=pytest.mark.slow)])
def given(request, monkeypatch):
    """Settings without and with a cipher."""
    monkeypatch.setenv("A_KEY", "b2" * 32)
    return GIVEN if request.param == "plain" else SEALED


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three stores per setting, made once: one as it is, as it was before its last changes, another one."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_KEY", "b2" * 32)
        for name, given in (("plain", GIVEN), ("sealed", SEALED)):
            make(folder / name / "older", given)
            make(folder / name / "other", given)
            shutil.copytree(folder / name / "older", folder / name / "store")
            with open_manager(folder / name / "store", background=False, **given) as manager:
                manager.variants.update(manager.variants.get("v"), changes={"n": 7})
                manager.states.patch("v", {9: b"again"})
    return folder


@pytest.fixture
def place(made, given, tmp_path):
    """A copy of the three."""
    shutil.copytree(made / ("plain" if given is GIVEN else "sealed"), tmp_path / "made")
    return tmp_path / "made" / "store"


def make(place, given):
    """A store with an object of every kind. Two variants are alike, so that their files can be swapped."""
    with open_manager(place, background=False, **given) as manager:
        # v and w are not served: reading damage of a served variant takes it back, which is another test
        manager.variants.activate(manager.variants.propose("base", {}, id="base"))
        manager.variants.propose("v", {"n": 0}, id="v")
        manager.variants.propose("w", {"n": 1}, id="w")
        manager.agents.register("a", AgentContext({"zstd": "1.5"}))
        for name in ("v", "w"):
            manager.states.put(name, name.encode() * 300 + bytes(range(200)))
            manager.points.create(name, "before", pinned=True)
            manager.states.patch(name, {3: b"patched"})
        manager.states.flush()
        manager._mirroring.flush()
        manager._mirroring.journal.write_checkpoint(manager._runtime.index.load(), "0")


def truth(place, given, *, check=True):
    """Everything a process decides on, and what ``verify`` names. An error of ours is an answer too."""
    with open_manager(place, background=False, process=False, **given) as manager:
        contents = manager._runtime.index.load()
        facts = {(f.kind, f.key): f for f in contents.facts}
        found = {"facts": facts, "entries": [e.digest for e in manager.decisions]}
        for name in ("v", "w"):
            for version in (1, 2):
                try:
                    found[name, version] = manager.states.get(name, version=version)
                except CorruptError:
                    found[name, version] = None
        named = {p.key for p in manager.states.verify().problems} if check else set()
    return found, named


def same(found, wanted):
    """Nothing that was read is another than it was."""
    return all(found[key] in (wanted[key], None) for key in wanted)


def objects(place):
    """The files of the store but the index."""
    return sorted(p for p in place.rglob("*") if p.is_file() and not p.name.startswith("index.db"))


def flip(place, given, wanted, path, at):
    """One flipped bit; was it named where it must be?"""
    whole = path.read_bytes()
    data = bytearray(whole)
    data[at] ^= 1 << at % 8
    path.write_bytes(data)
    try:
        found, named = truth(place, given)
    except EmergenceError:
        return True  # refused at open, or whenever it is needed
    finally:
        path.write_bytes(whole)
    assert same(found, wanted), f"byte {at} of {path} is believed"
    return path.relative_to(place).as_posix() in named


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("share", [300, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flip_in_an_object_is_named(place, given, share):
    """Chunks, manifests, mirrors, points, keys, the journal, ``store.json``: a sample by default, every
    byte in the slow session. ``store.json`` is the one that is not sealed: what is not read of it may
    change."""
    wanted, named = truth(place, given)
    assert not named
    draws = random.Random(1)
    flipped = 0
    for path in objects(place):
        size = path.stat().st_size
        count = max(1, size // share)
        for at in sorted(draws.sample(range(size), count)) if share > 1 else range(size):
            assert flip(place, given, wanted, path, at) or path.name == "store.json", (path, at)
            flipped += 1
    assert flipped > 20
    assert truth(place, given) == (wanted, set())


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("share", [150, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flip_in_the_index_is_an_error_or_changes_nothing(made, tmp_path, share):
    """Facts and journal are read as they were or not at all. (Windows, leases and observations have no
    digests: they are not looked at here.)"""
    path = shutil.copy(made / "plain" / "store" / "index.db", tmp_path / "index.db")
    whole = (tmp_path / "index.db").read_bytes()

    def look(at):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        copy = tmp_path / "copy.db"
        for each in tmp_path.glob("copy.db*"):
            each.unlink()
        copy.write_bytes(data)
        index = SqliteIndex(copy, page_size=512)
        try:
            return index.load(), list(index.changes(0))
        finally:
            index.close()

    index = SqliteIndex(path, page_size=512)
    wanted = index.load(), list(index.changes(0))
    index.close()
    refused = 0
    draws = random.Random(2)
    every = range(len(whole))
    # the heads of pages too: a wrong count of cells hides rows, and every row left is as it was
    heads = [page + draws.randrange(8) for page in range(0, len(whole), 512)]
    for at in [*heads, *draws.sample(every, len(whole) // share)] if share > 1 else every:
        try:
            found = look(at)
        except EmergenceError:
            refused += 1
            continue
        assert found == wanted, f"byte {at} of the index is believed"
    assert refused > len(whole) // share // 10


KINDS = {
    "chunk": "variants/v/state/chunk_*",
    "manifest": "variants/v/state/00000002.json",
    "parent": "variants/v/state/00000001.json",
    "state mirror": "variants/v/state/index.json",
    "record": "variants/v/metadata.json",
    "point": "variants/v/points/*.json",
    "segment": "journal/0*",
    "checkpoint": "journal/checkpoint-*",
    "key": "keys/*",
    "store": "store.json",
    "index": "index.db",
}
BEHIND = {("state mirror", "gone"), ("state mirror", "older"), ("record", "gone"), ("record", "older"),
          ("checkpoint", "gone"), ("store", "gone")}  # fmt: skip
"""No damage: such a mirror is written again with the next change, ``store.json`` at once."""


@pytest.mark.parametrize("damage", ["cut", "empty", "swapped", "older", "gone"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_file_damaged(place, given, kind, damage):
    """Cut, emptied, swapped with the other variant's or another store's, replaced by its older self, gone:
    never other data, never another decision; named by ``verify`` or refused at open, unless it is a
    mirror that is only behind. Repair makes it good where the index can."""
    other, older = place.parent / "other", place.parent / "older"
    files = sorted(place.glob(KINDS[kind]))
    if not files:
        assert kind == "key"
        pytest.skip("there are no keys without a cipher")
    wanted, named = truth(place, given)
    assert not named
    path = files[0] if kind == "segment" else files[-1]  # the last one may be behind, the first not
    name = path.relative_to(place)
    whole = path.read_bytes()
    old = older / name
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "gone":
        path.unlink()
    elif damage == "older":
        if not old.exists() or old.read_bytes() == whole:
            pytest.skip("it is written once, so it has no older self")
        shutil.copy(old, path)
    else:
        theirs = [p for p in sorted(other.glob(KINDS[kind].replace("/v/", "/w/"))) if p.name != "x"]
        path.write_bytes(theirs[-1].read_bytes())
    try:
        found, named = truth(place, given)
    except EmergenceError:
        return
    assert same(found, wanted)
    swept = (kind, damage) in BEHIND
    assert swept or any(key.startswith(("journal/", name.as_posix())) for key in named) or (
        kind == "store" and damage == "swapped"
    ), named  # fmt: skip
    if kind in ("state mirror", "record", "point", "segment", "checkpoint"):
        with open_manager(place, background=False, **given) as manager:
            manager.states.repair()
            assert manager.states.verify().ok
        assert same(truth(place, given)[0], wanted)
