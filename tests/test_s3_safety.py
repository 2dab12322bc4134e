"""What must not happen on S3: a store that forgets conditions, an address without TLS, a secret in a log."""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from tests.fault_proxy import FaultProxy
from tests.s3_services import BUCKET, KEYS, QUICK, Service
from tests.test_chunk_stores_s3 import CLIENTS

from xenolect import EmergenceManager
from xenolect.errors import (
    AccessError,
    ConfigError,
    DuplicateError,
    EmergenceError,
    InvalidError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from xenolect.secret import Secret
from xenolect_backends import FsspecOptions, xenolect_chunk_storage
from xenolect_backends._patience import Patience

trustme = pytest.importorskip("trustme")  # the session s3 has it

pytestmark = [pytest.mark.s3, pytest.mark.slow]


@pytest.fixture(params=list(CLIENTS))
def client(request: pytest.FixtureRequest) -> Any:
    """Both."""
    return CLIENTS[request.param]


@pytest.fixture
def url() -> str:
    """A prefix nobody used."""
    return f"s3://{BUCKET}/{secrets.token_hex(6)}"


# -- conditions -------------------------------------------------------------------------------------


def test_a_service_that_ignores_conditions_is_refused(client: Any, rclone_service: Service) -> None:
    """rclone's S3 server lets anybody overwrite: the store is not even opened, and nothing is left in it."""
    endpoint = rclone_service.endpoint()
    with pytest.raises(StorageError, match="lets two writers create the same object"):
        client(f"s3://{BUCKET}/x", endpoint=endpoint, patience=QUICK)
    store = client(f"s3://{BUCKET}/x", endpoint=endpoint, patience=QUICK, probe=False)
    store.put("a", b"one process, on its own responsibility")
    assert list(store.list("")) == ["a"]
    store.delete("a")


def test_a_service_is_probed_once_and_at_the_first_write_if_it_was_away(
    client: Any, url: str, seaweed: Service
) -> None:
    """Opening does not need the service; the first write asks what opening could not, later ones do not."""
    with FaultProxy(seaweed.url) as proxy:
        endpoint = seaweed.endpoint(proxy.url)
        proxy.arm("503", 1, lasting=True)
        store = client(url, endpoint=endpoint, patience=QUICK)
        proxy.arm("503", 0)
        store.put("a", b"x")
        assert sum("probe-" in request for request in proxy.heal()) >= 2
        proxy.arm("503", 0)
        store.put("b", b"x")
        again = client(url + "-other", endpoint=endpoint, patience=QUICK)
        again.put("c", b"x")
        assert len(proxy.heal()) == 2


def test_requests_are_few(client: Any, url: str, seaweed: Service) -> None:
    """One request a call, as the documentation says; a lost race takes one more."""
    with FaultProxy(seaweed.url) as proxy:
        store = client(url, endpoint=seaweed.endpoint(proxy.url), patience=QUICK)

        def count(call: Any) -> int:
            proxy.arm("500", 0)
            call()
            return len(proxy.heal())

        def lost_race() -> None:
            with pytest.raises(DuplicateError):
                store.put("a", b"x")

        assert count(lambda: store.put("a", b"0123456789")) == 1
        assert count(lambda: store.put("m", b"x", if_absent=False)) == 1
        assert count(lambda: store.get("a")) == 1
        assert count(lambda: store.get_range("a", 1, 3)) == 1
        assert count(lambda: list(store.list("a"))) == 1
        assert count(lost_race) == 2
        assert count(lambda: store.delete("a")) == 1


# -- where it is, and who asks ------------------------------------------------------------------------


def test_an_address_without_tls_is_refused(
    client: Any, url: str, seaweed: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named or found in the environment; nothing is sent."""
    with FaultProxy(seaweed.url) as proxy:
        with pytest.raises(ConfigError, match="is not encrypted.*allow_plaintext = true"):
            client(
                url,
                endpoint=seaweed.endpoint(proxy.url, allow_plaintext=False),
            )
        for name, value in (
            ("AWS_ENDPOINT_URL", proxy.url),
            ("AWS_ACCESS_KEY_ID", KEYS[0]),
            ("AWS_SECRET_ACCESS_KEY", KEYS[1]),
        ):
            monkeypatch.setenv(name, value)
        (make,) = [
            each.make
            for each in xenolect_chunk_storage()
            if each.name == ("fsspec" if client is CLIENTS["s3fs"] else "obstore")
        ]
        with pytest.raises(ConfigError, match="is not encrypted"):
            make(FsspecOptions(url=url))
        assert proxy.requests == []
        made = make(FsspecOptions(url=url, allow_plaintext=True))
        made.put("a", b"by the usual chain")
        assert made.get("a") == b"by the usual chain"


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, tuple[str, str]]:
    """An authority nobody knows, and a certificate of it for this machine."""
    folder = tmp_path_factory.mktemp("ca")
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    leaf.private_key_and_cert_chain_pem.write_to_path(str(folder / "leaf.pem"))
    return str(folder / "ca.pem"), (str(folder / "leaf.pem"), str(folder / "leaf.pem"))


def test_certificates_are_checked(
    client: Any, url: str, seaweed: Service, certified: tuple[str, tuple[str, str]]
) -> None:
    """Of an unknown authority: refused, with what to do. Named with ``ca``: trusted."""
    ca, certificate = certified
    with FaultProxy(seaweed.url, certificate=certificate) as proxy:
        endpoint = seaweed.endpoint(proxy.url, allow_plaintext=False)
        with pytest.raises(StorageError, match=r"not trusted.*chunks\.ca"):
            client(url, endpoint=endpoint, patience=QUICK)
        assert proxy.requests == []
        known = seaweed.endpoint(proxy.url, allow_plaintext=False, ca=ca)
        store = client(url, endpoint=known, patience=QUICK)
        store.put("a", b"sealed on the way")
        assert store.get("a") == b"sealed on the way"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"secret": "hunter2"}, r"chunks\.options\.secret: a secret is not written down"),
        ({"client_kwargs": {"aws_secret_access_key": "hunter2"}}, "a secret is not written down"),
        ({"client_kwargs": {"verify": False}}, "certificates are always checked"),
        ({"client_kwargs": {"use_ssl": False}}, "is not encrypted"),
    ],
)
def test_options_that_weaken_are_refused(options: dict[str, Any], message: str) -> None:
    """Secrets in plain text, certificates unchecked, TLS turned off beside the settings for it."""
    with pytest.raises(ConfigError, match=message) as caught:
        CLIENTS["s3fs"](f"s3://{BUCKET}/x", options=options, probe=False)
    assert "hunter2" not in str(caught.value)


def test_wrong_keys_and_a_missing_bucket_say_what_to_do(
    client: Any, seaweed: Service, moto_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AccessError and ConfigError; neither is tried again."""
    monkeypatch.setenv("WRONG", "wrong-secret-77")
    wrong = seaweed.endpoint(secret_key=Secret(env="WRONG"))
    store = client(f"s3://{BUCKET}/x", endpoint=wrong, patience=QUICK)
    for call in (
        lambda: store.get("a"),
        lambda: store.put("a", b"x"),
        lambda: list(store.list("")),
    ):
        with pytest.raises(AccessError, match="check the credentials") as caught:
            call()
        assert "wrong-secret-77" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(
        ConfigError, match=r"the bucket of s3://nowhere-77/x does not exist; create it"
    ):
        client("s3://nowhere-77/x", endpoint=moto_service.endpoint(), patience=QUICK)
    with pytest.raises(ConfigError, match="belong together"):
        seaweed.endpoint(secret_key=None)


def test_secrets_are_nowhere_to_be_read(
    client: Any, url: str, seaweed: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """With every logger at DEBUG: not in a log, a repr or a traceback."""
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
    options = FsspecOptions(
        access_key=Secret(env="TEST_S3_ACCESS"), secret_key=Secret(env="TEST_S3_SECRET")
    )
    with FaultProxy(seaweed.url) as proxy:
        store = client(url, endpoint=seaweed.endpoint(proxy.url), patience=QUICK)
        store.put("a", b"x")
        proxy.arm("500", 1, lasting=True)
        with pytest.raises(UnavailableError) as caught:
            store.get("a")
    shown = caplog.text + repr(store) + repr(vars(store)) + repr(options)
    shown += "".join(traceback.format_exception(caught.value))
    assert KEYS[1] not in shown


def test_keys_outside_the_prefix_are_refused(client: Any, seaweed: Service) -> None:
    """Neighbours under the same beginning are not seen, and what is no key is not listed."""
    inner = client(f"s3://{BUCKET}/home", endpoint=seaweed.endpoint(), patience=QUICK)
    outer = client(f"s3://{BUCKET}", endpoint=seaweed.endpoint(), patience=QUICK)
    for store, key in ((outer, "home-2/secret"), (outer, "secret-of-home"), (inner, "a")):
        store.put(key, b"x", if_absent=False)
    for key in ("../secret-of-home", "a/../../secret-of-home", "/home-2/secret", "%2e%2e/x"):
        for call in (inner.get, inner.delete, lambda key: inner.put(key, b"x")):
            with pytest.raises(InvalidError):
                call(key)
    assert list(inner.list("")) == ["a"]
    assert outer.get("secret-of-home") == b"x"


# -- time ---------------------------------------------------------------------------------------------


def test_a_call_ends_at_its_deadline(client: Any, seaweed: Service) -> None:
    """A service that never answers: no attempt is begun that could not end in time."""
    with FaultProxy(seaweed.url, patience=3.0) as proxy:
        proxy.arm("late", 1, lasting=True)
        store = client(
            f"s3://{BUCKET}/late",
            endpoint=seaweed.endpoint(proxy.url),
            patience=Patience(timeout=0.4, retries=50, deadline=1.5, pause=0.01),
            probe=False,
        )
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="tried 3 times in"):
            store.get("a")
        assert time.monotonic() - began < 1.5 + 0.5  # half a second for the machine


def _in_child(make: Any, url: str, endpoint: Any, queue: Any) -> None:
    try:
        store = make(url, endpoint=endpoint, patience=QUICK)
        store.put("spawned", b"x")
        queue.put("stored")
    except EmergenceError as error:
        queue.put(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forks_and_spawned_processes(client: Any, seaweed: Service) -> None:
    """A spawned process has everything. A forked one has s3fs anew; obstore's threads stayed behind, and
    it says so instead of hanging."""
    url = f"s3://{BUCKET}/fork-{'s3fs' if client is CLIENTS['s3fs'] else 'obstore'}"
    store = client(url, endpoint=seaweed.endpoint(), patience=QUICK)
    store.put("parent", b"x")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(client, url, seaweed.endpoint(), queue))
    child.start()
    assert queue.get(timeout=60) == "stored"
    child.join()

    forked = os.fork()
    if not forked:
        code = 3
        try:
            code = 0 if store.get("parent") == b"x" else 1
        except StorageError as error:
            code = 2 if "spawn" in str(error) else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == (
        0 if client is CLIENTS["s3fs"] else 2
    )
    assert store.get("parent") == b"x"


# -- a manager ----------------------------------------------------------------------------------------


@pytest.fixture(params=["fsspec", "obstore"])
def settings(request: pytest.FixtureRequest, seaweed: Service, tmp_path: Path) -> Path:
    """A file as a person writes it."""
    file = tmp_path / "xenolect.toml"
    file.write_text(
        f"""
[chunks]
use = "{request.param}"
url = "s3://{BUCKET}/manager-{request.param}"
endpoint = "{seaweed.url}"
region = "us-east-1"
access_key = {{ env = "TEST_S3_ACCESS" }}
secret_key = {{ env = "TEST_S3_SECRET" }}
allow_plaintext = true
timeout = "10s"

[index]
path = "index.db"
"""
    )
    return file


def test_a_configuration_file_is_all_it_takes(settings: Path) -> None:
    """Put, close, open again, get; the index is beside the file, the objects are in the bucket."""
    with EmergenceManager.open(settings, background=False) as manager:
        variant = manager.variants.propose("zstd", {}, id="zstd")
        manager.states.put(variant, {"window": 1})
    assert (settings.parent / "index.db").exists()
    with EmergenceManager.open(settings, background=False) as manager:
        assert manager.states.get("zstd") == {"window": 1}
        with pytest.raises(NotFoundError):
            manager._runtime.chunks.get("missing")


def test_a_url_needs_a_place_for_the_index() -> None:
    """The error prints the two lines to write."""
    with pytest.raises(ConfigError, match=r'\[index\]\npath = "index.db"'):
        EmergenceManager.open("s3://bucket/prefix")
