"""The bundled ciphers keep what their kit asks for, and ``aes-gcm`` what makes it safe."""

from __future__ import annotations

import os

import pytest

from xenolect.errors import CorruptError
from xenolect.testing import CipherTests
from xenolect.testing.ciphers import BOUND, expanded, gcm
from xenolect_plugins.aes_gcm import AesGcmCipher
from xenolect_plugins.ciphers import NoCipher

KEY, KID = bytes(range(32)), b"k" * 16
OTHER, OTHER_KID = bytes(range(1, 33)), b"o" * 16


def unknown(key_id):
    """There is no other key."""
    raise CorruptError(f"there is no key {key_id.hex()}")


def aes(key=KEY, kid=KID, find=unknown):
    return AesGcmCipher(kid, key, find, os.urandom)


class TestNone(CipherTests):
    """``none``."""

    authenticates = False

    def make(self):
        return NoCipher()


class TestAesGcm(CipherTests):
    """``aes-gcm``."""

    def make(self):
        return aes()

    def stranger(self):
        return aes(OTHER, OTHER_KID)

    def data_key(self):
        return KEY


class TestSameIds(TestAesGcm):
    """``aes-gcm`` where both keys go by one id: only what they seal tells them apart."""

    def stranger(self):
        return aes(OTHER)


def test_a_key_is_not_shown():
    """Not in the representation, which ends in logs and tracebacks."""
    assert KEY.hex() not in repr(aes())
    assert repr(KEY) not in repr(aes())


# -- one ciphertext, two keys -------------------------------------------------------------------------


def times(x, y):
    """A product in GCM's field, GF(2^128) with the bits turned round (NIST SP 800-38D, 6.3)."""
    made = 0
    for bit in range(127, -1, -1):
        if y >> bit & 1:
            made ^= x
        x = x >> 1 ^ (0xE1 << 120 if x & 1 else 0)
    return made


def power(x, n):
    """``x`` to the n-th; the 2^128 - 2nd is the inverse."""
    made = 1 << 127
    while n:
        if n & 1:
            made = times(made, x)
        x, n = times(x, x), n >> 1
    return made


def block(key, counter):
    """AES of one block."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(counter)


def two_faced(first, second, bound, blocks):
    """A ciphertext and a tag that AES-GCM accepts under both (key, nonce), to two contents: the last
    block is solved for (Dodis, Grubbs, Ristenpart, Woodage 2018, section 3.2)."""
    number = lambda data: int.from_bytes(data, "big")  # noqa: E731
    padded = bound + bytes(-len(bound) % 16)
    body = os.urandom(16 * (blocks - 1))
    known = padded + body
    parts = [number(known[i : i + 16]) for i in range(0, len(known), 16)]
    lengths = number((len(bound) * 8).to_bytes(8, "big") + (blocks * 128).to_bytes(8, "big"))

    def face(key, nonce):
        h = number(block(key, bytes(16)))
        mask = number(block(key, nonce + b"\0\0\0\1"))
        total = mask ^ times(lengths, h)
        for i, part in enumerate(parts):
            total ^= times(part, power(h, len(parts) + 2 - i))
        return h, total

    (h1, t1), (h2, t2) = face(*first), face(*second)
    last = times(t1 ^ t2, power(times(h1, h1) ^ times(h2, h2), 2**128 - 2))
    tag = t1 ^ times(last, times(h1, h1))
    return body + last.to_bytes(16, "big"), tag.to_bytes(16, "big")


def test_a_chunk_sealed_under_two_keys_is_refused():
    """A ciphertext whose tag is right under the keys of two data keys: GCM opens it both ways, to two
    contents; the commitment lets only the one through that it was made for."""
    salt = os.urandom(24)
    one, two = (expanded(key, salt, BOUND) for key in (KEY, OTHER))
    body, tag = two_faced((one[:32], one[32:44]), (two[:32], two[32:44]), BOUND, 4)
    contents = [gcm(made[:32], made[32:44], body, BOUND, tag) for made in (one, two)]
    assert contents[0] != contents[1]

    keys = {KID: KEY, OTHER_KID: OTHER}
    cipher = aes(find=keys.__getitem__)
    assert cipher.open(KID + salt + one[44:] + body + tag, BOUND) == contents[0]
    assert cipher.open(OTHER_KID + salt + two[44:] + body + tag, BOUND) == contents[1]
    for kid, made in ((KID, two), (OTHER_KID, one)):
        with pytest.raises(CorruptError, match="its commitment differs"):
            cipher.open(kid + salt + made[44:] + body + tag, BOUND)


# -- keys and nonces ----------------------------------------------------------------------------------


def used(sealed):
    """The (key, nonce) that sealed it, computed apart from the cipher."""
    return expanded(KEY, sealed[16:40], BOUND)[:44]


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_no_key_and_nonce_are_used_twice(count):
    """Over many objects of one content in one place, half of them sealed by a forked child and a copy
    of the cipher made before: a store that is restored from a snapshot goes on like that."""
    import copy

    cipher = aes()
    cipher.seal(b"", BOUND)
    restored = copy.deepcopy(cipher)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as out:
                out.writelines(used(cipher.seal(b"", BOUND)) for _ in range(count // 2))
        finally:
            os._exit(0)
    os.close(writer)
    seen = set()
    with os.fdopen(reader, "rb") as source:
        while pair := source.read(44):
            seen.add(pair)
    os.waitpid(child, 0)
    for each in (cipher, restored):
        seen.update(used(each.seal(b"", BOUND)) for _ in range(count // 4))
    assert len(seen) == count
