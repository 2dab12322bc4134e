"""The names of the first SDK, in Python's spelling, over :class:`xenolect.EmergenceManager`.

Every call does what its name says: a rollback restores, a canary routes, a predicate decides. What the
SDK left open is settled as in the rest of xenolect; ``manager.inner`` is the whole manager. Three things
to know:

- The first variant proposed becomes the baseline, since somebody must be served. Later ones wait for
  ``get_canary_deployment(id).start()``; with ``enable_incremental_adoption = False`` they serve at once.
- ``initial_percentage`` is a fraction: 0.1 is 10 %. The SDK's own pages said both 0.1 and 10.
- A breaker and a canary belong to a variant, so both getters take its id.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from xenolect.compat._v1_config import (
    CanaryConfig,
    CircuitBreakerConfig,
    EmergenceConfig,
    OperationResult,
    RollbackConfig,
)
from xenolect.errors import (
    BreakerOpenError,
    ConfigError,
    CorruptError,
    EmergenceError,
    InvalidError,
    InvalidVariantError,
    NoCompatibleVariantError,
    NotFoundError,
    VariantNotFoundError,
)
from xenolect.manager import EmergenceManager as Manager
from xenolect.model import (
    AgentContext,
    PerformanceHistory,
    PerformanceMetrics,
    ProtocolVariant,
    VariantStatus,
)

__all__ = [
    "AgentContext",
    "CanaryConfig",
    "CanaryDeployment",
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "ConfigurationError",
    "EmergenceConfig",
    "EmergenceManager",
    "InvalidVariantError",
    "OperationResult",
    "PerformanceHistory",
    "PerformanceMetrics",
    "ProtocolVariant",
    "RollbackConfig",
    "RollbackManager",
    "StateError",
    "VariantException",
    "VariantNotFoundError",
    "VariantStatus",
]

VariantException = EmergenceError
ConfigurationError = ConfigError
StateError = CorruptError

Selector = Callable[[Sequence[ProtocolVariant], AgentContext], "ProtocolVariant | str | None"]


class EmergenceManager:
    """The SDK's manager. ``inner`` is xenolect's, with everything the SDK has no name for."""

    def __init__(self, config: EmergenceConfig | None = None, **settings: Any) -> None:
        self.config = config or EmergenceConfig()
        _log(self.config)
        self.inner = Manager.open(
            os.fspath(self.config.storage_path), **{**self.config.settings(), **settings}
        )
        self._select: Selector | None = None

    def close(self) -> None:
        """Store what waits and let go of files; twice is fine."""
        self.inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- variants -----------------------------------------------------------------------------------

    def propose_variant(
        self, variant: ProtocolVariant | Mapping[str, Any], description: str = ""
    ) -> str:
        """Propose a variant (or its changes alone); its id. InvalidVariantError, LimitError.

        An id that the variant brings is kept; "" is replaced by a new one.
        """
        if not isinstance(variant, ProtocolVariant):
            variant = ProtocolVariant("", changes=dict(variant))
        proposed = self.inner.variants.propose(
            variant.description or description or _described(variant.changes),
            variant.changes,
            requirements=variant.requirements,
            id=variant.id or None,
            protocol=variant.protocol,
            optional=variant.optional,
            conflicts=variant.conflicts,
            metadata={**variant.metadata, **({"why": description} if description else {})},
            parent_id=variant.parent_id,
        )
        first = not any(
            other.status != VariantStatus.ARCHIVED and other.id != proposed.id
            for other in self.inner.variants.list(protocol=proposed.protocol)
        )
        if first or not self.config.enable_incremental_adoption:
            self.inner.variants.activate(proposed)
        return proposed.id

    def get_variant(self, variant_id: str) -> ProtocolVariant | None:
        """The variant, or None."""
        try:
            return self.inner.variants.get(variant_id)
        except VariantNotFoundError:
            return None

    def list_variants(self, status: VariantStatus | str | None = None) -> list[ProtocolVariant]:
        """All variants, or those with a status."""
        return self.inner.variants.list(status=status)

    # -- performance --------------------------------------------------------------------------------

    def log_performance(self, variant_id: str, metrics: PerformanceMetrics) -> None:
        """Record measurements of a variant; InvalidMetricsError."""
        self.inner.record(variant_id, metrics)

    def get_variant_performance(self, variant_id: str) -> PerformanceHistory:
        """What was measured of a variant in the last 24 hours."""
        return self.inner.performance.history(variant_id)

    # -- agents -------------------------------------------------------------------------------------

    def register_agent(self, agent_id: str, context: AgentContext) -> None:
        """Register an agent; one that is known gets the new context."""
        try:
            self.inner.agents.get(agent_id)
        except NotFoundError:
            self.inner.agents.register(agent_id, context)
        else:
            self.inner.agents.update(agent_id, context)

    def get_recommended_variants(self, agent_id: str, max_results: int = 5) -> list[str]:
        """Ids of the variants this agent can speak, best first; [] where there is none.

        With a selector of one's own its choice comes first.
        """
        try:
            found = self.inner.recommend(agent_id, limit=10_000 if self._select else max_results)
        except NoCompatibleVariantError:
            return []
        variants = [selection.variant for selection in found]
        if self._select is not None and variants:
            context = self.inner.agents.get(agent_id).context
            chosen = self._chosen(self._select(variants, context), variants)
            if chosen is not None:
                variants = [chosen, *(v for v in variants if v.id != chosen.id)]
        return [variant.id for variant in variants[:max_results]]

    def _chosen(
        self, answer: ProtocolVariant | str | None, variants: Sequence[ProtocolVariant]
    ) -> ProtocolVariant | None:
        if answer is None:
            return None
        wanted = answer if isinstance(answer, str) else answer.id
        for variant in variants:
            if variant.id == wanted:
                return variant
        raise InvalidError(
            f"the selector chose {wanted!r}, which was not offered to it; return one of the variants "
            f"it is given, its id, or None"
        )

    def report_variant_experience(self, agent_id: str, variant_id: str, success: bool) -> None:
        """Report one operation of an agent."""
        self.inner.report(variant_id, agent_id, success)

    def set_variant_selector(self, selector: Selector | None) -> None:
        """Let ``selector(variants, context)`` choose among the variants an agent can speak.

        It can not choose one the agent can not speak, nor undo a rollback. None: choose by score again.
        """
        self._select = selector

    def register_state_migration(
        self,
        from_version: str | int,
        to_version: str | int,
        migrate: Callable[[Any], Any],
        protocol: str = "default",
    ) -> None:
        """Migrate states of a protocol when they are read: from "v1" to "v2". A state has the newest
        version that a known migration led to when it was put, and v1 where there was none."""
        self.inner.states.register_migration(
            protocol, _number(from_version), _number(to_version), migrate
        )

    # -- safeguards ---------------------------------------------------------------------------------

    def get_rollback_manager(self) -> RollbackManager:
        """Rollback points."""
        return RollbackManager(self.inner)

    def get_circuit_breaker(self, variant_id: str) -> CircuitBreaker:
        """The breaker of a variant."""
        return CircuitBreaker(self.inner, variant_id, self.config.circuit_config.failure_predicate)

    def get_canary_deployment(self, variant_id: str) -> CanaryDeployment:
        """The rollout of a variant."""
        return CanaryDeployment(self.inner, variant_id)

    def create_rollback_point(self, variant_id: str, state: Any = None) -> str:
        """As ``RollbackManager.create_rollback_point``."""
        return self.get_rollback_manager().create_rollback_point(variant_id, state)

    def restore_to_point(self, rollback_id: str) -> bool:
        """As ``RollbackManager.restore_to_point``."""
        return self.get_rollback_manager().restore_to_point(rollback_id)

    def verify_rollback_point(self, rollback_id: str) -> bool:
        """As ``RollbackManager.verify_rollback_point``."""
        return self.get_rollback_manager().verify_rollback_point(rollback_id)


class RollbackManager:
    """Rollback points under the SDK's names."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def create_rollback_point(self, variant_id: str, state: Any = None) -> str:
        """Write a point, with ``state`` (JSON or bytes) stored as the variant's first; its id."""
        if state is not None:
            self._manager.states.put(variant_id, state)
        return self._manager.points.create(variant_id).id

    def restore_to_point(self, rollback_id: str) -> bool:
        """Content and state back to the point, in one commit; False when it is damaged."""
        try:
            self._manager.points.restore(rollback_id)
        except CorruptError:
            return False
        return True

    def verify_rollback_point(self, rollback_id: str) -> bool:
        """Read the point and its state back: is everything as it was written?"""
        try:
            self._manager.points.verify(rollback_id)
        except CorruptError:
            return False
        return True


