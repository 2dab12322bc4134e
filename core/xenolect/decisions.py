"""``manager.decisions``: the journal of everything that was decided, and proof that nobody edited it.

Every commit is one entry, and its digest covers the digest of the entry before. So an edit anywhere
changes every digest behind it; only a cut tail leaves no trace inside, which is why ``anchor`` exists:
keep what it returns somewhere else, and ``verify`` notices when that entry is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from xenolect.errors import CorruptError, InvalidError
from xenolect.facts import GENESIS, SELECTIONS, Entry, Put, digest_entry
from xenolect.interfaces import Index

__all__ = ["Decisions", "Problem", "Sampled", "Verified", "touches"]

MOST = 100  # problems that are looked for: each reads the journal behind the last one again


@attrs.frozen
class Problem:
    """Something that is not as it was decided. ``revision`` names the entry; None: no one entry."""

    kind: str  # "entry", "anchor", "facts", "verdict", "transition" or "routing"
    revision: int | None
    message: str


@attrs.frozen
class Sampled:
    """A selection that the journal holds, as it was made: see ``journal.sample``.

    ``at``: seconds since the epoch; ``version``: the variant's; ``revision``: the index's that it was
    decided at; ``score``: None where there was none.
    """

    at: float
    agent: str
    session: str | None
    protocol: str
    variant: str
    version: int
    reason: str
    score: float | None
    revision: int


Problems = list[Problem]


@attrs.frozen
class Verified:
    """How many entries were read, the head they lead to, and what is wrong with them."""

    entries: int
    revision: int
    digest: str
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Is the journal as it was written?"""
        return not self.problems


class Decisions:
    """Reads the journal of an index; iterating gives all entries, oldest first."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._index.changes(0))

    def list(
        self, variant: Any = None, *, newest: bool = False, limit: int | None = None
    ) -> Sequence[Entry]:
        """Entries oldest first (or newest), those that touch a variant, at most ``limit``.

        CorruptError names the first entry that was edited; ``verify`` names all.
        """
        found: Sequence[Entry] = self._index.changes(0)
        if variant is not None:
            wanted = (
                variant
                if isinstance(variant, str)
                else str(getattr(variant, "variant", variant).id)
            )
            found = [entry for entry in found if touches(entry, wanted)]
        if newest:
            found = found[::-1]
        return tuple(found[:limit])

    def selections(self, agent: Any = None) -> Iterator[Sampled]:
        """The selections that ``journal.sample`` kept, oldest first of each process; of one agent.

        Later releases may keep more of each: what this one does not know is left out. CorruptError.
        """
        wanted = agent if agent is None or isinstance(agent, str) else str(agent.id)
        names = [field.name for field in attrs.fields(Sampled)]
        for entry in self._index.changes(0):
            for change in entry.changes:
                if isinstance(change, Put) and change.kind == SELECTIONS:
                    for row in change.value["chosen"]:
                        if wanted is None or row["agent"] == wanted:
                            yield Sampled(**{name: row[name] for name in names})

    def anchor(self) -> dict[str, Any]:
        """``{"revision", "digest"}`` of the newest entry: 90 bytes to keep where nobody can cut them."""
        contents = self._index.load()
        return {"revision": contents.revision, "digest": contents.digest}

    def verify(self, anchor: Mapping[str, Any] | None = None) -> Verified:
        """Recompute the chain from the first entry; compare it with an anchor kept elsewhere.

        Edited entries are named one by one: behind an edit the chain is taken up again at the digest
        that is stored. InvalidError for something that is no anchor.
        """
        return self.read(anchor)[1]

    def read(self, anchor: Mapping[str, Any] | None = None) -> tuple[tuple[Entry, ...], Verified]:
        """``verify``, together with the entries; none when an entry was edited."""
        expected = None if anchor is None else _anchor(anchor)
        problems = self._refused()
        if problems:
            head = self._index.load()
            return (), Verified(head.revision, head.revision, head.digest, tuple(problems))
        entries = tuple(self._index.changes(0))
        digests = {0: GENESIS}
        for number, each in enumerate(entries, 1):
            found = digest_entry(digests[number - 1], number, each.at, each.actor, each.changes)
            if (each.revision, each.previous, each.digest) != (number, digests[number - 1], found):
                problems.append(_edited(number, "is not what was written"))
            digests[number] = each.digest
        revision, digest = len(entries), digests[len(entries)]
        if expected is not None and digests.get(expected[0]) != expected[1]:
            at = expected[0]
            message = (
                f"the journal ends at entry {revision}, but the anchor saw entry {at}: its tail was "
                f"cut off, or an older copy was put in its place"
                if at > revision
                else f"entry {at} is not the one the anchor saw: the journal was rewritten from there "
                f"or before"
            )
            problems.append(Problem("anchor", at, message))
        return entries, Verified(revision, revision, digest, tuple(problems))

    def _refused(self) -> Problems:
        """Entries that the index itself refuses to give out, at most ``MOST``."""
        problems: Problems = []
        after = 0
        while len(problems) < MOST:
            try:
                self._index.changes(after)
            except CorruptError as error:
                name = str(error.key or "")
                number = name.removeprefix("journal/")
                if not number.isdigit() or int(number) <= after:
                    # the entry to go on from is gone itself: what follows hangs in the air
                    if not problems:
                        problems.append(Problem("entry", None, str(error)))
                    break
                after = int(number)
                problems.append(_edited(after, "is missing or is not what was written"))
                continue
            break
        return problems


def touches(entry: Entry, variant_id: str) -> bool:
    """Does an entry change anything of a variant?"""
    for change in entry.changes:
        if change.key == variant_id and change.kind not in ("agent", "setting"):
            return True
        if change.key.startswith(f"{variant_id}/"):
            return True
        if (
            isinstance(change, Put)
            and isinstance(change.value, Mapping)
            and change.value.get("variant_id") == variant_id
        ):
            return True
    return False


def _edited(revision: int, what: str) -> Problem:
    return Problem("entry", revision, f"entry {revision} {what}")


def _anchor(anchor: Mapping[str, Any]) -> tuple[int, str]:
    try:
        revision, digest = int(anchor["revision"]), str(anchor["digest"])
    except (KeyError, TypeError, ValueError):
        revision, digest = -1, ""
    if revision < 0 or len(digest) != len(GENESIS):
        raise InvalidError(
            f"{anchor!r} is no anchor: give what decisions.anchor() returned, "
            '{"revision": N, "digest": "64 hex digits"}'
        )
    return revision, digest
