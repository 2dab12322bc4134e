"""The first SDK's documented guide, step by step, through ``xenolect.compat.v1``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from xenolect.compat import v1
from xenolect.compat.v1 import (
    AgentContext,
    CanaryConfig,
    CircuitBreakerConfig,
    ConfigurationError,
    EmergenceConfig,
    EmergenceManager,
    InvalidVariantError,
    OperationResult,
    PerformanceMetrics,
    ProtocolVariant,
    RollbackConfig,
    StateError,
    VariantException,
)
from xenolect.errors import InvalidError


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[EmergenceManager]:
    """The guide's basic configuration."""
    config = EmergenceConfig(
        max_variants=50,
        enable_incremental_adoption=True,
        storage_path=tmp_path / "variants",
        rollback_config=RollbackConfig(max_points=100),
        circuit_config=CircuitBreakerConfig(failure_threshold=5, reset_timeout=30),
        canary_config=CanaryConfig(initial_percentage=0.10, ramp_up_steps=5),
    )
    with EmergenceManager(config, background=False) as made:
        yield made


CHANGES = {"timeout": 5000, "retries": 3, "encoding": "protobuf", "compression": True}


def test_the_guide_step_by_step(manager: EmergenceManager) -> None:
    """Propose, measure, register, recommend, report: in the guide's order and with its values."""
    variant = ProtocolVariant(
        "", description="Optimized for high-latency networks", changes=CHANGES
    )
    variant_id = manager.propose_variant(variant, "Performance optimization")

    metrics = PerformanceMetrics(
        success_rate=0.99,
        latency_ms=45.0,
        throughput=1000.0,
        custom={"compression_ratio": 0.65, "memory_usage_mb": 256.0},
        count=100,
    )
    manager.log_performance(variant_id, metrics)
    history = manager.get_variant_performance(variant_id)
    assert (history.count, history.failures) == (100, 1)
    assert history.custom["compression_ratio"] == 0.65

    context = AgentContext(
        {"feature1": "enabled", "compression": "supported", "max_message_size": "1048576"},
        preferences={"latency": 0.8, "throughput": 0.2},
    )
    manager.register_agent("agent1", context)
    assert manager.get_recommended_variants("agent1", 3) == [variant_id]
    manager.report_variant_experience("agent1", variant_id, True)
    assert manager.get_variant_performance(variant_id).count == 101

    found = manager.get_variant(variant_id)
    assert found is not None
    assert found.changes == CHANGES
    assert found.metadata["why"] == "Performance optimization"
    assert [each.id for each in manager.list_variants("active")] == [variant_id]
    assert manager.get_variant("nothing") is None


def test_snapshots_are_verified_and_restored(manager: EmergenceManager) -> None:
    """A point holds the state given with it; restoring brings content and state back."""
    variant_id = manager.propose_variant(CHANGES)
    state = {"sessions": [1, 2, 3]}
    rollback_id = manager.get_rollback_manager().create_rollback_point(variant_id, state)
    assert manager.get_rollback_manager().verify_rollback_point(rollback_id)
    manager.inner.states.put(variant_id, {"sessions": []})
    assert manager.restore_to_point(rollback_id)
    assert manager.inner.states.get(variant_id) == state


def test_a_damaged_snapshot_is_false_not_restored(
    manager: EmergenceManager, tmp_path: Path
) -> None:
    """Verification reads back what is on the disk, and restoring refuses it."""
    variant_id = manager.propose_variant(CHANGES)
    rollback_id = manager.create_rollback_point(variant_id, {"a": "b" * 500})
    (chunk,) = (tmp_path / "variants" / "variants" / variant_id / "state").glob("chunk_*")
    chunk.chmod(0o644)
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\x00")
    assert not manager.verify_rollback_point(rollback_id)
    assert not manager.restore_to_point(rollback_id)


def test_requests_are_protected(manager: EmergenceManager) -> None:
    """Five failures open it; then nothing is allowed."""
    variant_id = manager.propose_variant(CHANGES)
    breaker = manager.get_circuit_breaker(variant_id)
    for _ in range(5):
        assert breaker.allow_request()
        breaker.record_failure()
    assert breaker.is_open()
    assert not breaker.allow_request()


def test_failure_is_what_the_predicate_says(tmp_path: Path) -> None:
    """A slow success is a failure here, and five of them open the breaker."""
    config = EmergenceConfig(storage_path=tmp_path / "variants")
    config.circuit_config.failure_predicate = lambda result: (
        (result.latency or 0) > 1000 or not result.success
    )
    with EmergenceManager(config, background=False) as manager:
        breaker = manager.get_circuit_breaker(manager.propose_variant(CHANGES))
        for latency in (10.0, 1500.0, 1500.0, 1500.0, 1500.0, 1500.0):
            assert breaker.allow_request()
            breaker.record(OperationResult(success=True, latency=latency))
        assert breaker.is_open()


