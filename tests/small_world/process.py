"""The processes of a small world: managers whose disk and clock are in the world's hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import attrs

from xenolect import EmergenceManager, Selection, StorageError, hookimpl
from xenolect.config import Config, load
from xenolect.hookspecs import Offer, offer

if TYPE_CHECKING:
    from tests.small_world.play import SmallWorld

__all__ = ["PROBES", "Killed", "Process", "WorldClock", "Wrong", "settings"]

PROBES = 3  # of one half-open round
CANARY = {
    "levels": [0.5, 0.95],
    "min_effect": 0.2,
    "min_operations": 6,
    "min_units": 1,
    "min_eligible": 3,
    "health_check_interval": 30.0,
    "unit": "agent",
    "max_attempts": 2,
}


class Wrong(AssertionError):
    """Something that must never be is so; the message ends with how to see it again."""


class Killed(BaseException):
    """The process died here: no ``except Exception`` of the project may survive it."""


def settings(**canary: Any) -> Config:
    """The settings of every process: everything short, so that a few steps are a life."""
    return load(
        "memory://",
        plugins={"third_party": False},
        index={"use": "seam"},
        chunks={"use": "seam"},
        canary={**CANARY, **canary},
        rollback={"quarantine": 600.0, "max_points": 6},
        breaker={"reset_timeout": 20.0, "lease": 30.0, "half_open_probes": PROBES},
        metrics={"flush_records": 40, "flush_interval": 20.0},
        state={"chunk_size": 128, "gc_grace": 300.0},
        max_variants=12,
    )


@attrs.define
class WorldClock:
    """The clock of one process: the world's time, and how far it is off. Leases see no jump."""

    world: SmallWorld
    off: float = 0.0

    def __call__(self) -> float:
        """Seconds since the epoch, as this process has it."""
        return self.world.now + self.off

    def alive(self) -> float:
        """Seconds since the epoch, as they are."""
        return self.world.now


class Seam:
    """A backend of one process: every call passes the world's hands, before and after."""

    def __init__(self, inner: Any, process: Process) -> None:
        self._inner = inner
        self._process = process
        self._life = process.life

    def __getattr__(self, verb: str) -> Any:
        call: Callable[..., Any] = getattr(self._inner, verb)
        process, world, life = self._process, self._process.world, self._life

        def through(*args: Any, **kwargs: Any) -> Any:
            if process.life != life:
                raise StorageError("this process is over")
            world.seam(process, verb, before=True)
            answer = call(*args, **kwargs)
            if verb == "commit":
                process.committed = answer
            world.seam(process, verb, before=False)
            return answer

        return through

    def close(self) -> None:
        """Closing is no seam: the world closes the files, when it is over."""


@attrs.define
class Open:
    """An operation that has begun and not ended."""

    selection: Selection
    agent: str
    at: float


@attrs.define(eq=False)
class Process:
    """One process: a manager, while it runs; what it did, and what it was told is done."""

    world: SmallWorld
    number: int
    clock: WorldClock
    manager: EmergenceManager | None = None
    dead: bool = False
    life: int = 0  # how often it was started
    committed: int = 0  # the newest revision that is its own
    struck_at: float = float("-inf")  # when its disk failed last
    calls: list[Open] = attrs.field(factory=list)
    probes: dict[tuple[str, int], list[Any]] = attrs.field(factory=dict)
    waiting: dict[str, int] = attrs.field(factory=dict)  # operations reported, perhaps not stored

    @hookimpl
    def xenolect_index_storage(self) -> Iterator[Offer[Any]]:
        """The world's index, through a seam."""
        yield offer("seam", lambda: Seam(self.world.index, self))

    @hookimpl
    def xenolect_chunk_storage(self) -> Iterator[Offer[Any]]:
        """The world's chunks, through a seam."""
        yield offer("seam", lambda: Seam(self.world.chunks, self))

    def open(self) -> None:
        """Start, or not."""
        self.life += 1
        self.dead = False
        self.manager = EmergenceManager.open(
            self.world.config,
            plugins=[self],
            clock=self.clock,
            seed=self.world.draw,
            background=False,
            actor=f"p{self.number}",
        )

    def let_go(self) -> None:
        """The process is gone, with everything it had in memory."""
        self.manager = None
        self.life += 1
        self.calls.clear()
        self.probes.clear()
        self.waiting.clear()
        self.committed = 0

    @property
    def running(self) -> EmergenceManager:
        """Its manager; only while it runs."""
        assert self.manager is not None
        return self.manager
