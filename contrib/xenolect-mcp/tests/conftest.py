"""Tests speak asyncio through anyio's plugin; managers are in memory and have no thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from xenolect import EmergenceManager
from xenolect.testing import Clock


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    """Seconds since the epoch, moved by ``advance``."""
    return Clock(1_800_000_000.0)


@pytest.fixture
def manager(clock: Clock) -> Iterator[EmergenceManager]:
    """A manager in memory."""
    with EmergenceManager.open("memory://", clock=clock, background=False) as opened:
        yield opened
