"""The conformance kit of ``ChunkStore``: what every store of immutable objects must do."""

from __future__ import annotations

import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from xenolect.errors import DuplicateError, InvalidError, NotFoundError
from xenolect.interfaces import ChunkStore
from xenolect.testing._threads import run

__all__ = ["ChunkStoreTests"]

MIB = 1024 * 1024

BAD_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    "a/..",
    "a\\b",
    "c:/a",
    "A",
    "ä",
    "a b",
    "a\nb",
    "a\x00b",
    "a\n",
    "a" * 2000,
    "file://a",
    "a*",
    "~/a",
]


class ChunkStoreTests(ABC):
    """Subclass it with ``make``; every ``test_`` method then runs against your store.

    ``examples`` is how many random histories the model test plays, ``steps`` their length. ``threads``
    race in the concurrency tests; lower it for a slow remote store.
    """

    examples: ClassVar[int] = 20
    steps: ClassVar[int] = 30
    threads: ClassVar[int] = 8
    rounds: ClassVar[int] = 10

    @abstractmethod
    def make(self, place: Path) -> ChunkStore:
        """Open the store that belongs to ``place``: a fresh directory, or a name to derive one from.

        Called again with the same place, it must show the same objects, as another process would.
        """

    def peek(self, place: Path, key: str) -> bytes:
        """The bytes of an object. Override it to go around the store (open the file, ask the service
        directly), so that the store is not only checked by itself."""
        other = self.make(place)
        try:
            return other.get(key)
        finally:
            other.close()

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        """Where the store of one test belongs."""
        return tmp_path / "store"

    @pytest.fixture
    def store(self, place: Path) -> Iterator[ChunkStore]:
        """An empty store."""
        made = self.make(place)
        yield made
        made.close()

    @pytest.fixture
    def hurried(self) -> Iterator[None]:
        """Threads change places every few microseconds, so that gaps between two steps are found."""
        usual = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(usual)

    # -- one at a time ----------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [0, 1, 4096, MIB, MIB + 1])
    def test_reads_what_was_put(self, store: ChunkStore, place: Path, size: int) -> None:
        """All bytes come back, and they are there for somebody else too."""
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        store.put("variants/v1/state/chunk_0-a.bin", data)
        assert store.get("variants/v1/state/chunk_0-a.bin") == data
        assert self.peek(place, "variants/v1/state/chunk_0-a.bin") == data

    def test_takes_any_buffer_and_keeps_none(self, store: ChunkStore) -> None:
        """bytes, bytearray and slices of memory; a buffer may be used again after put."""
        buffer = bytearray(b"0123456789")
        store.put("array", buffer)
        store.put("view", memoryview(buffer)[2:5])
        store.put("stride", memoryview(buffer)[::2])
        buffer[:] = b"x" * 10
        assert store.get("array") == b"0123456789"
        assert store.get("view") == b"234"
        assert store.get("stride") == b"02468"
        assert type(store.get("array")) is bytes

    def test_an_object_is_created_once(self, store: ChunkStore) -> None:
        """Creating an existing key is a DuplicateError that names it; the first content stays."""
        store.put("a/b", b"first")
        for data in (b"second", b"first", b""):
            with pytest.raises(DuplicateError, match="a/b"):
                store.put("a/b", data)
        assert store.get("a/b") == b"first"

    def test_an_empty_object_is_created_once(self, store: ChunkStore) -> None:
        """No bytes is content as well; some services forget the condition there."""
        store.put("empty", b"")
        with pytest.raises(DuplicateError):
            store.put("empty", b"")
        assert store.get("empty") == b""

    def test_replaces_when_asked(self, store: ChunkStore, place: Path) -> None:
        """Without ``if_absent`` the object is replaced whole, shorter or longer, or created."""
        for data in (b"long content", b"short", b"", b"longer content again"):
            store.put("mirror.json", data, if_absent=False)
            assert store.get("mirror.json") == data
            assert self.peek(place, "mirror.json") == data

    def test_what_is_not_there(self, store: ChunkStore) -> None:
        """Reading a missing object is a NotFoundError that names the key."""
        store.put("a/b", b"x")
        for key in ("missing", "a", "a/c", "a/b/c"):
            with pytest.raises(NotFoundError, match=key):
                store.get(key)
            with pytest.raises(NotFoundError, match=key):
                store.get_range(key, 0, 1)
            with pytest.raises(NotFoundError, match=key):
                store.get_range(key, 0, 0)

    def test_reads_a_range(self, store: ChunkStore) -> None:
        """A range is cut at the end of the object and nowhere else."""
        store.put("r", b"0123456789")
        for start, stop in ((0, 10), (0, 1), (3, 7), (9, 10), (5, 5), (0, 99), (7, 99), (10, 20)):
            assert store.get_range("r", start, stop) == b"0123456789"[start:stop]
        assert store.get_range("r", 50, 60) == b""
        if hasattr(store, "get_into"):
            for start, length in ((0, 10), (0, 11), (3, 4), (9, 5), (10, 2), (50, 10), (2, 0)):
                target = bytearray(b"-" * length)
                count = store.get_into("r", start, memoryview(target))
                there = b"0123456789"[start : start + length]
                assert target[:count] == there
                assert set(target[count:]) <= {ord("-")}
        for start, stop in ((-1, 3), (3, 2), (0, -1)):
            with pytest.raises(InvalidError):
                store.get_range("r", start, stop)

    def test_deletes(self, store: ChunkStore) -> None:
        """A deleted object is gone; deleting what is not there is fine."""
        store.put("a/b", b"x")
        store.delete("a/b")
        store.delete("a/b")
        store.delete("never/was")
        assert list(store.list("")) == []
        with pytest.raises(NotFoundError):
            store.get("a/b")
        store.put("a/b", b"y")
        assert store.get("a/b") == b"y"

    def test_lists_by_prefix(self, store: ChunkStore) -> None:
        """Ascending as text; a prefix is text and need not end at a slash."""
        keys = ["a-b/x", "a.b", "a/b", "a/b.c/d", "a/b0", "ab", "b/c", "store.json"]
        assert list(store.list("")) == []
        for key in reversed(keys):
            store.put(key, b"x")
        assert list(store.list("")) == sorted(keys)
        for prefix in ("a", "a/", "a/b", "a-b/x", "b/c/d", "c", "a/b.", "store"):
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert list(store.list(prefix)) == expected, prefix

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_refuses_keys_that_could_leave_the_store(self, store: ChunkStore, key: str) -> None:
        """Only plain relative keys pass, in every verb."""
        for call in (
            lambda: store.put(key, b"x"),
            lambda: store.put(key, b"x", if_absent=False),
            lambda: store.get(key),
            lambda: store.get_range(key, 0, 1),
            lambda: store.delete(key),
        ):
            with pytest.raises(InvalidError):
                call()
        assert list(store.list("")) == []

    @pytest.mark.parametrize("prefix", ["/", "..", "../", "a/../", "A", "a\\", "a//"])
    def test_refuses_prefixes_that_could_leave_the_store(
        self, store: ChunkStore, prefix: str
    ) -> None:
        """Listing stays inside, too."""
        if prefix == "..":
            assert list(store.list(prefix)) == []  # keys could start so, none does
        else:
            with pytest.raises(InvalidError):
                list(store.list(prefix))

    # -- several at a time ------------------------------------------------------------------------

    def test_others_see_it_at_once(self, store: ChunkStore, place: Path) -> None:
        """A second handle on the same place sees each change as soon as the call returned."""
        other = self.make(place)
        assert list(other.list("")) == []
        store.put("a/1", b"x")
        assert other.get("a/1") == b"x"
        assert list(other.list("a/")) == ["a/1"]
        with pytest.raises(DuplicateError):
            other.put("a/1", b"y")
        other.delete("a/1")
        assert list(store.list("")) == []
        other.close()

    def test_survives_closing(self, place: Path) -> None:
        """Objects are there after everybody closed; closing twice is fine."""
        first = self.make(place)
        first.put("a", b"kept")
        first.close()
        first.close()
        second = self.make(place)
        assert second.get("a") == b"kept"
        second.close()

    def test_a_race_has_one_winner(self, place: Path, hurried: None) -> None:
        """Of several who create one key at the same time exactly one succeeds, and its bytes stay."""
        stores = [self.make(place) for _ in range(self.threads)]
        for number in range(self.rounds):
            key = f"race/{number}"
            start = threading.Barrier(self.threads)
            won: list[bytes] = []

            def create(
                index: int,
                key: str = key,
                start: threading.Barrier = start,
                won: list[bytes] = won,
            ) -> None:
                data = bytes([index]) * 1000
                start.wait()
                try:
                    stores[index].put(key, data)
                except DuplicateError:
                    return
                won.append(data)

            run([partial(create, index) for index in range(self.threads)])
            assert len(won) == 1
            assert stores[0].get(key) == won[0]
        for store in stores:
            store.close()

    def test_readers_see_all_or_nothing(self, place: Path) -> None:
        """While an object is created or replaced, a reader finds none of it or all of it."""
        writer, reader = self.make(place), self.make(place)
        done = threading.Event()
        torn: list[Any] = []

        def write() -> None:
            try:
                for number in range(self.rounds * 3):
                    data = bytes([number]) * (100_000 + number)
                    writer.put("mirror", data, if_absent=False)
                    writer.put(f"chunk/{number}", data)
            finally:
                done.set()

        def read() -> None:
            while not done.is_set():
                for key in ("mirror", *reader.list("chunk/")):
                    try:
                        data = reader.get(key)
                    except NotFoundError:
                        continue
                    if len(data) < 100_000 or len(data) - 100_000 != data[0] or len(set(data)) != 1:
                        torn.append((key, len(data)))

        run([write, read])
        assert torn == []
        writer.close()
        reader.close()

    def test_behaves_like_a_dictionary(self) -> None:
        """Random histories on two handles against a dict (hypothesis)."""
        _play(self)


