"""Windows added up to hours, days and months, each kept for its time, and closed ones sealed as objects.

By one process at a time, in slices, out of ``tick``. Raw windows are read once: a cursor in the index
moves with the roll-ups that took them in, in one transaction. A bucket is sealed when it is over and
nothing is on its way to it any more; what comes later still makes its segment anew.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from xenolect._agents_lately import is_hour
from xenolect._buckets import (
    INTERVAL,
    LATELY,
    RESOLUTIONS,
    Bucket,
    begin,
    bucket_of,
    end,
    label,
    span_of,
)
from xenolect._once import is_once
from xenolect._rollup_objects import COARSER, Segments
from xenolect.errors import ConflictError, EmergenceError
from xenolect.facts import Rollup, Window

if TYPE_CHECKING:
    from xenolect._runtime import Runtime
    from xenolect._state_objects import Objects

__all__ = ["RollUps"]

log = logging.getLogger("xenolect.performance")

EVERY = 10.0
"""Seconds between two rounds: a minute's row is written six times, and not 240."""
SLICE = 500
"""Windows taken in by one transaction, about 30 ms of work."""
BUDGET = 0.1
"""Seconds a tick spends on windows, on segments, and on forgetting, each."""
RAW = 900.0
"""Seconds raw windows stay after they were taken in: who follows them may be so late, and ``history``
reads them, 3,600 of a variant that is used all the time."""
LATEST = 26 * 3600.0
"""Seconds single agents and keys stay: a rollout's baseline is of 24 hours, and an hour's delay."""
GRACE = 900.0
"""Seconds after its end before a bucket is sealed; measurements come 250 ms late, in an outage minutes."""
LEASE = 15.0
_SEALED = "#sealed"
_NEVER = float("-inf")
Key = tuple[str, str, float]
Task = tuple[str, str, float, float]


