"""Measurements on their way to the index: a batch whose answer was lost is sent again as it was.

Nobody can say whether such a batch was stored. Its number says it to the index, which leaves out what is
sent again and is stored already. So the batch is kept apart, unchanged, from what was measured after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import attrs

from xenolect.errors import ConflictError, InvalidError
from xenolect.facts import Batch, Observation, Window

if TYPE_CHECKING:
    from xenolect._performance import Performance
    from xenolect.interfaces import Index

__all__ = ["Sending", "Taken"]


@attrs.define
class Taken:
    """Evidence for one commit; whoever commits it says so."""

    observations: Sequence[Observation]
    once: Batch
    stored: bool = False


class _Sent(NamedTuple):
    once: Batch
    windows: list[Window]
    observations: list[Observation]


class Sending:
    """Numbers the batches of one process. Callers take turns."""

    def __init__(
        self, performance: Performance, index: Callable[[], Index], writer: Callable[[], str]
    ) -> None:
        self._performance = performance
        self._index = index
        self._writer = writer
        self.leave_parent()

    def leave_parent(self) -> None:
        """In a forked child: what was sent is the parent's."""
        self._number = 0
        self._lost: _Sent | None = None

    @property
    def unsure(self) -> Sequence[Observation]:
        """Evidence of the batch whose answer was lost."""
        return () if self._lost is None else self._lost.observations

    def append(self, *, durable: bool) -> tuple[int, int]:
        """Store what waits; how many windows and observations. What fails is tried by the next call."""
        windows, observations = self._performance.take()
        try:
            self.settle()
        except BaseException:
            self._performance.give_back(windows, observations)
            raise
        if windows or observations or durable:
            self._send(_Sent(self._next(), windows, observations), durable)
        return len(windows), len(observations)

    @contextmanager
    def evidence(self) -> Iterator[Taken]:
        """Evidence that a commit takes along; the rest, or all of it where that fails, waits on."""
        with suppress(InvalidError):
            self.settle()
        windows, observations = self._performance.take()
        taken = Taken(observations, self._next())
        try:
            yield taken
        except (ConflictError, InvalidError):  # an answer: nothing was stored
            raise
        except BaseException:
            if observations and not taken.stored:
                self._lost, observations = _Sent(taken.once, [], observations), []
            raise
        finally:
            self._performance.give_back(windows, [] if taken.stored else observations)

    def settle(self) -> None:
        """Send the batch whose answer was lost again, if there is one."""
        if self._lost is not None:
            self._send(self._lost, False)

    def _next(self) -> Batch:
        self._number += 1
        return Batch(self._writer(), self._number)

    def _send(self, sent: _Sent, durable: bool) -> None:
        records: list[Window | Observation] = [*sent.windows, *sent.observations]
        self._lost = sent
        try:
            self._index().append_windows(
                records, durable=durable, once=sent.once if records else None
            )
        except InvalidError:  # an answer: nothing of it was stored
            self._lost = None
            self._performance.give_back(sent.windows, sent.observations)
            raise
        self._lost = None
        self._performance.unheard = True
