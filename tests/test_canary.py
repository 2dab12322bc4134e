"""Rollouts as an operator meets them: slices, levels, time, force, pauses, modes and events."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.fleets import fleet, json_and_zstd, status

from xenolect import (
    AgentContext,
    CanaryState,
    ConfigError,
    EmergenceManager,
    TransitionError,
    VariantStatus,
    Verdict,
)
from xenolect._evidence import Weighed, health_check
from xenolect.cli import main
from xenolect.judges import Evidence
from xenolect.testing import Clock, Heard

Opened = Callable[..., EmergenceManager]


def traffic(
    manager: EmergenceManager, clock: Clock, names: list[str], rounds: int, bad: str = ""
) -> None:
    """Every agent operates once a minute; the variant ``bad`` always fails."""
    for _ in range(rounds):
        for name in names:
            chosen = manager.select(name)
            manager.report(chosen, name, success=chosen.variant.id != bad, latency_ms=5.0)
        clock.advance(60)
        manager.tick()


# -- starting -------------------------------------------------------------------------------------


def test_two_canaries_have_disjoint_slices(manager: EmergenceManager, clock: Clock) -> None:
    """Of one protocol: nobody is in both, the second takes its share of those outside the first, and
    a report of somebody inside the first is no evidence in the second."""
    names = fleet(manager, 400)
    json_and_zstd(manager)
    manager.variants.propose("br", {"wire": "br"}, id="br")
    manager.canaries.start("zstd", initial_fraction=0.5, seed=1)
    clock.advance(1.0)
    manager.canaries.start("br", initial_fraction=0.5, seed=2)

    chosen = {n: manager.select(n).variant.id for n in names}
    for name in names:
        manager.report(chosen[name], name, success=True)
    manager.flush()

    first = {n for n in names if manager.canaries.routes("zstd", n)}
    assert {n for n, v in chosen.items() if v == "zstd"} == first
    second = {n for n in names if manager.canaries.routes("br", n)}
    assert {n for n, v in chosen.items() if v == "br"} == second
    assert 60 <= sum(v == "br" for v in chosen.values()) <= 140
    evidence = manager.canaries.status("br").evidence
    assert evidence["canary_units"] == sum(v == "br" for v in chosen.values())
    assert evidence["control_units"] == sum(v == "json" for v in chosen.values())
    assert manager.canaries.status("zstd").evidence["canary_units"] == len(first)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, (0.1, 0.158489, 0.251189, 0.398107, 0.630957, 0.95)),
        ({"ramp": "linear"}, (0.1, 0.28, 0.46, 0.64, 0.82, 0.95)),
        ({"levels": [0.01, 0.2, 1.0]}, (0.01, 0.2, 0.95)),
        ({"initial_fraction": 0.2, "ramp_steps": 1, "holdback": 0.1}, (0.2, 0.9)),
        ({"initial_fraction": 0.95}, (0.95,)),
    ],
)
def test_levels_as_they_are_asked_for(manager: EmergenceManager, given: Any, wanted: Any) -> None:
    """Geometric, linear, explicit; the last one keeps its holdback."""
    fleet(manager)
    json_and_zstd(manager)

    assert manager.canaries.start("zstd", **given).levels == pytest.approx(wanted)


@pytest.mark.parametrize("share", [0.951, 1.0, 0.0, -0.1])
def test_a_first_share_that_leaves_no_control_is_refused(
    manager: EmergenceManager, share: float
) -> None:
    """Above 95 % nobody would be left to compare with; nothing is started."""
    fleet(manager)
    json_and_zstd(manager)

    with pytest.raises(ConfigError, match="initial_fraction"):
        manager.canaries.start("zstd", initial_fraction=share)

    assert status(manager) == "proposed"
    assert manager.points.list("zstd") == []


def test_the_time_to_a_decision_is_told(
    manager: EmergenceManager, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Returned, in the event, and a warning where it is longer than a day; None without traffic."""
    heard = Heard()
    manager.on(heard)
    names = fleet(manager)
    json_and_zstd(manager)
    for variant in ("a", "b"):
        manager.variants.propose(variant, {}, id=variant)
    assert manager.canaries.start("a").expected_decision is None
    manager.canaries.abort("a")
    for name in names:
        manager.report("json", name, success=True)

    with caplog.at_level(logging.WARNING, "xenolect.safeguards"):
        slow = manager.canaries.start("b").expected_decision
        manager.canaries.abort("b")
        for _ in range(50):
            for name in names:
                manager.report("json", name, success=True)
        fast = manager.canaries.start("zstd", min_effect=0.1, initial_fraction=0.5)

    assert slow is not None
    assert fast.expected_decision is not None
    assert slow > 86_400 > fast.expected_decision >= 5 * 300
    assert [r.getMessage() for r in caplog.records if "days to decide" in r.getMessage()] != []
    assert sum("days to decide" in r.getMessage() for r in caplog.records) == 1
    told = [e.detail["expected_decision"] for e in heard.events if e.kind == "canary.started"]
    assert told == [None, slow, fast.expected_decision]


