"""Critical failures: what takes a variant back at once, and what one liar can not do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.fleets import canary, fleet, json_and_zstd, status

from xenolect import (
    Agent,
    AgentContext,
    EmergenceManager,
    InvalidError,
    InvalidMetricsError,
    PerformanceMetrics,
)
from xenolect.testing import Clock, Heard

Opened = Callable[..., EmergenceManager]
SHARED = {"use": "memory", "name": "critical"}
LIMITS: dict[str, Any] = {
    "custom": {
        "tokens": {"direction": "lower", "limit": 1000},
        "quality": {"direction": "higher", "bounds": [0, 1], "limit": 0.2},
        "resource_usage": {"direction": "lower", "limit": 0.9},
    }
}


def crash(manager: EmergenceManager, agent: Any, variant: str = "zstd", **more: Any) -> None:
    """An agent says that the variant crashed while it was loaded."""
    manager.report(variant, agent, success=False, critical="crash_on_load", **more)


# -- what agents say ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["crash_on_load", "schema_violation", "corrupt_state"])
def test_the_second_agent_takes_the_variant_back(manager: EmergenceManager, kind: str) -> None:
    """One agent is not believed, two are; ten more change nothing; rule and names are kept."""
    heard = Heard()
    manager.on(heard)
    inside, _ = canary(manager)

    manager.report("zstd", inside[0], success=False, critical=kind)
    after_one = status(manager)
    for name in inside[1:12]:
        manager.report("zstd", name, success=False, critical=kind)

    assert after_one == "canary"
    assert status(manager) == "rolled_back"
    assert sum(e.kind == "variant.rolled_back" for e in heard.events) == 1
    assert sum(e.kind == "variant.critical" for e in heard.events) == 1
    document = manager._runtime.value("rollout", "zstd")
    assert document["critical"] == {"rule": kind, "agents": inside[:2]}
    assert document["reason"].startswith(f"critical: {kind}")
    assert manager.variants.quarantine("zstd") is not None


def test_one_lying_agent_can_not_roll_back_the_fleet(manager: EmergenceManager) -> None:
    """Neither by repeating itself, nor under names nobody registered, nor with the help of an agent
    that is not served the variant."""
    inside, outside = canary(manager)
    liar = inside[0]

    for _ in range(4):
        for who in (liar, Agent(f"{liar}-again", AgentContext()), outside[0]):
            crash(manager, who)
            for name in inside[1:4]:  # what works for the others keeps the breaker closed
                manager.report("zstd", name, success=True)

    assert status(manager) == "canary"
    assert manager.canaries.status("zstd").state == "ramping"
    assert {manager.select(n).variant.id for n in inside} == {"zstd"}


def test_a_stranger_is_warned_of_once(
    manager: EmergenceManager, caplog: pytest.LogCaptureFixture
) -> None:
    """What an unregistered agent says is a failure like any other, and the log says so once."""
    canary(manager)
    with caplog.at_level(logging.WARNING, "xenolect.safeguards"):
        for _ in range(3):
            crash(manager, Agent("stranger", AgentContext()))

    assert ["not registered" in r.getMessage() for r in caplog.records] == [True]
    assert manager.performance.history("zstd").failures == 3


def test_an_active_variant_is_taken_back_too(manager: EmergenceManager) -> None:
    """Promoted long ago: two agents are enough, and the baseline serves."""
    names = fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.variants.activate(zstd, force=True)

    crash(manager, names[0])
    crash(manager, names[1])

    assert status(manager) == "rolled_back"
    assert {manager.select(n).variant.id for n in names} == {"json"}


def test_the_baseline_stays(manager: EmergenceManager, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody can take its place: the log says so, once, and it is served."""
    names = fleet(manager)
    json_and_zstd(manager)

    with caplog.at_level(logging.ERROR, "xenolect.safeguards"):
        for name in names[:5]:
            crash(manager, name, "json")

    assert status(manager, "json") == "active"
    assert manager.select(names[0]).variant.id == "json"
    assert ["fails critically" in r.getMessage() for r in caplog.records] == [True]


