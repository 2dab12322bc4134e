"""Judging at looks: sums of both arms, and every few minutes one verdict that stands until the next.

A look happens when the first record at or after its time arrives, on everything before that record;
so a verdict depends on the records and their times alone, however they were handed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from xenolect.errors import CorruptError
from xenolect.facts import Observation
from xenolect.judges import Evidence, Guardrail, JudgeConfig
from xenolect.model import Verdict
from xenolect_plugins._measures import Measure, Moments, rounded

__all__ = ["Look", "Looks", "Said", "answer", "dump", "fold", "load"]

_UNITS = 10_000  # units counted apart, at most
_MINUTE = 60.0
_POINTS = 2_880  # minutes kept: two days

Pair = tuple[Moments, Moments]


@attrs.frozen
class Said:
    """What a look came to. ``statistic`` rolls back at ``limit``, ``shown`` promotes at ``needed``."""

    verdict: Verdict = Verdict.CONTINUE
    reason: str = ""
    statistic: float = 0.0
    limit: float = 1.0
    shown: float = 0.0
    needed: float = 1.0
    parts: dict[str, float] = attrs.field(factory=dict)


def _pairs(measures: Sequence[Measure]) -> dict[str, Pair]:
    return {each.name: (Moments(), Moments()) for each in measures}


@attrs.define
class Looks:
    """Everything such a judge knows of one rollout; owned by one writer.

    ``whole``: per measure the sums of canary and control since the start; ``window``: since the last
    look; ``minute``: of the minute that is running, when ``points`` are kept: the means of the minutes
    that are over. ``memory``: what the judge itself remembers, JSON.
    """

    judge: str
    interval: float
    config: JudgeConfig
    measures: tuple[Measure, ...]
    points_kept: bool = False
    due: float | None = None
    now: float = -math.inf
    looks: int = 0
    operations: list[int] = attrs.field(factory=lambda: [0, 0])
    failures: list[int] = attrs.field(factory=lambda: [0, 0])
    seen: tuple[dict[str, None], dict[str, None]] = attrs.field(factory=lambda: ({}, {}))
    whole: dict[str, Pair] = attrs.field(factory=dict)
    window: dict[str, Pair] = attrs.field(factory=dict)
    minute: dict[str, Pair] = attrs.field(factory=dict)
    minute_ends: float | None = None
    points: dict[str, tuple[list[float], list[float]]] = attrs.field(factory=dict)
    memory: dict[str, Any] = attrs.field(factory=dict)
    said: Said = attrs.field(factory=Said)

    def __attrs_post_init__(self) -> None:
        self.whole = _pairs(self.measures)
        self.window = _pairs(self.measures)
        self.minute = _pairs(self.measures)
        self.points = {each.name: ([], []) for each in self.measures}

    def _close_minute(self) -> None:
        for name, pair in self.minute.items():
            for points, moments in zip(self.points[name], pair, strict=True):
                if moments.count:
                    points.append(moments.mean)
                    del points[:-_POINTS]
        self.minute = _pairs(self.measures)


Look = Callable[[Looks], Said]


def fold(state: Looks, records: Iterable[Observation], look: Look) -> tuple[Verdict, Evidence]:
    """Fold the records in order, looking when it is time, until a look rolls back."""
    for record in records:
        if state.said.verdict is Verdict.ROLLBACK:
            break
        if record.operations < 1 or not math.isfinite(record.at):
            continue  # says nothing; refused where it came in
        if record.arm not in ("canary", "control"):
            continue
        now = state.now = max(state.now, record.at)
        if state.points_kept:
            if state.minute_ends is not None and now >= state.minute_ends:
                state._close_minute()
            if state.minute_ends is None or now >= state.minute_ends:
                state.minute_ends = now - now % _MINUTE + _MINUTE
        if state.due is None:
            state.due = now + state.interval
        elif now >= state.due:
            state.due += state.interval * math.floor((now - state.due) / state.interval + 1.0)
            if _look(state, look) is Verdict.ROLLBACK:
                break
        _count(state, record)
    return answer(state)


def _look(state: Looks, look: Look) -> Verdict:
    canary, control = state.window["failures"]
    if canary.count and control.count:
        state.looks += 1
        state.said = look(state)
    else:
        reason = "no data" if not canary.count else "no control"
        state.said = attrs.evolve(state.said, verdict=Verdict.HOLD, reason=reason)
    state.window = _pairs(state.measures)
    return state.said.verdict


def _count(state: Looks, record: Observation) -> None:
    arm = 0 if record.arm == "canary" else 1
    operations = record.operations
    state.operations[arm] += operations
    state.failures[arm] += min(max(record.failures, 0), operations)
    seen = state.seen[arm]
    if record.unit not in seen and len(seen) < _UNITS:
        seen[record.unit] = None
    for measure in state.measures:
        value = measure.of(record)
        if value is None:
            continue
        for sums in (state.whole, state.window, state.minute):
            if measure.name == "failures":
                sums["failures"][arm].add_share(value, operations)
            else:
                sums[measure.name][arm].add(value)


def answer(state: Looks) -> tuple[Verdict, Evidence]:
    """The verdict as it stands."""
    said = state.said
    verdict, reason = said.verdict, said.reason
    if verdict is not Verdict.ROLLBACK:
        if not state.operations[0]:
            verdict, reason = Verdict.HOLD, "no data"
        elif not state.operations[1]:
            verdict, reason = Verdict.HOLD, "no control"
    return verdict, Evidence(
        e_value=rounded(said.statistic),
        threshold=rounded(said.limit),
        noninferiority=rounded(said.shown),
        promote_at=rounded(said.needed),
        reason=reason,
        parts={name: rounded(value) for name, value in said.parts.items()},
        canary_operations=state.operations[0],
        canary_failures=state.failures[0],
        canary_units=len(state.seen[0]),
        control_operations=state.operations[1],
        control_failures=state.failures[1],
        control_units=len(state.seen[1]),
        detail={"judge": state.judge, "looks": state.looks},
    )


def dump(state: Looks) -> bytes:
    """The state as JSON; Python writes floats so that they come back bit for bit."""
    body = {
        "judge": state.judge,
        "interval": state.interval,
        "config": attrs.asdict(state.config),
        "measures": [attrs.asdict(each) for each in state.measures],
        "points_kept": state.points_kept,
        "due": state.due,
        "now": state.now if math.isfinite(state.now) else None,
        "looks": state.looks,
        "operations": state.operations,
        "failures": state.failures,
        "seen": [list(units) for units in state.seen],
        "minute_ends": state.minute_ends,
        "points": state.points,
        "memory": state.memory,
        "said": attrs.asdict(state.said),
        **{
            name: {key: [arm.dump() for arm in pair] for key, pair in sums.items()}
            for name, sums in (
                ("whole", state.whole),
                ("window", state.window),
                ("minute", state.minute),
            )
        },
    }
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def load(judge: str, data: bytes) -> Looks:
    """Read what ``dump`` wrote; CorruptError when it is something else."""
    try:
        body: dict[str, Any] = json.loads(data)
        if body["judge"] != judge:
            raise CorruptError(
                f"this is a state of the judge {body['judge']!r}, not of {judge!r}; abort the rollout "
                "and start it again with the judge it shall have"
            )
        state = Looks(
            judge,
            body["interval"],
            _config(body["config"]),
            tuple(_measure(each) for each in body["measures"]),
            body["points_kept"],
            body["due"],
            -math.inf if body["now"] is None else body["now"],
            body["looks"],
            body["operations"],
            body["failures"],
            (dict.fromkeys(body["seen"][0]), dict.fromkeys(body["seen"][1])),
            minute_ends=body["minute_ends"],
            memory=body["memory"],
            said=Said(**{**body["said"], "verdict": Verdict(body["said"]["verdict"])}),
        )
        for name, sums in (
            ("whole", state.whole),
            ("window", state.window),
            ("minute", state.minute),
        ):
            for key, pair in sums.items():
                for arm, stored in zip(pair, body[name][key], strict=True):
                    arm.load(stored)
        for key in state.points:
            canary, control = body["points"][key]
            state.points[key] = (list(canary), list(control))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptError(
            f"the judge's state can not be read ({type(error).__name__}: {error}); "
            "start it again from the rollout's stored observations"
        ) from error
    return state


def _config(data: dict[str, Any]) -> JudgeConfig:
    guardrails = tuple(Guardrail(**each) for each in data["guardrails"])
    return JudgeConfig(**{**data, "levels": tuple(data["levels"]), "guardrails": guardrails})


def _measure(data: dict[str, Any]) -> Measure:
    guardrail = data["guardrail"]
    return Measure(**{**data, "guardrail": None if guardrail is None else Guardrail(**guardrail)})