# -- operators ------------------------------------------------------------------------------------


def test_a_forced_promotion_is_audited(manager: EmergenceManager) -> None:
    """Without evidence only by force; the journal says that it was forced, and why."""
    fleet(manager)
    json_and_zstd(manager)
    manager.canaries.start("zstd")
    with pytest.raises(TransitionError, match="no evidence yet"):
        manager.canaries.promote("zstd")

    after = manager.canaries.promote("zstd", force=True, reason="ticket 1182")

    entry = manager.decisions.list("zstd", newest=True)[0]
    (document,) = [c.value for c in entry.changes if c.kind == "rollout"]
    assert entry.actor == "force promote"
    assert document["state"]["reason"] == "promoted by the operator by force: ticket 1182"
    assert document["step"]["fields"] == {"evidence": False, "force": True, "reason": "ticket 1182"}
    assert after.state == CanaryState.PROMOTED
    assert status(manager) == status(manager, "json") == "active"


def test_evidence_promotes_at_once_when_asked(opened: Opened, clock: Clock) -> None:
    """With the judge's evidence an operator needs no force, and no ramp."""
    manager = opened(canary={"min_effect": 0.1, "min_operations": 50, "initial_fraction": 0.5})
    names = fleet(manager)
    json_and_zstd(manager)
    manager.canaries.start("zstd", health_check_interval=86_000.0, seed=1)
    traffic(manager, clock, names, 20)

    after = manager.canaries.promote("zstd")

    assert after.level == 0
    assert manager.decisions.list("zstd", newest=True)[0].actor == "promote"
    assert status(manager) == "active"


def test_a_pause_outlives_a_restart(tmp_path: Path, opened: Opened) -> None:
    """Nobody is served, here and in the next process; it goes on where it was."""
    manager = opened(tmp_path)
    names = fleet(manager)
    json_and_zstd(manager)
    manager.canaries.start("zstd", initial_fraction=0.5, seed=1)
    inside = {n for n in names if manager.canaries.routes("zstd", n)}
    manager.canaries.pause("zstd")
    with pytest.raises(TransitionError, match="resume it first"):
        manager.canaries.promote("zstd", force=True)
    manager.close()

    manager = opened(tmp_path)
    paused = {manager.select(n).variant.id for n in names}
    manager.canaries.resume("zstd")

    assert paused == {"json"}
    assert {n for n in names if manager.select(n).variant.id == "zstd"} == inside


@pytest.mark.parametrize("policy", ["hold", "abort", "promote"])
def test_without_a_decision_the_policy_decides(opened: Opened, clock: Clock, policy: str) -> None:
    """Traffic, but too little to decide: on hold with one alert, aborted without blame, or promoted."""
    heard = Heard()
    manager = opened(plugins=[heard])
    names = fleet(manager)
    json_and_zstd(manager)
    manager.canaries.start(
        "zstd", max_duration="30m", on_inconclusive=policy, min_operations=10**6, seed=1
    )

    traffic(manager, clock, names, 60)

    found = manager.canaries.status("zstd").state
    assert found == {"hold": "hold", "abort": "aborted", "promote": "promoted"}[policy]
    assert sum(e.kind == "canary.alert" for e in heard.events) == (policy == "hold")
    if policy == "abort":
        assert manager.variants.quarantine("zstd") is None


