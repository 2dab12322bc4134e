"""One running rollout as a process sees it: its arms, its judges, and what it has folded so far.

Two judges weigh the same kind of evidence. ``merged`` folds the index's sequence of all processes and
is acted upon by the leader; ``local`` folds what this process saw, at once, so that harm is stopped
before ``report`` returns. With one process they are the same, and the local one may spend the whole
alpha; with several each local one spends ``alpha / (2 P)`` and the merged one ``alpha / 2``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from xenolect import safeguards as sg
from xenolect._routing import place
from xenolect._sample_ratio import Ratio, SampleRatio, Share
from xenolect._trust import LateJudge, Proves, answer_of, evidence_to_json, words_of
from xenolect.errors import CorruptError
from xenolect.facts import Observation
from xenolect.interfaces import Judge, Safeguard
from xenolect.judges import SILENT, Baseline, Evidence, Guardrail, JudgeConfig
from xenolect.model import CanaryState, Verdict

__all__ = [
    "ENDED",
    "Rollout",
    "Weighed",
    "baseline_from_json",
    "event_from_json",
    "event_to_json",
    "evidence_to_json",
    "frozen_of",
    "health_check",
    "is_strong",
]

HEARD = 100_000  # agents whose silence is noticed
STRONG = 50.0  # times what promotion needs: a capital of 1,000 where 20 are enough
ENDED = (CanaryState.PROMOTED, CanaryState.ROLLED_BACK, CanaryState.ABORTED)


def baseline_from_json(data: Mapping[str, Any]) -> Baseline:
    """The frozen baseline of a rollout's document."""
    return Baseline(
        data["operations"],
        data["failures"],
        {unit: (n, f) for unit, (n, f) in data["units"].items()},
        tuple((index, count) for index, count in data["latency"]),
        {
            unit: tuple((index, count) for index, count in bins)
            for unit, bins in data.get("unit_latency", {}).items()
        },
    )


