"""The cipher ``aes-gcm``: AES-256-GCM with a key, a nonce and a commitment of each object's own.

A sealed object is::

    key id 16 | salt 24 | commitment 32 | ciphertext | tag 16

Key (32 bytes), nonce (12) and commitment (32) are HKDF-Expand-SHA-512 (RFC 5869) of the data key over
``"xenolect/aes-gcm/2" | salt | object id``. As each key seals one object, no nonce is ever counted or
kept, and the 2^32 messages of random nonces are no limit. GCM's tag alone does not say which key it is
of: one can make a ciphertext that two keys open to two contents. The commitment can not be met by two
keys, and is compared before anything is decrypted.
"""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import attrs

from xenolect.errors import CorruptError
from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.interfaces import Buffer, Cipher, EnvelopeCipher, KeyProvider

__all__ = ["AesGcm", "AesGcmCipher"]

LABEL = b"xenolect/aes-gcm/2"
KEY, NONCE, COMMITMENT = 32, 12, 32
KEY_ID, SALT, TAG = 16, 24, 16
OBJECT_ID, DIGEST = 32, 32
_HEAD = KEY_ID + SALT + COMMITMENT


@attrs.frozen
class AesGcm:
    """``[cipher] use = "aes-gcm"``. keys: who wraps the data keys."""

    keys: KeyProvider
    id: str = attrs.field(default="aes-gcm", init=False)

    def new_key(self, draw: Callable[[int], bytes]) -> bytes:
        """256 random bits."""
        return draw(KEY)

    def object_id(self, id_key: bytes, digest: bytes) -> bytes:
        """HMAC-SHA-256: whoever has a content can not tell whether the store has it too."""
        return hmac.digest(id_key, digest, "sha256")

    def cipher(
        self,
        key_id: bytes,
        key: bytes,
        find: Callable[[bytes], bytes],
        draw: Callable[[int], bytes],
    ) -> Cipher:
        """With one of the store's data keys."""
        return AesGcmCipher(key_id, key, find, draw)


@attrs.frozen(repr=False)
class AesGcmCipher:
    """Seals with one data key, opens with every one that ``find`` knows. Safe for threads and forks:
    it holds no state, and the salt is drawn for each object."""

    key_id: bytes
    key: bytes
    find: Callable[[bytes], bytes]
    draw: Callable[[int], bytes]
    id: str = attrs.field(default="aes-gcm", init=False)
    overhead: int = attrs.field(default=_HEAD + TAG, init=False)

    def __repr__(self) -> str:
        return f"AesGcmCipher(key_id={self.key_id.hex()}, key=***)"

    def seal(self, plain: Buffer, bound: bytes) -> bytes:
        """One sealed object."""
        target = bytearray(len(plain) + self.overhead)
        self.seal_into(plain, bound, memoryview(target))
        return bytes(target)

    def open(self, sealed: Buffer, bound: bytes) -> bytes:
        """The content; CorruptError."""
        target = bytearray(max(0, len(sealed) - self.overhead))
        self.open_into(sealed, bound, memoryview(target))
        return bytes(target)

    def seal_into(self, plain: Buffer, bound: bytes, target: memoryview) -> None:
        """The same without a copy. OpenSSL runs without the interpreter's lock from 2 KiB on."""
        salt = self.draw(SALT)
        key, nonce, commitment = _derived(self.key, salt, bound)
        target[:_HEAD] = self.key_id + salt + commitment
        _library().AESGCM(key).encrypt_into(nonce, plain, bound, target[_HEAD:])

    def open_into(self, sealed: Buffer, bound: bytes, target: memoryview) -> None:
        """The same without a copy."""
        view = memoryview(sealed)
        if len(view) < self.overhead or len(target) != len(view) - self.overhead:
            raise CorruptError(f"{len(view)} bytes are not a sealed object of {len(target)}")
        key_id, salt = bytes(view[:KEY_ID]), bytes(view[KEY_ID : KEY_ID + SALT])
        known = self.key if key_id == self.key_id else self.find(key_id)
        key, nonce, commitment = _derived(known, salt, bound)
        if not hmac.compare_digest(commitment, bytes(view[KEY_ID + SALT : _HEAD])):
            raise CorruptError(
                "it is not sealed with the key that it names, or not in this place: its commitment differs"
            )
        library = _library()
        try:
            library.AESGCM(key).decrypt_into(nonce, view[_HEAD:], bound, target)
        except library.InvalidTag as cause:
            target[:] = bytes(len(target))  # decrypted before the tag was compared
            raise CorruptError("it was changed, or moved from another place") from cause


class _Library(NamedTuple):
    """What is used of ``cryptography``."""

    AESGCM: Any
    HKDFExpand: Any
    SHA512: Any
    InvalidTag: Any


@functools.cache
def _library() -> _Library:
    """Imported where it is used first, and looked up once: four imports at every object cost a tenth of
    what there is to do besides AES."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    return _Library(AESGCM, HKDFExpand, SHA512, InvalidTag)


def _derived(key: bytes, salt: bytes, bound: bytes) -> tuple[bytes, bytes, bytes]:
    """An object's key, nonce and commitment. A fortieth of what sealing 1 MiB costs (7 us of 282)."""
    library = _library()
    object_id = bound[-(OBJECT_ID + DIGEST) :][:OBJECT_ID]
    info = LABEL + salt + object_id
    made = library.HKDFExpand(library.SHA512(), KEY + NONCE + COMMITMENT, info).derive(key)
    return made[:KEY], made[KEY : KEY + NONCE], made[KEY + NONCE :]


@hookimpl
def xenolect_encryption() -> Iterable[Offer[EnvelopeCipher]]:
    """Offer the cipher."""
    yield offer("aes-gcm", AesGcm)
