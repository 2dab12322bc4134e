"""The layout of version 1: out and in again, and what is refused on the way in; caches cleared everywhere."""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
import zlib

import pytest
from click.testing import CliRunner
from tests.desk import noise

from xenolect import InvalidError, VariantStatus
from xenolect import open as open_manager
from xenolect._v1_tree import read_tree, write_tree
from xenolect.cli import main


@pytest.fixture
def tree(opened, tmp_path):
    """A tree with bytes in three chunks, JSON, and a variant without a state."""
    manager = opened(state={"chunk_size": "1KiB"})
    for name in ("bytes", "json", "none"):
        manager.variants.propose(f"the {name}", {"n": [1, name]}, id=name, metadata={"by": "x"})
    manager.variants.activate("json")
    manager.states.put("bytes", noise(2500))
    manager.states.put("json", {"words": ["a", "ä"], "n": 1.5})
    write_tree(manager, tmp_path / "tree")
    return tmp_path / "tree"


def test_the_tree_is_the_sketch_s(tree):
    """The files and the fields the specification draws; chunks are zlib, positions are names."""
    assert sorted(p.name for p in (tree / "bytes" / "state").iterdir()) == [
        "chunk_0.bin",
        "chunk_1.bin",
        "chunk_2.bin",
        "index.json",
    ]
    assert {p.name for p in (tree / "json" / "metrics").iterdir()} == {"hourly", "daily", "monthly"}
    metadata = json.loads((tree / "json/metadata.json").read_text())
    assert metadata.keys() >= {"id", "description", "changes", "metadata", "status", "createdAt"}
    index = json.loads((tree / "bytes/state/index.json").read_text())
    chunk = zlib.decompress((tree / "bytes/state/chunk_1.bin").read_bytes())
    assert index["chunks"][1] == {
        "offset": 1024,
        "size": 1024,
        "checksum": hashlib.sha256(chunk).hexdigest(),
    }


def test_out_and_in_again(tree, opened, tmp_path):
    """Into another store: content, metadata and states are the same, the status is proposed; a second
    import changes nothing; an export does not write over what is there."""
    other = opened(tmp_path / "other")
    plan = read_tree(other, tree, dry_run=True)
    assert other.variants.list() == []
    done = read_tree(other, tree)

    assert (plan.imported, plan.states) == (done.imported, done.states)
    assert done.imported == ("bytes", "json", "none")
    assert done.states == ("bytes", "json")
    assert other.states.get("bytes") == noise(2500)
    assert other.states.get("json") == {"words": ["a", "ä"], "n": 1.5}
    assert other.variants.get("json").status == VariantStatus.PROPOSED
    assert other.variants.get("json").metadata["by"] == "x"
    assert other.variants.get("json").metadata["imported_from_v1"]["status"] == "active"
    assert read_tree(other, tree).same == ("bytes", "json", "none")
    with pytest.raises(InvalidError, match="exists already"):
        write_tree(other, tree)


def test_a_tree_written_by_hand(opened, tmp_path):
    """As little as the sketch has: an index that is a list of chunks, one chunk, JSON."""
    state = tmp_path / "v" / "state"
    state.mkdir(parents=True)
    text = b'{"a":1}'
    (tmp_path / "v/metadata.json").write_text('{"id": "v", "changes": {}}')
    (state / "chunk_0.bin").write_bytes(zlib.compress(text))
    row = {"offset": 0, "size": len(text), "checksum": hashlib.sha256(text).hexdigest()}
    (state / "index.json").write_text(json.dumps([row]))
    manager = opened()
    assert read_tree(manager, tmp_path).imported == ("v",)
    assert manager.states.get("v") == {"a": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links, getrusage")
@pytest.mark.parametrize(
    "attack", ["link", "folder", "bomb", "flip", "cut", "dots", "device", "lie"]
)
def test_nothing_in_a_tree_is_believed(tree, opened, tmp_path, attack):
    """A link, a name that leads out, a bomb, a damaged chunk: that variant is left out whole with the
    reason, the others come in, and memory stays bounded."""
    chunk = tree / "bytes/state/chunk_1.bin"
    secret = tmp_path / "secret"
    secret.write_bytes(zlib.compress(b"secret"))
    if attack == "link":
        chunk.unlink()
        chunk.symlink_to(secret)
    elif attack == "folder":
        (tree / "bytes/state").rename(tmp_path / "elsewhere")
        (tree / "bytes/state").symlink_to(tmp_path / "elsewhere")
    elif attack == "bomb":
        deflate = zlib.compressobj(9)
        parts = [deflate.compress(bytes(1 << 20)) for _ in range(200)]
        chunk.write_bytes(b"".join(parts) + deflate.flush())
        assert chunk.stat().st_size < 220_000
    elif attack == "flip":
        data = bytearray(chunk.read_bytes())
        data[30] ^= 1
        chunk.write_bytes(data)
    elif attack == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-9])
    elif attack in ("dots", "device"):
        name = "..x" if attack == "dots" else "nul"
        (tree / "bytes").rename(tree / name)
    else:
        metadata = tree / "bytes/metadata.json"
        metadata.write_text(metadata.read_text().replace('"id": "bytes"', '"id": "../../bytes"'))
    manager = opened()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    done = read_tree(manager, tree)

    assert len(done.refused) == 1
    assert done.imported == ("json", "none")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 32 << 10


def test_the_commands(tree, tmp_path):
    """``xenolect import --v1`` and ``export --v1``, ``cache clear``: plans, JSON, exit codes."""
    store = tmp_path / "store"
    with open_manager(store):
        pass

    def run(*words):
        return CliRunner().invoke(main, [*words, "--storage", str(store)])

    assert run("import", str(tree)).exit_code == 2
    assert json.loads(run("import", "--v1", "--dry-run", "--json", str(tree)).output)["dry_run"]
    assert run("import", "--v1", str(tree)).exit_code == 0
    assert "3 variants and 2 states" in run("export", "--v1", str(tmp_path / "out")).output
    assert (tmp_path / "out/json/state/index.json").exists()
    assert run("export", "--v1", str(tmp_path / "out")).exit_code == 2
    assert "0 processes let go" in run("cache", "clear").output


def test_caches_are_cleared_in_other_processes(tmp_path):
    """The command reaches a serving process through the journal."""
    with open_manager(tmp_path) as manager:
        manager.variants.propose("v", {}, id="v")
        manager.states.put("v", noise(5000))
        manager.states.get("v")
        held = manager.states.cache().bytes
        assert held
        CliRunner().invoke(main, ["cache", "clear", "--storage", str(tmp_path)])
        until = time.monotonic() + 20
        while manager.states.cache().bytes and time.monotonic() < until:
            time.sleep(0.05)
        assert manager.states.cache().bytes == 0
