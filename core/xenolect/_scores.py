"""Scoring candidates: one column per configured scorer, weighted, kept fresh by a stamp.

A scorer that raises or answers out of range loses its column for that refresh; the weights of the
others are renormalised and the selection says "degraded".
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

from xenolect._runtime import Runtime
from xenolect._structure import Mask, Profile, Structure
from xenolect.interfaces import Scorer
from xenolect.model import Agent, Candidate, ProtocolVariant

__all__ = ["Scores"]

log = logging.getLogger("xenolect.performance")


class _Column:
    """One scorer with its weight and whether it failed lately."""

    __slots__ = ("logged_at", "name", "scorer", "weight")

    def __init__(self, name: str, scorer: Scorer, weight: float) -> None:
        self.name = name
        self.scorer = scorer
        self.weight = weight
        self.logged_at = -math.inf


class Scores:
    """The configured scorers of one manager."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._scorers = [
            _Column(
                name,
                runtime.registry.make("scoring", part.use, part.options, f"scoring.{name}"),
                part.weight,
            )
            for name, part in runtime.config.scoring.items()
        ]

    def fresh(self, structure: Structure, mask: Mask, profile: Profile) -> Sequence[float]:
        """The scores of a structure's variants for a profile, computed again only when stale."""
        stamp = self._runtime.performance.stamp
        if mask.stamp == stamp:
            return mask.scores
        total, degraded, _ = self.columns(structure.variants, structure, profile)
        mask.scores, mask.degraded = total, degraded
        mask.stamp = stamp  # last: a reader that sees the stamp sees the scores
        return total

    def columns(
        self, variants: Sequence[ProtocolVariant], structure: Structure, profile: Profile
    ) -> tuple[list[float], bool, dict[str, list[float]]]:
        """Weighted totals, whether a scorer failed, and each scorer\'s answers, per variant."""
        performance = self._runtime.performance
        reference = None
        if structure.baseline >= 0:
            baseline = structure.variants[structure.baseline]
            reference = performance.recent(baseline.id)[0].latency_ms
        target = self._runtime.config.selection.latency_target
        if target is not None:
            reference = target * 1000.0
        candidates = [
            Candidate(variant, *performance.recent(variant.id), reference) for variant in variants
        ]
        agent = Agent("", profile.context)
        columns: dict[str, list[float]] = {}
        weights: dict[str, float] = {}
        degraded = False
        for column in self._scorers:
            try:
                answer = [float(x) for x in column.scorer.score(candidates, agent)]
                if len(answer) != len(candidates) or not all(0.0 <= x <= 1.0 for x in answer):
                    raise ValueError(
                        f"{len(answer)} answers for {len(candidates)} candidates, all must be in [0, 1]"
                    )
            except Exception as error:
                degraded = True
                self._complain(column, error)
                continue
            columns[column.name] = answer
            weights[column.name] = column.weight
        mass = math.fsum(weights.values()) or 1.0
        total = [0.0] * len(candidates)
        for name, answer in columns.items():
            share = weights[name] / mass
            for i, value in enumerate(answer):
                total[i] += share * value
        return total, degraded, columns

    def _complain(self, column: _Column, error: Exception) -> None:
        now = time.monotonic()
        if now - column.logged_at >= 60.0:
            column.logged_at = now
            log.warning(
                "scorer %r is left out, its weight goes to the others: %s: %s",
                column.name,
                type(error).__name__,
                error,
            )
