"""New data keys: made in one commit, then the newest state of each variant is sealed with its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from xenolect._codec import moment
from xenolect._envelope import HEADER_MAX, Header
from xenolect._keyring import IDS, KEY, STORE, Moved, scope_of
from xenolect._state_versions import EPOCH, Draft, Fenced, link_of
from xenolect._state_versions import Moved as Overtaken
from xenolect.errors import ConflictError
from xenolect.facts import Change, Put

if TYPE_CHECKING:
    from xenolect._manifest import Content, Entry
    from xenolect._runtime import Runtime
    from xenolect._states import States
    from xenolect._upload import Progress

__all__ = ["Rekey", "Rekeyed", "Resealed"]

_RETRIES = 32
_MARK = "rekeying"
"""In the fact of a scope: its newest state may still be sealed with an older key."""


@attrs.frozen
class Resealed:
    """A state that was sealed anew: in which new version, how many chunks and bytes of content."""

    variant_id: str
    version: int | None
    chunks: int
    bytes: int


@attrs.frozen
class Rekeyed:
    """What ``rekey`` did (or would have, ``dry_run``). keys: the scopes that have a new key; resumed: none
    was made, as an earlier run had made them."""

    states: tuple[Resealed, ...]
    keys: tuple[str, ...]
    resumed: bool
    dry_run: bool


class Rekey:
    """One run over a variant, or over all."""

    def __init__(self, runtime: Runtime, states: States) -> None:
        self._runtime = runtime
        self._states = states
        self._objects = states.objects
        self._ring = states.objects.keys

    def run(self, one: str | None, dry_run: bool, progress: Progress) -> Rekeyed:
        """New keys first, unless an earlier run left some to go on with; then state after state."""
        self._runtime.catch_up()
        waiting = [scope for scope, value in self._ring.scopes() if value.get(_MARK)]
        if one is not None:
            waiting = [scope for scope in waiting if scope == scope_of(one)]
        made: list[str] = []
        if not waiting:
            made = [scope_of(one)] if one is not None else self._scopes()
            if not dry_run:
                self._renew(made)
        owners = self._owners(one, made or waiting)
        total = sum(size for _, size in owners)
        done = 0
        states = []
        for variant_id, size in owners:
            resealed = self._reseal(variant_id, dry_run, bool(made))
            done += size
            if resealed is not None:
                states.append(resealed)
            if progress is not None:
                progress(done, total)
        if not dry_run:
            self._finish(made or waiting)
        return Rekeyed(tuple(states), tuple(made), not made, dry_run)

    def _scopes(self) -> list[str]:
        """Every scope with a key, but for the one that names objects: names are for ever."""
        having = {scope for scope, value in self._ring.scopes() if value["id"] and scope != IDS}
        states = {scope_of(variant_id) for variant_id, _ in self._owners(None, None)}
        return sorted(having | states | {STORE})

    def _renew(self, scopes: list[str]) -> None:
        runtime = self._runtime
        at = moment(runtime.clock()).isoformat()

        def fence() -> list[Change]:
            """Whoever seals with the older key now begins again, with the new one."""
            epoch = runtime.value("setting", EPOCH) or {"epoch": 0}
            return [Put("setting", EPOCH, {"epoch": epoch["epoch"] + 1, "at": at})]

        for _ in range(_RETRIES):
            try:
                self._ring.make(scopes, lambda _: True, fence, **{_MARK: True})
            except Moved:
                continue
            runtime.tell("keys.rekeyed", scopes=len(scopes))
            return
        raise ConflictError("the keys are wrapped anew faster than one can be made; try again")

    def _owners(self, one: str | None, scopes: list[str] | None) -> list[tuple[str, int]]:
        """Variants with a state, and its size."""
        return [
            (key, int(fact.value["ref"]["size"]))
            for (kind, key), fact in sorted(self._runtime.facts.copy().items())
            if kind == "state" and fact.value is not None and fact.value.get("manifest")
            if one in (None, key) and (scopes is None or scope_of(key) in scopes)
        ]

    # -- one state --------------------------------------------------------------------------------

    def _reseal(self, variant_id: str, dry_run: bool, fresh: bool) -> Resealed | None:
        """Seal the newest version anew where any chunk of it needs that; None where none does."""
        versions = self._states.heads
        for _ in range(_RETRIES):
            epoch, began = versions.epoch(), self._runtime.clock()
            head = versions.head(variant_id)
            if head.value is None or not head.value.get("manifest"):
                return None
            content = self._objects.content(variant_id, link_of(head.value), fresh=True)
            todo = [
                position
                for position in range(len(content.table))
                if (dry_run and fresh) or not self._is_current(variant_id, content, position)
            ]
            size = sum(content.plain(position) for position in todo)
            whole = content.manifest.parent is None
            if not todo and whole and self._is_current(variant_id, content, None):
                return None
            if dry_run:
                return Resealed(variant_id, None, len(todo), size)
            write = self._runtime.token(8)
            table: list[Entry] = list(content.table)

            def seal(position: int, table: list[Entry] = table, content: Content = content,
                     sequence: int = head.version + 1, write: str = write) -> None:  # fmt: skip
                entry = table[position]
                plain = bytearray(content.plain(position))
                self._objects.get_chunk(variant_id, position, entry, memoryview(plain))
                table[position] = self._objects.put_chunk(
                    variant_id, sequence, position, plain, entry.digest, write
                )

            self._objects.keys.ready(variant_id)
            self._states.workers.each(seal, todo)
            manifest = content.manifest
            draft = Draft(
                table, manifest.kind, manifest.size, manifest.chunk_size, manifest.sha256,
                head, epoch, began, write, whole=True,
            )  # fmt: skip
            try:
                ref = versions.commit(variant_id, head, draft)
            except (Overtaken, Fenced):
                self._runtime.catch_up()
                continue
            self._states.stored(ref)
            return Resealed(variant_id, ref.version, len(todo), size)
        raise ConflictError(
            f"the state of variant {variant_id!r} is changed by others faster than it can be sealed; run "
            f"`xenolect keys rekey` again",
            retry_after=0.1,
        )

    def _is_current(self, variant_id: str, content: Content, position: int | None) -> bool:
        """Is a chunk, or (None) the manifest, sealed with the variant's newest key? The first bytes after
        its header say."""
        key, offset = content.link.key, 0
        if position is not None:
            entry = content.table[position]
            key, offset = f"variants/{variant_id}/state/{entry.object}", entry.offset
        start = self._runtime.chunks.get_range(key, offset, offset + HEADER_MAX + 16)
        header, end = Header.decode(start, key)
        value: Any = self._runtime.value(KEY, scope_of(variant_id))
        current = value["id"] if value else None
        return header.cipher == self._runtime.cipher.id and start[end : end + 16].hex() == current

    def _finish(self, scopes: list[str]) -> None:
        def build() -> list[Change]:
            changes: list[Change] = []
            for scope in scopes:
                fact = self._runtime.fact(KEY, scope)
                if fact is not None and fact.value is not None and fact.value.get(_MARK):
                    changes.append(Put(KEY, scope, {**fact.value, _MARK: False}, fact.version))
            return changes

        self._runtime.commit_retrying(build, actor="keys rekey")
