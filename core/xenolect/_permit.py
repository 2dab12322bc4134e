"""The right to make one call through a breaker, and what becomes of it."""

from __future__ import annotations

from concurrent.futures import CancelledError
from types import TracebackType
from typing import TYPE_CHECKING, Self

import attrs

from xenolect import safeguards as sg

if TYPE_CHECKING:
    from xenolect._circuit import Circuit

__all__ = ["FAILURE", "IGNORED", "SUCCESS", "Counts", "Permit", "Tape", "cancelled"]

SUCCESS = sg.Outcome(successes=1)
FAILURE = sg.Outcome(failures=1)
IGNORED = sg.Outcome(ignored=True)

Tape = tuple[list[float], int]  # times of successes not folded yet, and their generation


def cancelled(kind: type[BaseException]) -> bool:
    """Cancellation by asyncio, trio, a future or the user; never the fault of what was called."""
    return not issubclass(kind, Exception) or issubclass(kind, CancelledError)


@attrs.frozen
class Counts:
    """What one breaker has counted since it was made, in this process."""

    successes: int = 0
    failures: int = 0
    slow: int = 0
    ignored: int = 0
    refused: int = 0


class Permit:
    """The right to make one call; return it with ``success``, ``failure`` or ``ignore``.

    As a context manager it returns itself: an exception is a failure, cancellation is ignored. A probe
    of a half-open breaker that is not returned within the lease has failed. Returning twice, or late,
    does nothing.
    """

    __slots__ = ("_circuit", "_done", "_tape", "generation", "started", "taken_at", "token")

    def __init__(self, circuit: Circuit, generation: int, tape: Tape | None = None) -> None:
        self._circuit = circuit
        self._done = False
        self._tape = tape
        self.generation = generation
        self.token: sg.Token | None = None
        self.taken_at: float | None = None
        self.started: float | None = circuit.clock() if circuit.slow_call is not None else None

    @property
    def circuit(self) -> Circuit:
        """Whose permit it is."""
        return self._circuit

    def success(self) -> None:
        """The call went well."""
        self.finish(SUCCESS)

    def failure(self) -> None:
        """What was called has failed."""
        self.finish(FAILURE)

    def ignore(self) -> None:
        """The call says nothing of what was called (cancelled, the caller's own error)."""
        self.finish(IGNORED)

    def finish(self, outcome: sg.Outcome) -> None:
        """Return the permit with an outcome."""
        if not self._done:
            self._done = True
            self._circuit.finish(self, outcome)

    def finish_with(self, error: BaseException | None) -> None:
        """Return the permit with what the call raised, or None."""
        if error is None:
            self.finish(SUCCESS)
        elif self._circuit.blames(error):
            self.finish(FAILURE)
        else:
            self.finish(IGNORED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish_with(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish_with(error)
