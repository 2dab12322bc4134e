"""Segments of the journal's mirror: gaps, checkpoints, merges, and who writes them."""

from __future__ import annotations

import shutil
import time

import pytest
from tests.mirrored import kill, live, lose, segments, world
from tests.worker import Worker

from xenolect import (
    CorruptError,
)
from xenolect import open as open_manager
from xenolect._journal_objects import JournalObjects, Segment
from xenolect._reindex import rebuild
from xenolect.config import load


@pytest.fixture
def store(tmp_path):
    """A directory with a small life in it: variants, states, a point, agents."""
    place = tmp_path / "store"
    with open_manager(place, background=False) as manager:
        live(manager)
    return place


def many(place, monkeypatch, count, *, merge=1 << 30, checkpoint=1 << 30):
    """A store with one segment per commit."""
    monkeypatch.setattr("xenolect._mirroring.EVERY", 0.0)
    monkeypatch.setattr("xenolect._mirroring.MERGE", merge)
    monkeypatch.setattr("xenolect._mirroring.CHECKPOINT", checkpoint)
    with open_manager(place, background=False) as manager:
        for i in range(count):
            manager.variants.propose(f"v{i}", {}, id=f"v{i}")
            manager.tick()
    monkeypatch.undo()


def test_a_gap_is_not_passed_over(tmp_path, monkeypatch):
    """A segment that is gone or damaged: nothing is rebuilt without the operator's word; with it all that
    leads to the gap, and never more."""
    many(tmp_path, monkeypatch, 9)
    names = segments(tmp_path)
    assert len(names) == 9
    (tmp_path / "journal" / names[4]).write_bytes(b"")
    with open_manager(tmp_path, background=False, process=False) as manager:
        assert [p.key for p in manager.states.verify().problems] == [f"journal/{names[4]}"]
    lose(tmp_path)

    with pytest.raises(
        CorruptError, match=r"entry 5 of the journal can not be recovered: .*cut short"
    ):
        rebuild(load(tmp_path))
    assert not (tmp_path / "index.db").exists()
    done = rebuild(load(tmp_path), accept_loss=True, dry_run=True)
    assert (done.revision, done.lost, done.damaged) == (4, 5, (f"journal/{names[4]}",))


def test_a_checkpoint_bridges_a_gap(tmp_path, monkeypatch):
    """The facts are all there; the entries before it are named as lost, and the journal goes on."""
    many(tmp_path, monkeypatch, 9, checkpoint=6)
    with open_manager(tmp_path, background=False, process=False) as manager:
        wanted = manager._runtime.index.load()
    names = segments(tmp_path)
    (tmp_path / "journal" / names[1]).unlink()
    lose(tmp_path)
    with pytest.raises(CorruptError, match="entry 2 of the journal"):
        rebuild(load(tmp_path))

    done = rebuild(load(tmp_path), accept_loss=True)

    assert done.source == "checkpoint"
    assert done.entries + done.lost == wanted.revision
    with open_manager(tmp_path, background=False) as manager:
        assert manager._runtime.index.load() == wanted
        manager.variants.propose("on", {}, id="on")
        assert manager.variants.get("v8").version == 1
        assert not manager.decisions.verify().ok  # and the lost history is not hidden


def test_segments_are_merged_and_still_lead_to_the_head(tmp_path, monkeypatch):
    """Many small ones become few, nothing is lost by it."""
    many(tmp_path, monkeypatch, 23, merge=5)

    assert len(segments(tmp_path)) < 8
    with open_manager(tmp_path, background=False, process=False) as manager:
        wanted = manager._runtime.index.load()
        assert manager.states.verify().ok
    lose(tmp_path)
    assert rebuild(load(tmp_path)).entries == wanted.revision


def test_overlapping_segments_are_one_journal(store):
    """Two processes may mirror the same entries; a damaged copy is made good by the other one."""
    with open_manager(store, background=False, process=False) as manager:
        entries = manager._runtime.index.changes(0)
        journal: JournalObjects = manager._mirroring.journal
        made = [journal.write(entries[:3]), journal.write(entries[2:5]), journal.write(entries[4:])]
    whole = Segment(1, entries[-1].revision)
    (store / whole.key).write_bytes(b"XLC2 nonsense")
    before = [entry.digest for entry in entries]
    lose(store)

    done = rebuild(load(store))

    assert done.lost == 0
    assert done.damaged == (whole.key,)
    assert [entry.digest for entry in world(store)[2]] == before
    assert {whole.key} == set(done.mirrors)
    assert all((store / each.key).exists() for each in made)


def test_one_process_mirrors_for_all(tmp_path):
    """Two managers on one store: whoever has the lease writes what both commit, and another one takes
    over when it is gone."""
    one = open_manager(tmp_path)
    two = open_manager(tmp_path)
    for i in range(6):
        (one, two)[i % 2].variants.propose(f"v{i}", {}, id=f"v{i}")
        time.sleep(0.05)
    until = time.monotonic() + 20
    held = 0
    while held < 6 and time.monotonic() < until:
        time.sleep(0.05)
        held = sum(Segment(*map(int, n[:-4].split("-"))).entries for n in segments(tmp_path))
    assert held == 6  # nothing twice
    one.close()
    two.variants.propose("last", {}, id="last")
    two.close()

    with open_manager(tmp_path, process=False, background=False) as manager:
        assert manager.status()["mirror"]["behind"] == 0
        assert manager.states.verify().ok


def test_what_a_killed_process_left_out_is_written_at_open(tmp_path):
    """kill -9 between commit and mirror: the next open completes it, and a rebuild then has it all."""
    worker = Worker()
    worker.send("churn", path=str(tmp_path), tag="w")
    for _ in range(30):
        worker.receive()
    kill(worker)
    with open_manager(tmp_path, background=False, process=False) as manager:
        wanted = manager._runtime.index.load()
        mirrored = manager.status()["mirror"]["revision"]
    assert mirrored <= wanted.revision

    with open_manager(tmp_path, background=False) as manager:
        manager.tick()
        assert manager.status()["mirror"]["behind"] == 0
    lose(tmp_path)
    rebuild(load(tmp_path))

    with open_manager(tmp_path, background=False, process=False) as manager:
        assert manager._runtime.index.load() == wanted
        assert manager.states.verify().ok


def test_a_killed_process_loses_only_what_was_not_flushed(tmp_path):
    """kill -9 and the index gone with it: what was mirrored comes back, a prefix of what was committed."""
    worker = Worker()
    worker.send("churn", path=str(tmp_path), tag="w", background=True)
    until = time.monotonic() + 30
    while len(segments(tmp_path)) < 3 and time.monotonic() < until:
        worker.receive()
    kill(worker)
    copy = tmp_path.parent / "copy"
    shutil.copytree(tmp_path, copy)
    with open_manager(copy, background=False, process=False) as manager:
        committed = [entry.digest for entry in manager.decisions]
    lose(tmp_path)

    done = rebuild(load(tmp_path))

    assert done.entries == int(segments(tmp_path)[-1][13:25])
    with open_manager(tmp_path, background=False, process=False) as manager:
        found = [entry.digest for entry in manager.decisions]
        assert found == committed[: len(found)]
        assert manager.states.verify().ok
        for variant in manager.variants.list():
            if manager.states.versions(variant):
                assert manager.states.get(variant)["i"] == variant.changes["i"]