def test_a_canary_routes_a_few_and_goes_back(manager: EmergenceManager) -> None:
    """About a tenth of the agents are in; harm takes it back, and nobody is in any more."""
    stable = manager.propose_variant(CHANGES)
    new = manager.propose_variant({"timeout": 1})
    agents = [f"agent{number}" for number in range(200)]
    for agent in agents:
        manager.register_agent(agent, AgentContext({}))
    canary = manager.get_canary_deployment(new)
    assert not canary.is_canary_healthy()
    canary.start(seed=3)
    inside = [agent for agent in agents if canary.should_use_canary(agent)]
    assert 5 <= len(inside) <= 40
    assert canary.is_canary_healthy()
    for agent in agents:
        manager.report_variant_experience(agent, stable, True)
    for agent in inside:
        canary.record_metrics(PerformanceMetrics(0.0, count=1), agent)
    assert not canary.is_canary_healthy()
    assert not any(canary.should_use_canary(agent) for agent in agents)
    assert manager.get_variant(new).status == "rolled_back"  # type: ignore[union-attr]


def test_the_errors_of_the_guide(manager: EmergenceManager) -> None:
    """They are xenolect's own, under both names."""
    with pytest.raises(InvalidVariantError):
        manager.propose_variant({"timeout": float("nan")})
    with pytest.raises(VariantException):
        manager.log_performance("nothing", PerformanceMetrics(1.0))
    with pytest.raises(ConfigurationError, match=r"is a fraction.*10 % is 0\.1"):
        CanaryConfig(initial_percentage=10)
    assert issubclass(StateError, VariantException)


def test_debug_logging(tmp_path: Path) -> None:
    """Level and file of the guide's debugging section."""
    config = EmergenceConfig(
        storage_path=tmp_path / "variants", log_level="DEBUG", log_file=tmp_path / "debug.log"
    )
    import logging

    with EmergenceManager(config, background=False) as manager:
        variant_id = manager.propose_variant(CHANGES)
        manager.inner.rollback(variant_id)
        logging.getLogger("xenolect.variants").debug("looked at")
    logger = logging.getLogger("xenolect")
    logger.setLevel(logging.NOTSET)
    (handler,) = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
    logger.removeHandler(handler)
    handler.close()
    assert "DEBUG xenolect.variants looked at" in (tmp_path / "debug.log").read_text()


def test_a_selector_of_ones_own(manager: EmergenceManager) -> None:
    """It chooses among what the agent can speak, and nothing else."""
    for number in range(3):
        new = ProtocolVariant(f"v{number}", changes={"retries": number})
        manager.propose_variant(new)
        if number:
            manager.inner.variants.activate(new.id, force=True)
    manager.inner.variants.activate(
        manager.inner.variants.propose("no", {}, id="no", requirements={"zstd": True}), force=True
    )
    manager.register_agent("agent1", AgentContext({"retries": 2}))
    seen: list[list[str]] = []

    def selector(variants: list[ProtocolVariant], context: AgentContext) -> ProtocolVariant:
        seen.append(sorted(variant.id for variant in variants))
        wanted = context.capabilities["retries"]
        return next(v for v in variants if v.changes["retries"] == wanted)

    manager.set_variant_selector(selector)
    assert manager.get_recommended_variants("agent1", 2)[0] == "v2"
    assert seen == [["v0", "v1", "v2"]]
    manager.set_variant_selector(lambda variants, context: "no")
    with pytest.raises(InvalidError, match="'no', which was not offered"):
        manager.get_recommended_variants("agent1")
    manager.set_variant_selector(None)
    assert len(manager.get_recommended_variants("agent1")) == 3


def test_every_name_is_there() -> None:
    """The SDK's documented names, in Python's spelling."""
    names = [
        "propose_variant",
        "get_variant",
        "list_variants",
        "log_performance",
        "get_variant_performance",
        "register_agent",
        "get_recommended_variants",
        "report_variant_experience",
        "create_rollback_point",
        "restore_to_point",
        "verify_rollback_point",
        "register_state_migration",
        "set_variant_selector",
    ]
    assert [name for name in names if not callable(getattr(v1.EmergenceManager, name, None))] == []


def test_states_migrate_when_they_are_read(manager: EmergenceManager) -> None:
    """What was written as v1 comes back as v2; what is stored stays."""
    variant_id = manager.propose_variant(CHANGES)
    manager.inner.states.put(variant_id, {"sessions": 3})
    manager.register_state_migration("v1", "v2", lambda old: {**old, "dialect": "plain"})
    assert manager.inner.states.get(variant_id) == {"sessions": 3, "dialect": "plain"}
    with pytest.raises(InvalidError, match="is v1, v2 and so on, got 'beta'"):
        manager.register_state_migration("v1", "beta", lambda old: old)
