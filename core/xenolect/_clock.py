"""The time of one process, which never goes back."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Forward"]


class Forward:
    """A wall clock that is not followed back when it is set back."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._latest = self._read_at = wall()

    def now(self) -> float:
        """Seconds since the epoch; never goes back, and never stands still.

        After the wall clock was set back it runs at half the speed until both agree: standing still,
        cool-downs and waits would not end for as long as the clock was set back.
        """
        now = self._wall()
        if now < self._latest:
            self._latest += max(0.0, now - self._read_at) / 2
        else:
            self._latest = now
        self._read_at = now
        return self._latest
