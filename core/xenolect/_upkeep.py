"""Verifying what is stored, and collecting what nobody refers to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import attrs

from xenolect import _envelope
from xenolect._codec import moment
from xenolect._manifest import Content, Link
from xenolect._state_copies import Copies
from xenolect._state_versions import EPOCH, Versions, link_of
from xenolect._upkeep_report import Collected, Problem, Report, problem_of
from xenolect.errors import CorruptError, EmergenceError, NotFoundError
from xenolect.facts import Change, Put
from xenolect.units import format_seconds, seconds_of

if TYPE_CHECKING:
    from datetime import timedelta

    from xenolect._state_objects import Objects
    from xenolect._state_workers import Workers
    from xenolect._states import Door
    from xenolect._upload import Progress

__all__ = ["Mirror", "Upkeep"]

_OURS = re.compile(
    r"variants/(?P<variant>[a-z0-9._-]+)/(?:state/"
    r"(?:chunk_[0-9a-f]{16}-[0-9a-f]{16}\.bin|pack_[0-9a-f]{16}\.bin"
    r"|(?P<sequence>[0-9]{8,})(?P<beside>-[0-9a-f]{16})?\.json)"
    r"|points/(?P<point>[0-9]{8,})\.json)"
)
_POINT_GRACE = 3600.0  # s, at least: a point's commit does not say in which epoch it began
Place = tuple[str, int, int]  # an object's key, and offset and length of a part of it


class Mirror(Protocol):
    """Objects that repeat what the index says, checked and written by whoever knows the index."""

    def check(self, variant_id: str | None, /) -> Iterable[Problem]:
        """What is wrong with them."""
        ...

    def holds(self, key: str, /) -> bool:
        """Is this one of them?"""
        ...

    def rewrite(self, problem: Problem, /) -> bool:
        """Write one again; False where it can not be."""
        ...


class Upkeep:
    """The slow, thorough readers of the state store."""

    def __init__(self, door: Door, objects: Objects, versions: Versions) -> None:
        self._door = door
        self._objects = objects
        self._versions = versions
        self._copies = Copies(door, objects, versions)
        self.mirror: Mirror | None = None  # of the index, which is not the state store's own

    # -- verifying --------------------------------------------------------------------------------

    def verify(
        self,
        variant_id: str | None,
        deep: bool,
        progress: Progress,
        workers: Workers,
    ) -> Report:
        """Check every version of a variant, or of all; each object once."""
        problems: list[Problem] = []
        manifests: set[str] = set()
        parts: dict[Place, tuple[str, int, int, Content]] = {}
        for owner, version, link in self.stored(variant_id):
            if link.key in manifests:
                continue
            manifests.add(link.key)
            try:
                content = self._objects.content(owner, link, fresh=True)
            except CorruptError as error:
                problems.append(problem_of(error, link.key, owner, version))
                continue
            for position, entry in enumerate(content.table):
                place = (f"variants/{owner}/state/{entry.object}", entry.offset, entry.length)
                parts.setdefault(place, (owner, version, position, content))
        total = sum(content.plain(position) for _, _, position, content in parts.values())
        done = 0

        def check(item: tuple[Place, tuple[str, int, int, Content]]) -> None:
            nonlocal done
            (key, offset, _), (owner, version, position, content) = item
            chunk = memoryview(bytearray(content.plain(position)))
            try:
                self._objects.get_chunk(owner, position, content.table[position], chunk)
            except CorruptError as error:
                found = problem_of(error, key, owner, version)
                # Named by where the chunk begins: a repair looks for it in the tables.
                problems.append(attrs.evolve(found, offset=offset) if found.key == key else found)
            done += len(chunk)
            if progress is not None:
                progress(done, total)

        if deep:
            workers.each(check, list(parts.items()))
        else:
            present = set(self._door.chunks.list("variants/"))
            for (key, offset, _), (owner, version, _, _) in parts.items():
                if key not in present:
                    problems.append(
                        Problem(key, offset, None, None, f"{key} is missing", owner, version)
                    )
        problems.extend(self._copies.check(variant_id))
        if self.mirror is not None:
            problems.extend(self.mirror.check(variant_id))
        problems.extend(self._broken_keys(variant_id))
        problems = list(dict.fromkeys(problems))
        problems.sort(key=lambda problem: (problem.key, problem.offset or 0))
        known = self._known(problems)
        fresh = tuple(problem for problem in problems if problem not in known)
        return Report(len(manifests) + len(parts), total, fresh, deep, known)

    def _broken_keys(self, variant_id: str | None) -> Iterator[Problem]:
        """Keys that are not there or were changed."""
        for name, owner, error in self._objects.keys.broken():
            if variant_id in (None, owner):
                yield problem_of(error, name, owner, 0)

    def _known(self, problems: list[Problem]) -> tuple[Problem, ...]:
        """Damage that was noted before and that no newest version depends on."""
        noted = [p for p in problems if self._door.fact("damaged", p.key) is not None]
        if not noted:
            return ()
        needed: set[str] = set()
        for (kind, owner), fact in list(self._door.facts.items()):
            if kind != "state" or fact.value is None or not fact.value.get("manifest"):
                continue
            at: Link | None = link_of(fact.value)
            try:
                while at is not None:
                    needed.add(at.key)
                    manifest = self._objects.manifest(owner, at)
                    at = manifest.parent
                content = self._objects.content(owner, link_of(fact.value))
            except CorruptError:
                continue
            needed.update(f"variants/{owner}/state/{entry.object}" for entry in content.table)
        return tuple(problem for problem in noted if problem.key not in needed)

    def stored(self, variant_id: str | None) -> Iterator[tuple[str, int, Link]]:
        """Every stored version: its variant, its number, its manifest."""
        for (kind, key), fact in list(self._door.facts.items()):
            if kind != "state_version" or fact.value is None or not fact.value.get("manifest"):
                continue
            owner, _, version = key.rpartition("/")
            if variant_id in (None, owner):
                yield owner, int(version), link_of(fact.value)

    # -- collecting -------------------------------------------------------------------------------

    def gc(
        self, grace: float | str | timedelta | None, dry_run: bool, progress: Progress
    ) -> Collected:
        """Remove objects that no version refers to and that are older than ``grace``.

        The order makes it safe with writers at work, whatever their clocks say: list, then raise the
        epoch, then look up references again, then remove what was listed. A writer that stored objects
        before the list and has not committed by then began in an older epoch, and its commit is
        refused; one that began later uses new names, or objects of versions that are true.
        """
        door = self._door
        allowed = float(door.config.state.gc_grace if grace is None else seconds_of(grace))
        oldest = door.clock() - allowed
        # All of it: a listing also lets a store remove what writers that died began, wherever that is.
        listed = [key for key in door.chunks.list("") if _OURS.fullmatch(key)]
        door.catch_up()
        used = self._used()
        loose = [key for key in listed if key not in used and not self._awaited(key)]
        due = [key for key in loose if self._written_at(key) <= oldest - self._spared(key, allowed)]
        if due and not dry_run:
            door.commit_retrying(self._fence, actor=f"gc, grace {format_seconds(allowed)}")
            used = self._used()
            due = [key for key in due if key not in used and not self._awaited(key)]
            for done, key in enumerate(due, 1):
                door.chunks.delete(key)
                if progress is not None:
                    progress(done, len(due))
        return Collected(tuple(due), len(loose) - len(due), dry_run)

    def _fence(self) -> list[Change]:
        at = moment(self._door.clock()).isoformat()
        return [Put("setting", EPOCH, {"epoch": self._versions.epoch() + 1, "at": at})]

    def _used(self) -> set[str]:
        """The key of every object that a version refers to. CorruptError where that can not be known:
        then nothing is removed."""
        used: set[str] = set()
        for owner, _, link in self.stored(None):
            at: Link | None = link
            while at is not None and at.key not in used:
                used.add(at.key)
                manifest = self._objects.manifest(owner, at)
                used.update(
                    f"variants/{owner}/state/{entry.object}" for entry in manifest.changed.values()
                )
                at = manifest.parent
        points = [fact for (kind, _), fact in list(self._door.facts.items()) if kind == "point"]
        used.update(fact.value["object"] for fact in points if fact.value is not None)
        return used

    def _spared(self, key: str, grace: float) -> float:
        """Seconds by which an object is spared beyond the grace."""
        match = _OURS.fullmatch(key)
        return max(0.0, _POINT_GRACE - grace) if match and match["point"] else 0.0

    def _awaited(self, key: str) -> bool:
        """Is this a plain ``<seq>.json`` that a writer could still commit?

        These are the names that are not random. Where the number is taken already nobody can commit
        it; before that a removed name could be created again while a second collector, with an older
        list, is about to remove it.
        """
        match = _OURS.fullmatch(key)
        if match is None or match["beside"]:
            return False
        if match["point"]:
            later = f"{match['variant']}/{int(match['point']):08d}"
            return not any(
                kind == "point" and name.rpartition("/")[0] == match["variant"] and name >= later
                for kind, name in list(self._door.facts)
            )
        if match["sequence"] is None:
            return False
        return int(match["sequence"]) > self._versions.head(match["variant"]).version

    def _written_at(self, key: str) -> float:
        """Seconds since the epoch by the writer's clock; infinity for what can not be told."""
        try:
            start = self._door.chunks.get_range(key, 0, _envelope.HEADER_MAX)
            return _envelope.Header.decode(start, key)[0].written_at / 1000
        except NotFoundError:
            return float("inf")
        except EmergenceError as error:
            if error.retryable:
                raise
            return float("inf")  # not ours to judge: verify and a person decide
