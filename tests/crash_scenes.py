"""What a process does to a store when it dies: scenes, and what must be true of the store afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from tests.desk import noise

from xenolect import EmergenceManager
from xenolect.testing import Clock, Stage

CHUNK = 1024


OLD = noise(5 * CHUNK)


NEW = OLD[:CHUNK] + noise(3 * CHUNK, seed=2) + OLD[4 * CHUNK :]


FIRST = {"cipher": {"use": "aes-gcm", "keys": {"env": "FIRST_KEY"}}}


BOTH = {"cipher": {"use": "aes-gcm", "keys": {"env": "SECOND_KEY", "old": [{"env": "FIRST_KEY"}]}}}


SECOND = {"cipher": {"use": "aes-gcm", "keys": {"env": "SECOND_KEY"}}}


def opened(place: Path, **given: Any) -> EmergenceManager:
    """A manager as a process opens it, with small chunks."""
    return EmergenceManager.open(place, background=False, state={"chunk_size": CHUNK}, **given)


class Killed(BaseException):
    """A process that died before its commit."""


def fill(place: Path, **given: Any) -> None:
    """A small life: a baseline, an active variant with a point, two versions, and what a dead put left."""
    with opened(place, **given) as manager:
        manager.variants.activate(manager.variants.propose("base", {}, id="base"))
        manager.variants.propose("zstd", {"level": 1}, id="zstd")
        manager.states.put("zstd", noise(3 * CHUNK, seed=7))
        manager.variants.activate("zstd", force=True)
        manager.points.create("zstd")
        manager.states.put("zstd", OLD)
        manager.states.put("base", {"window": 1})
    manager = opened(place, **given)
    manager._runtime.commit_retrying = _die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        manager.states.put("zstd", noise(2 * CHUNK, seed=9))
    del manager._runtime.commit_retrying
    manager.close()
    with opened(place, **given) as manager:  # so that the dead one's manifest is nobody's any more
        manager.states.put("zstd", OLD + b"x")
        manager.states.put("zstd", OLD)


def _die(*_: object, **__: object) -> int:
    raise Killed


class Scene(NamedTuple):
    """What is played, with which settings, and how many keys there are at last."""

    act: Any
    given: Mapping[str, Any] = MappingProxyType({})
    then: Mapping[str, Any] = MappingProxyType({})


def scene(work: Any, **given: Any) -> Any:
    """Open, begin, work, acknowledge."""

    def act(place: Path, stage: Stage) -> None:
        manager = opened(place, **given)
        stage.begin()
        work(manager)
        stage.acknowledge("done")

    return act


def create(place: Path, stage: Stage) -> None:
    """A store from nothing, each step acknowledged."""
    stage.begin()
    manager = opened(place, **FIRST)
    stage.acknowledge("opened")
    manager.variants.propose("zstd", {"level": 1}, id="zstd")
    stage.acknowledge("proposed")
    manager.states.put("zstd", NEW)
    stage.acknowledge("put")
    manager.close()
    stage.acknowledge("closed")


def migrate(manager: EmergenceManager) -> None:
    """Bring an older state up to date, and store it in its new schema."""
    manager.states.register_migration("default", 1, 2, lambda value: {**value, "format": 2})
    manager.states.put("base", manager.states.get("base"))


SCENES = {
    "put": Scene(scene(lambda m: m.states.put("zstd", NEW))),
    "put sealed": Scene(scene(lambda m: m.states.put("zstd", NEW), **FIRST), FIRST, FIRST),
    "patch": Scene(scene(lambda m: m.states.patch("zstd", {CHUNK: NEW[CHUNK : 4 * CHUNK]}))),
    "rollback": Scene(scene(lambda m: m.rollback("zstd", reason="ticket"))),
    "point": Scene(scene(lambda m: m.points.create("zstd", "by hand"))),
    "gc": Scene(scene(lambda m: m.states.gc(0))),
    "rotate": Scene(scene(lambda m: m.keys.rotate(), **BOTH), FIRST, BOTH),
    "rekey": Scene(scene(lambda m: m.keys.rekey("zstd"), **FIRST), FIRST, FIRST),
    "migrate": Scene(scene(migrate)),
    "create": Scene(create, FIRST, FIRST),
}


def view(place: Path, **given: Any) -> dict[str, Any]:
    """All that a user sees: variants, every version of every state, points."""
    with opened(place, process=False, **given) as manager:
        found: dict[str, Any] = {}
        for variant in manager.variants.list():
            refs = manager.states.versions(variant)
            assert [ref.version for ref in refs] == list(range(1, len(refs) + 1))
            found[variant.id] = (
                str(variant.status),
                variant.version,
                [_content(manager, variant.id, ref.version) for ref in refs],
                [point.reason for point in manager.points.list(variant)],
            )
            for point in manager.points.list(variant):
                manager.points.verify(point)
        return found


def _content(manager: EmergenceManager, variant: str, version: int) -> Any:
    return manager.states.get(variant, version=version)


def loose(manager: EmergenceManager) -> set[str]:
    """Objects that nothing refers to, by another look than the collector's."""
    used = {"store.json"}
    for (kind, key), fact in manager._runtime.facts.items():
        if fact.value is None:
            continue
        if kind == "state_version":
            owner, _, version = key.rpartition("/")
            content = manager.states.heads.located(owner, int(version))[1]
            used.add(content.link.key)
            used.update(f"variants/{owner}/state/{entry.object}" for entry in content.table)
        elif kind == "point":
            used.add(fact.value["object"])
        elif kind == "variant":
            used |= {f"variants/{key}/metadata.json", f"variants/{key}/state/index.json"}
    used.update(f"keys/{key.id}.{key.revision:08d}.json" for key in manager.keys.list())
    found = set(manager._runtime.chunks.list(""))
    return {key for key in found - used if not key.startswith(("journal/", "index.db"))}


def cleaned(place: Path, **given: Any) -> None:
    """Upkeep finds the store whole, and leaves nothing that nobody refers to."""
    for path in place.rglob(".tmp-*"):
        os.utime(path, (0, 0))  # the collector spares what is younger than a day
    later = Clock(
        time.time() + 2 * 3600
    )  # what may belong to a point being made is spared for an hour
    with opened(place, process=False, clock=later, **given) as manager:
        done = manager.states.repair()
        assert (done.ok, done.healed, done.lost) == (True, (), ())
        if manager.variants.list():
            for variant in manager.variants.list():
                manager.states.put(variant, b"after")
                manager.points.create(variant)
                assert manager.states.get(variant) == b"after"
        if given:
            manager.keys.rotate()
        manager.states.gc(0)
        assert list(place.rglob(".tmp-*")) == []
        assert loose(manager) == set()
        assert manager.states.verify().ok
        assert manager.states.gc(0).removed == ()
