"""New data keys and shredded ones: what is sealed anew, and what nobody can read again."""

from __future__ import annotations

import os

import pytest
from tests.sealed_stores import (
    EVERY,
    OLD,
    SECRET,
    Killed,
    abandon,
    dying,
    fill,
    key_objects,
    processes,
    two_keys,
    whole,
)

from xenolect import CorruptError, InvalidError, NotFoundError, TransitionError


@pytest.fixture
def keys(monkeypatch):
    """Two keys in the environment."""
    two_keys(monkeypatch)


@pytest.fixture
def shared(opened, request):
    """Open one store in memory, as several processes do."""
    return processes(opened, request.node.name)


def seals(manager, variant):
    """The ids of the keys that seal the newest state's chunks."""
    version = manager.states.heads.head(variant).version
    _, content = manager.states.heads.located(variant, version)
    folder = f"variants/{variant}/state/"
    found = set()
    for entry in content.table:
        data = manager._runtime.chunks.get(folder + entry.object)
        end = int.from_bytes(data[6:8], "big")
        found.add(data[end : end + 16].hex() if data[8:15] == b"aes-gcm" else "none")
    return found


def current(manager, variant):
    """The id of the key that seals for a variant now."""
    (found,) = [
        i.id for i in manager.keys.list() if (i.scope, i.state) == (f"variant/{variant}", "current")
    ]
    return found


def test_a_new_data_key_seals_everything_anew(opened, keys):
    """New versions with the same content; older ones are read on; what was not sealed is sealed; a
    second sweep begins anew."""
    manager = opened(state={"chunk_size": 1024}, **OLD)
    fill(manager)
    manager.states.put("w", os.urandom(5000))
    manager.states.patch("w", {0: b"x"})
    before = {name: (manager.states.get(name), seals(manager, name)) for name in ("v", "w")}

    look = manager.keys.rekey(dry_run=True)
    assert [(s.variant_id, s.version, s.chunks) for s in look.states] == [
        ("v", None, 1),
        ("w", None, 5),
    ]
    assert look.keys == ("store", "variant/v", "variant/w")
    assert seals(manager, "v") == before["v"][1]
    seen = []
    done = manager.keys.rekey(progress=lambda n, total: seen.append((n, total)))

    assert [(s.variant_id, s.version, s.chunks) for s in done.states] == [("v", 3, 1), ("w", 4, 5)]
    assert (done.resumed, seen[-1][0]) == (False, seen[-1][1])
    for name, (content, old) in before.items():
        assert manager.states.get(name) == content
        assert seals(manager, name) == {current(manager, name)} != old
    assert manager.states.get("v", version=1) == SECRET
    assert manager.states.verify().ok
    assert manager.keys.rekey("v").keys == ("variant/v",)
    assert manager.states.versions("v")[-1].version == 4


def test_rekeying_seals_what_was_stored_before_there_was_a_cipher(opened, keys, tmp_path):
    """A store that gets a cipher later is sealed by it, its mirrors too."""
    manager = opened(tmp_path / "s")
    fill(manager)
    manager.close()
    sealed_now = opened(tmp_path / "s", **OLD)
    assert seals(sealed_now, "v") == {"none"}
    problems = sealed_now.states.verify().problems
    mirrors = [k for k in sealed_now._runtime.chunks.list("") if k.startswith("journal/")]
    mirrors += [f"variants/{n}/{m}.json" for n in ("v", "w") for m in ("state/index", "metadata")]
    assert {p.key for p in problems} == set(mirrors)
    assert "is not sealed, and a cipher is configured" in problems[0].what
    sealed_now.keys.rekey()
    sealed_now.flush()
    sealed_now.states.flush()
    assert seals(sealed_now, "v") == {current(sealed_now, "v")}
    assert sealed_now.states.verify().ok
    assert whole(sealed_now)


@EVERY
def test_rekeying_may_die_at_any_call(opened, keys, stride):
    """Nothing is lost; running it again makes no further keys, seals what is left and only that."""
    resumed = set()
    for fail_at in range(1, 200, stride):
        name = f"rekey-{stride}-{fail_at}"
        parts = {
            "index": {"use": "memory", "name": name},
            "chunks": {"use": "memory", "name": name},
        }
        fill(opened(**parts, **OLD))
        manager = dying(opened(**parts, **OLD), fail_at)
        try:
            manager.keys.rekey()
        except Killed:
            abandon(manager)
        else:
            abandon(manager)
            break
        other = opened(**parts, **OLD)
        assert whole(other)
        marked = any(v.get("rekeying") for _, v in other.states.objects.keys.scopes())
        done = other.keys.rekey()
        assert done.resumed == marked
        resumed.add(len(done.states))
        assert other.keys.rekey("v").resumed is False
        for each in ("v", "w"):
            assert seals(other, each) == {current(other, each)}
        other.states.gc(0)
        assert whole(other)
        assert other.states.verify().ok
    else:
        pytest.fail("the scenario never ends")
    assert resumed == {0, 1, 2} or (stride > 1 and resumed >= {1, 2})


