"""Making damaged states whole: from other objects with the same content, or by going back.

History is never rewritten: a healed state is a new version with new objects. What no copy is left of
is given up: a served variant goes back to its newest intact rollback point and into quarantine, any
other one to its newest intact version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from xenolect._codec import moment, state_ref_from_json
from xenolect._keyring import FOLDER, of_keys
from xenolect._manifest import FORMAT, Content, Entry, Link, Manifest, root_of
from xenolect._state_copies import Copies
from xenolect._state_versions import Draft, Fenced, Head, Moved, link_of
from xenolect._upkeep_report import Healed, Lost, Problem, Repaired
from xenolect.errors import ConflictError, CorruptError, EmergenceError, NotFoundError
from xenolect.facts import Change, Put

if TYPE_CHECKING:
    from xenolect._state_objects import Objects
    from xenolect._state_versions import Versions
    from xenolect._state_workers import Workers
    from xenolect._states import Door
    from xenolect._upkeep import Mirror, Upkeep
    from xenolect._upload import Progress
    from xenolect.model import StateRef

__all__ = ["DAMAGED", "Repair"]

log = logging.getLogger("xenolect.states")
DAMAGED = "damaged"
"""The kind of the facts that note damaged objects, by key."""
_RETRIES = 32
_MIRROR_MAX = 256 * 1024 * 1024


class Copy(NamedTuple):
    """Where a content can be read: in whose table, at which position, by which reader."""

    variant_id: str
    position: int
    entry: Entry
    objects: Objects


class Repair:
    """One run over all variants, or one. ``give_up`` takes a served variant back, if it is one."""

    def __init__(
        self,
        door: Door,
        objects: Objects,
        versions: Versions,
        upkeep: Upkeep,
        others: list[Objects],
        give_up: Callable[[str, str], str | None],
        stored: Callable[[StateRef], StateRef],
    ) -> None:
        self._door = door
        self._objects = objects
        self._versions = versions
        self._upkeep = upkeep
        self._copies = Copies(door, objects, versions)
        self._others = others
        self._give_up = give_up
        self._stored = stored

    def run(
        self, variant_id: str | None, dry_run: bool, progress: Progress, workers: Workers
    ) -> Repaired:
        """Verify, heal what can be, give up what can not, note what stays damaged."""
        keys_back = self._keys_back(dry_run)  # without them nothing else can be looked at
        report = self._upkeep.verify(variant_id, True, progress, workers)
        problems = [*report.problems, *report.known]
        mirrors: list[Mirror] = [
            self._copies,
            *([self._upkeep.mirror] if self._upkeep.mirror else []),
        ]
        rewritten = [
            problem.key
            for problem in problems
            if any(m.holds(problem.key) and (dry_run or m.rewrite(problem)) for m in mirrors)
        ]
        bad = {(p.key, p.offset or 0) for p in problems} - {(key, 0) for key in rewritten}
        healed: list[Healed] = []
        lost: list[Lost] = []
        if bad:
            known = self._known_copies(bad)
            for owner in sorted(self._owners(variant_id)):
                self._mend(owner, bad, known, dry_run, healed, lost)
        rewritten[:0] = keys_back
        broken = [
            p
            for p in problems
            if p.variant_id
            and not p.key.startswith(FOLDER)
            and not any(mirror.holds(p.key) for mirror in mirrors)
        ]
        if not dry_run:
            self._note(broken, healed)
        keys = tuple(sorted({p.key for p in broken}))
        return Repaired(report.checked, tuple(healed), tuple(lost), tuple(rewritten), keys, dry_run)

    def _keys_back(self, dry_run: bool) -> list[str]:
        """Wrapped keys that were lost or changed, from where else there is a good copy."""
        ring, found = self._objects.keys, []
        for name, _, _ in ring.broken():
            for other in self._others:
                try:
                    data = other.chunks.get(name)
                    ring.unwrap(ring.parsed(name, data))
                except EmergenceError:
                    continue
                if not dry_run:
                    self._door.chunks.put(name, data, if_absent=False)
                found.append(name)
                break
        return found

    def _owners(self, variant_id: str | None) -> set[str]:
        return {
            key
            for (kind, key), fact in list(self._door.facts.items())
            if kind == "state" and fact.value and fact.value.get("manifest")
            if variant_id in (None, key)
        }

    # -- one variant ------------------------------------------------------------------------------

    def _mend(
        self,
        owner: str,
        bad: set[tuple[str, int]],
        known: dict[bytes, list[Copy]],
        dry_run: bool,
        healed: list[Healed],
        lost: list[Lost],
    ) -> None:
        for _ in range(_RETRIES):
            head = self._versions.head(owner)
            began, epoch = self._door.clock(), self._versions.epoch()
            try:
                content, intact = self._table(owner, head)
                holes = [
                    position
                    for position, entry in enumerate(content.table)
                    if (_key(owner, entry), entry.offset) in bad
                ]
                if intact and not holes:
                    return
                found = self._search(owner, content, holes, known)
            except CorruptError as error:
                if of_keys(error):  # what is damaged is not the state
                    left = "left as it is: put the key back from a backup"
                    lost.append(Lost(owner, head.version, str(error), left))
                    return
                lost.append(
                    Lost(owner, head.version, str(error), self._lose(owner, head, error, dry_run))
                )
                return
            names = tuple(sorted({_key(owner, content.table[position]) for position in holes}))
            names = names or (content.link.key,)
            sources = tuple(sorted({_key(copy.variant_id, copy.entry) for copy in found.values()}))
            if dry_run:
                healed.append(Healed(owner, head.version, None, names, sources))
                return
            try:
                ref = self._commit(owner, head, content, found, began, epoch)
            except (Moved, Fenced):
                self._door.catch_up()
                continue
            self._stored(ref)
            healed.append(Healed(owner, head.version, ref.version, names, sources))
            log.warning(
                "the state of %s was damaged and is whole again: %d",
                owner,
                ref.version,
                extra={"variant_id": owner},
            )
            return
        raise ConflictError(
            f"the state of variant {owner!r} is changed by others faster than it can be repaired; run "
            f"repair again",
            retry_after=0.1,
        )

    def _table(self, owner: str, head: Head) -> tuple[Content, bool]:
        """The newest version's table, and whether its manifests are intact; else from the mirror."""
        assert head.value is not None
        link = link_of(head.value)
        try:
            return self._objects.content(owner, link, fresh=True), True
        except CorruptError as error:
            self._objects.forget(link)
            mirrored = self._mirrored(owner, head, link)
            if mirrored is None:
                raise error
            return mirrored, False

    def _mirrored(self, owner: str, head: Head, link: Link) -> Content | None:
        """The newest version's table as its mirror has it, if that is of this content."""
        assert head.value is not None
        ref = state_ref_from_json(head.value["ref"])
        key = f"variants/{owner}/state/index.json"
        for objects in (self._objects, *self._others):
            try:
                document = objects.mirror(owner, key, _MIRROR_MAX)
            except (NotFoundError, CorruptError):
                continue
            table = [
                Entry(name, offset, length, bytes.fromhex(digest))
                for _, name, offset, length, digest in document["chunks"]
            ]
            if root_of(table) != ref.root or document["chunk_size"] is None:
                continue
            manifest = Manifest(
                owner,
                ref.version,
                ref.kind,
                ref.size,
                document["chunk_size"],
                ref.root,
                ref.sha256,
                ref.created_at,
                dict(enumerate(table)),
                "",
                0,
            )
            return Content(manifest, link, tuple(table))
        for objects in self._others:
            try:
                return objects.content(owner, link, fresh=True)
            except EmergenceError:
                continue
        return None

    def _search(
        self, owner: str, content: Content, holes: list[int], known: dict[bytes, list[Copy]]
    ) -> dict[int, Copy]:
        """An intact copy for every damaged position; CorruptError for the first that has none."""
        found: dict[int, Copy] = {}
        for position in holes:
            entry = content.table[position]
            elsewhere = [Copy(owner, position, entry, objects) for objects in self._others]
            for copy in (*known.get(entry.digest, ()), *elsewhere):
                try:
                    self._read(copy, content.plain(position))
                except EmergenceError:
                    continue
                found[position] = copy
                break
            else:
                raise CorruptError(
                    f"{_key(owner, entry)} (chunk {position} of {owner!r}) is damaged, and nothing else "
                    f"has its content",
                    key=_key(owner, entry),
                    offset=entry.offset,
                    expected=entry.digest.hex(),
                )
        return found

    @staticmethod
    def _read(copy: Copy, length: int) -> bytearray:
        plain = bytearray(length)
        copy.objects.get_chunk(copy.variant_id, copy.position, copy.entry, memoryview(plain))
        return plain

    def _commit(
        self,
        owner: str,
        head: Head,
        content: Content,
        found: dict[int, Copy],
        began: float,
        epoch: int,
    ) -> StateRef:
        door = self._door
        write = door.token(8)
        table = list(content.table)
        try:
            for position, copy in found.items():
                plain = self._read(copy, content.plain(position))
                digest = table[position].digest
                table[position] = self._objects.put_chunk(
                    owner, head.version + 1, position, plain, digest, write
                )
            manifest = content.manifest
            draft = Draft(
                table,
                manifest.kind,
                manifest.size,
                manifest.chunk_size,
                manifest.sha256,
                head,
                epoch,
                began,
                write,
                whole=True,
            )
            return self._versions.commit(owner, head, draft)
        except BaseException:
            for position in found:
                if table[position] != content.table[position]:
                    door.chunks.delete(_key(owner, table[position]))
            raise

    # -- what is lost -----------------------------------------------------------------------------

    def _lose(self, owner: str, head: Head, error: CorruptError, dry_run: bool) -> str:
        if dry_run:
            return "would go back to the newest intact point or version"
        log.error("the state of %s is lost: %s", owner, error, extra={"variant_id": owner})
        done = self._give_up(owner, str(error))
        if done is not None and self._whole(owner, self._versions.head(owner).version):
            return done
        for version in range(head.version - 1, 0, -1):
            if self._whole(owner, version):
                changes = self._versions.same_as(owner, version)
                self._door.commit_retrying(partial(list, changes), actor="repair")
                again = f"version {version} is current again"
                return again if done is None else f"{done}; {again}"
        left = "no intact version is left; put the state again"
        return left if done is None else f"{done}; {left}"

    def _whole(self, owner: str, version: int) -> bool:
        try:
            value = self._versions.wanted(owner, version)
            content = self._objects.content(owner, link_of(value), fresh=True)
            for position, entry in enumerate(content.table):
                self._read(Copy(owner, position, entry, self._objects), content.plain(position))
        except EmergenceError:
            return False
        return True

    # -- what else there is -----------------------------------------------------------------------

    def _known_copies(self, bad: set[tuple[str, int]]) -> dict[bytes, list[Copy]]:
        """Every entry of every readable version that is not known to be damaged, by digest."""
        known: dict[bytes, list[Copy]] = {}
        seen: set[tuple[str, int]] = set()
        for owner, content in self._contents():
            for position, entry in enumerate(content.table):
                place = (_key(owner, entry), entry.offset)
                if place not in bad and place not in seen:
                    seen.add(place)
                    copy = Copy(owner, position, entry, self._objects)
                    known.setdefault(entry.digest, []).append(copy)
        return known

    def _contents(self) -> Iterator[tuple[str, Content]]:
        for owner, _, link in self._upkeep.stored(None):
            try:
                yield owner, self._objects.content(owner, link)
            except CorruptError:
                continue

    def _note(self, broken: list[Problem], healed: list[Healed]) -> None:
        """Facts that name the damage, so that the next look does not take it for new."""
        versions = {each.variant_id: each.version for each in healed}
        at = moment(self._door.clock()).isoformat()

        def build() -> list[Change]:
            changes: dict[str, Change] = {}
            for problem in broken:
                if self._door.fact(DAMAGED, problem.key) is None:
                    value: dict[str, Any] = {
                        "format": FORMAT,
                        "what": problem.what,
                        "variant": problem.variant_id,
                        "healed_by": versions.get(problem.variant_id),
                        "at": at,
                    }
                    changes[problem.key] = Put(DAMAGED, problem.key, value, 0)
            return list(changes.values())

        if broken:
            self._door.commit_retrying(build, actor="repair")


def _key(owner: str, entry: Entry) -> str:
    return f"variants/{owner}/state/{entry.object}"
