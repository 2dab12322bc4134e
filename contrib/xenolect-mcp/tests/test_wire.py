"""Encodings of bodies: exact, bounded, and loud when something is missing."""

from __future__ import annotations

import json

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from xenolect_mcp.wire import Coding, DecodeError, Dictionaries, Dictionary, decode, encode

ONE = Dictionary("one", b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":' * 20)
TWO = Dictionary("two", b'{"result":{"content":[{"type":"text","text":' * 20)


@given(st.binary(max_size=5000), st.sampled_from(list(Coding)))
def test_round_trip(body: bytes, coding: Coding) -> None:
    """Whatever goes in comes out, under each coding."""
    wire = encode(body, coding, ONE)
    assert decode(wire, coding.token, Dictionaries([ONE, TWO])) == body


def test_dictionary_is_named_in_the_body() -> None:
    """A dcz body begins as RFC 9842 says: magic, then the dictionary's SHA-256; and it is smaller."""
    body = json.dumps({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "x"}}).encode()
    wire = encode(body, Coding.DCZ, ONE)
    assert wire[:8].hex() == "5e2a4d1820000000"
    assert wire[8:40] == ONE.digest
    assert len(wire) - 40 < len(encode(body, Coding.ZSTD))


def test_standard_readers_skip_the_header() -> None:
    """The header is a skippable frame, so a plain reader given the dictionary reads the rest."""
    wire = encode(b"hello hello hello", Coding.DCZ, ONE)
    raw = zstandard.ZstdCompressionDict(ONE.data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    assert zstandard.ZstdDecompressor(dict_data=raw).decompress(wire[40:]) == b"hello hello hello"


def test_wrong_dictionary_fails_and_says_which() -> None:
    """Without the dictionary there is no answer, and the message names it and what is here."""
    wire = encode(b"hello", Coding.DCZ, TWO)
    with pytest.raises(DecodeError, match=rf"{TWO.digest.hex()[:12]}.*here: one"):
        decode(wire, "dcz", Dictionaries([ONE]))


@pytest.mark.parametrize("cut", [1, 10, 39, 41, 45])
def test_truncated_bodies_fail(cut: int) -> None:
    """A body that ends early is an error wherever it ends, never a shorter answer."""
    wire = encode(b"some text " * 50, Coding.DCZ, ONE)
    with pytest.raises(DecodeError):
        decode(wire[:-1] if cut > len(wire) else wire[:cut], "dcz", Dictionaries([ONE]))
    with pytest.raises(DecodeError):
        decode(encode(b"some text " * 50, Coding.ZSTD)[:-cut], "zstd")


def test_a_declared_size_beyond_the_limit_is_refused() -> None:
    """The header alone is enough to refuse: nothing is decompressed."""
    bomb = encode(b"\0" * 1_000_000, Coding.ZSTD)
    assert len(bomb) < 100
    with pytest.raises(DecodeError, match="declares 1000000 bytes"):
        decode(bomb, "zstd", limit=999_999)


def test_an_undeclared_size_beyond_the_limit_is_refused() -> None:
    """A frame that does not say its size is cut off where the limit is."""
    stream = zstandard.ZstdCompressor().compressobj()
    bomb = stream.compress(b"\0" * 50_000_000) + stream.flush()
    assert zstandard.frame_content_size(bomb) < 0
    with pytest.raises(DecodeError, match="past the limit"):
        decode(bomb, "zstd", limit=1_000_000)
    assert decode(bomb, "zstd", limit=50_000_000) == b"\0" * 50_000_000


@pytest.mark.parametrize("token", ["zstd", "dcz", "br"])
def test_noise_is_not_decoded(token: str) -> None:
    """Bytes that are no frame, or a coding nobody knows, are DecodeErrors and nothing else."""
    with pytest.raises(DecodeError):
        decode(
            b"neither this nor that, but long enough to hold a header", token, Dictionaries([ONE])
        )
