"""Nouns to JSON and back, for facts. Fields this release does not know are kept by the callers,
which lay the known ones over the stored document."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from xenolect._frozen import thaw
from xenolect.model import (
    Agent,
    AgentContext,
    ProtocolVariant,
    RollbackPoint,
    StateRef,
    VariantStatus,
)

__all__ = [
    "agent_from_json",
    "agent_to_json",
    "context_to_json",
    "moment",
    "point_from_json",
    "point_to_json",
    "stamp",
    "state_ref_from_json",
    "state_ref_to_json",
    "variant_from_json",
    "variant_to_json",
]


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as a moment in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def stamp(value: datetime | None) -> str | None:
    """A moment as ISO 8601 text in UTC."""
    return None if value is None else value.astimezone(UTC).isoformat()


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def variant_to_json(variant: ProtocolVariant) -> dict[str, Any]:
    """A variant as the document that is stored."""
    return {
        "id": variant.id,
        "protocol": variant.protocol,
        "description": variant.description,
        "changes": thaw(variant.changes),
        "requirements": thaw(variant.requirements),
        "optional": thaw(variant.optional),
        "conflicts": thaw(variant.conflicts),
        "metadata": thaw(variant.metadata),
        "parent_id": variant.parent_id,
        "status": str(variant.status),
        "created_at": stamp(variant.created_at),
        "updated_at": stamp(variant.updated_at),
    }


def variant_from_json(data: Mapping[str, Any], version: int) -> ProtocolVariant:
    """Read what ``variant_to_json`` wrote, as of a version."""
    return ProtocolVariant(
        data["id"],
        data["protocol"],
        data["description"],
        data["changes"],
        data["requirements"],
        data["optional"],
        data["conflicts"],
        data["metadata"],
        data["parent_id"],
        VariantStatus(data["status"]),
        _moment(data["created_at"]),
        _moment(data["updated_at"]),
        version,
    )


def context_to_json(context: AgentContext) -> dict[str, Any]:
    """An agent's context as JSON."""
    return {
        "capabilities": thaw(context.capabilities),
        "preferences": thaw(context.preferences),
        "version": context.version,
        "platform": context.platform,
        "custom": thaw(context.custom),
    }


def agent_to_json(agent: Agent) -> dict[str, Any]:
    """An agent as the document that is stored."""
    return {
        "id": agent.id,
        "context": context_to_json(agent.context),
        "registered_at": stamp(agent.registered_at),
        "updated_at": stamp(agent.updated_at),
    }


def agent_from_json(data: Mapping[str, Any], version: int) -> Agent:
    """Read what ``agent_to_json`` wrote, as of a version."""
    context = data["context"]
    return Agent(
        data["id"],
        AgentContext(
            context["capabilities"],
            context["preferences"],
            context["version"],
            context["platform"],
            context["custom"],
        ),
        version,
        _moment(data["registered_at"]),
        _moment(data["updated_at"]),
    )


def state_ref_to_json(ref: StateRef) -> dict[str, Any]:
    """A reference to a state version as JSON."""
    return {
        "variant_id": ref.variant_id,
        "version": ref.version,
        "kind": ref.kind,
        "size": ref.size,
        "root": ref.root,
        "sha256": ref.sha256,
        "chunks": ref.chunks,
        "created_at": stamp(ref.created_at),
        **({"schema": ref.schema} if ref.schema != 1 else {}),
    }


def state_ref_from_json(data: Mapping[str, Any]) -> StateRef:
    """Read what ``state_ref_to_json`` wrote."""
    created = _moment(data["created_at"])
    assert created is not None
    return StateRef(
        data["variant_id"],
        data["version"],
        data["kind"],
        data["size"],
        data["root"],
        data["sha256"],
        data["chunks"],
        created,
        data.get("schema", 1),
    )


def point_to_json(point: RollbackPoint) -> dict[str, Any]:
    """A rollback point as JSON."""
    return {
        "id": point.id,
        "variant_id": point.variant_id,
        "created_at": stamp(point.created_at),
        "reason": point.reason,
        "pinned": point.pinned,
        "verified": point.verified,
    }


def point_from_json(data: Mapping[str, Any]) -> RollbackPoint:
    """Read what ``point_to_json`` wrote."""
    created = _moment(data["created_at"])
    assert created is not None
    return RollbackPoint(
        data["id"], data["variant_id"], created, data["reason"], data["pinned"], data["verified"]
    )
