"""borg and restic saving the same bytes, where they are installed: encrypted, zstd 1, whole process."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["saves"]


def saves(data: Any, place: Path) -> Iterator[tuple[str, float, float]]:
    """``(name, wall, CPU)`` in microseconds of a first save into a fresh repository, best of two."""
    source = place / "source.bin"
    for name, prepare, save in (
        (
            "borg",
            ["borg", "init", "--encryption", "repokey"],
            ["borg", "create", "--compression", "zstd,1", "::one", str(source)],
        ),
        (
            "restic",
            ["restic", "init", "--quiet"],
            ["restic", "backup", "--quiet", "--compression", "auto", str(source)],
        ),
    ):
        if shutil.which(name) is None:
            continue
        source.write_bytes(data)
        took = [_timed(prepare, save, place / f"{name}-{i}") for i in range(2)]
        yield name, min(wall for wall, _ in took), min(cpu for _, cpu in took)
        source.unlink()


def _timed(prepare: Sequence[str], save: Sequence[str], place: Path) -> tuple[float, float]:
    home = {"HOME": str(place.parent), "XDG_CACHE_HOME": str(place.parent / "cache")}
    own = {
        "BORG_REPO": str(place),
        "BORG_PASSPHRASE": "bench",
        "BORG_BASE_DIR": str(place.parent / "borg"),
        "RESTIC_REPOSITORY": str(place),
        "RESTIC_PASSWORD": "bench",
    }
    environment: Mapping[str, str] = {**os.environ, **home, **own}
    try:
        subprocess.run(prepare, env=environment, check=True, capture_output=True)
        began, used = time.perf_counter(), _children()
        subprocess.run(save, env=environment, check=True, capture_output=True)
        return (time.perf_counter() - began) * 1e6, (_children() - used) * 1e6
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system
