"""The background reader and the replica: damage is found without anybody reading, and healed from a copy."""

from __future__ import annotations

import shutil
import time

import pytest
from tests.desk import noise

from xenolect import CorruptError
from xenolect import open as open_manager
from xenolect.testing import Clock


@pytest.fixture
def store(tmp_path):
    """Two variants with states, and a copy of the whole store as a replication service makes it."""
    place = tmp_path / "store"
    with open_manager(place, background=False, state={"chunk_size": "4KiB"}) as manager:
        for name in ("v", "w"):
            manager.variants.propose(name, {}, id=name)
            manager.states.put(name, noise(20_000, seed=ord(name)))
        manager.states.patch("v", {5: b"patched"})
    shutil.copytree(place, tmp_path / "copy")
    return place


def spoil(store, pattern, how="flip"):
    """Damage the first object of a pattern; its path."""
    path = min(store.glob(pattern))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("how", ["flip", "gone"])
@pytest.mark.parametrize(
    "pattern",
    ["variants/v/state/chunk_*", "variants/v/state/0*2.json", "variants/v/state/0*1.json"],
)
def test_a_replica_heals(store, tmp_path, pattern, how):
    """Any chunk or manifest, changed or gone: repair takes it from the copy, in a new version; without the
    copy the same damage is a loss."""
    with open_manager(store, background=False, process=False) as manager:
        wanted = manager.states.get("v")
    (store / "variants/v/state/index.json").unlink()  # the mirror could heal a manifest as well
    spoil(store, pattern, how)
    with open_manager(store, background=False, process=False) as manager:
        if manager.states.verify("v").problems:
            assert manager.states.repair("v", dry_run=True).lost

    replica = {"replica": str(tmp_path / "copy")}
    with open_manager(store, background=False, state=replica) as manager:
        done = manager.states.repair()
        assert done.ok
        assert [(each.variant_id, each.version) for each in done.healed] == [("v", 3)]
        assert manager.states.get("v") == wanted
        assert manager.states.verify().ok
    with open_manager(store, background=False, process=False) as manager:
        assert manager.states.get("v") == wanted


def test_a_damaged_replica_heals_nothing(store, tmp_path):
    """What a copy says is checked like everything else."""
    path = spoil(store, "variants/v/state/chunk_*")
    shutil.copy(path, tmp_path / "copy" / path.relative_to(store))
    replica = {"replica": str(tmp_path / "copy")}
    with open_manager(store, background=False, state=replica) as manager:
        assert not manager.states.repair("v").ok


def scrubbing(store, heard, **state):
    """A manager that reads everything again at once, in the background."""
    state = {"scrub_interval": "1s", "scrub_rate": "64MiB", **state}
    manager = open_manager(store, clock=Clock(time.time() + 1000), state=state)
    manager.on(heard.append)
    return manager


def until(condition):
    """Wait for the background."""
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


def test_the_background_finds_damage_nobody_reads(store):
    """Without a replica it is named in events and status, and nothing is changed."""
    path = spoil(store, "variants/w/state/chunk_*")
    heard = []
    with scrubbing(store, heard) as manager:
        until(lambda: manager.status()["scrub"]["finished_at"])
        found = manager.status()["scrub"]
        assert (found["damaged"], found["keys"]) == (1, [str(path.relative_to(store))])
        until(lambda: any(event.kind == "state.damaged" for event in heard))
        assert manager.states.versions("w")[-1].version == 1
        with pytest.raises(CorruptError):
            manager.states.get("w")


@pytest.mark.parametrize("older", [False, True], ids=["the present state", "an older one"])
def test_a_served_variant_is_taken_back_before_an_agent_meets_the_damage(store, older):
    """By the background reader: what the variant has now is critical, what it had is not."""
    with open_manager(store, background=False, state={"chunk_size": "4KiB"}) as manager:
        manager.variants.activate("v")
        manager.variants.activate("w", force=True)
        manager.points.create("w")
        manager.states.put("w", noise(20_000, seed=1))
        _, present = manager.states._versions.located("w", 1 if older else None)
    spoil(store, f"variants/w/state/{present.table[0].object}")
    heard = []
    with scrubbing(store, heard) as manager:
        until(lambda: manager.status()["scrub"]["finished_at"])
        manager.flush()
        assert manager.status()["scrub"]["damaged"] == 1
        assert (manager.variants.get("w").status == "rolled_back") is not older
        assert any(event.kind == "variant.rolled_back" for event in heard) is not older
        if not older:
            assert manager.states.get("w") == noise(20_000, seed=ord("w"))
        assert manager.variants.get("v").status == "active"


def test_the_background_heals_from_a_replica(store, tmp_path):
    """With one the state is whole again, and the event says in which version."""
    spoil(store, "variants/w/state/chunk_*")
    heard = []
    with scrubbing(store, heard, replica=str(tmp_path / "copy")) as manager:
        until(lambda: manager.status()["scrub"]["finished_at"])
        assert manager.status()["scrub"]["damaged"] == 0
        assert manager.states.get("w") == noise(20_000, seed=ord("w"))
        until(lambda: any(event.kind == "state.healed" for event in heard))


def test_reading_again_is_bounded_and_due_once_an_interval(store):
    """At 16 KiB a second 40 KB take seconds, and closing does not wait for them; after a pass the next one
    is due an interval later. New states are not read at once."""
    clock = Clock(time.time())
    state = {"scrub_interval": "1h", "scrub_rate": "16KiB"}
    with open_manager(store, background=False, clock=clock, state=state) as manager:
        scrubber = manager._scrubber
        assert not scrubber.due()
        clock.advance(3700)
        assert scrubber.due()
        began = time.monotonic()
        scrubber.run()
        assert time.monotonic() - began > 20_000 * 2 / 16384 * 0.8
        assert not scrubber.due()
        clock.advance(3700)
        assert scrubber.due()
    began = time.monotonic()
    slow = {"scrub_interval": "1s", "scrub_rate": "1KiB"}
    with open_manager(store, clock=Clock(time.time() + 1e6), state=slow) as manager:
        until(lambda: manager.status()["scrub"]["running"])
    assert time.monotonic() - began < 35


def test_one_process_reads_for_all(store):
    """The lease of another process keeps this one from reading the same again."""
    from xenolect._scrubber import _Stopped

    with open_manager(store, background=False) as one, open_manager(store, background=False) as two:
        one._scrubber.run()
        with pytest.raises(_Stopped):
            two._scrubber.run()
