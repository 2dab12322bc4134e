"""What holds the parts together: the facts in memory, the one door to commit, the feed.

Order of locks: ``lock`` (commits and their application) before ``performance.fold`` (evidence).
Selection takes neither: it reads references that are swapped whole.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import attrs

from xenolect import forks
from xenolect._clock import Forward
from xenolect._codec import agent_from_json, variant_from_json
from xenolect._event_queue import EventQueue
from xenolect._forked import Forked
from xenolect._logging import TRACE
from xenolect._parts import Parts
from xenolect._performance import Performance
from xenolect._references import References
from xenolect._registry import Registry
from xenolect._rules import Rules
from xenolect._sending import Taken
from xenolect._structure import Profile, Route, Structure, class_of
from xenolect._writer import Writer
from xenolect.breaker import steady
from xenolect.cas import entry_of
from xenolect.config import Config
from xenolect.errors import (
    ConflictError,
    CorruptError,
    DuplicateError,
    StorageError,
    VariantNotFoundError,
)
from xenolect.facts import Change, Entry, Fact, Put, canonical, digest_entry
from xenolect.model import Agent, AgentContext, Mode, ProtocolVariant, VariantStatus

__all__ = ["Runtime"]

log = logging.getLogger("xenolect.variants")
Applier = Callable[[str, Any, int, bool], None]  # key, value, version, at_open


class Runtime:
    """The shared middle of one open manager."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        *,
        clock: Callable[[], float] | None,
        seed: object,
        background: bool,
        actor: str,
    ) -> None:
        self.config = config
        self.registry = registry
        self.clock = Forward(clock or time.time).now
        self.real_time = clock is None
        self.background = background
        self.actor = actor
        # a stream of the caller's own names things, too; equal seeds in two processes must not
        self._names = seed if isinstance(seed, random.Random) else None
        self.rng = self._names or random.Random(None if seed is None else f"xenolect {seed}")
        self.alive: Callable[[], float] = getattr(clock, "alive", time.time)
        self.steady: Callable[[], float] = getattr(clock, "alive", self.clock)
        self.passing: Callable[[], float] = getattr(clock, "alive", time.monotonic)
        self.pid = os.getpid()
        self.closed = False
        self.asleep = False  # a forked child that was not asked for anything yet
        self.boot = self.token(8)
        self.lock = threading.RLock()
        self.events = EventQueue(self)
        self.tell, self.listen = self.events.tell, self.events.listen
        self.writer = Writer(self)
        self.flush, self.flush_into = self.writer.flush, self.writer.flush_into
        self.later, self.settle = self.writer.later, self.writer.settle
        self.after_record = self.writer.after_record
        self.forked = Forked(self)
        self.wake = self.forked.wake

        self.parts = Parts(
            config, registry, steady if self.real_time else self.clock, self._dependency
        )
        self.index, self.chunks = self.parts.index, self.parts.chunks
        self.cipher, self.refuses = self.parts.cipher, Rules(self.parts.rules).refuses
        self.performance = Performance(
            config.metrics,
            lambda: self.index,
            self.clock,
            self.id_of,
            self.flush,
            lambda: self.boot,
        )
        self.references = References(self.performance, self.clock, config.selection.latency_target)

        self.revision = 0
        self.digest = ""
        self.facts: dict[tuple[str, str], Fact] = {}
        self.variants: dict[str, ProtocolVariant] = {}
        self.agents: dict[str, Agent] = {}
        self.profiles: dict[str, Profile] = {}
        self.agent_profiles: dict[str, Profile] = {}
        self.structures: dict[str, Structure] = {}
        self.mode = Mode.NORMAL
        self.fed_at = time.monotonic()
        self.routes: Callable[[str], Sequence[Route]] = lambda _: ()
        self.appliers: dict[str, Applier] = {
            "variant": self._apply_variant,
            "agent": self._apply_agent,
            "setting": self._apply_setting,
        }
        self._dirty: set[str] = set()
        self.on_flushed: Callable[[], None] = lambda: None
        # somebody has them cleared everywhere
        self.drop_caches: Callable[[], object] = lambda: None
        self.applied: Callable[[Entry], None] = lambda _: None
        self.mirror: Callable[[], None] = lambda: None  # returns when what is committed is mirrored
        self.on_tick: Callable[[float], None] = lambda _: None
        self.on_fed: Callable[[], None] = lambda: None
        forks.watch(self.forked)

    def renew(self) -> None:
        """In a forked child: locks, a name and queues of its own."""
        self.boot = self.token(8)
        self.lock = threading.RLock()
        self.writer.renew()
        self.events.waiting.clear()

    @cached_property
    def config_digest(self) -> str:
        """The configuration's digest, which never changes here: 1 ms each time it is computed."""
        return self.config.digest()

    def draw_apart(self) -> None:
        """Names and draws of this process's own; a stream that the caller gave stays the caller's."""
        if self._names is None:
            self.rng.seed(secrets.randbits(128))
        self._names = None

    def _dependency(self, name: str, before: str, after: str) -> None:
        log.warning("the breaker of the %s is %s, it was %s", name, after, before)
        self.tell("breaker.changed", None, dependency=name, before=before, after=after)

    # -- chance -----------------------------------------------------------------------------------

    def token(self, size: int, /) -> str:
        """``size`` random bytes in hex."""
        return secrets.token_hex(size) if self._names is None else self._names.randbytes(size).hex()

    # -- reading ----------------------------------------------------------------------------------

    @staticmethod
    def id_of(variant: Any) -> str:
        """The id of a variant, a selection, or an id."""
        if isinstance(variant, str):
            return variant
        inner = getattr(variant, "variant", variant)
        return str(inner.id)

    def variant(self, variant: Any) -> ProtocolVariant:
        """The variant as of now; VariantNotFoundError names near ids."""
        if self.asleep:
            self.wake()
        variant_id = self.id_of(variant)
        found = self.variants.get(variant_id)
        if found is None and not self.closed:
            self.catch_up()  # another process may have proposed it a moment ago
            found = self.variants.get(variant_id)
        if found is None:
            import difflib

            near = difflib.get_close_matches(variant_id, self.variants, 1)
            raise VariantNotFoundError(
                f"no variant has the id {variant_id!r}"
                + (f"; did you mean {near[0]!r}?" if near else "; `xenolect variants` lists them")
            )
        return found

    def fact(self, kind: str, key: str) -> Fact | None:
        """A fact as of the last applied revision."""
        return self.facts.get((kind, key))

    def value(self, kind: str, key: str) -> Any:
        """The document of a fact, or None."""
        fact = self.facts.get((kind, key))
        return None if fact is None else fact.value

    def baseline(self, protocol: str) -> str | None:
        """The id of the protocol's baseline."""
        value = self.value("baseline", protocol)
        return None if value is None else value["variant_id"]

    def profile(self, context: AgentContext) -> Profile:
        """The shared profile of a context."""
        from xenolect._codec import context_to_json

        key = canonical(context_to_json(context))
        profile = self.profiles.get(key)
        if profile is None:
            group = self.performance.admit(class_of(context))
            profile = self.profiles.setdefault(key, Profile(key, context, group))
        return profile

    # -- committing -------------------------------------------------------------------------------

    def commit(
        self,
        changes: Sequence[Change],
        *,
        actor: str = "",
        evidence: Taken | None = None,
        after: int | None = None,
    ) -> int:
        """The one write door: commit, then apply everything up to the new revision."""
        self.check_process()
        actor, at = actor or self.actor, self.clock()
        with self.lock:
            revision = self.index.commit(
                changes,
                actor=actor,
                at=at,
                observations=evidence.observations if evidence else (),
                after=after,
                once=evidence.once if evidence and evidence.observations else None,
            )
            if evidence:
                evidence.stored = True
            try:
                self.catch_up()
            except StorageError as error:
                if revision != self.revision + 1:
                    raise
                # It is true, and what it took back must not be served until reading works again.
                log.warning(
                    "what was committed as %d can not be read back yet: %s", revision, error
                )
                self._apply(entry_of(self.digest, revision, at, actor, changes))
                self._rebuild()
        return revision

    def publish(self, change: Change) -> None:
        """Commit one change for its own sake."""
        self.commit([change])

    def commit_retrying(self, build: Callable[[], Sequence[Change]], *, actor: str = "") -> int:
        """Commit what ``build`` decides on the newest facts; decide again when they moved."""
        self.check_process()
        for attempt in range(50):
            with self.lock:
                if attempt:
                    self.catch_up()
                changes = build()
                if not changes:
                    return self.revision
                try:
                    return self.commit(changes, actor=actor, after=self.revision)
                except DuplicateError:
                    raise
                except ConflictError:
                    self.catch_up()
            time.sleep(self.rng.random() * 0.002 * attempt)
        raise ConflictError(
            "the index is changed by others faster than this call can decide; try again",
            retry_after=0.1,
        )

    def catch_up(self) -> None:
        """Apply what was committed since, by this process or others."""
        with self.lock:
            entries = self.index.changes(self.revision)
            for entry in entries:
                self._apply(entry)
            self._rebuild()
        self.fed_at = time.monotonic()

    def _apply(self, entry: Entry) -> None:
        expected = digest_entry(self.digest, entry.revision, entry.at, entry.actor, entry.changes)
        if entry.previous != self.digest or entry.digest != expected:
            raise CorruptError(
                f"journal entry {entry.revision} does not follow from the one before; the index was "
                f"edited or replaced: see `xenolect replay`, and restore it from a backup",
                key=f"journal/{entry.revision}",
                expected=expected,
                found=entry.digest,
            )
        for change in entry.changes:
            key = (change.kind, change.key)
            old = self.facts.get(key)
            version = (old.version if old else 0) + 1
            value = change.value if isinstance(change, Put) else None
            self.facts[key] = Fact(change.kind, change.key, version, value)
            applier = self.appliers.get(change.kind)
            if applier is not None:
                applier(change.key, value, version, False)
            elif change.kind in ("baseline", "safe_mode"):
                self._dirty.add(change.key)
        self.revision = entry.revision
        self.digest = entry.digest
        if log.isEnabledFor(TRACE):
            log.log(
                TRACE,
                "entry %d of %s is applied: %s",
                entry.revision,
                entry.actor,
                ", ".join(f"{change.kind}/{change.key}" for change in entry.changes),
                extra={"revision": entry.revision},
            )
        self.applied(entry)

    def load(self) -> None:
        """Read everything at open."""
        contents = self.index.load()
        with self.lock:
            self.revision, self.digest = contents.revision, contents.digest
            for fact in contents.facts:
                self.facts[(fact.kind, fact.key)] = fact
            for kind in ("variant", "agent", "setting", *self.appliers):
                applier = self.appliers.get(kind)
                if applier is None or kind in self._loaded:
                    continue
                self._loaded.add(kind)
                for fact in contents.facts:
                    if fact.kind == kind:
                        applier(fact.key, fact.value, fact.version, True)
            self._dirty.update(v.protocol for v in self.variants.values())
            live = [v.id for v in self.variants.values() if v.status != VariantStatus.ARCHIVED]
            self.performance.restore(live, self.clock())
            self._rebuild()

    @property
    def _loaded(self) -> set[str]:
        loaded: set[str] = self.__dict__.setdefault("_loaded_kinds", set())
        return loaded

    def touch(self, protocol: str) -> None:
        """The protocol's structure is out of date."""
        self._dirty.add(protocol)

    def touch_all(self) -> None:
        """Every structure is out of date."""
        self._dirty.update(self.structures)

    def rebuild(self) -> None:
        """Swap in new structures for the protocols touched."""
        with self.lock:
            self._rebuild()

    def _rebuild(self) -> None:
        while self._dirty:
            protocol = self._dirty.pop()
            active = sorted(
                (
                    v
                    for v in self.variants.values()
                    if v.protocol == protocol and v.status == VariantStatus.ACTIVE
                ),
                key=lambda v: v.id,
            )
            self.structures[protocol] = Structure(
                protocol,
                self.revision,
                active,
                self.routes(protocol),
                self.baseline(protocol),
                bool(self.value("safe_mode", protocol)),
                self.performance.feed(protocol),
                self.performance.track,
                self.references.of(protocol, self.baseline(protocol)),
            )

    def _apply_variant(self, key: str, value: Any, version: int, at_open: bool) -> None:
        old = self.variants.get(key)
        if old is not None:
            self._dirty.add(old.protocol)
        if value is None:
            self.variants.pop(key, None)
            return
        variant = variant_from_json(value, version)
        self.variants[key] = variant
        self._dirty.add(variant.protocol)

    def _apply_agent(self, key: str, value: Any, version: int, at_open: bool) -> None:
        if value is None or value.get("removed"):
            self.agents.pop(key, None)
            self.agent_profiles.pop(key, None)
            return
        agent = agent_from_json(value, version)
        profile = self.profile(agent.context)
        # a million agents that declare the same share what they declare
        if profile.document is None:
            profile.document = value["context"]
        elif profile.document == value["context"]:
            value["context"] = profile.document
        if value.get("updated_at") == value.get("registered_at"):
            value["updated_at"] = value["registered_at"]
        value["id"] = key
        self.agents[key] = attrs.evolve(agent, context=profile.context)
        self.agent_profiles[key] = profile

    def _apply_setting(self, key: str, value: Any, version: int, at_open: bool) -> None:
        if key == "mode" and value is not None:
            self.mode = Mode(value["mode"])
        if key == "cache" and not at_open:
            self.drop_caches()

    # -- the process ------------------------------------------------------------------------------

    @property
    def stale(self) -> bool:
        """Has this process heard nothing of the others for longer than ``max_staleness``?"""
        return self.background and time.monotonic() - self.fed_at > self.config.max_staleness

    def check_process(self) -> None:
        """Before anything is stored: a child that nobody said was forked becomes one, and wakes."""
        if os.getpid() != self.pid:  # forked in C, so nobody said so
            self.forked.leave_parent()
        if self.asleep:
            self.wake()

    def close(self) -> None:
        """Store what waits, stop the thread, let go of the parts."""
        if self.closed:
            return
        if self.asleep:  # a forked child that did nothing has nothing to store
            self.closed = True
            self.parts.close()
            return
        self.parts.try_anyway()
        try:
            self.performance.end_hour()
            self.flush()
        finally:
            self.closed = True
            self.writer.stop()
            self.events.deliver()
            self.parts.close()
