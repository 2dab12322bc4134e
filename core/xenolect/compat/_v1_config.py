"""The first SDK's configuration, and what each of it is called here."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import attrs

from xenolect.errors import ConfigError

__all__ = [
    "CanaryConfig",
    "CircuitBreakerConfig",
    "EmergenceConfig",
    "OperationResult",
    "RollbackConfig",
]


@attrs.define
class OperationResult:
    """What a failure predicate looks at: one operation. ``latency`` in milliseconds."""

    success: bool
    latency: float | None = None


@attrs.define
class RollbackConfig:
    """Points per variant, and how many days they are kept. Points hold metadata and refer to states;
    whether those are compressed is ``EmergenceConfig.enable_compression``."""

    max_points: int = 100
    retention_days: int = 30


@attrs.define
class CircuitBreakerConfig:
    """``reset_timeout`` in seconds. ``failure_predicate``: is this operation a failure?"""

    failure_threshold: int = 5
    reset_timeout: float = 30.0
    max_reset_attempts: int = 3
    failure_predicate: Callable[[OperationResult], bool] | None = None


def _fraction(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0.0 < value <= 0.95:
        raise ConfigError(
            f"{attribute.name} is a fraction, above 0 and at most 0.95, got {value!r}: 10 % is 0.1"
        )


@attrs.define
class CanaryConfig:
    """``initial_percentage`` is a fraction in (0, 0.95]; ``health_check_interval`` in seconds."""

    initial_percentage: float = attrs.field(default=0.1, validator=_fraction)
    ramp_up_steps: int = 5
    health_check_interval: float = 300.0


@attrs.define
class EmergenceConfig:
    """The SDK's configuration. Sizes in bytes, times in seconds. ``log_level``: of the loggers
    ``xenolect.*``; ``log_file``: where they write besides."""

    max_variants: int = 100
    enable_incremental_adoption: bool = True
    storage_path: str | os.PathLike[str] = "variants/"
    cache_size: int = 256 * 1024 * 1024
    chunk_size: int = 1024 * 1024
    enable_compression: bool = True
    btree_order: int = 128
    max_cached_nodes: int = 1000
    metrics_interval: float = 60.0
    metrics_retention: float = 30 * 86400.0
    log_level: int | str | None = None
    log_file: str | os.PathLike[str] | None = None
    rollback_config: RollbackConfig = attrs.field(factory=RollbackConfig)
    circuit_config: CircuitBreakerConfig = attrs.field(factory=CircuitBreakerConfig)
    canary_config: CanaryConfig = attrs.field(factory=CanaryConfig)

    def settings(self) -> dict[str, Any]:
        """The same as settings of ``xenolect.open``."""
        circuit, canary = self.circuit_config, self.canary_config
        return {
            "max_variants": self.max_variants,
            "incremental_adoption": self.enable_incremental_adoption,
            "state": {
                "cache_size": self.cache_size,
                "chunk_size": self.chunk_size,
                "compression": self.enable_compression,
            },
            "index": {"btree_order": self.btree_order, "cache_nodes": self.max_cached_nodes},
            "metrics": {"interval": self.metrics_interval, "retention": self.metrics_retention},
            "rollback": {
                "max_points": self.rollback_config.max_points,
                "retention": self.rollback_config.retention_days * 86400.0,
            },
            "breaker": {
                "failure_threshold": circuit.failure_threshold,
                "reset_timeout": circuit.reset_timeout,
                "max_reset_attempts": circuit.max_reset_attempts,
            },
            "canary": {
                "initial_fraction": canary.initial_percentage,
                "ramp_steps": canary.ramp_up_steps,
                "health_check_interval": canary.health_check_interval,
            },
        }
