"""The agents of a small world: they select, operate, report; and look at what they are served."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.small_world.process import PROBES, Open

from xenolect import NoCompatibleVariantError, Selection, VariantStatus
from xenolect._routing import routed
from xenolect.model import BreakerState

if TYPE_CHECKING:
    from tests.small_world.play import SmallWorld
    from tests.small_world.process import Process

__all__ = ["Agents"]

S = VariantStatus


class Agents:
    """Sixteen agents, some of which can not speak everything."""

    def __init__(self, world: SmallWorld, count: int = 16) -> None:
        self.world = world
        draw = world.draw
        self.able = {f"agent-{i}": draw.random() < 0.8 for i in range(count)}
        self.names = sorted(self.able)
        self.failing = 0.7  # how often a bad variant fails
        self.bad = {protocol: draw.random() < 0.5 for protocol in world.protocols}

    def verbs(self) -> dict[Callable[[Process], None], float]:
        """What they do, and how often."""
        return {self.traffic: 40.0, self.finish: 5.0, self.choose: 4.0}

    # -- operating --------------------------------------------------------------------------------

    def traffic(self, process: Process, count: int = 10) -> None:
        """Several agents begin an operation; most end it at once, some later or never."""
        draw = self.world.draw
        for name in draw.sample(self.names, count):
            selection = self.served(process, name, draw.choice(self.world.protocols))
            if selection.reason == "default":
                continue
            if draw.random() < 0.1:
                process.calls.append(Open(selection, name, self.world.now))
                continue
            self.report(process, selection, name)
        if draw.random() < 0.1:
            self.flush(process)

    def finish(self, process: Process) -> None:
        """Operations end that began a while ago; some never do."""
        for _ in range(min(3, len(process.calls))):
            call = process.calls.pop(self.world.draw.randrange(len(process.calls)))
            if self.world.draw.random() < 0.7:
                self.report(process, call.selection, call.agent)

    def report(self, process: Process, selection: Selection, name: str) -> None:
        """An operation ends; a bad protocol's new variants fail seven times of ten."""
        variant, draw = selection.variant, self.world.draw
        ok = draw.random() >= (self.failing if self.harmful(variant) else 0.02)
        if selection.permit is not None:
            self._returned(process, selection, ok)
        try:
            process.running.report(selection, name, success=ok, latency_ms=draw.uniform(5.0, 50.0))
        except BaseException:  # it may have been counted, or not: nobody was told that it was
            self.world.lost(variant.id, 1)
            raise
        process.waiting[variant.id] = process.waiting.get(variant.id, 0) + 1

    def harmful(self, variant: Any) -> bool:
        """Does it fail more often than the first of its protocol?"""
        return bool(variant.changes.get("tag")) and self.bad[variant.protocol]

    def flush(self, process: Process) -> None:
        """When it returns, every operation reported so far is stored."""
        world = self.world
        process.running.flush()
        for name, count in process.waiting.items():
            world.acknowledged_operations[name] = world.acknowledged_operations.get(name, 0) + count
        process.waiting.clear()
        stored = world.eye.stored()
        for name, count in world.acknowledged_operations.items():
            if stored.get(name, 0) < count:
                raise world.wrong(
                    f"{stored.get(name, 0)} operations of {name} are stored, {count} were acknowledged"
                )

    def choose(self, process: Process) -> None:
        """Without a default the one error there is says why."""
        for name in self.names[:3]:
            try:
                process.running.select(name, self.world.draw.choice(self.world.protocols))
            except NoCompatibleVariantError as error:
                if not error.excluded:
                    raise self.world.wrong("nothing is compatible, and nobody says why") from error

    # -- looking at what is served ----------------------------------------------------------------

    def served(self, process: Process, name: str, protocol: str) -> Selection:
        """Select, and check what was served against the journal as this process has read it."""
        manager, world = process.running, self.world
        selection = manager.select(name, protocol, default="nothing")
        if selection.reason == "default":
            return selection
        variant_id, revision = selection.variant.id, manager._runtime.revision
        world.served[variant_id] = world.served.get(variant_id, 0) + 1
        world.eye.read()
        standing = world.eye.variants[variant_id]
        status = standing.at(revision)
        if standing.requires and not self.able[name]:
            raise world.wrong(f"{variant_id} was served to {name}, which can not speak it")
        # what it did itself it knows, also where reading it back failed
        if standing.at(max(revision, process.committed)) in (S.ROLLED_BACK, S.ARCHIVED):
            raise world.wrong(f"{variant_id} was served by p{process.number}, which took it back")
        if status == S.CANARY:
            self._as_canary(process, selection, name)
        elif status != S.ACTIVE:
            raise world.wrong(f"{variant_id} was served, which is {status!r} at {revision}")
        baseline = world.eye.baseline(protocol, revision)
        mode = world.eye.setting("setting", "mode", revision).get("mode", "normal")
        safe = world.eye.setting("safe_mode", protocol, revision)
        if (mode != "normal" or safe) and variant_id != baseline:
            raise world.wrong(f"{variant_id} was served in mode {mode}, safe mode {dict(safe)}")
        if variant_id in manager._breakers.shut and selection.permit is None:
            own = manager._runtime.baseline(protocol)
            if variant_id != own:
                raise world.wrong(f"{variant_id} was served though its breaker is open")
        if selection.permit is not None:
            self._probed(process, selection)
        return selection

    def _as_canary(self, process: Process, selection: Selection, name: str) -> None:
        world, variant_id = self.world, selection.variant.id
        document = world.eye.variants[variant_id].rollout(process.running._runtime.revision)
        ppm, salt = document["state"]["ppm"], int(document["salt"], 16)
        if selection.permit is not None:
            ppm = document["levels"][0]
        if not routed(name, salt, ppm):
            raise world.wrong(f"canary {variant_id} was served outside of its {ppm} ppm")
        rollout = process.running.canaries._rollouts.get(variant_id)
        if rollout is not None and rollout.proved:
            raise world.wrong(f"canary {variant_id} was served after it was proved harmful")

    # -- half-open breakers -----------------------------------------------------------------------

    def _probed(self, process: Process, selection: Selection) -> None:
        """Of one round no more permits are out, or came back well, than there are probes; and no two
        processes probe at once, as long as they can ask each other."""
        variant_id, permit = selection.variant.id, selection.permit
        outside = process.probes.setdefault((variant_id, permit.generation), [])
        outside.append(permit)
        self.world.tally["probe"] = self.world.tally.get("probe", 0) + 1
        if len(outside) > PROBES:
            raise self.world.wrong(f"{len(outside)} probes of {variant_id} in one round")
        for other in self.world.processes:
            if other is process or other.manager is None:
                continue
            breaker = other.manager._breakers.made.get(variant_id)
            if (
                breaker is not None
                and breaker.state.state == BreakerState.HALF_OPEN
                and breaker.round_until is not None
                and self.world.now < breaker.round_until
                and self.world.now - max(process.struck_at, other.struck_at) > 60.0
            ):
                raise self.world.wrong(
                    f"p{process.number} and p{other.number} probe {variant_id} at once"
                )

    def _returned(self, process: Process, selection: Selection, ok: bool) -> None:
        """A permit that ends its round does not count any more."""
        if not ok:
            process.probes.pop((selection.variant.id, selection.permit.generation), None)