@pytest.mark.parametrize(
    ("noninferiority", "e_value", "strong"),
    [(1000.0, 1.0, True), (999.0, 1.0, False), (1e9, 1.01, False), (20.0, 0.1, False)],
)
def test_what_strong_evidence_is(
    manager: EmergenceManager, noninferiority: float, e_value: float, strong: bool
) -> None:
    """50 times what promotion needs and none of harm; what it does is in the tests of the ramp."""
    fleet(manager)
    json_and_zstd(manager)
    manager.canaries.start("zstd", adaptive=True)
    rollout = manager.canaries._rollouts["zstd"]
    evidence = Evidence(noninferiority=noninferiority, e_value=e_value)

    check = health_check(
        rollout, Weighed(Verdict.PROMOTE, evidence), manager._runtime.clock(), 60.0, 1
    )

    assert check.strong is strong
    assert rollout.ramp.adaptive is True


# -- exposure -------------------------------------------------------------------------------------


def test_nobody_is_served_after_the_record_that_proved_harm(tmp_path: Path) -> None:
    """With a thread, and while the commit is held back: not one choice after ``report`` returned."""
    with EmergenceManager.open(tmp_path) as manager:
        names = fleet(manager)
        json_and_zstd(manager)
        manager.canaries.start("zstd", initial_fraction=0.5, seed=1)
        inside = [n for n in names if manager.canaries.routes("zstd", n)]
        commit, go = manager._runtime.index.commit, threading.Event()

        def held(*args: Any, **given: Any) -> int:
            go.wait(30)
            return commit(*args, **given)

        manager._runtime.index.commit = held  # type: ignore[method-assign]
        reported = 0
        for name in inside:
            reported += 1
            manager.report("zstd", name, success=False)
            if "zstd" in manager._breakers.shut:
                break
        after = {manager.select(n).variant.id for n in names}
        before = status(manager)
        go.set()
        manager.flush()

        assert reported <= 6
        assert before == "canary"  # not committed yet
        assert after == {"json"}
        manager.rollback("zstd")
        assert status(manager) == "rolled_back"


# -- modes and events -----------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["run time", "environment"])
@pytest.mark.parametrize("mode", ["observe", "baseline"])
def test_modes_serve_the_baseline(
    tmp_path: Path,
    opened: Opened,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
    mode: str,
) -> None:
    """Switched while it runs (for every process) or by the environment (for one)."""
    manager = opened(tmp_path)
    names = fleet(manager)
    json_and_zstd(manager)
    manager.canaries.start("zstd", initial_fraction=0.5, seed=1)
    if by == "run time":
        manager.mode = mode
    else:
        monkeypatch.setenv("XENOLECT__MODE", mode)
    other = opened(tmp_path)

    served = {(s.variant.id, s.reason) for s in map(other.select, names)}
    assert served == {("json", "baseline")}
    assert other.mode == mode
    assert manager.mode == (mode if by == "run time" else "normal")
    other.mode = "normal"
    assert {other.select(n).variant.id for n in names} == {"json", "zstd"}


def test_observe_tells_verdicts_and_changes_nothing(
    manager: EmergenceManager, clock: Clock
) -> None:
    """Harm is proved: an event with the evidence, the variant stays a canary. Health checks too."""
    heard = Heard()
    manager.on(heard)
    names = fleet(manager)
    json_and_zstd(manager)
    manager.canaries.start("zstd", initial_fraction=0.5, seed=1)
    inside = [n for n in names if manager.canaries.routes("zstd", n)]
    manager.mode = "observe"

    for name in inside[:20]:
        manager.report("zstd", name, success=False)
    clock.advance(400)
    manager.tick()

    verdicts = [e.detail for e in heard.events if e.kind == "canary.verdict"]
    assert verdicts[0]["verdict"] == "rollback"
    assert verdicts[0]["evidence"]["canary_failures"] >= 4
    assert status(manager) == VariantStatus.CANARY
    assert manager.rollback("zstd").status == VariantStatus.ROLLED_BACK  # operators still can


