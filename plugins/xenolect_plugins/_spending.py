"""Boundaries of group sequential tests that spend their error by a function of time.

The statistic of look k is ``z_k = S_k / sqrt(I_k)`` with S a Brownian motion at information I. The
boundary of each look spends what the spending function allows, given that no earlier one was crossed:
the density of S among those not stopped is carried from look to look (Armitage, McPherson & Rowe,
JRSS A 132, 1969; Lan & DeMets, Biometrika 70, 1983).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import attrs

__all__ = ["Boundary", "obrien_fleming"]

_NORMAL = NormalDist()
FAR = 8.0  # a z that large ends the test at any look: 6e-16 of the error each
_LOW = -8.0
_MOST = 2_001  # points of the density


def obrien_fleming(alpha: float, time: float) -> float:
    """How much of ``alpha`` (one-sided) is spent at ``time`` in [0, 1]: ``2 - 2 Phi(z / sqrt(t))``.

    The spending function of Lan and DeMets whose boundaries are close to those of O'Brien and Fleming.
    """
    if time <= 0.0:
        return 0.0
    z = _NORMAL.inv_cdf(1.0 - alpha / 2.0)
    return 2.0 * _NORMAL.cdf(-z / math.sqrt(min(time, 1.0)))


@attrs.define
class Boundary:
    """The boundary look by look. ``spent``: error used so far; ``density``: of z at the last look.

    ``grid`` spans ``[_LOW, bound]`` in equal steps; densities are per unit of z.
    """

    spent: float = 0.0
    information: float = 0.0
    bound: float = FAR
    density: list[float] = attrs.field(factory=list)

    def look(self, information: float, allowed: float) -> float:
        """The boundary of z at a look, of which ``allowed`` may be spent in all; information grows."""
        import numpy as np

        if self.density and information <= self.information * (1.0 + 1e-9):
            return self.bound  # nothing new was learned
        spend = max(allowed - self.spent, 0.0)
        if not self.density:
            self.bound = _last(lambda z: _NORMAL.cdf(-z), spend)
            at = self._grid(self.bound, 1.0)
            after = np.exp(-0.5 * at * at) / math.sqrt(2.0 * math.pi)
        else:
            before = np.linspace(_LOW, self.bound, len(self.density))
            weights = np.full(len(before), before[1] - before[0])
            weights[0] = weights[-1] = 0.5 * weights[0]
            mass = np.asarray(self.density) * weights
            ratio = math.sqrt(self.information / information)
            spread = math.sqrt(1.0 - self.information / information)
            scale = 1.0 / (spread * math.sqrt(2.0))
            weighed = list(zip((before * ratio).tolist(), (0.5 * mass).tolist(), strict=True))

            def crossing(z: float) -> float:
                return math.fsum(w * math.erfc((z - at) * scale) for at, w in weighed)

            self.bound = _last(crossing, spend)
            at = self._grid(self.bound, spread)
            apart = (at[:, None] - before[None, :] * ratio) / spread
            kernel = np.exp(-0.5 * apart * apart) / (spread * math.sqrt(2.0 * math.pi))
            after = (kernel * mass[None, :]).sum(axis=1)
        self.spent = max(self.spent, allowed)
        self.information = information
        self.density = after.tolist()
        return self.bound

    @staticmethod
    def _grid(bound: float, spread: float) -> Any:
        """Points dense enough that the next kernel, at least as narrow as some ``spread``, is smooth."""
        import numpy as np

        step = min(0.08, 0.5 * spread)
        return np.linspace(_LOW, bound, min(_MOST, int((bound - _LOW) / step) + 2))

    def dump(self) -> list[Any]:
        """The state as JSON."""
        return [self.spent, self.information, self.bound, self.density]

    @classmethod
    def of(cls, data: Sequence[Any]) -> Boundary:
        """What ``dump`` gave."""
        spent, information, bound, density = data
        return cls(spent, information, bound, list(density))


def _last(crossed: Callable[[float], float], spend: float) -> float:
    """The boundary at which ``crossed`` (decreasing) is ``spend``, within [0, FAR], to six digits.

    By the secant on logarithms, where tails are nearly straight, kept within a bracket.
    """
    low, high = 0.0, FAR
    above, below = crossed(low), crossed(high)
    if spend <= below:
        return high
    if spend >= above:
        return low
    target = math.log(spend)
    left, right = math.log(above) - target, math.log(max(below, 1e-300)) - target
    for turn in range(80):
        middle = low - left * (high - low) / (right - left) if turn % 3 else 0.5 * (low + high)
        value = math.log(max(crossed(middle), 1e-300)) - target
        if value > 0.0:
            low, left = middle, value
        else:
            high, right = middle, value
        if abs(value) < 1e-9 or high - low < 1e-8:
            break
    return round(middle, 6)
