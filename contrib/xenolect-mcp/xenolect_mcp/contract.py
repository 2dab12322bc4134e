"""Tool contracts: what a variant changes about the tools that a server lists.

``changes["tools"]`` of a variant is a JSON Merge Patch (RFC 7396) for each tool it changes, by the server's
own name of the tool; null hides one, ``name`` renames one::

    {"tools": {
        "forecast": {"description": "Weather by city", "outputSchema": {"required": ["celsius"]}},
        "forecast_v1": None,
        "radar": {"name": "rain_radar"},
    }}

A contract is what is declared. What the tool then does is its own: it asks ``current_selection()``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from xenolect import ProtocolVariant

__all__ = ["CONTRACT_SCHEMA", "Contract", "ContractError", "merge", "tools_of"]

CONTRACT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "tools": {
            "type": "object",
            "additionalProperties": {
                "type": ["object", "null"],
                "properties": {
                    "name": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,128}$"},
                    "title": {"type": ["string", "null"]},
                    "description": {"type": ["string", "null"]},
                    "inputSchema": {"type": "object"},
                    "outputSchema": {"type": ["object", "null"]},
                    "annotations": {"type": ["object", "null"]},
                    "icons": {"type": ["array", "null"]},
                    "execution": {"type": ["object", "null"]},
                    "_meta": {"type": ["object", "null"]},
                },
                "additionalProperties": False,
            },
        }
    },
}
"""What ``changes`` with a contract looks like. As ``metadata={"changes_schema": CONTRACT_SCHEMA}`` a
variant with a mistake in it is refused when it is proposed."""


class ContractError(ValueError):
    """A variant's contract can not be applied; the message says where and why."""


def tools_of(variant: ProtocolVariant) -> Mapping[str, Any] | None:
    """What a variant changes about tools; None if nothing (other programs may keep a word there)."""
    changes = variant.changes
    tools = changes.get("tools") if isinstance(changes, Mapping) else None
    return tools if isinstance(tools, Mapping) and tools else None


def merge(value: Any, patch: Any) -> Any:
    """JSON Merge Patch (RFC 7396) as a new value."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    merged = dict(value) if isinstance(value, Mapping) else {}
    for key, item in patch.items():
        if item is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), item)
    return merged


@attrs.frozen
class Contract:
    """The contract of one variant, checked."""

    variant_id: str
    patches: Mapping[str, Any]
    served: Mapping[str, str] = attrs.field(factory=dict)  # new name -> the server's own

    @classmethod
    def of(cls, variant: ProtocolVariant) -> Contract | None:
        """The variant's contract; None if it has none. ContractError for one that makes no sense."""
        tools = tools_of(variant)
        if tools is None:
            return None
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match

        found = best_match(Draft202012Validator(CONTRACT_SCHEMA).iter_errors({"tools": tools}))
        if found is not None:
            where = found.json_path.removeprefix("$.")
            raise ContractError(
                f"changes.{where} of variant {variant.id} is no contract of a tool: {found.message}"
            )
        served: dict[str, str] = {}
        for own, patch in tools.items():
            name = patch.get("name", own) if patch is not None else None
            if name in served:
                raise ContractError(
                    f"variant {variant.id} gives the tools {served[name]!r} and {own!r} one name, "
                    f"{name!r}; give each its own"
                )
            if name is not None:
                served[name] = own
        return cls(variant.id, tools, served)

    def applied(self, result: Mapping[str, Any], version: str) -> dict[str, Any]:
        """A result of ``tools/list`` as this contract declares it, in a revision of MCP.

        ContractError where it makes of a tool what MCP can not list.
        """
        from mcp_types.methods import validate_server_result
        from pydantic import ValidationError

        shown: dict[str, str] = {}
        declared: list[dict[str, Any]] = []
        for tool in result.get("tools", []):
            own = tool["name"]
            patch = self.patches.get(own, {})
            if patch is None:
                continue
            made = merge(tool, patch)
            name = made["name"]
            if name in shown:
                raise ContractError(
                    f"variant {self.variant_id} lists the tools {shown[name]!r} and {own!r} both as "
                    f"{name!r}; hide one (null) or give it another name"
                )
            shown[name] = own
            declared.append(made)
        applied = {**result, "tools": declared}
        try:
            validate_server_result("tools/list", version, applied)
        except ValidationError as error:
            first = error.errors()[0]
            _, index, *where = first["loc"] if len(first["loc"]) > 2 else (None, -1)
            own = shown[declared[index]["name"]] if isinstance(index, int) and index >= 0 else "?"
            raise ContractError(
                f"variant {self.variant_id} makes tool {own!r} one that MCP {version} can not list: "
                f"{'.'.join(map(str, where))}: {first['msg']}"
            ) from error
        return applied

    def own(self, name: str) -> str | None:
        """The server's own name of a tool that a client calls ``name``; None if the contract has none."""
        if name in self.served:
            return self.served[name]
        return None if name in self.patches else name  # patched, and not under this name: hidden

    def unknown(self, listed: Iterable[Mapping[str, Any]]) -> list[str]:
        """Tools that the contract changes and a whole list does not have."""
        return sorted(set(self.patches) - {tool["name"] for tool in listed})
