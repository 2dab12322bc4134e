"""What was measured in a stretch of time, read from the fewest rows: roll-ups, and windows they lack.

A window is in the roll-ups or not yet; the cursor says which, and it is looked at again after reading:
when it moved meanwhile everything is read once more, so nothing is counted twice or left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from xenolect._buckets import INTERVAL, LATELY, begin, end
from xenolect.config import MetricsConfig
from xenolect.facts import Window
from xenolect.interfaces import Index

__all__ = ["Stored"]

HOUR, DAY = 3600.0, 86400.0
AHEAD = DAY  # clocks of other processes may be so far ahead
Stretch = tuple[str, float, float]


class Stored:
    """Reads measured history. Every method returns the windows' cursor first, see ``Index.unrolled``."""

    def __init__(self, index: Callable[[], Index], config: MetricsConfig) -> None:
        self._index = index
        self._config = config

    def since(self, variant_id: str, since: float, now: float) -> tuple[int, list[Window]]:
        """Everything since a time: exact to the window's length for ``metrics.retention``, to the hour,
        day or month before."""
        return self._read(variant_id, list(self._coarse(since, now)), since, now)

    def fresh(self, variant_id: str, now: float) -> tuple[int, list[Window]]:
        """For counters that lose weight with age: by the hour where an hour's difference in age does
        not matter (4 % in weight at most, nothing on average), else as fine as it is kept."""
        config = self._config
        since = now - 10 * config.half_life
        fine = begin("hourly", now - 2 * HOUR)
        if config.half_life < 12 * HOUR:
            fine = since
        return self._read(
            variant_id,
            [
                ("hourly", begin("hourly", max(since, now - config.hourly)), fine),
                (INTERVAL, fine, now + AHEAD),
            ],
            since,
            now,
        )

    def lately(self, name: str, since: float, now: float) -> tuple[int, list[Window]]:
        """What single agents did, or which keys were seen."""
        return self._read(name, [(LATELY, begin(LATELY, since), now + AHEAD)], since, now)

    def rolled(self, variant_id: str, resolution: str, now: float) -> tuple[int, list[Window]]:
        """Every roll-up of a resolution that is kept, and the windows that none has taken in."""
        kept = getattr(self._config, resolution)
        since = begin(resolution, max(0.0, now - kept))
        return self._read(variant_id, [(resolution, since, now + AHEAD)], since, now)

    def _read(
        self, variant_id: str, stretches: list[Stretch], since: float, now: float
    ) -> tuple[int, list[Window]]:
        index = self._index()
        while True:
            cursor = index.unrolled(0)[0]
            found: list[Window] = []
            for resolution, start, stop in stretches:
                if start < stop:
                    found += index.rollups(variant_id, resolution, start, stop)
            since_window = since - self._config.interval
            found += (
                window
                for window in index.windows(variant_id, since_window, now + AHEAD)
                if window.sequence > cursor
            )
            if index.unrolled(0)[0] == cursor:
                return cursor, found

    def _coarse(self, since: float, now: float) -> Iterator[Stretch]:
        """Fine at the edge, coarse within: a year is 24 hours and 365 days at most."""
        config = self._config
        at = begin(INTERVAL, since, config.interval)
        if since >= now - config.retention:
            stop = _ceiling("hourly", at)
            yield INTERVAL, at, stop
            at = stop
        else:
            at = begin("hourly", at)
        if at >= now - config.hourly:
            stop = _ceiling("daily", at)
            yield "hourly", at, stop
            at = stop
        else:
            at = begin("daily", at)
        if at < now - config.daily:
            stop = _ceiling("monthly", now - config.daily)
            yield "monthly", begin("monthly", max(0.0, at)), stop
            at = stop
        yield "daily", at, now + AHEAD


def _ceiling(resolution: str, at: float) -> float:
    start = begin(resolution, at)
    return start if start == at else end(resolution, start)
