"""The kit on S3, against an emulator; runs where s3fs and moto are installed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xenolect.errors import DuplicateError, UnavailableError
from xenolect.interfaces import ChunkStore
from xenolect.testing import ChunkStoreTests
from xenolect_backends.fsspec_chunks import FsspecChunks

pytest.importorskip("s3fs")
boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")

_OPTIONS: dict[str, Any] = {"key": "test", "secret": "test"}


@pytest.fixture(scope="module", autouse=True)
def service() -> Iterator[None]:
    """An S3 service of this process with one bucket."""
    server = moto_server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    _OPTIONS["client_kwargs"] = {"endpoint_url": url, "region_name": "us-east-1"}
    client = boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="bucket")
    yield
    server.stop()


def _chunks(name: str) -> FsspecChunks:
    return FsspecChunks(f"s3://bucket/{name}", timeout=20.0, options=_OPTIONS)


class TestS3(ChunkStoreTests):
    """Chunks in a bucket."""

    examples = 3
    threads = 4
    rounds = 3

    def make(self, place: Path) -> ChunkStore:
        return _chunks(hashlib.sha256(str(place).encode()).hexdigest()[:12])


def test_an_answer_that_got_lost_is_no_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that is sent twice by the client below us finds its own first attempt, and succeeds."""
    store = _chunks("lost")
    store.put("first", b"x")
    send = store._fs.pipe_file

    def twice(*arguments: Any, **more: Any) -> None:
        send(*arguments, **more)
        send(*arguments, **more)

    monkeypatch.setattr(store._fs, "pipe_file", twice)
    store.put("a", b"1")
    monkeypatch.undo()
    with pytest.raises(DuplicateError):
        store.put("a", b"1")
    assert store.get("a") == b"1"


def test_a_service_that_is_away_is_unavailable() -> None:
    """Nobody listening is UnavailableError, which may be tried again."""
    options = {**_OPTIONS, "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    store = FsspecChunks("s3://bucket/x", timeout=2.0, options=options)
    with pytest.raises(UnavailableError):
        store.get("a")
