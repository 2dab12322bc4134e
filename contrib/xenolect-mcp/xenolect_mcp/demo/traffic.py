"""Who calls what: the fleet's declared contexts, and the sessions dealt to it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from xenolect_mcp import data
from xenolect_mcp.data import Session
from xenolect_mcp.identity import EXT

__all__ = ["DICTIONARY", "Member", "deal", "fleet", "training"]

DICTIONARY = "zstd.dict"
"""The capability that says which generation of the shared dictionary an agent has."""

_DECLARED = ("sampling", "elicitation", "roots")  # what a client may declare to a server


@attrs.frozen
class Member:
    """One client of the fleet: its real name and what it declares, and its newest dictionary."""

    name: str
    declared: Mapping[str, Any]
    mode: str
    dictionary: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What it says under the extension."""
        return {"capabilities": {DICTIONARY: self.dictionary}, "platform": "demo"}

    @property
    def extensions(self) -> dict[str, Any]:
        """The same, as capabilities hold it."""
        return {EXT: self.settings}


def fleet() -> tuple[Member, ...]:
    """The 42 clients in the order of the source; every other one speaks the stateless revision.

    What they declare is theirs. Which era of MCP the demo makes them speak is not: the list is of
    February 2026, when none could know the revision of July.
    """
    return tuple(
        Member(
            name,
            {key: value for key, value in client.items() if key in _DECLARED},
            "legacy" if i % 2 else "2026-07-28",
        )
        for i, (name, client) in enumerate(data.clients().items())
    )


def task(session: Session) -> int:
    """The number of the benchmark task; the four categories hold variations of the same 200 tasks."""
    return int(session.id.rpartition("_")[2])


def training() -> tuple[Session, ...]:
    """A quarter of the tasks, in all their variations: dictionaries are trained on these alone."""
    return tuple(session for session in data.sessions() if task(session) % 4 == 3)


def deal(
    count: int, members: Sequence[Member], seed: object = None
) -> Iterator[tuple[Member, Session]]:
    """``count`` sessions, shuffled, dealt round robin; those for training come last (above 600)."""
    held = training()
    kept = {session.id for session in held}
    fresh = [session for session in data.sessions() if session.id not in kept]
    rng = random.Random(f"deal {seed}")
    rng.shuffle(fresh)
    dealt = [*fresh, *held][:count]
    for i, session in enumerate(dealt):
        yield members[i % len(members)], session
