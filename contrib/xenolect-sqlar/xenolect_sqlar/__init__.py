"""Offers the chunk store "sqlar". ``sqlite3`` is imported when a store is opened, not before."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from xenolect import hookimpl, offer
from xenolect.hookspecs import Offer
from xenolect.interfaces import ChunkStore
from xenolect.units import Seconds

__all__ = ["SqlarOptions", "xenolect_chunk_storage"]


@attrs.frozen
class SqlarOptions:
    """``use = "sqlar"``. path: the file, made when missing; busy_timeout: how long a writer waits."""

    path: str
    busy_timeout: Seconds = Seconds(30.0)


def _sqlar(options: SqlarOptions) -> ChunkStore:
    from xenolect_sqlar.store import SqlarChunks

    return SqlarChunks(options.path, options.busy_timeout)


@hookimpl
def xenolect_chunk_storage() -> Iterable[Offer[ChunkStore]]:
    """Offer the store."""
    yield offer("sqlar", _sqlar)
