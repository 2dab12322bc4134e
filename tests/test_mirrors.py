"""The index's mirror in the object store, and the index rebuilt from it; processes are really killed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.mirrored import kill, live, lose, segments, world
from tests.worker import Worker

from xenolect import (
    AgentContext,
    ConfigError,
    ConflictError,
    CorruptError,
    NotFoundError,
    VariantStatus,
    _mirroring,
)
from xenolect import open as open_manager
from xenolect._reindex import rebuild
from xenolect.cli import main
from xenolect.config import load


@pytest.fixture
def store(tmp_path):
    """A directory with a small life in it: variants, states, a point, agents."""
    place = tmp_path / "store"
    with open_manager(place, background=False) as manager:
        live(manager)
    return place


def test_everything_is_mirrored_at_close(store):
    """The journal, each variant's record and state: all there, and all checked by ``verify``."""
    contents, _, _ = world(store)

    assert segments(store) == [f"{1:012d}-{contents.revision:012d}.bin"]
    with open_manager(store, background=False) as manager:
        assert manager.status()["mirror"] == {
            "revision": contents.revision,
            "behind": 0,
            "error": None,
        }
        version, record = manager._mirroring.records.read("zstd")
        assert (version, record["changes"]) == (1, {"n": 1})
    for name in ("base/metadata.json", "zstd/metadata.json", "zstd/state/index.json"):
        assert (store / "variants" / name).exists()


def test_a_lost_index_is_rebuilt_as_it_was(store):
    """Facts, versions, journal and states are the same; opening without it is refused before."""
    before = world(store)
    lose(store)
    with pytest.raises(
        CorruptError, match=r"the index has nothing, but entry \d+ of it is mirrored"
    ):
        open_manager(store)
    lose(store)

    plan = rebuild(load(store), dry_run=True)
    assert not (store / "index.db").exists()
    done = rebuild(load(store))

    assert (plan.source, plan.revision, plan.mirrors) == ("journal", before[0].revision, ())
    assert (done.entries, done.lost, done.aside) == (before[0].revision, 0, None)
    assert world(store) == before
    with open_manager(store, background=False) as manager:
        manager.variants.propose("later", {}, id="later")
        assert manager.decisions.verify().ok
    again = rebuild(load(store))
    assert (again.source, again.mirrors) == ("index", ())


@pytest.mark.parametrize("both", [True, False])
def test_a_lost_store_file_comes_back_as_it_was(store, both):
    """The index or, with the index lost too, the mirror knows the store's id."""
    before = (store / "store.json").read_bytes()
    wanted = world(store)
    (store / "store.json").unlink()
    if both:
        lose(store)
        rebuild(load(store))
    assert world(store) == wanted
    assert (store / "store.json").read_bytes() == before


def test_a_sealed_store_is_rebuilt_with_its_keys(tmp_path, monkeypatch):
    """The journal is sealed like everything else; without the key nothing is made up."""
    monkeypatch.setenv("A_KEY", "a1" * 32)
    given = {"cipher": {"use": "aes-gcm", "keys": {"env": "A_KEY"}}}
    place = tmp_path / "store"
    with open_manager(place, background=False, **given) as manager:
        live(manager)
        wanted = manager._runtime.index.load()
    lose(place)
    with pytest.raises(ConfigError, match="is sealed with 'aes-gcm'"):
        rebuild(load(place))

    done = rebuild(load(place, **given))

    assert done.lost == 0
    with open_manager(place, background=False, **given) as manager:
        assert manager._runtime.index.load() == wanted
        assert manager.states.get("zstd") == {"window": 2}
        assert manager.states.verify().ok