# No key is another's directory: file systems can not hold both.
_KEYS = st.sampled_from(["a", "b/a", "b/a-1", "b/c.d/e", "b/c.d/f", "store.json"])
_DATA = st.binary(max_size=64)
_WHICH = st.integers(0, 1)


def _play(kit: ChunkStoreTests) -> None:
    class Machine(RuleBasedStateMachine):
        """Two handles on one place, and a dict that says what should be there."""

        def __init__(self) -> None:
            super().__init__()
            self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            self.place = Path(self.folder.name) / "store"
            self.stores = [kit.make(self.place), kit.make(self.place)]
            self.model: dict[str, bytes] = {}

        @rule(which=_WHICH, key=_KEYS, data=_DATA)
        def create(self, which: int, key: str, data: bytes) -> None:
            if key in self.model:
                with pytest.raises(DuplicateError):
                    self.stores[which].put(key, data)
            else:
                self.stores[which].put(key, data)
                self.model[key] = data

        @rule(which=_WHICH, key=_KEYS, data=_DATA)
        def replace(self, which: int, key: str, data: bytes) -> None:
            self.stores[which].put(key, data, if_absent=False)
            self.model[key] = data

        @rule(which=_WHICH, key=_KEYS)
        def delete(self, which: int, key: str) -> None:
            self.stores[which].delete(key)
            self.model.pop(key, None)

        @rule(which=_WHICH, key=_KEYS, start=st.integers(0, 70), size=st.integers(0, 70))
        def read(self, which: int, key: str, start: int, size: int) -> None:
            if key not in self.model:
                with pytest.raises(NotFoundError):
                    self.stores[which].get(key)
                return
            assert self.stores[which].get(key) == self.model[key]
            part = self.stores[which].get_range(key, start, start + size)
            assert part == self.model[key][start : start + size]

        @rule(which=_WHICH)
        def reopen(self, which: int) -> None:
            self.stores[which].close()
            self.stores[which] = kit.make(self.place)

        @rule(which=_WHICH, prefix=st.sampled_from(["b", "b/", "b/a", "b/c.d/", "c"]))
        def search(self, which: int, prefix: str) -> None:
            expected = sorted(key for key in self.model if key.startswith(prefix))
            assert list(self.stores[which].list(prefix)) == expected

        @invariant()
        def lists_what_is_there(self) -> None:
            assert list(self.stores[0].list("")) == sorted(self.model)

        def teardown(self) -> None:
            for store in self.stores:
                store.close()
            self.folder.cleanup()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=kit.examples,
            stateful_step_count=kit.steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
