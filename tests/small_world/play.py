"""A store, its processes, agents, operators, disk and clocks, all moved by one seed.

One thing happens at a time. Processes are managers without a thread of their own; every call of theirs
to the index or the chunks is a seam, where the seed decides: go on, fail before or after the effect,
die, or let another process act first. After every step the world looks into the store itself and
checks what must always hold. The same seed is the same world, to the last byte of the journal.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.small_world.agents import Agents
from tests.small_world.eye import Eye
from tests.small_world.operators import Accidents, Nobody, Operators
from tests.small_world.process import Killed, Process, WorldClock, Wrong, settings

from xenolect import AgentContext, EmergenceError, StorageError
from xenolect.errors import CorruptError
from xenolect_backends.fsspec_chunks import FsspecChunks
from xenolect_backends.memory import MemoryChunks, MemoryIndex
from xenolect_backends.sqlite_index import SqliteIndex

__all__ = ["SmallWorld"]

CONFIG = settings()


class SmallWorld:
    """Everything. ``play(steps)`` moves it; an AssertionError of kind ``Wrong`` names seed and step.

    ``place``: a directory for an index and chunks on disk; without it they are in memory.
    """

    protocols: tuple[str, ...] = ("wire", "log")
    config = CONFIG

    def __init__(self, seed: int, place: Path | None = None, processes: int | None = None) -> None:
        self.seed = seed
        self.draw = random.Random(f"{type(self).__name__} {seed}")
        self.now = 1_800_000_000.0
        self.log: list[str] = []
        self.calm = True  # while the world begins, or comes to its end, nothing fails
        self.storm = self.draw.choice((0.0, 0.005, 0.02))
        self.depth = 0
        self.struck = False  # did something fail during this step?
        self.count = self.steps = 0
        self.tally: dict[str, int] = {}
        self.jumpy = self.draw.random() < 0.5  # do the clocks of processes jump?
        self.acknowledged_operations: dict[str, int] = {}
        self.served: dict[str, int] = {}  # how often each variant was selected
        self.perhaps: dict[str, int] = {}  # operations whose process died, or that were refused
        self.index: Any = MemoryIndex() if place is None else SqliteIndex(place / "index.db")
        self.chunks: Any = MemoryChunks() if place is None else FsspecChunks(str(place))
        self.eye = Eye(self)
        self.agents = Agents(self)
        self.operators = Operators(self)
        self.accidents = Accidents(self)
        count = processes or self.draw.choice((1, 2, 2, 3))
        self.processes = [Process(self, n, WorldClock(self)) for n in range(count)]
        busy = self.draw.choice((0.2, 1.0, 1.0, 2.0))  # some worlds are left alone by operators
        verbs = {
            **self.agents.verbs(),
            **{verb: weight * busy for verb, weight in self.operators.verbs().items()},
            **self.accidents.verbs(),
        }
        self._verbs, self._weights = list(verbs), list(verbs.values())

    # -- fate -------------------------------------------------------------------------------------

    def seam(self, process: Process, verb: str, *, before: bool) -> None:
        """A process touches the disk: go on, fail, die, or wait while another one acts."""
        if process.dead:
            raise Killed
        if self.calm:
            return
        fate = self.draw.random()
        when = "before" if before else "after"
        if fate < self.storm:
            self.struck, process.struck_at = True, self.now
            if fate < self.storm / 3:
                process.dead = True
                self.note(f"p{process.number} dies {when} {verb}")
                raise Killed
            self.note(f"p{process.number} fails {when} {verb}")
            raise StorageError("the disk of this world failed")
        if before and self.depth == 0 and fate > 0.97 and len(self.processes) > 1:
            self.meanwhile(self.draw.choice([p for p in self.processes if p is not process]))

    def meanwhile(self, other: Process, *verbs: Callable[[Process], None]) -> None:
        """While one process waits for the disk, another one acts; on a thread of its own, because
        what belongs to a thread (kept memory, say) is never shared by two processes."""
        ended: list[BaseException] = []

        def there() -> None:
            try:
                for verb in verbs or (None,):
                    self.act(other, verb)
            except BaseException as error:
                ended.append(error)

        self.depth += 1
        thread = threading.Thread(target=there, name=f"p{other.number}")
        thread.start()
        thread.join()
        self.depth -= 1
        if ended:
            raise ended[0]

    def note(self, text: str) -> None:
        """What happened, in order: the same for the same seed."""
        self.log.append(f"{self.count}{'+' * self.depth} {text}")
        word = text.split(" ")[1]
        self.tally[word] = self.tally.get(word, 0) + 1

    def wrong(self, text: str) -> Wrong:
        """An assertion that says where, and how to see it again."""
        last = "\n  ".join(self.log[-12:])
        return Wrong(
            f"{type(self).__name__} {self.seed}, step {self.count}: {text}; before that:\n  {last}\n"
            f"see it again: {self.call()}"
        )

    def call(self) -> str:
        """How to play up to here again."""
        return f"{type(self).__name__}({self.seed}).play({min(max(self.count, 1), self.steps)})"

    # -- moving -----------------------------------------------------------------------------------

    def play(self, steps: int) -> Self:
        """So many steps, everything checked after each; at the end all is replayed."""
        self.steps = steps
        try:
            self.begin()
            self.look()
            for self.count in range(1, steps + 1):
                self.step()
            self.end()
        finally:
            self.index.close()
            self.chunks.close()
        return self

    def step(self) -> None:
        """Time passes, one process acts, everything is looked at."""
        self.struck = False
        self.now += self.draw.choice((0.0, 0.5, 5.0, 20.0, 31.0, 61.0))
        self.act(self.draw.choice(self.processes))
        self.look()

    def begin(self) -> None:
        """One process, agents, two baselines, and something to roll out."""
        first = self.processes[0]
        first.open()
        manager = first.running
        manager.agents.register_many(
            [(name, AgentContext({"z": able})) for name, able in self.agents.able.items()]
        )
        for protocol in self.protocols:
            base = manager.variants.propose(
                "base", {"tag": 0}, id=f"{protocol}-0", protocol=protocol
            )
            manager.variants.activate(base)
        for protocol in self.protocols:
            self.operators.propose(first, protocol)
        self.operators.start(first)
        self.calm = False

    def end(self) -> None:
        """The storm is over: every process comes up again, ends as it should, and all is replayed."""
        self.storm, self.calm = 0.0, True
        self.count += 1
        for process in self.processes:
            if process.manager is None:
                self.attempt(process, "opens", process.open)
        for process in (*self.processes, *self.processes):
            self.attempt(process, "tick", process.running.tick)
        self.look()
        self.restorable()
        for process in self.processes:
            self.agents.flush(process)
        self.eye.again()
        for process in self.processes:
            process.running.close()
        self.look()
        stored = self.eye.stored()
        for name, count in self.acknowledged_operations.items():
            if stored[name] < count or stored[name] > self.reported(name):
                raise self.wrong(f"{stored[name]} operations of {name} are stored, not {count}")

    def reported(self, name: str) -> int:
        """Operations that can be stored at most: acknowledged, or lost with a process, or not."""
        return self.acknowledged_operations.get(name, 0) + self.perhaps.get(name, 0)

    def restorable(self) -> None:
        """Every point that is kept, and every state, is there; but for what rotted."""
        manager = self.processes[0].running
        for (kind, _), (_, value) in sorted(self.eye.facts.items()):
            if (
                kind == "point"
                and value is not None
                and value["object"] not in self.accidents.rotten
            ):
                manager.points.verify(value["manifest"]["point"]["id"])
        for problem in manager.states.verify(deep=True).problems:
            if problem.key not in self.accidents.rotten:
                raise self.wrong(f"states: {problem}")

    def act(self, process: Process, verb: Callable[[Process], None] | None = None) -> None:
        """One call of one process; only typed errors come out of it."""
        if process.manager is None:
            if self.draw.random() < 0.5:
                self.attempt(process, "opens", process.open)
            return
        chosen = verb or self.draw.choices(self._verbs, self._weights)[0]
        self.attempt(process, chosen.__name__, lambda: chosen(process))

    def attempt(self, process: Process, name: str, call: Callable[[], None]) -> None:
        """Call, and let an error be an answer if it may be one."""
        self.note(f"p{process.number} {name}")
        try:
            call()
            if name == "opens":
                self.woken(process)
        except Nobody:
            self.attempt(process, "traffic", lambda: self.agents.traffic(process))
        except Killed:
            self.lose(process)
            return
        except CorruptError as error:
            if not any(key in str(error) for key in self.accidents.rotten):
                raise self.wrong(f"{name} says that something is corrupt: {error}") from error
            self.note(f"p{process.number} refused {type(error).__name__}")
        except StorageError as error:
            if not self.struck:
                raise self.wrong(f"{name} fails on a sound disk: {error}") from error
        except EmergenceError as error:
            self.note(f"p{process.number} refused {type(error).__name__}")
            self.refusals(name, error)
        except Wrong:
            raise
        except Exception as error:
            raise self.wrong(f"{name} raises {error!r}") from error
        if process.dead or process.manager is None:
            self.lose(process)

    def lose(self, process: Process) -> None:
        """A process is gone, and with it perhaps what it had not stored."""
        for name, count in process.waiting.items():
            self.lost(name, count)
        process.let_go()

    def lost(self, variant_id: str, count: int) -> None:
        """Operations that may be stored, or not."""
        self.perhaps[variant_id] = self.perhaps.get(variant_id, 0) + count

    def refusals(self, name: str, error: EmergenceError) -> None:
        """How often what was refused, for those who look whether the world is worth its name."""
        key = f"{name}: {type(error).__name__}"
        self.tally[key] = self.tally.get(key, 0) + 1

    # -- looking ----------------------------------------------------------------------------------

    def look(self) -> None:
        """Everything that must hold after a step."""
        self.eye.look()

    def acknowledged(self, variant_id: str, version: int) -> None:
        """What a call has returned is in the store."""
        self.eye.read()
        if self.eye.variants[variant_id].version < version:
            raise self.wrong(f"{variant_id} was acknowledged at version {version}, and is lost")

    def woken(self, process: Process) -> None:
        """A process that starts finds every rollout and breaker as it was left."""
        manager = process.running
        for (kind, key), (_, value) in sorted(self.eye.facts.items()):
            if kind == "breaker" and value and value.get("kind") in ("latched", "forced_open"):
                self._count(f"woken {value['kind']}")
                leases = self.index.leases(f"breaker/{key}/", self.now)
                newest = max((json.loads(each.holder)["serial"] for each in leases), default=0)
                if newest <= value["serial"] and key not in manager._breakers.shut:
                    raise self.wrong(f"the breaker of {key} was {value['kind']}, and is not shut")
            elif kind == "rollout" and value is not None:
                self._count(f"woken {value['state']['state']}")
        for name, breaker in manager._breakers.made.items():
            self._count(f"woken breaker {breaker.state.state}")
            admits = breaker.state.state in ("closed", "disabled")
            if admits == (name in manager._breakers.shut):
                raise self.wrong(f"the breaker of {name} is {breaker.state.state}")

    def _count(self, word: str) -> None:
        self.tally[word] = self.tally.get(word, 0) + 1
