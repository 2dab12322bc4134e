"""A chunk store and an index in dictionaries: the reference that says what the others must do.

Nothing survives the process, and a forked child goes on with a copy of its own. A store with a name is the same store for everybody who opens that
name in this process, so several managers may share it; without a name it is private.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from xenolect import forks
from xenolect.cas import (
    check_after,
    check_change,
    check_cursor,
    check_lead,
    check_text,
    moment,
    prepare,
    prepared_text,
)
from xenolect.errors import (
    CorruptError,
    DuplicateError,
    InvalidError,
    NotFoundError,
    StorageError,
)
from xenolect.facts import (
    GENESIS,
    Batch,
    Change,
    Contents,
    Entry,
    Fact,
    Lease,
    Observation,
    Rollup,
    Window,
    canonical,
    change_from_json,
    change_to_json,
    digest_entry_text,
)
from xenolect.interfaces import Buffer
from xenolect.objects import as_bytes, check_key, check_prefix, check_range

__all__ = ["MemoryChunks", "MemoryIndex"]


class _Whole:
    """What is not half done in a forked child, which goes on with a copy of its own."""

    __slots__ = ("lock",)

    lock: threading.Lock

    def __attrs_post_init__(self) -> None:
        forks.watch(self, store=True)

    def before_fork(self) -> None:
        """Wait until nobody writes."""
        self.lock.acquire()

    def after_fork(self, child: bool) -> None:
        """Go on."""
        self.lock.release()


@attrs.define(eq=False)
class _Objects(_Whole):
    """What chunk stores of one name share."""

    lock: threading.Lock = attrs.field(factory=threading.Lock)
    data: dict[str, bytes] = attrs.field(factory=dict)


@attrs.define(eq=False)
class _Tables(_Whole):
    """What indexes of one name share. Facts hold ``(version, value as JSON text or None)``."""

    lock: threading.Lock = attrs.field(factory=threading.Lock)
    facts: dict[tuple[str, str], tuple[int, str | None]] = attrs.field(factory=dict)
    journal: list[tuple[float, str, str, str]] = attrs.field(factory=list)
    lost: int = 0  # entries of which only the last one's digest is known
    observations: list[Observation] = attrs.field(factory=list)
    windows: dict[int, Window] = attrs.field(factory=dict)  # in the order they were appended
    appended: int = 0
    rolled: int = 0
    rollups: dict[tuple[str, str, float], Rollup] = attrs.field(factory=dict)
    leases: dict[str, Lease] = attrs.field(factory=dict)
    batches: dict[str, int] = attrs.field(factory=dict)  # the newest of each writer

    def takes(self, once: Batch | None) -> bool:
        """Is the batch new? Then it is one that was stored."""
        if once is None:
            return True
        new = once.number > self.batches.get(once.writer, 0)
        if new:
            self.batches[once.writer] = once.number
        return new


_named_lock = threading.Lock()  # held for one look, by whoever opens a store
_objects: dict[str, _Objects] = {}
_tables: dict[str, _Tables] = {}


class MemoryChunks:
    """Chunks in a dictionary, safe for threads."""

    def __init__(self, name: str = "") -> None:
        with _named_lock:
            self._held = _objects.setdefault(name, _Objects()) if name else _Objects()

    def put(self, key: str, data: Buffer, *, if_absent: bool = True) -> None:
        """Keep a copy of ``data``; an existing key is a DuplicateError with ``if_absent``."""
        check_key(key)
        copy = bytes(as_bytes(data))
        with self._held.lock:
            if if_absent and key in self._held.data:
                raise DuplicateError(f"{key!r} exists already; an object is written once")
            self._held.data[key] = copy

    def get(self, key: str) -> bytes:
        """The whole object."""
        try:
            return self._held.data[check_key(key)]
        except KeyError:
            raise NotFoundError(f"no object {key!r} in memory") from None

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``."""
        check_range(start, stop)
        return self.get(key)[start:stop]

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""
        check_key(key)
        with self._held.lock:
            self._held.data.pop(key, None)

    def list(self, prefix: str) -> Iterator[str]:
        """Every key that starts with ``prefix``, ascending, as of now."""
        check_prefix(prefix)
        with self._held.lock:
            return iter(sorted(key for key in self._held.data if key.startswith(prefix)))

    def close(self) -> None:
        """Nothing to let go of."""


