"""Chunks and manifests in the object store: sealed on the way in, checked on the way out."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

from xenolect import _envelope
from xenolect._envelope import CHUNK, MANIFEST, MIRROR, PLAIN, POINT, Header
from xenolect._kept import kept
from xenolect._keyring import Keyring
from xenolect._manifest import FORMAT, Content, Entry, Link, Manifest, assemble, rows
from xenolect._packs import PACK, Pack
from xenolect._store_identity import Identity
from xenolect.errors import CorruptError, DuplicateError, NotFoundError
from xenolect.facts import canonical

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xenolect._states import Door
    from xenolect.interfaces import Buffer, ChunkStore

__all__ = ["Objects"]

_CACHED = 65_536
"""Table entries kept in memory, about 20 MB."""
_MANIFEST_MAX = 256 * 1024 * 1024
_CHAIN_MAX = 1024
"""Manifests followed before a chain counts as damaged; a healthy one has 64."""


class _Elsewhere:
    """A manager's middle whose objects lie somewhere else."""

    def __init__(self, door: Door, chunks: ChunkStore) -> None:
        self._door = door
        self.chunks = chunks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._door, name)


class Objects:
    """What the state store keeps under ``variants/<id>/state/``. Safe for threads."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._lock = threading.Lock()
        self._tables: OrderedDict[str, Content] = OrderedDict()
        self._entries = 0
        self.store = Identity(door)
        self.identity = self.store.id
        self.keys = Keyring(door, self.identity)

    @property
    def chunks(self) -> ChunkStore:
        """Where they are."""
        return self._door.chunks

    def elsewhere(self, chunks: ChunkStore) -> Objects:
        """A reader of the same objects in another store: a copy of this one, with the same keys."""
        other = Objects(cast("Door", _Elsewhere(self._door, chunks)))
        other.store.assume(self.identity())
        other.keys = self.keys
        return other

    def after_fork(self) -> None:
        """Locks belong to the parent's threads."""
        self._lock = threading.Lock()

    # -- chunks -----------------------------------------------------------------------------------

    def put_chunk(
        self,
        variant_id: str,
        sequence: int,
        position: int,
        plain: Buffer,
        digest: bytes,
        write: str,
        pack: Pack | None = None,
    ) -> Entry:
        """Store one chunk under a name that was never used, or add it to a pack."""
        object_id = self.keys.object_id(digest, make=True)
        if pack is None:
            # A cipher without ids of its own must not tell the digests of contents by names of objects.
            known = object_id.hex()[:16] if any(object_id) else self._door.token(8)
            name = f"chunk_{known}-{self._door.token(8)}.bin"
        else:
            name = pack.name
        header = self._header(CHUNK, variant_id, sequence, position, len(plain), write)
        cipher = self.keys.sealer(variant_id)
        data = _envelope.seal_kept(
            header,
            plain,
            self._bound(name, digest, object_id),
            cipher,
            self._door.config.state.compression,
        )
        if pack is not None:
            return Entry(name, pack.add(data), len(data), digest)
        self._publish(_key(variant_id, name), data)
        return Entry(name, 0, len(data), digest)

    def put_pack(self, variant_id: str, pack: Pack) -> None:
        """Store a pack."""
        self._publish(_key(variant_id, pack.name), pack.data)

    def pack_name(self) -> str:
        """A name that was never used."""
        return f"{PACK}{self._door.token(8)}.bin"

    def get_chunk(
        self, variant_id: str, position: int, entry: Entry, target: memoryview, *, tag: bool = False
    ) -> bool:
        """Fill ``target`` with one chunk, checked; CorruptError, and zeros in ``target`` then.

        With ``tag`` the cipher's tag vouches for the digest that is bound to it and nothing is hashed;
        a chunk that no cipher sealed is hashed all the same. True where it was hashed.
        """
        key = _key(variant_id, entry.object)
        try:
            data = self._fetch(key, entry)
            header = _envelope.unseal_into(
                data,
                target,
                self._bound(entry.object, entry.digest),
                self.keys.opener(),
                key,
                CHUNK,
            )
            if header.variant_id != variant_id or header.position != position:
                raise CorruptError(
                    f"{key} is chunk {header.position} of {header.variant_id!r}, expected chunk "
                    f"{position} of {variant_id!r}: objects were swapped",
                    key=key,
                    offset=entry.offset,
                )
            if tag and header.cipher != PLAIN:
                return False
            found = hashlib.sha256(target).digest()
            if found != entry.digest:
                raise CorruptError(
                    f"{key} (chunk {position} of {variant_id!r}) is not what was written; "
                    f"put the state again, or restore a rollback point (`xenolect points list`)",
                    key=key,
                    offset=entry.offset,
                    expected=entry.digest.hex(),
                    found=found.hex(),
                )
        except CorruptError:
            target[:] = bytes(len(target))
            raise
        return True

    def _fetch(self, key: str, entry: Entry) -> Buffer:
        """An object, or its part of a pack; only good until this thread fetches the next one."""
        chunks, alone = self._door.chunks, not entry.object.startswith(PACK)
        data: Buffer
        try:
            if hasattr(chunks, "get_into"):
                room = kept("fetched", entry.length + alone)  # one byte more shows a longer object
                data = room[: chunks.get_into(key, entry.offset, room)]
            elif alone:
                data = chunks.get(key)
            else:
                data = chunks.get_range(key, entry.offset, entry.offset + entry.length)
        except NotFoundError as cause:
            raise CorruptError(
                f"{key} is missing; put the state again, or restore a rollback point (`xenolect points list`)",
                key=key,
                offset=entry.offset,
                expected=entry.digest.hex(),
            ) from cause
        if len(data) != entry.length:
            raise CorruptError(
                f"{key} has {len(data)} bytes, {entry.length} were written",
                key=key,
                offset=entry.offset,
                expected=str(entry.length),
                found=str(len(data)),
            )
        return data

    # -- manifests --------------------------------------------------------------------------------

    def put_manifest(self, manifest: Manifest) -> Link:
        """Store a manifest as ``<seq>.json``; where a writer that died or lost left that name, beside it."""
        plain = manifest.encode()
        stem = f"{manifest.sequence:08d}"
        names = [f"{stem}.json", f"{stem}-{self._door.token(8)}.json"]
        for name in names:
            key = _key(manifest.variant_id, name)
            header = self._header(
                MANIFEST, manifest.variant_id, manifest.sequence, 0, len(plain), manifest.write
            )
            data = self._seal(header, plain, self._named(key))
            try:
                self._publish(key, data)
            except DuplicateError:
                if name == names[-1]:
                    raise
                continue
            break
        return Link(key, hashlib.sha256(data).hexdigest())

    def manifest(self, variant_id: str, link: Link) -> Manifest:
        """Read a manifest that is what its link says; CorruptError."""
        try:
            data = self._door.chunks.get(link.key)
        except NotFoundError as cause:
            raise CorruptError(
                f"{link.key} is missing; restore an older version or a backup",
                key=link.key,
                expected=link.sha256,
            ) from cause
        found = hashlib.sha256(data).hexdigest()
        if found != link.sha256:
            raise CorruptError(
                f"{link.key} is not what was written; restore an older version or a backup",
                key=link.key,
                offset=0,
                expected=link.sha256,
                found=found,
            )
        plain = _envelope.unseal(
            data, _MANIFEST_MAX, self._named(link.key), self.keys.opener(), link.key, MANIFEST
        )
        manifest = Manifest.decode(plain, link.key)
        if manifest.variant_id != variant_id:
            raise CorruptError(
                f"{link.key} is of {manifest.variant_id!r}, expected {variant_id!r}", key=link.key
            )
        return manifest

    def content(self, variant_id: str, link: Link, *, fresh: bool = False) -> Content:
        """A version's whole table; ``fresh`` reads every manifest again. CorruptError."""
        chain: list[Manifest] = []
        at: Link | None = link
        base: Sequence[Entry] | None = None
        while at is not None:
            cached = None if fresh else self._cached(at)
            if cached is not None:
                if not chain:
                    return cached
                base = cached.table
                break
            if len(chain) > _CHAIN_MAX:
                raise CorruptError(f"{link.key} has no end of parents", key=link.key)
            chain.append(self.manifest(variant_id, at))
            at = chain[-1].parent
        content = assemble(chain, link, base)
        self.remember(content)
        return content

    def _cached(self, link: Link) -> Content | None:
        with self._lock:
            found = self._tables.get(link.key)
            if found is None or found.link != link:
                return None
            self._tables.move_to_end(link.key)
            return found

    def remember(self, content: Content) -> None:
        """Keep a table, and let go of the ones not used for longest."""
        with self._lock:
            old = self._tables.pop(content.link.key, None)
            self._entries += len(content.table) - (len(old.table) if old else 0)
            self._tables[content.link.key] = content
            while self._entries > _CACHED and len(self._tables) > 1:
                _, gone = self._tables.popitem(last=False)
                self._entries -= len(gone.table)

    def forget(self, link: Link) -> None:
        """Let go of a table whose manifests turned out to be damaged."""
        with self._lock:
            gone = self._tables.pop(link.key, None)
            self._entries -= len(gone.table) if gone else 0

    # -- other objects ----------------------------------------------------------------------------

    def seal(
        self,
        kind: int,
        key: str,
        plain: Buffer,
        variant_id: str = "",
        sequence: int = 0,
        position: int = 0,
    ) -> Buffer:
        """The bytes of any object that its key identifies: sealed for its variant, or for the store."""
        # Mirrors follow real time: their ids would disturb a stream of draws that is to repeat.
        write = self._door.token(8) if kind == POINT else secrets.token_hex(8)
        header = self._header(kind, variant_id, sequence, position, len(plain), write)
        return self._seal(header, plain, self._named(key))

    def unseal(
        self,
        kind: int,
        key: str,
        data: Buffer,
        variant_id: str = "",
        *,
        limit: int = _MANIFEST_MAX,
        vouched: bool = False,
    ) -> bytes:
        """The content of such an object, at most ``limit`` bytes; CorruptError.

        In a sealed store one that is not sealed is refused, as anybody could have written it, unless
        the caller holds it against a digest (``vouched``).
        """
        header, _ = Header.decode(data, key)
        if header.variant_id != variant_id or header.store != self.identity():
            raise CorruptError(
                f"{key} is of {header.variant_id!r} in store {header.store.hex()}, expected "
                f"{variant_id!r} in {self.identity().hex()}: objects were swapped",
                key=key,
                offset=0,
            )
        if header.cipher == PLAIN and self._door.cipher.id != PLAIN and not vouched:
            raise CorruptError(
                f"{key} is not sealed, and a cipher is configured: it is of the time before, or forged; "
                f"`xenolect keys rekey` seals what is not",
                key=key,
                offset=8,
            )
        return _envelope.unseal(data, limit, self._named(key), self.keys.opener(), key, kind)

    def mirror(self, variant_id: str, key: str, limit: int) -> Any:
        """Read a mirror; NotFoundError, CorruptError. The caller holds what it says against the index."""
        data = self._door.chunks.get(key)
        plain = self.unseal(MIRROR, key, data, variant_id, limit=limit, vouched=True)
        document = json.loads(plain)
        if document["format"] != FORMAT or document["variant"] != variant_id:
            raise CorruptError(f"{key} is no mirror of {variant_id!r}", key=key, offset=0)
        return document

    def put_mirror(self, variant_id: str, head: dict[str, Any], content: Content | None) -> None:
        """Write ``index.json`` with the newest version and its whole table, unless a newer one is there."""
        key = _key(variant_id, "index.json")
        version = head["version"]
        try:
            start = self._door.chunks.get_range(key, 0, _envelope.HEADER_MAX)
            written = Header.decode(start, key)[0].sequence
        except (NotFoundError, CorruptError):
            written = 0
        if written >= version:
            return
        document = {
            "format": FORMAT,
            "variant": variant_id,
            "version": version,
            "ref": head["ref"],
            "manifest": content and list(content.link),
            "chunk_size": content and content.manifest.chunk_size,
            "chunks": rows(enumerate(content.table)) if content else [],
        }
        data = self.seal(MIRROR, key, canonical(document).encode(), variant_id, version)
        self._door.chunks.put(key, data, if_absent=False)

    def get_record(
        self, kind: int, key: str, variant_id: str = "", chunks: ChunkStore | None = None
    ) -> tuple[Header, bytes]:
        """Read an object that its key identifies, with its header; NotFoundError, CorruptError."""
        data = (chunks or self._door.chunks).get(key)
        plain = self.unseal(kind, key, data, variant_id)
        return Header.decode(data, key)[0], plain

    # -- shared -----------------------------------------------------------------------------------

    def _header(
        self, kind: int, variant_id: str, sequence: int, position: int, plain: int, write: str
    ) -> Header:
        written_at = max(0, int(self._door.clock() * 1000))
        return Header(
            kind,
            self.identity(),
            bytes.fromhex(write),
            variant_id,
            sequence,
            position,
            plain,
            written_at,
        )

    def _seal(self, header: Header, plain: Buffer, bound: bytes) -> Buffer:
        cipher = self.keys.sealer(header.variant_id)
        return _envelope.seal(header, plain, bound, cipher, self._door.config.state.compression)

    def _bound(self, name: str, digest: bytes, object_id: bytes | None = None) -> bytes:
        """What an object is bound to besides its header: its name, its id, and a digest."""
        return b"".join((name.encode(), b"\0", object_id or self.keys.object_id(digest), digest))

    def _named(self, key: str) -> bytes:
        """The same for an object that its key identifies: nobody knows its content's digest before, and
        no key of ours is needed to find it, as when all but the objects is lost."""
        digest = hashlib.sha256(key.encode()).digest()
        return self._bound(key, digest, digest)

    def _publish(self, key: str, data: Buffer) -> None:
        """Create an object. A name that exists with these very bytes is our own lost answer."""
        try:
            self._door.chunks.put(key, data)
        except DuplicateError:
            if self._door.chunks.get(key) != data:
                raise


def _key(variant_id: str, name: str) -> str:
    return f"variants/{variant_id}/state/{name}"