class RollUps:
    """The roll-ups of one manager's index."""

    def __init__(self, runtime: Runtime, objects: Objects) -> None:
        self._runtime = runtime
        self._interval = runtime.config.metrics.interval
        self.segments = Segments(objects)
        self._buckets: dict[Key, Bucket] = {}
        self._until: int | None = None  # the cursor that the buckets are as of
        self._sealed: dict[str, list[float]] | None = None
        self._again: dict[str, list[float]] = {}  # what the tasks seal once more
        self._target: dict[str, float] = {}
        self._tasks: deque[Task] = deque()
        self._held_until = self._rolled_at = self._forgot_at = self._failed_at = _NEVER
        self._held = False
        self._boot = runtime.boot
        self._more = False
        self._turn = threading.Lock()  # whoever ticks meanwhile has nothing to do here
        self.error: str | None = None

    # -- when -------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """A slice of what is due; ``now`` in seconds since the epoch. Never raises what may pass."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            self._slice(now)
        finally:
            self._turn.release()

    def leave_parent(self) -> None:
        """In a forked child: the thread that had its turn is the parent's."""
        self._turn = threading.Lock()

    def _slice(self, now: float) -> None:
        due = self._more or self._tasks or not 0 <= now - self._rolled_at < EVERY
        if not due or 0 <= now - self._failed_at < EVERY:
            return
        if not self._mine():
            self._rolled_at = now
            return
        try:
            self._more = self.roll()
            if not self._more:
                self._rolled_at = now
            self._more |= self.forget(now)
            self.seal(now)
            self.error = None
        except ConflictError:
            self._drop()  # another process took them in: this one was held up for longer than its lease
        except EmergenceError as error:
            self._drop()
            self._failed_at = now
            if self.error != str(error):
                log.warning("roll-ups are behind and made later: %s", error)
            self.error = str(error)

    def _mine(self) -> bool:
        runtime = self._runtime
        alive = runtime.alive()
        if self._boot != runtime.boot:  # forked: the lease is the parent's
            self._boot, self._held = runtime.boot, False
        if self._held and alive < self._held_until - LEASE / 2:
            return True
        lease = runtime.index.lease("rollups", runtime.boot, alive, LEASE)
        held = lease.holder == runtime.boot
        if not held or not self._held:
            self._drop()
        self._held, self._held_until = held, alive + LEASE
        return held

    def _drop(self) -> None:
        self._buckets.clear()
        self._until = self._sealed = None
        self._again.clear()
        self._target.clear()
        self._tasks.clear()

    def close(self) -> None:
        """Let another process go on."""
        runtime = self._runtime
        if self._held and self._boot == runtime.boot:
            self._held = False
            runtime.index.lease("rollups", runtime.boot, runtime.alive(), 0.0)

    @property
    def behind(self) -> bool:
        """Is there more to do than one tick does? Of the process that rolls up."""
        return bool(self._more or self._tasks)

    # -- taking windows in --------------------------------------------------------------------------

    def roll(self, budget: float = BUDGET) -> bool:
        """Take in windows until there are none or the time is up; is there more?"""
        began = time.perf_counter()
        while True:
            since, until, windows = self._runtime.index.unrolled(SLICE)
            if until == since:
                return False
            self._take(since, until, windows)
            if len(windows) < SLICE:
                return False
            if time.perf_counter() - began > budget:
                return True

    def _take(self, since: int, until: int, windows: Sequence[Window]) -> None:
        if since != self._until:
            self._drop()
        try:
            self._fold(since, until, windows)
        except BaseException:
            self._drop()  # the buckets hold what was not stored
            raise

    def _fold(self, since: int, until: int, windows: Sequence[Window]) -> None:
        sealed = self._sealed_until()
        touched: dict[Key, Bucket] = {}
        for window in windows:
            lately = is_hour(window) or is_once(window)
            for resolution in (LATELY,) if lately else (INTERVAL, *RESOLUTIONS):
                bucket = self._bucket(window, resolution)
                bucket.add(window)
                touched[window.variant_id, resolution, bucket.start] = bucket
                if resolution in RESOLUTIONS:
                    self._late(sealed, resolution, bucket)
            time.sleep(0)  # who selects beside this waits for one window, and not for the slice
        rollups = [bucket.rollup() for bucket in touched.values()]
        rollups.append(self._state(sealed))
        self._runtime.index.roll_up(since, until, rollups)
        newest = max(window.start for window in windows)
        for key, bucket in self._buckets.items():  # those that go on are not read again
            if bucket.start + bucket.span > newest:
                touched.setdefault(key, bucket)
        self._until, self._buckets = until, touched
        log.debug("%d windows are added up to %d rows", len(windows), len(rollups))

    def _bucket(self, window: Window, resolution: str) -> Bucket:
        start = begin(resolution, window.start, self._interval)
        key = (window.variant_id, resolution, start)
        bucket = self._buckets.get(key)
        if bucket is None:
            stored = self._runtime.index.rollups(window.variant_id, resolution, start, start + 1e-3)
            bucket = self._buckets[key] = bucket_of(window, resolution, self._interval, stored)
        return bucket

    # -- forgetting ---------------------------------------------------------------------------------

    def forget(self, now: float, budget: float = BUDGET) -> bool:
        """Delete what is older than its retention; is there more?"""
        if 0 <= now - self._forgot_at < 60.0:
            return False
        config, index = self._runtime.config.metrics, self._runtime.index
        began = time.perf_counter()
        kept = {
            "": min(max(RAW, 2 * config.interval), config.retention),
            LATELY: LATEST,
            INTERVAL: config.retention,
            "hourly": config.hourly,
            "daily": config.daily,
            "monthly": config.monthly,
        }
        for resolution, seconds in kept.items():
            while index.forget(resolution, now - seconds, SLICE) >= SLICE:
                if time.perf_counter() - began > budget:
                    return True
        self._forgot_at = now
        return False

    # -- sealing ------------------------------------------------------------------------------------

    def seal(self, now: float, budget: float = BUDGET) -> None:
        """Write the segments of buckets that are over."""
        if not self._tasks:
            self._plan(now)
        began = time.perf_counter()
        while self._tasks:
            self._write(now, *self._tasks[0])
            self._tasks.popleft()
            if not self._tasks:
                self._finish()
                log.debug("everything is sealed that is over: %s", self._target)
            elif time.perf_counter() - began > budget:
                return

    def _plan(self, now: float) -> None:
        sealed = self._sealed_until()
        variants = sorted(self._runtime.variants)
        for resolution in RESOLUTIONS:
            closed = begin(resolution, now - GRACE)
            (through,) = sealed[resolution]
            self._target[resolution] = max(closed, through)
            if closed > through:
                self._tasks += [(resolution, each, through, closed) for each in variants]
        for name in [name for name in sealed if " " in name]:
            resolution, _, variant_id = name.partition(" ")
            self._tasks += [
                (resolution, variant_id, start, end(resolution, start)) for start in sealed[name]
            ]
            self._again[name] = sealed.pop(name)

    def _write(self, now: float, resolution: str, variant_id: str, since: float, to: float) -> None:
        index = self._runtime.index
        rows = list(index.rollups(variant_id, resolution, since, to))
        coarser = COARSER.get(resolution)
        revision = self._until or index.unrolled(0)[0]
        wholes: dict[float, None] = {}
        for row in rows:
            whole = None if coarser is None else begin(coarser, row.start)
            if coarser is not None and whole is not None and end(coarser, whole) <= now - GRACE:
                wholes[whole] = None
            else:
                name = label(resolution, row.start)
                self.segments.write(variant_id, resolution, name, [row], revision)
        if coarser is None:
            return
        for whole in sorted({*wholes, *self._over(coarser, since, to)}):
            held = list(index.rollups(variant_id, resolution, whole, end(coarser, whole)))
            if held:
                name = label(coarser, whole)
                self.segments.write(variant_id, resolution, name, held, revision)
                self.segments.gather(variant_id, resolution, name)
        if resolution == "hourly" and begin("daily", since) != begin("daily", to):
            config = self._runtime.config.metrics
            oldest = {each: max(0.0, now - getattr(config, each)) for each in RESOLUTIONS}
            self.segments.forget(variant_id, oldest)

    @staticmethod
    def _over(coarser: str, since: float, to: float) -> Iterator[float]:
        """The first and the last day, or month, that ends between two times."""
        if begin(coarser, to) > since:
            yield begin(coarser, since)
            yield begin(coarser, begin(coarser, to) - 1.0)

    def _finish(self) -> None:
        sealed = self._sealed_until()
        for resolution, closed in self._target.items():
            sealed[resolution] = [closed]
        cursor = self._runtime.index.unrolled(0)[0]
        if self._until is not None and cursor != self._until:
            raise ConflictError("another process rolled up meanwhile; this one begins again")
        self._again.clear()
        self._runtime.index.roll_up(cursor, cursor, [self._state(sealed)])

    def reseal(self, now: float) -> None:
        """Write every segment that is not there, or is not what the index says."""
        self._drop()
        for resolution in RESOLUTIONS:
            self._sealed_until()[resolution] = [0.0]
        self._until = self._runtime.index.unrolled(0)[0]
        self.seal(now, float("inf"))

    def rewrite(self, variant_id: str, key: str) -> bool:
        """Write a damaged segment again; False where the index has nothing of it any more."""
        for each in self.segments.list(variant_id):
            if each.key == key:
                start, stop = span_of(each.label)
                index = self._runtime.index
                rows = list(index.rollups(variant_id, each.resolution, start, stop))
                if not rows:
                    return False
                cursor = index.unrolled(0)[0]
                self.segments.write(variant_id, each.resolution, each.label, rows, cursor)
                return True
        return True  # made one with others meanwhile

    def _late(self, sealed: dict[str, list[float]], resolution: str, bucket: Bucket) -> None:
        """Remember a bucket that took something in after it was sealed."""
        stop = bucket.start + bucket.span
        if stop > max(sealed[resolution][0], self._target.get(resolution, 0.0)):
            return
        starts = sealed.setdefault(f"{resolution} {bucket.variant_id}", [])
        if bucket.start not in starts:
            starts.append(bucket.start)

    def _sealed_until(self) -> dict[str, list[float]]:
        """Until when everything is sealed, by resolution; and what is to be sealed again."""
        if self._sealed is None:
            self._sealed = {resolution: [0.0] for resolution in RESOLUTIONS}
            for stored in self._runtime.index.rollups(_SEALED, _SEALED, 0.0, 1.0):
                self._sealed.update({name: list(row) for name, row in stored.sums.items()})
        return self._sealed

    def _state(self, sealed: dict[str, list[float]]) -> Rollup:
        sums: dict[str, Any] = {name: list(row) for name, row in sealed.items()}
        for name, starts in self._again.items():  # not written yet: a crash forgets none
            sums[name] = sorted({*starts, *sums.get(name, ())})
        return Rollup(_SEALED, 0.0, 0.0, 0, 0, (), sums, resolution=_SEALED)
