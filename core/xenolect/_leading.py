"""Leading a rollout: one process, by lease, folds the evidence of all and makes the health checks.

Every process joins a rollout: as its leader, on a seat for local evidence, or as neither.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from xenolect import safeguards as sg
from xenolect._breakers import Breakers
from xenolect._evidence import Rollout
from xenolect._harm import Harm
from xenolect._membership import Membership
from xenolect._runtime import Runtime
from xenolect._silence import silences
from xenolect._steering import Steering
from xenolect.errors import ConflictError, CorruptError, TransitionError
from xenolect.facts import Observation
from xenolect.model import CanaryState, Verdict

__all__ = ["Leader"]

log = logging.getLogger("xenolect.safeguards")
LEASE = 5.0  # seconds a leader is believed to live after its last sign
SEAT = 400 * 86400.0  # a seat of local evidence is taken once and never given again
CALM = 60.0  # seconds without a failure after which a judge's next one counts as its first
ORPHANED = 900.0  # a suspension nobody heals for so long is tried again by the leader


class Leader:
    """This process's part in running rollouts."""

    def __init__(
        self,
        runtime: Runtime,
        rollouts: Mapping[str, Rollout],
        breakers: Breakers,
        membership: Membership,
        harm: Harm,
        steering: Steering,
    ) -> None:
        self._runtime = runtime
        self._rollouts = rollouts
        self._breakers = breakers
        self._membership = membership
        self._harm = harm
        self._steering = steering
        self.folding = threading.RLock()  # owns every ``merged`` judge
        self._left = False

    def leave_parent(self) -> None:
        """In a forked child: no leader, no seat, and nothing weighed before it joins."""
        self.folding = threading.RLock()
        self._left = False
        for rollout in list(self._rollouts.values()):
            rollout.begin()

    def join(self) -> None:
        """Take this process's place in rollouts it has not joined yet; again where the judge failed."""
        for rollout in list(self._rollouts.values()):
            if not rollout.joined and self._may_try(rollout):
                self._join(rollout)

    def _may_try(self, rollout: Rollout) -> bool:
        """A judge that fails is asked again, with everything, ever more rarely."""
        if not rollout.failure:
            return True
        now = self._runtime.clock()
        if now < rollout.retry_at:
            return False
        if now - rollout.retry_at > CALM:
            rollout.failures = 1  # the first for a long time
        rollout.retry_at = now + min(CALM / 2, 0.25 * 2.0 ** min(rollout.failures, 16))
        log.error(
            "the rollout of %s holds: %s",
            rollout.variant_id,
            rollout.failure,
            extra={"variant_id": rollout.variant_id, "rollout": rollout.id},
        )
        return True

    def _join(self, rollout: Rollout) -> None:
        """Find this process's place: leader, a seat of local evidence, or neither."""
        runtime = self._runtime
        now = runtime.alive()
        with self.folding:
            if rollout.failure and not rollout.begin():
                return
            leads = self._leads(rollout)
            acts = leads
            if rollout.processes > 1:
                acts = any(
                    runtime.index.lease(f"seat/{rollout.id}/{k}", runtime.boot, now, SEAT).holder
                    == runtime.boot
                    for k in range(rollout.processes)
                )
            with runtime.performance.fold:
                stored = self._stored(rollout, 0)
                if stored is None:
                    return
                rollout.fold(stored, runtime.boot)
                waiting = [o for o in runtime.performance.waiting() if o.rollout == rollout.id]
                rollout.joined_at = rollout.cursor
                rollout.saw_many([*stored, *waiting] if rollout.processes == 1 else waiting)
                verdict, evidence = rollout.saw_many(())
                if rollout.failure:
                    return
                rollout.acts = acts
                rollout.joined = True
                if acts and verdict == Verdict.ROLLBACK:
                    self._harm.prove(rollout, evidence, local=True)

    def _stored(self, rollout: Rollout, after: int) -> Sequence[Observation] | None:
        """The rollout's evidence; None where it is damaged: then it holds, as for a failing judge."""
        try:
            return self._runtime.index.observations(rollout.id, after)
        except CorruptError as error:
            log.error("the rollout of %s holds: %s", rollout.variant_id, error)
            rollout.fail(error)
            return None

    def _leads(self, rollout: Rollout) -> bool:
        if self._left:
            return False
        boot, now = self._runtime.boot, self._runtime.alive()
        lease = self._runtime.index.lease(f"leader/{rollout.id}", boot, now, LEASE)
        leads = lease.holder == self._runtime.boot
        if leads and rollout.processes == 1:
            rollout.acts = True  # a tool that started the rollout may have led when this one joined
        return leads

    def leave(self) -> None:
        """Give leader leases back, so that another process can lead at once; for good, since the last
        flush of closing would take them again."""
        now = self._runtime.alive()
        with self.folding:
            self._left = True
            for rollout in list(self._rollouts.values()):
                if rollout.joined:
                    name = f"leader/{rollout.id}"
                    self._runtime.index.lease(name, self._runtime.boot, now, 0.0)

    def fold(self) -> None:
        """After a flush: the leader folds what all processes stored since."""
        if not self._rollouts:
            return
        with self.folding:
            self.join()
            for rollout in list(self._rollouts.values()):
                if self._leads(rollout):
                    self._fold(rollout)

    def _fold(self, rollout: Rollout) -> None:
        if not rollout.joined:
            return  # the judge failed and is asked again later
        if rollout.ratio.stale:  # a share had ended before the last records were folded
            every = self._stored(rollout, 0)
            if every is None:
                return
            rollout.recount(every)
        new = self._stored(rollout, rollout.cursor)
        if new is None:
            return
        if new:
            rollout.fold(new, self._runtime.boot)
        if rollout.verdict == Verdict.ROLLBACK:  # as of joining, perhaps
            self._harm.prove(rollout, rollout.evidence, local=False)

    def tick(self, now: float) -> None:
        """Health checks that are due, by the leader of each rollout."""
        due: list[tuple[Rollout, bool]] = []
        with self.folding:
            self.join()
            for rollout in list(self._rollouts.values()):
                if not self._leads(rollout):
                    continue
                self._fold(rollout)
                state = rollout.state.state
                if state in (CanaryState.RAMPING, CanaryState.HOLD):
                    self._listen(rollout, now)
                since = rollout.document["changed_at"]
                if (
                    state == CanaryState.SUSPENDED
                    and now - since > ORPHANED
                    and not self._breakers.is_shut(rollout.variant_id)
                ):
                    due.append((rollout, True))
                elif now >= rollout.document["next_check_at"] and not rollout.proved:
                    due.append((rollout, False))
        for rollout, orphaned in due:  # outside the lock: committing takes another first
            try:
                if orphaned:
                    self._steering.step(rollout, sg.BreakerNews("closed"), now)
                else:
                    self._steering.check(rollout, now)
            except (ConflictError, TransitionError):
                self._runtime.catch_up()  # somebody else moved it: theirs counts

    def _listen(self, rollout: Rollout, now: float) -> None:
        """Count agents that fell silent as evidence, once an interval."""
        runtime = self._runtime
        interval = runtime.config.metrics.interval
        if now - rollout.listened_at < interval:
            return
        rollout.listened_at = now
        out = self._breakers.agents.is_out
        found = silences(
            rollout,
            lambda unit: (
                unit in runtime.agents
                and not any(out(each, unit) for each in (rollout.variant_id, rollout.control_id))
                and self._membership.eligible(rollout, unit)
            ),
            now,
            interval,
            runtime.boot,
        )
        with runtime.performance.fold:
            for observation in found:
                rollout.silent.add(observation.unit)
                runtime.performance.observe(observation)
                answer = rollout.saw(observation)
                if answer is not None and answer[0] == Verdict.ROLLBACK:
                    self._harm.prove(rollout, answer[1], local=True)
                    break
