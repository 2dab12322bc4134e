"""Breakers of what the manager depends on across a network: the index and the chunk store.

A service that does not answer costs every caller its whole timeout; behind an open breaker a call fails
at once, and says when to try again. A local file answers or fails at once anyway: it has no breaker.
Once latched, a single call is let through every ``slow_probe`` (30 minutes), or when an operator resets it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xenolect._circuit import Circuit
from xenolect.errors import BreakerOpenError, EmergenceError, StorageError, UnavailableError

__all__ = ["Guarded", "across_a_network"]

log = logging.getLogger("xenolect.safeguards")
LOCAL = ("file", "memory", "local")
_END = object()


def across_a_network(options: Mapping[str, Any]) -> bool:
    """Do these options name a URL that is not on this machine's disk or in its memory?"""
    texts = [value for value in options.values() if isinstance(value, str)]
    return any("://" in text and text.partition("://")[0] not in LOCAL for text in texts)


class Guarded:
    """An index or a chunk store whose calls go through a breaker; everything else is its own.

    What counts against it is a StorageError that may pass. Every other answer, an error of the caller's
    included, shows that it answers. What comes as an iterator (``list``, ``windows``) has asked nobody yet:
    it counts when it is read.
    """

    def __init__(self, inner: Any, circuit: Circuit) -> None:
        self.inner = inner
        self.circuit = circuit
        self.bypassed = False  # closing tries once, whatever the breaker says

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name.startswith("_") or name == "close" or not callable(found):
            return found
        guarded = self._guard(found)
        setattr(self, name, guarded)
        return guarded

    def _guard(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **given: Any) -> Any:
            if self.bypassed:
                return call(*args, **given)
            permit = self._permit()
            result = self._judged(permit, lambda: call(*args, **given))
            if isinstance(result, Iterator):
                permit.ignore()
                return self._read(result)
            permit.success()
            return result

        return guarded

    def _permit(self) -> Any:
        circuit = self.circuit
        try:
            return circuit.acquire()
        except BreakerOpenError as error:
            raise UnavailableError(
                f"{error}, or reset it: manager.breakers.reset({circuit.name!r})",
                retry_after=error.retry_after,
            ) from error

    @staticmethod
    def _judged(permit: Any, call: Callable[[], Any]) -> Any:
        """``call``; where it raises, that is told to the breaker."""
        try:
            return call()
        except EmergenceError as error:
            (permit.failure if _failed(error) else permit.success)()
            raise
        except BaseException:
            permit.ignore()  # a bug, or cancelled: it says nothing of the service
            raise

    def _read(self, found: Iterator[Any]) -> Iterator[Any]:
        """What is found. The first answer is a success, so that a slow reader keeps no permit; what fails
        after it counts as well."""
        if self.bypassed:
            yield from found
            return
        permit = self._permit()
        first = self._judged(permit, lambda: next(found, _END))
        permit.success()
        if first is _END:
            return
        yield first
        try:
            yield from found
        except EmergenceError as error:
            if _failed(error):
                self.circuit.report(0, 1)
            raise


def _failed(error: EmergenceError) -> bool:
    return isinstance(error, StorageError) and error.retryable