def test_an_older_index_is_an_alarm_and_the_newer_one_comes_back(store, tmp_path):
    """A backup of the index alone is not served from; what it lacks is in the mirror."""
    shutil.copytree(store, tmp_path / "backup")
    with open_manager(store, background=False) as manager:
        manager.variants.update("zstd", expected_version=1, changes={"n": 2})
    after = world(store)
    lose(store)
    shutil.copy(tmp_path / "backup" / "index.db", store / "index.db")

    with pytest.raises(CorruptError, match="replaced by an older one; `xenolect reindex`"):
        open_manager(store)
    done = rebuild(load(store))

    assert done.why == "the index was behind its mirror"
    assert Path(done.aside).exists()
    assert world(store) == after


def test_two_stories_are_not_mixed(store, tmp_path):
    """Index and mirror that disagree are refused until the operator says which one is right."""
    shutil.copytree(store, tmp_path / "other")
    for place, name in ((store, "mine"), (tmp_path / "other", "theirs")):
        with open_manager(place, background=False) as manager:
            manager.variants.propose(name, {}, id=name)
    mine, theirs = world(store), world(tmp_path / "other")
    lose(store)
    shutil.copy(tmp_path / "other" / "index.db", store / "index.db")

    with pytest.raises(CorruptError, match="the index and its mirror disagree about entry"):
        open_manager(store)
    with pytest.raises(ConflictError, match="hold different entries"):
        rebuild(load(store))
    shutil.copytree(store, tmp_path / "third")
    assert rebuild(load(store), prefer="mirror").source == "journal"
    assert world(store)[0] == mine[0]
    assert rebuild(load(tmp_path / "third"), prefer="index").source == "index"
    assert world(tmp_path / "third")[0] == theirs[0]


def test_a_damaged_row_is_refused_and_what_was_not_mirrored_is_saved(store):
    """One flipped bit in a fact: nothing is served from it; entries of the journal that the mirror does
    not have yet are taken from the damaged index."""
    with open_manager(store, background=False, process=False) as manager:
        manager._mirroring.flush = lambda **_: True  # dies before it is mirrored
        manager.variants.propose("late", {}, id="late")
        wanted = manager._runtime.index.load()
    db = sqlite3.connect(store / "index.db")
    db.execute("UPDATE facts SET value = replace(value, '\"n\":1', '\"n\":7') WHERE key = 'zstd'")
    db.commit()
    db.close()
    with pytest.raises(CorruptError, match="is not what was written"):
        open_manager(store)

    done = rebuild(load(store))

    assert done.recovered == 1
    assert world(store)[0] == wanted


