"""Parts that strangers made: what they raise never reaches a caller as it is.

A store, cipher or key provider promises to raise errors of ``xenolect.errors`` alone; one that breaks the
promise is answered for with a StorageError that names it, the cause chained. A safeguard must not raise
at all: one that does keeps its state, and refuses whoever asks to pass. The bundled parts keep their promises and
are not wrapped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from types import GeneratorType
from typing import Any

from xenolect import safeguards as sg
from xenolect.errors import EmergenceError, StorageError
from xenolect.interfaces import Safeguard

__all__ = ["Machine", "Store", "answered_for"]

_log = logging.getLogger("xenolect.safeguards")
_STORES = ("chunks", "index", "cipher", "keys")
_EVERY = 60.0  # seconds between two log records of one machine
_WAIT = 1.0  # seconds after which somebody who was refused may ask again


def answered_for(kind: str, part: Any, who: str) -> Any:
    """``part`` as the manager uses it; ``who``: the noun, the name and the source, for messages."""
    if kind in _STORES:
        return Store(part, who)
    return Machine(part, who) if kind == "safeguards" else part


class Store:
    """Passes everything on; an exception that is none of ours becomes a StorageError."""

    def __init__(self, inner: Any, who: str) -> None:
        self._inner = inner
        self._who = who

    def __repr__(self) -> str:
        return repr(self._inner)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name.startswith("_") or not callable(found):
            return found
        wrapped = self._wrapped(found)
        setattr(self, name, wrapped)
        return wrapped

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **given: Any) -> Any:
            try:
                result = call(*args, **given)
            except EmergenceError:
                raise
            except Exception as error:
                raise self._error(error) from error
            return self._nested(result)

        return wrapped

    def _nested(self, result: Any) -> Any:
        """Ciphers and wrappers that it hands out are its own as well; an iterator may raise later."""
        if isinstance(result, GeneratorType):
            return self._each(result)
        if hasattr(result, "seal") or hasattr(result, "unwrap"):
            return Store(result, self._who)
        if type(result) is tuple and len(result) == 2 and hasattr(result[1], "unwrap"):
            return result[0], Store(result[1], self._who)
        return result

    def _each(self, results: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from results
        except EmergenceError:
            raise
        except Exception as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self._who} raised {type(error).__name__}: {error}; a plugin should raise an error of "
            f"xenolect.errors"
        )


class Machine:
    """A safeguard that fails closed: a step that raises changes nothing and lets nobody pass."""

    def __init__(self, inner: Safeguard[Any], who: str) -> None:
        self._inner = inner
        self._who = who
        self._logged_at = float("-inf")
        inner.start()  # one that can not even begin is named when it is made

    def __repr__(self) -> str:
        return repr(self._inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(
        self, state: Any, event: sg.Event, now: float, draw: float
    ) -> tuple[Any, sg.Reply, Sequence[sg.Action]]:
        """The machine's step, or: the same state, and no to whoever asked."""
        try:
            after, reply, actions = self._inner.step(state, event, now, draw)
        except Exception as error:
            words = f"{self._who} raised {type(error).__name__}: {error}"
            self._complain(f"{words}; its state is kept, and whoever asks is refused")
            asks = isinstance(event, (sg.Acquire, sg.Promote, sg.Resume))
            return state, sg.Refuse(_WAIT, words) if asks else None, ()
        return after, reply, actions

    def _complain(self, words: str) -> None:
        now = time.monotonic()
        if now - self._logged_at >= _EVERY:
            self._logged_at = now
            _log.error("%s", words)
