"""A small life of a store, and what becomes of its index and its processes."""

from __future__ import annotations

from xenolect import (
    AgentContext,
)
from xenolect import open as open_manager


def live(manager):
    """Something of every kind."""
    manager.variants.activate(manager.variants.propose("base", {"n": 0}, id="base"))
    manager.variants.propose("zstd", {"n": 1}, id="zstd")
    manager.agents.register("a1", AgentContext({"zstd": "1.5"}))
    manager.states.put("zstd", b"x" * 3000)
    manager.states.put("zstd", {"window": 2})
    manager.points.create("base", "before")


def world(place):
    """Everything that is true of a store."""
    with open_manager(place, background=False, process=False) as manager:
        contents = manager._runtime.index.load()
        assert manager.states.verify().ok
        return contents, manager.states.get("zstd"), list(manager.decisions)


def kill(worker):
    """kill -9."""
    worker.kill()
    worker.process.stdout.close()


def lose(place):
    """The index is gone."""
    for each in place.glob("index.db*"):
        each.unlink()


def segments(place):
    """The journal's mirror."""
    return sorted(each.name for each in (place / "journal").glob("0*"))
