"""xenolect: EmergenceManager for Python. Fleets of agents change the protocol they speak, safely."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xenolect._async import AsyncEmergenceManager
    from xenolect.config import Config
    from xenolect.errors import (
        AccessError,
        AgentNotFoundError,
        BreakerOpenError,
        ConfigError,
        ConflictError,
        CorruptError,
        DuplicateError,
        EmergenceError,
        InvalidError,
        InvalidMetricsError,
        InvalidVariantError,
        LimitError,
        NoCompatibleVariantError,
        NotFoundError,
        PluginError,
        PointNotFoundError,
        StateNotFoundError,
        StorageError,
        StorageFullError,
        TransitionError,
        UnavailableError,
        VariantNotFoundError,
    )
    from xenolect.events import Event
    from xenolect.hookspecs import hookimpl, offer, scorer
    from xenolect.manager import Call, EmergenceManager, Receipt, open
    from xenolect.model import (
        Agent,
        AgentContext,
        BreakerState,
        BreakerStatus,
        CanaryState,
        CanaryStatus,
        Candidate,
        Explanation,
        Mode,
        PerformanceHistory,
        PerformanceMetrics,
        ProtocolVariant,
        Reason,
        RollbackPoint,
        Selection,
        Stability,
        StateRef,
        VariantStatus,
        Verdict,
    )

_HOME = {
    "_async": ["AsyncEmergenceManager"],
    "config": ["Config"],
    "errors": [
        "AccessError",
        "AgentNotFoundError",
        "BreakerOpenError",
        "ConfigError",
        "ConflictError",
        "CorruptError",
        "DuplicateError",
        "EmergenceError",
        "InvalidError",
        "InvalidMetricsError",
        "InvalidVariantError",
        "LimitError",
        "NoCompatibleVariantError",
        "NotFoundError",
        "PluginError",
        "PointNotFoundError",
        "StateNotFoundError",
        "StorageError",
        "StorageFullError",
        "TransitionError",
        "UnavailableError",
        "VariantNotFoundError",
    ],
    "events": ["Event"],
    "hookspecs": ["hookimpl", "offer", "scorer"],
    "manager": ["Call", "EmergenceManager", "Receipt", "open"],
    "model": [
        "Agent",
        "AgentContext",
        "BreakerState",
        "BreakerStatus",
        "CanaryState",
        "CanaryStatus",
        "Candidate",
        "Explanation",
        "Mode",
        "PerformanceHistory",
        "PerformanceMetrics",
        "ProtocolVariant",
        "Reason",
        "RollbackPoint",
        "Selection",
        "Stability",
        "StateRef",
        "VariantStatus",
        "Verdict",
    ],
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AccessError",
    "Agent",
    "AgentContext",
    "AgentNotFoundError",
    "AsyncEmergenceManager",
    "BreakerOpenError",
    "BreakerState",
    "BreakerStatus",
    "Call",
    "CanaryState",
    "CanaryStatus",
    "Candidate",
    "Config",
    "ConfigError",
    "ConflictError",
    "CorruptError",
    "DuplicateError",
    "EmergenceError",
    "EmergenceManager",
    "Event",
    "Explanation",
    "InvalidError",
    "InvalidMetricsError",
    "InvalidVariantError",
    "LimitError",
    "Mode",
    "NoCompatibleVariantError",
    "NotFoundError",
    "PerformanceHistory",
    "PerformanceMetrics",
    "PluginError",
    "PointNotFoundError",
    "ProtocolVariant",
    "Reason",
    "Receipt",
    "RollbackPoint",
    "Selection",
    "Stability",
    "StateNotFoundError",
    "StateRef",
    "StorageError",
    "StorageFullError",
    "TransitionError",
    "UnavailableError",
    "VariantNotFoundError",
    "VariantStatus",
    "Verdict",
    "__version__",
    "hookimpl",
    "offer",
    "open",
    "scorer",
]


def __getattr__(name: str) -> Any:
    # Names are imported when asked for: the whole face costs 0.2 s, the command line needs little.
    if name in _WHERE:
        value = getattr(importlib.import_module(f"xenolect.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from importlib.metadata import version

        return version("xenolect")
    raise AttributeError(f"module 'xenolect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
