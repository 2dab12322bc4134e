"""Breakers of single agents: one agent is passed by, the others never notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xenolect import AgentContext, EmergenceManager
from xenolect._agent_breakers import AgentBreakers
from xenolect.model import BreakerState as B
from xenolect.model import Reason
from xenolect.testing import Clock
from xenolect_plugins.breaker import Breaker

AGENTS = [f"a{i}" for i in range(30)]


def fleet(opened: Callable[..., EmergenceManager], **given: Any) -> EmergenceManager:
    """Thirty agents and an active baseline that all of them have spoken."""
    manager = opened(seed=1, **given)
    manager.variants.activate(manager.variants.propose("base", {}, id="base"))
    manager.agents.register_many([(name, AgentContext()) for name in AGENTS])
    for name in AGENTS:
        manager.report("base", name, success=True)
    return manager


def say(manager: EmergenceManager, agent: str, good: bool, times: int = 1) -> list[str]:
    """Select and report; what was served."""
    served = []
    for _ in range(times):
        chosen = manager.select(agent)
        manager.report(chosen, agent, success=good)
        served.append(chosen.variant.id)
    return served


def canary(manager: EmergenceManager) -> tuple[list[str], list[str]]:
    """Start a canary for half of them; who is inside, and who is not."""
    manager.variants.propose("new", {"n": 1}, id="new")
    manager.canaries.start("new", levels=[0.5, 0.95], seed=1)
    inside = [name for name in AGENTS if manager.canaries.routes("new", name)]
    return inside, [name for name in AGENTS if name not in inside]


def sick(manager: EmergenceManager, agent: str, others: list[str]) -> None:
    """The agent fails six times while the others do well in between."""
    for _ in range(6):
        say(manager, agent, good=False)
        for name in others[:6]:
            say(manager, name, good=True)


def test_one_agent_is_passed_by_and_comes_back(
    opened: Callable[..., EmergenceManager], clock: Clock
) -> None:
    """Its failures take it out of the canary, with the reason in words; three good probes bring it back."""
    manager = fleet(opened)
    inside, _ = canary(manager)
    bad, *others = inside

    sick(manager, bad, others)

    assert manager.select(bad).variant.id == "base"
    assert manager.explain(bad)[-1].reason == "its breaker for this agent is open"
    assert manager.select(bad).excluded == {"new": "its breaker for this agent is open"}
    assert {manager.select(name).variant.id for name in others} == {"new"}
    assert manager.breakers.status("new").state == B.CLOSED
    assert manager.status()["agents_ejected"] == {"new": 1}
    clock.advance(40.0)
    manager.tick()
    probes = [manager.select(bad) for _ in range(5)]
    assert [p.variant.id for p in probes] == ["new"] * 3 + ["base"] * 2
    for probe in probes:
        manager.report(probe, bad, success=True)
    assert manager.select(bad).variant.id == "new"
    assert manager.select(bad).permit is None
    assert manager.status()["agents_ejected"] == {}


def test_what_latches_is_probed_once_in_half_an_hour_and_asks_for_no_rollback(
    opened: Callable[..., EmergenceManager], clock: Clock
) -> None:
    """Three failed rounds: the agent is left alone for long; the variant stays what it is."""
    manager = fleet(opened)
    inside, _ = canary(manager)
    bad, *others = inside
    sick(manager, bad, others)
    for wait in (40.0, 80.0, 160.0):
        clock.advance(wait)
        manager.tick()
        assert say(manager, bad, good=False) == ["new"]
        for name in others:  # the variant's own breaker hears of health as well
            say(manager, name, good=True)
    assert manager.select(bad).excluded == {"new": "its breaker for this agent is latched"}
    clock.advance(1799.0)
    manager.tick()
    assert say(manager, bad, good=True) == ["base"]
    clock.advance(2.0)
    manager.tick()

    assert say(manager, bad, good=True, times=2) == ["new", "new"]
    assert manager.variants.get("new").status == "canary"


def test_at_most_a_tenth_of_the_agents_is_out(opened: Callable[..., EmergenceManager]) -> None:
    """Thirty agents spoke the baseline: three may be out; of a variant that few spoke, one."""
    manager = fleet(opened, breaker={"failure_rate": None})
    manager.variants.activate(manager.variants.propose("old", {"n": 2}, id="old"), force=True)
    for name in AGENTS[:12]:
        for _ in range(5):
            manager.report("base", name, success=False)
            manager.report("base", AGENTS[20], success=True)
            if name in AGENTS[:4]:
                manager.report("old", name, success=False)
                manager.report("old", AGENTS[20], success=True)

    assert manager.status()["agents_ejected"] == {"base": 3, "old": 1}
    assert [n for n in AGENTS if manager.breakers.agents.is_out("base", n)] == AGENTS[:3]


def test_control_and_canary_are_treated_alike(opened: Callable[..., EmergenceManager]) -> None:
    """An agent that is out is evidence in neither arm: its later failures count on neither side."""
    manager = fleet(opened)
    inside, outside = canary(manager)
    (bad, *others), (worse, *rest) = inside, outside
    sick(manager, bad, [*others[:3], *rest[:3]])
    sick(manager, worse, [*others[:3], *rest[:3]])
    assert manager.status()["agents_ejected"] == {"base": 1, "new": 1}
    manager.flush()
    before = manager.canaries.status("new").evidence

    for _ in range(20):
        for name in (bad, worse):
            assert say(manager, name, good=False) == ["base"]
        say(manager, rest[0], good=True, times=3)
    manager.flush()

    after = manager.canaries.status("new").evidence
    assert before["canary_failures"] == before["control_failures"] == 5
    assert after["canary_failures"] == after["control_failures"] == 5
    assert after["control_operations"] == before["control_operations"] + 60


def test_the_baseline_is_served_all_the_same_and_heals(
    opened: Callable[..., EmergenceManager], clock: Clock
) -> None:
    """Nothing else is there: the fallback is served, and when a probe is wanted it is one. For an agent
    that is out, and for a baseline whose own breaker is open."""
    manager = fleet(opened)
    bad, *others = AGENTS
    sick(manager, bad, others)
    assert manager.select(bad).reason == Reason.BASELINE
    assert manager.status()["agents_ejected"] == {"base": 1}
    clock.advance(40.0)
    manager.tick()
    say(manager, bad, good=True, times=3)
    assert manager.status()["agents_ejected"] == {}

    for _ in range(5):
        say(manager, others[0], good=False)
    assert manager.breakers.status("base").state == B.OPEN
    assert say(manager, others[1], good=True, times=3) == ["base"] * 3
    assert manager.breakers.status("base").state == B.OPEN
    clock.advance(40.0)
    manager.tick()
    say(manager, others[1], good=True, times=3)
    assert manager.breakers.status("base").state == B.CLOSED


def test_when_the_variant_opens_no_single_agent_is_to_blame(
    opened: Callable[..., EmergenceManager], clock: Clock
) -> None:
    """Its own breaker forgets those of the agents; a rollback does as well."""
    manager = fleet(opened)
    inside, _ = canary(manager)
    bad, *others = inside
    sick(manager, bad, others)
    assert manager.status()["agents_ejected"] == {"new": 1}
    for _ in range(5):
        manager.report("new", others[0], success=False)
        if manager.breakers.status("new").state == B.OPEN:
            break

    assert manager.breakers.status("new").state == B.OPEN
    assert manager.status()["agents_ejected"] == {}
    assert "new" not in {variant_id for variant_id, _ in manager.breakers.agents.kept}


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_least_recently_used_is_forgotten(clock: Clock, share: float) -> None:
    """Of 10,000 by default; one that is out is served again. A share of 0 keeps no breaker at all."""
    agents = AgentBreakers(Breaker(max_ejection=share), clock, lambda: 0.0, bound=3)
    agents.population = lambda _: 100
    agents.report("x", "a0", 0, 5, 0)
    assert agents.is_out("x", "a0") == bool(share)
    for name in ("a1", "a2"):
        agents.report("x", name, 0, 1, 0)
    agents.report("x", "a1", 1, 0, 0)
    agents.report("x", "healthy", 1, 0, 0)
    assert len(agents) == (3 if share else 0)
    assert agents.is_out("x", "a0") == bool(share)

    agents.report("x", "a3", 0, 1, 0)

    assert not agents.is_out("x", "a0")
    assert len(agents) == (3 if share else 0)
    agents.report("x", "a4", 0, 1, 0)
    assert ("x", "a2") not in agents.kept


def test_restarts_forget_them(tmp_path: Any, clock: Clock) -> None:
    """They are memory only: nothing of them is written."""
    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        manager.variants.activate(manager.variants.propose("base", {}, id="base"))
        manager.agents.register("a", AgentContext())
        for _ in range(3):
            manager.report("base", "b", success=True)
            manager.report("base", "a", success=False)
            manager.report("base", "b", success=True)
            manager.report("base", "a", success=False)
        assert manager.status()["agents_ejected"] == {"base": 1}
    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        assert manager.status()["agents_ejected"] == {}
        assert manager.select("a").reason == Reason.ONLY
