"""State versions in the index: which is newest, what each one is, and the commit that adds one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from xenolect._codec import moment, state_ref_from_json, state_ref_to_json
from xenolect._manifest import FULL_EVERY, Content, Entry, Link, Manifest, root_of
from xenolect.errors import ConflictError, CorruptError, StateNotFoundError
from xenolect.facts import Change, Put
from xenolect.model import StateRef
from xenolect.units import format_seconds

if TYPE_CHECKING:
    from xenolect._state_objects import Objects
    from xenolect._states import Door

__all__ = ["EPOCH", "Draft", "Fenced", "Head", "Moved", "Versions", "link_of"]

log = logging.getLogger("xenolect.states")

EPOCH = "gc_epoch"


class Head(NamedTuple):
    """The newest version, the fact's own version, and its document (None: never any)."""

    version: int
    fact: int
    value: Mapping[str, Any] | None


class Draft(NamedTuple):
    """A content whose chunks are stored. ``base`` is the head whose objects it may share, ``epoch``
    the collector's and ``began`` the time (seconds since the epoch) when storing began. ``whole``: the
    parent's manifests are not to be relied on. ``schema``: None for that of the head."""

    table: Sequence[Entry]
    kind: str
    size: int
    chunk_size: int
    sha256: str | None
    base: Head
    epoch: int
    began: float
    write: str
    whole: bool = False
    schema: int | None = None


class Moved(Exception):
    """Somebody else committed a version meanwhile."""


class Fenced(Exception):
    """Garbage was collected meanwhile: what was stored may be gone."""


