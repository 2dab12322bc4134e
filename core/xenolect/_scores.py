"""Scoring: one column per configured scorer, weighted into one estimate per variant.

A scorer that can rate one variant alone (``LiveScorer``) is always fresh: only variants whose counters
moved are rated again. Any other answers for the whole batch: its column is asked for again when its
inputs moved, at most a second late (at once without a background thread). One that raises or answers out
of range loses its column for that refresh; the weights of the others are renormalised and the selection
says "degraded".
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

from xenolect._runtime import Runtime
from xenolect._structure import Profile, Structure
from xenolect._tracks import Track
from xenolect.interfaces import LiveScorer, Scorer
from xenolect.model import Agent, Candidate, ProtocolVariant
from xenolect.tallies import Binding, Custom

__all__ = ["Cell", "Scores", "Vector"]

log = logging.getLogger("xenolect.performance")
LATE = 0.5  # seconds a batch column may be out of date before the background asks for it again

Cell = tuple[int, float]
"""(version of the track, score): one object, so it is swapped whole."""


class _Column:
    """One scorer with its weight and when it was last complained about."""

    __slots__ = ("live", "logged_at", "name", "scorer", "weight")

    def __init__(self, name: str, scorer: Scorer, weight: float) -> None:
        self.name = name
        self.scorer = scorer
        self.weight = weight
        self.live = isinstance(scorer, LiveScorer)
        self.logged_at = -math.inf


class Vector:
    """The scores of a structure's variants for agents that weigh alike and are of one class."""

    __slots__ = (
        "_group",
        "_profile",
        "_scores",
        "_structure",
        "_terms",
        "batch",
        "bindings",
        "broken",
        "cells",
        "columns",
        "degraded",
        "moved_at",
        "shares",
        "stamp",
    )

    def __init__(
        self,
        scores: Scores,
        structure: Structure,
        profile: Profile,
        group: str,
        bindings: list[Binding | None],
    ) -> None:
        self._scores = scores
        self._structure = structure
        self._profile = profile
        self._group = group
        self.bindings = bindings
        self.batch = any(binding is None for binding in bindings)
        self.columns: list[Sequence[float] | None] = [None] * len(bindings)
        self.broken: set[int] = set()
        self.degraded = False
        self.stamp: Any = None
        self.moved_at = 0.0
        self.shares: list[float] = []
        self.cells: list[Cell | None] = []
        self.refresh()

    def rate(self, row: int) -> Cell:
        """The estimate of one variant, as of now."""
        track = self._structure.tracks[row]
        version = track.version  # before the data: what moves meanwhile is seen next time
        variant = self._structure.variants[row]
        try:
            score = self.estimate(variant, track, row, None)
            if not -1e-9 <= score <= 1.0 + 1e-9:
                raise ValueError(f"{score} is not in [0, 1]")
        except Exception as error:
            self._leave_out(variant, track, error)
            score = self.estimate(variant, track, row, None)
        cell = (version, score)
        self.cells[row] = cell
        return cell

    def belief(self, row: int) -> tuple[float, float]:
        """Mean and standard deviation of one variant's score; those of its parts add in squares."""
        track, variant = self._structure.tracks[row], self._structure.variants[row]
        tally = track.tally
        own = track.own(self._group) if self._group else ()
        reference = self._structure.reference
        mean = spread = 0.0
        for share, binding, column in zip(self.shares, self.bindings, self.columns, strict=True):
            if share and binding is not None:
                middle = binding.rate(variant, tally, own, reference, 0.0)
                mean += share * middle
                under = binding.rate(variant, tally, own, reference, 1.0)
                spread += (share * (middle - under)) ** 2
            elif share and column is not None:
                mean += share * column[row]
        return mean, math.sqrt(spread)

    def _leave_out(self, variant: ProtocolVariant, track: Track, error: Exception) -> None:
        """Find the live scorers at fault, and do without them until the next refresh."""
        own = track.own(self._group) if self._group else ()
        reference = self._structure.reference
        for i, binding in enumerate(self.bindings):
            if binding is None or i in self.broken:
                continue
            try:
                fine = all(
                    0.0 <= binding.rate(variant, track.tally, own, reference, doubt) <= 1.0
                    for doubt in (None, 0.0, 1.0)
                )
            except Exception:
                fine = False
            if not fine:
                self.broken.add(i)
                self._scores.complain(self._scores.configured[i], error)
        self._weigh()
        self._structure.feed.restart()

    def estimate(
        self, variant: ProtocolVariant, track: Track, row: int, doubt: float | None
    ) -> float:
        """The weighted score."""
        tally = track.tally
        own = track.own(self._group) if self._group else ()
        reference = self._structure.reference
        score = 0.0
        for share, rate, column in self._terms:
            if rate is not None:
                score += share * rate(variant, tally, own, reference, doubt)
            elif column is not None:
                score += share * column[row]
        return score

    @property
    def dirty(self) -> bool:
        """Did something move since the batch columns were asked for?"""
        return self.batch and self.stamp != self._now()

    def _now(self) -> Any:
        log = self._structure.feed.log
        return id(log), len(log)

    def refresh(self) -> None:
        """Ask the batch scorers again; every variant is rated anew from then on."""
        self.stamp = self._now()
        self.moved_at = time.monotonic()
        candidates: list[Candidate] | None = None
        for i, (column, binding) in enumerate(
            zip(self._scores.configured, self.bindings, strict=True)
        ):
            if binding is None:
                if candidates is None:
                    candidates = self._scores.candidates(self._structure.variants, self._structure)
                self.columns[i] = self._scores.ask(column, candidates, self._profile)
        self.broken = set()
        self._weigh()

    def _weigh(self) -> None:
        """The shares of the columns that can be used; every variant is rated anew from then on."""
        usable = [
            column is not None if binding is None else i not in self.broken
            for i, (binding, column) in enumerate(zip(self.bindings, self.columns, strict=True))
        ]
        weights = [
            column.weight if use else 0.0
            for use, column in zip(usable, self._scores.configured, strict=True)
        ]
        mass = math.fsum(weights) or 1.0
        self.shares = [weight / mass for weight in weights]
        self.degraded = not all(usable)
        self._terms = [
            (share, None if binding is None else binding.rate, column)
            for share, binding, column in zip(self.shares, self.bindings, self.columns, strict=True)
            if share
        ]
        self.cells = [None] * len(self._structure.variants)

    def forget(self) -> None:
        """What all ratings rest on changed (the reference): rate anew."""
        self.cells = [None] * len(self._structure.variants)


