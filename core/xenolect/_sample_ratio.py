"""Do the arms get the units they should? A test that may be looked at after every unit.

Where fewer (or more) units reach the canary than its share says, something filters them: agents that
crash before they report, a router that gives up, a log that is lost. What is then compared is no longer
alike, so nothing is promoted until somebody knows why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from xenolect.ramps import MILLION

__all__ = ["ALARM", "Ratio", "SampleRatio"]

ALARM = 1_000.0  # evidence of a mismatch at which a rollout holds: by chance once in 1,000 levels at most
MASS = 100.0  # weight of the prior around the share
KNOWN = 100_000  # units remembered; when there are more, later ones are not counted
SETTLE = (
    5.0  # seconds after a change of the share for which other processes may route by the last one
)
_LEAST, _MOST = 1e-300, 1e300


@attrs.frozen
class Ratio:
    """Units first seen while ``ppm`` was the canary's share, and the evidence that it is not.

    ``evidence`` is the ratio of the probability of the units' order under a Dirichlet prior of mass 100
    around the share to that under the share itself, a martingale if it is kept (Lindon & Malek,
    "Anytime-valid inference for multinomial count data", 2022): each unit of arm g multiplies it by
    ``(a_g + n_g) / (100 + n) / theta_g``, with ``a_g = 100 theta_g``.
    """

    ppm: int = 0
    canary: int = 0
    control: int = 0
    evidence: float = 1.0

    def more(self, *, canary: bool) -> Ratio:
        """With one more unit."""
        share = self.ppm / MILLION
        theta, seen = (share, self.canary) if canary else (1.0 - share, self.control)
        factor = (MASS * theta + seen) / (MASS + self.canary + self.control) / theta
        return Ratio(
            self.ppm,
            self.canary + canary,
            self.control + (not canary),
            min(max(self.evidence * factor, _LEAST), _MOST),
        )

    @property
    def mismatch(self) -> str:
        """What is wrong, in words; empty while nothing is."""
        if self.evidence < ALARM:
            return ""
        return (
            f"sample ratio mismatch: {self.canary} units on the canary and {self.control} on its "
            f"control at a share of {self.ppm / MILLION:.1%} (evidence {self.evidence:.3g}); find out "
            f"who is missing, then canaries.resume counts anew"
        )

    def to_json(self) -> dict[str, Any]:
        """As it is stored with each step of a rollout."""
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Ratio:
        """What ``to_json`` gave."""
        return cls() if data is None else cls(**data)


class SampleRatio:
    """Counts each unit once, at the share at which it is first seen."""

    def __init__(self) -> None:
        self.now = Ratio()
        self._since = float("-inf")
        self._known: set[str] = set()
        self._first: list[tuple[float, bool]] = []  # when, and whether in the canary's arm

    def begin(self, ppm: int, since: float) -> None:
        """The share is ``ppm`` since then: count anew, those first seen since then."""
        if (ppm, since) == (self.now.ppm, self._since):
            return
        later, self._first = self._first, []
        self.now, self._since = Ratio(ppm), since
        for at, canary in later:
            self._count(at, canary=canary)

    def see(self, unit: str, at: float, *, canary: bool) -> None:
        """An observation of a unit; while nothing is routed to the canary nobody is counted."""
        if unit in self._known or not self.now.ppm or len(self._known) >= KNOWN:
            return
        self._known.add(unit)
        self._count(at, canary=canary)

    def _count(self, at: float, *, canary: bool) -> None:
        if at >= self._since + SETTLE and 0 < self.now.ppm < MILLION:
            self._first.append((at, canary))
            self.now = self.now.more(canary=canary)
