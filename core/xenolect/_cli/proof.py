"""On which records a rollout was decided, and the page that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

import attrs

from xenolect._cli.chart import Line, Mark, chart, facts, page
from xenolect._replay import Attempt, Replay, attempts, curve, decided_on
from xenolect.errors import NotFoundError
from xenolect.facts import Observation
from xenolect.manager import EmergenceManager
from xenolect.model import CanaryState, Verdict

__all__ = ["Proof", "proof", "report"]

MEANING = {
    "failure_ratio": "the canary fails more often, beside the control, than the judge tolerates",
    "failure_difference": "the canary's units fail more often than the control's by the margin",
    "latency": "the canary is slower than the control by the tolerated ratio",
    "latency_tail": "the canary's slow operations are more or slower than the ratio allows",
    "collapse_without_control": "the canary fails so much that it needs no control to be seen",
    "non_inferiority": "the canary is not worse than its control by the margin",
    "crash_on_load": "agents reported that it crashed while it was loaded",
    "schema_violation": "it wrote what its own schema forbids",
    "corrupt_state": "its state was not what was written",
}


def _meaning(reason: str) -> str:
    if reason.startswith("custom."):
        return f"the declared metric {reason[7:]!r} is worse on the canary than its margin allows"
    if reason.startswith("limit."):
        return f"the declared metric {reason[6:]!r} passed its limit"
    return MEANING.get(reason, "")


@attrs.frozen
class Proof:
    """Rule and numbers of a rollout's newest document, and the canary's last records before it.

    ``rule`` is "" where neither the judge nor a critical failure decided (an operator, a breaker).
    ``critical``: what was found, of a critical failure.
    """

    rule: str
    meaning: str
    judge: str
    verdict: str
    alpha: float
    e_value: float | None
    threshold: float | None
    noninferiority: float | None
    promote_at: float | None
    by: str
    writer: str
    weighed: int
    ended_at: datetime | None
    records: tuple[Observation, ...]
    critical: Mapping[str, Any] = attrs.field(factory=dict)


def proof(manager: EmergenceManager, variant_id: str, last: int = 5) -> Proof | None:
    """What decided the variant's last rollout; None where it never had one."""
    runtime = manager._runtime
    document = runtime.value("rollout", variant_id)
    if document is None:
        return None
    runtime.flush()
    document = runtime.value("rollout", variant_id)
    evidence: Mapping[str, Any] = document["evidence"]
    decided = document.get("decided") or {}
    stored = runtime.index.observations(document["rollout"], 0)
    ended = document["ended_at"]
    critical: Mapping[str, Any] = document.get("critical") or {}
    weighed = decided_on(document, stored) if ended and not critical else stored
    rule = critical.get("rule") or _rule(document)
    return Proof(
        rule,
        _meaning(rule),
        document["judge"]["use"],
        document["verdict"],
        document["alpha"] / document["attempt"] ** 2,
        evidence.get("e_value"),
        evidence.get("threshold"),
        evidence.get("noninferiority"),
        evidence.get("promote_at"),
        decided.get("by", "merged"),
        decided.get("writer", ""),
        len(weighed),
        None if ended is None else datetime.fromtimestamp(ended, UTC),
        tuple([each for each in weighed if each.arm == "canary"][-last:]),
        critical,
    )


def _rule(document: Mapping[str, Any]) -> str:
    """What the judge decided by; "" where somebody else ended the rollout."""
    state, verdict = document["state"]["state"], document["verdict"]
    judged = {CanaryState.ROLLED_BACK: Verdict.ROLLBACK, CanaryState.PROMOTED: Verdict.PROMOTE}
    if document["ended_at"] and judged.get(state) != verdict:
        return ""
    return str(document["evidence"].get("reason", ""))