class Scores:
    """The configured scorers of one manager."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.configured = [
            _Column(
                name,
                runtime.registry.make("scoring", part.use, part.options, f"scoring.{name}"),
                part.weight,
            )
            for name, part in runtime.config.scoring.items()
        ]
        self.custom: Custom = {
            name: (bounds[1], bounds[0]) if metric.direction == "lower" else (bounds[0], bounds[1])
            for name, metric in runtime.config.metrics.custom.items()
            if (bounds := metric.bounds) is not None
        }

    def bind(self, profile: Profile) -> list[Binding | None]:
        """Each live scorer made ready for a profile; None where the whole batch must be asked."""
        agent = Agent("", profile.context)
        bindings: list[Binding | None] = []
        for column in self.configured:
            binding = None
            if isinstance(column.scorer, LiveScorer):
                try:
                    binding = column.scorer.bind(agent, self.custom)
                except Exception as error:
                    self.complain(column, error)
            bindings.append(binding)
        return bindings

    def vector(self, structure: Structure, profile: Profile) -> Vector:
        """The vector of a profile, shared with every profile that must get the same numbers."""
        bindings = self.bind(profile)
        group = profile.group if any(b is not None and b.by_class for b in bindings) else ""
        shared = all(b is not None and b.key is not None for b in bindings)
        keys = tuple(b.key if b is not None else None for b in bindings)
        key = (keys, group, None if shared else profile.key)
        vector = structure.vectors.get(key)
        if vector is None:
            if len(structure.vectors) >= self._runtime.config.selection.profiles:
                structure.vectors = {}
            vector = structure.vectors[key] = Vector(self, structure, profile, group, bindings)
        return vector

    def refresh(self) -> None:
        """Bring the batch columns that are out of date up to now: what the background thread does."""
        for structure in list(self._runtime.structures.values()):
            for vector in list(structure.vectors.values()):
                if vector.dirty and time.monotonic() - vector.moved_at >= LATE:
                    vector.refresh()
                    structure.feed.restart()

    def warm(self) -> None:
        """Rate everything again after all moved (``decay``), so that selections need not."""
        for structure in list(self._runtime.structures.values()):
            for vector in list(structure.vectors.values()):
                for row, track in enumerate(structure.tracks):
                    cell = vector.cells[row]
                    if cell is None or cell[0] != track.version:
                        vector.rate(row)

    def candidates(
        self, variants: Sequence[ProtocolVariant], structure: Structure
    ) -> list[Candidate]:
        """What batch scorers see."""
        performance, reference = self._runtime.performance, structure.reference
        return [Candidate(v, *performance.recent(v.id), reference) for v in variants]

    def parts(
        self, variants: Sequence[ProtocolVariant], structure: Structure, profile: Profile
    ) -> tuple[list[float], dict[str, list[float]]]:
        """Totals, and each scorer's answers, as of now, for any variants: what ``explain`` shows."""
        performance = self._runtime.performance
        candidates: list[Candidate] | None = None
        columns: dict[str, list[float]] = {}
        weights: dict[str, float] = {}
        for column, binding in zip(self.configured, self.bind(profile), strict=True):
            answer: Sequence[float] | None
            if binding is not None:
                answer = []
                group = profile.group if binding.by_class else ""
                for variant in variants:
                    track = performance.track(variant.id)
                    own = track.own(group) if group else ()
                    answer.append(
                        binding.rate(variant, track.tally, own, structure.reference, None)
                    )
            else:
                if candidates is None:
                    candidates = self.candidates(variants, structure)
                answer = self.ask(column, candidates, profile)
            if answer is not None:
                columns[column.name] = list(answer)
                weights[column.name] = column.weight
        mass = math.fsum(weights.values()) or 1.0
        total = [0.0] * len(variants)
        for name, values in columns.items():
            share = weights[name] / mass
            for i, value in enumerate(values):
                total[i] += share * value
        return total, columns

    def ask(
        self, column: _Column, candidates: list[Candidate], profile: Profile
    ) -> list[float] | None:
        """A batch scorer's answer; None when it can not be used."""
        try:
            answer = [float(x) for x in column.scorer.score(candidates, Agent("", profile.context))]
            if len(answer) != len(candidates) or not all(0.0 <= x <= 1.0 for x in answer):
                raise ValueError(
                    f"{len(answer)} answers for {len(candidates)} candidates, all must be in [0, 1]"
                )
        except Exception as error:
            self.complain(column, error)
            return None
        return answer

    def complain(self, column: _Column, error: Exception) -> None:
        now = time.monotonic()
        if now - column.logged_at >= 60.0:
            column.logged_at = now
            log.warning(
                "scorer %r is left out, its weight goes to the others: %s: %s",
                column.name,
                type(error).__name__,
                error,
            )