def test_events_come_after_their_commit_and_survive_bad_listeners(
    manager: EmergenceManager, caplog: pytest.LogCaptureFixture
) -> None:
    """What an event says is so when it is heard; a listener that raises or left disturbs nobody."""
    seen: list[tuple[str, str]] = []
    gone: list[Any] = []

    def worse(event: Any) -> None:
        raise RuntimeError("deaf")

    manager.on(worse)
    leave = manager.on(gone.append)
    manager.on(
        lambda event: (
            seen.append((event.kind, status(manager, event.variant_id)))
            if event.variant_id
            else None
        )
    )
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    leave()
    leave()
    heard = len(gone)
    manager.canaries.start(zstd)
    with caplog.at_level(logging.ERROR):
        manager.rollback(zstd)

    assert ("canary.started", "canary") in seen
    assert ("variant.rolled_back", "rolled_back") in seen
    assert len(gone) == heard
    assert any("a listener failed" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("ending", ["operator", "critical", "abort"])
def test_why_names_who_ended_it(tmp_path: Path, clock: Clock, ending: str) -> None:
    """No rule of the judge is claimed where an operator decided; of a critical failure, the agents."""
    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        names = fleet(manager)
        json_and_zstd(manager)
        manager.canaries.start("zstd", initial_fraction=0.5, seed=1)
        inside = [n for n in names if manager.canaries.routes("zstd", n)]
        traffic(manager, clock, names, 3)
        if ending == "operator":
            manager.rollback("zstd", "ticket 1182")
        elif ending == "abort":
            manager.canaries.abort("zstd")
        else:
            for name in inside[:2]:
                manager.report("zstd", name, success=False, critical="crash_on_load")
    page = tmp_path / "page.html"

    done = CliRunner().invoke(
        main, ["why", "zstd", "--storage", str(tmp_path), "--report", str(page)]
    )

    assert done.exit_code == 0, done.output
    if ending == "critical":
        assert "rule: crash_on_load: agents reported that it crashed" in done.output
        assert f"agents: {', '.join(sorted(inside[:2]))}" in done.output
        assert f"<td>{', '.join(sorted(inside[:2]))}</td>" in page.read_text()
    else:
        words = {"operator": "ticket 1182", "abort": "aborted by the operator"}
        assert "rule:" not in done.output
        assert f"reason: {words[ending]}" in done.output
        assert words[ending] in page.read_text()


def test_agents_that_a_replacement_leaves_behind_are_counted(
    manager: EmergenceManager, caplog: pytest.LogCaptureFixture
) -> None:
    """``replaces`` warns where promotion leaves somebody without anything to speak; else it does not."""
    json_and_zstd(manager, requirements={"zstd": ">=1.5"})
    manager.agents.register_many(
        [(f"new-{n}", AgentContext({"zstd": "1.5.6"})) for n in range(30)]
        + [(f"old-{n}", AgentContext({"zstd": "1.4"})) for n in range(3)]
    )

    def warned(**given: Any) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "xenolect.safeguards"):
            manager.canaries.start("zstd", **given)
        manager.canaries.abort("zstd")
        manager.variants.start_testing("zstd")
        return [r.getMessage() for r in caplog.records if "agents" in r.getMessage()]

    assert warned() == []
    (words,) = warned(replaces="json")
    assert words.startswith(
        "3 registered agents ('old-0' and so on) can speak json, but neither zstd"
    )
    other = manager.variants.propose("gzip", {"wire": "gzip"}, id="gzip")
    manager.variants.activate(other, force=True)
    assert warned(replaces="json") == []
