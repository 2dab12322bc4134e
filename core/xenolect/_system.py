"""What this process and the store take of the machine."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xenolect.config import Config

__all__ = ["Disk", "cpu_seconds", "memory_bytes", "peak_bytes"]

KEPT = 60.0
"""Seconds a sum of file sizes is good for: 100,000 files take a third of a second."""


def memory_bytes() -> int | None:
    """The process's resident memory; None where the system does not say it without a library."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int | None:
    """The most resident memory the process ever had; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, others KiB


def cpu_seconds() -> float:
    """What the process has used, user and system."""
    return time.process_time()


class Disk:
    """Bytes of the files of a store that is a directory: index, states, roll-ups, journal."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._found: dict[str, Any] = {"bytes": None, "index_bytes": None}
        self._looked_at = float("-inf")

    def row(self) -> dict[str, Any]:
        """For ``status``, at most a minute old; None for what is on no disk here."""
        now = time.monotonic()
        if now - self._looked_at >= KEPT:
            self._looked_at = now
            self._found = {"bytes": self._objects(), "index_bytes": self._index()}
        return dict(self._found)

    def _objects(self) -> int | None:
        """Everything below the directory of the chunks, the embedded index included if it is there."""
        place = str(self._config.chunks.options.get("url", self._config.storage))
        place = place.removeprefix("file://")
        if "://" in place or self._config.chunks.use == "memory" or not os.path.isdir(place):
            return None
        return _below(place)

    def _index(self) -> int | None:
        from xenolect._parts import index_options

        if self._config.index.use != "sqlite":
            return None
        path = Path(str(index_options(self._config)["path"]))
        files = (path, path.with_name(f"{path.name}-wal"))
        return sum(_size(file) for file in files)


def _below(folder: str) -> int:
    """Sizes of the files below a folder; what goes away meanwhile counts nothing."""
    total, folders = 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
