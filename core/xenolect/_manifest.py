"""The immutable manifest of one state version: what changed since its parent, and how to check it.

A manifest holds the changed positions and names its parent by key and SHA-256; every 64th holds the
whole table (1,024 entries are 154 KB of JSON), so a reader follows 63 parents at most. The index holds
the SHA-256 of the manifest object, the manifest that of its parent and of every chunk: nothing can be
swapped unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import attrs

from xenolect.errors import CorruptError, StorageError
from xenolect.facts import canonical

__all__ = ["FORMAT", "FULL_EVERY", "Content", "Entry", "Link", "Manifest", "assemble", "root_of"]

FORMAT = 2
FULL_EVERY = 64


class Entry(NamedTuple):
    """Where a chunk is: object name under ``variants/<id>/state/``, bytes ``[offset, offset +
    length)`` of it, and the SHA-256 of its content."""

    object: str
    offset: int
    length: int
    digest: bytes


class Link(NamedTuple):
    """A manifest by its key and the SHA-256 of its object in hex."""

    key: str
    sha256: str


@attrs.frozen
class Manifest:
    """One version: ``changed`` maps positions to entries; all of them when ``parent`` is None.

    ``depth`` counts the manifests back to the last whole table. ``epoch`` is the collector's when the
    write began.
    """

    variant_id: str
    sequence: int
    kind: str
    size: int
    chunk_size: int
    root: str
    sha256: str | None
    created_at: datetime
    changed: Mapping[int, Entry]
    write: str
    epoch: int
    parent: Link | None = None
    depth: int = 0

    @property
    def count(self) -> int:
        """How many chunks the state has."""
        return -(-self.size // self.chunk_size)

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical(
            {
                "format": FORMAT,
                "variant": self.variant_id,
                "seq": self.sequence,
                "kind": self.kind,
                "size": self.size,
                "chunk_size": self.chunk_size,
                "root": self.root,
                "sha256": self.sha256,
                "created_at": self.created_at.isoformat(),
                "write": self.write,
                "epoch": self.epoch,
                "parent": self.parent and list(self.parent),
                "depth": self.depth,
                "chunks": rows(self.changed.items()),
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes, key: str) -> Manifest:
        """Read what ``encode`` wrote; CorruptError, or StorageError for a format of the future."""
        try:
            found = json.loads(data)
            if found["format"] != FORMAT:
                raise StorageError(
                    f"{key} has format {found['format']}, this release reads {FORMAT}; upgrade xenolect"
                )
            changed = {
                position: Entry(name, offset, length, bytes.fromhex(digest))
                for position, name, offset, length, digest in found["chunks"]
            }
            return cls(
                found["variant"],
                found["seq"],
                found["kind"],
                found["size"],
                found["chunk_size"],
                found["root"],
                found["sha256"],
                datetime.fromisoformat(found["created_at"]),
                changed,
                found["write"],
                found["epoch"],
                found["parent"] and Link(*found["parent"]),
                found["depth"],
            )
        except (ValueError, TypeError, LookupError) as cause:
            raise CorruptError(f"{key} is not a manifest: {cause!r}", key=key, offset=0) from cause


class Content(NamedTuple):
    """A version with its whole table."""

    manifest: Manifest
    link: Link
    table: Sequence[Entry]

    def plain(self, position: int) -> int:
        """The length of a chunk's content in bytes."""
        size = self.manifest.chunk_size
        return min(size, self.manifest.size - position * size)


def rows(entries: Iterable[tuple[int, Entry]]) -> list[list[Any]]:
    """Positions and entries as JSON."""
    return [[i, e.object, e.offset, e.length, e.digest.hex()] for i, e in entries]


def root_of(table: Sequence[Entry]) -> str:
    """The identity of a content: SHA-256 over its ordered chunk digests, in hex."""
    return hashlib.sha256(b"".join([entry.digest for entry in table])).hexdigest()


def assemble(chain: Sequence[Manifest], link: Link, base: Sequence[Entry] | None = None) -> Content:
    """The table of the first of ``chain``, which leads to a whole table or to ``base``; CorruptError."""
    newest = chain[0]
    table: list[Entry | None] = list(base or ())
    for manifest in reversed(chain):
        del table[manifest.count :]
        table.extend([None] * (manifest.count - len(table)))
        for position, entry in manifest.changed.items():
            if not 0 <= position < len(table):
                raise CorruptError(f"{link.key} names a chunk {position} of none", key=link.key)
            table[position] = entry
    whole = [entry for entry in table if entry is not None]
    found = root_of(whole)
    if len(whole) != len(table) or found != newest.root:
        raise CorruptError(
            f"{link.key} and its parents do not add up to the version they describe",
            key=link.key,
            expected=newest.root,
            found=found,
        )
    return Content(newest, link, tuple(whole))
