"""Doubles for tests: a clock that is told the time, chunks that fail on purpose, an observer."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from xenolect.errors import StorageError
from xenolect.events import Event
from xenolect.hookspecs import hookimpl
from xenolect.interfaces import Buffer, ChunkStore

__all__ = ["Clock", "FaultyChunks", "Heard"]


class Clock:
    """Seconds since the epoch that pass only when told: ``EmergenceManager.open(clock=Clock())``."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Let time pass (or, negative, go back); return the new time."""
        self.now += seconds
        return self.now


class FaultyChunks:
    """A chunk store whose ``fail_at``-th call raises ``error`` before it does anything.

    Calls count from 1 over all verbs but ``close``; ``calls`` names those so far. ``only`` counts a
    single verb, as in ``only="put"``. ``fail_at=0`` never fails, which counts the calls of a scenario;
    then fail each of them in turn. With ``lasting`` every later call fails too, as when a disk is full.
    """

    def __init__(
        self,
        inner: ChunkStore,
        *,
        fail_at: int = 0,
        error: BaseException | type[BaseException] | None = None,
        only: str | None = None,
        lasting: bool = False,
    ) -> None:
        self.inner = inner
        self.fail_at = fail_at
        self.error = error if error is not None else StorageError("the test said so")
        self.only = only
        self.lasting = lasting
        self.calls: list[str] = []
        self._lock = threading.Lock()

    def put(self, key: str, data: Buffer, *, if_absent: bool = True) -> None:
        """Pass on, or fail."""
        self._count("put")
        self.inner.put(key, data, if_absent=if_absent)

    def get(self, key: str) -> bytes:
        """Pass on, or fail."""
        self._count("get")
        return self.inner.get(key)

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Pass on, or fail."""
        self._count("get_range")
        return self.inner.get_range(key, start, stop)

    def delete(self, key: str) -> None:
        """Pass on, or fail."""
        self._count("delete")
        self.inner.delete(key)

    def list(self, prefix: str) -> Iterator[str]:
        """Pass on, or fail."""
        self._count("list")
        return self.inner.list(prefix)

    def close(self) -> None:
        """Pass on; closing never fails."""
        self.inner.close()

    def _count(self, verb: str) -> None:
        if self.only not in (None, verb):
            return
        with self._lock:
            self.calls.append(verb)
            now = len(self.calls)
        if self.fail_at and (now == self.fail_at or (self.lasting and now > self.fail_at)):
            raise self.error


class Heard:
    """Collects events: a plugin (``plugins=[heard]``) and a callback (``manager.on(heard)``)."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._more = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._more:
            self.events.append(event)
            self._more.notify_all()

    @hookimpl
    def xenolect_observe(self, event: Event) -> None:
        """Hear it as a plugin does."""
        self(event)

    @property
    def kinds(self) -> list[str]:
        """The kinds heard so far, in order."""
        return [event.kind for event in self.events]

    def of(self, kind: str) -> list[Event]:
        """The events of one kind, in order."""
        return [event for event in self.events if event.kind == kind]

    def wait(self, kind: str, timeout: float = 5.0) -> Event:
        """The first event of a kind, waiting up to ``timeout`` seconds; AssertionError without one."""
        with self._more:
            if not self._more.wait_for(lambda: self.of(kind), timeout):
                raise AssertionError(f"{kind!r} was not heard in {timeout:g} s, only {self.kinds}")
        return self.of(kind)[0]
