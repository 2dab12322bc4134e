"""The key providers ``env`` and ``file``: a key of 32 bytes, in a variable or a file, wraps data keys.

A key's id is made from the key itself, so that ids need no care, and two keys never share one.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from collections.abc import Sequence

import attrs

from xenolect.errors import ConfigError, CorruptError, NotFoundError
from xenolect.interfaces import Wrapper
from xenolect.secret import Secret

__all__ = ["EnvKeys", "FileKeys", "LocalWrapper"]

_NONCE = 12
_HEX = re.compile(r"[0-9a-fA-F]{64}")


@attrs.frozen
class EnvKeys:
    """``keys = { env = "NAME" }``.

    env: the variable that holds the key to wrap with, as hex or base64. old: former keys, each
    ``{ env = "NAME" }`` or ``{ file = "path" }``; they only unwrap.
    """

    env: str
    old: tuple[Secret, ...] = ()

    def current(self) -> tuple[str, Wrapper]:
        """Read from the environment; ConfigError."""
        made = _wrapper(Secret(env=self.env))
        return made.id, made

    def get(self, key_id: str) -> Wrapper:
        """The one with this id; NotFoundError."""
        return _found(key_id, (Secret(env=self.env), *self.old))


@attrs.frozen
class FileKeys:
    """``keys = { file = "path" }``.

    file: the file that holds the key to wrap with, as hex or base64. old: former keys, each
    ``{ env = "NAME" }`` or ``{ file = "path" }``; they only unwrap.
    """

    file: str
    old: tuple[Secret, ...] = ()

    def current(self) -> tuple[str, Wrapper]:
        """Read from the file; ConfigError."""
        made = _wrapper(Secret(file=self.file))
        return made.id, made

    def get(self, key_id: str) -> Wrapper:
        """The one with this id; NotFoundError."""
        return _found(key_id, (Secret(file=self.file), *self.old))


@attrs.frozen(repr=False)
class LocalWrapper:
    """Wraps with AES-256-GCM under a random nonce: ``nonce 12 | ciphertext | tag 16``."""

    key: bytes

    @property
    def id(self) -> str:
        """16 digits that say nothing about the key, and that no other key has."""
        return hmac.digest(self.key, b"xenolect/key-id", "sha256")[:8].hex()

    def __repr__(self) -> str:
        return f"LocalWrapper(id={self.id!r}, key=***)"

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        """Encrypt a data key."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE)
        return nonce + AESGCM(self.key).encrypt(nonce, key, bound)

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """The data key; CorruptError."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return AESGCM(self.key).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], bound)
        except (InvalidTag, ValueError) as cause:
            raise CorruptError(
                f"the wrapped key was changed, or was not wrapped with {self.id}"
            ) from cause


def _found(key_id: str, places: Sequence[Secret]) -> LocalWrapper:
    for place in places:
        made = _wrapper(place)
        if hmac.compare_digest(made.id, key_id):
            return made
    raise NotFoundError(f"none of {', '.join(map(repr, places))} holds the key {key_id}")


def _wrapper(place: Secret) -> LocalWrapper:
    text = place.reveal().strip()
    try:
        key = bytes.fromhex(text) if _HEX.fullmatch(text) else base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        # Without the cause and the text: either may carry the secret.
        raise ConfigError(
            f"{place!r} holds no key; a key is 32 random bytes as hex or base64, as `xenolect keys new` "
            f"prints"
        ) from None
    return LocalWrapper(key)
