"""The life of a variant: proposed, selected, ramped, rolled back with everything it changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import (
    AgentContext,
    CanaryState,
    ConflictError,
    DuplicateError,
    EmergenceManager,
    InvalidError,
    InvalidMetricsError,
    LimitError,
    NoCompatibleVariantError,
    PerformanceMetrics,
    TransitionError,
    VariantStatus,
    hookimpl,
)
from xenolect.testing import Clock, Heard


def routed(manager: EmergenceManager, names: list[str], variant: Any = "zstd") -> list[str]:
    """The agents in the canary's share."""
    return [n for n in names if manager.canaries.routes(variant, n)]


# -- proposing and selecting --------------------------------------------------------------------


def test_first_variant_becomes_the_baseline(manager: EmergenceManager) -> None:
    """Activating the first variant of a protocol makes it the fallback, served as the only one."""
    base, _ = json_and_zstd(manager)
    fleet(manager, 1)

    selection = manager.select("agent-0")

    assert manager.variants.baseline("default") == base
    assert (selection.variant.id, selection.reason) == ("json", "only")
    assert base.status == "active"
    assert base.version == 2


def test_second_variant_needs_proof_or_force(manager: EmergenceManager) -> None:
    """Going straight to active is refused for all but the first, and allowed with force."""
    _, zstd = json_and_zstd(manager)

    with pytest.raises(TransitionError, match="must be proved by a rollout"):
        manager.variants.activate(zstd)

    assert manager.variants.activate(zstd, force=True).status == VariantStatus.ACTIVE


def test_ten_is_at_least_nine_and_missing_is_said(manager: EmergenceManager) -> None:
    """Versions compare as numbers; an agent that lacks a requirement never gets the variant."""
    manager.variants.activate(manager.variants.propose("plain", {}, id="plain"))
    fast = manager.variants.propose("fast", {}, id="fast", requirements={"zstd": ">=9"})
    manager.variants.activate(fast, force=True)
    manager.agents.register("new", AgentContext({"zstd": "10"}))
    manager.agents.register("old", AgentContext({"zstd": "8"}))
    manager.agents.register("bare", AgentContext())

    explained = {e.variant.id: e for e in manager.explain("old")}

    assert manager.recommend("new")[0].score > 0
    assert {s.variant.id for s in manager.recommend("new")} == {"plain", "fast"}
    assert {s.variant.id for s in manager.recommend("old")} == {"plain"}
    assert {s.variant.id for s in manager.recommend("bare")} == {"plain"}
    assert not explained["fast"].eligible
    assert "zstd" in explained["fast"].reason
    assert ">=9" in explained["fast"].reason


def test_nothing_compatible_says_why_or_gives_the_default(manager: EmergenceManager) -> None:
    """Without a compatible variant every reason is given; with a default nothing is raised."""
    picky = manager.variants.propose("picky", {}, id="picky", requirements={"tls": True})
    manager.variants.activate(picky)
    manager.agents.register("plain")

    with pytest.raises(NoCompatibleVariantError) as caught:
        manager.select("plain")
    fallback = manager.select("plain", default="builtin")

    assert "tls" in caught.value.excluded["picky"]
    assert (fallback.reason, fallback.variant.protocol) == ("default", "default")
    assert manager.select("nobody", default=picky).variant == picky


def test_negotiate_finds_what_both_ends_speak(manager: EmergenceManager) -> None:
    """The variant of a conversation is one that all its ends can speak, or the reasons why not."""
    manager.variants.activate(
        manager.variants.propose("br", {}, id="br", requirements={"br": True})
    )
    manager.variants.activate(
        manager.variants.propose("gz", {}, id="gz", requirements={"gz": True}), force=True
    )
    manager.agents.register_many(
        [
            ("both", AgentContext({"br": True, "gz": True})),
            ("only-gz", AgentContext({"gz": True})),
            ("only-br", AgentContext({"br": True})),
        ]
    )

    assert manager.negotiate(["both", "only-gz"]).variant.id == "gz"
    with pytest.raises(NoCompatibleVariantError) as caught:
        manager.negotiate(["only-gz", "only-br"])
    assert set(caught.value.excluded) == {"br", "gz"}


def test_records_are_read_only(manager: EmergenceManager) -> None:
    """What a call returns can not be changed behind the store's back."""
    base, _ = json_and_zstd(manager)

    with pytest.raises(TypeError, match="read-only"):
        base.changes["wire"] = "other"

    assert manager.variants.get("json").changes == {"wire": "json"}


def test_limits_and_duplicates(opened: Callable[..., EmergenceManager]) -> None:
    """The variant over max_variants is refused, and an id is never used again."""
    manager = opened(max_variants=2)
    manager.variants.propose("a", {}, id="a")
    manager.variants.propose("b", {}, id="b")

    with pytest.raises(LimitError, match="max_variants is 2"):
        manager.variants.propose("c", {}, id="c")
    manager.variants.archive("a")
    with pytest.raises(DuplicateError, match="never used again"):
        manager.variants.propose("again", {}, id="a")
    assert manager.variants.propose("c", {}, id="c").status == "proposed"


