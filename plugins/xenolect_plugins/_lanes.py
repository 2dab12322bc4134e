"""The default judge over many rollouts at once: the same formulas with a leading axis of runs.

A promise like "at most 1 % of harmless variants are taken back" needs ten thousand rollouts of a
hundred thousand operations each, which record by record takes hours. Here one numpy operation moves
all runs by one operation. Each element sees the same additions and multiplications in the same order
as ``EValue`` does, so both give the same numbers (checked by the tests).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from xenolect.judges import JudgeConfig
from xenolect_plugins._eprocesses import CEILING, FLOOR, Collapse, geometric
from xenolect_plugins._guardrails import GATES
from xenolect_plugins.evalue import EValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Histories", "Lanes", "Minute"]

_RECENT = 1.0 / 32.0


@attrs.frozen(eq=False)
class Histories:
    """What was known of each run's units before: ``operations`` and ``failures``, shape (runs, units).

    Units stand in the order of their names.
    """

    operations: Array
    failures: Array


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


class Lanes:
    """The state of ``runs`` rollouts; ``feed`` moves all of them, and those ended stand still.

    Every operation is a record of its own. After feeding: ``ended`` (seconds, NaN while running),
    ``operations`` and ``failures`` of the canary until then, ``collapsed`` (ended without control),
    ``promotable`` (at the time of the last record), ``e_value`` and ``highest``, each of shape (runs,).
    """

    def __init__(self, judge: EValue, histories: Histories, config: JudgeConfig) -> None:
        n, f = histories.operations, histories.failures
        self.runs, self.units = n.shape
        self._judge = judge
        runs, units = self.runs, self.units
        pooled = (f.sum(1) + 1.0) / (n.sum(1) + 100.0)
        self._expected = np.clip((f + 50.0 * pooled[:, None]) / (n + 50.0), 1e-4, 0.5)
        d = np.maximum(
            config.min_effect, np.clip(pooled / 2.0, judge.least_margin, judge.most_margin)
        )
        self._d = d
        self._threshold = 1.0 / config.alpha
        self._bets = np.array(geometric(0.01, 0.95, 16))
        self._thetas = np.array([judge.rho * step for step in geometric(1.15, 50.0, 16)])
        share = min(max(config.share, 0.001), 0.999)
        self._usual = share / (1.0 - share)
        usual = np.clip(pooled, 1e-4, 0.5)
        self._trouble = np.minimum(
            np.maximum(judge.collapse_floor, judge.collapse_factor * usual), 0.9
        )
        self._rows = np.arange(runs)
        self._until = np.full(runs * units, -np.inf)
        self._counted = np.full(runs * units, -np.inf)
        self._heard = np.full(runs * units, -np.inf)
        self._cleared = np.full(runs, -np.inf)  # times heard before that are forgotten
        self._moment = 0  # numbers the steps: ``heard`` holds them beside times
        self._heard_step = np.full(runs * units, -1, dtype=np.int64)
        self._cleared_step = np.zeros(runs, dtype=np.int64)
        self._a = np.zeros((2, runs))
        self._ratio = np.ones((runs, 16))
        self._value = np.ones(runs)  # of the failure ratio
        self._values = {"failure_difference": np.ones(runs)}
        self._capitals = {
            name: np.ones((runs, 16)) for name in ("failure_difference", "latency", "latency_tail")
        }
        self._blocks = np.zeros((2, runs), dtype=np.int64)
        self._sums = np.zeros((2, runs, 3))
        self._inferiority = np.ones((runs, 3, 16))
        self._turns = np.zeros(runs, dtype=np.int64)
        self._recent = np.zeros(runs)
        self._failing = np.zeros(runs)
        self._observations = np.zeros(runs, dtype=np.int64)
        self._last = np.full(runs, -1, dtype=np.int64)
        self._last_at = np.zeros(runs)
        self._settled = np.zeros(runs)
        self._episodes = np.zeros(runs, dtype=np.int64)
        self._begun = np.zeros(runs)
        self._betting = np.zeros(runs, dtype=bool)
        self._capital = np.ones(runs)
        self.collapse = np.ones(runs)
        self._long = np.zeros((4, runs * units))  # weight and sum, canary and control
        self._short: Minute | None = None
        self._opened: float | None = None
        self.e_value = np.ones(runs)
        self.highest = np.ones(runs)
        self.ended = np.full(runs, np.nan)
        self.collapsed = np.zeros(runs, dtype=bool)
        self.operations = np.zeros(runs, dtype=np.int64)
        self.failures = np.zeros(runs, dtype=np.int64)
        self._latency = False

    # -- a window of operations ---------------------------------------------------------------------

    def feed(self, minute: Minute) -> None:
        """Fold the operations of one latency window; windows come in order, none is skipped."""
        if minute.rank is not None and not self._latency:
            self._latency = True
            self._values |= {name: np.ones(self.runs) for name in ("latency", "latency_tail")}
        start = float(minute.at[0])
        changed = self._close(start)
        if self._opened is None:
            self._opened = start - start % self._judge.window
        index = self._rows * self.units + minute.unit
        expected = self._expected.ravel()[index]
        residual = minute.failed - expected
        for step in range(len(minute.at)):
            self._step(minute, step, index[step], expected[step], residual[step], changed)
            changed = False
        self._remember(minute, index, residual)

    def _step(
        self,
        minute: Minute,
        step: int,
        index: Array,
        expected: Array,
        residual: Array,
        changed: bool,
    ) -> None:
        now = float(minute.at[step])
        live = np.isnan(self.ended)
        canary = minute.canary[step]
        failed = minute.failed[step]
        self.operations += canary & live
        self.failures += canary & failed & live

        warm = self._until[index] <= now
        self._a[0] += expected * (canary & warm)
        self._a[1] += expected * (~canary & warm)
        events = np.flatnonzero(failed & warm)
        if len(events):
            self._event(events, canary[events])
            self._until[index[events]] = now + self._judge.cool_down

        calm = self._failing <= self._trouble
        self._block(minute, step, canary, calm, residual)

        control = np.flatnonzero(~canary)
        treated = np.flatnonzero(canary)
        self._treated(treated, minute, step, index, expected, now)
        self._controlled(control, minute, step, now)

        if changed or len(events):
            self._weigh()
        out = live & ((self.e_value >= self._threshold) if changed or len(events) else np.False_)
        out |= live & (self.collapse >= self._threshold)
        if out.any():
            self.collapsed |= out & (self.e_value < self._threshold)
            self.ended[out] = now

    def _event(self, rows: Array, canary: Array) -> None:
        a_c, a_b = self._a[0, rows], self._a[1, rows]
        self._a[:, rows] = 0.0
        both_there = (a_c > 0.0) & (a_b > 0.0)
        if not both_there.all():
            rows, canary = rows[both_there], canary[both_there]
            a_c, a_b = a_c[both_there], a_b[both_there]
        if not len(rows):
            return
        rho, thetas = self._judge.rho, self._thetas
        both = (rho * a_c + a_b)[:, None]
        under = thetas * a_c[:, None] + a_b[:, None]
        factors = np.where(canary[:, None], thetas * both / (rho * under), both / under)
        capitals = np.clip(self._ratio[rows] * factors, FLOOR, CEILING)
        self._ratio[rows] = capitals
        self._value[rows] = self._mean(capitals)

    def _block(
        self, minute: Minute, step: int, canary: Array, calm: Array, residual: Array
    ) -> None:
        for arm, mine in ((0, canary & calm), (1, ~canary & calm)):
            self._blocks[arm] += mine
            self._sums[arm, :, 0] += residual * mine
            if minute.near is not None and minute.beyond is not None:
                self._sums[arm, :, 1] += minute.near[step] * mine
                self._sums[arm, :, 2] += minute.beyond[step] * mine
        rows = np.flatnonzero((self._blocks[0] > 0) & (self._blocks[1] > 0))
        if not len(rows):
            return
        means = self._sums[:, rows] / self._blocks[:, rows, None]
        margin = np.zeros((len(rows), 3))
        margin[:, 0] = self._judge.ni_factor * self._d[rows]
        gain = (margin - (means[0] - means[1])) / np.array([1.5, 1.0, 1.0])
        self._inferiority[rows] = np.clip(
            self._inferiority[rows] * (1.0 + self._bets * gain[:, :, None]), FLOOR, CEILING
        )
        self._blocks[:, rows] = 0
        self._sums[:, rows] = 0.0

    # -- control and collapse -----------------------------------------------------------------------

    def _missing(self, rows: Array, now: float) -> Array:
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

    def _treated(
        self, rows: Array, minute: Minute, step: int, index: Array, expected: Array, now: float
    ) -> None:
        if not len(rows):
            return
        self._moment += 1
        missing = rows[self._missing(rows, now)]
        if len(missing):
            self._bet(missing, minute.failed[step][missing], expected[missing], index, now)
        mine = index[rows]
        forgotten = self._heard_step[mine] < self._cleared_step[rows]
        again = forgotten | (now - self._heard[mine] >= self._judge.control_window)
        rows, mine = rows[again], mine[again]
        self._heard[mine] = now
        self._heard_step[mine] = self._moment
        self._turns[rows] += 1

    def _controlled(self, rows: Array, minute: Minute, step: int, now: float) -> None:
        if not len(rows):
            return
        unit = minute.unit[step][rows]
        arrivals = rows[(self._turns[rows] > 0) | (unit != self._last[rows])]
        self._recent[arrivals] += (self._turns[arrivals] - self._recent[arrivals]) * _RECENT
        self._turns[arrivals] = 0
        self._cleared_step[arrivals] = self._moment + 1
        self._failing[rows] += (minute.failed[step][rows] - self._failing[rows]) * _RECENT
        self._observations[rows] += 1
        self._last[rows] = unit
        self._last_at[rows] = now
        ending = rows[self._betting[rows]]
        if len(ending):
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

    # -- windows ------------------------------------------------------------------------------------

    def _remember(self, minute: Minute, index: Array, residual: Array) -> None:
        """Keep what the windows' bets need; a column of operations is added in order of time."""
        self._short = minute
        size = self.runs * self.units
        for arm, mine in ((0, minute.canary), (1, ~minute.canary)):
            # In order of time within a unit; adding onto the earlier sums keeps the scalar's order.
            places = index[mine]
            self._long[2 * arm] += np.bincount(places, minlength=size)
            np.add.at(self._long[2 * arm + 1], places, residual[mine])

    def _close(self, now: float) -> bool:
        """The bets on windows that are over at ``now``; whether there were any."""
        short, judge = self._short, self._judge
        if short is None:
            return False
        size = self.runs * self.units
        index = self._rows * self.units + short.unit
        if short.rank is not None and short.tail is not None:
            for name, values in (("latency", short.rank), ("latency_tail", short.tail)):
                sums = np.zeros((4, size))
                for arm, mine in ((0, short.canary), (1, ~short.canary)):
                    places = index[mine]
                    sums[2 * arm] = np.bincount(places, minlength=size)
                    sums[2 * arm + 1] = np.bincount(places, values[mine], minlength=size)
                self._wager(name, sums, np.zeros(self.runs), np.ones(self.runs))
        self._short = None
        if self._opened is not None and now >= self._opened + judge.window:
            self._wager("failure_difference", self._long, self._d, 1.5 + self._d)
            self._long = np.zeros((4, size))
            self._opened = None
        return True

    def _wager(self, name: str, sums: Array, margin: Array, reach: Array) -> None:
        shape = (self.runs, self.units)
        there = [sums[2 * arm].reshape(shape) > 0 for arm in (0, 1)]
        groups = np.minimum(there[0].sum(1), there[1].sum(1))
        most = int(groups.max(initial=0))
        if not most:
            return
        means = []
        for arm in (0, 1):
            rows, columns = np.nonzero(there[arm] & (groups > 0)[:, None])
            order = (np.cumsum(there[arm], axis=1) - 1)[rows, columns]
            place = rows * most + order % groups[rows]
            weight = sums[2 * arm].reshape(shape)[rows, columns]
            value = sums[2 * arm + 1].reshape(shape)[rows, columns] / weight
            total = np.bincount(place, value, minlength=self.runs * most)
            count = np.bincount(place, minlength=self.runs * most)
            means.append((total / np.maximum(count, 1)).reshape(self.runs, most))
        gain = (means[0] - means[1] - margin[:, None]) / reach[:, None]
        capital = self._capitals[name]
        for k in range(most):
            factor = 1.0 + self._bets * gain[:, k, None]
            bet = np.clip(capital * factor, FLOOR, CEILING)
            capital = np.where((k < groups)[:, None], bet, capital)
        self._capitals[name] = capital
        self._values[name] = self._mean(capital)

    # -- what it comes to ---------------------------------------------------------------------------

    @staticmethod
    def _mean(capitals: Array) -> Array:
        """The plain left-to-right mean over the last axis, as the scalar judge has it."""
        total = np.zeros(capitals.shape[:-1])
        for k in range(capitals.shape[-1]):
            total = total + capitals[..., k]
        mean: Array = total / capitals.shape[-1]
        return mean

    def _weigh(self) -> None:
        total = np.zeros(self.runs)
        for value in self._values.values():
            total = total + value
        weighed = 0.5 * self._value + 0.5 * (total / len(self._values))
        self.e_value = np.where(np.isnan(self.ended), weighed, self.e_value)
        self.highest = np.maximum(self.highest, self.e_value)

    def shown(self) -> Array:
        """The non-inferiority that promotion waits for, shape (runs,)."""
        values = self._mean(self._inferiority)
        columns = [GATES.index(name) for name in self._judge.gates]
        if not self._latency:
            columns = [column for column in columns if column == 0]
        shown: Array = values[:, columns or [0]].min(axis=1)
        return shown

    def promotable(self, now: float) -> Array:
        """Whether the verdict is PROMOTE, shape (runs,)."""
        judge = self._judge
        ready: Array = (
            np.isnan(self.ended)
            & (self.operations > 0)
            & (self.collapse < judge.hold_at)
            & (self.e_value < judge.hold_at)
            & ~self._missing(self._rows, now)
            & (self._failing <= self._trouble)
            & (self.shown() >= judge.promote_at)
        )
        return ready
