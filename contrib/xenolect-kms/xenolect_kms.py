"""The key provider ``aws-kms``: data keys are wrapped by a key that never leaves AWS KMS."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import attrs

from xenolect import hookimpl, offer
from xenolect.errors import (
    AccessError,
    ConfigError,
    CorruptError,
    NotFoundError,
    UnavailableError,
)
from xenolect.hookspecs import Offer
from xenolect.interfaces import KeyProvider, Wrapper
from xenolect.secret import Secret
from xenolect.units import Seconds

__all__ = ["AwsKms", "KmsWrapper"]

_DAMAGED = {"InvalidCiphertextException", "IncorrectKeyException", "ValidationException"}
_REFUSED = {"AccessDeniedException", "ExpiredTokenException", "UnrecognizedClientException"} | {
    "InvalidSignatureException",
    "InvalidClientTokenId",
    "IncompleteSignature",
    "InvalidGrantTokenException",
    "MissingAuthenticationToken",
}


@attrs.frozen
class AwsKms:
    """``keys = { use = "aws-kms", key = "alias/xenolect" }``.

    key: what wraps, as an ARN, an id or an alias. old: former keys, which only unwrap. region,
    endpoint, ca, access_key, secret_key, session_token: how KMS is reached, by AWS's usual chain where
    they are not given. timeout: of one request. retries: how often it is sent again.
    """

    key: str
    old: tuple[str, ...] = ()
    region: str | None = None
    endpoint: str | None = None
    access_key: Secret | None = None
    secret_key: Secret | None = None
    session_token: Secret | None = None
    ca: str | None = None
    allow_plaintext: bool = False
    timeout: Seconds = Seconds(10.0)
    retries: int = attrs.field(default=3, validator=attrs.validators.ge(0))
    _clients: dict[int, Any] = attrs.field(factory=dict, init=False, repr=False, eq=False)
    _arns: dict[str, str] = attrs.field(factory=dict, init=False, repr=False, eq=False)
    _lock: Any = attrs.field(factory=threading.Lock, init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if (self.access_key is None) != (self.secret_key is None):
            raise ConfigError("access_key and secret_key belong together: give both or neither")
        if self.endpoint is not None:
            scheme = urlsplit(self.endpoint).scheme
            if scheme not in ("https", "http"):
                raise ConfigError(f"endpoint: expected https://..., got {self.endpoint!r}")
            if scheme == "http" and not self.allow_plaintext:
                raise ConfigError(
                    f"endpoint: {self.endpoint!r} is not encrypted, and data keys would cross the "
                    f"network as they are; use https://, or allow_plaintext = true for a test"
                )

    def current(self) -> tuple[str, Wrapper]:
        """The ARN of the key to wrap with, and the wrapper. UnavailableError, AccessError."""
        arn = self._arn(self.key)
        return arn, KmsWrapper(arn, self)

    def get(self, key_id: str) -> Wrapper:
        """The wrapper of a key by its ARN; NotFoundError for one that is not configured."""
        known = [self._arn(name) for name in (self.key, *self.old)]
        if key_id not in known:
            raise NotFoundError(f"aws-kms was given {', '.join(known)}, and not {key_id}")
        return KmsWrapper(key_id, self)

    def _arn(self, name: str) -> str:
        """An alias and an id name a key only within an account and region, and an alias may come to
        name another key: what is written down is the ARN."""
        if name.startswith("arn:") and ":key/" in name:
            return name
        found = self._arns.get(name)
        if found is None:
            with told(name):
                answer = self.client().describe_key(KeyId=name)
            found = self._arns[name] = str(answer["KeyMetadata"]["Arn"])
        return found

    def client(self) -> Any:
        """This process's client: connections do not survive a fork."""
        with self._lock:
            found = self._clients.get(os.getpid())
            if found is None:
                self._clients.clear()
                with told(self.key):
                    found = self._clients[os.getpid()] = self._connect()
            return found

    def _connect(self) -> Any:
        import boto3
        from botocore.config import Config

        def text(secret: Secret | None) -> str | None:
            return None if secret is None else secret.reveal().strip()

        session = boto3.session.Session(
            aws_access_key_id=text(self.access_key),
            aws_secret_access_key=text(self.secret_key),
            aws_session_token=text(self.session_token),
            region_name=self.region or _region_of(self.key),
        )
        return session.client(
            "kms",
            endpoint_url=self.endpoint,
            verify=self.ca,
            config=Config(
                connect_timeout=self.timeout,
                read_timeout=self.timeout,
                retries={"total_max_attempts": 1 + self.retries, "mode": "standard"},
            ),
        )


@attrs.frozen
class KmsWrapper:
    """One key in KMS. What is bound travels as its SHA-256 in the encryption context."""

    arn: str
    _provider: AwsKms

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        """Encrypt a data key in KMS."""
        with told(self.arn):
            answer = self._provider.client().encrypt(
                KeyId=self.arn, Plaintext=key, EncryptionContext=_context(bound)
            )
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """Decrypt a data key in KMS; CorruptError where this key did not wrap it so."""
        if not 1 <= len(wrapped) <= 6144:  # what KMS takes
            raise CorruptError(f"{len(wrapped)} bytes are nothing that KMS has wrapped")
        with told(self.arn):
            answer = self._provider.client().decrypt(
                KeyId=self.arn, CiphertextBlob=wrapped, EncryptionContext=_context(bound)
            )
        if answer["KeyId"] != self.arn:  # AWS compares too; not everything that speaks KMS does
            raise CorruptError(f"this was wrapped by {answer['KeyId']}, not by {self.arn}")
        return bytes(answer["Plaintext"])


def _context(bound: bytes) -> dict[str, str]:
    return {"xenolect": hashlib.sha256(bound).hexdigest()}


def _region_of(key: str) -> str | None:
    """The region in an ARN."""
    parts = key.split(":")
    return parts[3] if len(parts) > 5 and parts[0] == "arn" else None


@contextmanager
def told(key: str) -> Iterator[None]:
    """Turn what botocore raises into xenolect's errors, by what the reader will do about it."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise _words(error, key) from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise ConfigError(
            f"cipher.keys: AWS's usual places hold no credentials ({error}); set access_key and "
            f"secret_key, or give the process a role"
        ) from error
    except (
        exceptions.NoRegionError,
        exceptions.ParamValidationError,
        exceptions.InvalidEndpointConfigurationError,
        ValueError,
    ) as error:
        raise ConfigError(
            f"cipher.keys: KMS can not be asked for {key}: {error}; set region, and key to an ARN"
        ) from error
    except exceptions.BotoCoreError as error:
        raise UnavailableError(f"KMS did not answer for {key}: {error}") from error


def _words(error: Any, key: str) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    said = f"KMS refused {error.operation_name} with {key}: {error}"
    if code == "NotFoundException":
        return NotFoundError(f"KMS has no key {key}; is the region right? {error}")
    if code in _DAMAGED:
        return CorruptError(f"{key} did not wrap this, or it was changed: {code}")
    if code in _REFUSED:
        return AccessError(f"{said}; it needs kms:Encrypt, kms:Decrypt and kms:DescribeKey")
    if code in ("DisabledException", "KMSInvalidStateException"):
        return UnavailableError(f"{said}; enable the key, or cancel its deletion")
    return UnavailableError(said)


@hookimpl
def xenolect_keys() -> Iterable[Offer[KeyProvider]]:
    """Offer the provider."""
    yield offer("aws-kms", AwsKms)
