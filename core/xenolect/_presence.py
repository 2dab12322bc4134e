"""This process among those that serve: a lease that says it lives."""

from __future__ import annotations

from xenolect._runtime import Runtime

__all__ = ["Presence"]

LEASE = 15.0  # seconds a process is believed to live after its last sign


class Presence:
    """The sign of life of one manager."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._renewed = float("-inf")

    def begin(self) -> None:
        """Give the first sign, under the name that the process has now."""
        self._renewed = float("-inf")
        self.renew()

    def renew(self) -> None:
        """Give a sign where the last one is a third of its time old."""
        now = self._runtime.alive()
        if now - self._renewed >= LEASE / 3:
            self._renewed = now
            self._say(now, LEASE)

    def leave(self) -> None:
        """From now on this process does not count."""
        self._say(self._runtime.alive(), 0.0)

    def _say(self, now: float, seconds: float) -> None:
        boot = self._runtime.boot
        self._runtime.index.lease(f"process/{boot}", boot, now, seconds)
