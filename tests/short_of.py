"""A program that plays an act again and again while the system runs short of something, a little less each
time: space on its file system, the size a file may have, or files that may be open.

    python -m tests.short_of KIND ACT STORE STRIDE

It prints what came of it, and fails where an error has no type, something is lost, or it does not work again.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.acts import ACTS, KEYS, SETTINGS, begin

from xenolect import EmergenceError, EmergenceManager

BLOCK = 4096
SMALL = 64 << 20


@contextlib.contextmanager
def space(place: Path, level: int) -> Iterator[None]:
    """So few blocks are left on the file system, 0, 1, 3, 6, ..."""
    ballast = place.parent / "ballast"
    free = os.statvfs(place)
    if free.f_blocks * free.f_frsize > SMALL:
        raise SystemExit("this is not a file system of its own that may be filled")
    try:
        with ballast.open("wb") as file:
            taken = max(1, free.f_bavail * free.f_frsize - level * (level + 1) // 2 * BLOCK)
            os.posix_fallocate(file.fileno(), 0, taken)
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def size(place: Path, level: int) -> Iterator[None]:
    """No file may grow beyond a size: first of the objects, then of the index's log as it is now."""
    log = os.stat(place / "index.db-wal").st_size
    steps = [0, 100, 300, 500, 800, 1200, 1600]
    more = level - len(steps)
    limit = steps[level] if more < 0 else log + more * (more + 1) // 2 * BLOCK
    with limited(resource.RLIMIT_FSIZE, limit):
        yield


@contextlib.contextmanager
def files(place: Path, level: int) -> Iterator[None]:
    """So many more may be open than are."""
    highest = max(map(int, os.listdir("/proc/self/fd")))
    holes = []
    try:
        while not holes or holes[-1] < highest:
            holes.append(os.open(os.devnull, os.O_RDONLY))
        os.close(holes.pop())
        with limited(resource.RLIMIT_NOFILE, max(highest, *holes, 0) + 1 + level):
            yield
    finally:
        for file in holes:
            os.close(file)


@contextlib.contextmanager
def limited(what: int, limit: int) -> Iterator[None]:
    """With a soft limit."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


KINDS = {"space": (space, 40), "size": (size, 24), "files": (files, 8)}


def main(kind: str, name: str, store: str, stride: int) -> None:
    """Play."""
    os.environ.update(KEYS)
    act, place = ACTS[name], Path(store)
    short, levels = KINDS[kind]
    came = Counter[str]()
    with EmergenceManager.open(place, background=False, **SETTINGS) as manager:
        begin(manager)
        for level in range(0, levels, stride):
            variant = f"v{level}"
            act.prepare(manager, variant)
            before = act.found(manager, variant)
            done = "done"
            with short(place, level):
                try:
                    act.play(manager, variant)
                except EmergenceError as error:
                    done = type(error).__name__
            came[done] += 1
            found = act.found(manager, variant)
            assert found == "new" if done == "done" else found in (before, "new"), (level, done)
            act.play(manager, variant)
            assert act.found(manager, variant) == "new", level
    with EmergenceManager.open(place, background=False, **SETTINGS) as manager:
        for level in range(0, levels, stride):
            assert act.found(manager, f"v{level}") == "new", level
        manager.states.gc(0)
        assert manager.states.verify().ok
        manager.states.put("base", {"works": "again"})
    assert not list(place.rglob(".tmp-*"))
    print(json.dumps(came))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
