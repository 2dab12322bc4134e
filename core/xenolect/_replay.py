"""Recompute what was decided from what was stored: verdicts, transitions and routing, bit for bit.

Each rollout is played again from its document and its observations, by the same code that ran then:
the judge and the ramp that the document names, the frozen baseline, the salt. What comes out must be
what the journal holds. Nothing is taken from the running manager.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from xenolect._evidence import (
    Rollout,
    baseline_from_json,
    evidence_to_json,
    frozen_of,
)
from xenolect._recount import recounted
from xenolect._registry import Registry
from xenolect._restep import Stepping
from xenolect._routing import routed
from xenolect.decisions import Decisions, Problem, Verified
from xenolect.errors import EmergenceError
from xenolect.facts import Drop, Entry, Observation, Put, canonical
from xenolect.interfaces import Index, Judge, Safeguard
from xenolect.judges import Evidence
from xenolect.model import Verdict

__all__ = ["Attempt", "Curve", "Replay", "Replayed", "attempts", "curve", "decided_on"]

Progress = Callable[[str, int, int], None]
_NOTHING: Mapping[str, Any] = {"operations": 0, "failures": 0, "units": {}, "latency": []}


@attrs.frozen
class Curve:
    """The evidence after each of some observations: what a report draws."""

    at: tuple[float, ...] = ()
    e_value: tuple[float, ...] = ()
    noninferiority: tuple[float, ...] = ()


@attrs.frozen
class Attempt:
    """One rollout's documents in the journal, in order: ``(revision, at, actor, document)``.

    ``baseline`` is what was frozen of the control when it started.
    """

    id: str
    variant_id: str
    steps: tuple[tuple[int, float, str, Mapping[str, Any]], ...]
    baseline: Mapping[str, Any]

    @property
    def last(self) -> Mapping[str, Any]:
        """The newest document."""
        return self.steps[-1][3]


@attrs.frozen
class Replayed:
    """What was recomputed, how much of it, and what did not come out the same.

    ``fingerprint``: SHA-256 over every verdict and e-value after every single observation; equal on
    every platform and Python version. ``unverified``: decisions of a process on its own evidence that
    the stored order can not reproduce.
    """

    journal: Verified
    rollouts: int = 0
    verdicts: int = 0
    compared: int = 0
    transitions: int = 0
    routed: int = 0
    facts: int = 0
    fingerprint: str = ""
    problems: tuple[Problem, ...] = ()
    unverified: tuple[str, ...] = ()

    @property
    def decisions(self) -> int:
        """Everything that was recomputed."""
        return self.verdicts + self.transitions + self.routed


class Replay:
    """Plays the rollouts of an index again.

    ``lag``: seconds for which another process may have routed by the document before.
    """

    def __init__(self, index: Index, registry: Registry, lag: float = 5.0) -> None:
        self._index = index
        self._registry = registry
        self._lag = lag

    def run(
        self, anchor: Mapping[str, Any] | None = None, progress: Progress | None = None
    ) -> Replayed:
        """Check the journal, the facts it made, and every rollout; nothing is written."""
        contents = self._index.load()
        entries, journal = Decisions(self._index).read(anchor)
        problems = list(journal.problems)
        if not entries:
            return Replayed(journal, problems=tuple(problems))
        problems += _facts(entries[: contents.revision], contents.facts)
        found = attempts(entries)
        players = []
        for number, attempt in enumerate(found):
            if progress is not None:
                progress("rollouts", number, len(found))
            player = _Player(self, attempt)
            player.play()
            players.append(player)
        problems += [problem for player in players for problem in player.problems]
        digest = hashlib.sha256()
        for player in players:
            digest.update(player.fingerprint.digest())
        return Replayed(
            journal,
            len(players),
            sum(p.verdicts for p in players),
            sum(p.compared for p in players),
            sum(p.transitions for p in players),
            sum(p.routed for p in players),
            len(contents.facts),
            digest.hexdigest(),
            tuple(problems),
            tuple(text for p in players for text in p.unverified),
        )

    def machine(self, attempt: Attempt) -> Rollout:
        """The rollout as a process held it when it began."""
        document = attempt.steps[0][3]
        judge = self.judge(document)
        ramp: Safeguard[Any] = self._registry.make(
            "safeguards", document["ramp"]["use"], document["ramp"]["options"], "canary"
        )
        return Rollout(document, 1, judge, ramp, baseline_from_json(attempt.baseline))

    def judge(self, document: Mapping[str, Any]) -> Judge[Any]:
        """The judge that a document names, as it is installed now."""
        made: Judge[Any] = self._registry.make(
            "judges", document["judge"]["use"], document["judge"]["options"], "canary.judge"
        )
        return made

    def observations(self, rollout: str) -> Sequence[Observation]:
        """All evidence of a rollout that is stored."""
        return self._index.observations(rollout, 0)

    @property
    def lag(self) -> float:
        """Seconds by which another process may follow late."""
        return self._lag


def attempts(entries: Sequence[Entry]) -> list[Attempt]:
    """The rollouts in a journal, in the order they began."""
    steps: dict[str, list[tuple[int, float, str, Mapping[str, Any]]]] = {}
    frozen: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        for change in entry.changes:
            if change.kind == "frozen" and isinstance(change, Put):
                frozen[change.key] = change.value
            if change.kind == "rollout" and isinstance(change, Put) and change.value:
                step = (entry.revision, entry.at, entry.actor, change.value)
                steps.setdefault(change.value["rollout"], []).append(step)
    return [
        Attempt(
            name,
            each[0][3]["variant_id"],
            tuple(each),
            frozen_of(each[0][3], lambda named: frozen.get(named, _NOTHING)),
        )
        for name, each in steps.items()
    ]


def curve(replay: Replay, attempt: Attempt, points: int = 600) -> Curve:
    """Harm and non-inferiority after each observation, thinned to about ``points`` of them."""
    machine = replay.machine(attempt)
    stored = replay.observations(attempt.id)
    every = max(1, len(stored) // points)
    at, harm, well = [], [], []
    for number, observation in enumerate(stored, 1):
        verdict = machine.fold((observation,), "")
        evidence = machine.evidence
        if number % every == 0 or number == len(stored) or verdict == Verdict.ROLLBACK:
            at.append(observation.at)
            harm.append(max(evidence.e_value, evidence.parts.get("collapse", 0.0)))
            well.append(evidence.noninferiority)
        if verdict == Verdict.ROLLBACK:
            break
    return Curve(tuple(at), tuple(harm), tuple(well))


class _Player:
    """Plays one rollout again."""

    def __init__(self, replay: Replay, attempt: Attempt) -> None:
        self._replay = replay
        self._attempt = attempt
        self._stored = replay.observations(attempt.id)
        self.problems: list[Problem] = []
        self.unverified: list[str] = []
        self.verdicts = self.compared = self.transitions = self.routed = 0
        self.fingerprint = hashlib.sha256(attempt.id.encode())

    def play(self) -> None:
        """Verdicts, transitions, routing."""
        try:
            if self._judged_alike():
                self._verdicts()
            self._transitions()
            self._ratios()
            self._routing()
        except (EmergenceError, KeyError, TypeError, ValueError, AttributeError) as error:
            revision = self._attempt.steps[0][0]
            self._wrong("verdict", revision, f"can not be played again: {error!r}")

    def _wrong(self, kind: str, revision: int, text: str) -> None:
        name = f"entry {revision}, the rollout of {self._attempt.variant_id}"
        self.problems.append(Problem(kind, revision, f"{name}: {text}"))

    # -- verdicts ---------------------------------------------------------------------------------

    def _judged_alike(self) -> bool:
        """Does the judge that is installed weigh as the one that decided then?"""
        first = self._attempt.steps[0][3]
        judge = self._replay.judge(first)
        apart = isinstance(first["baseline"], str)  # before that no judge had a version
        then, now = first["judge"].get("version", int(apart)), getattr(judge, "version", 1)
        if then != now:
            self.unverified.append(
                f"the rollout of {self._attempt.variant_id}: version {then} of the judge "
                f"{first['judge']['use']!r} decided, version {now} is installed; its verdicts are "
                f"recomputed by the release that wrote them"
            )
        return bool(then == now)

    def _verdicts(self) -> None:
        """Fold every observation, and stop where a document says what the judge had said there."""
        waiting: dict[int, list[tuple[int, Mapping[str, Any]]]] = {}
        for revision, _, _, document in self._attempt.steps:
            decided = document.get("decided") or {}
            if decided.get("by") == "local":
                self._local(revision, document, decided)
                continue
            if decided.get("by") == "nobody":
                why = document["evidence"].get("reason", "")
                self.unverified.append(
                    f"entry {revision}, the rollout of {self._attempt.variant_id}: {why}"
                )
                continue
            sequence = decided.get("sequence", document["sequence"])
            waiting.setdefault(sequence, []).append((revision, document))
        machine = self._replay.machine(self._attempt)
        machine.fold((), "")
        for revision, document in waiting.pop(0, ()):
            self.compared += 1
            untouched = document["evidence"] in ({}, evidence_to_json(Evidence()))
            if not untouched or document["verdict"] != Verdict.CONTINUE:
                self._compare(revision, document, machine)
        for observation in self._stored:
            verdict = machine.fold((observation,), "")
            self.verdicts += 1
            evidence = machine.evidence
            text = f"{verdict} {evidence.e_value.hex()} {evidence.noninferiority.hex()}\n"
            self.fingerprint.update(text.encode())
            for revision, document in waiting.pop(observation.sequence, ()):
                self.compared += 1
                self._compare(revision, document, machine)
        for each in waiting.values():
            for revision, document in each:
                last = self._stored[-1].sequence if self._stored else 0
                self._wrong(
                    "verdict",
                    revision,
                    f"its evidence goes up to observation {document['sequence']}, which is not "
                    f"stored (the last one is {last})",
                )

    def _compare(self, revision: int, document: Mapping[str, Any], machine: Rollout) -> None:
        text = _difference(document, machine.verdict, machine.evidence)
        if text:
            self._wrong("verdict", revision, text)

    def _local(
        self, revision: int, document: Mapping[str, Any], decided: Mapping[str, Any]
    ) -> None:
        """What one process proved on its own records, in the order it stored them."""
        machine = self._replay.machine(self._attempt)
        verdict, evidence = machine.saw_many(decided_on(document, self._stored))
        text = _difference(document, verdict, evidence)
        self.compared += 1
        if not text:
            return
        if machine.processes > 1 or any(e.writer != decided["writer"] for e in self._stored):
            self.unverified.append(
                f"entry {revision}, the rollout of {self._attempt.variant_id}: one of several processes "
                f"decided on its own evidence, which the merged order does not reproduce ({text})"
            )
        else:
            self._wrong("verdict", revision, text)

    # -- transitions ------------------------------------------------------------------------------

    def _transitions(self) -> None:
        """Every document's state must be the ramp's answer to the event stored with it."""
        ramp = self._replay.machine(self._attempt).ramp
        stepping = Stepping(ramp, self._attempt.steps[0][3], self._stored)
        for revision, _, _, document in self._attempt.steps:
            self.transitions += 1
            for text in stepping.take(document):
                self._wrong("transition", revision, text)

    def _ratios(self) -> None:
        """The units counted in each arm, and the shares they were counted at."""
        if any("share" not in document for *_, document in self._attempt.steps):
            self.unverified.append(
                f"the rollout of {self._attempt.variant_id}: its units were counted by a release that "
                f"did not store from which record on a share held"
            )
            return
        for kind, revision, text in recounted(self._attempt.steps, self._stored):
            self._wrong(kind, revision, text)

    # -- routing ----------------------------------------------------------------------------------

    def _routing(self) -> None:
        """A unit of the canary's arm was in the share then, one of the control's was not."""
        steps = self._attempt.steps
        first = steps[0][3]
        salt = int(first["salt"], 16)
        began = [at for _, at, _, _ in steps]
        shares = [_slice(document) for _, _, _, document in steps]
        for observation in self._stored:
            self.routed += 1
            last = bisect_right(began, observation.at)
            early = bisect_right(began, observation.at - self._replay.lag)
            late = set(shares[max(0, early - 1) : max(1, last)])
            canary = observation.arm == "canary"
            if not any(routed(observation.unit, salt, ppm) == canary for ppm in late):
                where = "outside" if canary else "inside"
                revision = steps[max(0, last - 1)][0]
                self._wrong(
                    "routing",
                    revision,
                    f"observation {observation.sequence} of {observation.unit!r} is in the "
                    f"{observation.arm} arm, but the unit was {where} the share",
                )


def decided_on(document: Mapping[str, Any], stored: Sequence[Observation]) -> Sequence[Observation]:
    """The records that the evidence of a document stands on, in the order they were folded."""
    decided = document.get("decided") or {}
    if decided.get("by") == "local":
        joined = decided["joined"]
        mine = [
            each
            for each in stored
            if (each.sequence > joined and each.writer == decided["writer"])
            or (each.sequence <= joined and document["processes"] == 1)
        ]
        return mine[: decided["records"]]
    sequence = decided.get("sequence", document["sequence"])
    return [each for each in stored if each.sequence <= sequence]


def _slice(document: Mapping[str, Any]) -> int:
    """``Rollout.slice_ppm`` of a stored document."""
    state, levels = document["state"], document["levels"]
    if state["ppm"]:
        return int(state["ppm"])
    return int(levels[min(state["level"], len(levels) - 1)])


def _difference(document: Mapping[str, Any], verdict: Verdict, evidence: Evidence) -> str:
    """What is stored and what comes out, when they are not the same to the last bit."""
    again = evidence_to_json(evidence)
    if document["verdict"] != str(verdict):
        return f"the verdict {document['verdict']!r} comes out as {str(verdict)!r}"
    stored = document["evidence"]
    for name in sorted({*stored, *again}):
        if canonical(stored.get(name)) != canonical(again.get(name)):
            return f"{name} {stored.get(name)!r} comes out as {again.get(name)!r}"
    return ""


def _facts(entries: Sequence[Entry], facts: Sequence[Any]) -> list[Problem]:
    """Do the facts follow from the journal, to the last one?"""
    made: dict[tuple[str, str], tuple[int, Any, int]] = {}
    for entry in entries:
        for change in entry.changes:
            key = (change.kind, change.key)
            version = made[key][0] + 1 if key in made else 1
            value = None if isinstance(change, Drop) else change.value
            made[key] = (version, value, entry.revision)
    problems = []
    for fact in facts:
        version, value, revision = made.pop((fact.kind, fact.key), (0, None, 0))
        if (version, canonical(value)) != (fact.version, canonical(fact.value)):
            text = f"{fact.kind} {fact.key!r} is not what the journal made it"
            problems.append(Problem("facts", revision or None, text))
    problems += [
        Problem("facts", revision, f"{kind} {key!r} is in the journal, but it is gone")
        for (kind, key), (_, _, revision) in made.items()
    ]
    return problems