def test_no_mirror_and_no_index_is_said(tmp_path):
    """Nothing is made up."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="nothing to rebuild from"):
        rebuild(load(tmp_path / "empty"))
    assert not list((tmp_path / "empty").iterdir())


def test_a_lost_mirror_is_written_again_from_the_index(store):
    """All of it, and then it is as good as before."""
    before = world(store)
    shutil.rmtree(store / "journal")
    for name in ("zstd/metadata.json", "zstd/state/index.json"):
        (store / "variants" / name).unlink()

    plan = rebuild(load(store), dry_run=True)
    assert not (store / "journal").exists()
    done = rebuild(load(store))

    assert plan.mirrors == done.mirrors
    assert len(done.mirrors) == 3
    lose(store)
    rebuild(load(store))
    assert world(store) == before


def test_every_flip_in_a_mirror_is_found_and_written_again(store):
    """Journal, checkpoint and records, byte by byte (a sample): verify names the object, repair writes it
    from the index, and nobody is served anything else meanwhile."""
    with open_manager(store, background=False, process=False) as manager:
        runtime = manager._runtime
        manager._mirroring.journal.write_checkpoint(runtime.index.load(), "0")
        assert manager.states.verify(deep=False).ok
        keys = [k for k in runtime.chunks.list("") if k.startswith("journal/")]
        keys.append("variants/zstd/metadata.json")
        assert len(keys) == 3
        for key in keys:
            whole = runtime.chunks.get(key)
            for at in range(0, len(whole), max(1, len(whole) // 40)):
                broken = bytearray(whole)
                broken[at] ^= 1 << at % 8
                runtime.chunks.put(key, bytes(broken), if_absent=False)
                assert [p.key for p in manager.states.verify(deep=False).problems] == [key], at
            if "checkpoint" in key:
                runtime.chunks.put(key, whole, if_absent=False)
            else:
                assert manager.states.repair().rewritten == (key,)
            assert manager.states.verify().ok


def test_a_rollback_survives_the_index(tmp_path):
    """It is mirrored before it is acknowledged: killed right after, with the index lost, it is there."""
    place = tmp_path / "store"
    with open_manager(place, background=False) as manager:
        manager.variants.activate(manager.variants.propose("base", {}, id="base"))
        variant = manager.variants.propose("zstd", {"n": 1}, id="zstd")
        manager.variants.activate(variant, force=True)
        manager.states.put("zstd", {"window": 1})
        manager.points.create("zstd")
        manager.states.put("zstd", {"window": 2})
    worker = Worker()
    worker.ask("open", path=str(place))
    worker.ask("roll_back", variant="zstd")
    kill(worker)
    lose(place)

    rebuild(load(place))

    with open_manager(place, background=False, process=False) as manager:
        assert manager.variants.get("zstd").status == VariantStatus.ROLLED_BACK
        assert manager.states.get("zstd") == {"window": 1}


def test_a_running_rollout_begins_again(tmp_path):
    """Its evidence was in the index alone: it goes back to the first level as the next attempt."""
    with open_manager(tmp_path, background=False) as manager:
        manager.variants.activate(manager.variants.propose("base", {}, id="base"))
        manager.agents.register_many([(f"a{i}", AgentContext()) for i in range(30)])
        manager.variants.propose("new", {"n": 1}, id="new")
        manager.canaries.start("new")
        for i in range(30):
            manager.report(manager.select(f"a{i}"), f"a{i}", success=True, latency_ms=5.0)
    lose(tmp_path)

    done = rebuild(load(tmp_path))

    assert done.restarted == ("new",)
    with open_manager(tmp_path, background=False) as manager:
        document = manager._runtime.value("rollout", "new")
        assert (document["attempt"], document["level_sequence"]) == (2, 0)
        assert manager.canaries.status("new").state == "ramping"


def test_the_command(store):
    """``xenolect reindex``: the plan, the work, both as text and JSON, the exit codes."""

    def run(*words):
        return CliRunner().invoke(main, ["reindex", *words, "--storage", str(store)])

    whole = run()
    assert (whole.exit_code, whole.output.startswith("the index is whole")) == (0, True)
    lose(store)
    plan = run("--dry-run")
    assert "would be rebuilt from its mirror" in plan.output
    done = run("--json")
    assert done.exit_code == 0
    assert json.loads(done.output)["source"] == "journal"
    shutil.rmtree(store / "journal")
    lose(store)
    gone = run()
    assert gone.exit_code == 3
    assert "nothing to rebuild from" in gone.stderr


def test_closing_ends_the_thread_that_waits_for_a_batch(tmp_path, monkeypatch):
    """Closed right after a commit, while the thread gathers what else comes: it ends, nothing is left to
    wait for, and what was committed is mirrored."""
    monkeypatch.setattr(_mirroring, "EVERY", 60.0)
    gathering = threading.Event()
    manager = open_manager(tmp_path / "store")
    manager.variants.activate(manager.variants.propose("base", {"n": 0}, id="base"))
    mirroring = manager._mirroring
    wait = mirroring._hurry.wait
    mirroring._hurry.wait = lambda timeout: (gathering.set(), wait(timeout))[1]
    mirroring._hurry.set()  # the batch that is gathered ends; the next one is seen
    manager.variants.propose("more", {"n": 1}, id="more")
    assert gathering.wait(30)

    thread = mirroring._thread
    manager.close()

    assert not thread.is_alive()
    assert len(list((tmp_path / "store" / "journal").iterdir())) > 0
