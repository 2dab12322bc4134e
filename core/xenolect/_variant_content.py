"""The content of variants: checked when it is given, and as files carry it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from xenolect._codec import variant_to_json
from xenolect._schemas import check_content
from xenolect._validate import check_id, normalise
from xenolect.errors import InvalidVariantError
from xenolect.model import ProtocolVariant
from xenolect.predicates import check_predicate

__all__ = ["CONTENT", "checked", "exported", "imported"]

CONTENT = ("description", "changes", "requirements", "optional", "conflicts", "metadata")


def exported(variant: ProtocolVariant) -> dict[str, Any]:
    """What a file says of a variant."""
    document = variant_to_json(variant)
    return {name: document[name] for name in ("id", "protocol", "parent_id", *CONTENT)}


def checked(**given: Any) -> dict[str, Any]:
    """Parts of a content, normalised; InvalidVariantError says what is wrong with one."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == "description":
            if not isinstance(value, str) or not 0 < len(value) <= 10_000:
                raise InvalidVariantError("description must be text of 1 to 10,000 characters")
            found[name] = normalise(value, name, InvalidVariantError)
            continue
        if name != "changes" and not isinstance(value, Mapping):
            raise InvalidVariantError(f"{name} must be a JSON object, got {type(value).__name__}")
        found[name] = normalise(value, name, InvalidVariantError)
        if name in ("requirements", "optional", "conflicts"):
            for capability, predicate in found[name].items():
                check_predicate(f"{name}.{capability}", predicate)
    return found


def imported(row: Mapping[str, Any], now: datetime) -> ProtocolVariant:
    """A row of a file, checked like a proposal."""
    content = checked(**{name: row.get(name, {}) for name in CONTENT})
    check_content(content["changes"], content["metadata"])
    parent = row.get("parent_id")
    return ProtocolVariant(
        id=check_id(row.get("id"), "variant id", InvalidVariantError),
        protocol=check_id(row.get("protocol", "default"), "protocol", InvalidVariantError),
        parent_id=None if parent is None else check_id(parent, "parent id", InvalidVariantError),
        created_at=now,
        updated_at=now,
        **content,
    )