class MemoryIndex:
    """An index in dictionaries, safe for threads; values are kept as text, so nobody can edit them."""

    def __init__(self, name: str = "") -> None:
        with _named_lock:
            self._held = _tables.setdefault(name, _Tables()) if name else _Tables()
        self._closed = False

    def commit(
        self,
        changes: Sequence[Change],
        *,
        actor: str,
        at: float,
        observations: Sequence[Observation] = (),
        after: int | None = None,
        once: Batch | None = None,
    ) -> int:
        """Decide on a copy of what is touched, then publish all of it."""
        prepared, at = prepare(changes), moment(at)
        check_text(actor, "the actor", empty=True)
        observed = [_observation(each) for each in observations]
        held = self._open()
        with held.lock:
            revision = len(held.journal)
            check_after(after, revision)
            touched: dict[tuple[str, str], tuple[int, str | None]] = {}
            for change, text in prepared:
                name = (change.kind, change.key)
                version, old = touched.get(name) or held.facts.get(name, (0, None))
                check_change(change, version, old is not None)
                touched[name] = (version + 1, text)
            stored = prepared_text(prepared)
            previous = held.journal[-1][3] if held.journal else GENESIS
            digest = digest_entry_text(previous, revision + 1, at, actor, stored)
            if observed and held.takes(once):
                self._observe(observed)
            held.facts.update(touched)
            held.journal.append((at, actor, stored, digest))
            return revision + 1

    def load(self) -> Contents:
        """Every fact as of one revision, in the order of kind and key."""
        held = self._open()
        with held.lock:
            facts = tuple(
                Fact(kind, key, version, _value(text))
                for (kind, key), (version, text) in sorted(held.facts.items())
            )
            digest = held.journal[-1][3] if held.journal else GENESIS
            return Contents(len(held.journal), digest, facts)

    def get(self, kind: str, key: str) -> Any | None:
        """The value of one fact as of now, or None."""
        return _value(self._open().facts.get((kind, key), (0, None))[1])

    def changes(self, after: int) -> Sequence[Entry]:
        """The journal after a revision; CorruptError when it does not reach that far."""
        held = self._open()
        with held.lock:
            head = len(held.journal)
            rows = held.journal[max(after, 0) :]
            previous = held.journal[after - 1][3] if 0 < after <= head else GENESIS
        if after > head:
            raise CorruptError(
                f"the index is at revision {head}, but {after} was read before: it was replaced by an "
                f"older one; open it again after finding out why",
                key="journal",
            )
        if after < held.lost:
            raise CorruptError(
                f"journal entry {max(after, 0) + 1} is missing: the index was restored without it",
                key=f"journal/{max(after, 0) + 1}",
            )
        entries = []
        for revision, (at, actor, text, digest) in enumerate(rows, max(after, 0) + 1):
            changes = tuple(map(change_from_json, _value(text)))
            entries.append(Entry(revision, at, actor, changes, previous, digest))
            previous = digest
        return entries

    def restore(self, contents: Contents, entries: Sequence[Entry]) -> None:
        """Fill an empty index."""
        held = self._open()
        with held.lock:
            lost, digest = check_lead(contents, entries, len(held.journal))
            held.lost = lost
            held.journal[:] = [(0.0, "", "[]", digest)] * lost
            for entry in entries:
                stored = canonical([change_to_json(change) for change in entry.changes])
                held.journal.append((entry.at, entry.actor, stored, entry.digest))
            held.facts.clear()
            for fact in contents.facts:
                text = None if fact.value is None else canonical(fact.value)
                held.facts[fact.kind, fact.key] = (fact.version, text)

    def append_windows(
        self,
        batch: Sequence[Window | Observation],
        *,
        durable: bool = False,
        once: Batch | None = None,
    ) -> int:
        """Append measurements; the last observation's sequence so far. Nothing here is durable."""
        observed = [_observation(each) for each in batch if isinstance(each, Observation)]
        windows = [_window(each) for each in batch if isinstance(each, Window)]
        held = self._open()
        with held.lock:
            if not batch or not held.takes(once):
                return len(held.observations)
            self._observe(observed)
            for each in windows:
                held.appended += 1
                held.windows[held.appended] = attrs.evolve(each, sequence=held.appended)
            return len(held.observations)

    def appended(
        self, after: int | None, limit: int, writer: str = ""
    ) -> tuple[int, Sequence[Window]]:
        """Windows appended after a cursor, but not the writer's own, and the cursor behind them."""
        held = self._open()
        with held.lock:
            if after is None:
                return held.appended, []
            found: list[Window] = []
            for number in range(after + 1, held.appended + 1):
                each = held.windows.get(number)
                if each is not None and not (writer and each.writer == writer):
                    found.append(each)
                    if len(found) == limit:
                        return number, found
            return max(after, held.appended), found

    def windows(self, variant_id: str, since: float, until: float) -> Iterator[Window]:
        """Windows of a variant whose start is in ``[since, until)``, oldest first."""
        held = self._open()
        with held.lock:
            found = [
                each
                for each in held.windows.values()
                if each.variant_id == variant_id and since <= each.start < until
            ]
        return iter(sorted(found, key=lambda each: each.start))

    def unrolled(self, limit: int) -> tuple[int, int, Sequence[Window]]:
        """The next windows that no ``roll_up`` has taken in, between two cursors."""
        held = self._open()
        with held.lock:
            until = min(held.rolled + limit, held.appended)
            found = [held.windows[number] for number in range(held.rolled + 1, until + 1)]
            return held.rolled, until, found

    def roll_up(self, since: int, until: int, rollups: Sequence[Rollup]) -> None:
        """Store roll-ups and move the cursor, all or nothing."""
        copies = [Rollup(**_copied(each)) for each in rollups]
        held = self._open()
        with held.lock:
            check_cursor(since, held.rolled)
            for each in copies:
                held.rollups[each.resolution, each.variant_id, each.start] = each
            held.rolled = until

    def rollups(
        self, variant_id: str, resolution: str, since: float, until: float
    ) -> Iterator[Rollup]:
        """Roll-ups of a variant whose start is in ``[since, until)``, oldest first."""
        held = self._open()
        with held.lock:
            found = [
                each
                for (kind, name, start), each in held.rollups.items()
                if kind == resolution and name == variant_id and since <= start < until
            ]
        return iter(sorted(found, key=lambda each: each.start))

    def forget(self, resolution: str, before: float, limit: int) -> int:
        """Delete old windows that were taken in, or old roll-ups."""
        held = self._open()
        with held.lock:
            if resolution:
                old = [k for k in held.rollups if k[0] == resolution and k[2] < before][:limit]
                for key in old:
                    del held.rollups[key]
                return len(old)
            gone = [
                number
                for number, each in held.windows.items()
                if number <= held.rolled and each.start < before
            ][:limit]
            for number in gone:
                del held.windows[number]
            return len(gone)

    def observations(self, rollout: str, after: int) -> Sequence[Observation]:
        """Evidence of a rollout with a sequence greater than ``after``."""
        held = self._open()
        with held.lock:
            return [each for each in held.observations[max(after, 0) :] if each.rollout == rollout]

    def lease(self, name: str, holder: str, now: float, ttl: float) -> Lease:
        """Take, renew or give back a lease; return who holds it now ("" for nobody)."""
        held = self._open()
        with held.lock:
            found = held.leases.get(name, Lease(name, "", 0.0, 0))
            live = bool(found.holder) and now < found.until
            if live and found.holder != holder:
                return found
            if ttl > 0:
                epoch = found.epoch if live else found.epoch + 1
                held.leases[name] = Lease(name, holder, now + ttl, epoch)
            elif found.epoch:
                held.leases[name] = Lease(name, "", now, found.epoch)
            return held.leases.get(name, found)

    def leases(self, prefix: str, now: float) -> Sequence[Lease]:
        """The live leases whose names start with ``prefix``, by name."""
        held = self._open()
        with held.lock:
            return [
                each
                for name, each in sorted(held.leases.items())
                if name.startswith(prefix) and each.holder and now < each.until
            ]

    def close(self) -> None:
        """Calls on this object fail from now on; others of the same name go on."""
        self._closed = True

    def _open(self) -> _Tables:
        if self._closed:
            raise StorageError("the index is closed; open it again")
        return self._held

    def _observe(self, observed: Sequence[Observation]) -> None:
        stored = self._held.observations
        for each in observed:
            stored.append(attrs.evolve(each, sequence=len(stored) + 1))


def _value(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _observation(given: Observation) -> Observation:
    """A copy that shares nothing that can change."""
    return Observation(**_copied(given))


def _window(given: Window) -> Window:
    """A copy that shares nothing that can change."""
    return Window(**_copied(given))


def _copied(record: Observation | Window) -> dict[str, Any]:
    try:
        text = canonical(attrs.asdict(record))
        text.encode()
    except (TypeError, ValueError) as error:
        raise InvalidError(f"{record!r} is not JSON: {error}; nothing was stored") from error
    fields: dict[str, Any] = json.loads(text)
    return fields
