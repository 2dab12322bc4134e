"""The cipher ``none``: objects are stored as they are; ``xenolect status`` says so."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.interfaces import Buffer, Cipher

__all__ = ["NoCipher"]


@attrs.frozen
class NoCipher:
    """Seals nothing: neither secrecy nor authenticity beyond the digests in the index."""

    id: str = attrs.field(default="none", init=False)

    def seal(self, plain: Buffer, bound: bytes) -> bytes:
        """The bytes as they are."""
        return bytes(plain)

    def open(self, sealed: Buffer, bound: bytes) -> bytes:
        """The bytes as they are."""
        return bytes(sealed)


@hookimpl
def xenolect_encryption() -> Iterable[Offer[Cipher]]:
    """Offer the cipher."""
    yield offer("none", NoCipher)