class Versions:
    """The facts ``state`` (the newest version of a variant) and ``state_version`` (each one)."""

    def __init__(self, door: Door, objects: Objects) -> None:
        self._door = door
        self._objects = objects

    # -- reading ----------------------------------------------------------------------------------

    def head(self, variant_id: str) -> Head:
        """The newest version in this process's eyes."""
        fact = self._door.fact("state", variant_id)
        if fact is None:
            return Head(0, 0, None)
        return Head(fact.value["version"] if fact.value else 0, fact.version, fact.value)

    def expect(self, variant_id: str, expected: int | None) -> Head:
        """The head, at the version expected if any; ConflictError names both."""
        head = self.head(variant_id)
        if expected is None or head.version == expected:
            return head
        self._door.catch_up()
        head = self.head(variant_id)
        if head.version != expected:
            raise ConflictError(
                f"the state of variant {variant_id!r} is at version {head.version}, you expected "
                f"{expected}; get it again and decide again",
                expected=expected,
                found=head.version,
            )
        return head

    def parent(self, variant_id: str, head: Head) -> Content | None:
        """The head's table; None where there is none, or where it is damaged: a put needs none."""
        if head.value is None or not head.value.get("manifest"):
            return None
        try:
            return self._objects.content(variant_id, link_of(head.value))
        except CorruptError as error:
            log.error(
                "the state of %s is damaged, nothing of it is reused: %s",
                variant_id,
                error,
                extra={"variant_id": variant_id},
            )
            return None

    def version(self, variant_id: str, version: int) -> Mapping[str, Any] | None:
        """The document of a version."""
        fact = self._door.fact("state_version", f"{variant_id}/{version:08d}")
        return None if fact is None else fact.value

    def wanted(self, variant_id: str, version: int | None) -> Mapping[str, Any]:
        """The document of a version (None: the newest); StateNotFoundError says which there are."""
        for attempt in range(2):
            head = self.head(variant_id)
            value = self.version(variant_id, head.version if version is None else version)
            if value is not None and value.get("manifest"):
                return value
            if not attempt:
                self._door.catch_up()
        if version is None or not head.version:
            raise StateNotFoundError(f"variant {variant_id!r} has no state; states.put stores one")
        raise StateNotFoundError(
            f"variant {variant_id!r} has no state version {version}, the newest is {head.version}; "
            f"states.versions(variant) lists them"
        )

    def located(self, variant_id: str, version: int | None) -> tuple[StateRef, Content]:
        """A version (None: the newest) with its table; StateNotFoundError, CorruptError."""
        value = self.wanted(variant_id, version)
        content = self._objects.content(variant_id, link_of(value))
        ref = state_ref_from_json(value)
        if (content.manifest.root, content.manifest.size) != (ref.root, ref.size):
            raise CorruptError(
                f"{content.link.key} describes another content than the index",
                key=content.link.key,
                expected=ref.root,
                found=content.manifest.root,
            )
        return ref, content

    def epoch(self) -> int:
        """The collector's epoch: a writer that began in an older one must begin again."""
        fact = self._door.fact("setting", EPOCH)
        return 0 if fact is None or fact.value is None else int(fact.value["epoch"])

    # -- committing -------------------------------------------------------------------------------

    def commit(self, variant_id: str, head: Head, draft: Draft) -> StateRef:
        """Make a draft the version after ``head``. Moved, Fenced: nothing was committed."""
        door = self._door
        now = door.clock()
        grace = door.config.state.gc_grace
        if 0 < grace / 2 < now - draft.began:
            raise ConflictError(
                f"storing the state took {format_seconds(now - draft.began)}, more than half of state.gc_grace "
                f"({format_seconds(grace)}): its objects could be collected; raise the grace, put again"
            )
        parent = None if draft.whole else self.parent(variant_id, head)
        version = head.version + 1
        root = root_of(draft.table)
        ref = StateRef(
            variant_id,
            version,
            draft.kind,
            draft.size,
            root,
            draft.sha256,
            len(draft.table),
            moment(now),
            _schema(head) if draft.schema is None else draft.schema,
        )
        same = None
        if parent is not None and _same(parent.manifest, ref, draft):
            link, same = parent.link, head.version
        else:
            manifest = self._manifest(draft, ref, parent)
            link = self._objects.put_manifest(manifest)
            self._objects.remember(Content(manifest, link, tuple(draft.table)))

        def build() -> Sequence[Change]:
            door.variant(variant_id)
            if self.epoch() != draft.epoch:
                raise Fenced
            if self.head(variant_id).fact != head.fact:
                raise Moved
            if draft.base.version and self.version(variant_id, draft.base.version) is None:
                raise Fenced  # the version whose objects are shared is gone, and they may be too
            changes: list[Change] = list(self._objects.store.introduce())
            changes.extend(self._next(head, ref, link, same))
            return changes

        door.commit_retrying(build)
        return ref

    def _manifest(self, draft: Draft, ref: StateRef, parent: Content | None) -> Manifest:
        """What changed since the parent, or the whole table where that is due or no longer."""
        table = draft.table
        changed = dict(enumerate(table))
        above: Link | None = None
        depth = 0
        if (
            parent is not None
            and parent.manifest.chunk_size == draft.chunk_size
            and parent.manifest.depth + 1 < FULL_EVERY
        ):
            old = parent.table
            delta = {i: entry for i, entry in changed.items() if i >= len(old) or old[i] != entry}
            if len(delta) < len(changed):
                changed, above, depth = delta, parent.link, parent.manifest.depth + 1
        return Manifest(
            ref.variant_id,
            ref.version,
            ref.kind,
            ref.size,
            draft.chunk_size,
            ref.root,
            ref.sha256,
            ref.created_at,
            changed,
            draft.write,
            draft.epoch,
            above,
            depth,
        )

    def _next(self, head: Head, ref: StateRef, link: Link, same_as: int | None) -> Iterator[Change]:
        """What makes ``ref`` the newest version."""
        named = {"manifest": link.key, "manifest_sha256": link.sha256}
        stored = {**state_ref_to_json(ref), **named}
        if same_as is not None:
            stored["same_as"] = same_as
        yield Put("state_version", f"{ref.variant_id}/{ref.version:08d}", stored, 0)
        now = {**(head.value or {}), **named, "version": ref.version, "ref": state_ref_to_json(ref)}
        yield Put("state", ref.variant_id, now, head.fact)

    # -- for rollback points ----------------------------------------------------------------------

    def same_as(self, variant_id: str, version: int) -> list[Change]:
        """The changes that make an older version current again as the next one: metadata only, not yet
        committed. StateNotFoundError."""
        head = self.head(variant_id)
        value = self.wanted(variant_id, version)
        ref = attrs.evolve(
            state_ref_from_json(value),
            version=head.version + 1,
            created_at=moment(self._door.clock()),
        )
        return list(self._next(head, ref, link_of(value), version))

    def without(self, variant_id: str) -> list[Change]:
        """The changes that leave the variant without a state again, as the next version; not yet
        committed."""
        head = self.head(variant_id)
        version = head.version + 1
        gone = {"variant_id": variant_id, "version": version, "manifest": None, "ref": None}
        return [
            Put("state_version", f"{variant_id}/{version:08d}", gone, 0),
            Put("state", variant_id, {**(head.value or {}), **gone}, head.fact),
        ]


def link_of(value: Mapping[str, Any]) -> Link:
    """The manifest that a fact names."""
    return Link(value["manifest"], value["manifest_sha256"])


def _schema(head: Head) -> int:
    ref = (head.value or {}).get("ref") or {}
    return int(ref.get("schema", 1))


def _same(manifest: Manifest, ref: StateRef, draft: Draft) -> bool:
    """Is the parent's manifest true of the new version too?"""
    return (manifest.root, manifest.size, manifest.kind, manifest.chunk_size, manifest.sha256) == (
        ref.root,
        ref.size,
        ref.kind,
        draft.chunk_size,
        ref.sha256,
    )
