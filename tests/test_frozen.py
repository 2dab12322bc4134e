"""Bytes written by each release, read by this one: opened, verified, rebuilt, and written on."""

from __future__ import annotations

import zipfile
from datetime import timedelta
from pathlib import Path

import pytest
from tests.data.format2.make import TEXT

from xenolect import VariantStatus
from xenolect import open as open_manager
from xenolect._reindex import rebuild
from xenolect.config import load

ARCHIVES = sorted(Path(__file__).parent.glob("data/format2/plain-*.zip"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.stem)
def store(request, tmp_path):
    """A copy of one archive."""
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path / "store")
    return tmp_path / "store"


def look(manager):
    """What every release finds in it."""
    assert manager.states.get("zstd") == TEXT
    assert manager.states.get("zstd", version=2) == TEXT[:5] + b"PATCHED" + TEXT[12:]
    assert manager.states.get("base") == {"window": 3, "words": ["a", "ä"]}
    assert manager.states.versions("base")[0].schema == 2
    assert manager.variants.get("zstd").status == VariantStatus.ROLLED_BACK
    assert manager.variants.get("zstd").requirements == {"zstd": ">=1.5"}
    assert manager.agents.get("agent-1").context.platform == "linux"
    assert [point.reason for point in manager.points.list("zstd")] == ["kept"]
    manager.points.verify("zstd@1")
    assert manager.canaries.status("next").state == "ramping"
    assert manager.decisions.verify().ok
    report = manager.states.verify()
    assert report.ok, report.problems


def test_there_is_one():
    """An empty list of archives would test nothing."""
    assert ARCHIVES


def test_it_is_read(store):
    """Everything, by a tool that changes nothing, and then by a process that serves and goes on."""
    before = {p: p.read_bytes() for p in store.rglob("*.*") if not p.name.startswith("index.db")}
    with open_manager(store, background=False, process=False) as manager:
        look(manager)
    after = {p: p.read_bytes() for p in before}
    assert after == before
    with open_manager(store, background=False) as manager:
        manager.states.register_migration("default", 1, 2, dict)
        look(manager)
        assert manager._runtime.index.observations(
            manager._runtime.value("rollout", "next")["rollout"], 0
        )
        assert manager.performance.history("zstd", window=timedelta(days=36500)).count == 10
        manager.states.put("zstd", b"of today")
        manager.variants.update(manager.variants.get("base"), changes={"n": 5}, force=True)
        (orphan,) = manager.states.gc(0).removed
        assert orphan.endswith("-0000000000000000.bin")
        assert manager.states.get("zstd", version=1) == TEXT
        assert manager.states.verify().ok


def test_its_index_is_rebuilt(store):
    """From its objects alone."""
    for path in store.glob("index.db*"):
        path.unlink()

    done = rebuild(load(store))

    assert (done.lost, done.damaged, done.restarted) == (0, (), ("next",))
    with open_manager(store, background=False, process=False) as manager:
        look(manager)
