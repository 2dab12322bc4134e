"""What must not get worse: the processes of one rollout, and how their evidence adds up.

Each guardrail is an e-process of its own; their weighted mean is one too, under any dependence between
them, and never weaker than Bonferroni's correction with the same weights. The failure ratio, which
alone acts at each record, has half of the weight and the others share the rest: with equal weights a
dead variant needs one failure more, a slower one is found no sooner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from xenolect.judges import Baseline, Guardrail, JudgeConfig, Observation
from xenolect_plugins._eprocesses import LogRank, NonInferiority, geometric
from xenolect_plugins._groups import Capital, Tally, differences, excesses, paired
from xenolect_plugins._ranks import Ranks, own_or_pooled

__all__ = ["GATES", "Guardrails", "Settings"]

_BETS = geometric(0.01, 0.95, 16)
_INFERIORITY = {
    "failures": "non_inferiority",
    "latency": "latency_non_inferiority",
    "tail": "latency_tail_non_inferiority",
}
GATES = tuple(_INFERIORITY)
_RANK, _TAIL, _CUSTOM = 0, 1, 2  # columns of the short window


@attrs.frozen
class Settings:
    """The numbers of the guardrails, frozen with the rollout; see ``EValue``."""

    difference: float  # tolerated in failure probability
    inferior: float  # what promotion must exclude
    rho: float
    latency_ratio: float
    inferior_latency_ratio: float
    tail: float
    least: int
    window: float
    latency_window: float
    gates: tuple[str, ...]
    limit: int


class Guardrails:
    """The e-processes of harm, and those of non-inferiority, of one rollout."""

    def __init__(self, settings: Settings, baseline: Baseline, config: JudgeConfig) -> None:
        self.settings = settings
        self.declared: tuple[Guardrail, ...] = config.guardrails
        self._bins = baseline.unit_latency
        self._ranks: dict[str, Ranks] = {}
        values = sum(count for _, count in baseline.latency)
        self.latency = values >= settings.least
        self._pooled = Ranks(baseline.latency, settings.tail)
        self.failure_ratio = LogRank(
            settings.rho, tuple(settings.rho * step for step in geometric(1.15, 50.0, 16))
        )
        d = settings.difference
        self.windowed: dict[str, Capital] = {"failure_difference": Capital(d, 1.5 + d, _BETS)}
        self.inferiority: dict[str, NonInferiority] = {
            "non_inferiority": NonInferiority(settings.inferior, 1.5, _BETS)
        }
        if self.latency:
            self.windowed["latency"] = Capital(0.0, 1.0, _BETS)
            self.windowed["latency_tail"] = Capital(0.0, 1.0, _BETS)
            self.inferiority["latency_non_inferiority"] = NonInferiority(0.0, 1.0, _BETS)
            self.inferiority["latency_tail_non_inferiority"] = NonInferiority(0.0, 1.0, _BETS)
        # by name costs 0.1 us more for each of them, at each record
        self._fails, *latencies = self.inferiority.values()
        self._slow, self._slowest = latencies or (self._fails, self._fails)
        for each in self.declared:
            margin = each.margin if _bounded(each) else 0.0
            self.windowed[f"custom.{each.name}"] = Capital(margin, 1.0 + margin, _BETS)
        self.long = Tally(settings.window, 1, settings.limit)
        self.short = Tally(settings.latency_window, _CUSTOM + len(self.declared), settings.limit)
        gates = [_INFERIORITY[name] for name in settings.gates]
        self._gates = [name for name in gates if name in self.inferiority] or ["non_inferiority"]
        self.e_value = 1.0

    # -- what a record adds -------------------------------------------------------------------------

    def close(self, now: float) -> bool:
        """Bet on the windows that are over at ``now``; whether any was."""
        if now < self.short.until and now < self.long.until:
            return False
        closed = False
        if self.short.due(now):
            seen = self.short.close()
            if self.latency:
                self.windowed["latency"].bet(differences(paired(seen, _RANK)))
                self.windowed["latency_tail"].bet(differences(paired(seen, _TAIL)))
            for column, each in enumerate(self.declared, _CUSTOM):
                self.windowed[f"custom.{each.name}"].bet(_compared(each, paired(seen, column)))
            closed = True
        if self.long.due(now):
            self.windowed["failure_difference"].bet(differences(paired(self.long.close(), 0)))
            closed = True
        if closed:
            self.weigh()
        return closed

    def add(
        self,
        record: Observation,
        now: float,
        canary: bool,
        failures: int,
        residual: float,
        troubled: bool,
    ) -> None:
        """Count a record's operations in its windows and, unless control is in trouble, its blocks."""
        arm, unit = (0 if canary else 1), record.unit
        sums = self.long.units[arm].get(unit) or self.long.of(arm, unit, now)
        if sums is not None:
            sums[0] += record.operations
            sums[1] += residual
        if not troubled:
            self._fails.add(arm, record.operations, residual)
        latency = self.latency and self._latency(record, arm, failures, troubled)
        if not latency and not (self.declared and record.custom):
            return
        sums = self.short.units[arm].get(unit) or self.short.of(arm, unit, now)
        if sums is None:
            return
        if latency:
            rank, tail = latency
            sums[0] += 1.0
            sums[1] += rank
            if tail is not None:
                sums[2] += 1.0
                sums[3] += tail
        for column, each in enumerate(self.declared, _CUSTOM):
            value = record.custom.get(each.name)
            if value is not None and math.isfinite(value):
                sums[2 * column] += 1.0
                sums[2 * column + 1] += _mapped(each, value)

    def _latency(
        self, record: Observation, arm: int, failures: int, troubled: bool
    ) -> tuple[float, float | None] | None:
        """The record's latency as a rank, and whether it lies in the tail; None when it has none.

        A failed operation has the worst rank. The canary is compared as if it were faster by the
        tolerated ratio, so equal medians are evidence of nothing.
        """
        value = record.latency_ms
        failed = failures / record.operations
        if value is None or not 0.0 <= value < math.inf:
            if failed < 1.0:
                return None
            if not troubled:
                self._slow.add(arm, 1, 1.0)
            return 1.0, None
        ranks = self._of(record.unit)
        ratio = 1.0 if arm else self.settings.latency_ratio
        rank = failed + (1.0 - failed) * ranks.of(value / ratio)
        tail = 1.0 if value > ratio * ranks.tail else 0.0
        if not troubled:
            near, beyond = rank, tail
            if not arm:
                ratio = self.settings.inferior_latency_ratio
                near = failed + (1.0 - failed) * ranks.of(value / ratio)
                beyond = 1.0 if value > ratio * ranks.tail else 0.0
            self._slow.add(arm, 1, near)
            self._slowest.add(arm, 1, beyond)
        return rank, tail

    def _of(self, unit: str) -> Ranks:
        bins = self._bins.get(unit)
        if bins is None:
            return self._pooled
        ranks = self._ranks.get(unit)
        if ranks is None:
            settings = self.settings
            ranks = own_or_pooled(bins, self._pooled, settings.least, settings.tail)
            self._ranks[unit] = ranks
        return ranks

    # -- what it comes to ---------------------------------------------------------------------------

    def weigh(self) -> None:
        """Add up: ``e_value`` is the weighted mean over the guardrails, in a fixed order."""
        total = 0.0
        for capital in self.windowed.values():
            total += capital.value
        self.e_value = 0.5 * self.failure_ratio.value + 0.5 * (total / len(self.windowed))

    def strongest(self) -> str:
        """The guardrail with the most evidence of harm."""
        best, most = "failure_ratio", self.failure_ratio.value * len(self.windowed)
        for name, capital in self.windowed.items():
            if capital.value > most:
                best, most = name, capital.value
        return best

    def weakest(self) -> tuple[str, float]:
        """The non-inferiority that is shown least, which is the one promotion waits for."""
        weakest, least = "", math.inf
        for name in self._gates:
            value = self.inferiority[name].value
            if value < least:
                weakest, least = name, value
        return weakest, least

    def parts(self) -> dict[str, float]:
        """The value of each process by name."""
        found = {"failure_ratio": self.failure_ratio.value}
        for processes in (self.windowed, self.inferiority):
            for name, process in processes.items():
                found[name] = process.value
        return found

    def dump(self) -> list[Any]:
        """The state as JSON."""
        return [
            self.failure_ratio.dump(),
            {name: each.dump() for name, each in self.windowed.items()},
            {name: each.dump() for name, each in self.inferiority.items()},
            self.long.dump(),
            self.short.dump(),
        ]

    def load(self, data: Sequence[Any]) -> None:
        """Take over what ``dump`` gave; KeyError for other guardrails than these."""
        ratio, windowed, inferiority, long, short = data
        self.failure_ratio.load(ratio)
        for name, capital in self.windowed.items():
            capital.load(windowed[name])
        for name, process in self.inferiority.items():
            process.load(inferiority[name])
        self.long.load(long)
        self.short.load(short)
        self.weigh()


def _bounded(guardrail: Guardrail) -> bool:
    return guardrail.low is not None and guardrail.high is not None


def _mapped(guardrail: Guardrail, value: float) -> float:
    """A bounded value in [0, 1], 1 the worst; an unbounded one as it is."""
    low, high = guardrail.low, guardrail.high
    if low is None or high is None:
        return value
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return 1.0 - share if guardrail.higher_is_better else share


def _compared(
    guardrail: Guardrail, groups: Iterator[tuple[list[float], list[float]]]
) -> Iterator[float]:
    if _bounded(guardrail):
        return differences(groups)
    return excesses(groups, guardrail.ratio, higher_is_better=guardrail.higher_is_better)
