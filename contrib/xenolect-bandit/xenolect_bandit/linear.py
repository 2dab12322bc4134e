"""LinUCB, fitted by MABWiser on features of the variants (Li et al., 2010, with one shared model).

A scorer sees what all agents measured of a variant together, so a model of the agents' contexts, one per
variant, can not be learned from it. What can: one model of all variants, whose context rows are the
variants' features. It is told of a variant by its neighbours, before anybody tried it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
from mabwiser.mab import MAB, LearningPolicy

from xenolect import Agent, Candidate
from xenolect_bandit.arms import Arm, arm_of, squashed
from xenolect_bandit.features import Feature

__all__ = ["LinUcb"]

_MIDDLE = 0.5  # what is expected of a variant nothing is known of
_MOST = 100_000.0  # operations of a variant that count: with more, inverting A loses what the width needs
_DIGITS = 9  # a matrix inverted by another library for linear algebra differs behind them

_Row = tuple[Arm, tuple[float, ...]]


@attrs.frozen
class LinUcb:
    """``x b + alpha * sqrt(x inverse(A) x)`` of a ridge regression, squashed into [0, 1].

    x: 1, the features, and ``individual`` at the variant's own place: how far it is from what its
    features say is learned as well.
    """

    features: tuple[Feature, ...]
    alpha: float = 0.5
    ridge: float = 1.0
    individual: float = 0.05

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        """One number in [0, 1] per candidate."""
        rows = [self._row(candidate) for candidate in candidates]
        if not rows:
            return []
        bounds = _bounds(tuple(sorted(set(rows))), self.alpha, self.ridge, self.individual)
        return [round(squashed(bounds[row]), _DIGITS) for row in rows]

    def _row(self, candidate: Candidate) -> _Row:
        known = [x for feature in self.features for x in feature.of(candidate.variant)]
        return arm_of(candidate), (1.0, *known)


@functools.lru_cache(maxsize=16)
def _bounds(
    rows: tuple[_Row, ...], alpha: float, ridge: float, individual: float
) -> Mapping[_Row, float]:
    place = {name: i for i, name in enumerate(dict.fromkeys(arm.id for arm, _ in rows))}
    shared = np.array([known for _, known in rows])
    own = np.zeros((len(rows), len(place)))
    for i, (arm, _) in enumerate(rows):
        own[i, place[arm.id]] = individual
    contexts = np.hstack([shared, own]) if individual else shared
    # n equal rows with mean reward m add to a ridge regression what one row times sqrt(n) with reward
    # m sqrt(n) adds: so the counts, decayed ones too, count exactly, and nothing is repeated.
    weights = np.sqrt([min(arm.count, _MOST) for arm, _ in rows])
    rewards = [arm.successes / arm.count - _MIDDLE if arm.count else 0.0 for arm, _ in rows]
    mab = MAB([0], LearningPolicy.LinUCB(alpha=alpha, l2_lambda=ridge))
    mab.fit(np.zeros(len(rows), int), rewards * weights, contexts * weights[:, None])
    expected = mab.predict_expectations(contexts)
    answers = [expected] if isinstance(expected, dict) else expected
    return {row: _MIDDLE + float(a[0]) for row, a in zip(rows, answers, strict=True)}
