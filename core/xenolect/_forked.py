"""A manager in a forked child: it opens again at its first call.

The fork waits until no commit, flush or measurement is half done. What was measured and not yet stored
is the parent's to store, and reaches the child as everything that other processes measure. The child
has a name of its own, holds no lease, and starts its thread with the first call: a child that never
asks for anything, as most of a pool's, is no serving process and opens nothing.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from xenolect.errors import EmergenceError

if TYPE_CHECKING:
    from xenolect._runtime import Runtime

__all__ = ["Forked"]

log = logging.getLogger("xenolect.variants")


class Forked:
    """What one manager does when its process forks; ``forks.watch`` asks it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._locks: list[threading.RLock] = []
        self._waking = False
        self.parts: list[Callable[[], None]] = []  # what is made anew in the child
        self.woken: Callable[[], None] = lambda: None  # the child serves from now on

    def before_fork(self) -> None:
        """Wait for what is being stored, committed or measured."""
        runtime = self._runtime
        self._locks = []
        self._hold(runtime.writer.flushing)
        self._hold(runtime.lock)
        performance = runtime.performance
        if performance.unheard and not runtime.closed:
            try:
                performance.follow()  # so that the child does not hear of it a second time
            except EmergenceError as error:
                log.warning("before a fork, the newest measurements can not be read: %s", error)
        self._hold(performance.fold)

    def _hold(self, lock: threading.RLock) -> None:
        lock.acquire()
        self._locks.append(lock)

    def after_fork(self, child: bool) -> None:
        """Go on; in the child with nothing but the memory."""
        while self._locks:
            self._locks.pop().release()
        if child:
            self.leave_parent()

    def leave_parent(self) -> None:
        """Locks, threads, leases and what waits are the parent's; the first call opens again."""
        runtime = self._runtime
        if runtime.actor == f"process:{runtime.pid}":
            runtime.actor = f"process:{os.getpid()}"
        runtime.pid = os.getpid()
        runtime.draw_apart()
        runtime.renew()
        runtime.performance.leave_parent()
        for part in self.parts:
            part()
        self._waking = False
        runtime.asleep = not runtime.closed

    def wake(self) -> None:
        """Hear what happened since the fork, and begin background work."""
        runtime = self._runtime
        with runtime.lock:
            if not runtime.asleep or self._waking:
                return
            self._waking = True
            try:
                runtime.touch_all()
                try:
                    runtime.catch_up()
                    runtime.performance.follow()
                except EmergenceError as error:  # what is in memory serves, until the index answers
                    log.warning("after a fork, the index can not be read: %s", error)
                    runtime.rebuild()
                runtime.asleep = False
            finally:
                self._waking = False
        self.woken()
        runtime.writer.start()
