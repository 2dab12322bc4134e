"""A sealed store: its keys, what is in it, and calls at which it may die."""

from __future__ import annotations

import base64

import pytest

FIRST, SECOND = bytes(range(32)), bytes(range(1, 33))


def sealed(**keys):
    """The settings of a sealed store."""
    return {"cipher": {"use": "aes-gcm", "keys": keys}}


SECRET = b"a sentence that nobody else may read"
OLD = sealed(env="FIRST_KEY")
NEW = sealed(env="SECOND_KEY")


class Killed(BaseException):
    """The process is gone: nobody catches this, and nothing works afterwards."""


def fill(manager):
    """Two variants, two versions and a point."""
    for name in ("v", "w"):
        manager.variants.propose(name, {}, id=name)
        manager.states.put(name, SECRET)
    manager.states.put("v", SECRET * 2)
    manager.points.create("v")


def whole(manager):
    """Everything reads as it was filled."""
    assert manager.states.get("v") == SECRET * 2
    assert manager.states.get("v", version=1) == manager.states.get("w") == SECRET
    assert manager.points.verify("v@1").variant_id == "v"
    return True


def key_objects(manager):
    """What lies under ``keys/``."""
    return list(manager._runtime.chunks.list("keys/"))


def dying(manager, fail_at, after=False):
    """The manager's process dies at its ``fail_at``-th call to the store or the index."""
    runtime = manager._runtime
    calls = []

    def wrap(owner, name):
        inner = getattr(owner, name)

        def call(*arguments, **keywords):
            if len(calls) >= fail_at:
                raise Killed
            calls.append(name)
            last = len(calls) == fail_at
            if last and not after:
                raise Killed
            answer = inner(*arguments, **keywords)
            if last:
                raise Killed
            return answer

        return call

    class Dying:
        def __init__(self, inner, names):
            self.inner = inner
            for name in names:
                setattr(self, name, wrap(inner, name))

        def __getattr__(self, name):
            return getattr(self.inner, name)

    runtime.chunks = Dying(runtime.chunks, ("put", "get", "get_range", "delete", "list"))
    runtime.index = Dying(runtime.index, ("commit",))
    return manager


def abandon(manager):
    """Nothing more comes from a process that is gone."""
    manager._runtime.closed = True


EVERY = pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])


def served(opened, place):
    """A sealed store with an active variant that has a state and a point, and a baseline."""
    manager = opened(place, **OLD)
    manager.variants.activate(manager.variants.propose("base", {}, id="base"))
    manager.variants.activate(manager.variants.propose("v", {"a": 1}, id="v"), force=True)
    manager.states.put("v", SECRET)
    manager.points.create("v", pinned=True)
    manager.states.put("v", SECRET * 2)
    manager.close()


def two_keys(monkeypatch):
    """Two keys in the environment."""
    monkeypatch.setenv("FIRST_KEY", FIRST.hex())
    monkeypatch.setenv("SECOND_KEY", base64.b64encode(SECOND).decode())


def processes(opened, name):
    """Open one store in memory, as several processes do."""
    parts = {"index": {"use": "memory", "name": name}, "chunks": {"use": "memory", "name": name}}
    return lambda **given: opened("memory://", **parts, **given)
