"""The last resort: states from the objects alone, with neither index nor journal.

A manifest that can be read with its parents gives a whole version. Where none is left, the headers of
chunks say of which variant, version and position they are: the newest chunk of each position makes a
state that may never have been one (a rollback or a shorter state leaves no trace in a chunk), and is
flagged as such. A sealed chunk can only be opened with the digest from its manifest.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import attrs

from xenolect import _envelope
from xenolect._manifest import Content, Entry, Link
from xenolect._parts import chunk_options
from xenolect._registry import Registry
from xenolect._reindex import Bare
from xenolect._state_objects import Objects
from xenolect._validate import check_id
from xenolect.errors import CorruptError, EmergenceError, InvalidError

if TYPE_CHECKING:
    from xenolect.config import Config
    from xenolect.interfaces import ChunkStore

__all__ = ["Found", "Scavenged", "scavenge"]

Progress = Callable[[int, int | None], object] | None
_MANIFEST = re.compile(r"variants/([a-z0-9._-]+)/state/([0-9]{8,})(?:-[0-9a-f]{16})?\.json")
_CHUNKS = re.compile(r"variants/([a-z0-9._-]+)/state/(?:chunk|pack)_[0-9a-f-]+\.bin")


@attrs.frozen
class Found:
    """A state that was put together. source: "manifest" (a version as it was) or "chunks" (perhaps never
    one). missing: positions that nothing was found for, zeros in the file."""

    variant_id: str
    version: int
    source: str
    kind: str
    size: int
    missing: tuple[int, ...]
    file: str | None
    doubts: tuple[str, ...] = ()


@attrs.frozen
class Scavenged:
    """What was found, and what could not be read."""

    store: str
    states: tuple[Found, ...]
    lost: tuple[str, ...]
    dry_run: bool


class _Piece(NamedTuple):
    """A chunk by what its header says."""

    sequence: int
    written_at: int
    entry: Entry
    length: int


def scavenge(
    config: Config,
    folder: Path,
    *,
    dry_run: bool = False,
    progress: Progress = None,
    plugins: tuple[object, ...] = (),
) -> Scavenged:
    """Put the newest state of each variant into ``folder`` as ``<variant-id>.bin`` or ``.json``."""
    registry = Registry.collect(config.plugins, plugins)
    if folder.exists() and any(folder.iterdir()):
        raise InvalidError(f"{folder} is not empty; name another directory")
    chunks: ChunkStore = registry.make("chunks", config.chunks.use, chunk_options(config), "chunks")
    try:
        cipher = registry.make("cipher", config.cipher.use, config.cipher.options, "cipher")
        objects = Objects(Bare(config, chunks, cipher))  # type: ignore[arg-type]
        return _Scavenger(objects, chunks, folder, dry_run).run(progress)
    finally:
        chunks.close()


class _Scavenger:
    def __init__(self, objects: Objects, chunks: ChunkStore, folder: Path, dry_run: bool) -> None:
        self._objects = objects
        self._chunks = chunks
        self._folder = folder
        self._dry_run = dry_run

    def run(self, progress: Progress) -> Scavenged:
        manifests: dict[str, list[tuple[int, str]]] = defaultdict(list)
        pieces: dict[str, list[str]] = defaultdict(list)
        for key in self._chunks.list("variants/"):
            if match := _MANIFEST.fullmatch(key):
                manifests[match[1]].append((int(match[2]), key))
            elif match := _CHUNKS.fullmatch(key):
                pieces[match[1]].append(key)
        store = self._identity()
        self._objects.store.assume(
            bytes.fromhex(store)
        )  # store.json may be gone, and is not written here
        states, lost = [], []
        names = sorted({*manifests, *pieces})
        for done, variant_id in enumerate(names):
            if progress is not None:
                progress(done, len(names))
            check_id(variant_id)
            doubts: list[str] = []
            found = self._by_manifest(variant_id, sorted(manifests[variant_id])[::-1], doubts)
            found = found or self._by_headers(variant_id, pieces[variant_id], doubts)
            if found is None:
                lost.append(f"{variant_id}: {doubts[0] if doubts else 'nothing can be read'}")
            else:
                states.append(found)
        return Scavenged(store, tuple(states), tuple(lost), self._dry_run)

    def _identity(self) -> str:
        """The id that objects carry, whether ``store.json`` is there or not."""
        for key in self._chunks.list(""):
            try:
                start = self._chunks.get_range(key, 0, _envelope.HEADER_MAX)
                return _envelope.Header.decode(start, key)[0].store.hex()
            except EmergenceError:
                continue
        return ""

    def _by_manifest(
        self, variant_id: str, keys: list[tuple[int, str]], doubts: list[str]
    ) -> Found | None:
        for version, key in keys:
            try:
                link = Link(key, hashlib.sha256(self._chunks.get(key)).hexdigest())
                content = self._objects.content(variant_id, link, fresh=True)
                file = self._write(variant_id, content.manifest.kind, self._read(content))
            except EmergenceError as error:
                doubts.append(str(error))
                continue
            manifest = content.manifest
            return Found(
                variant_id, version, "manifest", manifest.kind, manifest.size, (), file, tuple(doubts)
            )  # fmt: skip
        return None

    def _read(self, content: Content) -> Iterator[bytes]:
        owner = content.manifest.variant_id
        for position, entry in enumerate(content.table):
            plain = bytearray(content.plain(position))
            self._objects.get_chunk(owner, position, entry, memoryview(plain))
            yield bytes(plain)

    def _by_headers(self, variant_id: str, keys: list[str], doubts: list[str]) -> Found | None:
        newest: dict[int, tuple[_Piece, bytes]] = {}
        for key in keys:
            try:
                for position, piece, plain in self._opened(variant_id, key):
                    held = newest.get(position)
                    if held is None or held[0][:2] < piece[:2]:
                        newest[position] = (piece, plain)
            except EmergenceError as error:
                doubts.append(str(error))
        if not newest:
            return None
        last = max(newest)
        size = max(len(plain) for _, plain in newest.values())
        missing = tuple(position for position in range(last) if position not in newest)
        doubts.append(
            "put together from chunks of several versions: it may never have been a state"
        )
        version = max(piece.sequence for piece, _ in newest.values())
        parts = [newest[i][1] if i in newest else bytes(size) for i in range(last + 1)]
        file = self._write(variant_id, "bytes", iter(parts))
        total = sum(map(len, parts))
        return Found(variant_id, version, "chunks", "bytes", total, missing, file, tuple(doubts))

    def _opened(self, variant_id: str, key: str) -> Iterator[tuple[int, _Piece, bytes]]:
        """The chunks of an object, a pack's one behind the other."""
        data = memoryview(self._chunks.get(key))
        name = key.rpartition("/")[2]
        offset = 0
        while offset < len(data):
            header, start = _envelope.Header.decode(data[offset:], key)
            if header.cipher != _envelope.PLAIN:
                raise CorruptError(
                    f"{key} is sealed, and only its manifest has the digest to open it with",
                    key=key,
                )
            length = start + header.packed
            part = data[offset : offset + length]
            plain = _envelope.unseal(
                part, 64 << 20, b"", self._objects.keys.opener(), key, _envelope.CHUNK
            )
            digest = hashlib.sha256(plain).digest()
            prefix = digest.hex()[:16]
            if name.startswith("chunk_") and name[6:22] != prefix:
                raise CorruptError(f"{key} is not what its name says", key=key)
            if header.variant_id != variant_id:
                raise CorruptError(f"{key} is of {header.variant_id!r}", key=key)
            entry = Entry(name, offset, length, digest)
            piece = _Piece(header.sequence, header.written_at, entry, len(plain))
            yield header.position, piece, plain
            offset += length

    def _write(self, variant_id: str, kind: str, parts: Iterator[bytes]) -> str | None:
        """Read everything, and keep it unless nothing is to be changed."""
        if self._dry_run:
            for _ in parts:
                pass
            return None
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{variant_id}.{'json' if kind == 'json' else 'bin'}"
        try:
            with path.open("wb") as file:
                for part in parts:
                    file.write(part)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return str(path)
