"""Which store this is: 16 bytes in ``store.json``, in the index, and in the header of every object."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from xenolect._envelope import HEADER_MAX, Header
from xenolect._manifest import FORMAT
from xenolect.errors import CorruptError, DuplicateError, NotFoundError, StorageError
from xenolect.facts import Put, canonical

if TYPE_CHECKING:
    from xenolect._states import Door

__all__ = ["STORE", "Identity"]

STORE = "store.json"


class Identity:
    """The id of one store, read or written once."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._id: bytes | None = None

    def id(self) -> bytes:
        """The store's id, 16 bytes; written to ``store.json`` once. StorageError on a mix-up."""
        if self._id is not None:
            return self._id
        known = self._door.fact("setting", "store")
        try:
            data = self._door.chunks.get(STORE)
        except NotFoundError:
            told = known.value["id"] if known is not None and known.value else self.inherited()
            document = {
                "format": FORMAT,
                "id": told or self._door.token(16),
                "chunk_size": self._door.config.state.chunk_size,
            }
            data = canonical(document).encode()
            try:
                self._door.chunks.put(STORE, data)
            except DuplicateError:
                data = self._door.chunks.get(STORE)
        try:
            found = json.loads(data)
            store, number = bytes.fromhex(found["id"]), found["format"]
        except (ValueError, TypeError, LookupError) as cause:
            raise CorruptError(
                f"{STORE} is damaged ({cause!r}); put a copy back, or remove it and it is written anew",
                key=STORE,
                offset=0,
            ) from cause
        if number != FORMAT:
            raise StorageError(
                f"{STORE} says format {number}, this release reads {FORMAT}; upgrade xenolect"
            )
        if known is not None and known.value and known.value["id"] != store.hex():
            raise StorageError(
                f"{STORE} is of store {store.hex()}, the index is of store {known.value['id']}; "
                f"correct chunks.url or [index] so that both belong together"
            )
        self._id = store
        return store

    def inherited(self) -> str | None:
        """The id that the journal's mirror carries: ``store.json`` was lost, and the index perhaps."""
        for key in self._door.chunks.list("journal/"):
            try:
                start = self._door.chunks.get_range(key, 0, HEADER_MAX)
                return Header.decode(start, key)[0].store.hex()
            except (CorruptError, NotFoundError):
                continue
        return None

    def assume(self, store: bytes) -> None:
        """Take the store's id from elsewhere; nothing is written."""
        self._id = store

    def introduce(self) -> list[Put]:
        """The change that makes the index know the store's id; none if it does."""
        if self._door.fact("setting", "store") is not None:
            return []
        return [Put("setting", "store", {"id": self.id().hex(), "format": FORMAT}, 0)]
