"""The bytes of one stored object: a header, then the payload, then nothing.

The header says in the clear what the object is and where it belongs, so that a lost table can be
rebuilt from the objects alone and a cipher can bind both to the payload::

    offset  size  field
         0     4  magic "XLC2"
         4     1  kind: 1 chunk, 2 manifest, 3 mirror, 4 rollback point, 5 journal segment, 6 checkpoint,
               7 roll-ups
         5     1  flags: 1 payload is one zstd frame, 2 ``crc`` is set
         6     2  length of the header, with the variant and the check
         8    16  cipher id, ASCII, zero-padded ("none": the payload is not sealed)
        24    16  store id
        40     8  write id, one per put
        48     8  sequence: the state version the writer was making
        56     8  position of the chunk in the state
        64     8  length of the content
        72     8  length after compression, before sealing
        80     8  written at, milliseconds since the epoch
        88     4  CRC-32 of a payload that no cipher authenticates, where it is compressed or a mirror
        92     1  length of the variant id
        93     n  variant id, ASCII; empty where the object is of the whole store
      93+n     8  check: the first bytes of SHA-256 of everything before

All numbers are big-endian. The check and the CRC notice accidents: three single-bit flips in a
222 byte zstd frame decoded to the same content, so the content's digest alone does not see them.
What protects against an adversary is the digest in the manifest and the cipher.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import zlib
from typing import TYPE_CHECKING, Any, cast

import attrs

from xenolect._kept import kept
from xenolect.errors import ConfigError, CorruptError, StorageError

if TYPE_CHECKING:
    from xenolect.interfaces import Buffer, BufferCipher, Cipher

__all__ = [
    "CHECKPOINT",
    "CHUNK",
    "HEADER_MAX",
    "MANIFEST",
    "METRICS",
    "MIRROR",
    "PLAIN",
    "POINT",
    "SEGMENT",
    "Header",
    "seal",
    "unseal",
    "unseal_into",
]

MAGIC = b"XLC2"
CHUNK, MANIFEST, MIRROR, POINT, SEGMENT, CHECKPOINT, METRICS = 1, 2, 3, 4, 5, 6, 7
ZSTD, CRC = 1, 2
PLAIN = "none"
"""The cipher id of objects that are not sealed; every store can read those."""
HEADER_MAX = 93 + 64 + 8
_FIXED = struct.Struct(">4sBBH16s16s8sQQQQQIB")
_CHECK = 8
_RATIO = 1.05
_WINDOW = 8 * 1024 * 1024
"""The most a frame may ask for as its window. Level 1 asks for 512 KiB; the format allows gigabytes."""

_local = threading.local()


def _is_ours(view: memoryview, end: int) -> bool:
    """Would it be this format but for its number? Then the number is damage, not a newer release's."""
    body = MAGIC + bytes(view[len(MAGIC) : max(len(MAGIC), end - _CHECK)])
    return hashlib.sha256(body).digest()[:_CHECK] == view[len(body) : len(body) + _CHECK]


