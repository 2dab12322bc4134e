"""The bundled stores: chunks in files or any fsspec URL, an index in SQLite, and both in memory; keys
in the environment or in files.

Importing this costs nothing: fsspec (60 ms) and the SQLite index are imported by the offers that use
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.secret import Secret
from xenolect.units import Seconds

if TYPE_CHECKING:
    from xenolect.interfaces import ChunkStore, Index, KeyProvider

__all__ = ["FsspecOptions", "MemoryOptions", "SqliteOptions"]


@attrs.frozen
class FsspecOptions:
    """``[chunks] use = "fsspec"``, and ``use = "obstore"``.

    url: a directory, or any URL that fsspec opens. timeout: how long one request to a remote store may
    take. retries: how often it is sent again. deadline: how long a call may take in all. probe: check
    at open that a remote store refuses to create a key twice. endpoint, region, access_key,
    secret_key, session_token, ca: how an S3 service is reached. allow_plaintext: also without TLS.
    options: handed to the library's file system or store as they are.
    """

    url: str = "variants/"
    timeout: Seconds = Seconds(30.0)
    retries: int = 5
    deadline: Seconds = Seconds(120.0)
    probe: bool = True
    endpoint: str | None = None
    region: str | None = None
    access_key: Secret | None = None
    secret_key: Secret | None = None
    session_token: Secret | None = None
    ca: str | None = None
    allow_plaintext: bool = False
    options: Mapping[str, Any] = attrs.field(factory=dict, repr=False)  # may hold anything


@attrs.frozen
class SqliteOptions:
    """``[index] use = "sqlite"``.

    path: the file, on a local disk. cache_nodes: pages kept in memory per connection. page_size: the
    node size in bytes, a power of two; it takes effect when the file is created. btree_order: accepted
    for completeness; the order of SQLite's trees follows from the page size. busy_timeout: how long a
    call waits for another writer.
    """

    path: str = "variants/index.db"
    cache_nodes: int = attrs.field(default=1000, validator=attrs.validators.ge(1))
    page_size: int = attrs.field(
        default=8192, validator=attrs.validators.in_([2**power for power in range(9, 17)])
    )
    btree_order: int = attrs.field(default=128, validator=attrs.validators.ge(3))
    busy_timeout: Seconds = Seconds(10.0)


@attrs.frozen
class MemoryOptions:
    """``use = "memory"``. name: stores of one name are the same store in this process; empty: private."""

    name: str = ""


def _how(options: FsspecOptions) -> dict[str, Any]:
    """What both remote stores are told."""
    from xenolect_backends._endpoints import Endpoint
    from xenolect_backends._patience import Patience

    return {
        "patience": Patience(options.timeout, options.retries, options.deadline),
        "endpoint": Endpoint(
            options.endpoint,
            options.region,
            options.access_key,
            options.secret_key,
            options.session_token,
            options.ca,
            options.allow_plaintext,
        ),
        "options": options.options,
        "probe": options.probe,
    }


def _fsspec(options: FsspecOptions) -> ChunkStore:
    from xenolect_backends.fsspec_chunks import FsspecChunks

    return FsspecChunks(options.url, **_how(options))


def _obstore(options: FsspecOptions) -> ChunkStore:
    from xenolect_backends.obstore_chunks import ObstoreChunks

    return ObstoreChunks(options.url, **_how(options))


def _sqlite(options: SqliteOptions) -> Index:
    from xenolect_backends.sqlite_index import SqliteIndex

    return SqliteIndex(
        options.path,
        cache_nodes=options.cache_nodes,
        page_size=options.page_size,
        busy_timeout=options.busy_timeout,
    )


def _memory_chunks(options: MemoryOptions) -> ChunkStore:
    from xenolect_backends.memory import MemoryChunks

    return MemoryChunks(options.name)


def _memory_index(options: MemoryOptions) -> Index:
    from xenolect_backends.memory import MemoryIndex

    return MemoryIndex(options.name)


@hookimpl
def xenolect_chunk_storage() -> Iterable[Offer[ChunkStore]]:
    """Offer "fsspec", "obstore" and "memory"."""
    yield offer("fsspec", _fsspec)
    yield offer("obstore", _obstore)
    yield offer("memory", _memory_chunks)


@hookimpl
def xenolect_index_storage() -> Iterable[Offer[Index]]:
    """Offer "sqlite" and "memory"."""
    yield offer("sqlite", _sqlite)
    yield offer("memory", _memory_index)


@hookimpl
def xenolect_keys() -> Iterable[Offer[KeyProvider]]:
    """Offer "env" and "file"."""
    from xenolect_backends.local_keys import EnvKeys, FileKeys

    yield offer("env", EnvKeys)
    yield offer("file", FileKeys)
