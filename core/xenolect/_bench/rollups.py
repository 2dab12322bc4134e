"""Adding windows up to hours, days and months, and storing what they come to."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from xenolect._bench.rows import Growth, Plan, Progress, Row
from xenolect.facts import Window
from xenolect.manager import EmergenceManager

__all__ = ["rows"]

BINS = [[k, 3] for k in range(60, 80)]


def rows(plan: Plan, progress: Progress) -> Iterator[Row]:
    """The group's rows: CPU time of one window of 20 bins, among so many variants at once."""
    for variants in (10, 100, 1_000):
        progress(f"roll-ups of {variants} variants")
        with (
            tempfile.TemporaryDirectory() as place,
            EmergenceManager.open(Path(place) / "store", background=False) as manager,
        ):
            ours, floor = [], []
            hour = time.time() // 3600 * 3600 - 7200
            for turn in range(7):
                minute = hour + 60.0 * turn
                windows = [
                    Window(f"v{i}", minute, 60.0, 60, 0, BINS, {"_latency": [180.0, 60.0]}, "bench")
                    for i in range(variants)
                ]
                manager._runtime.index.append_windows(windows)
                began = time.thread_time()
                manager._rollups.roll(60.0)
                halfway = time.thread_time()
                _add_up(windows)
                floor.append((time.thread_time() - halfway) / variants * 1e6)
                ours.append((halfway - began) / variants * 1e6)
            yield Row(
                f"roll-ups, a window of {variants:,} variants",
                statistics.median(ours),
                statistics.median(floor),
                "counts and bins in dicts, 4 times",
                growth=Growth("roll-ups", variants, "variants"),
            )


def _add_up(windows: list[Window]) -> None:
    found: dict[tuple[str, float, float], dict[int, int]] = {}
    for window in windows:
        for span in (60.0, 3600.0, 86400.0, 2_592_000.0):
            start = window.start - window.start % span
            bins = found.setdefault((window.variant_id, span, start), {})
            for index, count in window.bins:
                bins[index] = bins.get(index, 0) + count