class CircuitBreaker:
    """A variant's breaker under the SDK's names. Use one object per thread: it carries the permit
    from ``allow_request`` to the record that follows."""

    def __init__(
        self,
        manager: Manager,
        variant_id: str,
        predicate: Callable[[OperationResult], bool] | None = None,
    ) -> None:
        self._manager = manager
        self._variant_id = variant_id
        self._predicate = predicate
        self._permit: Any = None

    def is_open(self) -> bool:
        """Are calls refused now?"""
        return self._manager.breakers.status(self._variant_id).state not in (
            "closed",
            "half_open",
            "disabled",
        )

    def allow_request(self) -> bool:
        """May one call pass?"""
        try:
            self._permit = self._manager.breakers.acquire(self._variant_id)
        except BreakerOpenError:
            return False
        return True

    def record_success(self) -> None:
        """The call succeeded."""
        self._take().success()

    def record_failure(self) -> None:
        """The call failed."""
        self._take().failure()

    def record(self, result: OperationResult) -> None:
        """The call ended so; the failure predicate says what that is."""
        failed = self._predicate(result) if self._predicate else not result.success
        if failed:
            self.record_failure()
        else:
            self.record_success()

    def _take(self) -> Any:
        permit, self._permit = self._permit, None
        return permit if permit is not None else self._manager.breakers.acquire(self._variant_id)