def report(manager: EmergenceManager, variant_id: str) -> str:
    """One rollout as a page: shares, evidence recomputed from its records, and every step."""
    runtime = manager._runtime
    found = proof(manager, variant_id, 12)
    mine = [each for each in attempts(list(manager.decisions)) if each.variant_id == variant_id]
    if found is None or not mine:
        raise NotFoundError(
            f"variant {variant_id!r} never had a rollout; there is nothing to report"
        )
    attempt = mine[-1]
    document = attempt.last
    replay = Replay(runtime.index, runtime.registry)
    drawn = curve(replay, attempt)
    began = document["started_at"]
    at = [moment - began for moment in drawn.at]
    harm, well = (
        Line("harm", at, drawn.e_value, "b"),
        Line("not worse", at, drawn.noninferiority, "c"),
    )
    marks = [
        Mark(value, name, below)
        for value, name, below in (
            (found.threshold, "rollback", False),
            (found.promote_at, "promotion", True),
        )
        if value is not None
    ]
    evidence = document["evidence"]
    rows = [
        ("state", str(document["state"]["state"])),
        ("reason", document["reason"] or document["state"]["reason"] or "-"),
        ("rule", f"{found.rule} ({found.meaning})" if found.meaning else found.rule or "-"),
        ("judge", f"{found.judge}, alpha {found.alpha:.3g}, attempt {document['attempt']}"),
        ("control", document["control_id"]),
        *((name, _said(value)) for name, value in found.critical.items() if name != "rule"),
    ]
    if evidence.get("canary_operations") or evidence.get("control_operations"):
        rows += [
            ("evidence of harm", f"{evidence['e_value']:.4g} (rollback at {found.threshold:.4g})"),
            (
                "not worse",
                f"{evidence['noninferiority']:.4g} (promotion from {found.promote_at:.4g})",
            ),
            ("canary", _arm(evidence, "canary", document["unit"])),
            ("control arm", _arm(evidence, "control", document["unit"])),
        ]
    return page(
        f"Rollout {document['attempt']} of {variant_id}",
        facts(rows),
        "<h2>Evidence</h2>",
        chart(
            "e-values after each observation, recomputed from the stored records",
            [harm, well],
            marks,
            log=True,
        ),
        "<h2>Share served</h2>",
        chart("share of the units", [_shares(attempt, max(at, default=0.0))]),
        f"<h2>Last records of the canary {'before the end' if found.ended_at else 'so far'}</h2>",
        _table(
            ("record", "time", document["unit"], "operations", "failures", "latency"),
            [
                (
                    str(each.sequence),
                    _time(each.at),
                    each.unit,
                    str(each.operations),
                    str(each.failures),
                    "-" if each.latency_ms is None else f"{each.latency_ms:.1f} ms",
                )
                for each in found.records
            ],
        ),
        "<h2>Every step</h2>",
        _table(
            ("entry", "time", "by", "event", "state", "level", "share", "e-value"),
            [_step(step) for step in attempt.steps],
        ),
    )


def _said(value: Any) -> str:
    """What was found, in words."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _arm(evidence: Mapping[str, Any], arm: str, unit: str) -> str:
    return (
        f"{evidence[f'{arm}_failures']} of {evidence[f'{arm}_operations']} operations failed, "
        f"{evidence[f'{arm}_units']} {unit}s"
    )


def _shares(attempt: Attempt, end: float) -> Line:
    began = attempt.last["started_at"]
    at: list[float] = []
    value: list[float] = []
    for _, moment, _, document in attempt.steps:
        state = document["state"]
        done = state["state"] == CanaryState.PROMOTED
        if value:
            at.append(moment - began)
            value.append(value[-1])
        at.append(moment - began)
        value.append(1.0 if done else state["ppm"] / 1_000_000)
    at.append(max(end, at[-1]))
    value.append(value[-1])
    return Line("share", at, value)


def _step(step: tuple[int, float, str, Mapping[str, Any]]) -> Sequence[str]:
    revision, at, actor, document = step
    state = document["state"]
    made = document.get("step")
    e_value = document["evidence"].get("e_value")
    return (
        str(revision),
        _time(at),
        actor,
        "-" if made is None else made["event"],
        f"{state['state']}: {state['reason']}" if state["reason"] else str(state["state"]),
        str(state["level"] + 1),
        f"{state['ppm'] / 1_000_000:.1%}",
        "-" if e_value is None else f"{e_value:.3g}",
    )


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f'<table class="grid">\n<tr>{head}</tr>\n{body}\n</table>'


def _cell(text: str) -> str:
    """Long ones may wrap."""
    kind = ' class="long"' if len(text) > 24 else ""
    return f"<td{kind}>{escape(text)}</td>"
