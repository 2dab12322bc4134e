"""``index.json`` of each variant: the newest version and its whole table, from which an index can be
rebuilt. Best effort, after the commit, never backwards."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from xenolect.errors import EmergenceError

if TYPE_CHECKING:
    from xenolect._state_objects import Objects
    from xenolect._state_versions import Versions

__all__ = ["Mirrors"]

log = logging.getLogger("xenolect.states")
_EVERY = 0.25
"""Seconds between two writes of one mirror: a table of 1,024 entries is 154 KB."""


class Mirrors:
    """Knows which mirrors are behind, and writes them when asked to."""

    def __init__(
        self,
        objects: Objects,
        versions: Versions,
        passing: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objects = objects
        self._passing = passing
        self._versions = versions
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._behind: set[str] = set()
        self._written: dict[str, float] = {}

    def touch(self, variant_id: str) -> None:
        """The variant has, or may soon have, a newer version."""
        with self._lock:
            self._behind.add(variant_id)

    def forget(self, variant_id: str) -> None:
        """Write none until the variant has a newer version."""
        with self._lock:
            self._behind.discard(variant_id)

    def write_due(self) -> None:
        """Write those that were not written in the last 250 ms."""
        self.write(_EVERY)

    def write(self, every: float = 0.0) -> None:
        """Write those that are behind; what fails is logged and tried the next time."""
        now = self._passing()
        with self._lock:
            due = [v for v in self._behind if now - self._written.get(v, now - every) >= every]
            self._behind.difference_update(due)
            self._written.update(dict.fromkeys(due, now))
        for variant_id in due:
            try:
                with self._writing:
                    head = self._versions.head(variant_id)
                    if head.value is not None:
                        content = self._versions.parent(variant_id, head)
                        self._objects.put_mirror(variant_id, dict(head.value), content)
            except EmergenceError as error:
                log.warning(
                    "the mirror of %s is behind and written later: %s",
                    variant_id,
                    error,
                    extra={"variant_id": variant_id},
                )
                self.touch(variant_id)
