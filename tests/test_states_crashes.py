"""A process that dies while it stores a state, and what is collected afterwards."""

from __future__ import annotations

import io

import pytest
from tests.desk import CHUNK, Desk, noise, snapshot

from xenolect import ConflictError, CorruptError, EmergenceError, StorageError
from xenolect._envelope import Header
from xenolect.errors import StorageFullError
from xenolect.testing import Clock, FaultyChunks
from xenolect_backends.memory import MemoryChunks, MemoryIndex


class Killed(BaseException):
    """The process is gone: nobody catches this, and nothing works afterwards."""


class AfterwardsFaulty(FaultyChunks):
    """Fails after the call did its work, as when the answer is lost."""

    def put(self, key, data, *, if_absent=True):
        self.inner.put(key, data, if_absent=if_absent)
        self._count("put")

    def delete(self, key):
        self.inner.delete(key)
        self._count("delete")


OLD = noise(5 * CHUNK)
NEW = OLD[:CHUNK] + noise(3 * CHUNK, seed=2) + OLD[4 * CHUNK :]
ACTS = {
    "put": lambda states: states.put("zstd", NEW),
    "stream": lambda states: states.put("zstd", io.BytesIO(NEW)),
    "patch": lambda states: states.patch("zstd", {CHUNK: NEW[CHUNK : 4 * CHUNK]}),
}


@pytest.mark.parametrize("kind", [FaultyChunks, AfterwardsFaulty])
@pytest.mark.parametrize("act", list(ACTS))
def test_a_process_may_die_at_any_call(kind, act):
    """Before or after each call to the chunk store: another process sees all of the old or all of the new
    state, the next put works, and the collector removes what the dead one left."""
    seen = set()
    for fail_at in range(1, 100):
        index, chunks = MemoryIndex(), MemoryChunks()
        Desk(index, chunks).states.put("zstd", OLD)
        faulty = kind(chunks, fail_at=fail_at, error=Killed, lasting=True)
        dying = Desk(index, faulty, seed=2)
        try:
            ACTS[act](dying.states)
        except Killed:
            pass
        else:
            break

        other = Desk(index, chunks, seed=3)
        found = other.states.get("zstd")
        assert found in (OLD, NEW)
        seen.add(found == NEW)
        version = other.states.versions("zstd")[-1].version
        assert version == 2 if found == NEW else version == 1
        assert other.states.verify().ok
        other.states.put("zstd", b"after")
        other.states.gc(0)
        assert other.states.get("zstd", version=version) == found
        assert other.states.verify().ok
        left = {key for key in snapshot(chunks) if not key.startswith("keys/")}
        assert left == referenced(other)
    else:
        pytest.fail("the scenario never ends")
    assert fail_at > 5
    assert seen == {False, True}


def referenced(desk):
    """What the versions refer to, by reading their manifests: not the collector's own look."""
    keys = {"store.json", "variants/zstd/state/index.json"}
    for ref in desk.states.versions("zstd"):
        content = desk.states._versions.located("zstd", ref.version)[1]
        keys.add(content.link.key)
        keys.update(f"variants/zstd/state/{entry.object}" for entry in content.table)
    return keys


def test_errors_of_the_store_leave_nothing_behind():
    """An error, unlike a crash, removes what was stored; the message and the class are the store's own."""
    for error in (StorageFullError("no space"), StorageError("broken pipe")):
        index, chunks = MemoryIndex(), MemoryChunks()
        Desk(index, chunks).states.put("zstd", OLD)
        before = set(snapshot(chunks))
        for fail_at in (1, 2, 3):
            faulty = FaultyChunks(chunks, fail_at=fail_at, only="put", error=error)
            with pytest.raises(type(error), match=str(error)):
                Desk(index, faulty, seed=2).states.put("zstd", NEW)
            assert set(snapshot(chunks)) == before
        assert Desk(index, chunks).states.get("zstd") == OLD


def test_a_failing_mirror_fails_no_put():
    """The mirror is best effort: the put is acknowledged, the mirror is written by the next flush, and
    never goes backwards."""
    inner = MemoryChunks()
    chunks = FaultyChunks(inner)
    desk = Desk(chunks=chunks)
    desk.states.put("zstd", b"one")
    mirror = "variants/zstd/state/index.json"
    chunks.calls.clear()
    chunks.fail_at = 0
    ref = desk.states.put("zstd", b"two")
    assert ref.version == 2
    assert Header.decode(inner.get(mirror), mirror)[0].sequence == 1  # 250 ms are not over

    chunks.calls.clear()
    chunks.fail_at, chunks.lasting = 1, True
    desk.states.flush()
    assert Header.decode(inner.get(mirror), mirror)[0].sequence == 1
    chunks.fail_at, chunks.lasting = 0, False
    desk.states.flush()
    assert Header.decode(inner.get(mirror), mirror)[0].sequence == 2
    behind = Desk(desk.index, inner, seed=4)
    desk.states.put("zstd", b"three")
    desk.states.flush()
    behind.states._mirrors.touch("zstd")
    behind.states.flush()
    assert Header.decode(inner.get(mirror), mirror)[0].sequence == 3


def orphan(desk):
    """A put that was killed before its commit: its chunks and its manifest lie around."""

    def die():
        raise Killed

    dying = Desk(desk.index, desk.chunks, clock=desk.clock_, seed=11)
    dying.before_commit = die
    with pytest.raises(Killed):
        dying.states.put("zstd", noise(3 * CHUNK, seed="orphan"))


