"""The configuration: one frozen tree; defaults < TOML file < environment < keywords.

``load`` builds it. A *part* (chunks, index, cipher, breaker, a scorer, a judge) names an offer with
``use``; its other keys are that offer's options and are checked when the part is made.
"""

# typed-settings 26.0 does the layers and secrets, but can not express a part: its options are the fields
# of the settings classes, so `chunks.url` is "Invalid options found" in a file and silently ignored in the
# environment when the offer behind `use` is not known before plugins are loaded. Hence _layers.py.

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import attrs

from xenolect import _layers
from xenolect._checks import Check, at_least, fraction, one_of, positive, show
from xenolect._logging import CATEGORIES
from xenolect._options import structure
from xenolect.errors import ConfigError
from xenolect.secret import Secret
from xenolect.units import Bytes, Seconds

__all__ = [
    "CanaryConfig",
    "CompatibilityConfig",
    "Config",
    "CustomMetric",
    "JournalConfig",
    "LogConfig",
    "MetricsConfig",
    "Part",
    "PluginsConfig",
    "RollbackConfig",
    "Secret",
    "SelectionConfig",
    "StateConfig",
    "load",
]

log = logging.getLogger("xenolect.plugins")
MIB = 1024 * 1024
DAY = 86400.0


@attrs.frozen
class Part:
    """An offer by name, with its options as given; ``weight`` matters to scorers only."""

    WORDS: ClassVar = "the name of an offer, or a table"

    use: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    weight: float = attrs.field(default=1.0, validator=fraction)


def _shares(table: Mapping[str, Part]) -> str | None:
    total = sum(part.weight for part in table.values())
    if abs(total - 1.0) <= 1e-9:
        return None
    each = ", ".join(f"{name} {part.weight:g}" for name, part in table.items()) or "no scorer"
    return f"the weights must sum to 1, found {total:.10g} ({each})"


def _levels(levels: tuple[float, ...] | None) -> str | None:
    if levels is None:
        return None
    rising = all(low < high for low, high in pairwise(levels))
    if levels and rising and levels[0] > 0 and levels[-1] <= 1:
        return None
    return f"expected rising fractions in (0, 1], got {list(levels)}"


def _bounds(bounds: tuple[float, ...] | None) -> str | None:
    if bounds is None or (len(bounds) == 2 and bounds[0] < bounds[1]):
        return None
    return f"expected [lowest, highest], got {list(bounds)}"


def _categories(names: tuple[str, ...]) -> str | None:
    unknown = [name for name in names if name not in CATEGORIES]
    return f"expected some of {', '.join(CATEGORIES)}; got {unknown}" if unknown else None


def _initial(share: float) -> str | None:
    if not 0 <= share <= 1:
        return f"expected a fraction in [0, 1], got {show(share)}"
    if not 0 < share <= 0.95:
        return f"expected more than 0 and at most 0.95, so that both arms have units, got {show(share)}"
    return None


@attrs.frozen
class StateConfig:
    """How states are cut, compressed, cached and kept whole."""

    chunk_size: Bytes = attrs.field(default=Bytes(MIB), validator=positive)
    cache_size: Bytes = Bytes(256 * MIB)
    compression: bool = True
    max_size: Bytes = attrs.field(default=Bytes(1024 * MIB), validator=positive)
    gc_grace: Seconds = Seconds(DAY)
    replica: str | None = None
    scrub_interval: Seconds = attrs.field(default=Seconds(7 * DAY), validator=at_least(0))
    scrub_rate: Bytes = attrs.field(default=Bytes(4 * MIB), validator=positive)


@attrs.frozen
class CustomMetric:
    """What a custom metric means: ``direction`` says which way is better, ``bounds`` where it can lie.

    A declared metric is a guardrail of every canary: with bounds it may be worse by ``margin`` (a share
    of the bounds), without bounds by ``ratio``. ``guard = false`` only records it. One value beyond
    ``limit`` is a critical failure of the variant; where an agent reports it, the second agent's is.
    ``resource_usage`` and ``throughput`` may be declared like any other.
    """

    direction: str = attrs.field(validator=one_of("lower", "higher"))
    unit: str = ""
    bounds: tuple[float, ...] | None = attrs.field(default=None, validator=Check(_bounds))
    margin: float = attrs.field(default=0.05, validator=fraction)
    ratio: float = attrs.field(default=1.10, validator=at_least(1))
    guard: bool = True
    limit: float | None = None


