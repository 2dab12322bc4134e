"""The layout of version 1, as the specification draws it: read and written.

::

    <variant-id>/metadata.json            id, description, changes, metadata, status, createdAt, updatedAt, version
    <variant-id>/state/chunk_<n>.bin      zlib, in order
    <variant-id>/state/index.json         size, chunkSize, chunks: offset, size, checksum (SHA-256 of the content)
    <variant-id>/metrics/{hourly,daily,monthly}/<start>.json

Nothing in a tree is believed: no link is followed, no name leads out of it, a chunk is never larger than
its index says, and its checksum must hold.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from xenolect._frozen import thaw
from xenolect._validate import check_id
from xenolect.errors import CorruptError, EmergenceError, InvalidError

if TYPE_CHECKING:
    from xenolect.manager import EmergenceManager

__all__ = ["TreeRead", "TreeWritten", "read_tree", "write_tree"]

Progress = Callable[[int, int | None], object] | None
LARGEST_CHUNK = 64 * 1024 * 1024
LARGEST_TEXT = 64 * 1024 * 1024
_RESOLUTIONS = ("hourly", "daily", "monthly")


@attrs.frozen
class TreeWritten:
    """What was exported: variants, those of them with a state, and the bytes of those."""

    variants: tuple[str, ...]
    states: tuple[str, ...]
    bytes: int
    dry_run: bool


@attrs.frozen
class TreeRead:
    """What was imported: variants that are new, states, and why others were left out."""

    imported: tuple[str, ...]
    states: tuple[str, ...]
    same: tuple[str, ...]
    refused: Mapping[str, str]
    dry_run: bool


# -- writing ------------------------------------------------------------------------------------------


def write_tree(
    manager: EmergenceManager,
    folder: Path,
    ids: Sequence[str] = (),
    *,
    dry_run: bool = False,
    progress: Progress = None,
) -> TreeWritten:
    """Write variants (default: all) with their newest states below ``folder``, which must not hold them."""
    variants = [manager.variants.get(each) for each in ids] or manager.variants.list()
    taken = [variant.id for variant in variants if (folder / variant.id).exists()]
    if taken:
        raise InvalidError(f"{folder / taken[0]} exists already; name another directory")
    states: list[str] = []
    total = 0
    for done, variant in enumerate(variants):
        if progress is not None:
            progress(done, len(variants))
        place = folder / variant.id
        try:
            size = manager.states.versions(variant)[-1].size
        except IndexError:
            size = None
        if not dry_run:
            document = {
                "id": variant.id,
                "description": variant.description,
                "changes": thaw(variant.changes),
                "metadata": thaw(variant.metadata),
                "requirements": thaw(variant.requirements),
                "protocol": variant.protocol,
                "status": str(variant.status),
                "createdAt": variant.created_at and variant.created_at.isoformat(),
                "updatedAt": variant.updated_at and variant.updated_at.isoformat(),
                "version": variant.version,
            }
            place.mkdir(parents=True)
            _write(place / "metadata.json", document)
            if size is not None:
                _write_state(manager, variant.id, place / "state")
            _write_metrics(manager, variant.id, place / "metrics")
        if size is not None:
            states.append(variant.id)
            total += size
    return TreeWritten(tuple(v.id for v in variants), tuple(states), total, dry_run)


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _write_state(manager: EmergenceManager, variant_id: str, place: Path) -> None:
    place.mkdir()
    size = manager._runtime.config.state.chunk_size
    chunks: list[dict[str, Any]] = []
    offset = 0
    with manager.states.open(variant_id) as reader:
        kind = reader.raw.ref.kind  # type: ignore[attr-defined]
        while chunk := reader.read(size):
            name = f"chunk_{len(chunks)}.bin"
            (place / name).write_bytes(zlib.compress(chunk))
            checksum = hashlib.sha256(chunk).hexdigest()
            chunks.append({"offset": offset, "size": len(chunk), "checksum": checksum})
            offset += len(chunk)
    document = {
        "version": 1,
        "kind": "json" if kind == "json" else "bytes",
        "compression": "zlib",
        "chunkSize": size,
        "size": offset,
        "chunks": chunks,
    }
    _write(place / "index.json", document)


def _write_metrics(manager: EmergenceManager, variant_id: str, place: Path) -> None:
    for resolution in _RESOLUTIONS:
        (place / resolution).mkdir(parents=True)
        index = manager._runtime.index
        for each in index.rollups(variant_id, resolution, 0.0, manager._runtime.clock()):
            rate = 1.0 - each.failures / each.count if each.count else None
            document = {"start": each.start, "count": each.count, "successRate": rate}
            _write(place / resolution / f"{int(each.start)}.json", document)


# -- reading ------------------------------------------------------------------------------------------


def read_tree(
    manager: EmergenceManager, folder: Path, *, dry_run: bool = False, progress: Progress = None
) -> TreeRead:
    """Take in every variant of a tree as proposed, with its state. What can not be read is left out whole,
    with the reason; what is there already with the same content stays as it is."""
    imported: list[str] = []
    states: list[str] = []
    same: list[str] = []
    refused: dict[str, str] = {}
    places = sorted(each for each in folder.iterdir() if each.is_dir() or each.is_symlink())
    for done, place in enumerate(places):
        if progress is not None:
            progress(done, len(places))
        try:
            new, stored = _read_variant(manager, place, dry_run)
        except EmergenceError as error:
            refused[place.name] = str(error)
            continue
        except (OSError, ValueError, TypeError, LookupError) as error:
            refused[place.name] = f"{type(error).__name__}: {error}"
            continue
        (imported if new else same).append(place.name)
        if stored:
            states.append(place.name)
    return TreeRead(tuple(imported), tuple(states), tuple(same), refused, dry_run)


def _read_variant(manager: EmergenceManager, place: Path, dry_run: bool) -> tuple[bool, bool]:
    """Was the variant new, and did it have a state?"""
    variant_id = check_id(place.name)
    document = json.loads(_bytes(place / "metadata.json", LARGEST_TEXT))
    if document["id"] != variant_id:
        raise InvalidError(f"{place / 'metadata.json'} is of {document['id']!r}")
    found = manager._runtime.variants.get(variant_id)
    if found is not None:
        if thaw(found.changes) == document["changes"]:
            return False, False
        raise InvalidError(f"there is a variant {variant_id!r} with other changes")
    tree = _State.of(place / "state")
    if tree is not None:
        tree.check()
    if dry_run:
        return True, tree is not None
    was = {"status": document.get("status"), "version": document.get("version")}
    manager.variants.propose(
        document.get("description") or variant_id,
        document["changes"],
        id=variant_id,
        protocol=document.get("protocol", "default"),
        requirements=document.get("requirements") or {},
        metadata={**(document.get("metadata") or {}), "imported_from_v1": was},
    )
    if tree is not None:
        manager.states.put(variant_id, tree.value())
    return True, tree is not None


def _bytes(path: Path, limit: int) -> bytes:
    """A file of the tree; CorruptError for a link or one that is too large."""
    for each in (path, path.parent, path.parent.parent):
        if stat.S_ISLNK(os.lstat(each).st_mode):
            raise CorruptError(f"{each} is a symbolic link, and none is followed", key=str(each))
    if path.stat().st_size > limit:
        raise CorruptError(f"{path} has more than {limit} bytes", key=str(path))
    return path.read_bytes()


@attrs.frozen
class _State:
    """A state of the tree: its folder, its index."""

    place: Path
    index: Mapping[str, Any]

    @classmethod
    def of(cls, place: Path) -> _State | None:
        """The one in a folder; None where there is none."""
        if not place.is_symlink() and not (place / "index.json").exists():
            return None
        index = json.loads(_bytes(place / "index.json", LARGEST_TEXT))
        return cls(place, {"chunks": index} if isinstance(index, list) else index)

    def chunks(self) -> Iterator[bytes]:
        """Each chunk's content, decompressed within what the index says, its checksum checked."""
        packed = self.index.get("compression", "zlib") == "zlib"
        offset = 0
        for number, row in enumerate(self.index["chunks"]):
            path = self.place / f"chunk_{number}.bin"
            size = int(row["size"])
            if not 0 <= size <= LARGEST_CHUNK or int(row.get("offset", offset)) != offset:
                raise CorruptError(f"{path}: its size or offset can not be", key=str(path))
            data = _bytes(path, LARGEST_CHUNK + 1024 * 1024)
            if packed:
                data = _inflated(data, size, path)
            found = hashlib.sha256(data).hexdigest()
            if len(data) != size or found != row["checksum"]:
                raise CorruptError(
                    f"{path} is not what its index says",
                    key=str(path),
                    expected=row["checksum"],
                    found=found,
                )
            offset += size
            yield data

    def check(self) -> None:
        """Read all of it; CorruptError."""
        for _ in self.chunks():
            pass

    def value(self) -> Any:
        """What to put: the parsed value, or a reader of the bytes."""
        if self.index.get("kind", "json") == "json":
            return json.loads(b"".join(self.chunks()))
        return io.BufferedReader(_Joined(self.chunks()))


def _inflated(data: bytes, size: int, path: Path) -> bytes:
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(data, size + 1)  # one more tells that there is more
    except zlib.error as cause:
        raise CorruptError(f"{path} is no zlib stream: {cause}", key=str(path)) from cause
    if len(plain) > size or not inflate.eof:
        raise CorruptError(
            f"{path} holds another size than the {size} bytes of its index", key=str(path)
        )
    return plain


class _Joined(io.RawIOBase):
    """Chunks as one stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
