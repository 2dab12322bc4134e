"""Threads for many chunks: some hash and compress while others wait for the disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["INLINE", "THREADS", "Workers"]

T = TypeVar("T")
THREADS = 2
INLINE = 2
"""Up to this many chunks the calling thread does the work itself."""


class Workers:
    """A pool that begins with the first large state. Nothing runs on it that waits for it."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._writer: ThreadPoolExecutor | None = None

    def _own(self) -> None:
        """A forked child has none of its parent's threads, and may have got the lock while it was held."""
        if self._pid != os.getpid():
            self._begin()

    def write(self, job: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run a job that mostly waits for the disk on a thread for such: the others may wait for it."""
        self._own()
        with self._lock:
            if self._writer is None:
                self._writer = ThreadPoolExecutor(THREADS, "xenolect-packs")
            return self._writer.submit(job, *arguments)

    def submit(self, job: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run a job on a thread."""
        self._own()
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, "xenolect-states")
            return self._pool.submit(job, *arguments)

    def each(self, job: Callable[[Any], object], items: Sequence[Any]) -> None:
        """Run a job over items, on several threads if they are many; the first error stops all."""
        if len(items) <= INLINE:
            for item in items:
                job(item)
            return
        waiting = iter(items)
        turn = threading.Lock()
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                with turn:
                    item = next(waiting, stop)
                if item is stop:
                    return
                try:
                    job(item)
                except BaseException:
                    stop.set()
                    raise

        futures = [self.submit(work) for _ in range(min(THREADS, len(items)))]
        try:
            errors = [future.exception() for future in futures]
        finally:
            stop.set()  # the wait was interrupted
        for error in errors:
            if error is not None:
                raise error

    def close(self) -> None:
        """Wait for what runs, and let go of the threads."""
        self._own()
        with self._lock:
            pools = (self._pool, self._writer)
            self._pool = self._writer = None
        for pool in pools:
            if pool is not None:
                pool.shutdown()
