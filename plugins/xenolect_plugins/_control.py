"""Whether the control arm can be compared with: it may have gone silent, or be in trouble itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

__all__ = ["ControlWatch"]

_RECENT = 1.0 / 32.0  # memory of about 32 arrivals: follows a ramp, and errs by some 12 %


@attrs.define
class ControlWatch:
    """Counts how many control operations should have arrived since the last one.

    A *turn* is one canary unit heard since the last control operation; the same unit counts again
    after ``window`` seconds, so a chatty conversation is one turn. ``gap`` is the usual number of
    turns between control operations: the recent mean, but at least what the share at the start
    implies. It stands still while control is away, so silence does not explain itself.

    ``failing`` is the control's recent failure rate.

    Control is missing when none was ever seen, when ``patience`` operations are overdue, or when
    ``brief`` are overdue and none came for ``window`` seconds. All of it is known before the outcome
    of the next operation is looked at. Smaller numbers misfire when both arms fail together: in a
    total outage of 30 min, 10 overdue blame the canary in 4 of 60 rollouts at a share of 40 % and
    10 operations/s (20: none), and a silent minute alone in 194 of 200 at 95 % and 1 operation/s,
    where control is that rare anyway (12 overdue besides: none).
    """

    usual: float
    window: float
    patience: float
    brief: float
    turns: int = 0
    recent: float = 0.0
    failing: float = 0.0
    observations: int = 0
    last: str = ""
    last_at: float = 0.0
    heard: dict[str, float] = attrs.field(factory=dict)

    def missing(self, now: float) -> bool:
        """Whether control is missing for an operation that arrives at ``now``."""
        if not self.observations:
            return True
        if not self.turns:
            return False
        overdue = self.turns / max(self.usual, self.recent)
        if overdue < self.brief:
            return False
        # More traffic has more long gaps by chance: 3 more for each doubling beyond 8,192.
        patience = self.patience + 3.0 * max(0, self.observations.bit_length() - 13)
        return overdue >= patience or now - self.last_at >= self.window

    def canary(self, unit: str, now: float) -> None:
        """A canary operation arrived."""
        at = self.heard.get(unit)
        if at is None or now - at >= self.window:
            self.heard[unit] = now
            self.turns += 1

    def control(self, unit: str, now: float, share: float) -> None:
        """Control operations of a unit arrived, of which ``share`` failed."""
        if self.turns or unit != self.last:  # a unit that goes on talking is one arrival
            self.recent += (self.turns - self.recent) * _RECENT
            self.turns = 0
            if self.heard:
                self.heard.clear()
        self.failing += (share - self.failing) * _RECENT
        self.observations += 1
        self.last = unit
        self.last_at = now

    def dump(self) -> list[Any]:
        """The state as JSON."""
        heard = list(self.heard.items())
        return [
            self.turns,
            self.recent,
            self.failing,
            self.observations,
            self.last,
            self.last_at,
            heard,
        ]

    def load(self, data: Sequence[Any]) -> None:
        """Take over what ``dump`` gave."""
        (
            self.turns,
            self.recent,
            self.failing,
            self.observations,
            self.last,
            self.last_at,
            heard,
        ) = data
        self.heard = dict(heard)
