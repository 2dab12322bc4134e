"""Every error xenolect raises, cut by what the person who catches it will do.

::

    EmergenceError
    |- InvalidError(ValueError)         fix the call
    |  |- InvalidVariantError
    |  |- InvalidMetricsError
    |  |- ConfigError                   fix the setting; its path is in the message
    |- NotFoundError(LookupError)       ask for something that exists
    |  |- VariantNotFoundError  AgentNotFoundError  PointNotFoundError  StateNotFoundError
    |- ConflictError                    somebody was first: read again, then retry
    |  |- DuplicateError  TransitionError
    |- NoCompatibleVariantError         .excluded says why, variant by variant
    |- BreakerOpenError                 .retry_after
    |- LimitError                       a bound of count, size or rate was reached
    |- AccessError                      ask somebody with the permission
    |- StorageError                     try again; the cause is chained
    |  |- StorageFullError  UnavailableError
    |- CorruptError                     bytes are not what was written
    |- PluginError                      fix the installation; names the plugin and its source

Each class has a stable ``code`` (append-only; a heading in ``docs/errors.md``) and says whether
trying again may help (``retryable``) and, where it is known, after how many seconds (``retry_after``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

__all__ = [
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
]


class EmergenceError(Exception):
    """The root of every error raised by xenolect."""

    code: ClassVar[str] = "emergence"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InvalidError(EmergenceError, ValueError):
    """An argument is not what the call accepts; nothing was changed."""

    code = "invalid"


class InvalidVariantError(InvalidError):
    """A variant's id, changes, requirements or metadata are not acceptable."""

    code = "invalid-variant"


class InvalidMetricsError(InvalidError):
    """A measurement is out of range, NaN, infinite or negative; it was counted, never coerced."""

    code = "invalid-metrics"


class ConfigError(InvalidError):
    """A setting is wrong; every wrong setting is named with its path."""

    code = "config"


class NotFoundError(EmergenceError, LookupError):
    """What was asked for does not exist."""

    code = "not-found"


class VariantNotFoundError(NotFoundError):
    """No variant has this id."""

    code = "variant-not-found"


class AgentNotFoundError(NotFoundError):
    """No agent has this id."""

    code = "agent-not-found"


class PointNotFoundError(NotFoundError):
    """No rollback point has this id, or none is intact."""

    code = "point-not-found"


class StateNotFoundError(NotFoundError):
    """The variant has no state, or not this version of it."""

    code = "state-not-found"


class ConflictError(EmergenceError):
    """Somebody else changed the record first: read it again and decide again."""

    code = "conflict"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        expected: int | None = None,
        found: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.expected = expected
        self.found = found


class DuplicateError(ConflictError):
    """The id is taken, or was taken once: ids are never used again."""

    code = "duplicate"
    retryable = False


class TransitionError(ConflictError):
    """The variant's status does not allow this verb; the message names the ones it allows."""

    code = "transition"
    retryable = False


class NoCompatibleVariantError(EmergenceError):
    """No variant may be served to this agent; ``excluded`` maps each variant id to the reason."""

    code = "no-compatible-variant"

    def __init__(self, message: str, *, excluded: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.excluded: dict[str, str] = dict(excluded or {})


class BreakerOpenError(EmergenceError):
    """The breaker admits no call now; try again after ``retry_after`` seconds."""

    code = "breaker-open"
    retryable = True


class LimitError(EmergenceError):
    """A bound was reached: number of variants, size, queue or rate."""

    code = "limit"


class AccessError(EmergenceError):
    """The caller may not do this; the message names who, the operation and the permission."""

    code = "access"


class StorageError(EmergenceError):
    """A backend failed; the cause is chained, nothing was acknowledged."""

    code = "storage"
    retryable = True


class StorageFullError(StorageError):
    """No space is left; reading and rolling back still work."""

    code = "storage-full"
    retryable = False


class UnavailableError(StorageError):
    """A dependency does not answer in time."""

    code = "unavailable"


class CorruptError(EmergenceError):
    """Bytes read back are not the bytes written."""

    code = "corrupt"

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        offset: int | None = None,
        expected: str | None = None,
        found: str | None = None,
    ) -> None:
        super().__init__(message)
        self.key = key
        self.offset = offset
        self.expected = expected
        self.found = found


class PluginError(EmergenceError):
    """A plugin is missing, broken or ambiguous."""

    code = "plugin"

    def __init__(
        self, message: str, *, plugin: str | None = None, distribution: str | None = None
    ) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.distribution = distribution
