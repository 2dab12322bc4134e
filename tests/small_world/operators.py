"""The operators of a small world, and its accidents: clocks, disks, crashes, rotten points."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xenolect import VariantStatus

if TYPE_CHECKING:
    from tests.small_world.play import SmallWorld
    from tests.small_world.process import Process

__all__ = ["Accidents", "Nobody", "Operators"]

S = VariantStatus
Verbs = dict[Callable[["Process"], None], float]


class Nobody(Exception):
    """There is no such variant now, and asking for another one all the time is no use."""


class Operators:
    """People and programs that propose, roll out, take back: each on the process that draws them."""

    def __init__(self, world: SmallWorld) -> None:
        self.world = world
        self.proposed = 0
        self.puts: dict[str, set[int]] = {}  # what was ever put as the state of a variant

    def verbs(self) -> Verbs:
        """What they do, and how often."""
        return {
            self.propose: 4.0,
            self.start: 8.0,
            self.pause: 1.5,
            self.resume: 2.0,
            self.promote: 2.5,
            self.abort: 1.0,
            self.roll_back: 2.5,
            self.restore: 1.0,
            self.make_point: 1.0,
            self.force_open: 1.5,
            self.disable: 0.5,
            self.reset: 2.0,
            self.update: 1.5,
            self.put_state: 4.0,
            self.get_state: 2.0,
            self.activate: 1.0,
            self.deprecate: 1.0,
            self.name_baseline: 1.0,
            self.retest: 2.0,
            self.archive: 0.7,
            self.switch: 0.7,
            self.leave_safe_mode: 0.7,
            self.collect: 0.7,
        }

    def some(self, process: Process, *statuses: S) -> str:
        """A variant as this process knows it, if it can in one of these statuses."""
        known = sorted(process.running._runtime.variants.values(), key=lambda v: v.id)
        fit = [v.id for v in known if v.status in statuses]
        if not fit and self.world.draw.random() < 0.8:
            raise Nobody
        return self.world.draw.choice(fit or [v.id for v in known])

    # -- variants ---------------------------------------------------------------------------------

    def propose(self, process: Process, protocol: str | None = None) -> None:
        """Something new, that some agents can not speak."""
        self.proposed += 1
        draw = self.world.draw
        protocol = protocol or draw.choice(self.world.protocols)
        needs = {"requirements": {"z": True}} if draw.random() < 0.5 else {}
        made = process.running.variants.propose(
            "new",
            {"tag": self.proposed},
            id=f"{protocol}-{self.proposed}",
            protocol=protocol,
            **needs,
        )
        self.world.acknowledged(made.id, made.version)

    def update(self, process: Process) -> None:
        """Other content, under the eyes of a rollout perhaps."""
        self.proposed += 1
        variants = process.running.variants
        updated = variants.update(
            variants.get(self.some(process, S.CANARY, S.TESTING)),
            changes={"tag": self.proposed},
        )
        self.world.acknowledged(updated.id, updated.version)

    def activate(self, process: Process) -> None:
        """Without a rollout, by force."""
        process.running.variants.activate(self.some(process, S.TESTING, S.DEPRECATED), force=True)

    def deprecate(self, process: Process) -> None:
        """No longer served."""
        process.running.variants.deprecate(self.some(process, S.ACTIVE))

    def name_baseline(self, process: Process) -> None:
        """Another fallback."""
        protocol = self.world.draw.choice(self.world.protocols)
        process.running.variants.baseline(protocol, self.some(process, S.ACTIVE))

    def retest(self, process: Process) -> None:
        """Again, after the quarantine."""
        process.running.variants.start_testing(self.some(process, S.ROLLED_BACK, S.PROPOSED))

    def archive(self, process: Process) -> None:
        """For good."""
        process.running.variants.archive(self.some(process, S.ROLLED_BACK, S.DEPRECATED))

    # -- rollouts ---------------------------------------------------------------------------------

    def start(self, process: Process) -> None:
        """A rollout, that replaces the baseline perhaps."""
        manager = process.running
        variant = manager._runtime.variant(self.some(process, S.PROPOSED, S.TESTING))
        replaces = None
        if self.world.draw.random() < 0.5:
            replaces = manager._runtime.baseline(variant.protocol)
        manager.canaries.start(variant, replaces=replaces)

    def pause(self, process: Process) -> None:
        """A rollout waits."""
        process.running.canaries.pause(self.some(process, S.CANARY))

    def resume(self, process: Process) -> None:
        """And goes on."""
        process.running.canaries.resume(self.some(process, S.PAUSED))

    def promote(self, process: Process) -> None:
        """By force, or with evidence."""
        force = self.world.draw.random() < 0.4
        process.running.canaries.promote(self.some(process, S.CANARY), force=force)

    def abort(self, process: Process) -> None:
        """Nobody's fault."""
        process.running.canaries.abort(self.some(process, S.CANARY, S.PAUSED))

    def roll_back(self, process: Process, variant_id: str | None = None) -> None:
        """When it is acknowledged it is so."""
        chosen = variant_id or self.some(process, S.CANARY, S.PAUSED, S.ACTIVE)
        eye = self.world.eye
        eye.read()
        before = eye.seen
        variant = process.running.rollback(chosen, "world")
        self.world.acknowledged(variant.id, variant.version)
        standing = eye.variants[chosen]
        since = {status for revision, status in standing.statuses if revision > before}
        if not {S.ROLLED_BACK, S.ACTIVE} & {standing.at(before), standing.at(eye.seen), *since}:
            raise self.world.wrong(f"{variant.id} was rolled back and is {variant.status}")

    def restore(self, process: Process) -> None:
        """Older content and state, the status stays."""
        points = process.running.points
        kept = points.list(self.some(process, S.ACTIVE, S.ROLLED_BACK))
        if kept:
            points.restore(self.world.draw.choice(kept))

    def make_point(self, process: Process) -> None:
        """As it is now."""
        points = process.running.points
        point = points.create(self.some(process, S.ACTIVE), "by hand")
        self.world.eye.read()
        if point.id not in self.world.eye.variants[point.variant_id].points:
            raise self.world.wrong(f"point {point.id} was acknowledged, and is lost")

    def leave_safe_mode(self, process: Process) -> None:
        """After a repair."""
        process.running.points.leave_safe_mode(self.world.draw.choice(self.world.protocols))

    # -- breakers, states, the mode ---------------------------------------------------------------

    def force_open(self, process: Process) -> None:
        """A breaker, by hand."""
        process.running.breakers.force_open(self.some(process, S.CANARY, S.ACTIVE))

    def disable(self, process: Process) -> None:
        """A breaker that only counts."""
        process.running.breakers.disable(self.some(process, S.CANARY, S.ACTIVE), ttl=120.0)

    def reset(self, process: Process) -> None:
        """And back."""
        shut = sorted(process.running._breakers.shut)
        chosen = self.world.draw.choice(shut) if shut else self.some(process, S.ACTIVE)
        process.running.breakers.reset(chosen)

    def put_state(self, process: Process) -> None:
        """A new state of a variant, of two chunks; acknowledged, it is there as it was put."""
        world = self.world
        variant_id, number = self.some(process, S.CANARY, S.ACTIVE), world.draw.randrange(100, 999)
        self.puts.setdefault(variant_id, set()).add(number)
        ref = process.running.states.put(variant_id, [number] * 50)
        world.eye.read()
        if world.eye.roots.get((variant_id, ref.version)) != ref.root:
            raise world.wrong(f"state {ref.version} of {variant_id} was acknowledged, and is lost")
        self._content(process, variant_id, ref.version)

    def get_state(self, process: Process) -> None:
        """Any version, in any process."""
        variant_id = self.some(process, S.CANARY, S.ACTIVE, S.ROLLED_BACK)
        refs = process.running.states.versions(variant_id)
        if refs:
            self._content(process, variant_id, self.world.draw.choice(refs).version)

    def _content(self, process: Process, variant_id: str, version: int) -> None:
        """All of one put, never parts of two; and the same wherever and whenever it is read."""
        eye = self.world.eye
        found = process.running.states.get(variant_id, version)
        what = f"state {version} of {variant_id}"
        if len(found) != 50 or len(set(found)) != 1 or found[0] not in self.puts[variant_id]:
            raise self.world.wrong(f"{what} was never put: {found}")
        root = eye.roots[variant_id, version]
        if eye.texts.setdefault(f"{variant_id} {root}", found) != found:
            raise self.world.wrong(f"{what} is {found[:1]}, and was something else before")

    def collect(self, process: Process) -> None:
        """What nobody refers to goes."""
        process.running.states.gc()

    def switch(self, process: Process) -> None:
        """The kill switch, and back."""
        normal = process.running.mode == "normal"
        choice = self.world.draw.choice(("observe", "baseline"))
        process.running.mode = choice if normal else "normal"


