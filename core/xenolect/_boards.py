"""Who is best for one profile right now, kept up to date by what moved since the last look.

The values stand in blocks of about the square root of their number, with the largest of each block beside
them: one moved variant costs two short maxima, 0.7 us among 100 and 3 us among 10,000. That is no slower
than ``numpy.argmax`` (0.3 and 2.5 us) where it matters, and it does not hand the interpreter lock over in
the middle of a selection: beside a thread that computes, each handover costs 5 ms.

No lock is waited for. Whoever finds another thread bringing the board up to date looks for itself.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Container, Iterable
from typing import Any

from xenolect._scores import Vector
from xenolect._structure import Mask, Profile, Structure
from xenolect._tracks import Track

__all__ = ["Board"]

SHUT = -math.inf
# Of a draw's deviation: whole ones explore too long. Regret in the frozen world, 8 seeds: .040 with whole ones,
# .0131 +- .0010 with half of it.
WIDTH = 0.5


class Board:
    """The scores of one structure for one profile; what is refused or shut stands at minus infinity."""

    __slots__ = (
        "_block",
        "_cells",
        "_drawn",
        "_end",
        "_feed",
        "_log",
        "_maxima",
        "_may",
        "_prompt",
        "_shut",
        "_turn",
        "_values",
        "best",
        "mask",
        "only",
        "profile",
        "structure",
        "vector",
    )

    def __init__(
        self,
        structure: Structure,
        profile: Profile,
        mask: Mask,
        vector: Vector,
        shut: Container[str],
        prompt: bool,
    ) -> None:
        self.structure = structure
        self.profile = profile
        self.mask = mask
        self.vector = vector
        self.best = -1
        self.only = len(mask.eligible) == 1
        self._shut = shut
        self._prompt = prompt  # nobody else asks the batch scorers: do it here
        self._feed = structure.feed
        self._block = max(16, math.isqrt(structure.active))
        self._may = bytearray(structure.active)
        for row in mask.eligible:
            self._may[row] = 1
        self._values = [SHUT] * structure.active
        self._maxima = [SHUT] * -(-structure.active // self._block)
        self._turn = threading.Lock()
        self._cells: Any = None
        self._log: list[Track] | None = None
        self._end = 0
        self._drawn: Any = None

    def top(self) -> int:
        """The row of the best variant that may be served, without any rollout; -1 for none."""
        log = self._feed.log
        if log is self._log and len(log) == self._end:
            return self.best
        return self._follow(log)

    def score(self, row: int) -> float:
        """The score of one row, fresh, whether it may be served or not."""
        cell = self.vector.cells[row]
        if cell is None or cell[0] != self.structure.tracks[row].version:
            cell = self.vector.rate(row)
        return cell[1]

    def open_rows(self) -> list[int]:
        """The active rows that may be served, in order of id."""
        shut, variants = self._shut, self.structure.variants
        return [row for row in self.mask.eligible if variants[row].id not in shut]

    def top_without(self, names: Container[str]) -> int:
        """The same, but for some variants: those that fail one agent alone."""
        variants, tracks = self.structure.variants, self.structure.tracks
        rows = [row for row in self.open_rows() if variants[row].id not in names]
        return min(
            rows, key=lambda row: (-self.score(row), tracks[row].tally.count, row), default=-1
        )

    def ranked(self) -> list[int]:
        """The rows that may be served, best first: score, then fewer exposures, then id."""
        tracks = self.structure.tracks
        self.top()
        return sorted(
            self.open_rows(), key=lambda row: (-self.score(row), tracks[row].tally.count, row)
        )

    # -- keeping up -------------------------------------------------------------------------------

    def _follow(self, log: list[Track]) -> int:
        """Take in what moved since the last look."""
        turn = self._turn
        if not turn.acquire(False):
            return self._aside()
        try:
            vector = self.vector
            if self._prompt and vector.dirty:
                vector.refresh()
            end = len(log)
            cells = vector.cells
            rows: Iterable[int]
            if log is self._log and cells is self._cells:
                if end - self._end == 1:  # one measurement since: what nearly always is
                    self._take_one(self.structure.row.get(id(log[self._end]), -1), cells)
                    self._end = end
                    return self.best
                row_of = self.structure.row
                rows = {row_of.get(id(track), -1) for track in log[self._end : end]}
            else:
                rows = self.mask.eligible
            self._take(rows, cells)
            self._cells = cells
            self._end = -1  # never a new log with an old end
            self._log = log
            self._end = end
            return self.best
        finally:
            turn.release()

    def _take_one(self, row: int, cells: Any) -> None:
        structure, values = self.structure, self._values
        if not 0 <= row < structure.active or not self._may[row]:
            return
        if structure.variants[row].id in self._shut:
            value = SHUT
        else:
            cell = cells[row]
            if cell is None or cell[0] != structure.tracks[row].version:
                cell = self.vector.rate(row)
            value = cell[1]
        before = values[row]
        values[row] = value
        maxima, block = self._maxima, self._block
        number = row // block
        if value >= maxima[number]:
            maxima[number] = value
        elif before == maxima[number]:
            maxima[number] = max(values[number * block : (number + 1) * block])
        best = self.best
        if row == best:
            if value <= before:
                self.best = self._pick()
        elif best < 0 or value > values[best]:
            self.best = row if value > SHUT else -1
        elif value == values[best] and value > SHUT:
            self.best = self._pick()

    def _take(self, rows: Iterable[int], cells: Any) -> None:
        structure, may, shut, values = self.structure, self._may, self._shut, self._values
        tracks, variants, active, block = (
            structure.tracks,
            structure.variants,
            structure.active,
            self._block,
        )
        touched = set()
        first, best, level = self._log is None, self.best, SHUT
        rivals = []
        if best >= 0:
            level = values[best]
        for row in rows:
            if not 0 <= row < active or not may[row]:
                continue
            if variants[row].id in shut:
                values[row] = SHUT
            else:
                cell = cells[row]
                if cell is None or cell[0] != tracks[row].version:
                    cell = self.vector.rate(row)
                values[row] = cell[1]
            touched.add(row // block)
            if values[row] >= level or row == best:
                rivals.append(row)
        maxima = self._maxima
        for number in touched:
            maxima[number] = max(values[number * block : (number + 1) * block])
        if first or best in rivals or (best < 0 and touched):
            self.best = self._pick()
        elif rivals:  # the best stands where it stood, so only those that moved can beat it
            rivals.append(best)
            self.best = min(rivals, key=lambda i: (-values[i], tracks[i].tally.count, i))

    def _pick(self) -> int:
        maxima, values, block = self._maxima, self._values, self._block
        top = max(maxima, default=SHUT)
        if top == SHUT:
            return -1
        number = maxima.index(top)
        first = number * block
        row = values.index(top, first)
        if maxima.count(top) == 1 and values[first : first + block].count(top) == 1:
            return row
        tracks = self.structure.tracks  # a tie: fewer exposures, then the smaller id
        tied = (i for i in range(row, len(values)) if values[i] == top)
        return min(tied, key=lambda i: (tracks[i].tally.count, i))

    def _aside(self) -> int:
        """The answer without touching what another thread is working on."""
        return self.top_without(())

    # -- exploring --------------------------------------------------------------------------------

    def draw(self, rng: random.Random, without: Container[str] = ()) -> int:
        """The best of one draw from what is believed of each variant; -1 for none.

        Rollouts are left alone: their controls are not drawn, so nobody enters an arm this way.
        """
        import numpy as np

        variants, controls = self.structure.variants, self.structure.controls
        rows = [
            row
            for row in self.open_rows()
            if variants[row].id not in controls and variants[row].id not in without
        ]
        if not rows:
            return -1
        kept = self._drawn
        if kept is None:
            seed = np.random.SFC64(rng.getrandbits(64))
            kept = self._drawn = (np.random.Generator(seed), np.zeros((2, len(self._may))), {})
        generator, known, seen = kept
        tracks, cells = self.structure.tracks, self.vector.cells
        for row in rows:
            stamp = (tracks[row].version, id(cells))
            if seen.get(row) != stamp:
                seen[row] = stamp
                known[0, row], known[1, row] = self.vector.belief(row)
        mean, deviation = known[:, rows]
        return rows[int((mean + WIDTH * deviation * generator.standard_normal(len(rows))).argmax())]
