"""What verifying, repairing and collecting found and did."""

from __future__ import annotations

import attrs

from xenolect.errors import CorruptError

__all__ = ["Collected", "Healed", "Lost", "Problem", "Repaired", "Report", "problem_of"]


@attrs.frozen
class Problem:
    """One thing that is not as written: where, what should be there, what is, and in words."""

    key: str
    offset: int | None
    expected: str | None
    found: str | None
    what: str
    variant_id: str
    version: int


@attrs.frozen
class Report:
    """What ``verify`` looked at: objects, bytes of content, and what is wrong with them.

    ``deep``: every chunk was read and its SHA-256 computed; otherwise only its presence was checked.
    ``known``: damage that a repair has noted and that no newest version depends on.
    """

    checked: int
    bytes: int
    problems: tuple[Problem, ...]
    deep: bool
    known: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


@attrs.frozen
class Collected:
    """What ``gc`` removed (or would have, ``dry_run``); ``young``: unreferenced, but within the grace."""

    removed: tuple[str, ...]
    young: int
    dry_run: bool


@attrs.frozen
class Healed:
    """A state made whole: in which new version, which objects were damaged, where their content was found."""

    variant_id: str
    damaged: int
    version: int | None
    objects: tuple[str, ...]
    sources: tuple[str, ...]


@attrs.frozen
class Lost:
    """A state whose newest version can not be made whole, and what was done about it."""

    variant_id: str
    version: int
    what: str
    done: str


@attrs.frozen
class Repaired:
    """What ``repair`` did (or would have, ``dry_run``).

    ``rewritten``: mirrors and points written again from the index. ``quarantined``: damaged objects that
    only older versions need; history is not rewritten, reading those versions fails as before.
    """

    checked: int
    healed: tuple[Healed, ...]
    lost: tuple[Lost, ...]
    rewritten: tuple[str, ...]
    quarantined: tuple[str, ...]
    dry_run: bool

    @property
    def ok(self) -> bool:
        """Every newest version is whole again."""
        return not self.lost


def problem_of(error: CorruptError, key: str, variant_id: str, version: int) -> Problem:
    """A reader's error as a line of the report."""
    return Problem(
        error.key or key,
        error.offset,
        error.expected,
        error.found,
        str(error),
        variant_id,
        version,
    )
