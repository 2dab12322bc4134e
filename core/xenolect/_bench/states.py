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
from typing import cast

import attrs

from xenolect._bench import floors, rivals
from xenolect._bench.rows import MIB, Plan, Progress, Row
from xenolect._state_reader import StateReader
from xenolect.manager import EmergenceManager
from xenolect.units import format_bytes

__all__ = ["rows"]

Job = Callable[[], object]
Pick = Callable[[list[float]], float]


@attrs.frozen
class Times:
    """What ours and the floor took, in turns: wall and CPU microseconds."""

    ours: list[float] = attrs.field(factory=list)
    floor: list[float] = attrs.field(factory=list)
    cpu: tuple[list[float], list[float]] = attrs.field(factory=lambda: ([], []))

    def take(self, ours: Job, floor: Job, number: int) -> Times:
        """Measure both that many times more."""
        for _ in range(number):
            for job, wall, cpu in (
                (ours, self.ours, self.cpu[0]),
                (floor, self.floor, self.cpu[1]),
            ):
                began, used = time.perf_counter(), time.process_time()
                job()
                wall.append((time.perf_counter() - began) * 1e6)
                cpu.append((time.process_time() - used) * 1e6)
        return self

    def row(self, name: str, floor: str, pick: Pick = min, **promise: float) -> Row:
        """The row of what ``pick`` picks."""
        ratio = pick(self.cpu[0]) / pick(self.cpu[1])
        cpu = 1 / ratio if "at_least" in promise else ratio
        return Row(name, pick(self.ours), pick(self.floor), floor, **promise, cpu=cpu, growth=None)


def turns(ours: Job, floor: Job, number: int) -> Times:
    """Ours and the floor in turns."""
    return Times().take(ours, floor, number)


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
    times = Times()
    for i in range(5):
        for start in range(0, size - MIB + 1, MIB):  # so that no chunk is the parent's
            ready[start + 20 : start + 28] = secrets.token_hex(4).encode()
        saved = bytes(ready)
        file = place / f"floor-{i}"
        times.take(
            lambda saved=saved: manager.states.put("small", saved),  # type: ignore[misc]
            lambda saved=saved, file=file: floors.save(saved, file),  # type: ignore[misc]
            1,
        )
        file.unlink()
    what = "SHA-256, zstd 1, AES on two threads into one file, one fdatasync"
    yield times.row(f"put {said} of JSON text, encrypted, durable", what, at_most=1.25)
    ours, used = min(times.ours), min(times.cpu[0])
    for rival, took, cpu in rivals.saves(ready, place):
        promise = 0.5 if rival == "borg" else None
        what = f"{rival}, encrypted, zstd"
        yield Row(f"  beside {rival}", ours, took, what, at_most=promise, cpu=used / cpu)


def _reading(manager: EmergenceManager, plan: Plan, progress: Progress) -> Iterator[Row]:
    states, size, said = manager.states, plan.size, format_bytes(plan.size)
    target = memoryview(bytearray(size))
    progress(f"put {said} of random bytes")
    data = floors.incompressible(size)
    states.put("random", data)
    sealed = floors.sealed(data)
    progress(f"read {said} of random bytes")
    times = turns(
        lambda: states.read_into("random", target, verify="tag"),
        lambda: floors.decrypt(sealed, target),
        5,
    )
    yield times.row(f"read {said}, by tag", "decrypt_into on two threads", at_least=0.6)
    sealed.clear()
    times = turns(
        lambda: states.read_into("random", target, verify="sha256"), lambda: floors.hashed(data), 5
    )
    yield times.row(f"read {said}, SHA-256 again", "SHA-256 on two threads", at_least=0.65)

    def first() -> None:
        with states.open("random") as reader:
            reader.seek(secrets.randbelow(size - MIB + 1))
            reader.read(MIB)

    piece = memoryview(data)[:MIB]
    times = turns(first, lambda: floors.hashed(piece), 30)
    yield times.row(
        f"open {said} and read any 1 MiB", "SHA-256 of it", statistics.median, within=5_000
    )

    whole = bytes(data)
    states.put("random", whole)
    times = turns(lambda: states.put("random", whole), lambda: floors.hashed(whole), 5)
    yield times.row(f"put {said} unchanged", "SHA-256 on two threads", at_most=1.3)

    progress(f"read {said} of JSON text")
    data = floors.text(size)
    states.put("text", data)
    frames = floors.compressed(data)
    for verify, least in (("tag", 0.65), ("sha256", 0.38)):
        times = turns(
            lambda verify=verify: states.read_into("text", target, verify=verify),  # type: ignore[misc]
            lambda: floors.decompress(frames),
            5,
        )
        what = "zstd decompression on two threads"
        yield times.row(f"read {said} of JSON text, {verify}", what, at_least=least)


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

    times = turns(view, copy, 200)
    yield times.row(f"open {said} from the cache", "a copy of 1 MiB", statistics.median, within=100)


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

    times = turns(patch, create, 30)
    what = "seal and durable create of 1 MiB"
    yield times.row(f"patch 1 MiB of {said}, durable", what, statistics.median, at_least=0.6)
