"""Many simulated fleets at once, as arrays for ``Lanes``, and each of them as records for ``EValue``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np

from xenolect.facts import Observation
from xenolect.judges import Baseline, JudgeConfig
from xenolect.model import Verdict
from xenolect.sketch import RATIO, Sketch
from xenolect_plugins._lanes import Histories, Lanes, Minute
from xenolect_plugins.evalue import EValue

_STEP = 10.0  # seconds for which a bad spell lasts at least
_DAY = 86400.0
_EVERY = 300.0


@attrs.frozen
class Fleets:
    """One kind of fleet; agents operate at random, ``rate`` operations per second in all.

    ``control``, ``canary``: failure probabilities. ``levels``: shares of equally long stretches.
    ``spread``: standard deviation of agents' log odds to fail. ``bursts``: the mean seconds of bad
    spells of single agents (half of the operations fail; they replace the independent failures).
    ``outage``: (start, stop, probability) of both arms. ``drift``: swing of failures and latency of
    both arms over six hours. ``latency``: standard deviation of log latency; ``habits``: that of the
    agents' medians. The canary takes ``slower`` times as long, ``stalls`` of its operations ten times.
    """

    agents: int = 100
    rate: float = 10.0
    hours: float = 4.0
    levels: tuple[float, ...] = (0.1,)
    control: float = 0.01
    canary: float = 0.01
    spread: float = 0.0
    bursts: float = 0.0
    outage: tuple[float, float, float] | None = None
    drift: float = 0.0
    latency: float = 0.5
    habits: float = 0.0
    slower: float = 1.0
    stalls: float = 0.0

    def open(self, runs: int, seed: int, *, promotion: bool = True) -> Opened:
        """Draw ``runs`` fleets; without ``promotion`` nothing that only promotion asks for."""
        return Opened(self, runs, np.random.default_rng(seed), promotion)


class Opened:
    """Drawn fleets: their histories, and their operations minute by minute."""

    def __init__(self, kind: Fleets, runs: int, rng: Any, promotion: bool = True) -> None:
        self.kind, self.runs, self.rng, self.promotion = kind, runs, rng, promotion
        shape = (runs, kind.agents)
        self.draws = rng.random(shape).argsort(axis=1).argsort(axis=1) / kind.agents
        self.odds = rng.normal(0.0, kind.spread, shape)
        operations = rng.poisson(kind.rate * _DAY / kind.agents, shape)
        self.histories = Histories(
            operations, rng.binomial(operations, self._tilted(kind.control, self.odds))
        )
        self.bad = rng.random(shape) < 2.0 * kind.control
        if kind.latency:
            self.habits = rng.normal(0.0, kind.habits, shape)
            self._rank_tables(operations)

    @staticmethod
    def _tilted(p: Any, odds: Any) -> Any:
        scaled = np.exp(odds) * p / (1.0 - p)
        return scaled / (1.0 + scaled)

    def _rank_tables(self, operations: Any) -> None:
        """Each agent's latencies of the day before in the sketch's bins, and ranks looked up in them."""
        kind, rng = self.kind, self.rng
        width = 5.0 * kind.latency + 4.0 * kind.habits
        scale = 1.0 / math.log(RATIO)
        self.low = math.ceil((math.log(50.0) - width) * scale)
        high = math.ceil((math.log(50.0) + width) * scale)
        edges = np.arange(self.low - 1, high + 1) / scale
        habits = self.habits.reshape(-1, 1) if kind.habits else np.zeros((1, 1))
        middle = math.log(50.0) + habits
        normal = (edges[None, :] - middle) / (kind.latency * math.sqrt(2.0))
        below = 0.5 * (1.0 + _erf(normal))
        below[:, 0], below[:, -1] = 0.0, 1.0
        self.counts = rng.multinomial(operations.reshape(-1), np.diff(below, axis=1))
        total = self.counts.sum(1, keepdims=True)
        before = np.cumsum(self.counts, axis=1) - self.counts
        self.table = np.empty((len(self.counts), self.counts.shape[1] + 2))
        self.table[:, 0], self.table[:, -1] = 0.0, 1.0
        self.table[:, 1:-1] = (before + 0.5 * self.counts) / total
        beyond = (before + self.counts > 0.95 * (total - 1)).argmax(axis=1) + self.low
        values = [math.log(Sketch.value_of(i)) for i in range(self.low, high + 1)]
        self.tails = np.array(values)[beyond - self.low]

    def _ranks(self, index: Any, logs: Any) -> Any:
        """Ranks of latencies, given as logarithms, among the agent's own of the day before."""
        bins = np.ceil(logs * (1.0 / math.log(RATIO))).astype(np.int64) - (self.low - 1)
        np.clip(bins, 0, self.table.shape[1] - 1, out=bins)
        return self.table.ravel()[index * self.table.shape[1] + bins]

    def minutes(self) -> Iterator[tuple[Minute, Any]]:
        """The operations of each minute, and their latencies."""
        kind, rng = self.kind, self.rng
        seconds = kind.hours * 3600.0
        each = round(kind.rate * 60.0)
        rows = np.arange(self.runs)
        for minute in range(round(kind.hours * 60.0)):
            at = minute * 60.0 + (np.arange(each) + 0.5) / kind.rate
            shape = (each, self.runs)
            unit = rng.integers(kind.agents, size=shape)
            share = kind.levels[min(int(at[0] / seconds * len(kind.levels)), len(kind.levels) - 1)]
            canary = self.draws[rows, unit] < share
            p = self._failing(at, unit, canary, rows)
            failed = rng.random(shape) < p
            if not kind.latency:
                yield Minute(at, unit, canary, failed), None
                continue
            logs = rng.standard_normal(shape)
            logs *= kind.latency
            logs += math.log(50.0)
            if kind.habits:
                logs += self.habits[rows, unit]
            if kind.drift:
                swing = kind.drift * np.sin(at / 21600.0 * 2.0 * np.pi)
                logs += np.log1p(swing)[:, None]
            index = rows * kind.agents + unit
            treated = np.nonzero(canary)
            if kind.slower != 1.0:
                logs[treated] += math.log(kind.slower)
            if kind.stalls:
                logs[treated] += math.log(10.0) * (rng.random(len(treated[0])) < kind.stalls)
            rank, tail = self._compared(logs, index, treated, failed, 1.10)
            if not self.promotion:
                yield Minute(at, unit, canary, failed, rank, tail), None
                continue
            near, beyond = rank.copy(), tail.copy()
            again = self._compared(logs[treated], index[treated], ..., failed[treated], 1.25)
            near[treated], beyond[treated] = again
            yield Minute(at, unit, canary, failed, rank, tail, near, beyond), np.exp(logs)

    def _compared(
        self, logs: Any, index: Any, treated: Any, failed: Any, ratio: float
    ) -> tuple[Any, Any]:
        """Ranks, and which lie beyond the tail, of operations those treated of which are forgiven."""
        forgiven = logs.copy()
        forgiven[treated] -= math.log(ratio)
        rank = self._ranks(index, forgiven)
        rank[failed] = 1.0
        return rank, (forgiven > self.tails[index]).astype(float)

    def _failing(self, at: Any, unit: Any, canary: Any, rows: Any) -> Any:
        kind, rng = self.kind, self.rng
        extra = (kind.canary - kind.control) / (1.0 - kind.control)
        if kind.bursts:
            p = np.empty(unit.shape)
            leave, share = _STEP / kind.bursts, 2.0 * kind.control
            enter = leave * share / (1.0 - share)
            block = (at // _STEP).astype(int)
            for each in np.unique(block):
                draw = rng.random(self.bad.shape)
                self.bad = np.where(self.bad, draw >= leave, draw < enter)
                mine = block == each
                p[mine] = np.where(self.bad[rows, unit[mine]], 0.5, 0.0)
        else:
            p = np.full(unit.shape, kind.control)
        if extra:
            p = np.where(canary, p + (1.0 - p) * extra, p)
        if kind.spread:
            p = self._tilted(p, self.odds[rows, unit])
        if kind.drift:
            p = p * (1.0 + kind.drift * np.sin(at / 21600.0 * 2.0 * np.pi))[:, None]
        if kind.outage:
            start, stop, rate = kind.outage
            p = np.where(((at >= start) & (at < stop))[:, None], np.maximum(p, rate), p)
        return p

    # -- one fleet as records -----------------------------------------------------------------------

    def baseline(self, run: int) -> Baseline:
        """What the judge is told of one fleet's past."""
        n, f = self.histories.operations[run], self.histories.failures[run]
        names = [_name(i) for i in range(self.kind.agents)]
        units = {name: (int(a), int(b)) for name, a, b in zip(names, n, f, strict=True)}
        if not self.kind.latency:
            return Baseline(int(n.sum()), int(f.sum()), units)
        own = {}
        pooled = Sketch()
        for i, name in enumerate(names):
            counts = self.counts[run * self.kind.agents + i].tolist()
            own[name] = tuple((self.low + k, c) for k, c in enumerate(counts) if c)
            pooled.merge(Sketch(dict(own[name])))
        bins = tuple((index, count) for index, count in pooled.to_json())
        return Baseline(int(n.sum()), int(f.sum()), units, bins, own)

    @staticmethod
    def records(minute: Minute, latencies: Any, run: int) -> Iterator[Observation]:
        """The operations of one fleet in one minute."""
        for step, at in enumerate(minute.at.tolist()):
            yield Observation(
                "r",
                "canary" if minute.canary[step, run] else "control",
                _name(int(minute.unit[step, run])),
                1,
                int(minute.failed[step, run]),
                at,
                None if latencies is None else float(latencies[step, run]),
            )


def _name(number: int) -> str:
    return f"u{number:05d}"


def _erf(values: Any) -> Any:
    """The error function within 1.2e-7 (Numerical Recipes, erfcc)."""
    z = np.abs(values)
    t = 1.0 / (1.0 + 0.5 * z)
    series = -1.26551223 + t * (
        1.00002368
        + t
        * (
            0.37409196
            + t
            * (
                0.09678418
                + t
                * (
                    -0.18628806
                    + t
                    * (
                        0.27886807
                        + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)))
                    )
                )
            )
        )
    )
    tail = t * np.exp(-z * z + series)
    return np.where(values >= 0.0, 1.0 - tail, tail - 1.0)


