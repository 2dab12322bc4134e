"""What single agents did on a variant lately: the baselines a rollout compares each of them with.

Kept in memory for an hour, then stored as windows of their own beside the variant's, so that a rollout
may be started by any process, also by one that never served a call.
"""

from __future__ import annotations

from collections.abc import Iterable

from xenolect.facts import Window

__all__ = ["Agents", "is_hour"]

_MOST = 100_000  # agents counted one by one, per variant
_SKETCHES = 4_096  # of them with a latency sketch of their own: about 3 KB each
_COUNTS, _LATENCIES = "#agents", "#latencies"  # no variant's id holds a "#"


def is_hour(window: Window) -> bool:
    """Whether a window is one of single agents."""
    return "#" in window.variant_id


class Agents:
    """``counts``: agent -> [operations, failures]; ``latencies``: agent -> bin -> count."""

    __slots__ = ("counts", "latencies")

    def __init__(self) -> None:
        self.counts: dict[str, list[int]] = {}
        self.latencies: dict[str, dict[int, int]] = {}

    def add(self, agent: str, count: int, failures: int, latency: int | None) -> None:
        """Count operations of an agent; ``latency`` is the bin of one observation."""
        slot = self.counts.get(agent)
        if slot is None:
            if len(self.counts) >= _MOST:
                return
            slot = self.counts[agent] = [0, 0]
        slot[0] += count
        if failures:
            slot[1] += failures
        if latency is not None:
            bins = self.latencies.get(agent)
            if bins is None:
                self._bin(agent, latency, 1)
            else:  # as ``_bin``, without the call
                bins[latency] = bins.get(latency, 0) + 1

    def _bin(self, agent: str, latency: int, count: int) -> None:
        bins = self.latencies.get(agent)
        if bins is None:
            if len(self.latencies) >= _SKETCHES:
                return
            bins = self.latencies[agent] = {}
        bins[latency] = bins.get(latency, 0) + count

    @staticmethod
    def parts(variant_id: str) -> tuple[str, str]:
        """Under which names the windows of a variant's agents are stored."""
        return variant_id + _COUNTS, variant_id + _LATENCIES

    def windows(self, variant_id: str, since: float, now: float) -> Iterable[Window]:
        """What there is, as windows: pairs of numbers per agent."""
        if not self.counts:
            return []
        counts, latencies = self.parts(variant_id)
        span = max(0.0, now - since)
        found = [
            Window(counts, since, span, 0, 0, (), {a: list(v) for a, v in self.counts.items()})
        ]
        if self.latencies:
            flat = {
                agent: [number for pair in sorted(bins.items()) for number in pair]
                for agent, bins in self.latencies.items()
            }
            found.append(Window(latencies, since, span, 0, 0, (), flat))
        return found

    def merge(self, window: Window) -> None:
        """Add what a window holds."""
        if window.variant_id.endswith(_COUNTS):
            for agent, (count, failures) in window.sums.items():
                self.add(agent, int(count), int(failures), None)
            return
        for agent, flat in window.sums.items():
            for latency, count in zip(flat[::2], flat[1::2], strict=True):
                self._bin(agent, int(latency), int(count))
