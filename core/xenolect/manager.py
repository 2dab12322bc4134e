"""``EmergenceManager``: the one object a program opens; every room of the house behind one door."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Self

import attrs

from xenolect._agents import Agents
from xenolect._asking import Asking
from xenolect._breaker_records import Ledger, Times
from xenolect._breakers import Breakers
from xenolect._call import Call, Receipt
from xenolect._critical import Critical
from xenolect._exit import close_at_exit
from xenolect._guarded_states import GuardedStates
from xenolect._keys import Keys
from xenolect._logging import configure as configure_logs
from xenolect._migrations import Migrations
from xenolect._mirroring import Mirroring
from xenolect._parts import replica_of
from xenolect._performance import Performance
from xenolect._points import Points
from xenolect._presence import Presence
from xenolect._recording import Recorder
from xenolect._rollouts import Canaries
from xenolect._rollups import RollUps
from xenolect._runtime import Runtime
from xenolect._scrubber import Scrubber
from xenolect._selection import MISSING, Selector
from xenolect._status import status_of
from xenolect._system import Disk
from xenolect._validate import check_name
from xenolect._variants import Variants
from xenolect.config import Config, load
from xenolect.decisions import Decisions
from xenolect.errors import EmergenceError, InvalidError, InvalidMetricsError
from xenolect.events import Event
from xenolect.facts import Put
from xenolect.model import (
    Agent,
    Explanation,
    Mode,
    PerformanceMetrics,
    ProtocolVariant,
    Reason,
    Selection,
)

__all__ = ["Call", "EmergenceManager", "Receipt", "open"]

log = logging.getLogger("xenolect.variants")


class EmergenceManager:
    """Stores variants, picks one per agent, ramps new ones, takes bad ones back with their state.

    ``open`` is the way in. ``variants``, ``agents``, ``performance``, ``states``, ``points``,
    ``canaries``, ``breakers`` and ``keys`` are its rooms.
    """

    def __init__(self, runtime: Runtime) -> None:
        config = runtime.config
        self._runtime = runtime
        self._breakers = Breakers(
            runtime.registry.make(
                "safeguards", config.breaker.use, config.breaker.options, "breaker"
            ),
            attrs.evolve(
                Times.here(None if runtime.real_time else runtime.steady), token=runtime.token
            ),
            lambda variant: runtime.variant(variant).id,
            runtime.rng,
            Ledger(lambda: runtime.index, lambda: runtime.boot, runtime.alive),
        )
        self.variants = Variants(runtime)
        self.agents = Agents(runtime)
        self.states = GuardedStates(runtime)
        self._selector = Selector(runtime, self._breakers)
        self._asking = Asking(runtime, self._breakers, self._selector)
        self.points = Points(runtime, self.variants, self.states, self._breakers)
        self.keys = Keys(runtime, self.states)
        self.decisions = Decisions(runtime.index)
        self.canaries = Canaries(
            runtime, self.variants, self.points, self._breakers, self._selector
        )
        self._critical = Critical(runtime, self.points, self.canaries.serves)
        self.states.damaged = self._critical.damaged
        self.states.violated = self._critical.violated
        self._recorder = Recorder(
            runtime, self._selector, self.canaries, self._breakers, self._critical
        )
        self._breakers.shut.touched = runtime.performance.touch
        self._breakers.moved = self.canaries.breaker_moved
        self._breakers.gave_up = self.canaries.gave_up
        self._breakers.publish = runtime.publish
        self._breakers.later = runtime.later
        self._breakers.journaled = lambda variant_id: runtime.value("breaker", variant_id)
        self._breakers.dependencies = runtime.parts.dependencies
        self._breakers.agents.population = runtime.performance.agents_of
        self._breakers.agents.moved = lambda variant_id, agent_id, after: runtime.tell(
            "breaker.changed", variant_id, agent=agent_id, after=str(after)
        )
        runtime.appliers["breaker"] = lambda key, value, _, at_open: self._breakers.adopt(
            key, value, at_open
        )
        runtime.on_tick = self._tick
        runtime.on_fed = self._selector.scores.refresh
        self.states.give_up = self.points.give_up
        self._presence = Presence(runtime)
        self._mirroring = Mirroring(runtime, self.states)
        self.states.upkeep.mirror = self._mirroring.upkeep
        self.states.replica = partial(replica_of, config, runtime.registry)
        self.states.migrations = Migrations.of(runtime.registry)
        runtime.drop_caches = self.states.clear_cache
        self._disk = Disk(config)
        self._rollups = RollUps(runtime, self.states.objects)
        self._mirroring.upkeep.rollups = self._rollups
        self._scrubber = Scrubber(runtime, self.states)
        self.keys.reseal = partial(self._mirroring.upkeep.rebuild, dry_run=False)
        runtime.forked.parts = [
            self.states.leave_parent,
            self._breakers.leave_parent,
            self._rollups.leave_parent,
            self.canaries.leader.leave_parent,
            self._mirroring.leave_parent,
            self._scrubber.leave_parent,
            self._selector.sampling.leave_parent,
        ]
        runtime.forked.woken = self._woken

    # -- opening and closing ----------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        storage: str | os.PathLike[str] | Config | None = None,
        *,
        plugins: Iterable[object] = (),
        clock: Callable[[], float] | None = None,
        seed: object = None,
        background: bool = True,
        process: bool = True,
        actor: str = "",
        **given: Any,
    ) -> EmergenceManager:
        """Open a store: a directory, a TOML file, ``"memory://"``, a URL, or a Config.

        Keywords are settings and override the file and the environment (``canary={...}``). ``clock``
        returns seconds since the epoch; leases and waits go by its method ``alive``, if it has one. ``seed``
        makes draws reproducible; a ``random.Random`` makes ids and salts so as well. With ``background=False`` nothing runs unless ``tick`` is
        called, and commits happen in the call. ``process=False`` is for tools that only look or
        operate: they do not count as a serving process. ConfigError, PluginError, StorageError.
        """
        from xenolect._registry import Registry

        path = (
            storage if storage is None or isinstance(storage, (str, Config)) else os.fspath(storage)
        )
        config = load(path, **given)
        configure_logs(config.log)
        registry = Registry.collect(config.plugins, plugins)
        runtime = Runtime(
            config,
            registry,
            clock=clock,
            seed=seed,
            background=background,
            actor=actor or f"process:{os.getpid()}",
        )
        try:
            manager = cls(runtime)
            runtime.load()
            manager._breakers.follow()
            if config.mode != "normal":
                runtime.mode = Mode(config.mode)
            manager._serving = process
            manager.states.lenient = not process
            manager._selector.sampling.serving = process
            manager._mirroring.open(process)
            if process:
                manager._presence.renew()
            runtime.writer.start()
            if process:
                manager._scrubber.start()
        except BaseException:
            runtime.closed = True
            runtime.parts.close()
            raise
        manager._stay = close_at_exit(manager)
        return manager

    _serving = True
    _stay: Callable[[], None] = staticmethod(lambda: None)  # is not closed at exit any more

    def _woken(self) -> None:
        """In a forked child that was asked for something: it is a serving process, too."""
        if self._serving:
            try:
                self._presence.begin()
            except EmergenceError as error:
                log.warning("this process can not be counted now: %s", error)
            self._scrubber.start()

    def close(self) -> None:
        """Store what waits, give the leases back, let go of files and threads. Twice is fine."""
        runtime = self._runtime
        if runtime.closed:
            return
        self._stay()
        if runtime.asleep:  # a forked child that did nothing has nothing to store or to give back
            runtime.close()
            return
        runtime.parts.try_anyway()
        try:
            self._scrubber.close()
            self.flush()
            self.states.close()
            self._rollups.close()
            self._mirroring.close()
            self.canaries.leader.leave()
            self._breakers.leave()
            if self._serving:
                self._presence.leave()
        finally:
            runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- selection --------------------------------------------------------------------------------

    def select(
        self,
        agent: Agent | str,
        protocol: str = "default",
        session: str | None = None,
        *,
        default: Any = MISSING,
    ) -> Selection:
        """The variant this agent speaks now. No I/O, no lock, no hook call.

        ``session`` pins the choice for that conversation. Nothing compatible:
        NoCompatibleVariantError with every reason, or ``default`` (a variant, an id, anything) in a
        Selection with reason "default"; with a default nothing is ever raised.
        """
        return self._selector.select(agent, protocol, session, default)

    def recommend(
        self, agent: Agent | str, limit: int = 5, protocol: str = "default"
    ) -> list[Selection]:
        """The best eligible variants, best first; stickiness and rollouts left out."""
        return self._asking.recommend(agent, protocol, limit)

    def explain(self, agent: Agent | str, protocol: str | None = None) -> list[Explanation]:
        """Every variant with its verdict in words, its parts and its score; the chosen one first."""
        return self._asking.explain(agent, protocol)

    def negotiate(self, agents: Iterable[Agent | str], protocol: str = "default") -> Selection:
        """One active variant that all of these agents can speak; the reasons where there is none."""
        return self._asking.negotiate(agents, protocol)

    # -- measuring --------------------------------------------------------------------------------

    @property
    def performance(self) -> Performance:
        """Histories and roll-ups."""
        return self._runtime.performance

    def record(
        self,
        variant: Any,
        metrics: PerformanceMetrics,
        agent_id: str | None = None,
        durable: bool = False,
        session: str | None = None,
        key: tuple[str, int] | None = None,
    ) -> Receipt:
        """Record a measurement of one or many operations; in memory at once.

        ``variant`` may be the Selection it was made with: then a permit returns with it. A canary
        proved harmful is shut before this returns; that is not an error of this call. ``durable``
        waits until it survives a power failure. ``key`` is ``(boot, sequence)`` of the agent: a second
        measurement with the same is counted nowhere, so a sender may try again.
        InvalidMetricsError, LimitError (with ``retry_after``); nothing is recorded then.
        """
        permit = variant.permit if isinstance(variant, Selection) else None
        return self._recorder.record(variant, metrics, agent_id, session, durable, permit, key)

    def record_many(self, records: Iterable[tuple[Any, ...]], durable: bool = False) -> Receipt:
        """Record a batch of ``(variant, metrics[, agent_id[, key]])``, all or nothing.

        All are checked first, and they are stored in one transaction. Errors as of ``record``.
        """
        return self._recorder.record_many(records, durable)

    def report(
        self,
        variant: Any,
        agent_id: str | Agent,
        success: bool,
        latency_ms: float | None = None,
        session: str | None = None,
        custom: Mapping[str, float] | None = None,
        critical: str | None = None,
        key: tuple[str, int] | None = None,
    ) -> Receipt:
        """Report one operation of one agent. ``wait()`` on the result for its commit.

        ``variant`` may be the Selection it was made with: then a permit returns with it. A failure may
        be ``critical``: "crash_on_load", "schema_violation" or "corrupt_state"; the second registered
        agent that says so takes the variant back. ``key`` as in ``record``.
        """
        if not isinstance(success, (bool, int)) or success not in (0, 1):
            raise InvalidMetricsError(f"success must be True or False, got {success!r}")
        if critical is not None:
            self._critical.check(critical)
            if success:
                raise InvalidMetricsError(
                    f"an operation that succeeded is not critical={critical!r}"
                )
        metrics = PerformanceMetrics(1.0 if success else 0.0, latency_ms, custom=custom or {})
        name = agent_id.id if isinstance(agent_id, Agent) else agent_id
        if isinstance(agent_id, Agent):
            self._selector.profile(agent_id)
        permit = None
        if isinstance(variant, Selection):
            permit = variant.permit
            session = session if session is not None else variant.session
        agent = check_name(name, "agent id")
        return self._recorder.record(variant, metrics, agent, session, False, permit, key, critical)

    def call(
        self, agent: Agent | str, protocol: str = "default", session: str | None = None
    ) -> Call:
        """Select, time and report one operation: ``with manager.call("agent-7") as call: ...``."""
        return Call(self._selector.select(agent, protocol, session), self._end)

    def _end(
        self, selection: Selection, success: bool, latency_ms: float, custom: Mapping[str, float]
    ) -> None:
        metrics = PerformanceMetrics(1.0 if success else 0.0, latency_ms, custom=custom)
        if selection.reason == Reason.DEFAULT:
            return
        self._recorder.record(
            selection.variant,
            metrics,
            selection.agent_id,
            selection.session,
            False,
            selection.permit,
        )

    # -- safeguards -------------------------------------------------------------------------------

    @property
    def breakers(self) -> Breakers:
        """The circuit breakers."""
        return self._breakers

    def rollback(self, variant: Any, reason: str = "operator") -> ProtocolVariant:
        """Take a variant back to its last proven point: content, state, routing and breaker, in one
        commit. Idempotent. CorruptError when no point is intact (the protocol is then in safe mode).
        """
        check_name(reason, "reason")
        try:
            return self.points.roll_back(variant, reason, actor="operator")
        finally:
            self._runtime.settle()

    @property
    def mode(self) -> Mode:
        """normal; observe: baselines are served and verdicts only logged; baseline: kill switch."""
        if self._runtime.asleep:
            self._runtime.wake()
        return self._runtime.mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        try:
            wanted = Mode(mode)
        except ValueError:
            raise InvalidError(
                f"mode must be 'normal', 'observe' or 'baseline', got {mode!r}"
            ) from None
        self._runtime.commit([Put("setting", "mode", {"mode": str(wanted)})])
        self._runtime.tell("mode.changed", None, mode=str(wanted))
        self._runtime.settle()

    # -- time, events, the whole ------------------------------------------------------------------

    def tick(self, now: float | None = None) -> None:
        """Health checks, ramps, flush, feed: what the background thread does about once a second.

        ``now`` (seconds since the epoch) overrides the clock for what is due.
        """
        runtime = self._runtime
        runtime.flush()
        runtime.catch_up()
        runtime.performance.follow()
        self._tick(runtime.clock() if now is None else now)
        runtime.writer.run_jobs()
        self._mirroring.tick()
        runtime.events.deliver()

    def _tick(self, now: float) -> None:
        if self._serving:
            self._presence.renew()
        self._breakers.tick()
        decayed = self._runtime.performance.decay(now)
        self._runtime.references.renew(list(self._runtime.structures.values()))
        if decayed:
            self._selector.scores.warm()
        self.canaries.leader.tick(now)
        if self._serving:
            self.points.retire(now)
            self._rollups.tick(now)
        self._selector.sampling.tick(now)

    def flush(self) -> None:
        """Return when every measurement is stored and every rollback asked for is committed."""
        self._runtime.flush()
        self._selector.sampling.store()
        self._runtime.settle()

    def on(self, callback: Callable[[Event], Any]) -> Callable[[], None]:
        """Hear every event from now on; the returned function ends it."""
        return self._runtime.listen(callback)

    def status(self) -> dict[str, Any]:
        """Counts, rates, sizes, parts in use, rollouts, shut breakers, safe modes: plain JSON."""
        if self._runtime.asleep:
            self._runtime.wake()
        return status_of(self)

    def plugins(self) -> list[Any]:
        """Every plugin found: loaded, left out (and why) or blocked."""
        return self._runtime.registry.describe()


open = EmergenceManager.open
"""Short for ``EmergenceManager.open``."""