@attrs.frozen(eq=False)
class Ends:
    """How runs ended. ``rolled_back``, ``promoted``: whether; ``failures``, ``operations``, ``at``:
    the canary's until rollback, of those rolled back; ``promoted_at``: seconds, of those promoted."""

    rolled_back: Any
    promoted: Any
    failures: Any
    operations: Any
    at: Any
    promoted_at: Any
    highest: Any

    def merge(self, other: Ends) -> Ends:
        """Both together."""
        return Ends(
            *(
                np.concatenate(pair)
                for pair in zip(
                    attrs.astuple(self, recurse=False),
                    attrs.astuple(other, recurse=False),
                    strict=True,
                )
            )
        )


def ends(
    kind: Fleets,
    runs: int,
    *,
    seed: int = 0,
    promote: bool = False,
    batch: int = 2000,
    judge: EValue | None = None,
    **config: Any,
) -> Ends:
    """Judge ``runs`` fleets; rollback at any record, promotion (if asked for) at checks of 5 minutes.

    Without ``promote`` a run goes on to its end: every look at the evidence is a chance to be wrong.
    """
    done: Ends | None = None
    for first in range(0, runs, batch):
        many = min(batch, runs - first)
        fleets = kind.open(many, seed + first, promotion=promote)
        lanes = Lanes(
            judge or EValue(),
            fleets.histories,
            JudgeConfig(**{"share": kind.levels[0], "levels": kind.levels, **config}),
            promotion=promote,
        )
        promoted_at = np.full(many, np.nan)
        check = _EVERY
        for minute, _ in fleets.minutes():
            if promote and minute.at[0] >= check:
                check += _EVERY
                fresh = lanes.promotable(float(minute.at[0])) & np.isnan(promoted_at)
                promoted_at[fresh] = minute.at[0]
            lanes.feed(minute)
            if not (np.isnan(lanes.ended) & np.isnan(promoted_at)).any():
                break
        out = ~np.isnan(lanes.ended)
        first_promoted = ~np.isnan(promoted_at) & ~(out & (lanes.ended < promoted_at))
        out &= ~first_promoted
        part = Ends(
            out,
            first_promoted,
            lanes.failures[out],
            lanes.operations[out],
            lanes.ended[out],
            promoted_at[first_promoted],
            lanes.highest,
        )
        done = part if done is None else done.merge(part)
    assert done is not None
    return done


