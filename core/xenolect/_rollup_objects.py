"""Roll-ups in the object store: sealed segments, each written once, from which a lost index gets them back.

``variants/<id>/metrics/hourly/2026-11-25-13.bin`` is one hour. When its day is over the hours of the day
become ``2026-11-25.bin``, and the days of a month likewise ``2026-11.bin``: at the default retention a
variant has about 300 objects and not 3,000. What came too late for its segment makes a newer one,
``<bucket>.<n>.bin``, and the older goes after it is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from xenolect._buckets import label
from xenolect._envelope import METRICS
from xenolect._manifest import FORMAT
from xenolect.errors import CorruptError, DuplicateError, NotFoundError
from xenolect.facts import Rollup, canonical

if TYPE_CHECKING:
    from xenolect._state_objects import Objects

__all__ = ["COARSER", "Segment", "Segments"]

COARSER = {"hourly": "daily", "daily": "monthly"}
"""Into buckets of which resolution the segments of another are gathered."""
_NAME = re.compile(
    r"variants/(?P<owner>[^/]+)/metrics/(?P<resolution>hourly|daily|monthly)/"
    r"(?P<label>[0-9]{4}-[0-9]{2}(?:-[0-9]{2}){0,2})(?:\.(?P<revision>[0-9]{12}))?\.bin"
)


class Segment(NamedTuple):
    """What a key says."""

    key: str
    resolution: str
    label: str
    revision: int


class Segments:
    """Reads and writes them. They are sealed for the store: shredding a variant's states leaves what was
    measured of it."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def list(self, variant_id: str, resolution: str = "", name: str = "") -> list[Segment]:
        """The segments of a variant: all, of one resolution, or with a label that begins so."""
        prefix = f"variants/{variant_id}/metrics/{resolution}{'/' if resolution else ''}{name}"
        found = []
        for key in self._objects.chunks.list(prefix):
            match = _NAME.fullmatch(key)
            if match is not None:
                revision = int(match["revision"] or 0)
                found.append(Segment(key, match["resolution"], match["label"], revision))
        return found

    def write(
        self, variant_id: str, resolution: str, name: str, rows: Sequence[Rollup], revision: int
    ) -> bool:
        """Store a segment; False where one with the same content is there. ``revision`` grows with what
        the roll-ups have taken in."""
        document = {
            "format": FORMAT,
            "variant": variant_id,
            "resolution": resolution,
            "rollups": [
                [r.start, r.span, r.count, r.failures, r.bins, r.sums]
                for r in sorted(rows, key=lambda r: r.start)
            ],
        }
        plain = canonical(document).encode()
        stem = f"variants/{variant_id}/metrics/{resolution}/{name}"
        there = self.list(variant_id, resolution, f"{name}.")
        newest = max(there, key=lambda each: each.revision, default=None)
        same = newest is not None and self._plain(newest.key) == plain
        if newest is None:
            key, number = f"{stem}.bin", 0
        elif same:
            key, number = newest.key, newest.revision
        else:
            number = max(revision, newest.revision + 1)
            key = f"{stem}.{number:012d}.bin"
        if not same:
            data = self._objects.seal(METRICS, key, plain, sequence=number)
            try:
                self._objects.chunks.put(key, data)
            except DuplicateError:
                return False  # another process is at it
        for each in there:
            if each.key != key:
                self._objects.chunks.delete(each.key)
        return not same

    def _plain(self, key: str) -> bytes | None:
        """The content of a segment, None where it can not be read."""
        try:
            return self._objects.get_record(METRICS, key)[1]
        except (CorruptError, NotFoundError):
            return None

    def read(self, variant_id: str, segment: Segment) -> Sequence[Rollup]:
        """The roll-ups in a segment; CorruptError, NotFoundError."""
        key, kind = segment.key, segment.resolution
        header, plain = self._objects.get_record(METRICS, key)
        try:
            document = json.loads(plain)
            rows = [
                Rollup(variant_id, start, span, count, failures, bins, sums, resolution=kind)
                for start, span, count, failures, bins, sums in document["rollups"]
            ]
            owner = (document["format"], document["variant"], document["resolution"])
        except (ValueError, TypeError, LookupError) as cause:
            raise CorruptError(f"{key} is no segment: {cause!r}", key=key, offset=0) from cause
        if owner != (FORMAT, variant_id, segment.resolution) or header.sequence != segment.revision:
            raise CorruptError(f"{key} is of {owner[1]!r}: objects were swapped", key=key)
        return rows

    def gather(self, variant_id: str, resolution: str, name: str) -> None:
        """Remove the segments that the one of ``name`` holds."""
        for each in self.list(variant_id, resolution, f"{name}-"):
            self._objects.chunks.delete(each.key)

    def forget(self, variant_id: str, before: dict[str, float]) -> int:
        """Remove those that ended before their retention; how many went."""
        gone = 0
        oldest = {resolution: label(resolution, at) for resolution, at in before.items()}
        for each in self.list(variant_id):
            # of labels that are dates, a shorter one begins as those it holds do
            if each.label < oldest[each.resolution][: len(each.label)]:
                self._objects.chunks.delete(each.key)
                gone += 1
        return gone

    def all(self, variant_id: str) -> Iterator[tuple[Segment, Iterable[Rollup] | CorruptError]]:
        """Every segment with its roll-ups, or with what is wrong; the older first."""
        for each in sorted(
            self.list(variant_id), key=lambda s: (-len(s.label), s.label, s.revision)
        ):
            try:
                yield each, self.read(variant_id, each)
            except NotFoundError:
                continue
            except CorruptError as error:
                yield each, error
