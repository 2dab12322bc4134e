"""The five changes that the demo rolls out, before they are played."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from xenolect_mcp.demo.server import LENIENT, STRICT
from xenolect_mcp.demo.traffic import DICTIONARY

__all__ = ["LAGGING", "Step", "steps"]

LAGGING = 0.3  # of the agents have not fetched the second dictionary


@attrs.frozen
class Step:
    """A phase before it is played."""

    title: str
    what: str
    variant: str
    changes: Mapping[str, Any]
    expected: str
    requirements: Mapping[str, Any] = attrs.field(factory=dict)
    note: str = ""
    replaces: bool = True


def steps(members: int) -> Iterable[Step]:
    """The five, in their order, for so many agents."""
    zstd = {"wire": "zstd", "tools": LENIENT}
    yield Step(
        "Compress with Zstandard",
        "bodies as zstd instead of plain JSON",
        "zstd",
        zstd,
        "promoted",
    )
    yield Step(
        "Share a trained dictionary",
        "zstd with a dictionary trained on earlier traffic (RFC 9842)",
        "dictionary-1",
        {"wire": "dcz", "dictionary": "dictionary-1", "tools": LENIENT},
        "promoted",
        requirements={DICTIONARY: {"at_least": 1}},
    )
    yield Step(
        "Declare output schemas",
        "tools/list with the outputSchema the tools declare; clients check results against it",
        "strict-schema",
        {"wire": "dcz", "dictionary": "dictionary-1", "tools": STRICT},
        "stopped",
        requirements={DICTIONARY: {"at_least": 1}},
    )
    lagging = round(LAGGING * members)
    yield Step(
        "Rotate the dictionary",
        "a larger dictionary, with no requirement declared",
        "dictionary-2-undeclared",
        {"wire": "dcz", "dictionary": "dictionary-2-undeclared", "tools": LENIENT},
        "stopped",
        note=f"set by the demo: {lagging} of {members} agents have not fetched it yet",
    )
    yield Step(
        "Rotate it, and say so",
        f"the same with the requirement {DICTIONARY} >= 2 declared",
        "dictionary-2",
        {"wire": "dcz", "dictionary": "dictionary-2", "tools": LENIENT},
        "promoted",
        requirements={DICTIONARY: {"at_least": 2}},
        note="agents that lag stay on the old one, which remains active for them",
        replaces=False,
    )