# -- shredding ----------------------------------------------------------------------------------------


def test_shredding_leaves_nothing_that_can_be_read(shared, keys):
    """Not even with a copy of every object made before: the key is gone. Another variant is as before,
    the variant can have a new state, and the journal says who destroyed what, and when."""
    manager, other = shared(**OLD), shared(**OLD)
    fill(manager)
    manager.states.flush()
    chunks = manager._runtime.chunks
    copy = {key: chunks.get(key) for key in chunks.list("variants/")}
    other.states.get("v")
    former = current(manager, "v")

    look = manager.keys.shred("v", dry_run=True)
    assert (look.keys, look.versions, look.points) == ((former,), 2, 1)
    assert whole(manager)
    done = manager.keys.shred("v")

    assert (done.keys, done.versions, done.points) == (look.keys, 2, 1)
    assert not [name for name in key_objects(manager) if former in name]
    assert not list(chunks.list("variants/v/points/"))
    for each in (manager, other, shared(**OLD)):
        each._runtime.catch_up()
        with pytest.raises(NotFoundError, match="has no state"):
            each.states.get("v")
        assert each.states.versions("v") == []
        assert each.points.list("v") == []
        assert each.states.get("w") == SECRET
    for key, data in copy.items():
        if key.startswith("variants/v/"):
            chunks.put(key, data, if_absent=False)
    for each in (manager, other):  # one that had the key in memory
        with pytest.raises(CorruptError, match="its key was shredded on"):
            each.states.objects.keys.opener().open(sealed_part(copy), b"")
    with pytest.raises(CorruptError, match="its key was shredded on"):
        shared(**OLD).states.objects.keys._find(bytes.fromhex(former))
    entry = manager.decisions.list(newest=True, limit=1)[0]
    assert entry.actor == "keys shred"
    assert manager.states.put("v", b"new").version == 4
    assert other.states.get("v") == b"new"
    manager.states.flush()  # writes the mirror that was put back anew
    assert manager.states.verify().ok
    manager.keys.shred("v")
    with pytest.raises(NotFoundError, match="it is gone already"):
        manager.keys.shred("v")


def sealed_part(copy):
    """What follows the header of one chunk."""
    (data, *_) = [data for key, data in sorted(copy.items()) if "/v/state/chunk_" in key]
    return data[int.from_bytes(data[6:8], "big") :]


def test_what_is_served_is_not_shredded(opened, keys):
    """Agents would be without the state; and a store without a cipher has nothing to shred."""
    manager = opened(**OLD)
    fill(manager)
    manager.variants.activate("v")
    with pytest.raises(TransitionError, match="agents are served its state; deprecate it or roll"):
        manager.keys.shred("v")
    assert whole(manager)
    plain = opened("memory://")
    plain.variants.propose("v", {}, id="v")
    assert plain.keys.list() == []
    for act in (plain.keys.rotate, plain.keys.rekey, lambda: plain.keys.shred("v")):
        with pytest.raises(InvalidError, match="use = 'none' has no keys that are kept"):
            act()


def test_a_writer_is_not_left_with_a_key_that_is_gone(shared, keys):
    """A put that has sealed its chunks when the variant is shredded begins again, with a new key: what
    it acknowledges can be read."""
    manager, writing = shared(**OLD), shared(**OLD)
    fill(manager)
    writing._runtime.catch_up()
    put = writing.states.objects.put_manifest
    shredded = []

    def late(manifest):
        if not shredded:
            shredded.append(manager.keys.shred("v"))
        return put(manifest)

    writing.states.objects.put_manifest = late
    ref = writing.states.put("v", SECRET * 3)
    assert shared(**OLD).states.get("v") == SECRET * 3
    assert ref.version == 4
    assert manager.states.verify().ok


@EVERY
def test_shredding_may_die_at_any_call(opened, keys, stride):
    """Before its commit everything is there; after it nothing is read any more, and running it again
    removes what was left."""
    outcomes = set()
    for fail_at in range(1, 100, stride):
        name = f"shred-{stride}-{fail_at}"
        parts = {
            "index": {"use": "memory", "name": name},
            "chunks": {"use": "memory", "name": name},
        }
        fill(opened(**parts, **OLD))
        former = current(opened(**parts, **OLD), "v")
        manager = dying(opened(**parts, **OLD), fail_at)
        try:
            manager.keys.shred("v")
        except Killed:
            abandon(manager)
        else:
            abandon(manager)
            break
        other = opened(**parts, **OLD)
        gone = not other.states.versions("v")
        outcomes.add(gone)
        if not gone:
            assert whole(other)
        else:
            with pytest.raises(CorruptError):
                other.states.objects.keys._find(bytes.fromhex(former))
        try:
            other.keys.shred("v")
        except NotFoundError:
            assert gone
        assert not [key for key in key_objects(other) if former in key]
        assert other.states.get("w") == SECRET
        assert other.states.verify().ok
    else:
        pytest.fail("the scenario never ends")
    assert outcomes == {False, True}
