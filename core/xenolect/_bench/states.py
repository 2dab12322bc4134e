"""Whole states, encrypted, beside the bare steps on the same bytes, and beside borg and restic.

Ours and the floor take turns; of each the least disturbed run counts, of durable ones the median.
"""

from __future__ import annotations

import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from xenolect._bench import floors, rivals
from xenolect._bench.rows import MIB, Plan, Progress, Row
from xenolect._state_reader import StateReader
from xenolect.manager import EmergenceManager
from xenolect.units import format_bytes

__all__ = ["rows"]

Job = Callable[[], object]


def turns(ours: Job, floor: Job, number: int, pick: Callable[[list[float]], float] = min) -> Any:
    """Microseconds of ours and of the floor, taken in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(number):
        for job, into in zip((ours, floor), times, strict=True):
            began = time.perf_counter()
            job()
            into.append(time.perf_counter() - began)
    return pick(times[0]) * 1e6, pick(times[1]) * 1e6


def rows(plan: Plan, progress: Progress) -> Iterator[Row]:
    """The group's rows."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "key").write_text(secrets.token_hex(32))
        with EmergenceManager.open(
            place / "store",
            background=False,
            cipher={"use": "aes-gcm", "keys": {"file": str(place / "key")}},
            state={"max_size": 4 * plan.size},
        ) as manager:
            for each in ("small", "text", "random", "cached"):
                manager.variants.propose(each, {}, id=each)
            yield from _saving(manager, place, plan, progress)
            yield from _reading(manager, plan, progress)
            yield from _again(manager, plan, progress)
            yield from _changing(manager, place, plan, progress)


def _saving(
    manager: EmergenceManager, place: Path, plan: Plan, progress: Progress
) -> Iterator[Row]:
    size = max(MIB, plan.size // 4)
    said = format_bytes(size)
    ready = floors.text(size)
    progress(f"put {said}")
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(5):
        for start in range(0, size - MIB + 1, MIB):  # so that no chunk is the parent's
            ready[start + 20 : start + 28] = secrets.token_hex(4).encode()
        saved = bytes(ready)
        began = time.perf_counter()
        manager.states.put("small", saved)
        halfway = time.perf_counter()
        floors.save(saved, place / f"floor-{i}")
        times[0].append((halfway - began) * 1e6)
        times[1].append((time.perf_counter() - halfway) * 1e6)
        (place / f"floor-{i}").unlink()
    ours, floor = min(times[0]), min(times[1])
    what = "SHA-256, zstd 1, AES on two threads into one file, one fdatasync"
    yield Row(f"put {said} of JSON text, encrypted, durable", ours, floor, what, at_most=1.25)
    for rival, took in rivals.saves(ready, place):
        promise = 0.5 if rival == "borg" else None
        yield Row(f"  beside {rival}", ours, took, f"{rival}, encrypted, zstd", at_most=promise)


def _reading(manager: EmergenceManager, plan: Plan, progress: Progress) -> Iterator[Row]:
    states, size, said = manager.states, plan.size, format_bytes(plan.size)
    target = memoryview(bytearray(size))
    progress(f"put {said} of random bytes")
    data = floors.incompressible(size)
    states.put("random", data)
    sealed = floors.sealed(data)
    progress(f"read {said} of random bytes")
    ours, floor = turns(
        lambda: states.read_into("random", target, verify="tag"),
        lambda: floors.decrypt(sealed, target),
        5,
    )
    yield Row(f"read {said}, by tag", ours, floor, "decrypt_into on two threads", at_least=0.6)
    sealed.clear()
    ours, floor = turns(
        lambda: states.read_into("random", target, verify="sha256"), lambda: floors.hashed(data), 5
    )
    yield Row(f"read {said}, SHA-256 again", ours, floor, "SHA-256 on two threads", at_least=0.65)

    def first() -> None:
        with states.open("random") as reader:
            reader.seek(secrets.randbelow(size - MIB + 1))
            reader.read(MIB)

    piece = memoryview(data)[:MIB]
    ours, floor = turns(first, lambda: floors.hashed(piece), 30, statistics.median)
    yield Row(f"open {said} and read any 1 MiB", ours, floor, "SHA-256 of it", within=5_000)

    whole = bytes(data)
    states.put("random", whole)
    ours, floor = turns(lambda: states.put("random", whole), lambda: floors.hashed(whole), 5)
    yield Row(f"put {said} unchanged", ours, floor, "SHA-256 on two threads", at_most=1.3)

    progress(f"read {said} of JSON text")
    data = floors.text(size)
    states.put("text", data)
    frames = floors.compressed(data)
    for verify, least in (("tag", 0.65), ("sha256", 0.38)):
        ours, floor = turns(
            lambda verify=verify: states.read_into("text", target, verify=verify),  # type: ignore[misc]
            lambda: floors.decompress(frames),
            5,
        )
        what = "zstd decompression on two threads"
        yield Row(f"read {said} of JSON text, {verify}", ours, floor, what, at_least=least)


def _again(manager: EmergenceManager, plan: Plan, progress: Progress) -> Iterator[Row]:
    size = min(plan.size, 64 * MIB)
    said = format_bytes(size)
    progress(f"read {said} again")
    manager.states.put("cached", floors.incompressible(size))
    manager.states.get("cached")

    def view() -> None:
        with manager.states.open("cached") as reader:
            cast("StateReader", reader.raw).getbuffer()

    target, kept = memoryview(bytearray(MIB)), memoryview(bytes(MIB))

    def copy() -> None:
        target[:] = kept

    ours, floor = turns(view, copy, 200, statistics.median)
    yield Row(f"open {said} from the cache", ours, floor, "a copy of 1 MiB", within=100)


def _changing(
    manager: EmergenceManager, place: Path, plan: Plan, progress: Progress
) -> Iterator[Row]:
    states, said = manager.states, format_bytes(plan.size)
    progress(f"patch {said}")
    files = iter(range(10**6))

    def patch() -> None:
        states.patch("random", {MIB * secrets.randbelow(plan.size // MIB): os.urandom(MIB)})

    def create() -> None:
        made = floors.seal_one(os.urandom(MIB))
        floors.durable_create(made, place / f"floor-{next(files)}")

    ours, floor = turns(patch, create, 30, statistics.median)
    what = "seal and durable create of 1 MiB"
    yield Row(f"patch 1 MiB of {said}, durable", ours, floor, what, at_least=0.6)