def test_two_agents_must_speak_of_the_same_thing(manager: EmergenceManager, clock: Clock) -> None:
    """Of one version of the variant, of one kind of failure, within a day."""
    inside, _ = canary(manager)

    crash(manager, inside[0])
    manager.report("zstd", inside[1], success=False, critical="schema_violation")
    of_two_kinds = status(manager)
    manager.variants.update(manager.variants.get("zstd"), changes={"wire": "zstd", "level": 2})
    inside = [n for n in inside if manager.canaries.routes("zstd", n)]
    crash(manager, inside[2])
    of_two_versions = status(manager)
    clock.advance(86_401)
    crash(manager, inside[3])
    of_two_days = status(manager)
    crash(manager, inside[4])

    assert (of_two_kinds, of_two_versions, of_two_days) == ("canary", "canary", "canary")
    assert status(manager) == "rolled_back"


def test_what_can_not_be_critical_is_refused(manager: EmergenceManager) -> None:
    """An unknown kind and a success are the caller's mistakes; nothing is recorded."""
    inside, _ = canary(manager)

    with pytest.raises(InvalidError, match="critical must be one of crash_on_load"):
        manager.report("zstd", inside[0], success=False, critical="explosion")
    with pytest.raises(InvalidMetricsError, match="succeeded"):
        manager.report("zstd", inside[0], success=True, critical="crash_on_load")

    assert manager.performance.history("zstd").count == 0


def test_sessions_are_routed_but_agents_are_witnesses(manager: EmergenceManager) -> None:
    """With unit="session" two conversations of one agent are one witness."""
    names = fleet(manager, 3)
    json_and_zstd(manager)
    manager.canaries.start("zstd", unit="session", initial_fraction=0.5, seed=1)
    sessions = [
        s for s in (f"s{i}" for i in range(40)) if manager.canaries.routes("zstd", names[0], s)
    ]

    crash(manager, names[0], session=sessions[0])
    crash(manager, names[0], session=sessions[1])
    crash(manager, names[1])  # of no session that is known to be served the canary
    one_agent = status(manager)
    crash(manager, names[1], session=sessions[2])

    assert one_agent == "canary"
    assert status(manager) == "rolled_back"


# -- several processes, restarts, modes --------------------------------------------------------------


def test_each_of_two_processes_has_one_witness(opened: Opened) -> None:
    """What one process was told, the other one knows: the second witness is enough in either."""
    first = opened(index=SHARED | {"name": "two"}, chunks=SHARED | {"name": "two"})
    second = opened(index=SHARED | {"name": "two"}, chunks=SHARED | {"name": "two"})
    inside, _ = canary(first)
    second.tick()

    crash(first, inside[0])
    first.flush()
    alone = status(first)
    second.tick()
    crash(second, inside[1])

    assert alone == "canary"
    assert status(second) == "rolled_back"
    first.tick()
    assert status(first) == "rolled_back"
    assert {first.select(n).variant.id for n in inside} == {"json"}


def test_witnesses_told_at_once_are_added_up_later(opened: Opened) -> None:
    """Two processes that did not hear of each other yet: the journal brings the two together."""
    shared = SHARED | {"name": "at once"}
    first, second = opened(index=shared, chunks=shared), opened(index=shared, chunks=shared)
    inside, _ = canary(first)
    second.tick()
    held: list[Any] = []
    later, first._runtime.later = (
        first._runtime.later,
        held.append,
    )  # the first one's writer is slow
    crash(first, inside[0])
    first._runtime.later = later
    crash(second, inside[1])
    before = status(second)

    for job in held:
        job()
    first.tick()
    second.tick()

    assert before == "canary"
    assert status(first) == status(second) == "rolled_back"


