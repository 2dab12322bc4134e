"""Checking the journal's mirror against the index, and writing what is damaged or missing again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from xenolect._journal_objects import JournalObjects, Segment, in_slices
from xenolect._upkeep_report import Problem, problem_of
from xenolect.errors import CorruptError, NotFoundError
from xenolect.facts import Entry
from xenolect.interfaces import CheckedIndex

if TYPE_CHECKING:
    from xenolect._records import Records
    from xenolect._rollups import RollUps
    from xenolect._runtime import Runtime
    from xenolect._states import States

__all__ = ["JournalUpkeep"]


class JournalUpkeep:
    """What verify, repair and reindex do with the index, its journal's mirror, and the records."""

    def __init__(
        self, runtime: Runtime, states: States, journal: JournalObjects, records: Records
    ) -> None:
        self._runtime = runtime
        self._states = states
        self._journal = journal
        self._records = records
        self.rollups: RollUps | None = None  # set by the manager

    # -- checking ---------------------------------------------------------------------------------

    def check(self, variant_id: str | None) -> Iterator[Problem]:
        """What is wrong with the records and, looking at everything, with index and journal.

        Entries that are not mirrored yet are no problem; one that is missing before the newest that
        is mirrored would be missing when the index has to be rebuilt.
        """
        yield from self._records.check(variant_id)
        yield from self._check_rollups(variant_id)
        if variant_id is not None:
            return
        lost, entries = 0, ()  # type: tuple[int, Sequence[Entry]]
        try:
            self._runtime.index.load()
            lost, entries = self._entries()
        except CorruptError as error:
            yield problem_of(error, "index", "", 0)
        if isinstance(self._runtime.index, CheckedIndex):
            for key in self._runtime.index.damage():
                words = f"the index's row {key} is not what was written"
                yield Problem(f"index/{key}", None, None, None, words, "", 0)
        yield from self._check_segments(lost, entries)

    def _check_rollups(self, variant_id: str | None) -> Iterator[Problem]:
        if self.rollups is None:
            return
        for owner in sorted(self._runtime.variants):
            if variant_id in (None, owner):
                for segment, rows in self.rollups.segments.all(owner):
                    if isinstance(rows, CorruptError):
                        yield problem_of(rows, segment.key, owner, segment.revision)

    def _entries(self) -> tuple[int, Sequence[Entry]]:
        """How many entries were lost when the index was rebuilt, and those it has; CorruptError."""
        index = self._runtime.index
        try:
            return 0, index.changes(0)
        except CorruptError as error:
            if error.key != "journal/1":
                raise
            low, high = 1, self._runtime.revision  # the first one missing: it begins somewhere
            while low < high:
                middle = (low + high) // 2
                try:
                    index.changes(middle)
                    high = middle
                except CorruptError:
                    low = middle + 1
            if high <= 1:
                raise
            return high, index.changes(high)

    def _check_segments(self, lost: int, entries: Sequence[Entry]) -> Iterator[Problem]:
        digests = {entry.revision: entry.digest for entry in entries}
        segments, checkpoints = self._journal.names()
        good = []
        for segment in segments:
            try:
                found = self._journal.read(segment)
                for entry in found:
                    if digests.get(entry.revision, entry.digest) != entry.digest:
                        raise CorruptError(
                            f"{segment.key}: entry {entry.revision} is not the index's",
                            key=segment.key,
                            expected=digests[entry.revision],
                            found=entry.digest,
                        )
                good.append(segment)
            except NotFoundError:
                continue  # made one with others meanwhile
            except CorruptError as error:
                yield problem_of(error, segment.key, "", segment.first)
        for first, last in gaps(good, max((s.last for s in segments), default=0)):
            if last > lost and not any(s.first <= last and s.last >= first for s in segments):
                what = f"entries {first} to {last} are in no segment of journal/"
                yield Problem(Segment(first, last).key, None, None, None, what, "", first)
        for revision in checkpoints:
            key = self._journal.checkpoint_key(revision)
            try:
                digest = self._journal.checkpoint(revision).contents.digest
                if digests.get(revision, digest) != digest:
                    raise CorruptError(f"{key} is not of this index's entry {revision}", key=key)
            except NotFoundError:
                continue
            except CorruptError as error:
                yield problem_of(error, key, "", revision)

    # -- mending ----------------------------------------------------------------------------------

    def holds(self, key: str) -> bool:
        """Can it be written again from the index?"""
        return key.startswith("journal/") or _is_rollup(key) or self._records.holds(key)

    def rewrite(self, problem: Problem) -> bool:
        """Write one again; False where the index can not say what it was."""
        if self._records.holds(problem.key):
            return self._records.rewrite(problem)
        if _is_rollup(problem.key):
            return self.rollups is not None and self.rollups.rewrite(
                problem.variant_id, problem.key
            )
        self._runtime.chunks.delete(problem.key)
        self.complete(dry_run=False)
        return True

    def complete(self, *, dry_run: bool) -> list[str]:
        """Write every entry that no segment holds; the keys. CorruptError where the index has it not."""
        segments, _ = self._journal.names()
        _, entries = self._entries()
        head = entries[-1].revision if entries else 0
        written = []
        for first, last in gaps(segments, head):
            for part in in_slices([e for e in entries if first <= e.revision <= last]):
                segment = Segment(part[0].revision, part[-1].revision)
                written.append(segment.key)
                if not dry_run:
                    self._journal.write(part)
        return written

    def rebuild(self, *, dry_run: bool) -> list[str]:
        """Write every mirror that is damaged, missing or behind; the keys."""
        written = []
        for problem in list(self.check(None)):
            if self.holds(problem.key):
                written.append(problem.key)
                if not dry_run and _is_rollup(problem.key):
                    self.rewrite(problem)
                elif not dry_run:
                    self._runtime.chunks.delete(problem.key)
        written += self.complete(dry_run=dry_run)
        for variant_id in sorted(self._runtime.variants):
            for key in (
                f"variants/{variant_id}/metadata.json",
                f"variants/{variant_id}/state/index.json",
            ):
                if self._behind(key, variant_id):
                    written.append(key)
            if not dry_run:
                self._records.write(variant_id)
                self._states._mirrors.touch(variant_id)
        if not dry_run:
            self._states.flush()
        return sorted(set(written))

    def _behind(self, key: str, variant_id: str) -> bool:
        from xenolect import _envelope

        kind = "variant" if key.endswith("metadata.json") else "state"
        fact = self._runtime.fact(kind, variant_id)
        if fact is None or fact.value is None:
            return False
        wanted = fact.version if kind == "variant" else int(fact.value["version"])
        try:
            start = self._runtime.chunks.get_range(key, 0, _envelope.HEADER_MAX)
            return _envelope.Header.decode(start, key)[0].sequence < wanted
        except (NotFoundError, CorruptError):
            return True


def _is_rollup(key: str) -> bool:
    return key.startswith("variants/") and "/metrics/" in key


def gaps(segments: Sequence[Segment], head: int) -> Iterator[tuple[int, int]]:
    """The runs of revisions up to ``head`` that no segment holds."""
    at = 0
    for segment in sorted(segments):
        if segment.first > at + 1:
            yield at + 1, segment.first - 1
        at = max(at, segment.last)
    if at < head:
        yield at + 1, head
