"""What every test may use: a manager on memory parts, a clock that only moves when told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from xenolect import EmergenceManager
from xenolect.testing import Clock


@pytest.fixture
def clock() -> Clock:
    """Seconds since the epoch, moved by ``advance``."""
    return Clock(1_800_000_000.0)


@pytest.fixture
def opened(clock: Clock) -> Iterator[Callable[..., EmergenceManager]]:
    """Open managers that are closed after the test; in memory and without a thread by default."""
    managers: list[EmergenceManager] = []

    def make(storage: Any = "memory://", **given: Any) -> EmergenceManager:
        given.setdefault("clock", clock)
        given.setdefault("background", False)
        manager = EmergenceManager.open(storage, **given)
        managers.append(manager)
        return manager

    yield make
    for manager in managers:
        manager.close()


@pytest.fixture
def manager(opened: Callable[..., EmergenceManager]) -> EmergenceManager:
    """A manager in memory."""
    return opened()


# -- S3 services: started by the first test that needs one ------------------------------------------


@pytest.fixture(scope="session")
def s3_keys() -> Iterator[None]:
    """What the services want, where the tests' secrets point to."""
    from tests.s3_services import KEYS

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_S3_ACCESS", KEYS[0])
        patch.setenv("TEST_S3_SECRET", KEYS[1])
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def seaweed(s3_keys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """SeaweedFS."""
    from tests.s3_services import seaweedfs

    with seaweedfs(tmp_path_factory.mktemp("seaweed")) as service:
        yield service


@pytest.fixture(scope="session")
def moto_service(s3_keys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """moto's server."""
    from tests.s3_services import moto

    with moto(tmp_path_factory.mktemp("moto")) as service:
        yield service


@pytest.fixture(scope="session")
def rclone_service(s3_keys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """rclone's S3 server, which ignores conditions."""
    from tests.s3_services import rclone

    with rclone(tmp_path_factory.mktemp("rclone")) as service:
        yield service
