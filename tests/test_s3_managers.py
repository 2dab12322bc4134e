"""A whole manager whose objects are on S3: a fault at each request of each act, and the breaker in front."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.acts import ACTS, KEYS, SETTINGS, begin
from tests.fault_proxy import FaultProxy
from tests.s3_services import BUCKET, Service

from xenolect import EmergenceManager, UnavailableError
from xenolect.model import BreakerState as B
from xenolect.testing import Clock

pytestmark = [pytest.mark.s3, pytest.mark.slow]
PATIENCE, SHORT = 10.0, 2.0
"""Seconds a request may take: what is not late on purpose is far faster, also on a busy machine; where an
answer is late on purpose they are few."""
Opened = Callable[..., EmergenceManager]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def proxy(seaweed: Service) -> Iterator[FaultProxy]:
    """In front of SeaweedFS."""
    with FaultProxy(seaweed.url, patience=SHORT) as made:
        yield made


@pytest.fixture
def place(proxy: FaultProxy, tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Settings of one store: its index is a file here, its objects are behind the proxy."""
    proxy.heal()
    url = f"s3://{BUCKET}/managers-{secrets.token_hex(6)}"

    def settings(library: str, timeout: float = PATIENCE) -> dict[str, Any]:
        chunks = {
            "use": library,
            "url": url,
            "endpoint": proxy.url,
            "region": "us-east-1",
            "access_key": {"env": "TEST_S3_ACCESS"},
            "secret_key": {"env": "TEST_S3_SECRET"},
            "allow_plaintext": True,
            "timeout": f"{timeout:g}s",
            "retries": 0,
        }
        return {"chunks": chunks, "index": {"path": str(tmp_path / "index.db")}}

    yield settings
    proxy.heal()


SWEEPS = [
    ("put", "obstore", "412"),
    ("put", "fsspec", "412"),
    ("put", "obstore", "lost"),
    ("patch", "obstore", "409"),
    ("patch", "fsspec", "503"),
    ("rollback", "obstore", "lost"),
    ("rollback", "obstore", "500"),
    ("rollback", "fsspec", "412"),
    ("promote", "obstore", "503"),
    ("promote", "obstore", "late"),
    ("gc", "obstore", "lost"),
    ("gc", "fsspec", "500"),
    ("rotate", "obstore", "lost"),
    ("rotate", "obstore", "412"),
    ("rotate", "fsspec", "503"),
]

SAMPLE = [("put", "obstore", "412"), ("promote", "obstore", "503")]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "library", "fault"),
    [pytest.param(*each, marks=[] if each in SAMPLE else [pytest.mark.sweep]) for each in SWEEPS],
)
def test_an_act_survives_a_fault_at_every_request(
    place: Any, proxy: FaultProxy, opened: Opened, name: str, library: str, fault: str
) -> None:
    """An error with a type or success, old or new, and the same manager does it the next time; another one
    finds all of it."""
    timeout = SHORT if fault == "late" else PATIENCE
    act, given = ACTS[name], {**SETTINGS, **place(library, timeout)}
    manager = opened(given["chunks"]["url"], **given)
    begin(manager)
    played = []
    for at in range(1, 60):
        variant = f"v{at}"
        act.prepare(manager, variant)
        before = act.found(manager, variant)
        proxy.arm(fault, at)
        try:
            act.play(manager, variant)
        except UnavailableError:
            done = False
        else:
            done = True
        over = at > len(proxy.heal())
        assert act.found(manager, variant) in (("new",) if done else (before, "new")), at
        act.play(manager, variant)
        assert act.found(manager, variant) == "new", at
        played.append(variant)
        if over:
            break
    else:
        pytest.fail("the act never ends")
    manager.close()
    other = opened(given["chunks"]["url"], **given)
    for variant in played:
        assert act.found(other, variant) == "new"
    assert other.states.verify().ok
    other.states.put("base", {"works": "again"})


@pytest.mark.parametrize("library", ["fsspec", "obstore"])
@pytest.mark.parametrize("verb", ["get", "list"])
def test_the_breaker_of_a_service_opens_fails_fast_and_heals(
    place: Any, proxy: FaultProxy, opened: Opened, clock: Clock, library: str, verb: str
) -> None:
    """Five calls that fail open it; then nothing is sent and nobody waits; once the service is back, three
    probes close it. Listing counts where it is read. Another store is not touched by it."""
    given = place(library)
    manager = opened(given["chunks"]["url"], **given)
    variant = manager.variants.propose("zstd", {}, id="zstd")
    manager.states.put(variant, {"window": 1})
    chunks: Any = manager._runtime.chunks
    calls = {
        "get": lambda: chunks.get("store.json"),
        "list": lambda: list(chunks.list("variants/")),
    }
    call, name = calls[verb], "dependency:chunks"
    proxy.arm("503", 1, lasting=True)
    for number in range(5):
        assert manager.breakers.status(name).state == B.CLOSED, number
        with pytest.raises(UnavailableError):
            call()
    assert manager.breakers.status(name).state == B.OPEN

    sent, began = len(proxy.requests), time.monotonic()
    for _ in range(50):
        with pytest.raises(UnavailableError, match="the chunk store is open; try again in"):
            call()
        with pytest.raises(UnavailableError):
            manager.states.put(variant, {"window": 2})
    assert len(proxy.requests) == sent
    assert (
        time.monotonic() - began < 50 * PATIENCE
    )  # of a service that hangs each would take that long
    manager.record(variant, _fine(), durable=True)  # the index is another service
    assert manager.status()["dependencies"] == {name: "open"}

    clock.advance(40.0)
    with pytest.raises(UnavailableError):  # a probe, and the service is still away
        call()
    assert manager.breakers.status(name).state == B.OPEN
    proxy.heal()
    clock.advance(80.0)
    for _ in range(3):
        assert call()
    assert manager.breakers.status(name).state == B.CLOSED
    assert manager.states.get(variant) == {"window": 1}
    manager.states.put(variant, {"window": 2})


def _fine() -> Any:
    from xenolect import PerformanceMetrics

    return PerformanceMetrics(1.0, latency_ms=10.0)
