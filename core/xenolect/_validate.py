"""What may enter: ids, JSON, measurements. Bad input is refused with the path, never coerced."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from xenolect.errors import InvalidError, InvalidMetricsError
from xenolect.model import PerformanceMetrics

__all__ = [
    "DEPTH",
    "STRING",
    "check_id",
    "check_name",
    "check_unit",
    "failures_of",
    "normalise",
]

DEPTH = 64
STRING = 64 * 1024
_INT = 2**63

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))]
)


def check_id(value: Any, what: str = "variant id", error: type[InvalidError] = InvalidError) -> str:
    """A UUID4 in lower case or a slug; safe as a file name on every platform."""
    if (
        isinstance(value, str)
        and _ID.fullmatch(value)
        and not value.endswith(".")
        and ".." not in value
        and value.split(".")[0] not in _DEVICES
    ):
        return value
    raise error(
        f"{what} {value!r} is not usable; take a UUID4 or a slug of 1 to 64 characters a-z 0-9 . _ - "
        f"that starts with a letter or digit, does not end with a dot and is no device name"
    )


def check_name(value: Any, what: str) -> str:
    """An id that never becomes a path (agents, sessions): any text of 1 to 256 characters."""
    if isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable():
        return value
    raise InvalidError(f"{what} {value!r} is not usable; take 1 to 256 printable characters")


def check_unit(value: float, what: str, error: type[InvalidError] = InvalidError) -> float:
    """A fraction in [0, 1]."""
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0.0 <= value <= 1.0  # False for NaN
    ):
        return float(value)
    raise error(f"{what} must be a fraction in [0, 1], got {value!r}")


def normalise(
    value: Any,
    what: str,
    error: type[InvalidError] = InvalidError,
    *,
    string: int = STRING,
    depth: int = DEPTH,
) -> Any:
    """A plain copy of a JSON value; InvalidError with the path of what is not JSON.

    Refused: keys that are not text, NaN and infinities, integers beyond 64 bit, lone surrogates,
    strings above 64 KiB, nesting deeper than 64.
    """
    return _normalise(value, what, error, string, depth)


def _normalise(value: Any, path: str, error: type[InvalidError], string: int, depth: int) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _text(value, path, error, string)
    if isinstance(value, int):
        if -_INT <= value < _INT:
            return int(value)
        raise error(f"{path}: {value} does not fit in 64 bits; write it as text")
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        raise error(f"{path}: {value} is not JSON; leave it out or use null")
    if depth <= 0:
        raise error(f"{path}: nested deeper than {DEPTH} levels; flatten it")
    if isinstance(value, Mapping):
        copy: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise error(f"{path}: the key {key!r} is {type(key).__name__}; JSON keys are text")
            _text(key, path, error, string)
            copy[key] = _normalise(item, f"{path}.{key}", error, string, depth - 1)
        return copy
    if isinstance(value, (list, tuple)):
        return [
            _normalise(item, f"{path}[{i}]", error, string, depth - 1)
            for i, item in enumerate(value)
        ]
    raise error(f"{path}: {type(value).__name__} is not JSON; use text, numbers, lists and objects")


def _text(value: str, path: str, error: type[InvalidError], string: int) -> str:
    if len(value) > string:
        raise error(f"{path}: a string of {len(value)} characters; the limit is {string}")
    try:
        value.encode()
    except UnicodeEncodeError as cause:
        raise error(f"{path}: lone surrogates are not text; decode it first") from cause
    return value


def failures_of(metrics: PerformanceMetrics) -> int:
    """Check a measurement and return its failures: ``round((1 - success_rate) * count)``.

    Raises InvalidMetricsError naming the field; nothing is recorded then.
    """
    rate, count = metrics.success_rate, metrics.count
    if not _number(rate) or not 0.0 <= rate <= 1.0:
        raise InvalidMetricsError(
            f"success_rate must be a fraction in [0, 1], got {rate!r}; give 0.99 for 99 %"
        )
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count < _INT:
        raise InvalidMetricsError(f"count must be a whole number of operations >= 1, got {count!r}")
    exact = (1.0 - rate) * count
    failures = round(exact)
    if abs(exact - failures) > 0.01:
        raise InvalidMetricsError(
            f"success_rate {rate} of {count} operations is {exact:.3f} failures, not a whole number; "
            f"give the exact rate (1 - failures / count)"
        )
    for name, value, top in (
        ("latency_ms", metrics.latency_ms, math.inf),
        ("resource_usage", metrics.resource_usage, 1.0),
        ("throughput", metrics.throughput, math.inf),
    ):
        if value is not None and (not _number(value) or not 0.0 <= value <= top):
            bounds = "in [0, 1]" if top == 1.0 else ">= 0"
            raise InvalidMetricsError(f"{name} must be a finite number {bounds}, got {value!r}")
    for name, value in metrics.custom.items():
        if not isinstance(name, str) or not 0 < len(name) <= 128:
            raise InvalidMetricsError(f"a custom metric needs a short name, got {name!r}")
        if name.startswith("_"):
            raise InvalidMetricsError(
                f"names of metrics that start with an underscore are reserved, got {name!r}"
            )
        if not _number(value):
            raise InvalidMetricsError(
                f"custom metric {name!r} must be a finite number, got {value!r}"
            )
    return failures


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
