"""Does a tool's result keep the ``outputSchema`` that the variant declares for it?

Only what a variant declares is looked at. A schema of the tool's own is on every variant alike, so
breaking it says nothing of any.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from xenolect_mcp.contract import Contract, merge

__all__ = ["Outputs"]

WORDS = 200  # characters of a message: it may quote the whole result


class Outputs:
    """The schemas in use, compiled: making one costs sixty times as much as using it."""

    def __init__(self) -> None:
        self._own: dict[str, Any] = {}  # tool -> outputSchema, as the server last listed it
        self._compiled: dict[tuple[str, str], tuple[Any, Any, Any]] = {}

    def listed(self, tools: Any) -> None:
        """Remember what the server itself declares."""
        for tool in tools:
            self._own[tool["name"]] = copy.deepcopy(tool.get("outputSchema"))

    def broken(self, contract: Contract, tool: str, result: Mapping[str, Any]) -> str:
        """What a result breaks, with its path; "" if nothing, or if the variant declares nothing of it.

        A schema that is none, or refers to elsewhere, is broken by every result: clients can not check it.
        """
        patch = contract.patches.get(tool)
        if patch is None or patch.get("outputSchema") is None:
            return ""
        from jsonschema.exceptions import SchemaError, best_match
        from referencing.exceptions import Unresolvable

        if "structuredContent" not in result:
            return "it has an output schema and returned no structured content"
        try:
            validator = self._validator(contract, tool, patch["outputSchema"])
            found = best_match(validator.iter_errors(result["structuredContent"]))
        except SchemaError as error:
            return f"its output schema is no JSON Schema: {error.message}"[:WORDS]
        except Unresolvable as error:
            return f"its output schema refers to {error.ref!r}, which is not in it"
        return "" if found is None else f"{found.json_path}: {found.message}"[:WORDS]

    def _validator(self, contract: Contract, tool: str, patch: Any) -> Any:
        from jsonschema.validators import validator_for
        from referencing import Registry

        key, own = (contract.variant_id, tool), self._own.get(tool)
        known = self._compiled.get(key)
        if known is not None and known[0] == own and known[1] is patch:
            return known[2]
        schema = merge(own, patch)
        kind = validator_for(schema)
        kind.check_schema(schema)
        made = kind(schema, registry=Registry())  # one that knows nothing fetches nothing
        if len(self._compiled) >= 1000:
            self._compiled.clear()
        self._compiled[key] = (own, patch, made)
        return made
