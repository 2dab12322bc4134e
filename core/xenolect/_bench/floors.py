"""The bare steps that a state store can not do without, on two threads, with buffers that are kept."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xenolect._bench.rows import MIB

__all__ = [
    "compressed",
    "decompress",
    "decrypt",
    "durable_create",
    "hashed",
    "incompressible",
    "save",
    "sealed",
    "text",
    "two_threads",
]

KEY, NONCE = bytes(range(32)), bytes(12)
View = memoryview


def text(size: int) -> bytearray:
    """JSON text as protocols write it, no two MiB alike; zstd 1 makes it 3 to 4 times smaller."""
    import random

    draw = random.Random(4)
    lines = []
    for i in range(40_000):
        value = {"id": i, "agent": f"agent-{draw.randrange(5000)}", "codec": "msgpack+zstd"}
        row = ",".join(f'"{k}":"{v}"' for k, v in value.items())
        lines.append(f'{{{row},"latency_ms":{draw.random() * 100:.6f},"p":{draw.random():.9f}}}')
    block = (",\n".join(lines) + ",\n").encode()
    made = bytearray(block * (size // len(block) + 1))[:size]
    for start in range(0, size - 16, MIB):
        made[start : start + 16] = b'{"n":%09d},' % (start // MIB)
    return made


def incompressible(size: int) -> bytearray:
    """Random bytes."""
    made = bytearray(size)
    for start in range(0, size, MIB):
        made[start : start + MIB] = os.urandom(min(MIB, size - start))
    return made


def parts(data: Any) -> list[View]:
    """Views of 1 MiB each."""
    view = memoryview(data)
    return [view[start : start + MIB] for start in range(0, len(view), MIB)]


def two_threads(job: Callable[[int], Callable[[int], object]], count: int) -> None:
    """Run ``job(thread)(i)`` for all i below ``count``."""
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for i in range(count):
        todo.put(i)

    def work(number: int) -> None:
        step = job(number)
        while True:
            try:
                i = todo.get_nowait()
            except queue.Empty:
                return
            step(i)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def hashed(data: Any) -> None:
    """SHA-256 of every MiB."""
    chunks = parts(data)
    two_threads(lambda _: lambda i: hashlib.sha256(chunks[i]).digest(), len(chunks))


def compressed(data: Any) -> list[bytes]:
    """Each MiB as a zstd frame."""
    import zstandard

    packer = zstandard.ZstdCompressor(level=1)
    return [packer.compress(part) for part in parts(data)]


def decompress(frames: Sequence[bytes]) -> None:
    """Every frame, by one decompressor a thread."""
    import zstandard

    def job(_: int) -> Callable[[int], object]:
        opener = zstandard.ZstdDecompressor()
        return lambda i: opener.decompress(frames[i])

    two_threads(job, len(frames))


def sealed(data: Any) -> list[bytes]:
    """Each MiB, encrypted with AES-256-GCM."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return [AESGCM(KEY).encrypt(NONCE, part, b"") for part in parts(data)]


def decrypt(chunks: Sequence[bytes], target: View) -> None:
    """Every chunk into its place in ``target``."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    def job(_: int) -> Callable[[int], object]:
        cipher = AESGCM(KEY)

        def step(i: int) -> None:
            start = i * MIB
            cipher.decrypt_into(NONCE, chunks[i], b"", target[start : start + len(chunks[i]) - 16])

        return step

    two_threads(job, len(chunks))


def save(data: Any, place: Path) -> None:
    """Hash, compress and encrypt on two threads into one file, and sync that and its directory once."""
    import zstandard
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    chunks = parts(data)
    turn = threading.Lock()
    with place.open("wb", buffering=0) as file:

        def job(_: int) -> Callable[[int], object]:
            packer, cipher, kept = (
                zstandard.ZstdCompressor(level=1),
                AESGCM(KEY),
                bytearray(2 * MIB),
            )

            def step(i: int) -> None:
                digest = hashlib.sha256(chunks[i]).digest()
                frame = packer.compress(chunks[i])
                payload = frame if len(frame) * 1.05 <= len(chunks[i]) else chunks[i]
                target = memoryview(kept)[: len(payload) + 16]
                cipher.encrypt_into(NONCE, payload, digest, target)
                with turn:
                    file.write(target)

            return step

        two_threads(job, len(chunks))
        os.fdatasync(file.fileno())
    sync_directory(place.parent)


def durable_create(data: Any, place: Path) -> None:
    """A temporary file, synced, linked to its name; the directory synced."""
    temporary = place.with_name("tmp")
    with temporary.open("wb", buffering=0) as file:
        file.write(data)
        os.fdatasync(file.fileno())
    os.link(temporary, place)
    os.unlink(temporary)
    sync_directory(place.parent)


def seal_one(data: Any) -> bytearray:
    """SHA-256, zstd and AES-256-GCM of one chunk."""
    import zstandard
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    digest = hashlib.sha256(data).digest()
    frame = zstandard.ZstdCompressor(level=1).compress(data)
    payload = frame if len(frame) * 1.05 <= len(data) else data
    target = bytearray(len(payload) + 16)
    AESGCM(KEY).encrypt_into(NONCE, payload, digest, memoryview(target))
    return target


def sync_directory(place: Path) -> None:
    """fsync a directory."""
    file = os.open(place, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