def test_gc_keeps_what_is_young_and_what_is_used():
    """Nothing within the grace, nothing any version refers to; dry runs only tell."""
    clock = Clock()
    desk = Desk(clock=clock, gc_grace=3600.0)
    desk.states.put("zstd", noise(3 * CHUNK))
    desk.states.patch("zstd", {0: b"x"})
    desk.commit(desk.states.same_as("zstd", 1))
    kept = set(snapshot(desk.chunks))
    orphan(desk)

    assert (desk.states.gc().removed, desk.states.gc().young) == ((), 3)
    clock.advance(3601)
    told = desk.states.gc(dry_run=True)
    assert len(told.removed) == 3
    assert desk.fact("setting", "gc_epoch") is None
    assert set(snapshot(desk.chunks)) > kept
    done = desk.states.gc()

    assert done.removed == told.removed
    # the manifest's plain name is not removed before its version is taken
    assert set(snapshot(desk.chunks)) - kept == {"variants/zstd/state/00000004.json"}
    assert desk.states.verify().ok
    assert desk.fact("setting", "gc_epoch").value["epoch"] == 1
    desk.states.put("zstd", noise(CHUNK))
    clock.advance(3601)
    assert desk.states.gc().removed == ("variants/zstd/state/00000004.json",)
    assert desk.states.gc("1h").removed == ()
    assert desk.states.verify().ok


@pytest.mark.parametrize("act", list(ACTS))
def test_a_writer_overtaken_by_the_collector_begins_again(act):
    """Chunks stored, then collected without any grace, then committed: the commit is refused and the put
    repeated, so that the acknowledged state is whole."""
    desk = Desk()
    desk.states.put("zstd", OLD)
    collector = Desk(desk.index, desk.chunks, seed=5)
    removed = []

    def collect():
        desk.before_commit = lambda: None
        removed.extend(collector.states.gc(0).removed)

    desk.before_commit = collect
    ref = ACTS[act](desk.states)

    assert len([key for key in removed if "chunk_" in key]) == 3
    assert ref.version == 2
    assert Desk(desk.index, desk.chunks).states.get("zstd") == NEW
    assert desk.states.verify().ok


def test_a_stream_that_can_not_go_back_is_a_conflict_then():
    """Its bytes are gone, so the caller is asked for them again; nothing is acknowledged."""
    desk = Desk()
    desk.states.put("zstd", OLD)
    collector = Desk(desk.index, desk.chunks, seed=5)

    class Pipe:
        def __init__(self):
            self.inner = io.BytesIO(NEW)

        def read(self, size):
            return self.inner.read(size)

    def collect():
        desk.before_commit = lambda: None
        collector.states.gc(0)

    desk.before_commit = collect
    with pytest.raises(
        ConflictError, match="can not go back to its start; open it and put it again"
    ):
        desk.states.put("zstd", Pipe())

    assert desk.states.get("zstd") == OLD


def test_a_put_that_takes_half_the_grace_is_refused():
    """Before the collector could take its objects away."""
    clock = Clock()
    desk = Desk(clock=clock, gc_grace=100.0)

    class Slow(io.BytesIO):
        def read(self, size=-1):
            clock.advance(30)
            return super().read(size)

    with pytest.raises(ConflictError, match="more than half of state.gc_grace"):
        desk.states.put("zstd", Slow(noise(3 * CHUNK)))
    desk.states.put("zstd", Slow(noise(100)), expected_version=0) if False else None
    assert desk.states.versions("zstd") == []


def test_gc_stops_where_it_can_not_know():
    """A damaged manifest hides what it refers to, so nothing at all is removed."""
    desk = Desk()
    desk.states.put("zstd", OLD)
    orphan(desk)
    before = set(snapshot(desk.chunks))
    key = "variants/zstd/state/00000001.json"
    desk.chunks.put(key, b"damaged", if_absent=False)

    with pytest.raises(CorruptError) as caught:
        Desk(desk.index, desk.chunks).states.gc(0)

    assert caught.value.key == key
    assert set(snapshot(desk.chunks)) == before


def test_gc_that_dies_is_run_again():
    """After any number of its deletions the states are whole and the next run finishes."""
    for fail_at in range(1, 4):
        desk = Desk()
        desk.states.put("zstd", OLD)
        orphan(desk)
        faulty = FaultyChunks(desk.chunks, fail_at=fail_at, only="delete", error=Killed)
        with pytest.raises(Killed):
            Desk(desk.index, faulty).states.gc(0)
        assert Desk(desk.index, desk.chunks).states.verify().ok
        assert len(Desk(desk.index, desk.chunks).states.gc(0).removed) == 3 - (fail_at - 1)


def test_a_whole_put_heals_a_variant_whose_manifest_is_lost():
    """Nothing of the damaged version is reused; the old state's loss is said when it is read."""
    desk = Desk()
    desk.states.put("zstd", OLD)
    desk.chunks.delete("variants/zstd/state/00000001.json")
    fresh = Desk(desk.index, desk.chunks, seed=3)

    ref = fresh.states.put("zstd", OLD)

    assert ref.version == 2
    assert fresh.states.get("zstd") == OLD
    with pytest.raises(CorruptError, match="00000001.json is missing"):
        fresh.states.get("zstd", version=1)
    assert not isinstance(EmergenceError("x"), CorruptError)
