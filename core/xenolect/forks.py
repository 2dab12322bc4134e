"""What has to be whole when the process forks, and what its child has to make anew.

A child gets a copy of the memory and of the thread that forked: locks that other threads held stay held
for ever, and what they were in the middle of stays half done. So whoever is asked here waits for such
threads before the fork and lets them go on after it. ``os.fork`` and everything in Python that uses it
comes by here; a fork made in C does only where it calls ``PyOS_BeforeFork`` and its counterparts.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from typing import Protocol

__all__ = ["Door", "Part", "watch"]

log = logging.getLogger("xenolect.storage")


class Part(Protocol):
    """Something that a fork must not cut in two."""

    def before_fork(self) -> None:
        """Wait until nothing is half done, and keep it so. Called in the thread that forks."""
        ...

    def after_fork(self, child: bool) -> None:
        """Go on: in the parent as if nothing had been, in the child alone."""
        ...


class Door:
    """Where threads wait while one of them is about to fork.

    Locks are not fair: threads that come back for one at once kept it for a minute from the thread that
    waited for it in order to fork. So they look here first.
    """

    def __init__(self) -> None:
        self._shut = False
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Wait while it is shut."""
        if self._shut:
            with self._lock:
                pass

    def shut(self) -> None:
        """In the thread that forks, before it waits for anybody."""
        self._lock.acquire()
        self._shut = True

    def open(self) -> None:
        """After the fork, in parent and child."""
        self._shut = False
        self._lock.release()


_numbers = itertools.count()
_parts: dict[tuple[bool, int], weakref.ref[Part]] = {}
_held: list[Part] = []
_turn = threading.RLock()  # one thread forks at a time


def watch(part: Part, *, store: bool = False) -> None:
    """Ask ``part`` at each fork from now on, for as long as it lives. Stores are asked after whoever
    uses them, since those wait for calls of theirs to end."""
    number = (store, next(_numbers))
    _parts[number] = weakref.ref(part, lambda _: _parts.pop(number, None))


def _before() -> None:
    _turn.acquire()
    for number in sorted(_parts):
        reference = _parts.get(number)
        part = None if reference is None else reference()
        if part is not None:
            _held.append(part)
            try:
                part.before_fork()
            except Exception:
                log.exception("%s is not ready for the fork, which goes on", type(part).__name__)


def _after(child: bool) -> None:
    while _held:
        part = _held.pop()
        try:
            part.after_fork(child)
        except Exception:
            log.exception("%s does not go on after the fork", type(part).__name__)
    _turn.release()


if hasattr(os, "register_at_fork"):  # where there is no fork there is nothing to do
    os.register_at_fork(
        before=_before,
        after_in_parent=lambda: _after(False),
        after_in_child=lambda: _after(True),
    )
