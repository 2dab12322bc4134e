"""Kill -9 at every system call of what changes a store, and errors of the disk at each of them."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.crash_scenes import (
    CHUNK,
    FIRST,
    NEW,
    SCENES,
    SECOND,
    Scene,
    cleaned,
    fill,
    opened,
    scene,
    view,
)

from xenolect import ConfigError, EmergenceError, StorageError
from xenolect.testing import Crash, CrashSweep, Stage, SystemCall


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys in the environment."""
    monkeypatch.setenv("FIRST_KEY", bytes(range(32)).hex())
    monkeypatch.setenv("SECOND_KEY", bytes(range(1, 33)).hex())


class Judge:
    """What may be found after each crash of a scene: the worlds before and after each acknowledgement."""

    def __init__(self, name: str, tmp_path: Path) -> None:
        self.scene = SCENES[name]
        self.origin = tmp_path / "origin"
        self.origin.mkdir()
        if name != "create":
            fill(self.origin, **self.scene.given)
        self.sweep = CrashSweep(self.scene.act, self.origin, tmp_path)
        place = tmp_path / "undisturbed"
        shutil.copytree(self.origin, place)
        self.worlds = [self.view(place)] if name != "create" else [{}]

        def told(answer: Any) -> None:
            if "told" in answer:
                self.worlds.append(self.view(place))

        self.scene.act(place, Stage(told, lambda: None))
        self.seen: set[int] = set()

    def view(self, place: Path) -> dict[str, Any]:
        """With what the scene left the store to be opened with."""
        copy = place.with_name(place.name + "-look")
        shutil.copytree(place, copy)
        try:
            return view(copy, **self.scene.then)
        finally:
            shutil.rmtree(copy)

    def opens(self, place: Path, given: dict[str, Any]) -> bool:
        """Is everything to be read with these keys alone?"""
        try:
            view(place, **given)
        except ConfigError:
            return False
        return True

    def hear(self, crash: Crash) -> None:
        """Old or new, never mixed; nothing acknowledged is lost; upkeep leaves nothing."""
        told = len(crash.told)
        found = self.view(crash.place)
        possible = self.worlds[told : told + 2]
        assert found in possible, f"{crash}: {found}"
        self.seen.add(told + possible.index(found))
        if self.scene.act is SCENES["rotate"].act:
            assert sum(self.opens(crash.place, given) for given in (FIRST, SECOND)) == 1
        cleaned(crash.place, **self.scene.then)


needs_strace = pytest.mark.skipif(bool(CrashSweep.missing()), reason=CrashSweep.missing())


@needs_strace
def test_a_put_may_be_killed_at_any_call_that_writes(tmp_path: Path) -> None:
    """A sample of the long sweep: around the links, the index's writes and the syncs."""
    judge = Judge("put", tmp_path)
    killed = 0
    for calls, stride in (({"link", "rename"}, 1), ({"pwrite64", "fdatasync"}, 3)):
        for crash in judge.sweep.kills(calls, stride=stride):
            judge.hear(crash)
            killed += crash.killed
    assert killed >= 5
    assert judge.seen == {0, 1}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", list(SCENES))
def test_killed_at_every_call(name: str, tmp_path: Path) -> None:
    """Put, patch, rollback, collection, rotation, migration and creation, killed at each system call."""
    judge = Judge(name, tmp_path)
    killed = 0
    for crash in judge.sweep.kills():
        judge.hear(crash)
        killed += crash.killed
    assert killed > 50
    assert judge.seen >= {0, 1} or judge.worlds[0] == judge.worlds[-1]


# -- what is durable when ---------------------------------------------------------------------------


_PATH = re.compile(r"<([^>]*)>")
_NAMES = re.compile(r'"([^"]*)"')


