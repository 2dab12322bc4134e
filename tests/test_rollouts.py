"""Rollouts from their start to a promotion or a rollback, and the breaker beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import (
    AgentContext,
    CanaryState,
    EmergenceManager,
    InvalidError,
    PerformanceMetrics,
    TransitionError,
    VariantStatus,
    hookimpl,
)
from xenolect.testing import Clock, Heard


def routed(manager: EmergenceManager, names: list[str], variant: Any = "zstd") -> list[str]:
    """The agents in the canary's share."""
    return [n for n in names if manager.canaries.routes(variant, n)]


# -- rollouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["beside", "before", "none"])
def test_ten_failures_roll_back_once(opened: Callable[..., EmergenceManager], control: str) -> None:
    """Ten failing reports of ten distinct canary agents: one rollback, and it is never served again.

    With good control traffic between the failures, only before them, or none at all; an observer
    that raises stops nothing; what was edited after the start is restored.
    """
    heard = Heard()

    class Loud:
        @hookimpl
        def xenolect_observe(self, event: Any) -> None:
            raise RuntimeError("observers may fail")

    manager = opened(plugins=[Loud(), heard])
    names = fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.states.put(zstd, {"window": 1})
    manager.canaries.start(zstd, seed=1)
    running = manager.variants.get(zstd)
    manager.variants.update(running, changes={"wire": "zstd", "level": 22})
    manager.states.put(zstd, {"window": 2})
    canaries = routed(manager, names)
    others = [n for n in names if n not in canaries]
    assert len(canaries) >= 10
    if control == "before":
        for name in others:
            manager.report("json", name, success=True, latency_ms=5.0)

    for i, name in enumerate(canaries[:10]):
        if control == "beside":
            for other in others[i * 9 : i * 9 + 9]:
                manager.report("json", other, success=True, latency_ms=5.0)
        manager.report("zstd", name, success=False, latency_ms=5.0)

    after = manager.variants.get("zstd")
    assert after.status == VariantStatus.ROLLED_BACK
    assert after.changes == {"wire": "zstd"}
    assert manager.states.get("zstd") == {"window": 1}
    assert sum(e.kind == "variant.rolled_back" for e in heard.events) == 1
    assert {manager.select(n).variant.id for n in names} == {"json"}
    assert manager.canaries.status("zstd").state == CanaryState.ROLLED_BACK
    assert manager.canaries.status("zstd").evidence["canary_failures"] >= 4


def test_a_good_canary_is_promoted(opened: Callable[..., EmergenceManager], clock: Clock) -> None:
    """Promotion needs positive evidence: with it the share rises level by level to the end."""
    manager = opened(canary={"min_effect": 0.05, "min_operations": 50})
    names = fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.canaries.start(zstd, replaces="json", seed=3)
    shares = [manager.canaries.status(zstd).fraction]

    for _ in range(40):
        for _ in range(5):
            for name in names:
                selection = manager.select(name)
                manager.report(selection, name, success=True, latency_ms=5.0)
            clock.advance(60)
            manager.tick()
        status = manager.canaries.status(zstd)
        shares.append(status.fraction)
        if status.state == CanaryState.PROMOTED:
            break

    assert manager.variants.get("zstd").status == VariantStatus.ACTIVE
    assert manager.variants.get("json").status == VariantStatus.DEPRECATED
    assert manager.variants.baseline("default").id == "zstd"
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(0.1)
    assert shares[-1] == 1.0
    assert {manager.select(n).variant.id for n in names} == {"zstd"}


def test_rolling_back_after_promotion_brings_the_replaced_one_back(
    opened: Callable[..., EmergenceManager],
) -> None:
    """A later rollback restores the baseline pointer and the variant that was replaced."""
    manager = opened()
    names = fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.canaries.start(zstd, replaces="json")
    manager.canaries.promote(zstd, force=True)
    assert manager.variants.baseline("default").id == "zstd"

    manager.rollback("zstd", reason="ticket 1182")

    assert manager.variants.get("zstd").status == VariantStatus.ROLLED_BACK
    assert manager.variants.get("json").status == VariantStatus.ACTIVE
    assert manager.variants.baseline("default").id == "json"
    assert {manager.select(n).variant.id for n in names} == {"json"}


