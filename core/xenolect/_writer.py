"""What waits to be stored, and who stores it: a thread, or without one the call that made it due."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from xenolect._logging import TRACE
from xenolect.errors import EmergenceError
from xenolect.facts import Change

if TYPE_CHECKING:
    from xenolect._runtime import Runtime

__all__ = ["Writer"]

log = logging.getLogger("xenolect.variants")
measured = logging.getLogger("xenolect.performance")


class Writer:
    """Flushes measurements, runs jobs, ticks; in the background where there is a thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._jobs: deque[Callable[[], None]] = deque()
        self._flushed_at = runtime.clock()
        self._asked = 0  # durable flushes asked for, and how many of them are done
        self._synced = 0
        self.renew()

    def renew(self) -> None:
        """Locks and a queue of this process; its thread is started by ``start``."""
        self.flushing = threading.RLock()
        self._jobs_lock = threading.RLock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._jobs.clear()

    def flush(self, durable: bool = False) -> None:
        """Store every measurement and finish every commit asked for so far.

        ``durable``: so that it survives a power failure. Calls that wait for each other share one
        transaction: who comes while another is written finds its own in the next.
        """
        runtime = self._runtime
        runtime.check_process()
        self.run_jobs()
        self._flush(durable)
        self.run_jobs()
        self.settle()

    def _flush(self, durable: bool = False) -> None:
        runtime = self._runtime
        self._asked += durable
        asked = self._asked
        with self.flushing:
            if durable and self._synced >= asked:
                return  # another thread's transaction began after this one asked, and took it along
            covers = self._asked
            self._flushed_at = runtime.clock()
            windows, observations = runtime.performance.sending.append(durable=durable)
            if durable:
                self._synced = covers
        if windows or observations:
            measured.log(TRACE, "%d windows and %d observations are stored", windows, observations)
        runtime.on_flushed()

    def flush_into(
        self, changes: Sequence[Change], *, actor: str = "", after: int | None = None
    ) -> int:
        """Commit changes together with the evidence not yet stored."""
        runtime = self._runtime
        with self.flushing, runtime.performance.sending.evidence() as taken:
            return runtime.commit(changes, actor=actor, evidence=taken, after=after)

    def later(self, job: Callable[[], None]) -> None:
        """Run a job on the writer: the thread, or at the end of this call without one."""
        runtime = self._runtime
        if runtime.asleep:
            runtime.wake()
        self._jobs.append(job)
        self._wake.set()

    def run_jobs(self) -> None:
        """Run what was asked for; a job that fails for a passing reason is tried again later."""
        with self._jobs_lock:  # who waits for a job that another thread runs waits here
            for _ in range(len(self._jobs)):
                job = self._jobs.popleft()
                try:
                    job()
                except EmergenceError as error:
                    if not error.retryable:
                        raise
                    log.error("a commit failed and will be tried again: %s", error)
                    self._jobs.append(job)
                    raise

    def settle(self) -> None:
        """Without a thread, finish in the call what the thread would do."""
        runtime = self._runtime
        if not runtime.background:
            self.run_jobs()
            runtime.events.deliver()

    def after_record(self, now: float) -> None:
        """After a measurement: flush when due, here or by waking the thread."""
        runtime = self._runtime
        if runtime.background:
            if not self._wake.is_set():
                self._wake.set()
            return
        metrics = runtime.config.metrics
        waiting = runtime.performance.pending >= metrics.flush_records
        if waiting or now - self._flushed_at >= metrics.flush_interval:
            self._flush()
        if self._jobs or runtime.events.waiting:
            self.settle()

    def start(self) -> None:
        """Begin background work."""
        runtime = self._runtime
        if runtime.background and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="xenolect", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        runtime = self._runtime
        flush_at = tick_at = 0.0
        ticked = float("-inf")
        while True:
            self._wake.wait(runtime.config.poll_interval)
            self._wake.clear()
            if runtime.closed:
                return
            try:
                self.run_jobs()
                now = time.monotonic()
                due = runtime.performance.pending >= runtime.config.metrics.flush_records
                if due or now >= flush_at:
                    flush_at = now + runtime.config.metrics.flush_interval
                    self._flush()
                    self.run_jobs()
                runtime.catch_up()
                runtime.performance.follow()
                runtime.on_fed()
                # by the clock as well, which may run faster than time (a simulation, a demonstration)
                if now >= tick_at or runtime.clock() - ticked >= 1.0:
                    tick_at = now + 1.0
                    ticked = runtime.clock()
                    runtime.on_tick(ticked)
                    self.run_jobs()
            except EmergenceError as error:
                log.error("background work failed and goes on: %s", error)
                time.sleep(0.05)
            except Exception:
                log.exception("background work failed and goes on")
                time.sleep(0.05)
            runtime.events.deliver()

    def stop(self) -> None:
        """The manager is closed: end the thread."""
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(10.0)
