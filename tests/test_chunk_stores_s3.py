"""The kit against Amazon's answers to the letter, for both clients; ``test_places`` has a service that stores."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.s3_services import BUCKET, KEYS, QUICK, Service

from xenolect.interfaces import ChunkStore
from xenolect.testing import ChunkStoreTests
from xenolect_backends.fsspec_chunks import FsspecChunks
from xenolect_backends.obstore_chunks import ObstoreChunks

pytestmark = [pytest.mark.s3, pytest.mark.slow]

CLIENTS: dict[str, Any] = {"s3fs": FsspecChunks, "obstore": ObstoreChunks}


class OnS3(ChunkStoreTests):
    """The kit, in a bucket."""

    examples = 2
    threads = 4
    rounds = 3
    client: ClassVar[str]

    @pytest.fixture(autouse=True)
    def use(self, service: Service) -> None:
        """Which service."""
        self.service = service

    def make(self, place: Path) -> ChunkStore:
        made: ChunkStore = CLIENTS[self.client](
            self.url(place), endpoint=self.service.endpoint(), patience=QUICK
        )
        return made

    def url(self, place: Path) -> str:
        return f"s3://{BUCKET}/{hashlib.sha256(str(place).encode()).hexdigest()[:12]}"

    def peek(self, place: Path, key: str) -> bytes:
        """Asked with another library."""
        import boto3  # in sessions without object storage this file is only collected

        client = boto3.client(
            "s3",
            endpoint_url=self.service.url,
            aws_access_key_id=KEYS[0],
            aws_secret_access_key=KEYS[1],
            region_name="us-east-1",
        )
        try:
            name = f"{self.url(place).rpartition('/')[2]}/{key}"
            data: bytes = client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
            return data
        finally:
            client.close()


class TestS3fsOnMoto(OnS3):
    """s3fs on Amazon's answers."""

    client = "s3fs"
    examples = 1

    @pytest.fixture
    def service(self, moto_service: Service) -> Service:
        return moto_service


class TestObstoreOnMoto(OnS3):
    """obstore on Amazon's answers."""

    client = "obstore"
    examples = 1

    @pytest.fixture
    def service(self, moto_service: Service) -> Service:
        return moto_service
