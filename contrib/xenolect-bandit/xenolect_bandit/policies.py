"""Thompson sampling and UCB1, fitted by MABWiser on the counts of each candidate.

What is computed is kept for the last few batches: it is the same for all agents, whatever they declare.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
from mabwiser.mab import MAB, LearningPolicy

from xenolect import Agent, Candidate
from xenolect_bandit.arms import Arm, arm_of, arms_of, squashed

__all__ = ["Thompson", "Ucb"]


@attrs.frozen
class Thompson:
    """One draw per variant from Beta(1 + successes, 1 + failures).

    Each variant has a generator of its own, seeded by its id and by all that was measured. So a variant
    without measurements changes nobody else's draw, the same evidence gives the same draws in any
    process, and any new measurement gives all of them anew: an unlucky draw does not last.
    """

    seed: int = 0
    cap: int = 1_000

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        """One number in [0, 1] per candidate."""
        drawn = _drawn(arms_of(candidates), self.seed, self.cap)
        return [drawn[arm_of(candidate)] for candidate in candidates]


@functools.lru_cache(maxsize=16)
def _drawn(arms: tuple[Arm, ...], seed: int, cap: int) -> Mapping[Arm, float]:
    known = [(arm.id, *arm.rows(cap)) for arm in arms if arm.rows(cap)[0]]
    # Totals as well: the rows of a variant at the cap hardly move. Rounded, so that the last bits of
    # decayed counts, which differ between processes, make no other draw.
    totals = [round(math.fsum(arm.count for arm in arms))]
    totals.append(round(math.fsum(arm.successes for arm in arms)))
    epoch = repr((seed, totals, known))
    drawn = {}
    for arm in arms:
        digest = hashlib.blake2b(f"{arm.id} {epoch}".encode(), digest_size=8).digest()
        rows, successes = arm.rows(cap)
        mab = MAB([0], LearningPolicy.ThompsonSampling(), seed=int.from_bytes(digest, "little"))
        mab.fit(np.zeros(rows, int), (np.arange(rows) < successes).astype(float))
        drawn[arm] = float(mab.predict_expectations()[0])
    return drawn


@attrs.frozen
class Ucb:
    """UCB1: the mean plus ``alpha * sqrt(2 ln(all operations) / operations)``, squashed into [0, 1].

    A variant without operations has no bound, and the score 1: it is tried first.
    """

    alpha: float = 0.25
    cap: int = 1_000

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        """One number in [0, 1] per candidate."""
        bounds = _bounds(arms_of(candidates), self.alpha, self.cap)
        return [squashed(bounds[arm_of(candidate)]) for candidate in candidates]


@functools.lru_cache(maxsize=16)
def _bounds(arms: tuple[Arm, ...], alpha: float, cap: int) -> Mapping[Arm, float]:
    bounds = dict.fromkeys(arms, math.inf)
    known = [arm for arm in arms if arm.rows(cap)[0]]
    if known:
        rows = [arm.rows(cap)[0] for arm in known]
        # The mean is exact: UCB1 takes any number as a reward, so each row gets the mean of all.
        means = [arm.successes / arm.count for arm in known]
        mab = MAB(list(range(len(known))), LearningPolicy.UCB1(alpha))
        mab.fit(np.repeat(np.arange(len(known)), rows), np.repeat(means, rows))
        expected = mab.predict_expectations()
        bounds |= {arm: float(expected[i]) for i, arm in enumerate(known)}
    return bounds
