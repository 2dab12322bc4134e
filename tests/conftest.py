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