@attrs.frozen
class MetricsConfig:
    """How measurements are windowed, flushed and kept. ``custom``: declared custom metrics."""

    interval: Seconds = attrs.field(default=Seconds(60.0), validator=positive)
    flush_interval: Seconds = Seconds(0.25)
    flush_records: int = attrs.field(default=1000, validator=at_least(1))
    queue: int = attrs.field(default=100_000, validator=at_least(1))
    retention: Seconds = Seconds(30 * DAY)
    hourly: Seconds = Seconds(90 * DAY)
    daily: Seconds = Seconds(2 * 365.25 * DAY)
    monthly: Seconds = Seconds(10 * 365.25 * DAY)
    half_life: Seconds = attrs.field(default=Seconds(DAY), validator=positive)
    lateness: Seconds = Seconds(120.0)
    custom: Mapping[str, CustomMetric] = attrs.field(factory=dict)


@attrs.frozen
class RollbackConfig:
    """How many rollback points are kept, how long, and how long a rolled back variant must wait."""

    max_points: int = attrs.field(default=100, validator=at_least(1))
    retention: Seconds = Seconds(30 * DAY)
    quarantine: Seconds = Seconds(DAY)


@attrs.frozen
class CanaryConfig:
    """The defaults of ``canaries.start``; each may be given there as a keyword too."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "drain": "was never in effect and is gone, remove it: nobody is served a variant that was "
        "rolled back, and what its conversations refer to stays readable"
    }
    initial_fraction: float = attrs.field(default=0.10, validator=Check(_initial))
    ramp_steps: int = attrs.field(default=5, validator=at_least(1))
    ramp: str = attrs.field(default="geometric", validator=one_of("geometric", "linear"))
    levels: tuple[float, ...] | None = attrs.field(default=None, validator=Check(_levels))
    holdback: float = attrs.field(default=0.05, validator=fraction)
    health_check_interval: Seconds = attrs.field(default=Seconds(300.0), validator=positive)
    unit: str = attrs.field(default="agent", validator=one_of("agent", "session"))
    judge: Part = Part("evalue")
    use: str = "canary"
    min_effect: float = attrs.field(default=0.01, validator=fraction)
    alpha: float = attrs.field(default=0.01, validator=fraction)
    min_operations: int = attrs.field(default=300, validator=at_least(1))
    min_units: int = attrs.field(default=10, validator=at_least(1))
    min_eligible: int = attrs.field(default=20, validator=at_least(0))
    max_duration: Seconds = attrs.field(default=Seconds(DAY), validator=positive)
    on_inconclusive: str = attrs.field(default="hold", validator=one_of("hold", "abort", "promote"))
    max_attempts: int = attrs.field(default=3, validator=at_least(1))
    adaptive: bool = False
    processes: int | None = attrs.field(default=None, validator=at_least(1))


@attrs.frozen
class SelectionConfig:
    """Stickiness, exploration and bounded caches of selection.

    ``explore``: the share of selections outside any rollout that are served the best of one draw from
    what is believed of each variant (Thompson sampling) instead of the best lower bound.
    """

    min_dwell: Seconds = Seconds(600.0)
    hysteresis: float = attrs.field(default=0.02, validator=fraction)
    sticky_agents: int = attrs.field(default=100_000, validator=at_least(0))
    sessions: int = attrs.field(default=100_000, validator=at_least(0))
    profiles: int = attrs.field(default=1_024, validator=at_least(1))
    explore: float = attrs.field(default=0.0, validator=fraction)
    latency_target: Seconds | None = attrs.field(default=None, validator=positive)


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

    sample: float = attrs.field(default=0.0, validator=fraction)


@attrs.frozen
class LogConfig:
    """Logging level (ERROR, WARN, INFO, DEBUG, TRACE) and categories.

    Without a level the application's own logging decides, and the command line logs nothing.
    """

    level: str | None = attrs.field(
        default=None, validator=one_of("ERROR", "WARN", "INFO", "DEBUG", "TRACE")
    )
    categories: tuple[str, ...] = attrs.field(default=(), validator=Check(_categories))


@attrs.frozen
class Config:
    """Everything that can be set. ``storage`` is a directory, ``memory://`` or an fsspec URL."""

    storage: str = "variants/"
    max_variants: int = attrs.field(default=100, validator=at_least(1))
    incremental_adoption: bool = True
    mode: str = attrs.field(default="normal", validator=one_of("normal", "observe", "baseline"))
    max_staleness: Seconds = attrs.field(default=Seconds(5.0), validator=positive)
    poll_interval: Seconds = attrs.field(default=Seconds(0.1), validator=positive)
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
        },
        validator=Check(_shares),
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

    def digest(self) -> str:
        """SHA-256 of all settings, the same in every process; of a secret only where it is.

        Rollback points carry it, so that a restored variant can tell it ran under other settings.
        """
        text = json.dumps(
            _layers.as_table(self), sort_keys=True, separators=(",", ":"), default=_nameable
        )
        return hashlib.sha256(text.encode()).hexdigest()


