"""The judge ``threshold``: limits on what was seen since the last look, as operators write them.

For those who insist. It compares numbers without asking how far they can differ by chance: its false
rollbacks, measured, are in ``docs/judges.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from xenolect.facts import Observation
from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.judges import Baseline, Evidence, JudgeConfig
from xenolect.model import Verdict
from xenolect.units import Seconds
from xenolect_plugins import _looks as looks
from xenolect_plugins._looks import Looks, Said
from xenolect_plugins._measures import measures

__all__ = ["Threshold"]


@attrs.frozen
class Threshold:
    """Judge by limits, look by look.

    A look fails when the canary's success rate since the last one is under ``least_success`` (absolute),
    or its failure rate above the control's by more than ``difference`` (none: the rollout's
    ``min_effect``), or its typical latency (the geometric mean) above ``latency_ratio`` times the
    control's, or a declared metric worse by more than its margin. ``failed_looks`` failed looks in a row
    roll back, ``passed_looks`` passed ones promote; looks with fewer than ``least_operations`` on either
    arm count as neither.
    """

    interval: Seconds = Seconds(300.0)
    least_success: float | None = None
    difference: float | None = None
    latency_ratio: float = attrs.field(default=1.25, validator=attrs.validators.ge(1.0))
    latency: bool = True
    failed_looks: int = attrs.field(default=2, validator=attrs.validators.ge(1))
    passed_looks: int = attrs.field(default=3, validator=attrs.validators.ge(1))
    least_operations: int = attrs.field(default=20, validator=attrs.validators.ge(1))

    def start(self, baseline: Baseline, config: JudgeConfig) -> Looks:
        """The state before the first observation."""
        watched = measures(
            baseline,
            config,
            latency=self.latency,
            latency_ratio=self.latency_ratio,
            inferior_latency_ratio=self.latency_ratio,
            inferior_factor=1.0,
        )
        difference = config.min_effect if self.difference is None else self.difference
        watched = (attrs.evolve(watched[0], tolerated=difference), *watched[1:])
        state = Looks("threshold", float(self.interval), config, watched)
        state.memory = {"failed": 0, "passed": 0}
        return state

    def update(self, state: Looks, records: Sequence[Observation]) -> tuple[Verdict, Evidence]:
        """Fold the records in order."""
        return looks.fold(state, records, self._look)

    def _look(self, state: Looks) -> Said:
        canary, control = state.window["failures"]
        if min(canary.count, control.count) < self.least_operations:
            return attrs.evolve(
                state.said, verdict=Verdict.CONTINUE, reason="few operations since the last look"
            )
        worst, reason, parts = 0.0, "", {}
        for measure in state.measures:
            treated, usual = state.window[measure.name]
            if not (treated.count and usual.count):
                continue
            excess = treated.mean - usual.mean - measure.tolerated
            if measure.name == "failures" and self.least_success is not None:
                excess = max(excess, treated.mean - (1.0 - self.least_success))
            parts[measure.name] = excess
            if excess > worst:
                worst, reason = excess, measure.name
        memory = state.memory
        memory["failed"] = memory["failed"] + 1 if reason else 0
        memory["passed"] = 0 if reason else memory["passed"] + 1
        verdict = Verdict.CONTINUE
        if memory["failed"] >= self.failed_looks:
            verdict = Verdict.ROLLBACK
        elif reason:
            verdict = Verdict.HOLD
        elif memory["passed"] >= self.passed_looks:
            verdict, reason = Verdict.PROMOTE, "within the limits"
        return Said(
            verdict,
            reason,
            float(memory["failed"]),
            float(self.failed_looks),
            float(memory["passed"]),
            float(self.passed_looks),
            parts,
        )

    def dump(self, state: Looks) -> bytes:
        """The state as JSON."""
        return looks.dump(state)

    def load(self, data: bytes) -> Looks:
        """Read what ``dump`` wrote; CorruptError when it is something else."""
        return looks.load("threshold", data)


@hookimpl
def xenolect_judges() -> Iterable[Offer[Threshold]]:
    """Offer the judge."""
    yield offer("threshold", Threshold)
