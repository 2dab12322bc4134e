"""A manager's middle with only what the state store needs; several on one index act as processes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from xenolect._states import States
from xenolect.config import Config, StateConfig
from xenolect.errors import ConflictError, DuplicateError, VariantNotFoundError
from xenolect.facts import Change, Fact, Put
from xenolect.interfaces import ChunkStore, Cipher, EnvelopeCipher, Index
from xenolect.model import ProtocolVariant
from xenolect.testing import Clock
from xenolect_backends.memory import MemoryChunks, MemoryIndex

CHUNK = 1024  # bytes, of every desk that names no other size


class Plain:
    """The cipher that seals nothing."""

    id = "none"

    def seal(self, plain: Any, bound: bytes) -> bytes:
        """As it is."""
        return bytes(plain)

    def open(self, sealed: Any, bound: bytes) -> bytes:
        """As it is."""
        return bytes(sealed)


class Desk:
    """The door of one process: facts in memory, one write door, a clock that stands still."""

    usual_cipher: ClassVar[Cipher | EnvelopeCipher] = Plain()
    """Where a test names none."""

    def __init__(
        self,
        index: Index | None = None,
        chunks: ChunkStore | None = None,
        *,
        cipher: Cipher | EnvelopeCipher | None = None,
        clock: Clock | None = None,
        seed: int = 1,
        variants: Sequence[str] = ("zstd", "json"),
        **state: Any,
    ) -> None:
        self.index: Index = index or MemoryIndex()
        self.chunks: ChunkStore = chunks or MemoryChunks()
        self.cipher: Cipher | EnvelopeCipher = cipher or self.usual_cipher
        # No cache: these tests damage what is stored and look what a reader makes of it.
        options = {"chunk_size": CHUNK, "cache_size": 0, **state}
        self.config = Config(state=StateConfig(**options))
        self.facts: dict[tuple[str, str], Fact] = {}
        self.clock_ = clock or Clock()
        self.variants = {name: ProtocolVariant(name) for name in variants}
        self.told: list[tuple[str, str | None, dict[str, Any]]] = []
        self.jobs: list[Callable[[], None]] = []
        self.before_commit: Callable[[], None] = lambda: None
        self._random = random.Random(seed)
        self.revision = 0
        self.catch_up()
        self.states = States(self)

    def clock(self) -> float:
        """Seconds since the epoch."""
        return self.clock_()

    def token(self, size: int) -> str:
        """Bytes in hex, the same in every run."""
        return self._random.randbytes(size).hex()

    def fact(self, kind: str, key: str) -> Fact | None:
        """As of the last ``catch_up``."""
        return self.facts.get((kind, key))

    def variant(self, variant: Any) -> ProtocolVariant:
        """By id."""
        name = variant if isinstance(variant, str) else variant.id
        if name not in self.variants:
            raise VariantNotFoundError(f"no variant has the id {name!r}")
        return self.variants[name]

    def commit_retrying(self, build: Callable[[], Sequence[Change]], *, actor: str = "") -> int:
        """As the runtime does."""
        self.before_commit()
        for _ in range(50):
            try:
                self.index.commit(
                    build(), actor=actor or "desk", at=self.clock(), after=self.revision
                )
            except DuplicateError:
                raise
            except ConflictError:
                self.catch_up()
                continue
            self.catch_up()
            return self.revision
        raise ConflictError("contended")

    def commit(self, changes: Sequence[Change]) -> int:
        """Changes somebody else decided on."""
        return self.commit_retrying(lambda: changes)

    def catch_up(self) -> None:
        """Apply the journal."""
        for entry in self.index.changes(self.revision):
            for change in entry.changes:
                key = (change.kind, change.key)
                old = self.facts.get(key)
                value = change.value if isinstance(change, Put) else None
                self.facts[key] = Fact(*key, (old.version if old else 0) + 1, value)
            self.revision = entry.revision

    def tell(self, kind: str, variant_id: str | None = None, /, **detail: Any) -> None:
        """Remember it."""
        self.told.append((kind, variant_id, detail))

    def later(self, job: Callable[[], None]) -> None:
        """Remember it."""
        self.jobs.append(job)

    def settle(self) -> None:
        """Run what was asked for."""
        while self.jobs:
            self.jobs.pop(0)()

    def objects(self) -> list[str]:
        """Every key in the store."""
        return list(self.chunks.list(""))


def noise(size, seed=1):
    """Bytes that do not compress."""
    out = bytearray()
    while len(out) < size:
        out += hashlib.sha256(f"{seed} {len(out)}".encode()).digest()
    return bytes(out[:size])


def snapshot(chunks):
    """Every object."""
    return {key: chunks.get(key) for key in chunks.list("")}
