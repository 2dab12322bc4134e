"""Simulated fleets for judges: who operates when, in which arm, and what fails.

A world draws arrays with numpy from a seed; ``play`` feeds them to a real judge as observations,
one health check at a time.
"""

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

CHECK = 300.0


@attrs.frozen
class World:
    """One kind of fleet.

    ``agents``: how many (0: every ``per_session`` operations are a new session of their own).
    ``rate``: operations per second in all; ``hours``: how long. ``share``: the canary's share;
    ``levels``: shares of equally long stretches instead. ``control``, ``canary``: failure
    probabilities of operations. ``spread``: standard deviation of agents' log odds. ``bursts``: the
    mean length in seconds of bad spells of single agents, during which half of the operations fail
    (they replace the independent failures). ``outage``: (start, stop, failure probability) in
    seconds, of both arms alike. ``turn``: seconds after which the canary's ``canary`` rate starts.
    ``drift``: how far the failure probability and the latency of both arms swing within six hours, as
    a share. ``latency``: standard deviation of log latency around a median of 50 ms (0: none is
    measured); ``habits``: of the agents' own medians. The canary takes ``slower`` times as long, and
    ``stalls`` of its operations ten times as long.
    """

    agents: int = 100
    per_session: float = 1.0
    rate: float = 1.0
    hours: float = 2.0
    share: float = 0.1
    levels: tuple[float, ...] = ()
    control: float = 0.01
    canary: float = 0.01
    spread: float = 0.0
    bursts: float = 0.0
    outage: tuple[float, float, float] | None = None
    turn: float = 0.0
    history: float = 24.0
    drift: float = 0.0
    latency: float = 0.0
    habits: float = 0.0
    slower: float = 1.0
    stalls: float = 0.0

    def draw(self, seed: int) -> tuple[Baseline, Iterator[Observation]]:
        """What was known before, and what happens."""
        rng = np.random.default_rng(seed)
        seconds = self.hours * 3600
        count = int(rng.poisson(self.rate * seconds))
        at = np.sort(rng.random(count) * seconds)
        if self.agents:
            unit = rng.integers(self.agents, size=count)
            draws = rng.permutation(self.agents) / self.agents
            odds = rng.normal(0.0, self.spread, self.agents) if self.spread else None
        else:
            unit = self._sessions(rng, count)
            draws = rng.random(int(unit.max(initial=0)) + 1)
            odds = None
        canary = draws[unit] < self._shares(at, seconds)
        worse = canary & (at >= self.turn)
        p = np.where(worse, self.canary, self.control)
        if self.bursts:
            p = np.where(self._bad(rng, unit, at, seconds), 0.5, 0.0)
            extra = (self.canary - self.control) / (1.0 - self.control)
            p = np.where(worse, p + (1 - p) * extra, p)
        own = np.full(self.agents, self.control)
        if odds is not None:
            own = _tilt(own, odds)
            p = _tilt(p, odds[unit])
        if self.drift:
            p = p * (1.0 + self.drift * np.sin(at / 21600.0 * 2.0 * np.pi))
        if self.outage:
            start, stop, rate = self.outage
            p = np.where((at >= start) & (at < stop), np.maximum(p, rate), p)
        failed = rng.random(count) < p
        baseline = self._baseline(rng, own)
        if not self.latency:
            return baseline, self._records(at, canary, unit, failed, [None] * count)
        habits = rng.normal(0.0, self.habits, max(1, self.agents))
        taken = np.exp(rng.normal(math.log(50.0), self.latency, count))
        taken *= np.exp(habits[unit]) if self.agents else 1.0
        if self.drift:
            taken *= 1.0 + self.drift * np.sin(at / 21600.0 * 2.0 * np.pi)
        taken[canary & (at >= self.turn)] *= self.slower
        taken[canary & (rng.random(count) < self.stalls)] *= 10.0
        baseline = attrs.evolve(baseline, **self._latencies(rng, habits, baseline))
        return baseline, self._records(at, canary, unit, failed, taken.tolist())

    def _latencies(self, rng: Any, habits: Any, baseline: Baseline) -> dict[str, Any]:
        """What the latencies of the day before look like, pooled and per agent."""
        pooled = Sketch()
        own = {}
        for i, habit in enumerate(habits.tolist()):
            count = baseline.units[f"u{i}"][0] if self.agents else 5000
            values = np.exp(rng.normal(math.log(50.0) + habit, self.latency, count))
            bins = np.ceil(np.log(values) / math.log(RATIO)).astype(int)
            found = zip(
                *(each.tolist() for each in np.unique(bins, return_counts=True)), strict=True
            )
            own[f"u{i}"] = tuple(found)
            pooled.merge(Sketch(dict(own[f"u{i}"])))
        bins = tuple((index, count) for index, count in pooled.to_json())
        return {"latency": bins, "unit_latency": own if self.agents else {}}

    def _shares(self, at: Any, seconds: float) -> Any:
        if not self.levels:
            return self.share
        stretch = np.minimum((at / seconds * len(self.levels)).astype(int), len(self.levels) - 1)
        return np.array(self.levels)[stretch]

    def _sessions(self, rng: Any, count: int) -> Any:
        """Sessions that follow each other with a few at a time, as served conversations do."""
        if self.per_session <= 1.0:
            return np.arange(count)
        fresh = rng.random(count) < 1.0 / self.per_session
        number = np.cumsum(fresh)
        return np.maximum(number - rng.integers(0, 5, size=count), 0)

    def _bad(self, rng: Any, unit: Any, at: Any, seconds: float) -> Any:
        """Whether the operation's agent is in a bad spell; overall half of ``2 * control``."""
        gap = self.bursts * (0.5 / self.control - 1.0)
        bad = np.zeros(len(at), dtype=bool)
        for agent in range(self.agents):
            mine = np.flatnonzero(unit == agent)
            t = -rng.exponential(self.bursts) if rng.random() < self.control / 0.5 else 0.0
            t += rng.exponential(gap)
            while t < seconds:
                stop = t + rng.exponential(self.bursts)
                times = at[mine]
                bad[mine[(times >= t) & (times < stop)]] = True
                t = stop + rng.exponential(gap)
        return bad

    def _baseline(self, rng: Any, own: Any) -> Baseline:
        operations = int(self.rate * self.history * 3600)
        if not self.agents:
            return Baseline(operations, int(rng.binomial(operations, self.control)))
        each = rng.poisson(operations / self.agents, self.agents)
        failures = rng.binomial(each, own)
        return Baseline(
            int(each.sum()),
            int(failures.sum()),
            {
                f"u{i}": (int(n), int(f))
                for i, (n, f) in enumerate(zip(each, failures, strict=True))
            },
        )

    def _records(
        self, at: Any, canary: Any, unit: Any, failed: Any, taken: list[Any]
    ) -> Iterator[Observation]:
        columns = zip(
            at.tolist(), canary.tolist(), unit.tolist(), failed.tolist(), taken, strict=True
        )
        for t, in_canary, number, fails, latency in columns:
            arm = "canary" if in_canary else "control"
            yield Observation("r", arm, f"u{number}", 1, int(fails), t, latency)


