"""Compare-and-swap: what a change needs of the fact as it is, and whether what was read is what was
written. The same for every index, so that an author of one writes only how it stores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from xenolect.errors import ConflictError, CorruptError, DuplicateError, InvalidError
from xenolect.facts import (
    GENESIS,
    Change,
    Contents,
    Entry,
    Put,
    canonical,
    change_from_json,
    change_to_json,
    digest_entry,
    digest_entry_text,
    digest_fact_text,
)

__all__ = [
    "Prepared",
    "check_after",
    "check_change",
    "check_cursor",
    "check_lead",
    "check_text",
    "checked_entries",
    "checked_value",
    "entry_of",
    "moment",
    "prepare",
    "prepared_text",
    "restored_rows",
]

Prepared = tuple[Change, str | None]
"""A change whose value is plain JSON, and that value's canonical text; None for a Drop."""

_AGAIN = "read it again and decide again"


def prepare(changes: Sequence[Change]) -> list[Prepared]:
    """Copy every value through its JSON text, so that what is stored is what will be read."""
    prepared: list[Prepared] = []
    for change in changes:
        check_text(change.kind, "the kind of a fact")
        check_text(change.key, "the key of a fact")
        if not isinstance(change, Put):
            prepared.append((change, None))
            continue
        if change.value is None:
            raise InvalidError(
                f"{change.kind} {change.key!r}: None can not be put; remove a fact with Drop"
            )
        try:
            text = canonical(change.value)
            text.encode()
            value = json.loads(text)
            # equal in nearly every case, and compared in a tenth of the time a second text takes
            again = text if value == change.value else canonical(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidError(
                f"{change.kind} {change.key!r}: the value is not JSON: {error}"
            ) from error
        if again != text:  # {10: .., 9: ..} sorts as numbers and comes back as text
            raise InvalidError(f"{change.kind} {change.key!r}: the keys of a value must be text")
        prepared.append((Put(change.kind, change.key, value, change.expected), text))
    return prepared


def prepared_text(prepared: Sequence[Prepared]) -> str:
    """The canonical text of the changes as the journal stores it, from the values' own texts."""
    rows = []
    for change, text in prepared:
        kind, key, expected = map(canonical, (change.kind, change.key, change.expected))
        rows.append(
            f'{{"drop":{kind},"expected":{expected},"key":{key}}}'
            if text is None
            else f'{{"expected":{expected},"key":{key},"put":{kind},"value":{text}}}'
        )
    return f"[{','.join(rows)}]"


def entry_of(
    previous: str, revision: int, at: float, actor: str, changes: Sequence[Change]
) -> Entry:
    """The journal entry that a commit has made, as reading it back would give it."""
    text = prepared_text(prepare(changes))
    read = tuple(change_from_json(row) for row in json.loads(text))
    at = moment(at)
    digest = digest_entry_text(previous, revision, at, actor, text)
    return Entry(revision, at, actor, read, previous, digest)


def check_change(change: Change, version: int, live: bool) -> None:
    """May ``change`` be applied to a fact at ``version`` (0: never written; not live: a tombstone)?

    ConflictError for a stale ``expected``; DuplicateError where a key is taken, or was taken once.
    """
    expected = change.expected
    what = f"{change.kind} {change.key!r}"
    if (
        expected is not None
        and expected != version
        and not (isinstance(change, Put) and expected == 0)
    ):
        if live:
            message = f"{what} is at version {version}, you expected {expected}; {_AGAIN}"
        elif version:
            message = f"{what} was removed at version {version}, you expected {expected}; {_AGAIN}"
        else:
            message = f"{what} does not exist, you expected version {expected}; {_AGAIN}"
        raise ConflictError(message, expected=expected, found=version)
    if not isinstance(change, Put):
        if expected == 0:
            raise ConflictError(
                f"{what} does not exist, so it can not be removed", expected=0, found=0
            )
        return
    if version and not live:
        raise DuplicateError(
            f"{what} was removed at version {version}, and a key is never used again; choose another",
            expected=expected,
            found=version,
        )
    if expected == 0 and version:
        raise DuplicateError(
            f"{what} exists already, at version {version}; choose another key, or update it",
            expected=0,
            found=version,
        )


def check_after(after: int | None, revision: int) -> None:
    """ConflictError when the whole index was expected at another revision."""
    if after is not None and after != revision:
        raise ConflictError(
            f"the index is at revision {revision}, you expected {after}; {_AGAIN}",
            expected=after,
            found=revision,
        )


def check_text(value: str, what: str, *, empty: bool = False) -> str:
    """Text that can be stored as UTF-8: InvalidError for lone surrogates, other types, nothing."""
    try:
        if isinstance(value, str) and (value or empty):
            value.encode()
            return value
    except UnicodeEncodeError:
        pass
    raise InvalidError(f"{what} must be text, got {value!r}")


def moment(at: float) -> float:
    """Seconds since the epoch as the float that is digested and stored."""
    if not isinstance(at, (int, float)) or not math.isfinite(at):
        raise InvalidError(f"at must be seconds since the epoch, got {at!r}")
    return float(at)


def check_cursor(since: int, found: int) -> None:
    """Raise ConflictError when windows were taken in by somebody else meanwhile."""
    if since != found:
        raise ConflictError(
            f"windows up to {since} were to be rolled up from, but others were taken in up to {found}; "
            f"ask for those that are left",
            expected=since,
            found=found,
        )


def checked_value(kind: str, key: str, version: int, text: str | None, stored: str) -> Any:
    """The value of a stored fact (text None: a tombstone); CorruptError when it fails its digest."""
    found = digest_fact_text(kind, key, version, "null" if text is None else text)
    if found != stored:
        raise CorruptError(
            f"{kind} {key!r} at version {version} is not what was written; restore the index "
            f"from a backup",
            key=f"{kind}/{key}",
            expected=stored,
            found=found,
        )
    return None if text is None else json.loads(text)


def checked_entries(
    rows: Sequence[tuple[int, str, str, float, str, str]], after: int
) -> list[Entry]:
    """Rows of the journal (revision, previous, actor, at, changes, digest) as entries.

    They start with the row of ``after``, unless that is 0; each must follow from the one before, and
    be what was written: CorruptError.
    """
    previous = GENESIS
    if after:
        previous = rows[0][5]
        rows = rows[1:]
    entries = []
    for wanted, (revision, stored, actor, at, text, digest) in enumerate(rows, after + 1):
        if revision != wanted or stored != previous:
            raise CorruptError(
                f"journal entry {wanted} is missing or does not follow from the one before; restore "
                f"the index from a backup",
                key=f"journal/{wanted}",
                expected=previous,
                found=stored,
            )
        try:
            changes = tuple(map(change_from_json, json.loads(text)))
            found = digest_entry_text(previous, revision, at, actor, text)
        except (ValueError, KeyError, TypeError):
            found = "unreadable"
        if found != digest:
            raise CorruptError(
                f"journal entry {revision} is not what was written; restore the index "
                f"from a backup",
                key=f"journal/{revision}",
                expected=digest,
                found=found,
            )
        entries.append(Entry(revision, at, actor, changes, previous, digest))
        previous = digest
    return entries


def check_lead(contents: Contents, entries: Sequence[Entry], head: int) -> tuple[int, str]:
    """The revision and digest before ``entries``, which must lead to ``contents``; ``head``, that of the
    index to fill, must be 0. ConflictError, InvalidError."""
    if head:
        raise ConflictError(
            f"the index is at revision {head} and not empty; restore into a new one",
            expected=0,
            found=head,
        )
    if not entries:
        return contents.revision, contents.digest
    before = entries[0].revision - 1, entries[0].previous
    revision, digest = before
    for entry in entries:
        found = digest_entry(digest, entry.revision, entry.at, entry.actor, entry.changes)
        if (entry.revision, entry.previous, entry.digest) != (revision + 1, digest, found):
            raise InvalidError(f"entry {entry.revision} does not follow from the one before")
        revision, digest = entry.revision, entry.digest
    if (revision, digest) != (contents.revision, contents.digest):
        raise InvalidError(
            f"the entries lead to revision {revision}, the facts are of {contents.revision}"
        )
    return before


def restored_rows(
    contents: Contents, entries: Sequence[Entry], head: int
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The rows of an index to be filled: of its journal (revision, previous, actor, at, changes,
    digest), and of its facts (kind, key, version, text, digest). ConflictError, InvalidError.

    Where older entries are lost, the row before the first one keeps their digest; ``checked_entries``
    tells who asks for an older one that it is missing.
    """
    lost, digest = check_lead(contents, entries, head)
    journal: list[tuple[Any, ...]] = [(lost, GENESIS, "", 0.0, "[]", digest)] if lost else []
    for each in entries:
        text = canonical([change_to_json(change) for change in each.changes])
        journal.append((each.revision, each.previous, each.actor, each.at, text, each.digest))
    facts = []
    for fact in contents.facts:
        value = None if fact.value is None else canonical(fact.value)
        digest = digest_fact_text(fact.kind, fact.key, fact.version, value or "null")
        facts.append((fact.kind, fact.key, fact.version, value, digest))
    return journal, facts