def judged(kind: Fleets, runs: int, seed: int, **config: Any) -> list[tuple[Any, ...]]:
    """The same fleets through the scalar judge and through lanes, run by run, side by side."""
    fleets = kind.open(runs, seed)
    settings = JudgeConfig(**{"share": kind.levels[0], **config})
    judge = EValue()
    lanes = Lanes(judge, fleets.histories, settings)
    states = [judge.start(fleets.baseline(run), settings) for run in range(runs)]
    last = 0.0
    for minute, latencies in fleets.minutes():
        lanes.feed(minute)
        last = float(minute.at[-1])
        for run, state in enumerate(states):
            judge.update(state, list(fleets.records(minute, latencies, run)))
    promotable = lanes.promotable(last)
    found = []
    for run, state in enumerate(states):
        verdict, evidence = judge.update(state, [])
        ended = not math.isnan(lanes.ended[run])
        rolled_back = verdict is Verdict.ROLLBACK  # a hold may have the same reason
        found.append(
            (
                (rolled_back, ended),
                (verdict is Verdict.PROMOTE, bool(promotable[run])),
                (
                    rolled_back and evidence.reason == "collapse_without_control",
                    bool(lanes.collapsed[run]),
                ),
                (evidence.e_value, float(lanes.e_value[run])),
                (
                    evidence.parts["collapse"],
                    evidence.parts["collapse"] if ended else float(lanes.collapse[run]),
                ),
                (
                    evidence.noninferiority,
                    evidence.noninferiority if ended else float(lanes.shown()[run]),
                ),
                (evidence.canary_operations, int(lanes.operations[run])),
                (evidence.canary_failures, int(lanes.failures[run])),
            )
        )
    return found
