"""A store, its processes, agents, operators, disk and clocks, all moved by one seed.

One thread plays everything. Processes are managers without a thread of their own; every call of theirs
to the index or the chunks is a seam, where the seed decides: go on, fail before or after the effect,
die, or let another process act first. After every step the world looks into the store itself and
checks what must always hold. The same seed is the same world, to the last byte of the journal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from xenolect import (
    AgentContext,
    ConflictError,
    EmergenceError,
    EmergenceManager,
    NoCompatibleVariantError,
    Selection,
    StorageError,
    VariantStatus,
    hookimpl,
)
from xenolect._evidence import ENDED
from xenolect._lifecycle import ALLOWED
from xenolect._replay import Replay
from xenolect._routing import routed
from xenolect.errors import CorruptError
from xenolect.facts import GENESIS, Entry, Put, canonical, digest_entry
from xenolect.hookspecs import Offer, offer
from xenolect_backends.fsspec_chunks import FsspecChunks
from xenolect_backends.memory import MemoryChunks, MemoryIndex
from xenolect_backends.sqlite_index import SqliteIndex

__all__ = ["SmallWorld", "Wrong"]

S = VariantStatus
PROTOCOLS = ("wire", "log")
AGENTS = 16
CANARY = {
    "levels": [0.3, 0.95],
    "min_effect": 0.2,
    "min_operations": 10,
    "min_units": 1,
    "health_check_interval": 30.0,
    "unit": "agent",
    "max_attempts": 2,
}
SETTINGS: dict[str, Any] = {
    "rollback": {"quarantine": 600.0, "max_points": 8},
    "breaker": {"reset_timeout": 20.0, "lease": 30.0},
    "metrics": {"flush_records": 40, "flush_interval": 20.0},
    "max_variants": 12,
}


class Wrong(AssertionError):
    """Something that must never be is so; the message ends with how to see it again."""


class Killed(BaseException):
    """The process died here: no ``except Exception`` of the project may survive it."""


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

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._inner, verb)
        process, world = self._process, self._process.world

        def through(*args: Any, **kwargs: Any) -> Any:
            world.seam(process, verb, before=True)
            answer = call(*args, **kwargs)
            world.seam(process, verb, before=False)
            return answer

        return through

    def close(self) -> None:
        """Closing is no seam: the files must go, dead or alive."""
        self._inner.close()


@attrs.define(eq=False)
class Process:
    """One process: a manager, while it runs; and what it was told is done."""

    world: SmallWorld
    number: int
    clock: WorldClock
    manager: EmergenceManager | None = None
    dead: bool = False
    inner: list[Any] = attrs.field(factory=list)

    @hookimpl
    def xenolect_index_storage(self) -> Iterator[Offer[Any]]:
        """The world's index, through a seam."""
        yield offer("seam", lambda: self._seam(self.world.index()))

    @hookimpl
    def xenolect_chunk_storage(self) -> Iterator[Offer[Any]]:
        """The world's chunks, through a seam."""
        yield offer("seam", lambda: self._seam(self.world.chunks()))

    def _seam(self, inner: Any) -> Any:
        self.inner.append(inner)
        return Seam(inner, self)

    def open(self) -> None:
        """Start, or not."""
        self.dead = False
        self.manager = EmergenceManager.open(
            "memory://",
            plugins=[self],
            index={"use": "seam"},
            chunks={"use": "seam"},
            clock=self.clock,
            seed=self.world.draw,
            background=False,
            actor=f"p{self.number}",
            canary=CANARY,
            **SETTINGS,
        )

    def let_go(self) -> None:
        """The process is gone; its files are closed as the system closes them."""
        self.manager = None
        for each in self.inner:
            each.close()
        self.inner.clear()


@attrs.define
class Standing:
    """A variant as the journal has it: every status by revision, content and state, its points."""

    statuses: list[tuple[int, str]] = attrs.field(factory=list)
    version: int = 0
    protocol: str = ""
    changes: str = ""
    requires: bool = False
    root: str | None = None
    pairs: dict[str, tuple[str, str | None]] = attrs.field(factory=dict)  # by point
    rollouts: list[tuple[int, Mapping[str, Any]]] = attrs.field(factory=list)

    def at(self, revision: int) -> str:
        """Its status as of a revision."""
        return next((s for r, s in reversed(self.statuses) if r <= revision), "")

    def rollout(self, revision: int) -> Mapping[str, Any]:
        """Its newest rollout as of a revision."""
        return next((d for r, d in reversed(self.rollouts) if r <= revision), {})


