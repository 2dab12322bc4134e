"""One set of tests for every place: a directory, memory, S3 through both clients, and sealed on both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.desk import CHUNK, Desk, noise
from tests.test_states import (  # noqa: F401  the same tests, on this module's `desk`
    test_a_stale_expected_version_is_a_conflict,
    test_a_variant_can_be_without_a_state_again,
    test_anything_with_a_buffer_is_bytes,
    test_bytes_and_files_come_back,
    test_short_reads_are_put_together,
    test_versions_grow_by_one_and_stay,
)
from tests.test_states_parts import (  # noqa: F401  and these
    test_json_is_not_patched,
    test_progress_tells_bytes,
    test_put_async_stores_in_order_and_carries_errors,
)

from xenolect import EmergenceManager, VariantStatus
from xenolect.errors import UnavailableError
from xenolect.interfaces import ChunkStore
from xenolect.testing import ChunkStoreTests, FaultyChunks
from xenolect_backends.fsspec_chunks import FsspecChunks
from xenolect_backends.local_keys import EnvKeys
from xenolect_backends.memory import MemoryChunks, MemoryIndex
from xenolect_plugins.aes_gcm import AesGcm

REMOTE = [pytest.mark.s3, pytest.mark.slow]
PLACES = [
    pytest.param("file"),
    pytest.param("memory"),
    pytest.param("file-sealed"),
    pytest.param("s3", marks=REMOTE),
    pytest.param("s3-sealed", marks=REMOTE),
    pytest.param("s3-obstore", marks=REMOTE),
]
Open = Callable[[Path], ChunkStore]


@pytest.fixture(params=PLACES)
def place_kind(request: pytest.FixtureRequest) -> str:
    """Which."""
    kind: str = request.param
    return kind


@pytest.fixture
def open_chunks(place_kind: str, request: pytest.FixtureRequest) -> Open:
    """Open the store of a name; again: the same."""
    if place_kind.startswith("file"):
        return lambda name: FsspecChunks(name.as_uri())
    if place_kind == "memory":
        return lambda name: FsspecChunks(f"memory://{name.as_posix()}")
    from tests.s3_services import BUCKET, QUICK

    from xenolect_backends.obstore_chunks import ObstoreChunks

    service = request.getfixturevalue("seaweed")
    client: Any = ObstoreChunks if place_kind == "s3-obstore" else FsspecChunks

    def make(name: Path) -> ChunkStore:
        prefix = hashlib.sha256(f"{place_kind} {name}".encode()).hexdigest()[:12]
        made: ChunkStore = client(
            f"s3://{BUCKET}/{prefix}", endpoint=service.endpoint(), patience=QUICK
        )
        return made

    return make


class TestChunkStores(ChunkStoreTests):
    """The kit."""

    examples = 2
    threads = 4
    rounds = 3

    @pytest.fixture(autouse=True)
    def use(self, open_chunks: Open) -> None:
        """Which place."""
        self.opened = open_chunks

    def make(self, place: Path) -> ChunkStore:
        return self.opened(place)


@pytest.fixture
def cipher(place_kind: str, monkeypatch: pytest.MonkeyPatch) -> AesGcm | None:
    """The cipher of places that are sealed."""
    monkeypatch.setenv("TEST_KEY", bytes(range(32)).hex())
    return AesGcm(EnvKeys("TEST_KEY")) if place_kind.endswith("sealed") else None


@pytest.fixture
def desk(open_chunks: Open, cipher: AesGcm | None, tmp_path: Path) -> Iterator[Desk]:
    """What the tests of states run on."""
    chunks = open_chunks(tmp_path / "desk")
    made = Desk(chunks=chunks, cipher=cipher)
    yield made
    made.states.close()
    chunks.close()


def test_damage_is_named_and_the_rest_is_read(desk: Desk) -> None:
    """A chunk that changed, and one that is gone: found by reading and by ``verify``; the older version
    that does not need it is whole."""
    desk.states.put("zstd", noise(3 * CHUNK))
    desk.states.patch("zstd", {0: b"patched"})
    entries = desk.states._versions.located("zstd", 2)[1].table
    key = f"variants/zstd/state/{entries[0].object}"
    whole = desk.chunks.get(key)
    for damage in (whole[:-1] + bytes([whole[-1] ^ 1]), None):
        if damage is None:
            desk.chunks.delete(key)
        else:
            desk.chunks.put(key, damage, if_absent=False)
        report = Desk(desk.index, desk.chunks, cipher=desk.cipher).states.verify()
        assert [problem.key for problem in report.problems] == [key]
        assert desk.states.get("zstd", version=1) == noise(3 * CHUNK)
    desk.chunks.put(key, whole)
    assert desk.states.verify().ok


def test_the_collector_removes_what_nobody_refers_to(desk: Desk) -> None:
    """Objects of a put that died, and nothing else."""
    desk.states.put("zstd", noise(2 * CHUNK))
    desk.states.flush()
    used = desk.objects()

    class Died(BaseException):
        """Before the commit."""

    def die() -> None:
        raise Died

    desk.before_commit = die
    with pytest.raises(Died):
        desk.states.put("zstd", noise(2 * CHUNK, seed=5))
    desk.before_commit = lambda: None
    assert len(desk.objects()) == len(used) + 3
    later = Desk(desk.index, desk.chunks, cipher=desk.cipher, clock=desk.clock_, seed=9)
    later.states.put("zstd", noise(2 * CHUNK, seed=6))
    later.states.gc(0)
    assert later.states.verify().ok
    assert later.states.get("zstd", version=1) == noise(2 * CHUNK)
    assert not later.states.gc(0).removed


# -- a manager ----------------------------------------------------------------------------------------


@pytest.fixture
def reopen(
    place_kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    opened: Any,
    cipher: AesGcm | None,
) -> Callable[[], EmergenceManager]:
    """A manager on the same store, as another process would open it; the index is a file."""
    given: dict[str, Any] = {"index": {"path": str(tmp_path / "index.db")}}
    if cipher is not None:
        given["cipher"] = {"use": "aes-gcm", "keys": {"env": "TEST_KEY"}}
    if place_kind.startswith("s3"):
        from tests.s3_services import BUCKET

        url = f"s3://{BUCKET}/managed-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
        given["chunks"] = {
            "use": "obstore" if place_kind == "s3-obstore" else "fsspec",
            "url": url,
            "endpoint": request.getfixturevalue("seaweed").url,
            "region": "us-east-1",
            "access_key": {"env": "TEST_S3_ACCESS"},
            "secret_key": {"env": "TEST_S3_SECRET"},
            "allow_plaintext": True,
        }
    elif place_kind == "memory":
        url = f"memory://{tmp_path.name}"
        given["chunks"] = {"use": "fsspec", "url": f"memory://{tmp_path.as_posix()}"}
    else:
        url = (tmp_path / "store").as_uri()
    return lambda: opened(url, **given)  # type: ignore[no-any-return]


def test_a_whole_life(reopen: Callable[[], EmergenceManager]) -> None:
    """Put, get, patch, open, a rollback point, a rollback, verification, collection; and all of it is
    there for the next process."""
    content = noise(3 << 20)
    manager = reopen()
    manager.variants.activate(manager.variants.propose("base", {}, id="base"))
    variant = manager.variants.propose("zstd", {"level": 3}, id="zstd")
    manager.variants.activate(variant, force=True)
    assert manager.states.put("zstd", content).version == 1
    point = manager.points.create("zstd", "before the change")
    manager.states.patch("zstd", {1 << 20: b"patched"})
    changed = manager.states.get("zstd")
    assert changed[1 << 20 : (1 << 20) + 7] == b"patched"
    assert manager.states.put("zstd", {"other": True}).version == 3
    with manager.states.open("zstd", version=1) as reader:
        reader.seek(2 << 20)
        assert reader.read(9) == content[2 << 20 : (2 << 20) + 9]
    manager.points.verify(point)
    assert manager.states.verify().ok

    after = manager.rollback("zstd", reason="ticket 12")
    assert after.status == VariantStatus.ROLLED_BACK
    assert manager.states.get("zstd") == content
    manager.close()

    other = reopen()
    assert other.variants.get("zstd").status == VariantStatus.ROLLED_BACK
    assert other.states.get("zstd") == content
    assert other.states.get("zstd", version=2) == changed
    assert other.states.get("zstd", version=3) == {"other": True}
    assert not other.states.gc(0).removed
    report = other.states.verify()
    assert report.ok
    assert report.deep


def test_a_store_that_is_away_does_not_keep_a_bad_variant(
    opened: Callable[..., EmergenceManager],
) -> None:
    """A rollback needs the index only: with the objects out of reach the variant is taken back to its
    point all the same, and no protocol goes into safe mode for it."""
    manager = opened()
    manager.variants.activate(manager.variants.propose("base", {}, id="base"))
    manager.variants.activate(manager.variants.propose("zstd", {"a": 1}, id="zstd"), force=True)
    manager.states.put("zstd", {"window": 1})
    manager.points.create("zstd")
    manager.states.put("zstd", {"window": 2})
    inner = manager._runtime.chunks
    away = FaultyChunks(inner, fail_at=1, lasting=True, error=UnavailableError("away"))
    manager._runtime.chunks = away

    after = manager.rollback("zstd")

    assert after.status == VariantStatus.ROLLED_BACK
    assert not manager.status()["safe_mode"]
    manager._runtime.chunks = inner
    assert manager.states.get("zstd") == {"window": 1}


def test_two_processes_share_a_place(
    open_chunks: Open, cipher: AesGcm | None, tmp_path: Path
) -> None:
    """Two writers on one index and one store: both commit, nothing is lost."""
    index = MemoryIndex()
    one = Desk(index, open_chunks(tmp_path / "shared"), cipher=cipher, seed=1)
    two = Desk(index, open_chunks(tmp_path / "shared"), cipher=cipher, seed=2)
    for number in range(4):
        desk = (one, two)[number % 2]
        desk.catch_up()
        desk.states.put("zstd", noise(2 * CHUNK, seed=number))
    two.catch_up()
    assert [two.states.get("zstd", version=1 + n) for n in range(4)] == [
        noise(2 * CHUNK, seed=n) for n in range(4)
    ]
    assert one.states.verify().ok


def test_memory_is_not_shared_by_accident() -> None:
    """The bundled memory store and fsspec's are two."""
    MemoryChunks("places").put("a", b"x")
    assert list(FsspecChunks("memory://places").list("")) == []
