"""Middleware for an MCP server: each tool call is selected for, timed and reported.

::

    server = MCPServer("weather", middleware=[EmergenceMiddleware(manager)])

    @server.tool()
    def forecast(city: str) -> str:
        selection = current_selection()       # what this agent speaks in this conversation
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from xenolect import Agent, EmergenceError, Reason, Selection, VariantStatus
from xenolect_mcp.asgi import SCOPE
from xenolect_mcp.identity import EXT, session_of
from xenolect_mcp.identity import agent as agent_of

if TYPE_CHECKING:
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

    from xenolect import EmergenceManager

__all__ = ["EmergenceMiddleware", "current_selection"]

log = logging.getLogger("xenolect.mcp")

_selection: ContextVar[Selection | None] = ContextVar("xenolect_selection", default=None)


def current_selection() -> Selection | None:
    """What was selected for the request being handled; None outside of one, or when nothing was."""
    return _selection.get()


class EmergenceMiddleware:
    """Selects for the ``methods`` (tool calls and tool lists) and reports the tool calls.

    A raised exception is a failure of the variant. ``isError`` in a result is the tool's own answer and is
    recorded as the custom metric ``tool_error``; cancellation says nothing. The server of a fleet whose
    clients report for themselves passes ``record=False``: they also see what breaks on their side.

    Where the client runs a manager on the same store too, both ends choose by themselves and agree,
    because routing is a pure function; ``agreed`` counts it. In the moment after a change one of them may not
    know yet (``differed``), so with ``follow=True`` the variant that the client names in
    ``_meta["io.xenolect/variants"]["variant"]`` is spoken, if it may be served to this agent at all: a
    conversation has one language.

    The manager never breaks a call: where selecting fails the protocol's baseline is used, where there
    is none (or ``selection`` is None for any other reason) the call passes through as if there were
    no middleware; where reporting fails, that is logged.
    """

    def __init__(
        self,
        manager: EmergenceManager,
        protocol: str = "default",
        *,
        record: bool = True,
        follow: bool = False,
        methods: Collection[str] = ("tools/call", "tools/list"),
        agent: Callable[[Any], Agent] = agent_of,
        session: Callable[[Any], str | None] = session_of,
    ) -> None:
        self._manager = manager
        self._protocol = protocol
        self._record = record
        self._follow = follow
        self.agreed = 0
        self.differed = 0
        self._methods = frozenset(methods)
        self._agent = agent
        self._session = session
        self._warned = 0.0

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Called by the SDK around every inbound message."""
        if ctx.method not in self._methods or ctx.request_id is None:
            return await call_next(ctx)
        selection = self._select(ctx)
        scope = getattr(ctx.request, "scope", None)
        if isinstance(scope, Mapping) and isinstance(scope.get(SCOPE), dict):
            scope[SCOPE]["selection"] = selection  # the wire's encoding is chosen by it
        token = _selection.set(selection)
        started = time.perf_counter()
        try:
            result = await call_next(ctx)
        except Exception:
            self._report(ctx, selection, False, started, {})
            raise
        except BaseException:  # cancelled: nobody's fault, and a probe's permit goes back
            if selection is not None and selection.permit is not None:
                selection.permit.ignore()
            raise
        finally:
            _selection.reset(token)
        self._report(ctx, selection, True, started, {"tool_error": float(_is_error(result))})
        return result

    def _select(self, ctx: ServerRequestContext[Any, Any]) -> Selection | None:
        try:
            agent = self._agent(ctx)
            session = self._session(ctx)
            try:
                selection = self._manager.select(agent, self._protocol, session)
                return self._followed(ctx, selection) if self._follow else selection
            except EmergenceError as error:
                self._warn("no variant could be selected, the baseline is used", error)
                baseline = self._manager.variants.baseline(self._protocol)
                if baseline is None:
                    return None
                return self._manager.select(agent, self._protocol, session, default=baseline)
        except Exception as error:
            self._warn("no variant could be selected, the call passes through", error)
            return None

    def _followed(self, ctx: ServerRequestContext[Any, Any], selection: Selection) -> Selection:
        named = (ctx.meta or {}).get(EXT)
        wanted = named.get("variant") if isinstance(named, Mapping) else None
        if not isinstance(wanted, str):
            return selection
        if wanted == selection.variant.id:
            self.agreed += 1
            return selection
        self.differed += 1
        variant = self._manager.variants.get(wanted)
        servable = variant.status in (VariantStatus.ACTIVE, VariantStatus.CANARY)
        if not servable or variant.protocol != self._protocol or wanted in selection.excluded:
            return selection
        if selection.permit is not None:
            selection.permit.ignore()
        return Selection(
            variant,
            selection.agent_id,
            selection.session,
            selection.protocol,
            selection.score,
            selection.reason,
            selection.revision,
        )

    def _report(
        self,
        ctx: ServerRequestContext[Any, Any],
        selection: Selection | None,
        success: bool,
        started: float,
        custom: dict[str, float],
    ) -> None:
        if selection is None:
            return
        if not self._record or ctx.method != "tools/call" or selection.reason == Reason.DEFAULT:
            if selection.permit is not None:
                selection.permit.ignore()
            return
        elapsed = (time.perf_counter() - started) * 1000.0
        try:
            self._manager.report(
                selection, selection.agent_id, success, elapsed, selection.session, custom
            )
        except Exception as error:
            self._warn("a call could not be reported", error)

    def _warn(self, what: str, error: Exception) -> None:
        """At most once in ten seconds: a broken store must not fill the log as well."""
        now = time.monotonic()
        if now - self._warned >= 10.0:
            self._warned = now
            log.warning("%s: %s: %s", what, type(error).__name__, error)


def _is_error(result: Any) -> bool:
    if isinstance(result, Mapping):
        return bool(result.get("isError", False))
    return bool(getattr(result, "is_error", False))