def test_promotion_without_evidence_is_refused(manager: EmergenceManager) -> None:
    """An operator needs force to promote what is not proved."""
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.canaries.start(zstd)

    with pytest.raises(TransitionError):
        manager.canaries.promote(zstd)

    assert manager.variants.get("zstd").status == VariantStatus.CANARY


def test_seven_silent_days_hold_at_level_zero(manager: EmergenceManager, clock: Clock) -> None:
    """No data is never promotion: level 0, HOLD, one alert in a week."""
    heard = Heard()
    manager.on(heard)
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.canaries.start(zstd)

    for _ in range(7 * 24 * 4):
        clock.advance(900)
        manager.tick()

    status = manager.canaries.status(zstd)
    assert (status.level, status.state) == (0, CanaryState.HOLD)
    assert manager.variants.get("zstd").status == VariantStatus.CANARY
    assert sum(e.kind == "canary.alert" for e in heard.events) == 1


def test_records_without_an_agent_hold_and_name_the_cause(
    manager: EmergenceManager, clock: Clock
) -> None:
    """A rollout fed only by anonymous records never promotes and says what is missing."""
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.canaries.start(zstd)

    for _ in range(5):
        manager.record("zstd", PerformanceMetrics(1.0, count=1000))
        manager.record("json", PerformanceMetrics(1.0, count=1000))
        clock.advance(300)
        manager.tick()

    status = manager.canaries.status(zstd)
    assert status.state == CanaryState.HOLD
    assert "agent_id=" in status.reason


def test_a_small_fleet_must_choose_its_unit(manager: EmergenceManager) -> None:
    """Under 20 eligible agents a rollout by agent is started only on purpose."""
    fleet(manager, 5)
    _, zstd = json_and_zstd(manager)

    with pytest.raises(InvalidError, match="unit='session'"):
        manager.canaries.start(zstd)

    assert manager.canaries.start(zstd, unit="session").unit == "session"


def test_sessions_are_assigned_and_pinned(manager: EmergenceManager) -> None:
    """With unit="session" one agent's conversations are split, and each keeps its variant."""
    fleet(manager, 1)
    _, zstd = json_and_zstd(manager)
    manager.canaries.start(zstd, unit="session", initial_fraction=0.5, seed=1)

    first = {f"s{i}": manager.select("agent-0", session=f"s{i}") for i in range(400)}
    again = {s: manager.select("agent-0", session=s).variant.id for s in first}

    served = [s.variant.id for s in first.values()]
    assert 150 <= served.count("zstd") <= 250
    assert {s.reason for s in first.values()} == {"canary", "control"}
    assert again == {s: x.variant.id for s, x in first.items()}
    assert manager.select("agent-0").variant.id == "json"


def test_sessions_leave_a_variant_that_is_rolled_back(
    opened: Callable[..., EmergenceManager],
) -> None:
    """At once here, and elsewhere as soon as it is heard; what they refer to stays readable, and what
    they report of it is taken."""
    shared = {"use": "memory", "name": "sessions leave"}
    here, there = opened(index=shared, chunks=shared), opened(index=shared, chunks=shared)
    fleet(here, 1)
    _, zstd = json_and_zstd(here)
    here.canaries.start(zstd, unit="session", initial_fraction=0.5, seed=1)
    began = here.states.put(zstd.id, {"window": 2})
    there.tick()
    names = [f"s{i}" for i in range(40)]
    first = {name: here.select("agent-0", session=name) for name in names}
    inside = [name for name in names if first[name].variant.id == "zstd"]
    assert inside == [n for n in names if there.select("agent-0", session=n).variant.id == "zstd"]
    assert 5 < len(inside) < 35

    here.rollback(zstd.id, reason="ticket 7")

    assert {here.select("agent-0", session=name).variant.id for name in names} == {"json"}
    there.tick()
    assert {there.select("agent-0", session=name).variant.id for name in names} == {"json"}
    for manager in (here, there):
        assert manager.variants.get("zstd").changes == first[inside[0]].variant.changes
        assert manager.states.get("zstd", version=began.version) == {"window": 2}
        manager.report(first[inside[0]], "agent-0", success=True)


