"""Rotating the key that wraps: nothing else changes, whatever happens in between."""

from __future__ import annotations

import pytest
from tests.sealed_stores import (
    EVERY,
    NEW,
    OLD,
    SECRET,
    Killed,
    abandon,
    dying,
    fill,
    key_objects,
    processes,
    sealed,
    served,
    two_keys,
    whole,
)

from xenolect import ConfigError
from xenolect_backends.local_keys import EnvKeys


@pytest.fixture
def keys(monkeypatch):
    """Two keys in the environment."""
    two_keys(monkeypatch)


BOTH = sealed(env="SECOND_KEY", old=[{"env": "FIRST_KEY"}])


@pytest.fixture
def shared(opened, request):
    """Open one store in memory, as several processes do."""
    return processes(opened, request.node.name)


def test_rotating_wraps_every_key_and_touches_no_object(shared, keys):
    """The former key is needed before, and not after; every object outside ``keys/`` is byte for byte
    the same; doing it again changes nothing; the journal says who did it."""
    fill(shared(**OLD))
    manager = shared(**BOTH)
    chunks = manager._runtime.chunks
    before = {key: chunks.get(key) for key in chunks.list("variants/")}
    old, new = EnvKeys("FIRST_KEY").current()[0], EnvKeys("SECOND_KEY").current()[0]

    look = manager.keys.rotate(dry_run=True)
    assert (look.wrapped, look.keys, look.kek, look.removed) == (3, 3, new, ())
    assert {info.kek for info in manager.keys.list()} == {old}
    seen = []
    done = manager.keys.rotate(progress=lambda n, total: seen.append((n, total)))
    assert (done.wrapped, done.keys, len(done.removed)) == (3, 3, 3)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert {(i.kek, i.revision, i.problem) for i in manager.keys.list()} == {(new, 2, "")}
    assert all(key.endswith(".00000002.json") for key in key_objects(manager))
    assert {key: chunks.get(key) for key in chunks.list("variants/")} == before
    assert manager.keys.rotate().wrapped == 0
    assert manager.decisions.list(newest=True, limit=1)[0].actor == "keys rotate"

    after = shared(**NEW)
    assert whole(after)
    after.states.put("w", b"more")
    with pytest.raises(ConfigError, match="Give it back, as one of `old`"):
        shared(**OLD).states.get("w")


def test_the_old_key_may_not_go_before(shared, keys):
    """With the new one alone nothing is rotated, and nothing is changed."""
    fill(shared(**OLD))
    early = shared(**NEW)
    with pytest.raises(ConfigError, match="run `xenolect keys rotate` before it goes"):
        early.keys.rotate()
    assert {bool(info.problem) for info in early.keys.list()} == {True}
    assert whole(shared(**OLD))


def test_a_key_made_while_others_are_rotated_is_wrapped_too(shared, keys):
    """A variant that gets its first state between the reading and the commit; and one whose key was
    written but not yet committed then."""
    fill(shared(**OLD))
    rotating, writing = shared(**BOTH), shared(**OLD)
    commit, made = rotating.keys._commit_rotation, []

    def late(*arguments):
        if not made:
            made.append(writing.variants.propose("x", {}, id="x"))
            writing.states.put("x", SECRET)
        commit(*arguments)

    rotating.keys._commit_rotation = late
    assert rotating.keys.rotate().keys == 4
    after = shared(**NEW)
    assert whole(after)
    assert after.states.get("x") == SECRET

    ring, write = writing.states.objects.keys, writing.states.objects.keys.write
    writing.variants.propose("y", {}, id="y")

    def overtaken(*arguments):
        name = write(*arguments)
        ring.write = write
        shared(**sealed(env="FIRST_KEY", old=[{"env": "SECOND_KEY"}])).keys.rotate()
        return name

    ring.write = overtaken
    writing.states.put("y", SECRET)
    assert shared(**OLD).states.get("y") == SECRET
    assert {info.problem for info in shared(**OLD).keys.list()} == {""}


@EVERY
@pytest.mark.parametrize("after", [False, True])
def test_rotating_may_die_at_any_call(opened, keys, after, stride):
    """Before or after each call: all is read with the old key, or all with the new one, never some with
    this and some with that; running it again finishes, and leaves nothing."""
    seen = set()
    for fail_at in range(1 + after, 100, stride):
        name = f"rotate-{after}-{stride}-{fail_at}"
        parts = {
            "index": {"use": "memory", "name": name},
            "chunks": {"use": "memory", "name": name},
        }
        fill(opened(**parts, **OLD))
        manager = dying(opened(**parts, **BOTH), fail_at, after)
        try:
            manager.keys.rotate()
        except Killed:
            abandon(manager)
        else:
            abandon(manager)
            break
        works = set()
        for which, settings in (("old", OLD), ("new", NEW)):
            try:
                works |= {which} if whole(opened(**parts, **settings)) else set()
            except ConfigError:
                pass
        assert len(works) == 1
        seen |= works
        again = opened(**parts, **BOTH)
        assert whole(again)
        again.keys.rotate()
        assert len(key_objects(again)) == 3
        assert whole(opened(**parts, **NEW))
    else:
        pytest.fail("the scenario never ends")
    assert fail_at > 10
    assert seen == {"old", "new"}


PROGRAM = """
import os, signal, sys
from xenolect import EmergenceManager

place, fail_at = sys.argv[1], int(sys.argv[2])
keys = {"env": "SECOND_KEY", "old": [{"env": "FIRST_KEY"}]}
manager = EmergenceManager.open(place, cipher={"use": "aes-gcm", "keys": keys}, process=False)
calls = 0

def dying(inner):
    def call(*arguments, **keywords):
        global calls
        calls += 1
        if calls == fail_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*arguments, **keywords)
    return call

for owner, names in ((os, ["link", "unlink", "fsync", "fdatasync"]), (manager._runtime.index, ["commit"])):
    for name in names:
        setattr(owner, name, dying(getattr(owner, name)))
manager.keys.rotate()
print(calls)
manager.close()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rotating_survives_kill_9_at_every_durable_step(opened, keys, tmp_path):
    """A process of its own on a disk of its own, killed before each link, unlink, fsync and commit: all
    old or all new, and the next run finishes."""
    import shutil
    import subprocess
    import sys

    served(opened, tmp_path / "s")
    seen = set()
    for fail_at in range(1, 200):
        place = tmp_path / str(fail_at)
        shutil.copytree(tmp_path / "s", place)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(place), str(fail_at)],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            assert int(done.stdout) < fail_at
            break
        assert done.returncode == -9, done.stderr
        works = set()
        for which, settings in (("old", OLD), ("new", NEW)):
            manager = opened(place, **settings)
            try:
                works |= {which} if manager.states.get("v") == SECRET * 2 else set()
            except ConfigError:
                pass
            manager.close()
        assert len(works) == 1
        seen |= works
        again = opened(place, **BOTH)
        again.keys.rotate()
        names = key_objects(again)
        again.close()
        after = opened(place, **NEW)
        assert len(names) == len(after.keys.list()) == 4
        assert after.states.get("v") == SECRET * 2
        assert after.states.verify().ok
        after.close()
        shutil.rmtree(place)
    else:
        pytest.fail("the scenario never ends")
    assert fail_at > 20
    assert seen == {"old", "new"}
