"""A lock between processes that the kernel releases when its holder dies.

It is held on a file of its own: closing any descriptor of the database file itself would drop
SQLite's locks on it.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from pathlib import Path

from xenolect.errors import UnavailableError

__all__ = ["FileLock"]


class FileLock:
    """One holder at a time, over all processes. Not reentrant; threads take turns outside of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds; UnavailableError then.

        Waiting is a poll, 0.1 ms at first and 5 ms at last: a blocking lock has no time limit.
        """
        give_up = time.monotonic() + timeout
        pause = 0.0001
        while not self._try():
            left = give_up - time.monotonic()
            if left <= 0:
                raise UnavailableError(
                    f"{self.path} is held by another process for more than {timeout:g} s; "
                    f"try again, or find out which process is stuck",
                    retry_after=timeout,
                )
            time.sleep(min(left, pause * (0.5 + random.random())))
            pause = min(pause * 1.5, 0.005)

    def release(self) -> None:
        """Let the next one in. Never fails: what was done under the lock is done."""
        if self._file is not None:
            try:
                _unlock(self._file)
            except OSError:
                self.forget()  # closing lets go of it too

    def forget(self) -> None:
        """Close the file; what a parent process holds stays held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _try(self) -> bool:
        if self._file is None:
            self._file = os.open(
                self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666
            )
        if not _lock(self._file):
            return False
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._file), os.stat(self.path)):
                return True
        self.forget()  # somebody removed the file: a lock on it keeps nobody out
        return self._try()


# POSIX has flock, Windows msvcrt; each is imported where it is called, since the other one lacks it.

if sys.platform == "win32":

    def _lock(file: int) -> bool:
        import msvcrt

        try:
            os.lseek(file, 0, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: int) -> None:
        import msvcrt

        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:

    def _lock(file: int) -> bool:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: int) -> None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
