"""What must always hold of a store, read from its journal alone; and of each process as far as it read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from xenolect import EmergenceManager, VariantStatus
from xenolect._evidence import ENDED
from xenolect._lifecycle import ALLOWED
from xenolect._replay import Replay
from xenolect.facts import GENESIS, Entry, Put, canonical, digest_entry

if TYPE_CHECKING:
    from tests.small_world.play import SmallWorld
    from tests.small_world.process import Process

__all__ = ["Eye", "Standing"]

S = VariantStatus
History = list[tuple[int, Any]]


def as_of(history: History, revision: int) -> Any:
    """What was so at a revision; None when it was not yet."""
    return next((value for r, value in reversed(history) if r <= revision), None)


@attrs.define
class Standing:
    """A variant as the journal has it: every status by revision, content and state, its points."""

    statuses: History = attrs.field(factory=list)
    version: int = 0
    protocol: str = ""
    changes: str = ""
    requires: bool = False
    root: str | None = None
    state: int = 0  # the newest version of its state
    points: dict[str, tuple[str, str | None]] = attrs.field(
        factory=dict
    )  # every one there ever was
    rollouts: History = attrs.field(factory=list)

    def at(self, revision: int) -> str:
        """Its status as of a revision."""
        return as_of(self.statuses, revision) or ""

    def rollout(self, revision: int) -> Mapping[str, Any]:
        """Its newest rollout as of a revision."""
        return as_of(self.rollouts, revision) or {}


class Eye:
    """Follows the journal of a world, entry by entry, and says what is wrong."""

    def __init__(self, world: SmallWorld) -> None:
        self.world = world
        self.seen = 0
        self.digest = GENESIS
        self.facts: dict[tuple[str, str], tuple[int, Any]] = {}
        self.variants: dict[str, Standing] = {}
        self.histories: dict[tuple[str, str], History] = {}  # baselines, safe modes, the mode
        self.roots: dict[tuple[str, int], str | None] = {}  # of every state version
        self.texts: dict[str, Any] = {}  # content by root, as it was first read
        self.actors: dict[str, int] = {}

    # -- following the journal --------------------------------------------------------------------

    def read(self) -> None:
        """Take in what is new; every entry follows from the one before."""
        for entry in self.world.index.changes(self.seen):
            expected = digest_entry(
                self.digest, entry.revision, entry.at, entry.actor, entry.changes
            )
            if entry.revision != self.seen + 1 or entry.digest != expected:
                raise self.world.wrong(f"entry {entry.revision} does not follow")
            self.seen, self.digest = entry.revision, entry.digest
            self.actors[entry.actor] = self.actors.get(entry.actor, 0) + 1
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        """One entry: what it makes of every variant, and whether that may be."""
        safe = False
        for change in entry.changes:
            key = (change.kind, change.key)
            version = self.facts.get(key, (0, None))[0] + 1
            value = change.value if isinstance(change, Put) else None
            self.facts[key] = (version, value)
            if change.kind == "variant":
                self._moved(entry, change.key, version, value)
            elif change.kind == "state_version":
                self._versioned(change.key, value)
            elif change.kind == "state" and value is not None:
                standing = self.variants[change.key]
                standing.root = value["ref"] and value["ref"]["root"]
            elif change.kind == "rollout" and value is not None:
                self.variants[change.key].rollouts.append((entry.revision, value))
            elif change.kind in ("baseline", "safe_mode", "setting", "breaker"):
                self.histories.setdefault(key, []).append((entry.revision, value))
                safe = safe or change.kind == "safe_mode"
        for change in entry.changes:
            if change.kind == "point" and isinstance(change, Put):
                self._pointed(change.key, change.value["manifest"])
            if change.kind in ("variant", "rollout"):
                self._whole(entry, change.key, safe)
        self._baselines(entry)

    def _moved(self, entry: Entry, key: str, version: int, value: Any) -> None:
        """A variant's new fact: its status may follow its last one, its version is the next."""
        standing = self.variants.setdefault(key, Standing())
        before, after = standing.at(entry.revision), value["status"]
        if before not in ("", after) and S(after) not in ALLOWED[S(before)]:
            raise self.world.wrong(f"{key} went from {before} to {after} ({entry.actor})")
        if not before and after != S.PROPOSED:
            raise self.world.wrong(f"{key} began as {after}")
        standing.statuses.append((entry.revision, after))
        standing.version = version
        standing.protocol = value["protocol"]
        standing.changes = canonical(value["changes"])
        standing.requires = bool(value["requirements"])

    def _versioned(self, key: str, value: Any) -> None:
        """A state's versions are contiguous, and each is written once."""
        variant_id, _, text = key.rpartition("/")
        standing, version = self.variants[variant_id], int(text)
        if version != standing.state + 1 or value is None:
            raise self.world.wrong(f"state {key} follows version {standing.state}")
        standing.state = version
        self.roots[variant_id, version] = value.get("root")

    def _pointed(self, key: str, manifest: Mapping[str, Any]) -> None:
        """A point holds the content and the state that the variant has now."""
        standing = self.variants[key.split("/")[0]]
        state = manifest["state"]
        pair = canonical(manifest["content"]["changes"]), state["root"] if state else None
        standing.points[manifest["point"]["id"]] = pair
        if pair[0] != standing.changes:
            raise self.world.wrong(
                f"point {key} holds {pair[0]}, the variant {standing.changes} (entry {self.seen})"
            )

    def _whole(self, entry: Entry, key: str, safe: bool) -> None:
        """Content, state and routing of a variant go together after each entry."""
        standing = self.variants[key]
        status, document = standing.at(entry.revision), standing.rollout(entry.revision)
        state = document.get("state", {"state": "", "ppm": 0})
        running = bool(document) and state["state"] not in ENDED
        if running != (status in (S.CANARY, S.PAUSED)):
            raise self.world.wrong(
                f"{key} is {status} and its rollout {state['state'] or 'never was'}"
            )
        if (status == S.PAUSED) != (state["state"] == "paused"):
            raise self.world.wrong(f"{key} is {status} and its rollout {state['state']}")
        if state["state"] in ("suspended", "paused", *ENDED) and state["ppm"]:
            raise self.world.wrong(
                f"{key} has a share of {state['ppm']} ppm while {state['state']}"
            )
        moved = [c for c in entry.changes if c.kind == "variant" and c.key == key]
        if moved and status == S.ROLLED_BACK and standing.points and not safe:
            pair = (standing.changes, standing.root)
            if pair not in standing.points.values():
                raise self.world.wrong(
                    f"{key} was rolled back to {pair}, of {standing.points} ({entry.actor})"
                )

    def _baselines(self, entry: Entry) -> None:
        """Each protocol has one baseline, and it is active."""
        for protocol in self.world.protocols:
            active = [
                name
                for name, each in self.variants.items()
                if each.protocol == protocol and each.at(entry.revision) == S.ACTIVE
            ]
            baseline = self.baseline(protocol, entry.revision)
            if active and baseline not in active:
                raise self.world.wrong(
                    f"{protocol} has the baseline {baseline}, active are {active} ({entry.actor})"
                )
            if baseline is not None and not active:
                raise self.world.wrong(f"nothing of {protocol} is active ({entry.actor})")

    def baseline(self, protocol: str, revision: int) -> str | None:
        """The fallback of a protocol as of a revision."""
        value = as_of(self.histories.get(("baseline", protocol), []), revision)
        return None if value is None else value["variant_id"]

    def setting(self, kind: str, key: str, revision: int) -> Mapping[str, Any]:
        """A fact with a history as of a revision; empty when there was none."""
        return as_of(self.histories.get((kind, key), []), revision) or {}

    # -- looking at the processes -----------------------------------------------------------------

    def look(self) -> None:
        """The store, and each process as far as it has read, agree."""
        self.read()
        for process in self.world.processes:
            if process.manager is not None:
                self._agree(process, process.manager)

    def _agree(self, process: Process, manager: EmergenceManager) -> None:
        runtime = manager._runtime
        who, revision = f"p{process.number}", runtime.revision
        if revision > self.seen:
            raise self.world.wrong(f"{who} has read what is not stored")
        for variant in runtime.variants.values():
            standing = self.variants[variant.id]
            if variant.status != standing.at(revision):
                raise self.world.wrong(f"{who} takes {variant.id} for {variant.status}")
            rollout = manager.canaries._rollouts.get(variant.id)
            document = standing.rollout(revision)
            if (rollout is not None) != (variant.status in (S.CANARY, S.PAUSED)):
                raise self.world.wrong(f"{who} has {rollout} of {variant.id}, {variant.status}")
            if rollout is not None and rollout.ramp.dump(rollout.state) != document["state"]:
                raise self.world.wrong(f"{who} has {rollout.state} for {document['state']}")
        for (kind, protocol), history in self.histories.items():
            if kind == "baseline" and runtime.baseline(protocol) != self.baseline(
                protocol, revision
            ):
                raise self.world.wrong(f"{who} has another baseline than {history}")

    # -- all over again ---------------------------------------------------------------------------

    def again(self) -> None:
        """The facts are those the journal makes, and every decision comes out the same."""
        contents = self.world.index.load()
        facts = {(f.kind, f.key): (f.version, f.value) for f in contents.facts}
        if canonical(sorted(facts.items())) != canonical(sorted(self.facts.items())):
            raise self.world.wrong("the facts are not what the journal made them")
        managers = [p.manager for p in self.world.processes if p.manager is not None]
        if managers:
            registry = managers[0]._runtime.registry
            replay = Replay(self.world.index, registry, lag=float("inf"))
            problems: Sequence[Any] = replay.run().problems
            if self.world.jumpy:  # which share held when can not be told by clocks that jump
                problems = [each for each in problems if each.kind != "routing"]
            if problems:
                raise self.world.wrong(f"replayed: {problems[0].message}")

    def stored(self) -> dict[str, int]:
        """Operations by variant, as they are in the index: added up by month, or not added up yet."""
        index = self.world.index
        _, _, waiting = index.unrolled(1_000_000)
        found = dict.fromkeys(self.variants, 0)
        for name in found:
            found[name] = sum(each.count for each in index.rollups(name, "monthly", 0.0, 4e9))
        for window in waiting:
            if window.variant_id in found:
                found[window.variant_id] += window.count
        return found
