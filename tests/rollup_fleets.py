"""Measurements with known sums, for roll-ups."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime

import attrs

from xenolect import EmergenceManager, PerformanceMetrics
from xenolect.model import PerformanceHistory
from xenolect.sketch import Sketch
from xenolect.testing import Clock

START = datetime(2026, 10, 30, 21, 30, tzinfo=UTC).timestamp()
HOUR, DAY = 3600.0, 86400.0
SPANS = {"hourly": "%Y-%m-%dT%H", "daily": "%Y-%m-%d", "monthly": "%Y-%m"}


@attrs.define
class Direct:
    """The same numbers, added up record by record with nothing of the package but its sketch."""

    count: int = 0
    failures: int = 0
    sketch: Sketch = attrs.field(factory=Sketch)
    size: float = 0.0

    def add(self, success: bool, latency: float, size: float) -> None:
        self.count += 1
        self.failures += not success
        self.sketch.add(latency)
        self.size += size

    def equals(self, found: PerformanceHistory) -> None:
        assert (found.count, found.failures) == (self.count, self.failures)
        assert found.p50 == self.sketch.quantile(0.5)
        assert found.p95 == self.sketch.quantile(0.95)
        assert found.p99 == self.sketch.quantile(0.99)
        assert math.isclose(found.custom["size"], self.size / self.count, rel_tol=1e-9)


class Fleet:
    """Records at a steady rate, and what they come to for each variant and bucket."""

    def __init__(self, manager: EmergenceManager, clock: Clock, variants: int, seed: int) -> None:
        self.manager, self.clock = manager, clock
        self.draw = random.Random(seed)
        self.direct: dict[tuple[str, str, str], Direct] = {}
        self.names = [f"v{n}" for n in range(variants)]
        for name in self.names:
            manager.variants.propose(name, {"wire": name}, id=name)

    def record(self) -> None:
        name = self.draw.choice(self.names)
        success, latency = self.draw.random() < 0.97, self.draw.lognormvariate(3.0, 0.5)
        size = self.draw.random()
        metrics = PerformanceMetrics(float(success), latency, custom={"size": size})
        self.manager.record(name, metrics, f"agent-{self.draw.randrange(50)}")
        moment = datetime.fromtimestamp(self.clock.now, UTC)
        for resolution, shape in SPANS.items():
            key = (name, resolution, moment.strftime(shape))
            self.direct.setdefault(key, Direct()).add(success, latency, size)

    def check(self, manager: EmergenceManager, *, since: float = 0.0) -> int:
        """Every bucket that began after ``since``; how many there were."""
        found = 0
        for name in self.names:
            for resolution, shape in SPANS.items():
                rolled = {
                    each.since.strftime(shape): each
                    for each in manager.performance.rollups(name, resolution)
                    if each.since is not None and each.since.timestamp() >= since
                }
                wanted = {
                    bucket: direct
                    for (owner, kind, bucket), direct in self.direct.items()
                    if (owner, kind) == (name, resolution)
                    and begin_of((owner, kind, bucket)) >= since
                }
                assert sorted(rolled) == sorted(wanted)
                for bucket, direct in wanted.items():
                    direct.equals(rolled[bucket])
                found += len(wanted)
        return found


def begin_of(key: tuple[str, str, str]) -> float:
    """When a bucket of the direct sums begins."""
    return datetime.strptime(key[2], SPANS[key[1]]).replace(tzinfo=UTC).timestamp()


def hours(
    fleet: Fleet, manager: EmergenceManager, at: Clock, count: int, step: float = 900.0
) -> None:
    """Record for some hours, ticking every quarter."""
    for _ in range(round(count * HOUR / step)):
        fleet.record()
        at.advance(step)
        manager.tick()
