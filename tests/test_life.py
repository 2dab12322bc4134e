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
)

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
