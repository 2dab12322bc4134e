"""Who is calling, as an ``Agent``: from the handshake, or from the request's own ``_meta``.

MCP has two eras. Up to 2025-11-25 a client says once, in ``initialize``, who it is and what it can do.
From 2026-07-28 there is no session: every request carries both in its ``_meta``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from xenolect import Agent, AgentContext

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

__all__ = ["EXT", "PRINCIPAL", "agent", "principal", "principal_id", "scoped", "session_of"]

EXT = "io.xenolect/variants"
"""The extension under which a client tells what MCP has no word for.

In ``capabilities.extensions``: ``{"preferences": {metric: weight}, "platform": text, "capabilities":
{name: value}}``. In the ``_meta`` of a request: ``{"session": text}``, the conversation it belongs to.
"""

PRINCIPAL = "mcp.principal"
"""The capability that an authenticated caller has, and that nobody can declare: True.

A variant that changes tools requires it: ``requirements={PRINCIPAL: True}``.
"""

_PREFIX = "principal:"  # of the ids of authenticated callers; no other id begins so
_ID = 200  # characters of such an id: a session's name is added to it, and 256 is the most
_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
_INFO = "io.modelcontextprotocol/clientInfo"
_SESSION_HEADER = "mcp-session-id"
_MOST = 64  # extra capabilities and preferences taken from one client; the rest is ignored
_LONGEST = 256


def principal(ctx: ServerRequestContext[Any, Any]) -> str | None:
    """The id of the authenticated principal of a request, or None where nobody proved anything.

    The principal is what the SDK takes for it: issuer, client and subject of the access token.
    """
    scope = getattr(ctx.request, "scope", None)
    token = getattr(scope.get("user"), "access_token", None) if isinstance(scope, Mapping) else None
    if token is None:
        return None
    from mcp.server.auth.provider import principal_components

    client_id, issuer, subject = principal_components(token)
    return principal_id(client_id, issuer=issuer, subject=subject)


def principal_id(client_id: str, *, issuer: str | None = None, subject: str | None = None) -> str:
    """The agent id of a principal: ``principal:CLIENT``, or ``principal:ISSUER|CLIENT|SUBJECT``.

    Parts are percent-encoded, so no two principals share an id; one of over 200 characters is hashed.
    """
    parts = [client_id] if issuer is None and subject is None else [issuer, client_id, subject]
    name = _PREFIX + "|".join(quote(part or "", safe=":@") for part in parts)
    if len(name) > _ID:
        name = f"{_PREFIX}sha256:{hashlib.sha256(name.encode()).hexdigest()}"
    return name


def agent(
    ctx: ServerRequestContext[Any, Any],
    principal: Callable[[ServerRequestContext[Any, Any]], str | None] = principal,
) -> Agent:
    """The agent behind a request.

    Its id is the authenticated principal where there is one, else ``clientInfo.name``. That name is what
    the client calls itself: good for grouping and routing, never proof of who it is, and never a
    reason to trust it. It can not be a principal's id, whatever it says. ``principal`` says who has proved
    to be whom, where that is not the SDK's access token: a name, or None.

    Its capabilities are the declared ones, flattened (``"sampling.tools": True``), ``"mcp"`` for the protocol
    version of this request, ``PRINCIPAL`` for a principal, and the extras under ``EXT``, which can not
    overrule the others.
    """
    declared, info = _declared(ctx)
    extensions = declared.get("extensions")
    settings = extensions.get(EXT) if isinstance(extensions, Mapping) else None
    if not isinstance(settings, Mapping):
        settings = {}
    capabilities: dict[str, Any] = {}
    _flatten(declared, "", capabilities)
    capabilities["mcp"] = ctx.protocol_version
    for name, value in _bounded(settings.get("capabilities")):
        if _plain(value):
            capabilities.setdefault(name, value)
    proved = principal(ctx) or None
    if proved is not None:
        proved = proved if proved.startswith(_PREFIX) else principal_id(proved)
        capabilities[PRINCIPAL] = True
    else:
        capabilities.pop(PRINCIPAL, None)
    return Agent(
        proved if proved is not None else _claimed(info.get("name")),
        AgentContext(
            capabilities,
            preferences={
                name: float(value)
                for name, value in _bounded(settings.get("preferences"))
                if _number(value) and value >= 0
            },
            version=_text(info.get("version")),
            platform=_text(settings.get("platform")),
        ),
    )


def session_of(ctx: ServerRequestContext[Any, Any]) -> str | None:
    """The conversation of a request: named under ``EXT`` in its ``_meta``, else the MCP session."""
    named = (ctx.meta or {}).get(EXT)
    if isinstance(named, Mapping) and _text(named.get("session")):
        return _text(named.get("session"))
    headers = getattr(ctx.request, "headers", None)
    return _text(headers.get(_SESSION_HEADER)) or None if headers is not None else None


def scoped(agent_id: str, session: str | None) -> str | None:
    """A conversation's name as the manager hears it: a principal's is its own, whatever others say.

    Pins are by conversation. Without this, who names another's conversation would get its variant.
    """
    if session is None:
        return None
    if agent_id.startswith(_PREFIX):
        name = f"{agent_id}/{session}"
        if len(name) > _LONGEST:
            name = f"{agent_id}/{hashlib.sha256(session.encode()).hexdigest()[:48]}"
        return name
    return f"anonymous/{session}"[:_LONGEST] if session.startswith(_PREFIX) else session


def _claimed(name: Any) -> str:
    text = _text(name)
    return text if text and not text.startswith(_PREFIX) else "anonymous"


def _declared(ctx: ServerRequestContext[Any, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    meta = ctx.meta or {}
    declared, info = meta.get(_CAPABILITIES), meta.get(_INFO)
    params = ctx.session.client_params
    if declared is None and params is not None:
        declared = params.capabilities.model_dump(by_alias=True, exclude_none=True)
    if info is None and params is not None:
        info = params.client_info.model_dump(by_alias=True, exclude_none=True)
    return (
        declared if isinstance(declared, Mapping) else {},
        info if isinstance(info, Mapping) else {},
    )


def _flatten(value: Mapping[str, Any], prefix: str, into: dict[str, Any], depth: int = 4) -> None:
    """``{"sampling": {"tools": {}}}`` -> ``sampling`` and ``sampling.tools``, both True."""
    for key, item in value.items():
        name = f"{prefix}{key}"
        if item is None or len(name) > _LONGEST or len(into) >= 4 * _MOST:
            continue
        if not isinstance(item, Mapping):
            if _plain(item):
                into[name] = item
            continue
        into[name] = True
        # the settings of an extension are its own business, not capabilities
        if depth and prefix != "extensions.":
            _flatten(item, f"{name}.", into, depth - 1)


def _bounded(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return []
    return [(name, item) for name, item in value.items() if _text(name)][:_MOST]


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= _MOST and all(
            _plain(i) and not isinstance(i, (list, tuple)) for i in value
        )
    if isinstance(value, str):
        return len(value) <= _LONGEST
    return isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    """Printable text of at most 256 characters, or ""."""
    return (
        value if isinstance(value, str) and len(value) <= _LONGEST and value.isprintable() else ""
    )
