"""Evidence as betting: capital that can not grow while a hypothesis holds.

An e-process starts at 1 and, while its null hypothesis is true, exceeds ``1 / alpha`` with a
probability of at most alpha *over its whole life* (Ville's inequality), however often it is looked
at. Each class here is one such process; all are plain Python floats in a fixed order with only
``+ - * /``, because ``sum`` compensates since Python 3.12 and ``pow`` differs between C libraries:
the same records give the same bits everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

__all__ = ["Collapse", "Cooling", "LogRank", "NonInferiority", "geometric", "mean"]

# Capital is kept within these bounds, so it is never 0, infinite or NaN. The ceiling only takes
# capital away. The floor adds at most 1e-8 per bet, so a million bets raise alpha by 1 % of
# itself; in return a variant that turns bad late is found as fast as an early one: without it
# a day of good behaviour leaves 1e-300 to win back.
FLOOR = 1e-8
CEILING = 1e12


def geometric(low: float, high: float, count: int) -> tuple[float, ...]:
    """``count`` values from ``low`` to ``high`` at a constant ratio.

    Rounded to 12 digits, which hides the last bit in which C libraries' ``pow`` differ.
    """
    if count == 1:
        return (low,)
    return tuple(float(f"{low * (high / low) ** (j / (count - 1)):.12g}") for j in range(count))


def mean(values: Sequence[float]) -> float:
    """The plain left-to-right mean."""
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def bounded(capitals: list[float]) -> list[float]:
    """The capitals within ``[FLOOR, CEILING]``."""
    if min(capitals) < FLOOR or max(capitals) > CEILING:
        return [k if FLOOR <= k <= CEILING else FLOOR if k < FLOOR else CEILING for k in capitals]
    return capitals


@attrs.define
class Cooling:
    """Units that gave their evidence and are not heard again for a while.

    One unit's failures come in bursts: counted one by one they roll back 41 % of harmless
    variants, counted once per unit and cool-down 0.1 % (simulated, 100 agents, alpha 1 %).
    Holds at most ``limit`` units; the oldest is heard again early when there are more.
    """

    span: float
    limit: int
    until: dict[str, float] = attrs.field(factory=dict)

    def holds(self, unit: str, now: float) -> bool:
        """Whether the unit is cooling at ``now``."""
        until = self.until.get(unit)
        return until is not None and now < until

    def add(self, unit: str, now: float) -> None:
        """Let the unit cool from ``now`` on; ``now`` never goes back, so the oldest comes first."""
        units = self.until
        units.pop(unit, None)
        while units:
            oldest = next(iter(units))
            if units[oldest] > now and len(units) < self.limit:
                break
            del units[oldest]
        units[unit] = now + self.span


@attrs.define
class LogRank:
    """Sequential log-rank test; null hypothesis: the canary's failure rate is <= ``rho`` x control's.

    ``canary`` and ``control`` are the failures expected of each arm since the last event. When an
    event happens, only *which arm* it hit is used, so trouble common to both arms cancels.
    A mixture over hazard ratios ``thetas`` (Robbins' method of mixtures).
    """

    rho: float
    thetas: tuple[float, ...]
    canary: float = 0.0
    control: float = 0.0
    capitals: list[float] = attrs.field(factory=list)
    value: float = 1.0

    def __attrs_post_init__(self) -> None:
        if not self.capitals:
            self.capitals = [1.0] * len(self.thetas)

    def expose(self, canary: bool, expected: float) -> None:
        """Operations were completed of which ``expected`` should have failed by the baseline."""
        if canary:
            self.canary += expected
        else:
            self.control += expected

    def event(self, canary: bool) -> None:
        """A failure in an arm, after its own exposure.

        With ``pi(t) = t a_c / (t a_c + a_b)``: ``K *= pi(theta) / pi(rho)`` for the canary and
        ``(1 - pi(theta)) / (1 - pi(rho))`` for the control; then both exposures start again.
        """
        a_c, a_b = self.canary, self.control
        self.canary = self.control = 0.0
        self.event_among(canary, a_c, a_b)

    def event_among(self, canary: bool, a_c: float, a_b: float) -> None:
        """A failure in an arm, to which the arms were exposed as ``a_c`` to ``a_b``."""
        if a_c <= 0.0 or a_b <= 0.0:
            return  # only one arm was there: the event could not have hit the other, factor 1
        rho = self.rho
        both = rho * a_c + a_b
        if canary:
            factors = [theta * both / (rho * (theta * a_c + a_b)) for theta in self.thetas]
        else:
            factors = [both / (theta * a_c + a_b) for theta in self.thetas]
        self.capitals = bounded([k * f for k, f in zip(self.capitals, factors, strict=True)])
        self.value = mean(self.capitals)

    def dump(self) -> list[Any]:
        """The state as JSON."""
        return [self.canary, self.control, self.capitals, self.value]

    def load(self, data: Sequence[Any]) -> None:
        """Take over what ``dump`` gave."""
        self.canary, self.control, self.capitals, self.value = data


@attrs.define
class NonInferiority:
    """Capital against "the canary is worse by ``margin`` or more"; null: mean difference >= margin.

    Values (residual failures, latency ranks) gather per arm until both have operations; then one bet
    on ``D = mean(canary) - mean(control)``: ``K *= 1 + lambda / reach * (margin - D)``, where D is at
    most ``reach``, so no bet can lose everything. Residual failures are at least -.5 and at most 1
    (reach 1.5), ranks lie in [0, 1] (reach 1).

    Means are per operation, so a unit with many operations weighs more, as it does in traffic. What
    units have in common is taken out by their own baselines; units without one (conversations) are
    seen through many short ones. Few canary units are few samples however many operations they
    make, which is why promotion also asks for a number of units.
    """

    margin: float
    reach: float
    lambdas: tuple[float, ...]
    operations: list[int] = attrs.field(factory=lambda: [0, 0])
    sums: list[float] = attrs.field(factory=lambda: [0.0, 0.0])
    capitals: list[float] = attrs.field(factory=list)
    blocks: int = 0
    _value: float | None = 1.0

    def __attrs_post_init__(self) -> None:
        if not self.capitals:
            self.capitals = [1.0] * len(self.lambdas)

    def add(self, arm: int, operations: int, total: float) -> None:
        """Add operations of the canary (0) or control (1) with the sum of their values; close the block
        if it can be."""
        seen, sums = self.operations, self.sums
        seen[arm] += operations
        sums[arm] += total
        n_c, n_b = seen
        if not n_c or not n_b:
            return
        gain = (self.margin - (sums[0] / n_c - sums[1] / n_b)) / self.reach
        seen[0] = seen[1] = 0
        sums[0] = sums[1] = 0.0
        self.capitals = [  # bounded, in one turn: three of these are most of a canary's record
            k
            if FLOOR <= (k := c * (1.0 + bet * gain)) <= CEILING
            else (FLOOR if k < FLOOR else CEILING)
            for c, bet in zip(self.capitals, self.lambdas, strict=False)
        ]
        self.blocks += 1
        self._value = None

    @property
    def value(self) -> float:
        """The e-value now; computed when asked, since batches ask less than once a block."""
        if self._value is None:
            self._value = mean(self.capitals)
        return self._value

    def dump(self) -> list[Any]:
        """The state as JSON."""
        return [self.operations, self.sums, self.capitals, self.blocks]

    def load(self, data: Sequence[Any]) -> None:
        """Take over what ``dump`` gave."""
        self.operations, self.sums, self.capitals, self.blocks = data
        self._value = None


@attrs.define
class Collapse:
    """Capital against "each unit fails with probability <= q", bet on only while control is missing.

    Time without control comes in *episodes*; episode k starts with weight ``6 / (pi^2 k^2)`` at 1
    and stands still when control comes back. The weights sum to 1 and episodes not yet begun stand
    at 1, so the weighted sum is an e-process although their number is not known beforehand.
    """

    settled: float = 0.0
    episodes: int = 0
    begun: float = 0.0
    capital: float | None = None
    value: float = 1.0

    @staticmethod
    def weight(episode: int) -> float:
        """The share of capital that episode 1, 2, ... starts with."""
        return 6.0 / (math.pi * math.pi * episode * episode)

    def bet(self, q: float, share: float) -> None:
        """One unit, of whose operations ``share`` failed (0 or 1 for a single operation).

        Factor ``.9 / q`` for a failure, ``.1 / (1 - q)`` for a success, between them for an
        aggregate (linear, so it needs no independence inside). ``q < .9``.
        """
        if self.capital is None:
            self.episodes += 1
            self.begun += self.weight(self.episodes)
            self.capital = 1.0
        factor = share * (0.9 / q) + (1.0 - share) * (0.1 / (1.0 - q))
        self.capital = min(max(self.capital * factor, FLOOR), CEILING)
        self._weigh()

    def end(self) -> None:
        """Control is back: the running episode, if any, stands still from now on."""
        if self.capital is not None:
            self.settled += self.weight(self.episodes) * self.capital
            self.capital = None
            self._weigh()

    def _weigh(self) -> None:
        running = 0.0 if self.capital is None else self.weight(self.episodes) * self.capital
        self.value = self.settled + running + max(0.0, 1.0 - self.begun)

    def dump(self) -> list[Any]:
        """The state as JSON."""
        return [self.settled, self.episodes, self.begun, self.capital, self.value]

    def load(self, data: Iterable[Any]) -> None:
        """Take over what ``dump`` gave."""
        self.settled, self.episodes, self.begun, self.capital, self.value = data
