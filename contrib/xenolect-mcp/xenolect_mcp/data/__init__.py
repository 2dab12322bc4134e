"""The vendored traffic and fleet, read once: real MCP clients, and sessions of real tool calls.

Sources, versions and licences: ``NOTICE``. ``scripts/rebuild_data.py`` rebuilds the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import attrs

__all__ = ["Call", "Session", "clients", "sessions", "tools"]


@attrs.frozen
class Call:
    """One recorded tool call: ``result`` is what the suite's back end returned."""

    suite: str
    tool: str
    arguments: Mapping[str, Any]
    result: Any

    @property
    def name(self) -> str:
        """The tool's name on the wire, ``Suite.tool``."""
        return f"{self.suite}.{self.tool}"


@attrs.frozen
class Session:
    """The calls of one conversation, in order; they may touch several suites."""

    id: str
    calls: tuple[Call, ...]


def _read(name: str) -> bytes:
    data = (resources.files(__name__) / name).read_bytes()
    if name.endswith(".zst"):
        import zstandard

        return zstandard.ZstdDecompressor().decompress(data)
    return data


@cache
def sessions() -> tuple[Session, ...]:
    """All 800 sessions (4,625 calls), in the order of the source."""
    calls: dict[str, list[Call]] = {}
    for line in _read("bfcl_trace.jsonl.zst").splitlines():
        row = json.loads(line)
        call = Call(row["suite"], row["tool"], row["arguments"], row["result"])
        calls.setdefault(row["session"], []).append(call)
    return tuple(Session(name, tuple(group)) for name, group in calls.items())


@cache
def tools() -> Mapping[str, Mapping[str, Any]]:
    """The 128 declarations by their name on the wire: name, description, inputSchema, outputSchema."""
    found = json.loads(_read("bfcl_tools.json.zst"))
    return {tool["name"]: tool for tool in found.values()}


@cache
def clients() -> Mapping[str, Mapping[str, Any]]:
    """42 MCP clients by name: protocolVersion, title, url, and what they declare."""
    found: Mapping[str, Mapping[str, Any]] = json.loads(_read("mcp_clients.json"))
    return found
