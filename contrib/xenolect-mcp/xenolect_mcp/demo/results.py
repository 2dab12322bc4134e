"""What happened, call by call, and what it adds up to. Knows neither the manager nor the screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import attrs

__all__ = ["Arm", "Attempt", "PhaseResult", "Results", "Sample", "Tally", "percentile"]


class Arm(StrEnum):
    """Where a call was: under test, its control, in neither, a repeated canary call, or the replay."""

    CANARY = "canary"
    CONTROL = "control"
    OTHER = "other"
    RETRY = "retry"
    REPLAY = "replay"


@attrs.frozen
class Attempt:
    """One call on the wire. ``bytes``: bodies both ways, ``plain`` as JSON; ``headers`` both ways."""

    arm: Arm
    agent: str
    session: str
    suite: str
    variant: str
    ok: bool
    ms: float
    bytes: int
    plain: int
    headers: int
    at: float
    error: str = ""


@attrs.frozen
class Sample:
    """The rollout at a moment, ``at`` seconds into the demo; evidence as e-values."""

    at: float
    fraction: float
    harm: float
    safe: float
    canary_calls: int
    canary_failed: int
    state: str


@attrs.define
class Tally:
    """Attempts added up."""

    calls: int = 0
    failed: int = 0
    bytes: int = 0
    plain: int = 0
    headers: int = 0
    latencies: list[float] = attrs.field(factory=list, repr=False)

    def add(self, attempt: Attempt) -> None:
        """Count one more; latency and bytes of calls that worked."""
        self.calls += 1
        if not attempt.ok:
            self.failed += 1
            return
        self.bytes += attempt.bytes
        self.plain += attempt.plain
        self.headers += attempt.headers
        self.latencies.append(attempt.ms)

    @property
    def bytes_per_call(self) -> float | None:
        """Bodies, both ways, of calls that worked."""
        worked = self.calls - self.failed
        return self.bytes / worked if worked else None

    @property
    def ratio(self) -> float | None:
        """Bytes on the wire per byte of JSON: arms that see different calls can be compared by it."""
        return self.bytes / self.plain if self.plain else None

    @property
    def failure_rate(self) -> float:
        return self.failed / self.calls if self.calls else 0.0

    def to_json(self) -> dict[str, Any]:
        worked = self.calls - self.failed
        return {
            "calls": self.calls,
            "failed": self.failed,
            "body_bytes_per_call": self.bytes_per_call,
            "wire_bytes_per_json_byte": self.ratio,
            "header_bytes_per_call": self.headers / worked if worked else None,
            "latency_ms": {f"p{q}": percentile(self.latencies, q / 100.0) for q in (50, 95, 99)},
        }


def percentile(values: Sequence[float], q: float) -> float | None:
    """The nearest-rank quantile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


@attrs.define
class PhaseResult:
    """One phase: what was tried, what was expected and what came of it."""

    number: int
    title: str
    what: str
    variant: str
    control: str
    expected: str
    note: str = ""
    outcome: str = "undecided"
    reason: str = ""
    started: float = 0.0
    ended: float = 0.0
    sessions: int = 0
    agents_eligible: int = 0
    evidence: Mapping[str, Any] = attrs.field(factory=dict)
    attempts: list[Attempt] = attrs.field(factory=list, repr=False)
    samples: list[Sample] = attrs.field(factory=list, repr=False)
    levels: tuple[float, ...] = ()

    def tally(self, *arms: Arm) -> Tally:
        """What the arms add up to."""
        total = Tally()
        for attempt in self.attempts:
            if attempt.arm in arms:
                total.add(attempt)
        return total

    @property
    def as_expected(self) -> bool:
        return self.outcome == self.expected

    @property
    def decided_after(self) -> float:
        """Seconds."""
        return self.ended - self.started

    def failures(self) -> dict[str, Tally]:
        """The canary's calls by suite."""
        return by_suite(a for a in self.attempts if a.arm is Arm.CANARY)

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "title": self.title,
            "variant": self.variant,
            "control": self.control,
            "expected": self.expected,
            "outcome": self.outcome,
            "reason": self.reason,
            "note": self.note,
            "seconds": round(self.decided_after, 3),
            "sessions": self.sessions,
            "agents_eligible": self.agents_eligible,
            "levels": list(self.levels),
            "evidence": dict(self.evidence),
            "arms": {
                str(arm): self.tally(arm).to_json()
                for arm in Arm
                if any(a.arm is arm for a in self.attempts)
            },
            "canary_by_suite": {
                suite: {"calls": tally.calls, "failed": tally.failed}
                for suite, tally in sorted(self.failures().items())
            },
            "samples": [attrs.asdict(sample) for sample in self.samples],
        }


