"""What networks and services do, at each request of each act: a typed error or success, nothing lost,
and it works again after."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.desk import CHUNK, Desk, noise
from tests.fault_proxy import FAULTS, FaultProxy
from tests.s3_services import BUCKET, Service
from tests.test_chunk_stores_s3 import CLIENTS

from xenolect.errors import DuplicateError, NotFoundError, UnavailableError
from xenolect.interfaces import ChunkStore
from xenolect_backends._patience import Patience
from xenolect_backends.memory import MemoryIndex

pytestmark = [pytest.mark.s3, pytest.mark.slow]

SLOW = 0.6
"""Seconds of patience: what is not late on purpose is far faster, also on a busy machine."""
PATIENCE = Patience(timeout=SLOW, retries=3, deadline=20.0, pause=0.001, longest=0.01)
HASTY = Patience(timeout=SLOW, retries=0, deadline=20.0, pause=0.001)

OLD = noise(3 * CHUNK)
NEW = OLD[:CHUNK] + noise(CHUNK, seed=2) + OLD[2 * CHUNK :]
ACTS: dict[str, Callable[[Any, str], Any]] = {
    "put": lambda states, name: states.put(name, NEW),
    "stream": lambda states, name: states.put(name, io.BytesIO(NEW)),
    "patch": lambda states, name: states.patch(name, {CHUNK: NEW[CHUNK : 2 * CHUNK]}),
}


@pytest.fixture(scope="module")
def proxy(seaweed: Service) -> Iterator[FaultProxy]:
    """In front of SeaweedFS."""
    with FaultProxy(seaweed.url, patience=SLOW) as made:
        yield made


@pytest.fixture(params=list(CLIENTS))
def client(request: pytest.FixtureRequest) -> Any:
    """Both."""
    return CLIENTS[request.param]


class Places:
    """A fresh prefix each time, directly or through the proxy."""

    number = 0

    def __init__(self, client: Any, service: Service, proxy: FaultProxy) -> None:
        self.client, self.service, self.proxy = client, service, proxy

    def pair(self, patience: Patience) -> tuple[ChunkStore, ChunkStore]:
        """The same place, safe and endangered."""
        Places.number += 1
        url = f"s3://{BUCKET}/faults-{Places.number}"
        safe = CLIENTS["obstore"](url, endpoint=self.service.endpoint(), patience=PATIENCE)
        endangered = self.client(
            url, endpoint=self.service.endpoint(self.proxy.url), patience=patience
        )
        return safe, endangered


@pytest.fixture
def places(client: Any, seaweed: Service, proxy: FaultProxy) -> Iterator[Places]:
    """Of both clients."""
    proxy.heal()
    yield Places(client, seaweed, proxy)
    proxy.heal()


# -- single calls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", list(FAULTS))
def test_each_call_survives_a_fault(places: Places, proxy: FaultProxy, fault: str) -> None:
    """One fault, and the call succeeds: a create whose answer was lost is known as one's own, and a name
    that is taken is still taken."""
    safe, store = places.pair(PATIENCE)
    safe.put("taken", b"other")

    proxy.arm(fault, 1)
    store.put("new", b"mine")
    assert len(proxy.heal()) > 1
    for at in (1, 2):
        proxy.arm(fault, at)
        with pytest.raises(DuplicateError, match="taken"):
            store.put("taken", b"mine")
        proxy.heal()
    proxy.arm(fault, 1)
    store.put("mirror", b"one", if_absent=False)
    proxy.arm(fault, 1)
    assert store.get("new") == b"mine"
    proxy.arm(fault, 1)
    assert store.get_range("new", 1, 3) == b"in"
    proxy.arm(fault, 1)
    assert list(store.list("")) == ["mirror", "new", "taken"]
    proxy.arm(fault, 1)
    store.delete("new")
    proxy.arm(fault, 1)
    with pytest.raises(NotFoundError):
        store.get("new")
    proxy.heal()
    assert {key: safe.get(key) for key in safe.list("")} == {"mirror": b"one", "taken": b"other"}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_service_that_stays_away_is_unavailable(
    places: Places, proxy: FaultProxy, fault: str
) -> None:
    """Every attempt fails: UnavailableError, which may be tried again, says how often it was tried."""
    safe, store = places.pair(Patience(SLOW, 2, 5.0, 0.001))
    safe.put("a", b"x")
    calls: list[Callable[[], Any]] = [
        lambda: store.put("b", b"x"),
        lambda: store.get("a"),
        lambda: store.put("c", b"x", if_absent=False),
        lambda: store.get_range("a", 0, 1),
        lambda: list(store.list("")),
        lambda: store.delete("a"),
    ]
    some = {"late": calls[:2], "afterwards": calls[:2], "412": calls[:1]}
    for call in some.get(fault, calls):
        proxy.arm(fault, 1, lasting=True)
        with pytest.raises(UnavailableError, match="tried 3 times in") as caught:
            call()
        assert caught.value.retryable
        # s3fs's HTTP client sends again on its own where a connection that was used before broke; a name
        # that is said to be taken is looked at each time.
        assert 3 <= len(proxy.heal()) <= 6


# -- states -----------------------------------------------------------------------------------------


SWEEPS = [
    *(("obstore", fault, "put", HASTY) for fault in FAULTS),
    *(("obstore", fault, "patch", HASTY) for fault in ("500", "dropped", "lost", "cut")),
    *(("s3fs", fault, "patch", HASTY) for fault in ("503", "500 after", "lost", "cut")),
    ("obstore", "lost", "stream", HASTY),
    ("obstore", "lost", "put", PATIENCE),
    ("obstore", "500 after", "patch", PATIENCE),
    ("s3fs", "lost", "put", PATIENCE),
    ("s3fs", "500 after", "patch", PATIENCE),
]


@pytest.mark.parametrize(("library", "fault", "act", "patience"), SWEEPS)
def test_states_survive_a_fault_at_every_request(
    seaweed: Service,
    proxy: FaultProxy,
    library: str,
    fault: str,
    act: str,
    patience: Patience,
) -> None:
    """Without further attempts a fault is a typed error, and the old state is whole; with them it is
    not noticed. Either way the next put works, and nothing is left that the collector does not find."""
    places = Places(CLIENTS[library], seaweed, proxy)
    safe, endangered = places.pair(patience)
    index = MemoryIndex()
    failed = 0
    for at in range(1, 40):
        name = f"v{at}"  # another variant each time: a long history would take more requests
        Desk(index, safe, seed=200 + at, variants=[name]).states.put(name, OLD)
        desk = Desk(index, endangered, seed=at, variants=[name])
        proxy.arm(fault, at)
        try:
            ref = ACTS[act](desk.states, name)
        except UnavailableError:
            expected = OLD
            failed += 1
        else:
            assert ref.version == 2
            expected = NEW
        done = at > len(proxy.heal())
        other = Desk(index, safe, seed=100 + at, variants=[name])
        assert other.states.get(name) == expected
        assert other.states.verify(name).ok
        desk.states.put(name, b"after")
        other.catch_up()
        assert other.states.get(name) == b"after"
        if done:
            break
    else:
        pytest.fail("the scenario never ends")
    assert at > 3
    if patience is PATIENCE:
        assert not failed
    elif library == "obstore" or fault.startswith("50"):
        assert failed  # s3fs's HTTP client may have sent it again on its own
    last = Desk(index, safe, seed=99, variants=[name])
    last.states.gc(0)
    assert last.states.verify().ok
    assert not last.states.gc(0).removed


@pytest.mark.parametrize(
    ("library", "fault"),
    [
        ("obstore", "503"),
        ("obstore", "lost"),
        ("obstore", "late"),
        ("s3fs", "dropped"),
        ("s3fs", "cut"),
    ],
)
def test_collecting_survives_a_fault_at_every_request(
    seaweed: Service, proxy: FaultProxy, library: str, fault: str
) -> None:
    """Garbage collection that is cut off removes nothing that is used, and ends its work the next time."""
    places = Places(CLIENTS[library], seaweed, proxy)
    safe, endangered = places.pair(HASTY)
    index = MemoryIndex()
    Desk(index, safe).states.put("zstd", OLD)
    failed = 0
    for at in range(1, 60):
        orphaning = Desk(index, safe, seed=1000 + at)
        orphaning.before_commit = _raise
        with pytest.raises(Stop):
            orphaning.states.put("zstd", NEW)
        desk = Desk(index, endangered, seed=at)
        proxy.arm(fault, at)
        try:
            desk.states.gc(0)
        except UnavailableError:
            failed += 1
        done = at > len(proxy.heal())
        other = Desk(index, safe, seed=100 + at)
        assert other.states.get("zstd") == OLD
        assert other.states.verify().ok
        desk.states.gc(0)
        assert not other.states.gc(0, dry_run=True).removed
        if done:
            break
    else:
        pytest.fail("the scenario never ends")
    assert failed > 3 or library == "s3fs"


class Stop(BaseException):
    """The process is gone."""


def _raise() -> None:
    raise Stop
