"""What changes a store, to be played where something fails: prepared, played, looked at, played again.

Each is played on a variant of its own, so that a sweep needs one store. ``found`` says what is there:
"old" or "new", and raises for anything else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from tests.test_states import noise

from xenolect import AgentContext, EmergenceManager, PerformanceMetrics

__all__ = ["ACTS", "CHUNK", "KEYS", "SETTINGS", "Act", "begin"]

CHUNK = 1024
OLD = noise(3 * CHUNK)
NEW = OLD[:CHUNK] + noise(CHUNK, seed=2) + OLD[2 * CHUNK :]
KEYS = {"ACTS_KEY": bytes(range(32)).hex(), "ACTS_OTHER_KEY": bytes(range(1, 33)).hex()}
"""For the environment; rotating swaps them."""
KEPT = "kept"
SETTINGS: dict[str, Any] = {
    "cipher": {"use": "aes-gcm", "keys": {"env": "ACTS_KEY", "old": [{"env": "ACTS_OTHER_KEY"}]}},
    "state": {"chunk_size": CHUNK},
    "metrics": {"flush_interval": "1h"},
    "max_variants": 10_000,
}
"""Of a manager to play on."""
FINE = PerformanceMetrics(1.0, latency_ms=10.0)


def begin(manager: EmergenceManager) -> None:
    """A baseline, and agents."""
    if not manager.variants.list():
        manager.variants.activate(manager.variants.propose("base", {}, id="base"))
        manager.agents.register_many([(f"a{i}", AgentContext()) for i in range(30)])


def _stored(manager: EmergenceManager, name: str) -> None:
    manager.variants.propose(name, {"level": 1}, id=name)
    manager.states.put(name, OLD)


def _canary(manager: EmergenceManager, name: str) -> None:
    _stored(manager, name)
    manager.canaries.start(name)
    manager.states.put(name, NEW)


def _kept(manager: EmergenceManager) -> None:
    """What looks at the whole store would take longer with each variant."""
    if KEPT not in {variant.id for variant in manager.variants.list()}:
        _stored(manager, KEPT)


def _new_key(manager: EmergenceManager, name: str) -> None:
    _kept(manager)
    one, other = os.environ["ACTS_KEY"], os.environ["ACTS_OTHER_KEY"]
    os.environ.update(ACTS_KEY=other, ACTS_OTHER_KEY=one)


def _orphans(manager: EmergenceManager, name: str) -> None:
    _kept(manager)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manager._runtime, "commit_retrying", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            manager.states.put(KEPT, NEW)


def _interrupt(*_: object, **__: object) -> int:
    raise KeyboardInterrupt


def _promote(manager: EmergenceManager, name: str) -> None:
    if manager.variants.get(name).status != "active":
        manager.canaries.promote(name, force=True)


def _record(manager: EmergenceManager, name: str) -> None:
    batch = [(name, FINE, "a1", (name, number)) for number in range(3)]
    manager.record_many(batch, durable=True)


def _content(manager: EmergenceManager, name: str) -> str:
    return {OLD: "old", NEW: "new"}[manager.states.get(name)]


def _taken_back(manager: EmergenceManager, name: str) -> str:
    status = str(manager.variants.get(name).status)
    return {("canary", "new"): "old", ("rolled_back", "old"): "new"}[
        status, _content(manager, name)
    ]


def _promoted(manager: EmergenceManager, name: str) -> str:
    assert _content(manager, name) == "new"
    return {"canary": "old", "active": "new"}[str(manager.variants.get(name).status)]


def _collected(manager: EmergenceManager, name: str) -> str:
    assert _content(manager, KEPT) == "old"
    return "old" if manager.states.gc(0, dry_run=True).removed else "new"


def _rotated(manager: EmergenceManager, name: str) -> str:
    assert _content(manager, KEPT) == "old"
    assert manager.states.verify(KEPT).ok
    return "old" if manager.keys.rotate(dry_run=True).wrapped else "new"


def _recorded(manager: EmergenceManager, name: str) -> str:
    count = sum(window.count for window in manager._runtime.index.windows(name, 0.0, 4e9))
    return {0: "old", 3: "new"}[count]


@attrs.frozen
class Act:
    """``prepare(manager, name)``, ``play(manager, name)``, which may be played again, and ``found``."""

    prepare: Callable[[EmergenceManager, str], None]
    play: Callable[[EmergenceManager, str], Any]
    found: Callable[[EmergenceManager, str], str]


ACTS = {
    "put": Act(_stored, lambda manager, name: manager.states.put(name, NEW), _content),
    "patch": Act(
        _stored,
        lambda manager, name: manager.states.patch(name, {CHUNK: NEW[CHUNK : 2 * CHUNK]}),
        _content,
    ),
    "rollback": Act(_canary, lambda manager, name: manager.rollback(name, reason="x"), _taken_back),
    "promote": Act(_canary, _promote, _promoted),
    "gc": Act(_orphans, lambda manager, name: manager.states.gc(0), _collected),
    "rotate": Act(_new_key, lambda manager, name: manager.keys.rotate(), _rotated),
    "record": Act(_stored, _record, _recorded),
}
