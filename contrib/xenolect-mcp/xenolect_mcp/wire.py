"""Encodings of HTTP bodies: as they are, Zstandard, and Zstandard with a shared dictionary (RFC 9842).

``dcz`` bodies begin with a skippable frame that holds the SHA-256 of the dictionary, so a reader
without that dictionary knows it at once and fails, instead of producing noise. Dictionaries are used as
raw content, as the RFC asks; on the demo's messages a trained one compresses as well so as with its
entropy tables (246 against 244 bytes a message).

Nothing is decompressed past a limit: neither a declared size nor what really comes out.
"""

from __future__ import annotations

import hashlib
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import attrs
import zstandard

__all__ = ["LIMIT", "Coding", "DecodeError", "Dictionaries", "Dictionary", "decode", "encode"]

LIMIT = 16 * 1024 * 1024
"""Bytes a decoded body may have unless told otherwise."""

WINDOW = (
    8 * 1024 * 1024
)  # the window RFC 9842 asks every reader to support; larger ones are refused
MAGIC = bytes.fromhex("5e2a4d1820000000")  # a skippable frame of 32 bytes
STEP = (
    64  # compressed bytes fed at a time where no size is declared: at most 2 MiB come out of them
)


class DecodeError(ValueError):
    """The body is not what its header says, or needs a dictionary that is not here."""


class Coding(StrEnum):
    """How a body is written; the values are what ``changes["wire"]`` of a variant holds."""

    JSON = "json"
    ZSTD = "zstd"
    DCZ = "dcz"

    @property
    def token(self) -> str:
        """The content coding's name in HTTP."""
        return "identity" if self is Coding.JSON else self.value


@attrs.frozen
class Dictionary:
    """Shared bytes both ends know before they talk; ``name`` is for people, the digest identifies."""

    name: str
    data: bytes = attrs.field(repr=False)
    digest: bytes = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.data).digest())

    @property
    def available(self) -> str:
        """The value of ``Available-Dictionary``: a structured-field byte sequence."""
        return f":{b64encode(self.digest).decode()}:"


class Dictionaries:
    """The dictionaries one end has, by name and by digest."""

    def __init__(self, dictionaries: Iterable[Dictionary] = ()) -> None:
        self._named: dict[str, Dictionary] = {}
        self._digests: dict[bytes, Dictionary] = {}
        for dictionary in dictionaries:
            self.add(dictionary)

    def add(self, dictionary: Dictionary) -> None:
        """Know one more; the same name again replaces it, the old digest stays readable."""
        self._named[dictionary.name] = dictionary
        self._digests[dictionary.digest] = dictionary

    def get(self, name: str) -> Dictionary | None:
        """By name."""
        return self._named.get(name)

    def find(self, digest: bytes) -> Dictionary | None:
        """By SHA-256."""
        return self._digests.get(digest)

    def available(self, header: str) -> Dictionary | None:
        """The dictionary that an ``Available-Dictionary`` header names, if it is here."""
        try:
            return self.find(b64decode(header.strip().strip(":"), validate=True))
        except ValueError:
            return None

    def __iter__(self) -> Any:
        return iter(self._named.values())

    def __len__(self) -> int:
        return len(self._named)


class _Local(threading.local):
    """Compressors are not to be shared between threads; making one costs more than using it."""

    def __init__(self) -> None:
        self.writers: dict[tuple[bytes, int], Any] = {}
        self.readers: dict[bytes, Any] = {}


_local = _Local()


def _raw(dictionary: Dictionary | None) -> Any:
    if dictionary is None:
        return None
    return zstandard.ZstdCompressionDict(dictionary.data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _writer(dictionary: Dictionary | None, level: int) -> Any:
    key = (dictionary.digest if dictionary else b"", level)
    writer = _local.writers.get(key)
    if writer is None:
        raw = _raw(dictionary)
        if raw is not None:
            raw.precompute_compress(level=level)
        writer = _local.writers[key] = zstandard.ZstdCompressor(level=level, dict_data=raw)
    return writer


def _reader(dictionary: Dictionary | None) -> Any:
    key = dictionary.digest if dictionary else b""
    reader = _local.readers.get(key)
    if reader is None:
        reader = zstandard.ZstdDecompressor(dict_data=_raw(dictionary), max_window_size=WINDOW)
        _local.readers[key] = reader
    return reader


def encode(
    body: bytes, coding: Coding, dictionary: Dictionary | None = None, level: int = 3
) -> bytes:
    """The body as it goes over the wire. ``dcz`` without a dictionary: ValueError."""
    if coding is Coding.JSON:
        return body
    if coding is Coding.ZSTD:
        return bytes(_writer(None, level).compress(body))
    if dictionary is None:
        raise ValueError("the coding dcz needs a dictionary; pass one, or use zstd")
    return MAGIC + dictionary.digest + bytes(_writer(dictionary, level).compress(body))


def decode(
    body: bytes, coding: str, dictionaries: Dictionaries | None = None, limit: int = LIMIT
) -> bytes:
    """Undo ``encode`` by the content coding's name. DecodeError says what is wrong or missing."""
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        if len(body) > limit:
            raise DecodeError(f"the body has {len(body)} bytes, the limit is {limit}")
        return body
    if coding == "zstd":
        return _inflate(body, None, limit)
    if coding != "dcz":
        raise DecodeError(f"content coding {coding!r} is unknown; known are identity, zstd and dcz")
    if body[: len(MAGIC)] != MAGIC or len(body) < len(MAGIC) + 32:
        raise DecodeError(
            "a dcz body begins with the frame that names its dictionary; this one does not"
        )
    digest = body[len(MAGIC) : len(MAGIC) + 32]
    dictionary = dictionaries.find(digest) if dictionaries is not None else None
    if dictionary is None:
        have = ", ".join(d.name for d in dictionaries or ()) or "none"
        raise DecodeError(
            f"the body was compressed with dictionary {digest.hex()[:12]}..., which is not here "
            f"(here: {have}); fetch it, or ask for zstd"
        )
    return _inflate(body[len(MAGIC) + 32 :], dictionary, limit)


def _inflate(body: bytes, dictionary: Dictionary | None, limit: int) -> bytes:
    reader = _reader(dictionary)
    try:
        declared = zstandard.frame_content_size(body)
        if declared > limit:
            raise DecodeError(f"the body declares {declared} bytes, the limit is {limit}")
        if declared >= 0:
            return bytes(reader.decompress(body, max_output_size=limit, allow_extra_data=False))
        stream = reader.decompressobj()
        parts, size = [], 0
        for at in range(0, len(body), STEP):
            if stream.eof:
                break
            parts.append(stream.decompress(body[at : at + STEP]))
            size += len(parts[-1])
            if size > limit:
                raise DecodeError(f"the body inflates past the limit of {limit} bytes")
        if not stream.eof:
            raise DecodeError("the body ends in the middle of a Zstandard frame")
        return b"".join(parts)
    except zstandard.ZstdError as error:
        raise DecodeError(f"the body is not a Zstandard frame that can be read: {error}") from error
