"""Repairing: what is damaged on purpose is healed from copies, or given up with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.desk import CHUNK, Desk, noise

from xenolect import CorruptError, VariantStatus
from xenolect import open as open_manager
from xenolect.cli import main


def chunk_keys(desk, variant, version=None):
    """The keys of a version's chunks, by position."""
    _, content = desk.states._versions.located(variant, version)
    return [f"variants/{variant}/state/{entry.object}" for entry in content.table]


def damage(chunks, key, how):
    """Break one object: a flipped bit, half of it, or nothing left."""
    data = bytearray(chunks.get(key))
    if how == "gone":
        chunks.delete(key)
        return
    if how == "flip":
        data[-3] ^= 4
    chunks.put(key, bytes(data[: len(data) // 2] if how == "cut" else data), if_absent=False)


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_chunk_is_healed_from_another_variant(how):
    """The same content under another variant makes the state whole, as a new version; then verify is
    content, a second repair finds nothing to do, and nothing unreferenced is left."""
    desk = Desk()
    data = noise(5 * CHUNK)
    desk.states.put("zstd", data)
    desk.states.put("json", noise(2 * CHUNK, seed=9) + data[2 * CHUNK : 3 * CHUNK])
    victim = chunk_keys(desk, "zstd")[2]
    damage(desk.chunks, victim, how)
    fresh = Desk(desk.index, desk.chunks, seed=2)
    with pytest.raises(CorruptError, match=r"chunk_"):
        fresh.states.get("zstd")

    plan = fresh.states.repair(dry_run=True)
    assert [(each.variant_id, each.version) for each in plan.healed] == [("zstd", None)]
    assert fresh.states.versions("zstd")[-1].version == 1
    done = fresh.states.repair()

    assert done.ok
    assert done.healed[0].objects == (victim,)
    assert done.healed[0].sources == (chunk_keys(desk, "json")[2],)
    assert fresh.states.get("zstd") == data
    assert fresh.states.versions("zstd")[-1].version == 2
    report = fresh.states.verify()
    assert report.ok
    assert [problem.key for problem in report.known] == [victim]
    again = fresh.states.repair()
    assert (again.healed, again.lost) == ((), ())
    assert fresh.states.gc(0).removed == ()
    with pytest.raises(CorruptError):
        fresh.states.get("zstd", version=1)


def test_a_chunk_is_healed_from_an_older_version_of_the_state():
    """A version that was written anew in another chunk layout still holds the content."""
    desk = Desk()
    data = noise(3 * CHUNK)
    desk.states.put("zstd", data)
    desk.states.put("zstd", b"other" * CHUNK)
    desk.states.put("zstd", data)  # written again: shared only with the parent
    victim = chunk_keys(desk, "zstd")[0]
    assert victim != chunk_keys(desk, "zstd", 1)[0]
    damage(desk.chunks, victim, "gone")

    done = desk.states.repair("zstd")

    assert done.healed[0].sources == (chunk_keys(desk, "zstd", 1)[0],)
    assert desk.states.get("zstd") == data


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_manifest_is_healed_from_the_mirror(how):
    """The mirror has the newest version's table: a lost manifest, or a lost parent of it, is no loss."""
    desk = Desk()
    data = noise(4 * CHUNK)
    desk.states.put("zstd", data)
    desk.states.patch("zstd", {5: b"hello"})
    desk.states.flush()
    wanted = desk.states.get("zstd")
    damage(desk.chunks, "variants/zstd/state/00000001.json", how)  # the parent of the newest
    fresh = Desk(desk.index, desk.chunks, seed=3)

    done = fresh.states.repair()

    assert done.ok
    assert done.healed[0].version == 3
    assert Desk(desk.index, desk.chunks).states.get("zstd") == wanted
    assert fresh.states.verify().ok
    assert not fresh.states.repair().healed


def test_what_has_no_copy_goes_back_to_the_newest_intact_version():
    """Nobody else has the content: the version before becomes current again, and the report says so."""
    desk = Desk()
    desk.states.put("zstd", noise(2 * CHUNK, seed=1))
    desk.states.put("zstd", noise(2 * CHUNK, seed=2))
    desk.states.put("zstd", noise(2 * CHUNK, seed=3))
    damage(desk.chunks, chunk_keys(desk, "zstd")[1], "flip")
    damage(desk.chunks, chunk_keys(desk, "zstd", 2)[0], "gone")

    plan = desk.states.repair(dry_run=True)
    done = desk.states.repair()

    assert plan.lost[0].variant_id == "zstd"
    assert not plan.ok
    assert done.lost[0].done == "version 1 is current again"
    assert desk.states.get("zstd") == noise(2 * CHUNK, seed=1)
    assert desk.states.verify().ok
    assert len(desk.states.verify().known) == 2


def test_a_state_without_any_intact_version_is_named():
    """Where nothing is left, repair says what to do and changes nothing; a put makes it good."""
    desk = Desk()
    desk.states.put("zstd", b"x" * 100)
    damage(desk.chunks, chunk_keys(desk, "zstd")[0], "gone")

    done = desk.states.repair()

    assert not done.ok
    assert "put the state again" in done.lost[0].done
    assert not desk.states.verify().ok
    desk.states.put("zstd", b"y" * 100)
    assert desk.states.verify().ok


def test_a_damaged_mirror_is_named_and_written_again():
    """Every flipped byte of a mirror is found by verify; repair writes the mirror from the index."""
    desk = Desk()
    desk.states.put("zstd", noise(2 * CHUNK))
    desk.states.flush()
    key = "variants/zstd/state/index.json"
    whole = desk.chunks.get(key)
    for at in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[at] ^= 1
        desk.chunks.put(key, bytes(broken), if_absent=False)
        assert [problem.key for problem in desk.states.verify(deep=False).problems] == [key]

    assert desk.states.repair().rewritten == (key,)
    assert desk.states.verify().ok


@pytest.mark.parametrize("fail_at", range(1, 12))
def test_a_repair_that_dies_is_run_again(fail_at):
    """Whatever call of the store fails: the old state or the healed one, and the next run completes."""
    from xenolect import StorageError
    from xenolect.testing import FaultyChunks

    desk = Desk()
    data = noise(3 * CHUNK)
    desk.states.put("zstd", data)
    desk.states.put("json", data)
    for key in chunk_keys(desk, "zstd")[:2]:
        damage(desk.chunks, key, "gone")
    faulty = FaultyChunks(desk.chunks, fail_at=fail_at, only="put")
    try:
        Desk(desk.index, faulty, seed=5).states.repair()
    except StorageError:
        pass
    fresh = Desk(desk.index, desk.chunks, seed=6)

    fresh.states.repair()

    assert fresh.states.get("zstd") == data
    assert fresh.states.verify().ok
    fresh.states.gc(0)
    assert Desk(desk.index, desk.chunks).states.get("zstd") == data


def test_a_served_variant_goes_back_to_its_point_and_into_quarantine(tmp_path):
    """A canary whose state is lost is rolled back; its point's file is rewritten when it is damaged."""
    store = tmp_path / "store"
    with open_manager(store, background=False) as manager:
        base = manager.variants.propose("base", {"n": 0}, id="base")
        manager.variants.activate(base)
        manager.agents.register_many([(f"a{i}", manager_context()) for i in range(30)])
        manager.variants.propose("new", {"n": 1}, id="new")
        manager.states.put("new", {"window": 1})
        manager.canaries.start("new")
        manager.states.put("new", {"window": 2})
        _, content = manager.states._versions.located("new", None)
        Path(store, "variants/new/state", content.table[0].object).unlink()

        done = manager.states.repair()

        assert "rolled back" in done.lost[0].done
        assert manager.variants.get("new").status == VariantStatus.ROLLED_BACK
        assert manager.states.get("new") == {"window": 1}
        assert manager._runtime.value("quarantine", "new") is not None
        point = next(Path(store).glob("variants/new/points/*.json"))
        point.write_bytes(point.read_bytes()[:-4])
        assert not manager.states.verify().ok
        assert len(manager.states.repair().rewritten) == 1
        assert manager.states.verify().ok
        manager.points.verify(manager.points.list("new")[0])


def manager_context():
    """A context that can do nothing special."""
    from xenolect import AgentContext

    return AgentContext()


def test_the_command_heals_and_says_how(tmp_path):
    """``xenolect state repair``: the plan, the healing as JSON, the exit codes of verify around it."""
    store = tmp_path / "store"
    with open_manager(store, background=False) as manager:
        for name in ("a", "b"):
            manager.variants.propose(name, {}, id=name)
            manager.states.put(name, b"same content")
    victim = next(Path(store).glob("variants/a/state/chunk_*"))
    victim.write_bytes(b"")

    def run(*words):
        return CliRunner().invoke(main, ["state", *words, "--storage", str(store)])

    assert run("verify").exit_code == 1
    plan = run("repair", "--dry-run")
    assert plan.exit_code == 0
    assert "would be healed" in plan.output
    assert run("verify", "a").exit_code == 1
    done = run("repair", "--json")
    assert done.exit_code == 0
    assert json.loads(done.output)["healed"][0]["version"] == 2
    assert run("verify").exit_code == 0