def undurable(calls: list[SystemCall], place: Path) -> Iterator[tuple[str, set[str]]]:
    """At each commit of the index ("index") and each acknowledgement ("told"): files whose content, and
    folders whose names, were changed and not synced since."""
    dirty: set[str] = set()
    committing = False

    def folder(path: str) -> None:
        dirty.add(os.path.dirname(path) + "/")

    for call in calls:
        if call.failed:
            continue
        at = _PATH.findall(call.text)
        if call.name == "sendto":
            yield "told", set(dirty)
        elif call.name in ("fsync", "fdatasync"):
            dirty -= {at[0], at[0] + "/", at[0] + "/index.db's name"}
            committing = False
        elif call.name in ("write", "pwrite64") and str(place) in at[0]:
            if at[0].endswith("-wal") and not committing:
                committing = True
                yield "index", set(dirty)
            if not at[0].endswith("-shm"):
                dirty.add(at[0])
        elif call.name in ("link", "rename"):
            source, target = _NAMES.findall(call.text)
            assert source not in dirty, f"{target} has a name before it is synced"
            folder(target)
        elif call.name == "unlink" and not re.search(r"/(\.tmp-|index\.db)", call.text):
            folder(
                _NAMES.findall(call.text)[0]
            )  # what is removed may come back until that is synced
        elif call.name == "mkdir":
            folder(_NAMES.findall(call.text)[0])
        elif call.name == "openat" and "O_CREAT" in call.text:
            path = _NAMES.findall(call.text)[0]
            if path in (f"{place}/index.db", f"{place}/index.db-wal"):
                dirty.add(f"{place}/index.db's name")


def without_power(calls: list[SystemCall], crash: Crash, copy: Path) -> Path:
    """The store as it is when the index's log has lost what was not synced."""
    shutil.copytree(crash.place, copy)
    written = synced = 0
    for call in calls:
        if "index.db-wal>" in call.text.partition(",")[0]:
            if call.name == "pwrite64":
                size, offset = map(int, call.text.partition(") = ")[0].rsplit(", ", 2)[1:])
                written = max(written, offset + size)
            elif call.name == "fdatasync":
                synced = written
    os.truncate(copy / "index.db-wal", synced)
    return copy


FRESH = Scene(scene(lambda m: (m.variants.propose("new", {}, id="new"), m.states.put("new", NEW))))


@needs_strace
@pytest.mark.parametrize(
    "name", ["put", "put sealed", "patch", "rollback", "point", "gc", "rotate", "create", "fresh"]
)
def test_an_acknowledgement_comes_after_everything_is_durable(name: str, tmp_path: Path) -> None:
    """In the trace: an object has its name after its fdatasync, the index is written after the fsync of
    the objects' folders, and the acknowledgement comes after the sync of the index."""
    played = FRESH if name == "fresh" else SCENES[name]
    (tmp_path / "origin").mkdir()
    if name != "create":
        fill(tmp_path / "origin", **played.given)
    crash, calls = CrashSweep(played.act, tmp_path / "origin", tmp_path).trace()
    assert crash.told
    seen = list(undurable(calls, crash.place))
    assert {kind for kind, _ in seen} == {"index", "told"}
    for kind, dirty in seen:
        # What does not matter, such as who has which lease, may be in the log after what was promised.
        log = {
            path for path in dirty if "/index.db" in path and (kind == "index" or "-wal" in path)
        }
        assert dirty - log == set(), kind
    if name != "create":  # closed at last, so the log is gone
        lost = without_power(calls, crash, tmp_path / "lost")
        assert view(lost, **played.then) == view(crash.place, **played.then)


# -- errors of the disk -----------------------------------------------------------------------------


def insistent(work: Any) -> Any:
    """Do it again after an error that has a type; whatever else comes out ends the process."""

    def act(place: Path, stage: Stage) -> None:
        logging.disable()  # standard error is a file as well, and may fail
        manager = opened(place)
        stage.begin()
        for word, step in (("done", work), ("read", lambda m: m.states.get("base")["window"])):
            for _ in range(5):
                try:
                    step(manager)
                except EmergenceError:
                    stage.acknowledge("refused")
                else:
                    stage.acknowledge(word)
                    break

    return act


