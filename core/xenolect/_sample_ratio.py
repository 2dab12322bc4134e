"""Do the arms get the units they should? A test that may be looked at after every unit.

Where fewer (or more) units reach the canary than its share says, something filters them: agents that
crash before they report, a router that gives up, a log that is lost. What is then compared is no longer
alike, so nothing is promoted until somebody knows why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from xenolect.facts import Observation
from xenolect.judges import SILENT
from xenolect.ramps import MILLION

__all__ = ["ALARM", "Ratio", "SampleRatio", "Share"]

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


@attrs.frozen
class Share:
    """The share whose units are counted, as the rollout's document says it.

    It holds since ``at`` and for observations after sequence ``after``: the last one stored when it was
    decided. ``idle``: earlier stretches ``(after, upto)`` in which nothing was routed to the canary.
    """

    ppm: int = 0
    at: float = float("-inf")
    after: int = 0
    idle: tuple[tuple[int, int], ...] = ()

    def next(self, ppm: int, at: float, after: int) -> Share:
        """The share that follows."""
        after = max(after, self.after)
        idle = self.idle
        if not self.ppm and after > self.after:
            idle = (*idle, (self.after, after))
        return Share(ppm, at, after, idle)

    def to_json(self) -> dict[str, Any]:
        """As it is stored in the document."""
        return {
            "ppm": self.ppm,
            "at": self.at,
            "after": self.after,
            "idle": [list(stretch) for stretch in self.idle],
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Share:
        """The share of a document; one written before shares were told apart has a single one."""
        data = document.get("share")
        if data is None:
            at = document.get("share_at", document["started_at"])
            return cls(int(document["state"]["ppm"]), at)
        idle = tuple((after, upto) for after, upto in data["idle"])
        return cls(int(data["ppm"]), data["at"], int(data["after"]), idle)


class SampleRatio:
    """Counts each unit once, at the share at which it is first seen while something is routed.

    What comes out is a function of the share and of the observations in the order of their sequence,
    whenever a process hears of the share.
    """

    def __init__(self) -> None:
        self.share = Share()
        self.now = Ratio()
        self.cursor = 0  # the last sequence seen
        self.stale = False  # observations were counted at a share that had ended
        self._known: set[str] = set()

    def begin(self, share: Share) -> None:
        """This share is next; ``stale`` when observations that belong to it were seen before."""
        if share == self.share:
            return
        self.stale = self.stale or self.cursor > share.after
        self.share, self.now = share, Ratio(share.ppm)

    def see(self, sequence: int, unit: str, at: float, *, canary: bool) -> None:
        """The next observation; while nothing is routed to the canary nobody is counted."""
        self.cursor = sequence
        known, share = self._known, self.share
        if unit in known or len(known) >= KNOWN:
            return
        if sequence <= share.after:
            if not any(after < sequence <= upto for after, upto in share.idle):
                known.add(unit)
        elif share.ppm:
            known.add(unit)
            if at >= share.at + SETTLE and share.ppm < MILLION:
                self.now = self.now.more(canary=canary)

    def again(self, observations: Iterable[Observation]) -> None:
        """Count everything seen until now once more, at the share of now."""
        upto, self.cursor = self.cursor, 0
        self.now, self.stale = Ratio(self.share.ppm), False
        self._known = set()
        self.take(observations, upto)

    def take(self, observations: Iterable[Observation], upto: int) -> None:
        """See stored observations up to a sequence; silence is nobody's arm."""
        for each in observations:
            if self.cursor < each.sequence <= upto and SILENT not in each.custom:
                self.see(each.sequence, each.unit, each.at, canary=each.arm == "canary")
        self.cursor = max(self.cursor, upto)
