"""A share of the selections in the journal (``journal.sample``): who was served what, and why.

Choosing only draws and appends to a queue. The background thread commits what waits: a batch of
``BATCH``, or what there is once in ``metrics.interval``; ``flush`` and ``close`` commit the rest.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenolect.facts import SELECTIONS, Put

if TYPE_CHECKING:
    from xenolect._runtime import Runtime
    from xenolect.model import Selection

__all__ = ["BATCH", "MOST", "Sampling"]

BATCH = 250
"""Selections in one entry of the journal: 42 KB, with short names."""
MOST = 10_000
"""Selections that wait in memory; the ones beyond are counted and let go."""
LONGEST = 256
"""Characters of a name. Who is not registered may be called anything."""


class Sampling:
    """Draws, keeps and stores."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._share = runtime.config.journal.sample
        self._stored_at = runtime.clock()
        self.serving = True  # who only looks is served nothing
        self.leave_parent()

    def leave_parent(self) -> None:
        """A forked child begins with an empty queue: its parent's is the parent's to store."""
        self._waiting: deque[dict[str, Any]] = deque()
        self._dropped = 0

    def around(self, choose: Callable[..., Selection]) -> Callable[..., Selection]:
        """``choose``, with a share of its answers kept. Without a share it is ``choose`` itself."""
        share, runtime = self._share, self._runtime
        if not share:
            return choose

        def sampled(*asked: Any) -> Selection:
            chosen = choose(*asked)
            if self.serving and runtime.rng.random() < share:
                if len(self._waiting) < MOST:
                    self._waiting.append(_row(runtime.clock(), chosen))
                else:
                    self._dropped += 1
            return chosen

        return sampled

    def tick(self, now: float) -> None:
        """Store what waits, where it is enough or has waited for long."""
        due = now - self._stored_at >= self._runtime.config.metrics.interval
        if due or len(self._waiting) >= BATCH:
            self.store()

    def store(self) -> None:
        """Commit everything that waits. What could not be committed goes on waiting."""
        runtime = self._runtime
        waiting = self._waiting
        if not self._share:
            return
        with runtime.lock:
            self._stored_at = runtime.clock()
            while waiting:
                rows = [waiting[i] for i in range(min(BATCH, len(waiting)))]
                dropped = self._dropped
                document = {
                    "share": self._share,
                    "dropped": dropped,
                    "chosen": rows,
                }
                runtime.commit([Put(SELECTIONS, "sample", document)])
                for _ in rows:
                    waiting.popleft()
                self._dropped -= dropped


def _row(at: float, selection: Selection) -> dict[str, Any]:
    score = selection.score
    return {
        "at": at,
        "agent": _text(selection.agent_id),
        "session": None if selection.session is None else _text(selection.session),
        "protocol": selection.protocol,
        "variant": selection.variant.id,
        "version": selection.variant.version,
        "reason": selection.reason.value,
        "score": score if math.isfinite(score) else None,
        "revision": selection.revision,
    }


def _text(name: object) -> str:
    """Whatever an agent or a session is called, as text that can be stored."""
    return str(name)[:LONGEST].encode(errors="backslashreplace").decode()
