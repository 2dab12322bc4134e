"""How long a remote store is waited for: each request, how often again, and all of one call together."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import attrs

from xenolect.errors import ConfigError, UnavailableError
from xenolect.units import format_seconds

__all__ = ["Patience", "Turn"]

T = TypeVar("T")


@attrs.frozen
class Patience:
    """``timeout``: seconds for one request. ``retries``: further attempts after the first.
    ``deadline``: seconds for a call with all its attempts and pauses.

    Pauses double from ``pause`` to ``longest`` seconds, and ``draw`` (uniform in [0, 1)) takes up to
    half of each away, so that writers that failed together do not come back together. An attempt is
    begun only where it can time out before the deadline: a call never takes longer than that.
    """

    timeout: float = 30.0
    retries: int = 5
    deadline: float = 120.0
    pause: float = 0.1
    longest: float = 5.0
    draw: Callable[[], float] = attrs.field(default=random.random, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if not 0 < self.timeout <= self.deadline:
            raise ConfigError(
                f"chunks.timeout is {format_seconds(self.timeout)} and chunks.deadline "
                f"{format_seconds(self.deadline)}; a call has one or more requests, so give a timeout "
                f"above 0 and a deadline that is not shorter"
            )
        if self.retries < 0:
            raise ConfigError(f"chunks.retries must be 0 or more, got {self.retries}")

    def once(self) -> Patience:
        """The same without further attempts."""
        return attrs.evolve(self, retries=0)

    def turn(self) -> Turn:
        """The time and the attempts of one call, which begins now."""
        return Turn(self)


class Turn:
    """One call's share of patience; its requests draw on it together. ``failures``: how many failed."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._began = time.monotonic()
        self.failures = 0

    def run(self, request: Callable[[], T]) -> T:
        """Send a request until it is answered; UnavailableError says how often it was tried."""
        import stamina  # 40 ms

        try:
            for attempt in stamina.retry_context(on=self._again, attempts=None, timeout=None):
                with attempt:
                    return request()
        except UnavailableError as error:
            if self.failures < 2:
                raise
            spent = format_seconds(round(time.monotonic() - self._began, 1))
            raise UnavailableError(
                f"{error}; tried {self.failures} times in {spent}", retry_after=error.retry_after
            ) from error.__cause__
        raise AssertionError("unreachable")

    def _again(self, error: Exception) -> bool | float:
        """Seconds to wait before the next attempt; False where there is none."""
        if not isinstance(error, UnavailableError):
            return False
        self.failures += 1
        patience = self._patience
        if self.failures > patience.retries:
            return False
        pause = min(patience.longest, patience.pause * 2.0 ** (self.failures - 1))
        pause = max(pause * (1.0 - patience.draw() / 2.0), error.retry_after or 0.0)
        left = self._began + patience.deadline - time.monotonic()
        return pause if pause + patience.timeout <= left else False
