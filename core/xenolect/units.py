"""Durations and sizes as people write them: ``"250ms"``, ``"5m"``, ``"30d"``, ``"1MiB"``.

``Seconds`` and ``Bytes`` are the types an option declares; the configuration turns text into them,
and takes plain numbers as seconds and bytes.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import NewType

__all__ = ["Bytes", "Seconds", "bytes_of", "format_bytes", "format_seconds", "seconds_of"]

Seconds = NewType("Seconds", float)
Bytes = NewType("Bytes", int)

_SECONDS = {
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "y": 31557600.0,
}
_BYTES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")


def seconds_of(value: object) -> Seconds:
    """``"5m"``, ``timedelta(minutes=5)`` or 300 -> 300.0; ValueError with an example otherwise."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isfinite(value) and value >= 0:
            return Seconds(float(value))
    elif isinstance(value, str):
        match = _AMOUNT.fullmatch(value)
        if match and match[2].lower() in _SECONDS:
            return Seconds(float(match[1]) * _SECONDS[match[2].lower()])
    raise ValueError(
        f"{value!r} is not a duration; write a number with a unit, as in '250ms', '30s', '5m', '30d'"
    )


def bytes_of(value: object) -> Bytes:
    """``"1MiB"`` or 1048576 -> 1048576; ValueError with an example otherwise."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Bytes(value)
    if isinstance(value, str):
        match = _AMOUNT.fullmatch(value)
        if match and match[2].lower() in _BYTES:
            return Bytes(round(float(match[1]) * _BYTES[match[2].lower()]))
    raise ValueError(
        f"{value!r} is not a size; write a number with a unit, as in '64KiB', '1MiB', '1GB'"
    )


def format_seconds(seconds: float) -> str:
    """300.0 -> ``"5m"``: two digits that matter, the largest unit that fits."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g}{unit}"
    return f"{seconds * 1000:.3g}ms"


def format_bytes(size: float) -> str:
    """1048576 -> ``"1 MiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
