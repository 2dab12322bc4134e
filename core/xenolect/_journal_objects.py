"""The index's journal in the object store: sealed segments of hash-chained entries, and checkpoints.

A segment ``journal/<first>-<last>.bin`` holds whole entries, so its digests can be recomputed and it
must follow from the segment before. Segments of several processes may overlap: what they hold is the
same. ``journal/checkpoint-<revision>.bin`` holds every fact as of a revision.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xenolect._envelope import CHECKPOINT, SEGMENT
from xenolect._manifest import FORMAT
from xenolect.errors import CorruptError, DuplicateError, EmergenceError, StorageError
from xenolect.facts import (
    GENESIS,
    Contents,
    Entry,
    Fact,
    canonical,
    change_from_json,
    change_to_json,
    digest_entry,
)

if TYPE_CHECKING:
    from xenolect._state_objects import Objects
    from xenolect.interfaces import ChunkStore

__all__ = ["MOST", "PREFIX", "Chain", "Checkpoint", "JournalObjects", "Segment"]

PREFIX = "journal/"
MOST = 1024
"""Entries of one segment at most."""
_NAME = re.compile(
    r"journal/(?:(?P<first>[0-9]{12})-(?P<last>[0-9]{12})|checkpoint-(?P<at>[0-9]{12}))\.bin"
)


class Segment(NamedTuple):
    """The revisions a segment holds, by its name."""

    first: int
    last: int

    @property
    def key(self) -> str:
        """Where it is."""
        return f"{PREFIX}{self.first:012d}-{self.last:012d}.bin"

    @property
    def entries(self) -> int:
        """How many it holds."""
        return self.last - self.first + 1


class Checkpoint(NamedTuple):
    """Every fact as of a revision, and the digest of the configuration then."""

    contents: Contents
    config: str


class Chain(NamedTuple):
    """Entries that follow from each other, and what was found damaged on the way.

    ``before``: the revision and digest that the first entry follows from. ``gap``: the first revision
    that no readable segment holds though later ones exist; None where nothing is missing.
    """

    before: tuple[int, str]
    entries: tuple[Entry, ...]
    damaged: tuple[CorruptError, ...]
    gap: int | None


class JournalObjects:
    """Reads and writes them. ``objects`` seals; ``spare`` is another store that may have a copy."""

    def __init__(self, objects: Objects, spare: ChunkStore | None = None) -> None:
        self._objects = objects
        self._spare = spare

    def names(self) -> tuple[list[Segment], list[int]]:
        """The segments in ascending order, and the revisions of the checkpoints."""
        segments, checkpoints = [], []
        for key in self._objects.chunks.list(PREFIX):
            match = _NAME.fullmatch(key)
            if match is None:
                continue
            if match["at"] is not None:
                checkpoints.append(int(match["at"]))
            else:
                segments.append(Segment(int(match["first"]), int(match["last"])))
        return sorted(segments), sorted(checkpoints)

    # -- segments ---------------------------------------------------------------------------------

    def write(self, entries: Sequence[Entry]) -> Segment:
        """Store entries that follow from each other as one segment; there already is as good."""
        segment = Segment(entries[0].revision, entries[-1].revision)
        # Entry by entry: one call for all of them would hold the interpreter's lock too long.
        rows = ",".join([canonical(_to_json(entry)) for entry in entries])
        head = canonical({"format": FORMAT, "previous": entries[0].previous})
        plain = f'{head[:-1]},"entries":[{rows}]}}'.encode()
        try:
            data = self._objects.seal(
                SEGMENT, segment.key, plain, sequence=segment.last, position=segment.first
            )
            self._objects.chunks.put(segment.key, data)
        except DuplicateError:
            pass
        return segment

    def read(self, segment: Segment) -> list[Entry]:
        """The entries of a segment, every digest recomputed; CorruptError, NotFoundError."""
        try:
            return self._read(segment, self._objects.chunks)
        except EmergenceError as error:
            if error.retryable or self._spare is None:
                raise
            try:
                return self._read(segment, self._spare)
            except EmergenceError:
                raise error from None

    def _read(self, segment: Segment, chunks: ChunkStore) -> list[Entry]:
        key = segment.key
        header, plain = self._objects.get_record(SEGMENT, key, chunks=chunks)
        document = _document(plain, key)
        entries = []
        try:
            previous = document["previous"]
            for revision, at, actor, changes, digest in document["entries"]:
                made = tuple(map(change_from_json, changes))
                entries.append(Entry(revision, at, actor, made, previous, digest))
                found = digest_entry(previous, revision, at, actor, made)
                if found != digest:
                    raise CorruptError(
                        f"{key}: entry {revision} is not what was committed",
                        key=key,
                        offset=0,
                        expected=digest,
                        found=found,
                    )
                previous = digest
        except (ValueError, TypeError, LookupError) as cause:
            raise CorruptError(
                f"{key} is no journal segment: {cause!r}", key=key, offset=0
            ) from cause
        numbers = [entry.revision for entry in entries]
        if numbers != list(range(segment.first, segment.last + 1)) or (
            (header.position, header.sequence) != segment
        ):
            raise CorruptError(f"{key} holds other entries than its name says", key=key, offset=0)
        return entries

    def chain(self, after: int = 0, digest: str = GENESIS) -> Chain:
        """Every entry after a revision that segments hold without a gap."""
        segments, _ = self.names()
        entries: list[Entry] = []
        damaged: list[CorruptError] = []
        at, previous = after, digest
        bad: set[Segment] = set()
        while True:
            # the longest first; where it is damaged a shorter one may hold the same
            candidates = sorted(
                (s for s in segments if s.first <= at + 1 <= s.last and s not in bad),
                key=lambda s: -s.last,
            )
            if not candidates:
                later = [s for s in segments if s.last > at]
                return Chain(
                    (after, digest), tuple(entries), tuple(damaged), at + 1 if later else None
                )
            segment = candidates[0]
            try:
                found = [e for e in self.read(segment) if e.revision > at]
                if found[0].previous != previous:
                    raise CorruptError(
                        f"{segment.key}: entry {found[0].revision} does not follow from the one before",
                        key=segment.key,
                        expected=previous,
                        found=found[0].previous,
                    )
            except (CorruptError, LookupError) as error:
                bad.add(segment)
                damaged.append(
                    error
                    if isinstance(error, CorruptError)
                    else CorruptError(str(error), key=segment.key)
                )
                continue
            entries.extend(found)
            at, previous = found[-1].revision, found[-1].digest

    def delete(self, segments: Iterable[Segment]) -> None:
        """Remove segments that another one holds whole."""
        for segment in segments:
            self._objects.chunks.delete(segment.key)

    # -- checkpoints ------------------------------------------------------------------------------

    def write_checkpoint(self, contents: Contents, config: str) -> None:
        """Store every fact as of a revision."""
        key = _checkpoint_key(contents.revision)
        rows = ",".join([canonical([f.kind, f.key, f.version, f.value]) for f in contents.facts])
        head = canonical({"format": FORMAT, "digest": contents.digest, "config": config})
        plain = f'{head[:-1]},"facts":[{rows}]}}'.encode()
        try:
            data = self._objects.seal(CHECKPOINT, key, plain, sequence=contents.revision)
            self._objects.chunks.put(key, data)
        except DuplicateError:
            pass

    def checkpoint(self, revision: int) -> Checkpoint:
        """Read one; CorruptError, NotFoundError."""
        key = _checkpoint_key(revision)
        header, plain = self._objects.get_record(CHECKPOINT, key)
        document = _document(plain, key)
        try:
            facts = tuple(Fact(*row) for row in document["facts"])
            contents = Contents(header.sequence, document["digest"], facts)
            checkpoint = Checkpoint(contents, document["config"])
        except (ValueError, TypeError, LookupError) as cause:
            raise CorruptError(f"{key} is no checkpoint: {cause!r}", key=key, offset=0) from cause
        if header.sequence != revision:
            raise CorruptError(f"{key} is of revision {header.sequence}", key=key, offset=48)
        return checkpoint

    def delete_checkpoints(self, revisions: Iterable[int]) -> None:
        """Remove checkpoints that newer ones replace."""
        for revision in revisions:
            self._objects.chunks.delete(_checkpoint_key(revision))

    def checkpoint_key(self, revision: int) -> str:
        """Where one is."""
        return _checkpoint_key(revision)


def _checkpoint_key(revision: int) -> str:
    return f"{PREFIX}checkpoint-{revision:012d}.bin"


def _to_json(entry: Entry) -> list[Any]:
    changes = [change_to_json(change) for change in entry.changes]
    return [entry.revision, entry.at, entry.actor, changes, entry.digest]


def _document(plain: bytes, key: str) -> Any:
    try:
        document = json.loads(plain)
        number = document["format"]
    except (ValueError, TypeError, LookupError) as cause:
        raise CorruptError(f"{key} is no document: {cause!r}", key=key, offset=0) from cause
    if number != FORMAT:
        raise StorageError(
            f"{key} has format {number}, this release reads {FORMAT}; upgrade xenolect"
        )
    return document


def in_slices(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Entries in the portions that segments hold."""
    for start in range(0, len(entries), MOST):
        yield entries[start : start + MOST]
