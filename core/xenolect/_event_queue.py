"""Events on their way to observers and listeners: queued at once, handed out outside every lock."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenolect._codec import moment
from xenolect.events import Event

if TYPE_CHECKING:
    from xenolect._runtime import Runtime

__all__ = ["EventQueue"]

log = logging.getLogger("xenolect.variants")
MOST = 10_000  # events that wait; then the oldest are dropped


class EventQueue:
    """What is to be told, and to whom."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.waiting: deque[Event] = deque(maxlen=MOST)
        self.dropped = 0
        self._listeners: list[Callable[[Event], Any]] = []

    def tell(self, kind: str, variant_id: str | None = None, /, **detail: Any) -> None:
        """Queue an event for observers; it is delivered outside every lock."""
        if len(self.waiting) == self.waiting.maxlen:
            self.dropped += 1
        self.waiting.append(
            Event(kind, moment(self._runtime.clock()), self._runtime.revision, variant_id, detail)
        )

    def listen(self, callback: Callable[[Event], Any]) -> Callable[[], None]:
        """Call ``callback`` with every event from now on; the returned function ends it."""
        self._listeners.append(callback)

        def stop() -> None:
            if callback in self._listeners:
                self._listeners.remove(callback)

        return stop

    def deliver(self) -> None:
        """Hand queued events out; whoever raises is logged and nothing else happens."""
        while True:
            try:
                event = self.waiting.popleft()
            except IndexError:
                return
            self._runtime.registry.observers(event)
            for callback in list(self._listeners):
                try:
                    callback(event)
                except Exception:
                    log.exception("a listener failed on %s", event.kind)