def by_suite(attempts: Iterable[Attempt]) -> dict[str, Tally]:
    """Attempts by tool suite."""
    suites: dict[str, Tally] = {}
    for attempt in attempts:
        suites.setdefault(attempt.suite, Tally()).add(attempt)
    return suites


@attrs.define
class Results:
    """The whole demo."""

    policy: str
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    phases: list[PhaseResult] = attrs.field(factory=list)
    warm_up: list[Attempt] = attrs.field(factory=list, repr=False)
    replay: list[Attempt] = attrs.field(factory=list, repr=False)
    assignment: Mapping[str, int] = attrs.field(factory=dict)
    seconds: float = 0.0
    agreement: tuple[int, int] = (0, 0)
    executed: tuple[int, int] = (0, 0)  # calls that gave what is recorded, and others

    @property
    def promoted(self) -> int:
        return sum(phase.outcome == "promoted" for phase in self.phases)

    @property
    def stopped(self) -> int:
        return sum(phase.outcome == "stopped" for phase in self.phases)

    @property
    def attempts(self) -> list[Attempt]:
        """All of them, in order."""
        every = [*self.warm_up, *(a for phase in self.phases for a in phase.attempts)]
        return [*every, *self.replay]

    @property
    def broken(self) -> set[str]:
        """Agents with a failure that was final: outside a canary arm, and not repeated."""
        return {a.agent for a in self.attempts if not a.ok and a.arm is not Arm.CANARY}

    @property
    def problems(self) -> list[str]:
        """Why the demo did not show what it should; empty when it did."""
        found = [
            f"phase {phase.number} ({phase.title}) was {phase.outcome}, not {phase.expected}"
            for phase in self.phases
            if not phase.as_expected
        ]
        control = sum(not a.ok and a.arm in (Arm.CONTROL, Arm.OTHER) for a in self.attempts)
        if control:
            found.append(f"{control} calls failed outside of a canary")
        retried = sum(not a.ok and a.arm is Arm.RETRY for a in self.attempts)
        if retried:
            found.append(f"{retried} failed canary calls failed again with the control")
        replayed = sum(not a.ok for a in self.replay)
        if replayed or not self.replay:
            found.append(f"{replayed} of {len(self.replay)} calls of the replay failed")
        return found

    @property
    def sentence(self) -> str:
        """The demo in a line."""
        return f"{self.promoted} promoted, {self.stopped} stopped, {len(self.broken)} agents broken"

    def by_variant_and_suite(self) -> dict[str, dict[str, Tally]]:
        """Every variant's calls by suite: the heat map."""
        table: dict[str, list[Attempt]] = {}
        for attempt in self.attempts:
            table.setdefault(attempt.variant, []).append(attempt)
        return {variant: by_suite(attempts) for variant, attempts in table.items()}

    def by_variant(self) -> dict[str, Tally]:
        """Every variant's calls."""
        table: dict[str, Tally] = {}
        for attempt in self.attempts:
            table.setdefault(attempt.variant, Tally()).add(attempt)
        return table

    def to_json(self) -> dict[str, Any]:
        agreed, differed = self.agreement
        return {
            "format": 1,
            "sentence": self.sentence,
            "passed": not self.problems,
            "problems": self.problems,
            "seconds": round(self.seconds, 2),
            "calls": len(self.attempts),
            "facts": dict(self.facts),
            "policy": self.policy,
            "phases": [phase.to_json() for phase in self.phases],
            "variants": {name: tally.to_json() for name, tally in self.by_variant().items()},
            "heat_map": {
                variant: {
                    suite: {"calls": t.calls, "failed": t.failed} for suite, t in suites.items()
                }
                for variant, suites in self.by_variant_and_suite().items()
            },
            "final_assignment": dict(self.assignment),
            "replay": {
                "calls": len(self.replay),
                "failed": sum(not a.ok for a in self.replay),
            },
            "broken_agents": sorted(self.broken),
            "executed": {"calls": sum(self.executed), "as_recorded": self.executed[0]},
            "both_processes_chose_the_same": {"calls": agreed, "of": agreed + differed},
        }