class CanaryDeployment:
    """A variant's rollout under the SDK's names."""

    def __init__(self, manager: Manager, variant_id: str) -> None:
        self._manager = manager
        self._variant_id = variant_id

    def start(self, **options: Any) -> None:
        """Let it reach a few agents; options as of ``manager.canaries.start``."""
        self._manager.canaries.start(self._variant_id, **options)

    def should_use_canary(self, agent_id: str, session: str | None = None) -> bool:
        """Is this agent (or conversation) in the canary's share now?"""
        return self._manager.canaries.routes(self._variant_id, agent_id, session)

    def record_metrics(self, metrics: PerformanceMetrics, agent_id: str | None = None) -> None:
        """Measurements of the canary; only those with an agent can judge it."""
        self._manager.record(self._variant_id, metrics, agent_id)

    def is_canary_healthy(self) -> bool:
        """Is it serving (running, or promoted), with nothing held against it?"""
        if self._manager.variants.get(self._variant_id).status == VariantStatus.ACTIVE:
            return not CircuitBreaker(self._manager, self._variant_id).is_open()
        try:
            status = self._manager.canaries.status(self._variant_id)
        except NotFoundError:
            return False
        return status.state == "ramping" and status.verdict not in ("hold", "rollback")


def _described(changes: Any) -> str:
    """What a variant changes, for one that says nothing of itself."""
    names = ", ".join(map(str, changes)) if isinstance(changes, Mapping) else ""
    return f"changes {names}" if names else "changes nothing"


def _number(version: str | int) -> int:
    text = str(version).removeprefix("v")
    if not text.isdecimal() or int(text) < 1:
        raise InvalidError(f"a state's version is v1, v2 and so on, got {version!r}")
    return int(text)


def _log(config: EmergenceConfig) -> None:
    logger = logging.getLogger("xenolect")
    if config.log_level is not None:
        logger.setLevel(config.log_level)
    if config.log_file is not None:
        wanted = os.path.abspath(os.fspath(config.log_file))
        if not any(getattr(each, "baseFilename", None) == wanted for each in logger.handlers):
            handler = logging.FileHandler(wanted, encoding="utf-8", delay=True)
            handler.setFormatter(
                logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
            )
            logger.addHandler(handler)
