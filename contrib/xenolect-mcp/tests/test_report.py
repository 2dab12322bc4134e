"""The report: complete, and readable without a network."""

from __future__ import annotations

import json
import re
from pathlib import Path

from xenolect_mcp.demo import report
from xenolect_mcp.demo.results import Arm, Attempt, PhaseResult, Results, Sample


def attempt(arm: Arm, ok: bool = True, suite: str = "MathAPI", agent: str = "a<b>") -> Attempt:
    variant = "new" if arm is Arm.CANARY else "old"
    return Attempt(
        arm, agent, "1#s", suite, variant, ok, 2.5, 400, 800, 500, 0.1, "" if ok else "no"
    )


def results(*attempts: Attempt, outcome: str = "promoted") -> Results:
    phase = PhaseResult(
        1, "Title & more", "what", "new", "old", "promoted", outcome=outcome, ended=1.0
    )
    phase.attempts = list(attempts)
    phase.samples = [Sample(i / 10, 0.25, 1.0, 2.0**i, i, 0, "ramping") for i in range(10)]
    return Results("speed = 1", phases=[phase], replay=[attempt(Arm.REPLAY)])


def test_page_refers_to_nothing_outside() -> None:
    """No address to fetch, no script, no style or picture from elsewhere; names are escaped."""
    page = report.html(results(attempt(Arm.CANARY), attempt(Arm.CANARY, False, "x<y>")))
    assert not re.search(r"(?i)https?://|//cdn|\bsrc=|\bhref=|@import|url\(|<script|<link", page)
    assert "Title &amp; more" in page
    assert "x<y>" not in page


def test_both_files_are_written(tmp_path: Path) -> None:
    """report.json says the same as the page's headline."""
    page, data = report.write(results(attempt(Arm.CANARY)), tmp_path / "out")
    body = json.loads(data.read_text())
    assert body["passed"] is True
    assert body["sentence"] == "1 promoted, 0 stopped, 0 agents broken"
    assert body["sentence"] in page.read_text()


def test_failures_outside_of_a_canary_are_not_forgiven() -> None:
    """A failed control call, or a repeat that fails again, breaks an agent; a failed canary call does not."""
    assert not results(attempt(Arm.CANARY, False)).problems
    control = results(attempt(Arm.CONTROL, False))
    assert control.broken == {"a<b>"}
    assert "1 calls failed outside of a canary" in control.problems
    again = results(attempt(Arm.CANARY, False), attempt(Arm.RETRY, False))
    assert len(again.broken) == 1
    assert len(again.problems) == 1


def test_an_unexpected_decision_is_a_problem() -> None:
    """What should pass must pass, and a replay must have happened."""
    assert "phase 1 (Title & more) was stopped, not promoted" in results(outcome="stopped").problems
    unplayed = results(attempt(Arm.CANARY))
    unplayed.replay = []
    assert unplayed.problems