class Accidents:
    """What nobody does: time, weather, the end of processes, bytes that rot."""

    def __init__(self, world: SmallWorld) -> None:
        self.world = world
        self.rotten: set[str] = set()

    def verbs(self) -> Verbs:
        """What happens, and how often."""
        return {
            self.tick: 14.0,
            self.jump: 1.0,
            self.weather: 2.0,
            self.crash: 1.5,
            self.leave: 1.0,
            self.rot: 0.4,
        }

    def tick(self, process: Process) -> None:
        """What the thread would do."""
        process.running.tick()

    def jump(self, process: Process) -> None:
        """This process's clock is set by an hour."""
        if not self.world.jumpy:
            raise Nobody
        process.clock.off += self.world.draw.choice((-3600.0, 3600.0))

    def weather(self, process: Process) -> None:
        """The disk begins to fail, or no longer does."""
        self.world.storm = self.world.draw.choice((0.0, 0.0, 0.005, 0.03))

    def crash(self, process: Process) -> None:
        """The process is gone, as it is."""
        self.world.lose(process)

    def leave(self, process: Process) -> None:
        """The process ends as it should."""
        try:
            self.world.agents.flush(process)
            process.running.close()
        finally:
            self.world.lose(process)

    def rot(self, process: Process, variant_id: str | None = None) -> None:
        """A bit of a rollback point flips, or all of it is gone."""
        points = [
            fact[1]["object"]
            for (kind, key), fact in sorted(self.world.eye.facts.items())
            if kind == "point"
            and fact[1]
            and (variant_id or key).split("/")[0] == key.split("/")[0]
        ]
        if points:
            self.spoil(self.world.draw.choice(points))

    def spoil(self, name: str) -> None:
        """This object is not what was written any more."""
        self.rotten.add(name)
        chunks = self.world.chunks
        if self.world.draw.random() < 0.3:
            chunks.delete(name)
            return
        data = bytearray(chunks.get(name))
        data[self.world.draw.randrange(len(data))] ^= 1 << self.world.draw.randrange(8)
        chunks.put(name, bytes(data), if_absent=False)