def test_a_restart_forgets_no_witness(tmp_path: Path, opened: Opened) -> None:
    """One witness before, one after the process was started again."""
    manager = opened(tmp_path)
    inside, _ = canary(manager)
    crash(manager, inside[0])
    manager.close()

    manager = opened(tmp_path)
    crash(manager, inside[0])
    the_same = status(manager)
    crash(manager, inside[1])

    assert the_same == "canary"
    assert status(manager) == "rolled_back"


def test_a_process_that_died_in_between_is_finished_by_the_next(
    tmp_path: Path, opened: Opened
) -> None:
    """Both witnesses are stored, the rollback is not: who opens the store next commits it."""
    manager = opened(tmp_path)
    inside, _ = canary(manager)
    manager._critical._points.roll_back = lambda *_, **__: None  # type: ignore[method-assign]
    crash(manager, inside[0])
    crash(manager, inside[1])
    assert status(manager) == "canary"
    manager._runtime.index.close()  # no goodbye
    manager._runtime.closed = True

    again = opened(tmp_path)
    again.tick()

    assert status(again) == "rolled_back"


def test_observe_only_says_so(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    """In mode observe a critical failure is an event and a line in the log, and changes nothing."""
    manager = opened()
    inside, _ = canary(manager)
    heard = Heard()
    manager.on(heard)
    manager.mode = "observe"

    with caplog.at_level(logging.ERROR, "xenolect.safeguards"):
        for name in inside[:4]:
            crash(manager, name)
    observed = status(manager)
    manager.mode = "normal"
    crash(manager, inside[4])

    assert observed == "canary"
    assert len([r for r in caplog.records if "the mode is observe" in r.getMessage()]) == 1
    assert [e.detail["observed"] for e in heard.events if e.kind == "variant.critical"] == [
        True,
        False,
    ]
    assert status(manager) == "rolled_back"


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beyond", "within"),
    [
        ({"custom": {"tokens": 1001.0}}, {"custom": {"tokens": 1000.0}}),
        ({"custom": {"quality": 0.19}}, {"custom": {"quality": 0.2}}),
        ({"resource_usage": 0.91}, {"resource_usage": 0.9}),
    ],
)
def test_a_limit_is_a_limit(opened: Opened, beyond: Any, within: Any) -> None:
    """A value at the limit is fine. One beyond it, measured by the host, takes the variant back."""
    manager = opened(metrics=LIMITS)
    inside, _ = canary(manager)

    manager.record("zstd", PerformanceMetrics(1.0, **within))
    before = status(manager)
    manager.record("zstd", PerformanceMetrics(1.0, **beyond))

    assert before == "canary"
    assert status(manager) == "rolled_back"
    rule = manager._runtime.value("rollout", "zstd")["critical"]["rule"]
    assert rule == f"limit.{next(iter(beyond.get('custom', {'resource_usage': 0})))}"
    assert {manager.select(n).variant.id for n in inside} == {"json"}


def test_an_agent_that_measures_needs_a_second_one(opened: Opened) -> None:
    """A value beyond a limit under an agent's name is its word only; the second agent's proves it."""
    manager = opened(metrics=LIMITS)
    inside, _ = canary(manager)

    for _ in range(5):
        manager.report("zstd", inside[0], success=True, custom={"tokens": 5000.0})
    one = status(manager)
    manager.report("zstd", inside[1], success=True, custom={"tokens": 5000.0})

    assert one == "canary"
    assert status(manager) == "rolled_back"


def test_what_came_late_is_history_only(opened: Opened, clock: Clock) -> None:
    """A value measured an hour ago says nothing of the variant as it is now."""
    manager = opened(metrics=LIMITS)
    canary(manager)
    then = datetime.fromtimestamp(clock() - 3600, UTC)

    manager.record("zstd", PerformanceMetrics(1.0, custom={"tokens": 5e6}, timestamp=then))

    assert status(manager) == "canary"
