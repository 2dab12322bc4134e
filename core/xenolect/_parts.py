"""The parts that the configuration names, opened: index, chunk store, cipher and rules.

What is across a network stands behind a breaker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from xenolect import _dependencies
from xenolect._cipher_options import cipher_options
from xenolect._registry import Registry
from xenolect.breaker import CircuitBreaker
from xenolect.config import Config
from xenolect.interfaces import ChunkStore, Cipher, EnvelopeCipher, Index, Rule

__all__ = ["Parts", "chunk_options", "index_options", "replica_of"]


def index_options(config: Config) -> dict[str, Any]:
    """The index's options; the embedded one lives beside the chunks unless told otherwise."""
    options = dict(config.index.options)
    if config.index.use == "sqlite":
        options.setdefault("path", os.path.join(_local(config.storage), "index.db"))
    return options


def chunk_options(config: Config) -> dict[str, Any]:
    """The chunk store's options; it lives in ``storage`` unless told otherwise."""
    options = dict(config.chunks.options)
    if config.chunks.use in ("fsspec", "obstore"):
        options.setdefault("url", config.storage)
    return options


def replica_of(config: Config, registry: Registry) -> ChunkStore | None:
    """The configured copy of the object store, opened with the chunk store's other options."""
    url = config.state.replica
    if url is None:
        return None
    use = config.chunks.use if config.chunks.use in ("fsspec", "obstore") else "fsspec"
    options = {**chunk_options(config), "url": url} if use == config.chunks.use else {"url": url}
    store: ChunkStore = registry.make("chunks", use, options, "state.replica")
    return store


def _local(storage: str) -> str:
    return storage.removeprefix("file://")


class Parts:
    """The stores, the cipher and the rules of one open manager.

    ``clock``: what the breakers go by; ``moved``: told a dependency and its states before and after.
    """

    def __init__(
        self,
        config: Config,
        registry: Registry,
        clock: Callable[[], float],
        moved: Callable[[str, str, str], None],
    ) -> None:
        self._config = config
        self._registry = registry
        self._clock = clock
        self._moved = moved
        self.dependencies: dict[str, CircuitBreaker] = {}
        options = index_options(config)
        self.index: Index = self._guarded(
            "index", options, registry.make("index", config.index.use, options, "index")
        )
        try:
            options = chunk_options(config)
            self.chunks: ChunkStore = self._guarded(
                "chunks", options, registry.make("chunks", config.chunks.use, options, "chunks")
            )
            self.cipher: Cipher | EnvelopeCipher = registry.make(
                "cipher", config.cipher.use, cipher_options(config, registry), "cipher"
            )
            self.rules: tuple[tuple[str, Rule], ...] = tuple(
                (name, registry.make("compatibility", name, {}, f"compatibility.rules.{name}"))
                for name in config.compatibility.rules
            )
        except BaseException:
            self.index.close()
            raise

    def _guarded(self, name: str, options: Mapping[str, Any], made: Any) -> Any:
        """An index or chunk store, behind a breaker where a network is between."""
        if not _dependencies.across_a_network(options):
            return made
        given = dict(self._config.breaker.options)
        if self._config.breaker.use == "breaker":
            given["scope"] = "dependency"
        breaker = CircuitBreaker(
            f"dependency:{name}",
            machine=self._registry.make("safeguards", self._config.breaker.use, given, "breaker"),
            label="the index" if name == "index" else "the chunk store",
            clock=self._clock,
            on_change=lambda before, after: self._moved(name, str(before), str(after)),
        )
        self.dependencies[breaker.name] = breaker
        return _dependencies.Guarded(made, breaker)

    def try_anyway(self) -> None:
        """From now on ask the index and the chunk store whatever their breakers say: it is closing."""
        for part in (self.index, self.chunks):
            if isinstance(part, _dependencies.Guarded):
                part.bypassed = True

    def close(self) -> None:
        """Let go of the stores."""
        self.chunks.close()
        self.index.close()

    def options(self) -> Mapping[str, Any]:
        """The parts in use, for ``status``."""
        return {
            "index": self._config.index.use,
            "chunks": self._config.chunks.use,
            "cipher": self._config.cipher.use,
        }
