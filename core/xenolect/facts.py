"""What an index holds: facts, the journal that made them, observations, windows, leases.

A *fact* is a JSON document under ``(kind, key)`` with a version. Facts change only through
``Index.commit``, all or nothing, and every commit becomes one journal *entry* whose digest includes
the previous entry's, so an edited history is detected. Observations (the evidence of running
rollouts) and windows (measured history) are appended in batches and are not in the journal, except
when they travel inside a commit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

__all__ = [
    "GENESIS",
    "SELECTIONS",
    "Batch",
    "Change",
    "Contents",
    "Drop",
    "Entry",
    "Fact",
    "Lease",
    "Observation",
    "Put",
    "Rollup",
    "Window",
    "canonical",
    "digest_entry",
    "digest_entry_text",
    "digest_fact",
    "digest_fact_text",
]

GENESIS = "0" * 64
"""The digest before the first entry."""
SELECTIONS = "selections"
"""The kind of fact whose value is a batch of selections, for the journal; see ``journal.sample``."""


@attrs.frozen
class Put:
    """Write a fact. ``expected`` is the version it must have now: 0 for none ever, None for any."""

    kind: str
    key: str
    value: Any
    expected: int | None = None


@attrs.frozen
class Drop:
    """Remove a fact. Its version stays behind as a tombstone, so the key can not be born again."""

    kind: str
    key: str
    expected: int | None = None


Change = Put | Drop


@attrs.frozen
class Fact:
    """A document as stored. ``value`` is None for a tombstone."""

    kind: str
    key: str
    version: int
    value: Any


@attrs.frozen
class Entry:
    """One commit in the journal. ``at`` is seconds since the epoch; ``digest`` covers all fields."""

    revision: int
    at: float
    actor: str
    changes: tuple[Change, ...]
    previous: str
    digest: str


@attrs.frozen
class Contents:
    """Everything a process needs to start: the facts as of ``revision``, tombstones included."""

    revision: int
    digest: str
    facts: tuple[Fact, ...]


@attrs.frozen
class Observation:
    """Evidence of a rollout: ``operations`` of one unit on one arm, in the order of ``sequence``.

    ``sequence`` is assigned by the index (0 before). ``arm`` is "canary" or "control".
    ``latency_ms`` is one observation; ``writer`` names the process that saw it.
    """

    rollout: str
    arm: str
    unit: str
    operations: int
    failures: int
    at: float
    latency_ms: float | None = None
    custom: Mapping[str, float] = attrs.field(factory=dict)
    writer: str = ""
    sequence: int = 0


@attrs.frozen
class Window:
    """What one process measured of one variant in ``[start, start + span)``; windows add up.

    ``bins`` is a ``Sketch`` of latencies in JSON form. ``sums`` maps a metric to ``[sum, weight]``;
    names that begin with an underscore are the manager's own. ``writer`` names the process that
    measured. ``sequence`` is assigned by the index (0 before): the order they were appended in.
    """

    variant_id: str
    start: float
    span: float
    count: int
    failures: int
    bins: Sequence[Sequence[int]] = ()
    sums: Mapping[str, Sequence[float]] = attrs.field(factory=dict)
    writer: str = ""
    sequence: int = 0


@attrs.frozen
class Rollup(Window):
    """The windows of one hour, day or month added up; ``resolution``: "hourly", "daily", "monthly".

    Others are the manager's own, and their ``sums`` may hold lists of any length.
    """

    resolution: str = "hourly"


@attrs.frozen
class Batch:
    """Which batch of a process's measurements this is. Numbers grow; what is sent again, since its answer
    was lost, keeps its number, so that the index stores it once."""

    writer: str
    number: int


@attrs.frozen
class Lease:
    """Who holds a name, until when (seconds since the epoch); ``epoch`` grows with each new holder."""

    name: str
    holder: str
    until: float
    epoch: int


_encode = json.JSONEncoder(  # made once: json.dumps makes one for each text, a fifth of its time
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return _encode(value)


def change_to_json(change: Change) -> dict[str, Any]:
    """A change as the JSON that the journal stores."""
    if isinstance(change, Put):
        return {
            "put": change.kind,
            "key": change.key,
            "value": change.value,
            "expected": change.expected,
        }
    return {"drop": change.kind, "key": change.key, "expected": change.expected}


def change_from_json(data: Mapping[str, Any]) -> Change:
    """Read what ``change_to_json`` wrote."""
    if "put" in data:
        return Put(data["put"], data["key"], data["value"], data["expected"])
    return Drop(data["drop"], data["key"], data["expected"])


def digest_entry(
    previous: str, revision: int, at: float, actor: str, changes: Sequence[Change]
) -> str:
    """The hash-chain digest of one entry: SHA-256 over the previous digest and every field."""
    text = canonical([change_to_json(change) for change in changes])
    return digest_entry_text(previous, revision, at, actor, text)


def digest_entry_text(previous: str, revision: int, at: float, actor: str, text: str) -> str:
    """``digest_entry`` of changes that are canonical text already, as a store keeps it.

    Over the stored bytes, so that an edit is noticed even where both texts mean the same (0.10, 0.1).
    """
    body = f'{{"actor":{canonical(actor)},"at":{canonical(at)},"changes":{text},"revision":{revision}}}'
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()


def digest_fact(kind: str, key: str, version: int, value: Any) -> str:
    """The digest stored beside a fact, so that a flipped bit in a row is noticed."""
    return digest_fact_text(kind, key, version, canonical(value))


def digest_fact_text(kind: str, key: str, version: int, text: str) -> str:
    """``digest_fact`` of a value that is canonical text already, as a store keeps it."""
    return hashlib.sha256(f"{kind}\n{key}\n{version}\n{text}".encode()).hexdigest()
