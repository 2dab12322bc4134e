"""Breakers of what the manager depends on across a network: the index and the chunk store.

A service that does not answer costs every caller its whole timeout; behind an open breaker a call fails
at once, and says when to try again. A local file answers or fails at once anyway: it has no breaker.
Once latched, a single call is let through every ``slow_probe`` (30 minutes), or when an operator resets it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from xenolect._circuit import Circuit
from xenolect.errors import BreakerOpenError, EmergenceError, StorageError, UnavailableError

__all__ = ["Guarded", "across_a_network"]

log = logging.getLogger("xenolect.safeguards")
LOCAL = ("file", "memory", "local")


def across_a_network(options: Mapping[str, Any]) -> bool:
    """Do these options name a URL that is not on this machine's disk or in its memory?"""
    texts = [value for value in options.values() if isinstance(value, str)]
    return any("://" in text and text.partition("://")[0] not in LOCAL for text in texts)


class Guarded:
    """An index or a chunk store whose calls go through a breaker; everything else is its own.

    What counts against it is a StorageError that may pass. Every other answer, an error of the caller's
    included, shows that it answers.
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
        circuit = self.circuit

        def guarded(*args: Any, **given: Any) -> Any:
            if self.bypassed:
                return call(*args, **given)
            try:
                permit = circuit.acquire()
            except BreakerOpenError as error:
                raise UnavailableError(
                    f"{error}, or reset it: manager.breakers.reset({circuit.name!r})",
                    retry_after=error.retry_after,
                ) from error
            try:
                result = call(*args, **given)
            except EmergenceError as error:
                failed = isinstance(error, StorageError) and error.retryable
                (permit.failure if failed else permit.success)()
                raise
            except BaseException:
                permit.ignore()  # a bug, or cancelled: it says nothing of the service
                raise
            permit.success()
            return result

        return guarded
