"""Which keys, ranges and buffers a chunk store accepts: one rule for every store, checked before any
path or statement is built from one.

For authors of chunk stores; ``xenolect.testing.ChunkStoreTests`` checks that a store keeps the rule.
"""

from __future__ import annotations

import re

from xenolect.errors import InvalidError
from xenolect.interfaces import Buffer

__all__ = ["TEMPORARY", "as_bytes", "check_key", "check_prefix", "check_range", "is_key"]

TEMPORARY = ".tmp-"
"""What the names of unfinished objects start with; never part of a key."""

_LONGEST = 512
_PART = 200  # leaves room for a temporary name: file systems end at 255 bytes
_ALLOWED = re.compile(r"[a-z0-9._/-]*")
# A trailing dot also covers '.' and '..'; Windows drops it, so two keys would be one file.
_NAME = rf"(?!{re.escape(TEMPORARY)})[a-z0-9._-]{{0,{_PART - 1}}}[a-z0-9_-]"
_KEY = re.compile(f"{_NAME}(?:/{_NAME})*")  # one match: it is asked for at every chunk
_RULE = (
    "a key is relative, of a-z 0-9 . _ - in parts divided by '/', no part empty, '.', '..', longer "
    f"than {_PART}, ending in '.' or starting with '{TEMPORARY}', at most {_LONGEST} characters in all"
)


def check_key(key: str) -> str:
    """The key itself; InvalidError with the rule otherwise."""
    if not is_key(key):
        raise InvalidError(f"{key!r} is not a key; {_RULE}")
    return key


def is_key(key: str) -> bool:
    """Does the text keep the rule?"""
    return isinstance(key, str) and len(key) <= _LONGEST and _KEY.fullmatch(key) is not None


def check_prefix(prefix: str) -> str:
    """The start of keys: empty, or any text that a key could begin with."""
    if (
        not isinstance(prefix, str)
        or not _ALLOWED.fullmatch(prefix)
        or len(prefix) > _LONGEST
        or prefix.startswith("/")
        or "//" in prefix
        or any(part in (".", "..") for part in prefix.split("/")[:-1])
    ):
        raise InvalidError(f"{prefix!r} is not the start of a key; {_RULE}")
    return prefix


def check_range(start: int, stop: int) -> None:
    """``0 <= start <= stop``; InvalidError otherwise."""
    if not 0 <= start <= stop:
        raise InvalidError(f"the range [{start}, {stop}) is not one; give 0 <= start <= stop")


def as_bytes(data: Buffer) -> memoryview:
    """The bytes of any buffer, not copied where they lie in one piece."""
    try:
        view = memoryview(data)
    except TypeError as error:
        raise InvalidError(
            f"{type(data).__name__} is not bytes; give bytes, bytearray or a memoryview"
        ) from error
    if not view.contiguous:
        return memoryview(view.tobytes())
    return view.cast("B") if view.format != "B" or view.ndim != 1 else view
