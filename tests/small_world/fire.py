"""Rollback under fire: one rollout, and the worst that can happen in the moment it is decided.

The same world with a plot: at a certain call of a certain process to its disk the process dies, or the
disk fails, or somebody else acts. Then come some bad minutes, then calm, and it must end well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

from tests.small_world.play import SmallWorld
from tests.small_world.process import Killed, Process, settings

from xenolect import StorageError, VariantStatus

__all__ = ["PLOTS", "UnderFire"]

S = VariantStatus
Verb = Callable[[Process], None]
PLOTS = (
    "while promoting",
    "while rolling back",
    "corrupt point",
    "two operators",
    "two leaders",
)
THE = "wire-1"
BASE = "wire-0"


class UnderFire(SmallWorld):
    """One rollout under fire: ``play()``. The plot follows from the seed."""

    protocols = ("wire",)
    config = settings()

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        if len(self.processes) == 1:
            self.processes.append(Process(self, 1, type(self.processes[0].clock)(self)))
        self.plot = PLOTS[seed % len(PLOTS)]
        self.jumpy, self.storm = False, 0.0
        self.harm = self.draw.random() < 0.8  # or the variant is good, and all of it is an accident
        self.agents.bad["wire"] = False  # until it matters
        self.agents.failing = 1.0
        self.fuse = 0  # calls of the victim to its disk until it happens
        self.victim: Process | None = None
        self.blow: Callable[[Process], None] = self.kill
        self.ending = ""
        self.before: dict[str, int] = {}
        self.outscored = False

    def call(self) -> str:
        """Always from the beginning to the end."""
        return f"UnderFire({self.seed}).play()"

    # -- what happens in the moment ---------------------------------------------------------------

    def seam(self, process: Process, verb: str, *, before: bool) -> None:
        """The fuse burns with every call of the victim."""
        if process is self.victim and self.fuse > 0 and not process.dead:
            self.fuse -= 1
            if self.fuse == 0:
                self.struck = True
                self.note(f"p{process.number} {'before' if before else 'after'} {verb}: now")
                self.blow(process)
        super().seam(process, verb, before=before)

    def act(self, process: Process, verb: Verb | None = None) -> None:
        """Whoever comes by chance serves or ticks; operators come by plot."""
        super().act(process, verb or self.draw.choice((self.everybody, self.tick)))

    def kill(self, process: Process) -> None:
        """kill -9."""
        process.dead = True
        raise Killed

    def fail(self, process: Process) -> None:
        """The disk."""
        process.struck_at = self.now
        raise StorageError("the disk of this world failed")

    def interfere(self, *verbs: Verb) -> Callable[[Process], None]:
        """Another process acts, time passes for all."""

        def blow(process: Process) -> None:
            other = self.draw.choice([p for p in self.processes if p is not process])
            if other.manager is None:
                self.meanwhile(other, *verbs[:1])
            self.meanwhile(other, *verbs)

        return blow

    def fire(self, process: Process, verb: Verb, *blows: Callable[[Process], None]) -> None:
        """Do something with a fuse burning."""
        self.victim, self.fuse = process, self.draw.randrange(1, self.draw.choice((6, 15, 40)))
        self.blow = self.draw.choice(blows)
        self.struck = False
        self.act(process, verb)
        self.victim, self.fuse = None, 0
        self.look()

    # -- what people do ---------------------------------------------------------------------------

    def promote(self, process: Process) -> None:
        """By force."""
        process.running.canaries.promote(THE, force=True)

    def roll_back(self, process: Process) -> None:
        """By the operator."""
        self.operators.roll_back(process, THE)

    def abort(self, process: Process) -> None:
        """Nobody's fault."""
        process.running.canaries.abort(THE)

    def pause(self, process: Process) -> None:
        """Wait."""
        process.running.canaries.pause(THE)

    def resume(self, process: Process) -> None:
        """Go on."""
        process.running.canaries.resume(THE)

    def update(self, process: Process) -> None:
        """Other content."""
        self.operators.proposed += 1
        variants = process.running.variants
        variants.update(variants.get(THE), changes={"tag": self.operators.proposed})

    def name_baseline(self, process: Process) -> None:
        """The new one is the fallback from now on."""
        process.running.variants.baseline("wire", THE)

    def name_base(self, process: Process) -> None:
        """The old one is the fallback again."""
        variants = process.running.variants
        if variants.get(BASE).status == S.DEPRECATED:
            variants.activate(BASE, force=True)
        variants.baseline("wire", BASE)

    def deprecate_base(self, process: Process) -> None:
        """The old one goes."""
        process.running.variants.deprecate(BASE)

    def wait(self, process: Process) -> None:
        """Longer than a leader's lease lasts."""
        self.now += 10.0

    @property
    def tick(self) -> Verb:
        """What the thread would do."""
        return self.accidents.tick

    def everybody(self, process: Process) -> None:
        """Every agent operates."""
        self.agents.traffic(process, len(self.agents.names))

    # -- the play ---------------------------------------------------------------------------------

    def play(self, steps: int = 300) -> Self:
        """From the start of the rollout to calm; at most so many rounds of that."""
        try:
            self.begin()
            for _ in range(self.draw.randrange(1, 7)):
                self.count += 1
                self.round()
            self.agents.bad["wire"] = self.harm
            self.moment()
            self.bad_minutes()
            self.calm_again(steps)
            self.end()
            self.ending = self.judge_ending()
        finally:
            self.index.close()
            self.chunks.close()
        return self

    def begin(self) -> None:
        """All processes; a variant with a state, and an older point besides the rollout's own."""
        super().begin()
        self.calm = True
        first = self.processes[0].running
        if first.variants.get(THE).status == S.CANARY:
            first.canaries.abort(THE)
            first.variants.start_testing(THE)
        self.operators.puts.setdefault(THE, set()).add(100)
        first.states.put(THE, [100] * 50)
        first.points.create(THE, "by hand")
        replaces = BASE if self.draw.random() < 0.5 else None
        first.canaries.start(THE, replaces=replaces, processes=len(self.processes))
        for process in self.processes[1:]:
            process.open()
        self.calm = False
        self.look()

    def round(self) -> None:
        """Time passes, every process serves and does what its thread would do."""
        self.struck = False
        self.now += self.draw.choice((5.0, 20.0, 31.0))
        for process in self.processes:
            self.act(process, self.everybody)
            self.act(process, self.tick)
            self.look()

    def moment(self) -> None:
        """What the plot says."""
        one = self.processes[0]
        accidents = (self.kill, self.fail)
        if self.plot == "while promoting":
            interferences = (
                self.interfere(self.everybody, self.everybody, self.tick),
                self.interfere(self.roll_back),
                self.interfere(self.name_baseline),
            )
            self.fire(one, self.promote, *accidents, *interferences)
        elif self.plot == "while rolling back":
            interferences = (
                self.interfere(self.everybody, self.tick),
                self.interfere(self.promote),
                self.interfere(self.update),
            )
            self.fire(one, self.roll_back, *accidents, *interferences)
        elif self.plot == "corrupt point":
            points = [
                value["object"]
                for (kind, key), (_, value) in sorted(self.eye.facts.items())
                if kind == "point" and value and key.startswith(f"{THE}/")
            ]
            for name in points[:: self.draw.choice((1, -1))][: self.draw.randrange(1, 4)]:
                self.accidents.spoil(name)
            verb = self.draw.choice((self.roll_back, self.promote, self.everybody))
            self.fire(one, verb, *accidents, self.interfere(self.roll_back))
        elif self.plot == "two operators":
            verbs = (
                self.roll_back,
                self.promote,
                self.abort,
                self.pause,
                self.update,
                self.name_baseline,
                self.deprecate_base,
            )
            for _ in range(3):
                here, there = self.draw.choice(verbs), self.draw.choice(verbs)
                self.fire(one, here, self.interfere(there))
        else:
            for _ in range(4):
                self.now += 31.0
                waits = self.interfere(self.wait, self.everybody, self.tick, self.tick)
                self.fire(one, self.draw.choice((self.tick, self.everybody)), waits)

    def bad_minutes(self) -> None:
        """The disk is bad for a while, processes die and start again."""
        self.storm = self.draw.choice((0.0, 0.01, 0.03))
        for self.count in range(100, 103):
            self.round()
        self.storm = 0.0

    def calm_again(self, rounds: int) -> None:
        """Nothing fails any more, until it is decided; what waits for an operator gets one."""
        self.calm = True
        for process in self.processes:
            if process.manager is None:
                self.attempt(process, "opens", process.open)
        before = self.before = dict(self.served)
        for self.count in range(200, 200 + rounds):
            if (
                self.count >= 280 and self.count % 8 == 0
            ):  # what is latched is asked again so rarely
                self.now += 1_800.0
            self.round()
            self.eye.read()
            status = self.eye.variants[THE].at(self.eye.seen)
            if status == S.PAUSED:
                self.act(self.processes[0], self.resume)
            if status == S.ACTIVE and self.harm and self.hopeless():
                self.act(self.processes[0], self.name_base)
            if self.count % 50 == 0:
                before, self.before = self.before, dict(self.served)
            if self.count == 200 + rounds - 10 and status == S.ACTIVE and self.harm:
                self.passed_by(before)
            done = (S.ROLLED_BACK,) if self.harm else (S.ROLLED_BACK, S.ACTIVE)
            if status in done or self.safe():
                return
        if not self.harm:
            self.act(self.processes[0], self.promote)

    def passed_by(self, before: Mapping[str, int]) -> None:
        """Harmful, active, and chosen for so few that nothing can be proved: its score keeps it away. Then
        an operator takes it back; one that is served is not let off."""
        chosen = {name: count - before.get(name, 0) for name, count in self.served.items()}
        wire = sum(count for name, count in chosen.items() if name.startswith("wire"))
        if chosen.get(THE, 0) <= 0.05 * wire:
            self.outscored = True
            if self.eye.baseline("wire", self.eye.seen) == THE:  # rolled back, it would stay active
                self.act(self.processes[0], self.name_base)
            self.act(self.processes[0], self.roll_back)

    def hopeless(self) -> bool:
        """Is it the fallback that an operator named, and has its breaker latched? Rolling a baseline back
        leaves it where it is, so who named it has to name another one."""
        breaker = self.eye.setting("breaker", THE, self.eye.seen)
        return self.eye.baseline("wire", self.eye.seen) == THE and breaker.get("kind") == "latched"

    def safe(self) -> bool:
        """Is the protocol in safe mode?"""
        return bool(self.eye.setting("safe_mode", "wire", self.eye.seen))

    def judge_ending(self) -> str:
        """ACTIVE good, ROLLED_BACK or SAFE_MODE: there is no other one."""
        status = self.eye.variants[THE].at(self.eye.seen)
        if self.safe():
            return "safe mode"
        if status == S.ROLLED_BACK:
            return "rolled back"
        if status == S.ACTIVE and not self.harm:
            return "active"
        raise self.wrong(f"{self.plot}: {THE} ends as {status} and does {self.harm and 'harm'}")
