"""Variants in a file: taken to another store, with a digest and, if wanted, a signature.

What is imported is PROPOSED there, whatever it was: another fleet's proof is no proof for this one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from xenolect.errors import AccessError, CorruptError, InvalidError, InvalidVariantError
from xenolect.facts import canonical

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["Imported", "read_file", "write_file"]

FORMAT = "xenolect variants"
VERSION = 1
LARGEST = 256 * 1024 * 1024  # bytes of a file


@attrs.frozen
class Imported:
    """What ``variants.import_`` did: ids that are new, ids that were there with the same content, and
    why others were left out. ``signed_by``: the public key (base64) of a signature that holds."""

    imported: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    conflicts: Mapping[str, str] = attrs.field(factory=dict)
    signed_by: str | None = None


def write_file(
    path: str | os.PathLike[str],
    variants: Sequence[Mapping[str, Any]],
    key: Ed25519PrivateKey | bytes | None,
) -> None:
    """Write whole or not at all. ``key``: an Ed25519 private key, or its 32 bytes."""
    text = canonical(list(variants))
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "variants": list(variants),
    }
    if key is not None:
        document["signature"] = _sign(text, key)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _sign(text: str, key: Ed25519PrivateKey | bytes) -> dict[str, str]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if isinstance(key, bytes):
        try:
            key = Ed25519PrivateKey.from_private_bytes(key)
        except ValueError as error:
            raise InvalidError("an Ed25519 private key has 32 bytes") from error
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {
        "algorithm": "ed25519",
        "public_key": base64.b64encode(public).decode(),
        "signature": base64.b64encode(key.sign(_signed(text))).decode(),
    }


def _signed(text: str) -> bytes:
    """What is signed: not the bare text, so that a signature made for something else never fits."""
    return f"{FORMAT} {VERSION}\n{text}".encode()


def read_file(
    path: str | os.PathLike[str], trust: Iterable[str | bytes] | None
) -> tuple[list[dict[str, Any]], str | None]:
    """The variants of a file, and who signed it. ``trust``: public keys (32 bytes or base64), one of
    which must have. CorruptError, InvalidError; AccessError where the signature is not trusted."""
    name = os.fspath(path)
    if os.path.getsize(path) > LARGEST:
        raise InvalidError(f"{name} is larger than {LARGEST // 1024**2} MiB; export fewer variants")
    try:
        document = json.loads(
            Path(path).read_text("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{name} is no JSON of variants: {error}", key=name) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InvalidError(f"{name} is no file of variants; `xenolect variants export` writes one")
    if not isinstance(document.get("version"), int) or document["version"] > VERSION:
        raise InvalidError(
            f"{name} has version {document.get('version')!r}, and this release reads up to {VERSION}; "
            f"upgrade xenolect"
        )
    variants = document.get("variants")
    if not isinstance(variants, list) or not all(isinstance(each, dict) for each in variants):
        raise CorruptError(f"{name} lists no variants", key=name)
    text = canonical(variants)
    try:
        found = hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise CorruptError(f"{name} has text that is no Unicode: {error}", key=name) from error
    if found != document.get("sha256"):
        raise CorruptError(
            f"{name} is not what was exported: its digest differs; export it again",
            key=name,
            expected=str(document.get("sha256")),
            found=found,
        )
    signer = _signer(name, text, document.get("signature"))
    if trust is not None:
        keys = {
            base64.b64encode(each).decode() if isinstance(each, bytes) else each for each in trust
        }
        if signer not in keys:
            raise AccessError(
                f"{name} is signed by {signer or 'nobody'}, which is none of the keys you trust; "
                f"nothing was imported"
            )
    return variants, signer


def _signer(name: str, text: str, signature: Any) -> str | None:
    """The public key whose signature holds; None without one; CorruptError for one that does not."""
    if signature is None:
        return None
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        if signature["algorithm"] != "ed25519":
            raise InvalidError(
                f"{name} is signed with {signature['algorithm']!r}, which this release can not check; "
                f"upgrade xenolect"
            )
        public = base64.b64decode(signature["public_key"], validate=True)
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(base64.b64decode(signature["signature"], validate=True), _signed(text))
    except (InvalidSignature, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidError):
            raise
        raise CorruptError(
            f"the signature of {name} does not hold: it was changed after signing", key=name
        ) from error
    return base64.b64encode(public).decode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(word: str) -> Any:
    raise InvalidVariantError(f"{word} is not JSON; use null or leave it out")
