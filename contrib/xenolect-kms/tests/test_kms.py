"""The provider against moto's KMS, over HTTP: its kit, a manager, and what can go wrong."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from xenolect_kms import AwsKms

from xenolect import EmergenceManager
from xenolect.errors import (
    AccessError,
    ConfigError,
    CorruptError,
    NotFoundError,
    UnavailableError,
)
from xenolect.secret import Secret
from xenolect.testing import KeyProviderTests
from xenolect.units import Seconds

REGION = "eu-central-1"


class Account:
    """Makes keys, and providers that use them."""

    def __init__(self, url: str) -> None:
        self.given: dict[str, Any] = {
            "region": REGION,
            "endpoint": url,
            "allow_plaintext": True,
            "access_key": Secret(env="TEST_KMS_ACCESS"),
            "secret_key": Secret(env="TEST_KMS_SECRET"),
        }
        self.client = AwsKms("any", **self.given).client()

    def key(self) -> str:
        """A new key's ARN."""
        return str(self.client.create_key()["KeyMetadata"]["Arn"])

    def provider(self, key: str, *old: str, **given: Any) -> AwsKms:
        """As the configuration makes it."""
        return AwsKms(key, old, **{**self.given, **given})

    def connected(self, key: str, *old: str) -> AwsKms:
        """The same on a connection that is open already: botocore takes a second to make one."""
        made = self.provider(key, *old)
        made._clients[os.getpid()] = self.client
        return made


@pytest.fixture(scope="session")
def account(kms: str, credentials: None) -> Account:
    """An account at the server."""
    return Account(kms)


class TestAwsKms(KeyProviderTests):
    """It keeps every promise of a key provider."""

    flips = 40
    refusals = (CorruptError, AccessError)

    @pytest.fixture(autouse=True)
    def use(self, account: Account) -> None:
        """Two keys."""
        self.account, self.first, self.second = account, account.key(), account.key()

    def make(self) -> AwsKms:
        """With the first key."""
        return self.account.connected(self.first)

    def rotated(self) -> AwsKms:
        """With the second; the first unwraps."""
        return self.account.connected(self.second, self.first)

    def secrets(self) -> list[str]:
        """The credentials."""
        return ["very-secret", "AKIATEST"]


def test_an_alias_stands_for_the_key_it_named(account: Account) -> None:
    """The ARN is written down: when the alias comes to name another key, the former one is still found
    by it where it is configured."""
    first, second = account.key(), account.key()
    account.client.create_alias(AliasName="alias/fleet", TargetKeyId=first)
    kek, wrapper = account.connected("alias/fleet").current()
    wrapped = wrapper.wrap(b"k" * 32, b"x")
    account.client.update_alias(AliasName="alias/fleet", TargetKeyId=second)
    assert kek == first
    later = account.connected("alias/fleet", first)
    assert later.current()[0] == second
    assert later.get(kek).unwrap(wrapped, b"x") == b"k" * 32
    account.client.delete_alias(AliasName="alias/fleet")


def test_a_store_is_sealed_rotated_and_refused(account: Account, tmp_path: Path) -> None:
    """A manager with the provider named in its configuration; after a rotation the new key is enough,
    and the former one alone is refused by name."""
    first, second = account.key(), account.key()

    def opened(key: str, *old: str) -> EmergenceManager:
        access = {
            "access_key": {"env": "TEST_KMS_ACCESS"},
            "secret_key": {"env": "TEST_KMS_SECRET"},
        }
        keys = {"use": "aws-kms", "key": key, "old": list(old), **account.given, **access}
        cipher = {"use": "aes-gcm", "keys": keys}
        return EmergenceManager.open(tmp_path / "store", cipher=cipher, background=False)

    with opened(first) as manager:
        manager.variants.propose("zstd", {}, id="zstd")
        manager.states.put("zstd", {"window": 19})
        assert {info.kek for info in manager.keys.list()} == {first}
    with opened(second, first) as manager:
        assert manager.states.get("zstd") == {"window": 19}
        assert manager.keys.rotate().wrapped == 3  # of the variant, the store and its ids
    with opened(second) as manager:
        assert manager.states.get("zstd") == {"window": 19}
        assert manager.states.verify().ok
    with (
        opened(first) as manager,
        pytest.raises(ConfigError, match=f"with the key {second}, and it"),
    ):
        manager.states.get("zstd")