def _tilt(p: Any, odds: Any) -> Any:
    """Shift log odds."""
    scaled = np.exp(odds) * p / (1.0 - p)
    return scaled / (1.0 + scaled)


@attrs.frozen
class Outcome:
    """How a rollout ended; ``failures`` and ``operations`` are the canary's until then."""

    verdict: Verdict
    reason: str
    operations: int
    failures: int
    at: float


def play(judge: Any, world: World, seed: int, *, promote: bool = True, **config: Any) -> Outcome:
    """Run one rollout: rollback at any record, promotion (if asked for) at the checks."""
    baseline, records = world.draw(seed)
    share = world.levels[0] if world.levels else world.share
    state = judge.start(baseline, JudgeConfig(**{"share": share, **config}))
    batch: list[Observation] = []
    check = CHECK
    last = 0.0
    verdict, evidence = judge.update(state, [])

    def over() -> bool:
        return verdict is Verdict.ROLLBACK or (promote and verdict is Verdict.PROMOTE)

    for record in records:
        if record.at >= check:
            verdict, evidence = judge.update(state, batch)
            if over():
                break
            batch = []
            check += CHECK
        batch.append(record)
        last = record.at
    if not over():
        verdict, evidence = judge.update(state, batch)
    return Outcome(
        verdict, evidence.reason, evidence.canary_operations, evidence.canary_failures, last
    )


def rollouts(
    judge: Any, world: World, runs: int, *, seed: int = 0, promote: bool = True, **config: Any
) -> list[Outcome]:
    """Independent rollouts in the same world."""
    return [play(judge, world, seed + i, promote=promote, **config) for i in range(runs)]


def share_of(outcomes: list[Outcome], verdict: Verdict) -> float:
    """How many of the rollouts ended so."""
    return sum(outcome.verdict is verdict for outcome in outcomes) / len(outcomes)


def median_failures(outcomes: list[Outcome]) -> float:
    """The median number of canary failures until rollback, over those rolled back."""
    counts = sorted(o.failures for o in outcomes if o.verdict is Verdict.ROLLBACK)
    return counts[len(counts) // 2] if counts else float("inf")
