"""Who an A2A agent is and what it can do, from its card."""

from __future__ import annotations

import re
from typing import Any

from a2a.types.a2a_pb2 import AgentCard
from google.protobuf.json_format import MessageToDict
from packaging.version import InvalidVersion, Version

from xenolect import Agent, AgentContext

__all__ = ["EXTENSION", "VARIANT", "agent_of"]

EXTENSION = "urn:xenolect:variants:1"
"""The extension that says an agent knows variants; its params may carry preferences and platform."""

VARIANT = "x-xenolect-variant"
"""The header that tells a server which variant the client speaks."""


def agent_of(card: AgentCard) -> Agent:
    """The agent behind a card. Capabilities: ``binding.NAME`` (the newest protocol version of that
    binding), ``streaming``, ``push_notifications``, ``in.MIME``, ``out.MIME``, ``skill.ID``, ``ext.URI``.

    A card is what the agent says of itself: an address, not an identity that was proved.
    """
    capabilities: dict[str, Any] = {}
    for interface in card.supported_interfaces:
        name = f"binding.{interface.protocol_binding}"
        capabilities[name] = _newest(capabilities.get(name, ""), interface.protocol_version)
    for name in ("streaming", "push_notifications"):
        if getattr(card.capabilities, name):
            capabilities[name] = True
    capabilities.update({f"in.{mode}": True for mode in card.default_input_modes})
    capabilities.update({f"out.{mode}": True for mode in card.default_output_modes})
    capabilities.update({f"skill.{skill.id}": True for skill in card.skills})
    preferences: dict[str, float] = {}
    platform = ""
    for extension in card.capabilities.extensions:
        capabilities[f"ext.{extension.uri}"] = True
        if extension.uri == EXTENSION:
            said = MessageToDict(extension.params)
            given = said.get("preferences", {})
            if isinstance(given, dict):
                preferences = {k: v for k, v in given.items() if isinstance(v, float) and v >= 0}
            platform = str(said.get("platform", ""))
    context = AgentContext(capabilities, preferences, version=card.version, platform=platform)
    return Agent(_name(card), context)


def _name(card: AgentCard) -> str:
    """Its first address: two agents may have the same name, never the same place."""
    place = card.supported_interfaces[0].url if card.supported_interfaces else card.name
    return re.sub(r"[\x00-\x1f\x7f]", " ", place or card.name or "agent")[:200]


def _newest(one: str, other: str) -> str:
    """As versions, where both are: "1.10" is newer than "1.9"."""
    try:
        return max(one, other, key=lambda text: Version(text or "0"))
    except InvalidVersion:
        return one or other
