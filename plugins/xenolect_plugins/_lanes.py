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

from xenolect.errors import InvalidError
from xenolect.judges import JudgeConfig
from xenolect_plugins._eprocesses import CEILING, FLOOR, geometric
from xenolect_plugins._guardrails import GATES
from xenolect_plugins._lanes_control import RECENT, ControlLanes, Minute
from xenolect_plugins.evalue import EValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Histories", "Lanes", "Minute"]


@attrs.frozen(eq=False)
class Histories:
    """What was known of each run's units before: ``operations`` and ``failures``, shape (runs, units).

    Units stand in the order of their names.
    """

    operations: Array
    failures: Array


class Lanes:
    """The state of ``runs`` rollouts; ``feed`` moves all of them, and those ended stand still.

    Every operation is a record of its own. ``promotion``: whether ``promotable`` will be asked; without,
    what only promotion needs is not computed. After feeding: ``ended`` (seconds, NaN while running),
    ``operations`` and ``failures`` of the canary until then, ``collapsed`` (ended without control),
    ``promotable`` (at the time of the last record), ``e_value`` and ``highest``, each of shape (runs,).
    """

    def __init__(
        self,
        judge: EValue,
        histories: Histories,
        config: JudgeConfig,
        *,
        promotion: bool = True,
    ) -> None:
        if judge.cool_down < judge.latency_window:
            raise InvalidError("lanes need a cool_down of at least latency_window")
        n, f = histories.operations, histories.failures
        self._promotion = promotion
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
        self._control = ControlLanes(judge, runs, units, share / (1.0 - share), self._threshold)
        usual = np.clip(pooled, 1e-4, 0.5)
        self._trouble = np.minimum(
            np.maximum(judge.collapse_floor, judge.collapse_factor * usual), 0.9
        )
        self._rows = np.arange(runs)
        self._until = np.full(runs * units, -np.inf)
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
        self._failing = np.zeros(runs)
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

    @property
    def collapse(self) -> Array:
        """The evidence of a collapse without control, shape (runs,)."""
        return self._control.collapse

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
        live = np.isnan(self.ended)
        last = self._control.watch(
            minute, index, expected
        )  # the step at which a collapse is proved
        self._events(minute, index, expected, changed, live, last)
        self._count(minute, live)
        if self._promotion:
            self._blocks_of(minute, residual)
        self._remember(minute, index, residual)

    def _count(self, minute: Minute, live: Array) -> None:
        """The canary's operations and failures, of those that ended up to their end."""
        self.operations += minute.canary.sum(axis=0) * live
        failed = minute.canary & minute.failed
        self.failures += failed.sum(axis=0) * live
        over = np.flatnonzero(live & ~np.isnan(self.ended))
        after = minute.at[:, None] > self.ended[over]
        self.operations[over] -= (minute.canary[:, over] & after).sum(axis=0)
        self.failures[over] -= (failed[:, over] & after).sum(axis=0)

    def _events(
        self, minute: Minute, index: Array, expected: Array, changed: bool, live: Array, last: Array
    ) -> None:
        """The failure ratio's events, and who ends; a window is shorter than the cool-down, so no unit
        has more than one event in it."""
        steps = len(minute.at)
        warm = self._until[index] <= minute.at[:, None]
        step, row = np.nonzero(minute.failed & warm)  # in order of time
        key, first = np.unique(index[step, row], return_index=True)
        step, row = step[first], row[first]
        when = np.full(self.runs * self.units, steps)
        when[key] = step
        warm &= np.arange(steps)[:, None] <= when[index]  # after its event a unit cools
        self._until[key] = minute.at[step] + self._judge.cool_down

        weighed = expected * warm
        sums = np.stack([weighed * minute.canary, weighed * ~minute.canary])
        for k in range(1, steps):  # four times as fast as cumsum along this axis
            sums[:, k] += sums[:, k - 1]
        order = np.lexsort((step, row))
        step, row = step[order], row[order]
        begins = np.searchsorted(row, self._rows)
        many = np.searchsorted(row, self._rows, side="right") - begins
        before = np.zeros((2, self.runs))
        carried = self._a
        if changed:  # judged with the first operation, whether it is an event or not
            at_once = (
                (many > 0) & (step[np.minimum(begins, len(step) - 1)] == 0)
                if len(step)
                else (np.zeros(self.runs, dtype=bool))
            )
            self._weigh()
            self._end(np.flatnonzero(live & ~at_once), np.zeros(self.runs, dtype=np.int64), minute)
        for turn in range(int(many.max(initial=0))):
            rows = np.flatnonzero((many > turn) & np.isnan(self.ended))
            at = step[begins[rows] + turn]
            soon = at <= last[rows]
            rows, at = rows[soon], at[soon]
            if not len(rows):
                continue
            now = sums[:, at, rows]
            self._event(
                rows, minute.canary[at, rows], *(carried[:, rows] + (now - before[:, rows]))
            )
            carried[:, rows] = 0.0
            before[:, rows] = now
            self._weigh()
            place = np.zeros(self.runs, dtype=np.int64)
            place[rows] = at
            self._end(rows, place, minute)
        self._a = carried + (sums[:, -1] - before)
        out = np.flatnonzero(np.isnan(self.ended) & (last < steps))
        self.collapsed[out] = True
        self.ended[out] = minute.at[last[out]]

    def _end(self, rows: Array, step: Array, minute: Minute) -> None:
        """End those of some runs that reached the threshold at a step."""
        out = rows[self.e_value[rows] >= self._threshold]
        self.ended[out] = minute.at[step[out]]

    def _event(self, rows: Array, canary: Array, a_c: Array, a_b: Array) -> None:
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

    # -- non-inferiority ----------------------------------------------------------------------------

    def _blocks_of(self, minute: Minute, residual: Array) -> None:
        """Bets against "worse by what matters", block by block, while control is not in trouble."""
        for step in range(len(minute.at)):
            canary = minute.canary[step]
            self._block(minute, step, canary, self._failing <= self._trouble, residual[step])
            moved = self._failing + (minute.failed[step] - self._failing) * RECENT
            self._failing = np.where(canary, self._failing, moved)

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
            & ~self._control.missing(self._rows, now)
            & (self._failing <= self._trouble)
            & (self.shown() >= judge.promote_at)
        )
        return ready