FAULTS = {
    "EIO": CrashSweep.WRITING | {"read", "pread64", "newfstatat", "getdents64", "flock", "fcntl"},
    "ENOSPC": {"write", "pwrite64", "openat", "link", "rename", "ftruncate", "fallocate"},
    "EMFILE": {"openat"},
}
WORKS = {
    "put": lambda m: m.states.put("zstd", NEW),
    "patch": lambda m: m.states.patch("zstd", {CHUNK: NEW[CHUNK : 4 * CHUNK]}),
    "rollback": lambda m: m.rollback("zstd", reason="ticket"),
    "point": lambda m: m.points.create("zstd", "by hand"),
    "gc": lambda m: m.states.gc(0),
}


def withstood(work: str, error: str, calls: Any, tmp_path: Path, stride: int) -> int:
    """Sweep; how often the work was refused."""
    origin = tmp_path / "origin"
    origin.mkdir()
    fill(origin)
    sweep = CrashSweep(insistent(WORKS[work]), origin, tmp_path)
    old = view(shutil.copytree(origin, tmp_path / "old"))
    new = view(sweep.trace()[0].place)
    refused = 0
    for crash in sweep.errors(error, calls, stride=stride):
        assert not crash.raised, f"{crash}: {crash.message}"
        assert [word for word in crash.told if word != "refused"] == ["done", "read"], crash
        before = crash.told[: crash.told.index("done")]
        assert crash.told.count("refused") <= 3  # strace counts for each thread
        refused += len(before)
        found = view(crash.place)
        if found != new:  # it was told of an error after its commit, and did it once more
            assert before
            assert found["base"] == old["base"]
            assert len(found["zstd"][2]) >= len(new["zstd"][2])
            assert found["zstd"][2][-1] == new["zstd"][2][-1]
        cleaned(crash.place)
    return refused


@needs_strace
@pytest.mark.parametrize(
    ("error", "calls", "stride"),
    [("EIO", {"pwrite64", "flock"}, 3), ("ENOSPC", {"write"}, 3), ("EMFILE", {"openat"}, 7)],
)
def test_a_put_withstands_errors(error: str, calls: set[str], stride: int, tmp_path: Path) -> None:
    """A sample of the long sweep."""
    assert withstood("put", error, calls, tmp_path, stride) > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("error", list(FAULTS))
@pytest.mark.parametrize("work", list(WORKS))
def test_errors_at_every_call(work: str, error: str, tmp_path: Path) -> None:
    """A typed error, nothing lost, and the same process does it the next time. A rollback that finds no
    file free is done: it reads its point unseen, and its segment is mirrored later."""
    refused = withstood(work, error, FAULTS[error], tmp_path, 1)
    assert refused > 0 or (work, error) == ("rollback", "EMFILE")


@needs_strace
def test_a_failed_sync_is_never_acknowledged(tmp_path: Path) -> None:
    """EIO at each fsync and fdatasync: what comes after the index's own, the mirror, may fail; the
    failure of any one before is an error. Right after it the store is the old or the new one, whole."""
    origin = tmp_path / "origin"
    origin.mkdir()
    fill(origin)

    def act(place: Path, stage: Stage) -> None:
        logging.disable()
        manager = opened(place)
        stage.begin()
        try:
            manager.states.put("zstd", b"small, so that one thread does it all")
        except StorageError:
            stage.acknowledge("refused")
        else:
            stage.acknowledge("done")

    sweep = CrashSweep(act, origin, tmp_path)
    crash, calls = sweep.trace()
    syncs = [call for call in calls if call.name in ("fsync", "fdatasync")]
    (last,) = [n for n, call in enumerate(syncs) if "index.db-wal" in call.text]
    needed = Counter(call.name for call in syncs[: last + 1])
    old, new = view(shutil.copytree(origin, tmp_path / "old")), view(crash.place)
    seen = Counter[str]()
    for crash in sweep.errors("EIO", {"fsync", "fdatasync"}):
        refused = crash.number <= needed[crash.call]
        assert crash.told == (("refused",) if refused else ("done",)), crash
        seen[crash.told[0]] += 1
        found = view(crash.place)
        assert found == new or (refused and found == old)
        cleaned(crash.place)
    assert seen["refused"] == last + 1 >= 5
    assert seen["done"] >= 2
