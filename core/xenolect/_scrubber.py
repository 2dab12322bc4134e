"""The background reader: everything stored is read again and verified, at a bounded rate.

One process at a time, by lease. What is damaged is told and stays in ``status``; with a replica it is
healed from there, in new versions. Without one the state that a served variant has now is met as by any
reader, which takes the variant back; older ones and those of nobody are left to ``repair``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from xenolect._codec import moment
from xenolect.errors import CorruptError, EmergenceError, NotFoundError
from xenolect.facts import Change, Put

if TYPE_CHECKING:
    from xenolect._runtime import Runtime
    from xenolect._state_workers import Workers
    from xenolect._states import States
    from xenolect._upkeep_report import Problem

__all__ = ["Scrubber"]

log = logging.getLogger("xenolect.states")
FACT = "scrub"
LEASE = 60.0
PIECE = 1024 * 1024
MOST = 100
"""Damaged objects that are named in the fact; ``verify`` names all."""


class _Stopped(Exception):
    """The manager is closing, or another process has the lease."""


class _Alone:
    """Does what ``Workers`` do on this thread: the others are for calls that somebody waits for."""

    def each(self, work: Callable[[Any], object], items: Iterable[Any]) -> None:
        for item in items:
            work(item)


class Scrubber:
    """Reads the states of one manager again, every ``state.scrub_interval``."""

    def __init__(self, runtime: Runtime, states: States) -> None:
        self._runtime = runtime
        self._states = states
        self.leave_parent()

    def leave_parent(self) -> None:
        """At the start, and again in a forked child: no thread, and no lease."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._renewed = float("-inf")
        self._running: tuple[int, int | None] | None = None

    def start(self) -> None:
        """Begin, where there is anything to do and a thread to do it on."""
        if self._runtime.background and self._runtime.config.state.scrub_interval > 0:
            self._thread = threading.Thread(target=self._run, name="xenolect-scrub", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop; what is half read is read again by the next one."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)
        if self._renewed > float("-inf"):
            self._runtime.index.lease(FACT, self._runtime.boot, self._runtime.alive(), 0.0)

    def _run(self) -> None:
        # A moment later in each process, so that a fleet that starts does not begin to read at once.
        while not self._stop.wait(1.0 + self._runtime.rng.random()):
            try:
                if self.due():
                    self.run()
            except _Stopped:
                continue
            except EmergenceError as error:
                log.warning("reading the states again failed and is tried later: %s", error)
                self._stop.wait(30.0)
            except Exception:
                log.exception("reading the states again failed and is tried later")
                self._stop.wait(30.0)

    def due(self) -> bool:
        """Is the last time longer ago than the interval?"""
        runtime = self._runtime
        value = runtime.value("setting", FACT)
        if value is not None:
            last = [value["finished_at"]]
        else:
            heads = [f.value for (kind, _), f in list(runtime.facts.items()) if kind == "state"]
            last = [head["ref"]["created_at"] for head in heads if head and head.get("ref")]
        oldest = runtime.clock() - runtime.config.state.scrub_interval
        return any(datetime.fromisoformat(each).timestamp() <= oldest for each in last)

    # -- one pass ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Read everything once; raises when another process is at it."""
        runtime = self._runtime
        began = time.monotonic()
        rate = float(runtime.config.state.scrub_rate)

        def pace(done: int, total: int | None) -> None:
            self._running = (done, total)
            ahead = done / rate - (time.monotonic() - began)
            if self._stop.wait(max(0.0, ahead)):
                raise _Stopped
            self._lease()

        self._lease()
        try:
            report = self._states.upkeep.verify(None, True, pace, cast("Workers", _Alone()))
        finally:
            self._running = None
        for problem in report.problems:
            log.error("damaged: %s", problem.what, extra={"variant_id": problem.variant_id or None})
            runtime.tell(
                "state.damaged", problem.variant_id or None, key=problem.key, what=problem.what
            )
        healed = self._heal(report.problems)
        left = [p.key for p in report.problems if p.key not in healed]
        for variant_id in sorted({p.variant_id for p in report.problems if p.key in left} - {""}):
            self._meet(variant_id, rate)
        value = {
            "finished_at": moment(runtime.clock()).isoformat(),
            "checked": report.checked,
            "bytes": report.bytes,
            "damaged": len(left),
            "keys": left[:MOST],
            "healed": len(healed),
        }
        runtime.commit_retrying(lambda: self._finished(value), actor=FACT)

    def _meet(self, variant_id: str, rate: float) -> None:
        """Read what the variant has now, so that the safeguards hear of damage before an agent does."""
        try:
            with self._states.open(variant_id) as reader:
                while piece := reader.read(PIECE):
                    if self._stop.wait(len(piece) / rate):
                        raise _Stopped
                    self._lease()
        except (CorruptError, NotFoundError):
            return  # told already, or damage of what is not there any more

    def _finished(self, value: dict[str, Any]) -> list[Change]:
        return [Put("setting", FACT, value)]

    def _heal(self, problems: tuple[Problem, ...]) -> set[str]:
        """Heal what the index or a replica has a copy of; nothing is given up from here."""
        before = {problem.key for problem in problems}
        mirror = self._states.upkeep.mirror
        for problem in problems:
            if mirror is not None and mirror.holds(problem.key):
                mirror.rewrite(problem)  # the index says what it was
        if not problems or self._runtime.config.state.replica is None:
            return {key for key in before if mirror is not None and mirror.holds(key)}
        plan = self._states.repair(dry_run=True)
        lost = {each.variant_id for each in plan.lost}
        for variant_id in sorted({p.variant_id for p in problems if p.variant_id} - lost):
            for each in self._states.repair(variant_id).healed:
                self._runtime.tell("state.healed", each.variant_id, version=each.version)
        after = self._states.upkeep.verify(None, False, None, cast("Workers", _Alone()))
        wrong = {problem.key for problem in after.problems}
        wrong |= {problem.key for problem in problems if problem.variant_id in lost}
        return before - wrong

    def _lease(self) -> None:
        now = time.monotonic()
        if now - self._renewed < LEASE / 3:
            return
        runtime = self._runtime
        held = runtime.index.lease(FACT, runtime.boot, runtime.alive(), LEASE)
        if held.holder != runtime.boot:
            raise _Stopped
        self._renewed = now

    def status(self) -> dict[str, Any]:
        """When everything was last read, what was found, and how far this process is now."""
        value = self._runtime.value("setting", FACT) or {}
        running = self._running
        return {
            "finished_at": value.get("finished_at"),
            "checked": value.get("checked", 0),
            "damaged": value.get("damaged", 0),
            "keys": value.get("keys", []),
            "running": None if running is None else {"bytes": running[0], "of": running[1]},
        }
