"""States as JSON text: checked with the path of what is not JSON, written piece by piece.

Text is normalised (sorted keys, no spaces, UTF-8), so equal values have equal chunks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from xenolect._validate import DEPTH
from xenolect.errors import InvalidError

__all__ = ["text_pieces"]

_INT = 2**63
_BIG = 2048
"""Weight from which a container is written in pieces; 1 is a leaf or 16 characters. The encoder holds
the interpreter for a piece: 32 KiB of text are 0.5 ms."""
_SMALL = 64
"""Weight assumed of a container that is not big."""

_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), check_circular=False
).encode

Path = tuple[Any, Any] | None
"""The way to a value: (the way to its container, its key or position)."""


def text_pieces(value: Any) -> Iterator[bytes]:
    """The value's text in pieces of bounded size; all of it is checked before the first.

    InvalidError with the path for keys that are not text, NaN and infinities, integers beyond
    64 bit, lone surrogates, nesting deeper than 64, and what is not JSON at all.
    """
    big: set[int] = set()
    if _is_leaf(value, None):
        return _encoded(iter([_encode(value)]), value)
    _weigh(value, None, 1, big)
    return _encoded(_pieces(value, big), value)


def _encoded(pieces: Iterator[str], value: Any) -> Iterator[bytes]:
    for piece in pieces:
        try:
            yield piece.encode()
        except UnicodeEncodeError:
            _find_surrogate(value, None)


def _is_leaf(value: Any, path: Path) -> bool:
    """True for a leaf that is JSON, False for a container; InvalidError for anything else."""
    if value is None or isinstance(value, str):
        return True
    if isinstance(value, int):
        if not -_INT <= value < _INT:
            raise InvalidError(
                f"{_show(path)}: {value:#x} does not fit in 64 bits; write it as text"
            )
        return True
    if isinstance(value, float):
        if value - value != 0.0:
            raise InvalidError(f"{_show(path)}: {value} is not JSON; leave it out or use null")
        return True
    if isinstance(value, (dict, list, tuple)):
        return False
    raise InvalidError(
        f"{_show(path)}: {type(value).__name__} is not JSON; use text, numbers, lists and objects, or "
        f"hand over bytes"
    )


def _weigh(value: Any, path: Path, depth: int, big: set[int]) -> int:
    """The weight of a container, after checking everything in it; notes the big ones by identity."""
    if depth > DEPTH:
        raise InvalidError(f"{_show(path)}: nested deeper than {DEPTH} levels; flatten it")
    weight = 1
    items: Any
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise InvalidError(
                    f"{_show(path)}: the key {key!r} is {type(key).__name__}; JSON keys are text"
                )
            weight += len(key) >> 4
        items = value.items()
    else:
        items = enumerate(value)
    for key, item in items:
        kind = type(item)
        # The common leaves without a call: 0.1 us each instead of 0.3.
        if kind is str:
            weight += 1 + (len(item) >> 4)
        elif (
            (kind is float and item - item == 0.0)
            or (kind is int and -_INT <= item < _INT)
            or kind is bool
            or item is None
        ):
            weight += 1
        elif _is_leaf(item, (path, key)):
            weight += 1 + (len(item) >> 4 if isinstance(item, str) else 0)
        else:
            weight += _weigh(item, (path, key), depth + 1, big)
    if weight > _BIG:
        big.add(id(value))
    return weight


def _pieces(value: Any, big: set[int]) -> Iterator[str]:
    if id(value) not in big:
        yield _encode(value)
        return
    mapping = isinstance(value, dict)
    keys: Any = sorted(value) if mapping else range(len(value))
    yield "{" if mapping else "["
    first = True
    batch: list[Any] = []
    weight = 0

    def drain() -> Iterator[str]:
        nonlocal first, weight
        if batch:
            text = _encode(dict(batch) if mapping else batch)[1:-1]
            yield text if first else "," + text
            first, weight = False, 0
            batch.clear()

    for key in keys:
        item = value[key]
        if isinstance(item, (dict, list, tuple)) and id(item) in big:
            yield from drain()
            name = _encode(key) + ":" if mapping else ""
            yield name if first else "," + name
            first = False
            yield from _pieces(item, big)
            continue
        batch.append((key, item) if mapping else item)
        if isinstance(item, str):
            weight += 1 + (len(item) >> 4)
        else:
            weight += _SMALL if isinstance(item, (dict, list, tuple)) else 1
        if weight >= _BIG:
            yield from drain()
    yield from drain()
    yield "}" if mapping else "]"


def _find_surrogate(value: Any, path: Path) -> None:
    """Raise InvalidError at the first text that is not; only called when there is one."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as cause:
            raise InvalidError(
                f"{_show(path)}: lone surrogates are not text; decode it first"
            ) from cause
    elif isinstance(value, dict):
        for key, item in value.items():
            _find_surrogate(key, (path, key))
            _find_surrogate(item, (path, key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _find_surrogate(item, (path, i))


def _show(path: Path) -> str:
    parts: list[str] = []
    while path is not None:
        path, key = path
        shown = repr(key) if isinstance(key, str) and not key.isprintable() else key
        parts.append(f"[{key}]" if isinstance(key, int) else f".{shown}")
    return "state" + "".join(reversed(parts))
