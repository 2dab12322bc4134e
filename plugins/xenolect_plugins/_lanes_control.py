"""Whether control is missing, and bets on a collapse meanwhile, over many rollouts at once.

``ControlWatch`` and ``Collapse`` with a leading axis of runs, as ``Lanes`` needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from xenolect_plugins._eprocesses import CEILING, FLOOR, Collapse
from xenolect_plugins.evalue import EValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["RECENT", "ControlLanes", "Minute"]

RECENT = 1.0 / 32.0
_NEARLY = 1.0 - 1e-9  # whose control may be missing is looked at closely


@attrs.frozen(eq=False)
class Minute:
    """The operations of one latency window of all runs, in order; all but ``at`` of shape (steps, runs).

    ``at``: seconds, shape (steps,), increasing, within one window. ``unit``: its number. ``rank`` and
    ``tail``: the latency's rank and whether it lies beyond the tail, the canary's by the tolerated
    ratio; ``near`` and ``beyond`` the same by the ratio that promotion must exclude. None without.
    """

    at: Array
    unit: Array
    canary: Array
    failed: Array
    rank: Array | None = None
    tail: Array | None = None
    near: Array | None = None
    beyond: Array | None = None


class ControlLanes:
    """The state of ``runs`` rollouts; ``collapse`` is the evidence, a rollout ends at ``threshold``."""

    def __init__(
        self, judge: EValue, runs: int, units: int, usual: float, threshold: float
    ) -> None:
        self._judge = judge
        self.runs = runs
        self._usual = usual
        self._threshold = threshold
        self._counted = np.full(runs * units, -np.inf)
        self._heard = np.full(runs * units, -np.inf)
        self._turns = np.zeros(runs, dtype=np.int64)
        self._recent = np.zeros(runs)
        self._observations = np.zeros(runs, dtype=np.int64)
        self._last = np.full(runs, -1, dtype=np.int64)
        self._last_at = np.full(runs, -np.inf)
        self._settled = np.zeros(runs)
        self._episodes = np.zeros(runs, dtype=np.int64)
        self._begun = np.zeros(runs)
        self._betting = np.zeros(runs, dtype=bool)
        self._capital = np.ones(runs)
        self.collapse = np.ones(runs)

    def watch(self, minute: Minute, index: Array, expected: Array) -> Array:
        """Whether control is missing, as ``ControlWatch`` has it, and the bets on a collapse; the step
        at which one is proved (the number of steps where none is)."""
        judge, steps = self._judge, len(minute.at)
        proved = np.full(self.runs, steps)
        turns, recent, heard = self._turns, self._recent, self._heard
        control = ~minute.canary
        for step, now in enumerate(minute.at.tolist()):
            canary, mine = minute.canary[step], index[step]
            near = turns >= judge.overdue_in_window * np.maximum(self._usual, recent) * _NEARLY
            rows = np.flatnonzero(canary & (near | (self._observations == 0)))
            if len(rows):
                rows = rows[self.missing(rows, now)]
            if len(rows):
                self._bet(rows, minute.failed[step][rows], expected[step][rows], mine, now)
                over = rows[(self.collapse[rows] >= self._threshold) & (proved[rows] == steps)]
                proved[over] = step
            then = heard[mine]
            # Heard since the last control operation, and not too long ago, counts once.
            again = canary & (then <= np.maximum(self._last_at, now - judge.control_window))
            heard[mine] = np.where(again, now, then)
            turns += again
            there = control[step]
            arrived = there & ((turns > 0) | (minute.unit[step] != self._last))
            recent += (turns - recent) * (arrived * RECENT)
            turns *= canary
            self._observations += there
            np.copyto(self._last, minute.unit[step], where=there)
            self._last_at[there] = now
            if self._betting.any():
                self._settle(np.flatnonzero(there & self._betting))
        return proved

    def missing(self, rows: Array, now: float) -> Array:
        """Whether control is missing, as ``ControlWatch.missing`` has it."""
        judge = self._judge
        seen = self._observations[rows]
        turns = self._turns[rows]
        overdue = turns / np.maximum(self._usual, self._recent[rows])
        bits = np.frexp(seen.astype(float))[1]
        patience = judge.overdue + 3.0 * np.maximum(0, bits - 13)
        late = (overdue >= patience) | (now - self._last_at[rows] >= judge.control_window)
        missing: Array = (seen == 0) | ((turns > 0) & (overdue >= judge.overdue_in_window) & late)
        return missing

    def _settle(self, ending: Array) -> None:
        """Control is back: running episodes stand still."""
        if not len(ending):
            return
        weight = self._weights(self._episodes[ending])
        self._settled[ending] += weight * self._capital[ending]
        self._betting[ending] = False
        self.collapse[ending] = (
            self._settled[ending] + 0.0 + np.maximum(0.0, 1.0 - self._begun[ending])
        )

    @staticmethod
    def _weights(episodes: Array) -> Array:
        return np.array([Collapse.weight(episode) for episode in episodes.tolist()])

    def _bet(self, rows: Array, failed: Array, expected: Array, index: Array, now: float) -> None:
        judge = self._judge
        q = np.maximum(judge.collapse_floor, judge.collapse_factor * expected)
        counts = (q < 0.9) & (self._counted[index[rows]] <= now)
        rows, failed, q = rows[counts], failed[counts], q[counts]
        if not len(rows):
            return
        self._counted[index[rows]] = now + judge.cool_down
        fresh = rows[~self._betting[rows]]
        if len(fresh):
            self._episodes[fresh] += 1
            self._begun[fresh] += self._weights(self._episodes[fresh])
            self._betting[fresh] = True
            self._capital[fresh] = 1.0
        factor = np.where(failed, 0.9 / q, 0.1 / (1.0 - q))
        self._capital[rows] = np.clip(self._capital[rows] * factor, FLOOR, CEILING)
        running = self._weights(self._episodes[rows]) * self._capital[rows]
        self.collapse[rows] = (
            self._settled[rows] + running + np.maximum(0.0, 1.0 - self._begun[rows])
        )
