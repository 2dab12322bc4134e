"""A frozen world: 100 variants, 8 classes of agents, 60,000 decisions. Nothing here may change: the numbers
of the reference rules in test_regret.py are promised with it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

VARIANTS, CLASSES, DECISIONS, BATCH = 100, 8, 60_000, 200
Outcome = tuple[int, int, bool, float]  # variant, class, success, latency in ms
Choose = Callable[[Sequence[int]], Sequence[int]]  # classes of a batch -> variants
Learn = Callable[[Sequence[Outcome]], None]


class World:
    """``utility[v][g]``: what a decision is worth, 0 where the class can not speak the variant."""

    def __init__(self, seed: int) -> None:
        r = random.Random(seed)
        self.levels = [r.randint(1, 12) for _ in range(CLASSES)]
        has = [[r.random() < 0.6 for _ in range(6)] for _ in range(CLASSES)]
        self.needs = [0] + [
            r.randint(1, 12) if r.random() < 0.55 else 0 for _ in range(VARIANTS - 1)
        ]
        self.match: list[list[float]] = []
        self.success: list[list[float]] = []
        self.latency: list[list[float]] = []
        for _ in range(VARIANTS):
            asked = [i for i in range(6) if r.random() < 0.3]
            missing = [sum(not has[g][i] for i in asked) for g in range(CLASSES)]
            quality, speed = r.gauss(2.0, 0.43), r.gauss(0.0, 0.25)
            self.match.append([1.0 - m / len(asked) if asked else 1.0 for m in missing])
            logits = [r.gauss(quality, 0.3) - 0.7 * m for m in missing]
            self.success.append([1.0 / (1.0 + math.exp(-x)) for x in logits])
            self.latency.append([100.0 * math.exp(r.gauss(speed, 0.2)) for _ in range(CLASSES)])
        self.utility = [[self._worth(v, g) for g in range(CLASSES)] for v in range(VARIANTS)]
        self.best = [max(row[g] for row in self.utility) for g in range(CLASSES)]

    def speaks(self, v: int, g: int) -> bool:
        """Can the class speak the variant?"""
        return self.needs[v] <= self.levels[g]

    def _worth(self, v: int, g: int) -> float:
        speed = 100.0 / (100.0 + self.latency[v][g])
        return (2.0 * self.success[v][g] + speed) / 3.0 if self.speaks(v, g) else 0.0

    def regret(self, seed: int, choose: Choose, learn: Learn) -> float:
        """Mean utility lost per decision; a batch is chosen before any of it is learned."""
        r, lost = random.Random(f"outcomes {seed}"), 0.0
        for _ in range(DECISIONS // BATCH):
            groups = [r.randrange(CLASSES) for _ in range(BATCH)]
            outcomes = []
            for g, v in zip(groups, choose(groups), strict=True):
                lost += self.best[g] - self.utility[v][g]
                good = self.speaks(v, g) and r.random() < self.success[v][g]
                outcomes.append((v, g, good, self.latency[v][g] * math.exp(r.gauss(0.0, 0.5))))
            learn(outcomes)
        return lost / DECISIONS