@attrs.frozen
class Header:
    """What an object says of itself. Lengths in bytes, ``written_at`` in milliseconds."""

    kind: int
    store: bytes
    write: bytes
    variant_id: str
    sequence: int
    position: int
    plain: int
    written_at: int
    flags: int = 0
    cipher: str = PLAIN
    packed: int = 0
    crc: int = 0

    def encode(self) -> bytes:
        """The header's bytes."""
        name = self.variant_id.encode("ascii")
        body = (
            _FIXED.pack(
                MAGIC,
                self.kind,
                self.flags,
                _FIXED.size + len(name) + _CHECK,
                self.cipher.encode("ascii"),
                self.store,
                self.write,
                self.sequence,
                self.position,
                self.plain,
                self.packed,
                self.written_at,
                self.crc,
                len(name),
            )
            + name
        )
        return body + hashlib.sha256(body).digest()[:_CHECK]

    @classmethod
    def decode(cls, data: Buffer, key: str) -> tuple[Header, int]:
        """The header at the start of an object, and where its payload begins; CorruptError."""
        view = memoryview(data)
        if len(view) < _FIXED.size + _CHECK:
            raise CorruptError(f"{key} is cut short after {len(view)} bytes", key=key, offset=0)
        magic, kind, flags, end, cipher, store, write, *numbers, length = _FIXED.unpack_from(view)
        if magic != MAGIC:
            if magic[:3] == MAGIC[:3] and magic[3:].isdigit() and not _is_ours(view, end):
                raise StorageError(
                    f"{key} has format {magic[3:].decode()}, this release reads 2; upgrade xenolect"
                )
            raise CorruptError(f"{key} does not begin as a stored object", key=key, offset=0)
        if not _FIXED.size + length + _CHECK <= end <= len(view):
            raise CorruptError(f"{key}: its header is damaged", key=key, offset=6)
        body = view[: end - _CHECK]
        check = hashlib.sha256(body).digest()[:_CHECK]
        if check != view[end - _CHECK : end]:
            raise CorruptError(
                f"{key}: its header is damaged",
                key=key,
                offset=end - _CHECK,
                expected=check.hex(),
                found=bytes(view[end - _CHECK : end]).hex(),
            )
        sequence, position, plain, packed, written_at, crc = numbers
        variant_id = bytes(view[_FIXED.size : _FIXED.size + length]).decode("ascii", "replace")
        header = cls(
            kind,
            store,
            write,
            variant_id,
            sequence,
            position,
            plain,
            written_at,
            flags,
            cipher.rstrip(b"\0").decode("ascii", "replace"),
            packed,
            crc,
        )
        return header, end


def seal(header: Header, plain: Buffer, bound: bytes, cipher: Cipher, compress: bool) -> bytes:
    """One object: compressed where that saves 5 %, then sealed with the header and ``bound``."""
    return bytes(seal_kept(header, plain, bound, cipher, compress))


def seal_kept(
    header: Header, plain: Buffer, bound: bytes, cipher: Cipher, compress: bool
) -> memoryview:
    """``seal`` in memory that is only good until this thread seals the next object."""
    flags, payload, crc = 0, plain, 0
    if compress and len(plain):
        packed = _compressor().compress(plain)
        if len(packed) * _RATIO <= len(plain):
            flags, payload = ZSTD, packed
    # Chunks, manifests and points have digests elsewhere; nothing else says what a mirror holds.
    if cipher.id == PLAIN and (flags & ZSTD or header.kind > MANIFEST):
        flags, crc = flags | CRC, zlib.crc32(payload)
    head = attrs.evolve(
        header, flags=flags, cipher=cipher.id, packed=len(payload), crc=crc
    ).encode()
    direct = None if cipher.id == PLAIN else _direct(cipher)
    if direct is not None:
        data = kept("sealed", len(head) + direct.overhead + len(payload))
        data[: len(head)] = head
        direct.seal_into(payload, head + bound, data[len(head) :])
        return data
    if cipher.id != PLAIN:  # for "none" a call would only copy: 0.1 ms for 1 MiB
        payload = cipher.seal(payload, head + bound)
    data = kept("sealed", len(head) + len(payload))
    data[: len(head)] = head
    data[len(head) :] = payload
    return data


def unseal_into(
    data: Buffer, target: memoryview, bound: bytes, cipher: Cipher, key: str, kind: int
) -> Header:
    """Open an object into ``target``, whose length is what the content must have; CorruptError.

    Never takes more memory than the object and ``target``: what a frame claims of itself is not
    believed. The caller compares digests.
    """
    header, start = Header.decode(data, key)
    if header.kind != kind or header.plain != len(target):
        raise CorruptError(
            f"{key} is not the object that belongs here: {header.plain} bytes of kind {header.kind}, "
            f"expected {len(target)} of kind {kind}",
            key=key,
            offset=0,
        )
    room = None if header.flags & ZSTD else target
    payload = _opened(memoryview(data), start, header, bound, cipher, key, room)
    if payload is room:
        return header
    if len(payload) != header.packed:
        raise _wrong_length(key, start, len(payload), header)
    if header.flags & CRC and zlib.crc32(payload) != header.crc:
        raise CorruptError(
            f"{key}: its payload is damaged",
            key=key,
            offset=start,
            expected=f"{header.crc:08x}",
            found=f"{zlib.crc32(payload):08x}",
        )
    if not header.flags & ZSTD:
        if len(payload) != len(target):
            raise CorruptError(f"{key}: its lengths contradict each other", key=key, offset=start)
        target[:] = payload
    else:
        _decompress(payload, target, key, start)
    return header


