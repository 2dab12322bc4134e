"""Drawing the traffic of one simulated rollout: from a world's numbers, or from recorded traffic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from xenolect.ramps import MILLION
from xenolect.sketch import Sketch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenolect.simulation import Trace, World

    Array = NDArray[Any]

__all__ = ["Drawing", "Traffic"]


@attrs.frozen(eq=False)
class Traffic:
    """The traffic of one rollout; ``place``: each unit's place in the share, in parts per million."""

    at: Array
    unit: Array
    place: Array
    fails: Array  # would it fail on the control?
    worse: Array  # does the canary's harm hit it?
    latency: Array
    baseline: dict[str, Any]


@attrs.frozen
class Drawing:
    """Draws traffic for a ``world``: its own, or like that of a ``trace``.

    ``unit``: "agent" or "session"; ``success``: the probability that an operation on the control succeeds.
    """

    world: World
    trace: Trace | None
    unit: str
    success: float

    def draw(self, seed: int, success: float) -> Traffic:
        """The same for the same seed; ``success``: the canary's probability."""
        import numpy as np

        rng = np.random.default_rng(seed)
        return self._resampled(rng, success) if self.trace else self._drawn(rng, success)

    def _drawn(self, rng: Any, success: float) -> Traffic:
        import numpy as np

        world = self.world
        seconds = world.hours * 3600.0
        count = int(rng.poisson(world.operations_per_second * seconds))
        at = np.sort(rng.random(count) * seconds)
        agent = rng.integers(world.agents, size=count)
        failing = np.full(world.agents, 1.0 - world.success)
        if world.heterogeneity and 0.0 < world.success < 1.0:
            odds = np.exp(rng.normal(0.0, world.heterogeneity, world.agents))
            odds *= failing / (1.0 - failing)
            failing = odds / (1.0 + odds)
        fails = rng.random(count) < failing[agent]
        earlier = rng.lognormal(math.log(world.latency_ms), 0.5, 5_000)
        history = world.operations_per_second * 86_400.0
        if self.unit == "agent":
            unit = agent
            before = rng.poisson(history / world.agents, world.agents)
            failed = rng.binomial(before, failing)
            names = {
                f"u{i}": [int(n), int(f)]
                for i, (n, f) in enumerate(zip(before, failed, strict=True))
            }
            baseline = _baseline(int(before.sum()), int(failed.sum()), names, earlier)
        else:
            unit = _conversations(agent, rng.random(count) < 1.0 / world.session_operations)
            operations = int(rng.poisson(history))
            mean = float(failing.mean())
            baseline = _baseline(operations, int(rng.binomial(operations, mean)), {}, earlier)
        place = rng.random(int(unit.max(initial=0)) + 1) * MILLION
        harm = 0.0 if world.success <= 0.0 else max(0.0, 1.0 - success / world.success)
        latency = rng.lognormal(math.log(world.latency_ms), 0.5, count)
        return Traffic(at, unit, place, fails, rng.random(count) < harm, latency, baseline)

    def _resampled(self, rng: Any, success: float) -> Traffic:
        """Whole units drawn with replacement, so that what belongs together stays together; the
        trace is repeated, shifted by its span, until the hours are full."""
        import numpy as np

        trace = self.trace
        assert trace is not None
        number = trace.agent if self.unit == "agent" else trace.session
        size = int(number.max()) + 1
        order = np.argsort(number, kind="stable")
        starts = np.searchsorted(number[order], np.arange(size + 1))
        chosen = rng.integers(size, size=size)
        rows = [order[starts[each] : starts[each + 1]] for each in chosen]
        index = np.concatenate(rows)
        unit = np.repeat(np.arange(size), [len(each) for each in rows])
        per_day = 86_400.0 / trace.span
        names = {}
        if self.unit == "agent":
            names = {
                f"u{i}": [round(len(r) * per_day), round(float(trace.failed[r].sum()) * per_day)]
                for i, r in enumerate(rows)
            }
        laps = max(1, math.ceil(self.world.hours * 3600.0 / trace.span))
        shift = np.repeat(np.arange(laps), len(index))
        at = np.tile(trace.at[index], laps) + shift * trace.span
        if self.unit == "session":  # a conversation is not held twice
            unit = np.tile(unit, laps) + shift * size
        else:
            unit = np.tile(unit, laps)
        index = np.tile(index, laps)
        keep = np.argsort(at, kind="stable")
        keep = keep[at[keep] < self.world.hours * 3600.0]
        count = len(keep)
        harm = 0.0 if self.success <= 0.0 else max(0.0, 1.0 - success / self.success)
        operations = round(len(trace.at) * per_day)
        return Traffic(
            at[keep],
            unit[keep],
            rng.random(int(unit.max(initial=0)) + 1) * MILLION,
            trace.failed[index][keep],
            rng.random(count) < harm,
            trace.latency_ms[index][keep],
            _baseline(
                operations, round(float(trace.failed.sum()) * per_day), names, trace.latency_ms
            ),
        )


def _conversations(agent: Array, ends: Array) -> Array:
    """Numbers of the sessions that operations belong to: each agent has one at a time, until it ends."""
    import numpy as np

    order = np.argsort(agent, kind="stable")
    sorted_agent, sorted_ends = agent[order], ends[order]
    fresh = np.ones(len(order), dtype=np.int64)
    fresh[1:] = (sorted_agent[1:] != sorted_agent[:-1]) | sorted_ends[:-1]
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.cumsum(fresh) - 1
    return number


def _baseline(
    operations: int, failures: int, units: dict[str, Sequence[int]] | Any, latency_ms: Any
) -> dict[str, Any]:
    """The frozen baseline; of at most 10,000 ``latency_ms`` that are positive, all pooled."""
    sketch = Sketch()
    for value in latency_ms[latency_ms > 0.0][:10_000].tolist():
        sketch.add(value)
    return {
        "operations": operations,
        "failures": failures,
        "units": units,
        "latency": sketch.to_json(),
    }