def test_incompatible_agents_never_get_the_canary(
    opened: Callable[..., EmergenceManager],
) -> None:
    """The gate stands before routing: an agent that lacks the requirement is in neither arm."""
    manager = opened()
    manager.agents.register_many(
        [(f"agent-{i}", AgentContext({"dict": i % 2 + 1})) for i in range(400)]
    )
    _, zstd = json_and_zstd(manager, requirements={"dict": {"at_least": 2}})
    manager.canaries.start(zstd, initial_fraction=0.5, seed=5)

    picks = {f"agent-{i}": manager.select(f"agent-{i}") for i in range(400)}

    for name, selection in picks.items():
        able = int(name.split("-")[1]) % 2 == 1
        assert able or (selection.variant.id == "json" and selection.reason != "control")
    assert 60 <= sum(s.variant.id == "zstd" for s in picks.values()) <= 140


def test_abort_ends_without_quarantine(manager: EmergenceManager, clock: Clock) -> None:
    """An aborted variant may be tested again at once, a rolled back one after its quarantine."""
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.canaries.start(zstd)
    manager.canaries.abort(zstd)
    assert manager.variants.start_testing(zstd).status == VariantStatus.TESTING

    manager.canaries.start(zstd)
    manager.rollback(zstd, reason="bad")
    with pytest.raises(TransitionError, match="quarantine"):
        manager.variants.start_testing(zstd)
    clock.advance(86_401)
    assert manager.variants.start_testing(zstd).status == VariantStatus.TESTING


def test_pause_and_resume(manager: EmergenceManager) -> None:
    """A paused rollout serves nobody and goes on where it was."""
    names = fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.canaries.start(zstd, seed=1)
    before = set(routed(manager, names))

    manager.canaries.pause(zstd)
    paused = {manager.select(n).variant.id for n in names}
    status = manager.variants.get("zstd").status
    manager.canaries.resume(zstd)

    assert paused == {"json"}
    assert status == VariantStatus.PAUSED
    assert {n for n in names if manager.select(n).variant.id == "zstd"} == before


# -- the breaker ----------------------------------------------------------------------------------


def test_breaker_opens_probes_and_closes(manager: EmergenceManager, clock: Clock) -> None:
    """Five failures in a row shut a variant; after the wait three permits heal it, through select."""
    names = fleet(manager, 1)
    base, fast = json_and_zstd(manager)
    manager.variants.activate(fast, force=True)
    for _ in range(50):
        manager.report("zstd", names[0], success=True, latency_ms=1.0)
        manager.report("json", names[0], success=True, latency_ms=100.0)
    assert manager.recommend(names[0])[0].variant.id == "zstd"

    for _ in range(5):
        manager.report("zstd", names[0], success=False)
    during = manager.select(names[0])
    clock.advance(61)
    manager.tick()
    probes = [manager.select(names[0]) for _ in range(5)]

    assert manager.breakers.status("zstd").state == "half_open"
    assert during.variant.id == "json"
    assert [p.permit is not None for p in probes] == [True, True, True, False, False]
    assert {p.variant.id for p in probes[:3]} == {"zstd"}
    for probe in probes[:3]:
        manager.report(probe, names[0], success=True, latency_ms=1.0)
    assert manager.breakers.status("zstd").state == "closed"
    assert base.id == "json"


def test_mode_baseline_is_a_kill_switch(manager: EmergenceManager) -> None:
    """In mode "baseline" every agent gets the fallback, and normal service comes back."""
    names = fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.canaries.start(zstd, initial_fraction=0.5, seed=1)

    manager.mode = "baseline"
    killed = {manager.select(n).variant.id for n in names}
    manager.mode = "normal"

    assert killed == {"json"}
    assert {manager.select(n).variant.id for n in names} == {"json", "zstd"}
    with pytest.raises(InvalidError, match="mode must be"):
        manager.mode = "off"
