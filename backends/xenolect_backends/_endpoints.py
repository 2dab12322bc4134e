"""Where a remote store is reached: options of the configuration, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

import attrs

from xenolect.errors import (
    AccessError,
    ConfigError,
    NotFoundError,
    StorageError,
    StorageFullError,
    UnavailableError,
)
from xenolect.secret import Secret

__all__ = ["Endpoint", "check_encrypted", "raise_for_status", "shown"]

_SECRETS = ("key", "secret", "token", "password", "username")
_PLAINTEXT = {"http", "ftp", "webdav"}
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "EntityTooLarge"}
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 509}
"""409: another request for this object is under way (ConditionalRequestConflict)."""


@attrs.frozen
class Endpoint:
    """How an S3 service is reached. ``url``: None is Amazon's, or what the environment says.
    ``ca``: a file of certificates to trust besides the system's. Without keys, the usual chain of
    environment, files and instance roles is followed."""

    url: str | None = None
    region: str | None = None
    access_key: Secret | None = None
    secret_key: Secret | None = None
    session_token: Secret | None = None
    ca: str | None = None
    allow_plaintext: bool = False

    def __attrs_post_init__(self) -> None:
        if (self.access_key is None) != (self.secret_key is None):
            raise ConfigError(
                "chunks.access_key and chunks.secret_key belong together: give both, or neither to "
                "use the credentials of the environment"
            )
        if self.url is not None:
            if (
                urlsplit(self.url).scheme not in ("http", "https")
                or not urlsplit(self.url).hostname
            ):
                raise ConfigError(
                    f"chunks.endpoint is {shown(self.url)!r}; give a URL as https://host:port"
                )
            check_encrypted(self.url, self.allow_plaintext)

    def keys(self) -> tuple[str, str, str | None] | None:
        """Access key, secret key and session token, read now; None to follow the usual chain."""
        if self.access_key is None or self.secret_key is None:
            return None
        token = None if self.session_token is None else self.session_token.reveal()
        return self.access_key.reveal(), self.secret_key.reveal(), token


def check_encrypted(url: str, allowed: bool) -> None:
    """ConfigError for an address without TLS, unless that is allowed."""
    if urlsplit(url).scheme in _PLAINTEXT and not allowed:
        raise ConfigError(
            f"chunks: {shown(url)} is not encrypted, so anybody on the way reads states and changes them; "
            f"use https://, or set [chunks] allow_plaintext = true where the network is trusted"
        )


def check_options(options: Mapping[str, Any]) -> None:
    """ConfigError for secrets in plain text, and for certificates that are not to be checked."""
    for path, value in _leaves(options, "chunks.options"):
        name = path.rpartition(".")[2]
        if name in _SECRETS or name.startswith("aws_s"):
            raise ConfigError(
                f"{path}: a secret is not written down; use the credentials of the environment, or "
                f'chunks.access_key and chunks.secret_key, each {{ env = "NAME" }} or {{ file = "path" }}'
            )
        if (name in ("verify", "verify_ssl") and value is False) or (
            name == "allow_invalid_certificates" and value
        ):
            raise ConfigError(
                f"{path}: certificates are always checked; name your own authority's with chunks.ca"
            )


def _leaves(table: Mapping[str, Any], path: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in table.items():
        found.append((f"{path}.{name}", value))
        if isinstance(value, Mapping):
            found.extend(_leaves(value, f"{path}.{name}"))
    return found


def shown(url: str) -> str:
    """A URL for messages, without user and password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))


def raise_for_status(
    status: int, code: str, what: str, place: str, error: BaseException, retry_after: float | None
) -> NoReturn:
    """The error that an HTTP status means; ``code`` is the service's own word for it."""
    said = f"{status} {code}".strip()
    if code == "NoSuchBucket":
        raise ConfigError(
            f"{what}: the bucket of {place} does not exist; create it, or correct chunks.url"
        ) from error
    if status == 404:
        raise NotFoundError(f"{what}: there is none in {place}") from error
    if status in (401, 403):
        raise AccessError(
            f"{what}: {place} refuses access ({said}); check the credentials, the clock, and that the "
            f"policy of the bucket allows to get, put, list and delete"
        ) from error
    if status in (413, 507) or code in _FULL:
        raise StorageFullError(
            f"{what}: {place} takes no more ({said}); raise the quota, nothing was stored"
        ) from error
    if status in _AGAIN:
        raise UnavailableError(
            f"{what}: {place} answers {said}; try again", retry_after=retry_after
        ) from error
    raise StorageError(f"{what}: {place} answers {said}: {error}") from error
