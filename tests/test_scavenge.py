"""States from the objects alone: no index, no journal, no mirrors."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner
from tests.desk import noise

from xenolect import open as open_manager
from xenolect._scavenge import scavenge
from xenolect.cli import main
from xenolect.config import load


@pytest.fixture
def wreck(tmp_path):
    """A store of which only what lies under ``state/`` is left, mirrors excepted."""
    place = tmp_path / "store"
    with open_manager(place, background=False, state={"chunk_size": "1KiB"}) as manager:
        for name in ("bytes", "json", "packed"):
            manager.variants.propose(name, {}, id=name)
        manager.states.put("bytes", noise(3500))
        manager.states.patch("bytes", {1500: b"patched"})
        manager.states.put("json", {"a": [1, 2]})
        manager.states.put("packed", noise(200_000, seed=7))
        wanted = {name: manager.states.get(name) for name in ("bytes", "json", "packed")}
    for each in [*place.glob("index.db*"), *place.glob("variants/*/*/index.json")]:
        each.unlink()
    shutil.rmtree(place / "journal")
    (place / "store.json").unlink()
    return place, wanted, tmp_path / "out"


def test_manifests_give_whole_versions(wreck):
    """The newest version of each variant, as it was; nothing of the store is changed;
    nothing is written in a dry run."""
    place, wanted, out = wreck
    plan = scavenge(load(place), out, dry_run=True)
    assert not out.exists()
    assert not (place / "store.json").exists()
    done = scavenge(load(place), out)
    assert [(s.variant_id, s.version, s.source) for s in done.states] == [
        ("bytes", 2, "manifest"),
        ("json", 1, "manifest"),
        ("packed", 1, "manifest"),
    ]
    assert [s.size for s in plan.states] == [s.size for s in done.states]
    assert (out / "bytes.bin").read_bytes() == wanted["bytes"]
    assert json.loads((out / "json.json").read_text()) == wanted["json"]
    assert (out / "packed.bin").read_bytes() == wanted["packed"]


def test_an_older_version_where_the_newest_is_damaged(wreck):
    """And why the newest one is not what is found."""
    place, _, out = wreck
    (place / "variants/bytes/state/00000002.json").write_bytes(b"")
    done = scavenge(load(place), out)
    assert done.states[0].version == 1
    assert "cut short" in done.states[0].doubts[0]
    assert (out / "bytes.bin").read_bytes() == noise(3500)


def test_headers_of_chunks_are_enough(wreck):
    """Without any manifest: by variant, version and position, packs too; holes are named."""
    place, wanted, out = wreck
    for each in place.glob("variants/*/state/0*.json"):
        each.unlink()
    done = scavenge(load(place), out)
    assert {s.source for s in done.states} == {"chunks"}
    assert all("may never have been a state" in s.doubts[-1] for s in done.states)
    assert (out / "bytes.bin").read_bytes() == wanted["bytes"]
    assert json.loads((out / "json.bin").read_text()) == wanted["json"]
    assert (out / "packed.bin").read_bytes() == wanted["packed"]
    first = next(
        s for s in place.glob("variants/bytes/state/chunk_*") if noise(1024)[:9] in s.read_bytes()
    )
    first.unlink()
    again = scavenge(load(place), out.with_name("again"))
    assert again.states[0].missing == (0,)


def test_damage_is_not_put_into_a_state(wreck):
    """A changed chunk is left out: what is found is what its name or its manifest says."""
    place, _, out = wreck
    for each in place.glob("variants/*/state/0*.json"):
        each.unlink()
    for each in place.glob("variants/json/state/*.bin"):
        data = bytearray(each.read_bytes())
        data[-2] ^= 1
        each.write_bytes(data)
    done = scavenge(load(place), out)
    assert [s.variant_id for s in done.states] == ["bytes", "packed"]
    assert done.lost[0].startswith("json: ")


def test_the_command(wreck):
    """Text, JSON, exit codes."""
    place, _, out = wreck

    def run(*words):
        command = ["state", "scavenge", str(out), *words, "--storage", str(place)]
        return CliRunner().invoke(main, command)

    assert "json state 1" in run("--dry-run").output
    done = run("--json")
    assert done.exit_code == 0
    assert len(json.loads(done.output)["states"]) == 3
    assert run().exit_code == 2
