"""One guarded operation, and the receipt of a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from xenolect._permit import cancelled
from xenolect._runtime import Runtime
from xenolect.model import ProtocolVariant, Selection

__all__ = ["Call", "Receipt"]

End = Callable[[Selection, bool, float, Mapping[str, float]], None]


class Receipt:
    """What ``report`` returns. The report already acted in memory; ``wait`` makes it durable."""

    __slots__ = ("_runtime",)

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def wait(self) -> None:
        """Return when the report, and a rollback it caused, are committed."""
        self._runtime.flush()


class Call:
    """One guarded operation: selects, times, reports. Use as ``with`` or ``async with``.

    An exception is a failure; ``fail()`` says so without one, ``ignore()`` keeps the call out of all
    statistics, and cancellation ignores by itself.
    """

    __slots__ = ("_custom", "_end", "_failed", "_ignored", "_started", "selection")

    def __init__(self, selection: Selection, end: End) -> None:
        self._end = end
        self._custom: dict[str, float] = {}
        self._failed = False
        self._ignored = False
        self._started = 0.0
        self.selection = selection

    @property
    def variant(self) -> ProtocolVariant:
        """The variant to speak."""
        return self.selection.variant

    def metric(self, name: str, value: float) -> None:
        """Report a custom metric with the call."""
        self._custom[name] = value

    def fail(self) -> None:
        """The call failed although nothing was raised."""
        self._failed = True

    def ignore(self) -> None:
        """The call says nothing of the variant (the caller's own error, say)."""
        self._ignored = True

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        elapsed = (time.perf_counter() - self._started) * 1000.0
        if self._ignored or (kind is not None and cancelled(kind)):
            if self.selection.permit is not None:
                self.selection.permit.ignore()
            return
        self._end(self.selection, kind is None and not self._failed, elapsed, self._custom)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)