class SmallWorld:
    """Everything. ``play(steps)`` moves it; AssertionError of kind ``Wrong`` names seed and step."""

    def __init__(self, seed: int, place: Path | None = None) -> None:
        self.seed = seed
        self.draw = random.Random(f"small world {seed}")
        self.place = place
        self.name = f"small world {seed} {id(self)}"
        self.now = 1_800_000_000.0
        self.log: list[str] = []
        self.calm = True  # while the world looks itself, or begins, nothing fails
        self.storm = 0.0
        self.depth = 0
        self.struck = False  # did something fail during this step?
        self.count = 0
        self.proposed = 0
        self.seen = 0
        self.digest = GENESIS
        self.facts: dict[tuple[str, str], tuple[int, Any]] = {}
        self.variants: dict[str, Standing] = {}
        self.stored = 0  # operations recorded durably
        self.tally: dict[str, int] = {}
        self.able = {f"agent-{i}": self.draw.random() < 0.8 for i in range(AGENTS)}
        self.bad = {protocol: self.draw.random() < 0.5 for protocol in PROTOCOLS}
        self.eye_index, self.eye_chunks = self.index(), self.chunks()
        self.processes = [
            Process(self, n, WorldClock(self)) for n in range(self.draw.choice((1, 2, 2, 3)))
        ]

    # -- the parts --------------------------------------------------------------------------------

    def index(self) -> Any:
        """The shared index, opened once more."""
        if self.place is None:
            return MemoryIndex(self.name)
        return SqliteIndex(self.place / "index.db")

    def chunks(self) -> Any:
        """The shared chunks, opened once more."""
        if self.place is None:
            return MemoryChunks(self.name)
        return FsspecChunks(str(self.place))

    def close(self) -> None:
        """Let go of everything."""
        for process in self.processes:
            process.let_go()
        self.eye_index.close()
        self.eye_chunks.close()

    # -- fate -------------------------------------------------------------------------------------

    def seam(self, process: Process, verb: str, *, before: bool) -> None:
        """A process touches the disk: go on, fail, die, or wait while another one acts."""
        if self.calm:
            return
        if process.dead:
            raise Killed
        fate = self.draw.random()
        if fate < self.storm / 4:
            self.struck = process.dead = True
            self.note(f"p{process.number} dies {'before' if before else 'after'} {verb}")
            raise Killed
        if fate < self.storm:
            self.struck = True
            self.note(f"p{process.number} fails {'before' if before else 'after'} {verb}")
            raise StorageError("the disk of this world failed")
        if before and self.depth == 0 and fate > 0.97 and len(self.processes) > 1:
            other = self.draw.choice([p for p in self.processes if p is not process])
            self.depth += 1
            try:
                self.act(other)
            finally:
                self.depth -= 1

    def note(self, text: str) -> None:
        """What happened, in order: the same for the same seed."""
        self.log.append(f"{self.count}{'+' * self.depth} {text}")
        word = text.split(" ")[1]
        self.tally[word] = self.tally.get(word, 0) + 1

    def wrong(self, text: str) -> Wrong:
        """An assertion that says where."""
        last = "\n  ".join(self.log[-12:])
        return Wrong(f"seed {self.seed}, step {self.count}: {text}; before that:\n  {last}")

    # -- moving -----------------------------------------------------------------------------------

    def play(self, steps: int) -> SmallWorld:
        """So many steps, everything checked after each; at the end all is replayed."""
        try:
            self.begin()
            for self.count in range(1, steps + 1):
                self.struck = False
                self.now += self.draw.choice((0.0, 0.5, 5.0, 20.0, 31.0, 61.0))
                self.act(self.draw.choice(self.processes))
                self.look()
                if self.count % 25 == 0:
                    self.again()
            self.end()
        finally:
            self.close()
        return self

    def begin(self) -> None:
        """One process, agents, two baselines."""
        first = self.processes[0]
        first.open()
        manager = first.manager
        assert manager is not None
        manager.agents.register_many(
            [(name, AgentContext({"z": able})) for name, able in self.able.items()]
        )
        for protocol in PROTOCOLS:
            base = manager.variants.propose(
                "base", {"tag": 0}, id=f"{protocol}-0", protocol=protocol
            )
            manager.variants.activate(base)
        self.calm = False
        self.look()

    def end(self) -> None:
        """The storm is over: every process comes up again, and the journal is replayed."""
        self.storm, self.calm = 0.0, True
        for process in self.processes:
            if process.manager is None:
                process.open()
                self.note(f"p{process.number} opens at the end")
        for _ in range(2):
            for process in self.processes:
                assert process.manager is not None
                process.manager.tick()
        self.look()
        self.again()
        for process in self.processes:
            assert process.manager is not None
            process.manager.close()

    def act(self, process: Process) -> None:
        """One call of one process; only typed errors come out of it."""
        manager = process.manager
        if manager is None:
            if self.draw.random() < 0.5:
                self.attempt(process, "opens", process.open)
            return
        verbs, weights = zip(*self.verbs(process, manager).items(), strict=True)
        verb = self.draw.choices(range(len(verbs)), weights)[0]
        self.attempt(process, verbs[verb].__name__, lambda: verbs[verb](process, manager))

    def attempt(self, process: Process, name: str, call: Callable[[], Any]) -> None:
        """Call, and let an error be an answer if it may be one."""
        self.note(f"p{process.number} {name}")
        try:
            call()
        except Killed:
            process.let_go()
            return
        except CorruptError as error:
            raise self.wrong(f"{name} says that something is corrupt: {error}") from error
        except StorageError as error:
            if not self.struck:
                raise self.wrong(f"{name} fails on a sound disk: {error}") from error
        except EmergenceError as error:
            self.note(f"p{process.number} refused {type(error).__name__}")
        except Exception as error:
            raise self.wrong(f"{name} raises {error!r}") from error
        if process.dead or process.manager is None:
            process.let_go()

    def verbs(self, process: Process, manager: EmergenceManager) -> dict[Callable[..., Any], float]:
        """What can happen, and how often."""
        return {
            self.traffic: 30.0,
            self.tick: 14.0,
            self.choose: 6.0,
            self.propose: 3.0,
            self.start: 8.0,
            self.pause: 1.5,
            self.resume: 2.0,
            self.promote: 2.0,
            self.abort: 1.0,
            self.roll_back: 2.5,
            self.restore: 1.0,
            self.force_open: 1.5,
            self.reset: 2.0,
            self.update: 1.5,
            self.keep_state: 4.0,
            self.activate: 1.0,
            self.deprecate: 1.0,
            self.retest: 2.0,
            self.archive: 0.7,
            self.jump: 1.0,
            self.weather: 2.0,
            self.crash: 1.5,
            self.leave: 1.0,
            self.switch: 0.7,
        }

    # -- agents -----------------------------------------------------------------------------------

    def some(self, manager: EmergenceManager, *statuses: S) -> str:
        """A variant as this process knows it, if it can in one of these statuses."""
        known = sorted(manager._runtime.variants.values(), key=lambda v: v.id)
        fit = [v.id for v in known if v.status in statuses]
        return self.draw.choice(fit or [v.id for v in known])

    def chosen(self, process: Process, manager: EmergenceManager, name: str) -> Selection:
        """Select, and check what was served against the journal as this process has read it."""
        protocol = self.draw.choice(PROTOCOLS)
        agent = manager.select(name, protocol, default="nothing")
        if agent.reason == "default":
            return agent
        variant_id, revision = agent.variant.id, manager._runtime.revision
        self.read()
        standing = self.variants[variant_id]
        status = standing.at(revision)
        if standing.requires and not self.able[name]:
            raise self.wrong(f"{variant_id} was served to {name}, which can not speak it")
        if status == S.CANARY:
            document = standing.rollout(revision)
            ppm, salt = document["state"]["ppm"], int(document["salt"], 16)
            rollout = manager.canaries._rollouts.get(variant_id)
            if agent.permit is not None:
                ppm = document["levels"][0]
            if not routed(name, salt, ppm):
                raise self.wrong(f"canary {variant_id} was served outside of its {ppm} ppm")
            if rollout is not None and rollout.proved:
                raise self.wrong(f"canary {variant_id} was served after it was proved harmful")
            if manager._runtime.mode != "normal":
                raise self.wrong(f"canary {variant_id} was served in mode {manager.mode}")
        elif status != S.ACTIVE:
            raise self.wrong(f"{variant_id} was served, which is {status!r} at {revision}")
        if variant_id in manager._breakers.shut and agent.permit is None:
            baseline = self.facts[("baseline", standing.protocol)][1]["variant_id"]
            if (
                variant_id != manager._runtime.baseline(standing.protocol)
                and variant_id != baseline
            ):
                raise self.wrong(f"{variant_id} was served though its breaker is open")
        return agent

    def traffic(self, process: Process, manager: EmergenceManager) -> None:
        """Several agents operate."""
        durable = self.draw.random() < 0.1
        for name in self.draw.sample(sorted(self.able), 6):
            selection = self.chosen(process, manager, name)
            if selection.reason == "default":
                continue
            variant = selection.variant
            harmful = variant.changes.get("tag") and self.bad[variant.protocol]
            ok = self.draw.random() >= (0.7 if harmful else 0.02)
            manager.report(selection, name, success=ok, latency_ms=self.draw.uniform(5.0, 50.0))
        if durable:
            manager.flush()

    def choose(self, process: Process, manager: EmergenceManager) -> None:
        """Without a default the one error there is says why."""
        for name in sorted(self.able)[:3]:
            try:
                manager.select(name, self.draw.choice(PROTOCOLS))
            except NoCompatibleVariantError as error:
                if not error.excluded:
                    raise self.wrong("nothing is compatible, and nobody says why") from error

    # -- operators --------------------------------------------------------------------------------

    def propose(self, process: Process, manager: EmergenceManager) -> None:
        """Something new, that some agents can not speak."""
        self.proposed += 1
        protocol = self.draw.choice(PROTOCOLS)
        needs = {"requirements": {"z": True}} if self.draw.random() < 0.5 else {}
        made = manager.variants.propose(
            "new",
            {"tag": self.proposed},
            id=f"{protocol}-{self.proposed}",
            protocol=protocol,
            **needs,
        )
        self.acknowledged(made.id, made.version)

    def start(self, process: Process, manager: EmergenceManager) -> None:
        """A rollout."""
        variant = self.some(manager, S.PROPOSED, S.TESTING)
        replaces = None
        if self.draw.random() < 0.5:
            replaces = manager._runtime.baseline(manager._runtime.variant(variant).protocol)
        manager.canaries.start(variant, replaces=replaces)

    def pause(self, process: Process, manager: EmergenceManager) -> None:
        """A rollout waits."""
        manager.canaries.pause(self.some(manager, S.CANARY))

    def resume(self, process: Process, manager: EmergenceManager) -> None:
        """And goes on."""
        manager.canaries.resume(self.some(manager, S.PAUSED))

    def promote(self, process: Process, manager: EmergenceManager) -> None:
        """By force, or with evidence."""
        manager.canaries.promote(self.some(manager, S.CANARY), force=self.draw.random() < 0.4)

    def abort(self, process: Process, manager: EmergenceManager) -> None:
        """Nobody's fault."""
        manager.canaries.abort(self.some(manager, S.CANARY, S.PAUSED))

    def roll_back(self, process: Process, manager: EmergenceManager) -> None:
        """By the operator; when it is acknowledged it is so."""
        variant = manager.rollback(self.some(manager, S.CANARY, S.PAUSED, S.ACTIVE), "world")
        self.acknowledged(variant.id, variant.version)
        if variant.status not in (S.ROLLED_BACK, S.ACTIVE):
            raise self.wrong(f"{variant.id} was rolled back and is {variant.status}")

    def restore(self, process: Process, manager: EmergenceManager) -> None:
        """Older content and state, the status stays."""
        points = manager.points.list(self.some(manager, S.ACTIVE, S.ROLLED_BACK))
        if points:
            manager.points.restore(self.draw.choice(points))

    def force_open(self, process: Process, manager: EmergenceManager) -> None:
        """A breaker, by hand."""
        manager.breakers.force_open(self.some(manager, S.CANARY, S.ACTIVE))

    def reset(self, process: Process, manager: EmergenceManager) -> None:
        """And back."""
        shut = sorted(manager._breakers.shut)
        manager.breakers.reset(self.draw.choice(shut) if shut else self.some(manager, S.ACTIVE))

    def update(self, process: Process, manager: EmergenceManager) -> None:
        """Other content, under the eyes of a rollout perhaps."""
        self.proposed += 1
        variant = manager.variants.get(self.some(manager, S.CANARY, S.TESTING))
        updated = manager.variants.update(variant, changes={"tag": self.proposed})
        self.acknowledged(updated.id, updated.version)

    def keep_state(self, process: Process, manager: EmergenceManager) -> None:
        """A new state of a variant."""
        variant = self.some(manager, S.CANARY, S.ACTIVE)
        ref = manager.states.put(variant, {"n": self.draw.randrange(1000)})
        self.acknowledged(variant, 0)
        if manager.states.get(variant, ref.version)["n"] >= 1000:
            raise self.wrong("a state came back as another")

    def activate(self, process: Process, manager: EmergenceManager) -> None:
        """Without a rollout, by force."""
        manager.variants.activate(self.some(manager, S.TESTING, S.DEPRECATED), force=True)

    def deprecate(self, process: Process, manager: EmergenceManager) -> None:
        """No longer served."""
        manager.variants.deprecate(self.some(manager, S.ACTIVE))

    def retest(self, process: Process, manager: EmergenceManager) -> None:
        """Again, after the quarantine."""
        manager.variants.start_testing(self.some(manager, S.ROLLED_BACK, S.PROPOSED))

    def archive(self, process: Process, manager: EmergenceManager) -> None:
        """For good."""
        manager.variants.archive(self.some(manager, S.ROLLED_BACK, S.DEPRECATED))

    def switch(self, process: Process, manager: EmergenceManager) -> None:
        """The kill switch, and back."""
        normal = manager.mode == "normal"
        manager.mode = self.draw.choice(("observe", "baseline")) if normal else "normal"

    # -- fate of processes ------------------------------------------------------------------------

    def tick(self, process: Process, manager: EmergenceManager) -> None:
        """What the thread would do."""
        manager.tick()

    def jump(self, process: Process, manager: EmergenceManager) -> None:
        """This process's clock is set by an hour."""
        process.clock.off += self.draw.choice((-3600.0, 3600.0))

    def weather(self, process: Process, manager: EmergenceManager) -> None:
        """The disk begins to fail, or no longer does."""
        self.storm = self.draw.choice((0.0, 0.0, 0.005, 0.03))

    def crash(self, process: Process, manager: EmergenceManager) -> None:
        """The process is gone, as it is."""
        process.let_go()

    def leave(self, process: Process, manager: EmergenceManager) -> None:
        """The process ends as it should."""
        try:
            manager.close()
        finally:
            process.let_go()

    # -- looking ----------------------------------------------------------------------------------

    def acknowledged(self, variant_id: str, version: int) -> None:
        """What a call has returned is in the store."""
        self.read()
        if self.variants[variant_id].version < version:
            raise self.wrong(f"{variant_id} was acknowledged at version {version}, and is lost")

    def read(self) -> None:
        """Follow the journal; it only ever grows, and every entry follows from the one before."""
        calm, self.calm = self.calm, True
        for entry in self.eye_index.changes(self.seen):
            expected = digest_entry(
                self.digest, entry.revision, entry.at, entry.actor, entry.changes
            )
            if entry.revision != self.seen + 1 or entry.digest != expected:
                raise self.wrong(f"entry {entry.revision} does not follow")
            self.take(entry)
            self.seen, self.digest = entry.revision, entry.digest
        self.calm = calm

    def take(self, entry: Entry) -> None:
        """One entry: what it makes of every variant, and whether that may be."""
        for change in entry.changes:
            key = (change.kind, change.key)
            version = self.facts.get(key, (0, None))[0] + 1
            value = change.value if isinstance(change, Put) else None
            self.facts[key] = (version, value)
            if change.kind == "variant":
                self.moved(entry, change.key, version, value)
            elif change.kind == "state":
                standing = self.variants[change.key]
                ref = value and value.get("ref")
                standing.root = ref["root"] if ref else None
            elif change.kind == "rollout" and value is not None:
                self.variants[change.key].rollouts.append((entry.revision, value))
        for change in entry.changes:
            if change.kind == "point" and isinstance(change, Put):
                self.pointed(change.key, change.value["manifest"])
            if change.kind in ("variant", "rollout"):
                self.whole(entry, change.key)
        self.baselines(entry)

    def moved(self, entry: Entry, key: str, version: int, value: Any) -> None:
        """A variant's new fact: its status may follow its last one."""
        standing = self.variants.setdefault(key, Standing())
        before, after = standing.at(entry.revision), value["status"]
        if before not in ("", after) and S(after) not in ALLOWED[S(before)]:
            raise self.wrong(f"{key} went from {before} to {after} ({entry.actor})")
        if not before and after != S.PROPOSED:
            raise self.wrong(f"{key} began as {after}")
        standing.statuses.append((entry.revision, after))
        standing.version = version
        standing.protocol = value["protocol"]
        standing.changes = canonical(value["changes"])
        standing.requires = bool(value["requirements"])

    def pointed(self, key: str, manifest: Mapping[str, Any]) -> None:
        """A point holds the content and the state that the variant has now."""
        standing = self.variants[key.split("/")[0]]
        state = manifest["state"]
        pair = canonical(manifest["content"]["changes"]), state["root"] if state else None
        standing.pairs[manifest["point"]["id"]] = pair
        if pair[0] != standing.changes:
            raise self.wrong(f"point {key} holds {pair[0]}, the variant {standing.changes}")

    def whole(self, entry: Entry, key: str) -> None:
        """Content, state and routing of a variant go together after each entry."""
        standing = self.variants[key]
        status, document = standing.at(entry.revision), standing.rollout(entry.revision)
        state = document.get("state", {"state": "", "ppm": 0})
        running = bool(document) and state["state"] not in ENDED
        if running != (status in (S.CANARY, S.PAUSED)):
            raise self.wrong(f"{key} is {status} and its rollout {state['state'] or 'never was'}")
        if (status == S.PAUSED) != (state["state"] == "paused"):
            raise self.wrong(f"{key} is {status} and its rollout {state['state']}")
        if state["state"] in ("suspended", "paused", *ENDED) and state["ppm"]:
            raise self.wrong(f"{key} has a share of {state['ppm']} ppm while {state['state']}")
        back = [c for c in entry.changes if c.kind == "variant" and c.key == key]
        if back and status == S.ROLLED_BACK:
            pair = (standing.changes, standing.root)
            if pair not in standing.pairs.values():
                raise self.wrong(f"{key} was rolled back to {pair}, of {standing.pairs}")

    def baselines(self, entry: Entry) -> None:
        """Each protocol has one baseline, and it is active."""
        for protocol in PROTOCOLS:
            active = [
                name
                for name, each in self.variants.items()
                if each.protocol == protocol and each.at(entry.revision) == S.ACTIVE
            ]
            fact = self.facts.get(("baseline", protocol))
            if active and (fact is None or fact[1]["variant_id"] not in active):
                raise self.wrong(f"{protocol} has the baseline {fact}, active are {active}")
            if fact is not None and not active:
                raise self.wrong(f"nothing of {protocol} is active ({entry.actor})")

    def look(self) -> None:
        """The store, and each process as far as it has read, agree."""
        self.read()
        calm, self.calm = self.calm, True
        for process in self.processes:
            manager = process.manager
            if manager is None:
                continue
            runtime = manager._runtime
            if runtime.revision > self.seen:
                raise self.wrong(f"p{process.number} has read what is not stored")
            for variant in runtime.variants.values():
                if variant.status != self.variants[variant.id].at(runtime.revision):
                    raise self.wrong(f"p{process.number} takes {variant.id} for {variant.status}")
        self.calm = calm

    def again(self) -> None:
        """The facts are those the journal makes, and every decision comes out the same."""
        calm, self.calm = self.calm, True
        contents = self.eye_index.load()
        facts = {(f.kind, f.key): (f.version, f.value) for f in contents.facts}
        if contents.revision == self.seen and canonical(sorted(facts.items())) != canonical(
            sorted(self.facts.items())
        ):
            raise self.wrong("the facts are not what the journal made them")
        registry = next((p.manager for p in self.processes if p.manager is not None), None)
        if registry is not None:
            replay = Replay(self.eye_index, registry._runtime.registry, lag=float("inf"))
            problems: Sequence[Any] = replay.run().problems
            if problems:
                raise self.wrong(f"replayed: {problems[0].message}")
        self.calm = calm


def conflicts(error: Exception) -> bool:
    """Is it the answer to somebody else's change?"""
    return isinstance(error, ConflictError)
