"""The extension ``io.xenolect/variants``: how ends that know of variants talk about them.

A peer that does not know it sees plain MCP: nothing is asked of it and nothing is added for it.

::

    emergence = EmergenceMiddleware(manager)
    server = MCPServer("weather", middleware=[emergence], extensions=[EmergenceExtension(emergence)])

    async with Client(url, extensions=[speaks(preferences={"latency": 0.7})]) as client:
        await client.call_tool("forecast", {"city": "Oslo"}, meta=conversation("trip 17"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mcp import MCPError
from mcp.client import advertise
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp_types import INVALID_PARAMS, INVALID_REQUEST, CallToolRequestParams, RequestParams

from xenolect import EmergenceError, Reason, Selection
from xenolect_mcp.identity import EXT
from xenolect_mcp.middleware import EmergenceMiddleware

if TYPE_CHECKING:
    from mcp.client import ClientExtension
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

__all__ = ["FAILURE", "SELECTION", "EmergenceExtension", "conversation", "speaks"]

SELECTION = "xenolect/selection"
"""Asks what the caller is served: ``{"protocol", "variant", "reason", "changes"}``."""
FAILURE = "xenolect/failure"
"""Tells of a failure that only the client could see; the parameters are those of ``FailureParams``."""


class FailureParams(RequestParams):
    """``variant``: under which it failed. ``critical``: one of the kinds the manager's ``report`` knows."""

    variant: str
    critical: Literal["crash_on_load", "schema_violation", "corrupt_state"] | None = None


class EmergenceExtension(Extension):
    """Advertises variants to clients, and answers what they ask and tell about them.

    It does not say which variants there are: what others are served is nobody's business.
    """

    identifier = EXT

    def __init__(self, middleware: EmergenceMiddleware) -> None:
        if not isinstance(middleware, EmergenceMiddleware):
            raise TypeError(
                "EmergenceExtension takes the server's EmergenceMiddleware, so that both choose alike, "
                f"not {type(middleware).__name__}: emergence = EmergenceMiddleware(manager), then "
                "MCPServer(..., middleware=[emergence], extensions=[EmergenceExtension(emergence)])"
            )
        self._middleware = middleware

    def settings(self) -> dict[str, Any]:
        """What is advertised under ``capabilities.extensions``."""
        return {"protocol": self._middleware.protocol}

    def methods(self) -> Sequence[MethodBinding]:
        """``xenolect/selection`` and ``xenolect/failure``."""
        return (
            MethodBinding(SELECTION, RequestParams, self._selection),
            MethodBinding(FAILURE, FailureParams, self._failure),
        )

    async def intercept_tool_call(
        self,
        params: CallToolRequestParams,
        ctx: ServerRequestContext[Any, Any],
        call_next: CallNext,
    ) -> HandlerResult:
        """Nothing but a warning, where the middleware is not the server's: then it is no use."""
        if not self._middleware.wired:
            self._middleware.chooser.warn(
                "EmergenceExtension is in the server's extensions and its EmergenceMiddleware is not in "
                "the server's middleware, so nothing is selected or recorded: add middleware=[emergence]"
            )
        return await call_next(ctx)

    async def _selection(
        self, ctx: ServerRequestContext[Any, Any], params: RequestParams
    ) -> dict[str, Any]:
        _, selection = self._served(ctx)
        if selection.permit is not None:
            selection.permit.ignore()
        changes = selection.variant.changes
        return {
            "protocol": selection.protocol,
            "variant": selection.variant.id,
            "reason": str(selection.reason),
            # the tools are said by tools/list
            "changes": {name: value for name, value in changes.items() if name != "tools"}
            if isinstance(changes, Mapping)
            else changes,
        }

    async def _failure(
        self, ctx: ServerRequestContext[Any, Any], params: FailureParams
    ) -> dict[str, Any]:
        proved, selection = self._served(ctx)
        try:
            if not proved:
                raise MCPError(
                    code=INVALID_REQUEST,
                    message="only an authenticated client may tell of failures; send an access token",
                )
            if selection.variant.id != params.variant or selection.reason == Reason.DEFAULT:
                raise MCPError(
                    code=INVALID_PARAMS,
                    message=f"this conversation is served {selection.variant.id!r} now, not "
                    f"{params.variant!r}: the failure is not counted",
                )
        except MCPError:
            if selection.permit is not None:
                selection.permit.ignore()
            raise
        try:
            self._middleware.manager.report(
                selection, selection.agent_id, False, critical=params.critical
            )
        except EmergenceError as error:
            raise MCPError(code=INVALID_REQUEST, message=str(error)) from error
        return {}

    def _served(self, ctx: ServerRequestContext[Any, Any]) -> tuple[bool, Selection]:
        require_client_extension(ctx, EXT)
        chooser = self._middleware.chooser
        caller = chooser.caller(ctx)
        selection = chooser.choose(caller)
        if selection is None:
            raise MCPError(
                code=INVALID_REQUEST,
                message=f"no variant of {self._middleware.protocol!r} can be served to this client",
            )
        return caller.authenticated, selection


def speaks(
    *,
    preferences: Mapping[str, float] | None = None,
    capabilities: Mapping[str, Any] | None = None,
    platform: str = "",
) -> ClientExtension:
    """What a client says of itself beyond MCP: ``Client(url, extensions=[speaks(...)])``.

    ``preferences``: weights of metrics. ``capabilities``: what requirements of variants may read; no word for
    an authentication, which these are not.
    """
    settings: dict[str, Any] = {
        "preferences": dict(preferences or {}),
        "capabilities": dict(capabilities or {}),
        "platform": platform,
    }
    return advertise(EXT, {name: value for name, value in settings.items() if value})


def conversation(session: str, *, variant: str | None = None) -> dict[str, Any]:
    """``_meta`` of a request: the conversation it belongs to, and the variant that the client speaks in it.

    One conversation keeps one variant until it ends. A server without the extension ignores it.
    """
    said = {"session": session} if variant is None else {"session": session, "variant": variant}
    return {EXT: said}