# -- what can go wrong --------------------------------------------------------------------------------


def test_a_key_that_is_not_there_is_not_found(account: Account) -> None:
    """An alias of nothing."""
    with pytest.raises(NotFoundError, match="KMS has no key alias/nothing; is the region right"):
        account.connected("alias/nothing").current()


def test_a_service_that_is_away_is_unavailable(account: Account) -> None:
    """Nobody listens; the answer comes within the time allowed, and may be tried again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    away = account.provider(
        f"arn:aws:kms:{REGION}:111122223333:key/x", endpoint=url, timeout=Seconds(0.5), retries=0
    )
    _, wrapper = away.current()
    with pytest.raises(UnavailableError, match="KMS did not answer") as caught:
        wrapper.wrap(b"k" * 32, b"x")
    assert caught.value.retryable


def test_without_credentials_it_says_where_they_may_be(account: Account) -> None:
    """Neither given nor in AWS's places; and half of them is a mistake of its own."""
    nobody = account.provider(account.key(), access_key=None, secret_key=None)
    with pytest.raises(ConfigError, match="hold no credentials .*give the process a role"):
        nobody.current()[1].wrap(b"k" * 32, b"x")
    with pytest.raises(ConfigError, match="give both or neither"):
        account.provider("alias/x", secret_key=None)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("AccessDeniedException", AccessError),
        ("ExpiredTokenException", AccessError),
        ("IncorrectKeyException", CorruptError),
        ("InvalidCiphertextException", CorruptError),
        ("DisabledException", UnavailableError),
        ("KMSInvalidStateException", UnavailableError),
        ("ThrottlingException", UnavailableError),
        ("KMSInternalException", UnavailableError),
        ("SomethingNewException", UnavailableError),
    ],
)
def test_every_refusal_has_its_error(account: Account, code: str, error: type[Exception]) -> None:
    """Those that moto does not make itself: put in where botocore's own answer would be."""
    wrapper = answering(account, 400, {"Error": {"Code": code, "Message": "no"}})
    with pytest.raises(error) as caught:
        wrapper.unwrap(b"x" * 100, b"x")
    assert type(caught.value) is error


def test_an_answer_of_another_key_is_refused(account: Account) -> None:
    """Not everything that speaks KMS compares the key that was asked for with the one that answers."""
    wrapper = answering(account, 200, {"KeyId": "arn:other", "Plaintext": b"k" * 32})
    with pytest.raises(CorruptError, match="was wrapped by arn:other, not by"):
        wrapper.unwrap(b"x" * 100, b"x")


def answering(account: Account, status: int, parsed: dict[str, Any]) -> Any:
    """A wrapper whose decryptions are answered so."""
    _, wrapper = account.provider(account.key()).current()

    def answer(**_: Any) -> tuple[Any, dict[str, Any]]:
        from botocore.awsrequest import AWSResponse

        return AWSResponse("http://kms", status, {}, None), {**parsed, "ResponseMetadata": {}}

    client = wrapper._provider.client()  # type: ignore[attr-defined]
    client.meta.events.register("before-call.kms.Decrypt", answer)
    return wrapper


def test_an_endpoint_without_tls_is_refused() -> None:
    """Data keys would cross the network as they are."""
    with pytest.raises(ConfigError, match="is not encrypted, and data keys would cross"):
        AwsKms("alias/x", endpoint="http://kms.example")
    with pytest.raises(ConfigError, match=r"expected https://\.\.\., got 'kms.example'"):
        AwsKms("alias/x", endpoint="kms.example")


def test_a_certificate_that_is_not_trusted_is_refused(account: Account) -> None:
    """The plaintext server answers no TLS: nothing is sent without it."""
    url = account.given["endpoint"].replace("http://", "https://")
    provider = account.provider(f"arn:aws:kms:{REGION}:111122223333:key/x", endpoint=url, retries=0)
    with pytest.raises(UnavailableError):
        provider.current()[1].wrap(b"k" * 32, b"x")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_child_connects_anew(account: Account) -> None:
    """It does not read the answers to its parent's questions."""
    _, wrapper = account.connected(account.key()).current()
    wrapped = wrapper.wrap(b"k" * 32, b"x")
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if wrapper.unwrap(wrapped, b"x") == b"k" * 32 else 1)
        finally:
            os._exit(2)
    assert wrapper.unwrap(wrapped, b"x") == b"k" * 32
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
