"""The configuration: one frozen tree; defaults < TOML file < environment < keywords.

``load`` builds it. A *part* (chunks, index, cipher, breaker, a scorer, a judge) names an offer with
``use``; its other keys are that offer's options and are checked when the part is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from xenolect.units import Bytes, Seconds

__all__ = [
    "CanaryConfig",
    "CompatibilityConfig",
    "Config",
    "JournalConfig",
    "LogConfig",
    "MetricsConfig",
    "Part",
    "PluginsConfig",
    "RollbackConfig",
    "SelectionConfig",
    "StateConfig",
    "load",
]

MIB = 1024 * 1024
DAY = 86400.0


@attrs.frozen
class Part:
    """An offer by name, with its options as given; ``weight`` matters to scorers only."""

    use: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    weight: float = 1.0


@attrs.frozen
class StateConfig:
    """How states are cut, compressed and cached."""

    chunk_size: Bytes = Bytes(MIB)
    cache_size: Bytes = Bytes(256 * MIB)
    compression: bool = True
    max_size: Bytes = Bytes(1024 * MIB)
    gc_grace: Seconds = Seconds(DAY)


@attrs.frozen
class MetricsConfig:
    """How measurements are windowed, flushed and kept. ``custom``: declared custom metrics."""

    interval: Seconds = Seconds(60.0)
    flush_interval: Seconds = Seconds(0.25)
    flush_records: int = 1000
    queue: int = 100_000
    retention: Seconds = Seconds(30 * DAY)
    hourly: Seconds = Seconds(90 * DAY)
    daily: Seconds = Seconds(2 * 365.25 * DAY)
    monthly: Seconds = Seconds(10 * 365.25 * DAY)
    half_life: Seconds = Seconds(DAY)
    lateness: Seconds = Seconds(120.0)
    custom: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class RollbackConfig:
    """How many rollback points are kept, how long, and how long a rolled back variant must wait."""

    max_points: int = 100
    retention: Seconds = Seconds(30 * DAY)
    quarantine: Seconds = Seconds(DAY)


@attrs.frozen
class CanaryConfig:
    """The defaults of ``canaries.start``; each may be given there as a keyword too."""

    initial_fraction: float = 0.10
    ramp_steps: int = 5
    ramp: str = "geometric"
    levels: tuple[float, ...] | None = None
    holdback: float = 0.05
    health_check_interval: Seconds = Seconds(300.0)
    unit: str = "agent"
    judge: Part = Part("evalue")
    use: str = "canary"
    min_effect: float = 0.01
    alpha: float = 0.01
    min_operations: int = 300
    min_units: int = 10
    min_eligible: int = 20
    max_duration: Seconds = Seconds(DAY)
    on_inconclusive: str = "hold"
    max_attempts: int = 3
    processes: int | None = None
    drain: Seconds = Seconds(600.0)


@attrs.frozen
class SelectionConfig:
    """Stickiness and bounded caches of selection."""

    min_dwell: Seconds = Seconds(600.0)
    hysteresis: float = 0.02
    sticky_agents: int = 100_000
    sessions: int = 100_000
    profiles: int = 1_024
    latency_target: Seconds | None = None


@attrs.frozen
class CompatibilityConfig:
    """The rules that must all agree, in order."""

    rules: tuple[str, ...] = ("capabilities",)


@attrs.frozen
class PluginsConfig:
    """Where plugins come from and which are left out."""

    dir: str | None = None
    blocked: tuple[str, ...] = ()
    third_party: bool = True


@attrs.frozen
class JournalConfig:
    """What the journal holds beyond commits: a share of selections."""

    sample: float = 0.0


@attrs.frozen
class LogConfig:
    """Logging level (ERROR, WARN, INFO, DEBUG, TRACE) and categories."""

    level: str = "WARN"
    categories: tuple[str, ...] = ()


@attrs.frozen
class Config:
    """Everything that can be set. ``storage`` is a directory, ``memory://`` or an fsspec URL."""

    storage: str = "variants/"
    max_variants: int = 100
    incremental_adoption: bool = True
    mode: str = "normal"
    max_staleness: Seconds = Seconds(5.0)
    poll_interval: Seconds = Seconds(0.1)
    chunks: Part = Part("fsspec")
    index: Part = Part("sqlite")
    cipher: Part = Part("none")
    state: StateConfig = attrs.field(factory=StateConfig)
    metrics: MetricsConfig = attrs.field(factory=MetricsConfig)
    scoring: Mapping[str, Part] = attrs.field(
        factory=lambda: {
            "performance": Part("performance", weight=0.3),
            "compatibility": Part("compatibility", weight=0.4),
            "stability": Part("stability", weight=0.3),
        }
    )
    rollback: RollbackConfig = attrs.field(factory=RollbackConfig)
    breaker: Part = Part("breaker")
    canary: CanaryConfig = attrs.field(factory=CanaryConfig)
    compatibility: CompatibilityConfig = attrs.field(factory=CompatibilityConfig)
    selection: SelectionConfig = attrs.field(factory=SelectionConfig)
    plugins: PluginsConfig = attrs.field(factory=PluginsConfig)
    journal: JournalConfig = attrs.field(factory=JournalConfig)
    access: Mapping[str, Any] = attrs.field(factory=dict)
    limits: Mapping[str, Any] = attrs.field(factory=dict)
    log: LogConfig = attrs.field(factory=LogConfig)


def load(
    path: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    **given: Any,
) -> Config:
    """Build the configuration: defaults, then the file, then the environment, then keywords."""
    raise AssertionError