def frozen_of(
    document: Mapping[str, Any], get: Callable[[str], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The frozen baseline of a document: the fact that it names, or, before that was one, its own."""
    named = document["baseline"]
    return named if isinstance(named, Mapping) else get(named)


_EVENTS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        sg.Start,
        sg.Check,
        sg.Proved,
        sg.BreakerNews,
        sg.Pause,
        sg.Resume,
        sg.Promote,
        sg.Abort,
    )
}


def event_to_json(event: sg.Event, at: float, draw: float) -> dict[str, Any]:
    """The step that made a document: with the state before it, the ramp gives the state after."""
    fields = {
        name: str(value) if isinstance(value, Verdict) else value
        for name, value in attrs.asdict(event).items()
    }
    return {"event": type(event).__name__, "fields": fields, "at": at, "draw": draw}


def event_from_json(step: Mapping[str, Any]) -> sg.Event:
    """Read the event of ``event_to_json``; KeyError, TypeError or ValueError for something else."""
    fields = dict(step["fields"])
    if "verdict" in fields:
        fields["verdict"] = Verdict(fields["verdict"])
    event: sg.Event = _EVENTS[step["event"]](**fields)
    return event


@attrs.frozen
class Weighed:
    """What the merged judge said, and the last sequence it had folded then: replaced as one.

    ``failed``: it said nothing, because a judge raised; the verdict is HOLD. ``ratio``: the units seen
    until then at the share of now; None when they are to be counted once more.
    """

    verdict: Verdict = Verdict.CONTINUE
    evidence: Evidence = Evidence()
    sequence: int = 0
    failed: bool = False
    ratio: Ratio | None = Ratio()


class Rollout:
    """A rollout's document, its machine, and this process's share of the evidence."""

    def __init__(
        self,
        document: Mapping[str, Any],
        version: int,
        judge: Judge[Any] | LateJudge,
        ramp: Safeguard[Any],
        baseline: Baseline,
    ) -> None:
        self.id: str = document["rollout"]
        self.variant_id: str = document["variant_id"]
        self.control_id: str = document["control_id"]
        self.salt = int(document["salt"], 16)
        self.by_session: bool = document["unit"] == "session"
        self.judge = judge
        self.ramp = ramp
        self.processes: int = document["processes"]
        alpha = document["alpha"] / document["attempt"] ** 2
        alone = self.processes == 1
        self._config = JudgeConfig(
            alpha=alpha if alone else alpha / 2,
            min_effect=document["min_effect"],
            share=document["levels"][0] / 1_000_000,
            seed=self.salt & 0xFFFFFFFF,
            levels=tuple(level / 1_000_000 for level in document["levels"]),
            guardrails=tuple(Guardrail(**each) for each in document.get("guardrails", ())),
        )
        self._own = attrs.evolve(
            self._config, alpha=alpha if alone else alpha / (2 * self.processes)
        )
        self._baseline = baseline
        self.proved = False
        self.joined_at = 0  # the last sequence stored when this process joined
        self.decided: dict[str, Any] | None = None  # who proved harm, on which records
        self.unattributed = 0
        self.seen: dict[str, float] = {}
        self.disturbed_at = float("-inf")  # when the breaker last moved
        self.heard: dict[str, float] = {}  # when each agent was last heard, for ``silent_units``
        self.silent: set[str] = set()  # those whose silence was counted
        self.listened_at = float("-inf")
        self.failures = 0  # of the judge, lately
        self.retry_at = float("-inf")  # before then a judge that failed is left alone
        self.document = dict(document)
        self.state = ramp.load(document["state"])
        self.begin()
        self.take(document, version)

    def begin(self) -> bool:
        """Both judges before the first observation; one that failed begins anew, if it can."""
        self.failure = ""  # why the judge can not be trusted now
        self.cursor = 0  # the last sequence folded into ``merged``
        self.joined = False
        self.acts = False  # may the local judge act?
        self.weighed = Weighed()
        self.folded = 0  # records folded by ``local``
        self.operations = 0  # the canary's, stored and folded
        self.level_units: set[str] = set()
        self.ratio = SampleRatio()  # of the units that the merged judge saw
        self._share()
        self.merged: Any = None
        self.local: Any = None
        self._proves: Proves | None = None
        try:
            self.merged = self.judge.start(self._baseline, self._config)
            self.local = self.judge.start(self._baseline, self._own)
            self._proves = getattr(self.judge, "proves", None)
        except Exception as error:
            self.fail(error)
        return not self.failure

    def fail(self, error: Exception) -> None:
        """The judge raised, or its evidence is damaged: hold, and weigh everything again from the start
        when it can be asked."""
        what = "the evidence is damaged" if isinstance(error, CorruptError) else "the judge failed"
        self.failure = f"{what}: {words_of(error)}"
        self.failures += 1
        self.joined = self.acts = False
        held = Evidence(reason=self.failure)
        self.weighed = Weighed(Verdict.HOLD, held, self.cursor, True, self._counted)

    def _ask(self, state: Any, observations: Sequence[Observation]) -> tuple[Verdict, Evidence]:
        """What the judge answers; HOLD where it can not be trusted."""
        if not self.failure:
            try:
                return answer_of(self.judge.update(state, observations))
            except Exception as error:
                self.fail(error)
        return Verdict.HOLD, self.weighed.evidence

    def take(self, document: Mapping[str, Any], version: int) -> None:
        """Adopt a newer document of the same rollout; its version last, for who reads that first."""
        self.document = dict(document)
        self.state = self.ramp.load(document["state"])
        levels = document["levels"]
        #: the share whose units are treated or were until a suspension
        self.slice_ppm: int = self.ppm or levels[min(self.state.level, len(levels) - 1)]
        if document["level_sequence"] != getattr(self, "level_sequence", None):
            self.level_sequence: int = document["level_sequence"]
            self.level_units = set()
        self._share()
        self.version = version

    def _share(self) -> None:
        """Count units at the share of the document, which may be a new one."""
        self.ratio.begin(Share.of(self.document))
        self.weighed = attrs.evolve(self.weighed, ratio=self._counted)

    @property
    def _counted(self) -> Ratio | None:
        return None if self.ratio.stale or self.failure else self.ratio.now

    def recount(self, stored: Sequence[Observation]) -> None:
        """Count the units of the share once more, from everything that is stored."""
        self.ratio.again(stored)
        self.weighed = attrs.evolve(self.weighed, ratio=self._counted)

    @property
    def known(self) -> Mapping[str, tuple[int, int]]:
        """The units that spoke in the day before, with their operations and failures."""
        return self._baseline.units

    @property
    def verdict(self) -> Verdict:
        """The merged judge's."""
        return self.weighed.verdict

    @property
    def evidence(self) -> Evidence:
        """What the merged judge's verdict stands on."""
        return self.weighed.evidence

    @property
    def ended(self) -> bool:
        """Is the rollout over?"""
        return self.state.state in ENDED

    @property
    def ppm(self) -> int:
        """The share served now, in parts per million."""
        return int(self.state.ppm)

    @property
    def recovery_ppm(self) -> int:
        """The share whose units may take a probe of a half-open breaker."""
        return int(self.document["levels"][0])

    def unit(self, agent_id: str | None, session: str | None) -> str | None:
        """The unit of assignment and evidence, or None when the call does not name it."""
        return session if self.by_session else agent_id

    def inside(self, unit: str) -> bool:
        """Is the unit in the canary's slice?"""
        return place(unit, self.salt) < self.slice_ppm

    def arm(self, variant_id: str, unit: str) -> str | None:
        """The arm of an eligible unit that was served a variant, or None."""
        inside = place(unit, self.salt) < self.slice_ppm
        if variant_id == self.variant_id:
            return "canary" if inside else None
        return "control" if variant_id == self.control_id and not inside else None

    def saw(self, observation: Observation) -> tuple[Verdict, Evidence] | None:
        """Fold one observation of this process; the verdict if the local judge may act."""
        if SILENT not in observation.custom:
            self.seen[observation.arm] = observation.at
        if not self.joined:
            return None
        if self._proves is None or self.failure:
            answer = self.saw_many((observation,))
        else:  # half as long as to weigh what only promotion needs with each record
            self.folded += 1
            try:
                if not self._proves(self.local, (observation,)):
                    return None
            except Exception as error:
                self.fail(error)
                return None
            answer = self.saw_many(())
        return answer if self.acts else None

    def saw_many(self, observations: Sequence[Observation]) -> tuple[Verdict, Evidence]:
        """Fold observations into the local judge, whether it may act or not."""
        self.folded += len(observations)
        return self._ask(self.local, observations)

    def fold(self, observations: Sequence[Observation], boot: str) -> Verdict:
        """Fold the next observations of the index's sequence."""
        for observation in observations:
            self.cursor = observation.sequence
            if self.joined and observation.writer != boot and self.processes == 1:
                self.acts = False  # others report too: only the merged order counts
            if SILENT in observation.custom:
                self.silent.add(observation.unit)
                continue
            self.silent.discard(observation.unit)
            if not self.by_session and (observation.unit in self.heard or len(self.heard) < HEARD):
                self.heard[observation.unit] = observation.at
            self.seen[observation.arm] = max(observation.at, self.seen.get(observation.arm, 0.0))
            canary = observation.arm == "canary"
            self.ratio.see(self.cursor, observation.unit, observation.at, canary=canary)
            if canary:
                self.operations += observation.operations
                if observation.sequence > self.level_sequence and len(self.level_units) < 10_000:
                    self.level_units.add(observation.unit)
        self.ratio.cursor = self.cursor
        verdict, evidence = self._ask(self.merged, observations)
        if not self.failure:
            self.weighed = Weighed(verdict, evidence, self.cursor, False, self._counted)
        return verdict


def health_check(
    rollout: Rollout, weighed: Weighed, now: float, interval: float, units: int
) -> sg.Check:
    """What the ramp's gates look at.

    ``interval``: data is fresh for two of them, and at least since the last check (a canary with one
    operation a minute would be stale at most checks); ``units``: how many distinct ones a level needs.
    """
    document = rollout.document
    last = rollout.seen.get("canary")
    fresh = last is not None and now - last <= max(2 * interval, document["check_interval"])
    missing = ""
    if last is None:
        missing = "no data"
        if rollout.unattributed:
            missing = (
                f"no data: {rollout.unattributed} operations were recorded without the "
                f"{document['unit']} they belong to; pass "
                f"{'session=' if rollout.by_session else 'agent_id='} to record or report"
            )
    elif not fresh:
        missing = "stale data"
    elif "control" not in rollout.seen:
        missing = "no control"
    elif weighed.ratio is None:
        missing = "units are counted once more"
    else:
        missing = weighed.ratio.mismatch
    quiet = weighed.evidence.e_value < 20.0
    if weighed.failed or (weighed.verdict == Verdict.HOLD and quiet and not missing):
        missing = weighed.evidence.reason  # what the judge lacks
    return sg.Check(
        verdict=weighed.verdict,
        fresh=fresh,
        sampled=(
            rollout.operations >= document["min_operations"] and len(rollout.level_units) >= units
        ),
        quiet=quiet and weighed.verdict != Verdict.HOLD,
        clean=rollout.disturbed_at <= now - document["check_interval"],
        missing=missing,
        strong=is_strong(weighed.evidence),
    )


def is_strong(evidence: Evidence) -> bool:
    """Is there so much evidence that an adaptive ramp may skip a level?"""
    return evidence.noninferiority >= STRONG * evidence.promote_at and evidence.e_value <= 1.0