def unseal(data: Buffer, limit: int, bound: bytes, cipher: Cipher, key: str, kind: int) -> bytes:
    """Open an object of a length not known before, at most ``limit`` bytes; CorruptError."""
    header, _ = Header.decode(data, key)
    if header.plain > limit:
        raise CorruptError(
            f"{key} claims {header.plain} bytes, at most {limit} can be", key=key, offset=0
        )
    plain = bytearray(header.plain)
    unseal_into(data, memoryview(plain), bound, cipher, key, kind)
    return bytes(plain)


def _opened(
    data: memoryview,
    start: int,
    header: Header,
    bound: bytes,
    cipher: Cipher,
    key: str,
    room: memoryview | None,
) -> Buffer:
    """What was sealed: in ``room``, where that is given and the cipher can, else in memory that is
    only good until this thread opens the next object."""
    if header.cipher == PLAIN:
        return data[start:]
    if header.cipher != cipher.id:
        raise ConfigError(
            f"cipher: {key} is sealed with {header.cipher!r}, and {cipher.id!r} is configured; set "
            f'[cipher] use = "{header.cipher}" and its keys'
        )
    sealed, everything = data[start:], bytes(data[:start]) + bound
    direct = _direct(cipher)
    try:
        if direct is None:
            return cipher.open(sealed, everything)
        length = len(sealed) - direct.overhead
        if length != header.packed:
            raise _wrong_length(key, start, length, header)
        if room is None or len(room) != length:
            room = kept("opened", length)
        direct.open_into(sealed, everything, room)
        return room
    except CorruptError as cause:
        where, offset = (cause.key, cause.offset) if cause.key else (key, start)
        raise CorruptError(f"{key} can not be opened: {cause}", key=where, offset=offset) from cause


def _wrong_length(key: str, start: int, found: int, header: Header) -> CorruptError:
    return CorruptError(
        f"{key} holds {found} bytes after its header, expected {header.packed}",
        key=key,
        offset=start,
    )


def _direct(cipher: Cipher) -> BufferCipher | None:
    """The cipher, where it works in its caller's memory."""
    return cast("BufferCipher", cipher) if hasattr(cipher, "seal_into") else None


def _decompress(payload: Buffer, target: memoryview, key: str, start: int) -> None:
    """One frame into exactly ``target``: through a stream, because ``max_output_size`` is ignored
    when the frame claims a size (6 KB became 200 MB)."""
    import zstandard

    try:
        with _decompressor().stream_reader(payload) as reader:
            done = 0
            while done < len(target):
                read = reader.readinto(target[done:])
                if not read:
                    break
                done += read
            more = len(reader.read(1)) if done == len(target) else 0
    except zstandard.ZstdError as cause:
        raise CorruptError(
            f"{key}: its payload can not be decompressed: {cause}", key=key, offset=start
        ) from cause
    if done != len(target) or more:
        raise CorruptError(
            f"{key} decompresses to {'more' if more else 'less'} than the {len(target)} bytes recorded",
            key=key,
            offset=start,
        )


def _compressor() -> Any:
    """This thread's compressor: zstandard's objects must not be shared."""
    found = getattr(_local, "compressor", None)
    if found is None:
        import zstandard

        # Level 1: on JSON twice as fast as 3 and smaller (ratio 3.54 against 3.43).
        found = _local.compressor = zstandard.ZstdCompressor(level=1)
    return found


def _decompressor() -> Any:
    """This thread's decompressor."""
    found = getattr(_local, "decompressor", None)
    if found is None:
        import zstandard

        found = _local.decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    return found