def _nameable(value: Any) -> Any:
    """What stands for a live object in the digest: a secret's place, another object's class."""
    if isinstance(value, Secret):
        return {"env": value.env} if value.env is not None else {"file": value.file}
    return f"{type(value).__module__}.{type(value).__qualname__}"


def load(
    path: str | Path | Config | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    **given: Any,
) -> Config:
    """Build the configuration: defaults, then the file, then the environment, then keywords.

    ``path`` is a directory (its ``xenolect.toml`` is read if there is one), a TOML file,
    ``"memory://"``, an fsspec URL, or a Config to start from (the environment is in it already).
    ``environ`` replaces ``os.environ``. Raises ConfigError with every mistake and its path.
    """
    layers: list[Mapping[str, Any]] = []
    variables = _layers.from_environment(os.environ if environ is None else environ)
    if isinstance(path, Config):
        layers.append(_layers.as_table(path))
        variables = {}
    elif path is not None:
        layer, chosen = _open_layer(path)
        layers.append(layer)
        if chosen:
            # The place named in the call is closer than a variable exported for other calls.
            variables.pop("storage", None)
    scoring = _layers.as_table({"scoring": Config().scoring})["scoring"]
    table = _layers.merge([*layers, variables, _layers.from_keywords(given)], scoring)
    _settle(table)
    config: Config = structure(_layers.part_tables(table), Config)
    for name in ("access", "limits"):
        if getattr(config, name):  # who wrote it believes that it protects something
            log.warning("[%s] has no effect in this release: nobody is refused by it", name)
    return config


def _open_layer(path: str | Path) -> tuple[dict[str, Any], bool]:
    """The layer that a path stands for, and whether the path itself says where things are stored."""
    text = os.fspath(path)
    if "://" in text:
        url = urlsplit(text)
        if url.scheme != "file":
            return {"storage": text}, True
        text = unquote(url.path)
    file = Path(text)
    if file.suffix == ".toml" or file.is_file():
        return _layers.from_file(file), False
    layer = {"storage": text}
    inside = file / "xenolect.toml"
    if inside.is_file():
        layer |= _layers.from_file(inside)
    return layer, True


def _settle(table: dict[str, Any]) -> None:
    """What follows from the storage: memory needs no files, a URL can not hold the index."""
    storage = table.get("storage")
    if not isinstance(storage, str) or "://" not in storage or storage.startswith("file://"):
        return
    if storage.startswith("memory://"):
        table.setdefault("chunks", {"use": "memory"})
        table.setdefault("index", {"use": "memory"})
        return
    index = table.get("index")
    elsewhere = isinstance(index, Mapping) and (
        "path" in index or index.get("use", "sqlite") != "sqlite"
    )
    if not elsewhere:
        raise ConfigError(
            f"index: {storage} holds the chunks, but the index needs a local file or a database; "
            'add to the configuration:\n[index]\npath = "index.db"'
        )