@pytest.mark.parametrize("bad", ["../x", "A", "", "a" * 65, "con", "x.", "a/b", 7])
def test_ids_that_could_become_paths_are_refused(manager: EmergenceManager, bad: Any) -> None:
    """No id can leave its directory or name a device."""
    with pytest.raises(InvalidError, match="slug"):
        manager.variants.propose("x", {}, id=bad)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({1: 2}, "changes"),
        ({"a": [math.nan]}, r"changes\.a\[0\]"),
        ({"a": 2**70}, r"changes\.a"),
        ({"a": object()}, r"changes\.a"),
        ({"a": "\ud800"}, r"changes\.a"),
    ],
)
def test_what_is_not_json_is_refused_with_its_path(
    manager: EmergenceManager, changes: Any, path: str
) -> None:
    """Bad JSON is named by its path and nothing is stored."""
    with pytest.raises(InvalidError, match=path):
        manager.variants.propose("x", changes)
    assert manager.variants.list() == []


# -- optimistic locking ---------------------------------------------------------------------------


def test_update_names_both_versions(manager: EmergenceManager) -> None:
    """The second of two updates from the same version is refused with both versions."""
    _, zstd = json_and_zstd(manager)
    manager.variants.update(zstd, changes={"wire": "zstd", "level": 3})

    with pytest.raises(ConflictError, match="at version 2, you expected 1") as caught:
        manager.variants.update(zstd, changes={"wire": "zstd", "level": 9})

    assert (caught.value.expected, caught.value.found) == (1, 2)
    assert manager.variants.get("zstd").changes["level"] == 3
    with pytest.raises(InvalidError, match="expected_version"):
        manager.variants.update("zstd", changes={})


def test_changes_of_an_active_variant_need_force(manager: EmergenceManager) -> None:
    """Content that agents speak now is not edited in place without force."""
    base, _ = json_and_zstd(manager)

    with pytest.raises(TransitionError, match="parent_id"):
        manager.variants.update(base, changes={"wire": "xml"})

    assert manager.variants.update(base, changes={"wire": "xml"}, force=True).version == 3


# -- measuring ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metrics",
    [
        PerformanceMetrics(math.nan),
        PerformanceMetrics(42.0),
        PerformanceMetrics(-0.1),
        PerformanceMetrics(1.0, latency_ms=-1.0),
        PerformanceMetrics(1.0, latency_ms=math.inf),
        PerformanceMetrics(1.0, resource_usage=1.5),
        PerformanceMetrics(0.95, count=7),
        PerformanceMetrics(1.0, count=0),
        PerformanceMetrics(1.0, custom={"x": math.nan}),
    ],
)
def test_impossible_measurements_are_refused(
    manager: EmergenceManager, metrics: PerformanceMetrics
) -> None:
    """Out of range, NaN, infinite, negative or fractional failures: refused, counted, not stored."""
    json_and_zstd(manager)

    with pytest.raises(InvalidMetricsError):
        manager.record("json", metrics)

    assert manager.status()["measurements"]["rejected"] == 1
    assert manager.performance.history("json").count == 0


def test_history_adds_counts_and_keeps_quantiles(manager: EmergenceManager) -> None:
    """Aggregates add operations and failures; the median is within 2 % of the exact one."""
    json_and_zstd(manager)
    for latency in range(1, 102):
        manager.record("json", PerformanceMetrics(1.0, latency_ms=float(latency)))
    manager.record("json", PerformanceMetrics(0.5, count=100))

    history = manager.performance.history("json", window=timedelta(hours=1))

    assert (history.count, history.failures) == (201, 50)
    assert history.latency_ms == pytest.approx(51.0, rel=0.02)
    assert history.p95 == pytest.approx(96.0, rel=0.02)


def test_call_times_reports_and_classifies(manager: EmergenceManager) -> None:
    """An exception is a failure, ignore() and cancellation leave no trace, fail() counts."""
    json_and_zstd(manager)
    fleet(manager, 1)

    with manager.call("agent-0") as call:
        call.metric("bytes", 123)
    with pytest.raises(ValueError, match="boom"), manager.call("agent-0"):
        raise ValueError("boom")
    with manager.call("agent-0") as call:
        call.fail()
    with manager.call("agent-0") as call:
        call.ignore()
    with pytest.raises(KeyboardInterrupt), manager.call("agent-0"):
        raise KeyboardInterrupt

    history = manager.performance.history("json")
    assert (history.count, history.failures) == (3, 2)
    assert history.custom["bytes"] == 123


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


# -- scorers --------------------------------------------------------------------------------------


def test_a_scorer_in_process_changes_the_choice(
    opened: Callable[..., EmergenceManager],
) -> None:
    """A plain function becomes a scorer by name, and explain shows its column."""
    from xenolect import scorer

    class Plugin:
        @staticmethod
        @scorer("prefers_zstd")
        def prefers_zstd(candidates: Any, agent: Any) -> list[float]:
            return [1.0 if c.variant.id == "zstd" else 0.0 for c in candidates]

    manager = opened(plugins=[Plugin()], scoring={"prefers_zstd": 1.0})
    fleet(manager, 1)
    _, zstd = json_and_zstd(manager)
    manager.variants.activate(zstd, force=True)

    top = manager.explain("agent-0")[0]

    assert (top.variant.id, top.parts) == ("zstd", {"prefers_zstd": 1.0})
    assert manager.select("agent-0").parts == {"prefers_zstd": 1.0}


def test_a_raising_scorer_loses_its_column(opened: Callable[..., EmergenceManager]) -> None:
    """Selection goes on with the others' weights and says so."""
    from xenolect import scorer

    class Plugin:
        @staticmethod
        @scorer("broken")
        def broken(candidates: Any, agent: Any) -> list[float]:
            raise RuntimeError("no")

    manager = opened(plugins=[Plugin()], scoring={"broken": 0.5, "performance": 0.5})
    fleet(manager, 1)
    json_and_zstd(manager)

    selection = manager.select("agent-0")

    assert selection.reason == "degraded"
    assert set(selection.parts) == {"performance"}
