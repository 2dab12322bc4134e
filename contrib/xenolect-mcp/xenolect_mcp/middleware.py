"""Middleware for an MCP server: each tool call is selected for, timed and reported.

::

    server = MCPServer("weather", middleware=[EmergenceMiddleware(manager)])

    @server.tool()
    def forecast(city: str) -> str:
        selection = current_selection()       # what this agent speaks in this conversation
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from xenolect import Agent, AsyncEmergenceManager, EmergenceManager, Reason, Selection
from xenolect_mcp.asgi import SCOPE
from xenolect_mcp.choosing import Caller, Chooser, named_by
from xenolect_mcp.contract import Contract, ContractError, tools_of
from xenolect_mcp.identity import EXT, session_of
from xenolect_mcp.identity import agent as agent_of
from xenolect_mcp.identity import principal as principal_of
from xenolect_mcp.notices import Notices
from xenolect_mcp.outputs import Outputs

if TYPE_CHECKING:
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.server.subscriptions import SubscriptionBus

__all__ = ["EmergenceMiddleware", "current_selection"]

_selection: ContextVar[Selection | None] = ContextVar("xenolect_selection", default=None)


def current_selection() -> Selection | None:
    """What was selected for the request being handled; None outside of one, or when nothing was."""
    return _selection.get()


class EmergenceMiddleware:
    """Selects for the ``methods`` (tool calls and tool lists) and reports the tool calls.

    A raised exception is a failure of the variant. ``isError`` in a result is the tool's own answer and is
    recorded as the custom metric ``tool_error``; cancellation says nothing. The server of a fleet whose
    clients report for themselves passes ``record=False``: they also see what breaks on their side.

    A variant whose ``changes`` have ``tools`` (see ``contract``) changes what is listed, hides and renames
    what is called, and a result that breaks an ``outputSchema`` it declares is its failure. Only who has
    proved who they are is served it: ``principal`` says who that is (the access token's, by default).
    What is listed may be kept for ``ttl_ms``. Who has read a list that is another one now is told within
    ``notify_every`` seconds; from 2026-07-28 on over ``bus``, which the server must have too.

    Where the client runs a manager on the same store too, both ends choose by themselves and agree,
    because routing is a pure function; ``agreed`` counts it. In the moment after a change one of them may not
    know yet (``differed``), so with ``follow=True`` the variant that the client names in
    ``_meta["io.xenolect/variants"]["variant"]`` is spoken, if it may be served to this agent at all and
    declares the same tools: a conversation has one language.

    The manager never breaks a call: where selecting fails the protocol's baseline is used, where there
    is none (or ``selection`` is None for any other reason) the call passes through as if there were
    no middleware; where reporting fails, that is logged.
    """

    def __init__(
        self,
        manager: EmergenceManager | AsyncEmergenceManager,
        protocol: str = "default",
        *,
        record: bool = True,
        follow: bool = False,
        methods: Collection[str] = ("tools/call", "tools/list"),
        principal: Callable[[Any], str | None] = principal_of,
        agent: Callable[[Any], Agent] | None = None,
        session: Callable[[Any], str | None] = session_of,
        bus: SubscriptionBus | None = None,
        ttl_ms: int = 0,
        notify_every: float = 1.0,
    ) -> None:
        manager = manager.inner if isinstance(manager, AsyncEmergenceManager) else manager
        if not isinstance(manager, EmergenceManager):
            raise TypeError(
                "EmergenceMiddleware takes an open manager, EmergenceMiddleware(EmergenceManager.open("
                f'"variants/")), not {manager!r}'
            )
        self.wired = False  # has the server handed a message over?
        self.manager = manager
        self.protocol = protocol
        self.chooser = Chooser(
            manager, protocol, agent or partial(agent_of, principal=principal), session, follow
        )
        self._record = record
        self._methods = frozenset(methods)
        self._ttl_ms = ttl_ms
        self._warn = self.chooser.warn
        self._outputs = Outputs()
        self._tried: set[tuple[str, int]] = set()  # variants whose contract a list was made with
        self._notices = Notices(self._shown, bus, notify_every, self._warn)

    @property
    def agreed(self) -> int:
        """Requests whose client named the variant that was selected here."""
        return self.chooser.agreed

    @property
    def differed(self) -> int:
        """Requests whose client named another one."""
        return self.chooser.differed

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Called by the SDK around every inbound message."""
        self.wired = True
        if ctx.method == "initialize" and "tools/list" in self._methods:
            return _list_may_change(await call_next(ctx))
        if ctx.method not in self._methods or ctx.request_id is None:
            return await call_next(ctx)
        caller = self._caller(ctx)
        selection = self.chooser.choose(caller, named_by(ctx)) if caller is not None else None
        scope = getattr(ctx.request, "scope", None)
        if isinstance(scope, Mapping) and isinstance(scope.get(SCOPE), dict):
            scope[SCOPE]["selection"] = selection  # the wire's encoding is chosen by it
        token = _selection.set(selection)
        try:
            if ctx.method == "tools/list":
                result = await self._list(ctx, call_next, selection)
                if caller is not None and selection is not None:
                    self._notices.read(ctx, caller, tools_of(selection.variant))
            else:
                result = await self._call(ctx, call_next, selection)
                if caller is not None and selection is not None and ctx.method == "tools/call":
                    await self._notices.called(caller, tools_of(selection.variant))
        finally:
            _selection.reset(token)
        return _signed(ctx, result, selection)

    def _caller(self, ctx: ServerRequestContext[Any, Any]) -> Caller | None:
        try:
            return self.chooser.caller(ctx)
        except Exception as error:
            self._warn(
                "who sent a request could not be found out, it passes through: %s: %s",
                type(error).__name__,
                error,
            )
            return None

    def _shown(self, caller: Caller) -> Any:
        """The contract a caller would be listed now."""
        with self._warn.silenced():
            selection = self.chooser.choose(caller)
        if selection is None:
            return None
        if selection.permit is not None:
            selection.permit.ignore()
        return tools_of(selection.variant)

    # -- lists --------------------------------------------------------------------------------------

    async def _list(
        self,
        ctx: ServerRequestContext[Any, Any],
        call_next: CallNext,
        selection: Selection | None,
    ) -> HandlerResult:
        """The server's list, as the selected variant declares it."""
        broken = False
        try:
            result = await call_next(ctx)
            if selection is None or not isinstance(result, dict):
                return result
            listed = result.get("tools", [])
            self._outputs.listed(listed)
            try:
                contract = self._contract(selection)
                if contract is not None:
                    self._look_for_strangers(contract, ctx, result)
                    result = self._applied(contract, selection, ctx, result)
            except ContractError as error:
                broken = True
                self._unusable(selection, error)
            if "cacheScope" in result or "ttlMs" in result:
                ttl = min(result.get("ttlMs") or 0, self._ttl_ms)
                result = {**result, "cacheScope": "private", "ttlMs": ttl}
            return result
        finally:
            if broken and self._record and selection is not None:
                self._told(selection, False, None, {}, "crash_on_load")
            elif selection is not None and selection.permit is not None:
                selection.permit.ignore()  # reading a list proves nothing

    def _contract(self, selection: Selection | None) -> Contract | None:
        """What the selected variant declares, where lists and calls both pass here. ContractError."""
        if selection is None or not self._methods.issuperset(("tools/list", "tools/call")):
            return None
        return self.chooser.contract(selection.variant)

    def _applied(
        self,
        contract: Contract,
        selection: Selection,
        ctx: ServerRequestContext[Any, Any],
        result: dict[str, Any],
    ) -> dict[str, Any]:
        """The list under a contract. ContractError; then the variant has no contract for calls either."""
        variant = selection.variant
        if len(self._tried) >= 1000:
            self._tried.clear()
        self._tried.add((variant.id, variant.version))
        try:
            return contract.applied(result, ctx.protocol_version)
        except ContractError as error:
            self.chooser.unusable(variant, error)
            raise

    def _look_for_strangers(
        self, contract: Contract, ctx: ServerRequestContext[Any, Any], result: dict[str, Any]
    ) -> None:
        """Warn of tools that a contract changes and the server does not have: a slip of the pen, mostly."""
        if result.get("nextCursor") is not None or (ctx.params or {}).get("cursor"):
            return  # one page of several
        listed = result.get("tools", [])
        unknown = contract.unknown(listed)
        if unknown:
            self._warn(
                "variant %s changes tools that this server does not list (%s); it lists %s",
                contract.variant_id,
                ", ".join(unknown),
                ", ".join(sorted(tool["name"] for tool in listed)) or "none",
                about=contract.variant_id,
            )

    def _unusable(self, selection: Selection, error: ContractError) -> None:
        """The server's own tools are served, and the variant has failed."""
        self._warn(
            "%s. The server's own tools are served; propose the variant again with the mistake mended "
            '(metadata={"changes_schema": CONTRACT_SCHEMA} finds most of them when it is proposed)',
            error,
            about=selection.variant.id,
        )

    # -- calls --------------------------------------------------------------------------------------

    async def _call(
        self,
        ctx: ServerRequestContext[Any, Any],
        call_next: CallNext,
        selection: Selection | None,
    ) -> HandlerResult:
        started = time.perf_counter()
        name = contract = critical = None
        try:
            if selection is not None and ctx.method == "tools/call":
                try:
                    contract = self._contract(selection)
                    if contract is not None:
                        await self._try(ctx, call_next, selection, contract)
                except ContractError as error:
                    critical, contract = "crash_on_load", None
                    self._unusable(selection, error)
            if contract is not None:
                name, ctx = _own_name(ctx, contract)
            result = await call_next(ctx)
        except Exception:
            self._report(ctx, selection, False, started, {})
            raise
        except BaseException:  # cancelled: nobody's fault, and a probe's permit goes back
            if selection is not None and selection.permit is not None:
                selection.permit.ignore()
            raise
        if isinstance(result, dict) and result.get("resultType") == "input_required":
            if selection is not None and selection.permit is not None:
                selection.permit.ignore()  # the tool asks back: nothing has come of it yet
            return result
        failed = _is_error(result)
        words = ""
        if contract is not None and name is not None and not failed and isinstance(result, dict):
            words = self._outputs.broken(contract, name, result)
        if words and selection is not None:
            self._warn(
                "variant %s: a result of tool %s breaks the outputSchema that the variant declares: %s",
                selection.variant.id,
                name,
                words,
                about=f"{selection.variant.id} {name}",
            )
            critical = "schema_violation"
        custom = {"tool_error": float(failed)}
        self._report(ctx, selection, critical is None, started, custom, critical)
        return result

    async def _try(
        self,
        ctx: ServerRequestContext[Any, Any],
        call_next: CallNext,
        selection: Selection,
        contract: Contract,
    ) -> None:
        """Before the first call under a contract: does it go with what this server lists? ContractError."""
        variant = selection.variant
        if (variant.id, variant.version) in self._tried:
            return
        said = {k: v for k, v in (ctx.params or {}).items() if k == "_meta"}  # who asks, and how
        try:
            result = await call_next(replace(ctx, method="tools/list", params=said))
        except Exception as error:
            self._tried.add((variant.id, variant.version))
            self._warn(
                "what this server lists could not be read, so the contract of %s is used as it is: %s: %s",
                variant.id,
                type(error).__name__,
                error,
            )
            return
        if isinstance(result, dict):
            self._outputs.listed(result.get("tools", []))
            self._applied(contract, selection, ctx, result)

    def _report(
        self,
        ctx: ServerRequestContext[Any, Any],
        selection: Selection | None,
        success: bool,
        started: float,
        custom: dict[str, float],
        critical: str | None = None,
    ) -> None:
        """Report a tool call. What nobody chose (the baseline, for want of anything) is not counted."""
        if selection is None:
            return
        if not self._record or ctx.method != "tools/call" or selection.reason == Reason.DEFAULT:
            if selection.permit is not None:
                selection.permit.ignore()
            return
        elapsed = (time.perf_counter() - started) * 1000.0
        self._told(selection, success, elapsed, custom, critical)

    def _told(
        self,
        selection: Selection,
        success: bool,
        elapsed: float | None,
        custom: dict[str, float],
        critical: str | None,
    ) -> None:
        if selection.reason == Reason.DEFAULT:
            return
        try:
            self.manager.report(
                selection,
                selection.agent_id,
                success,
                elapsed,
                selection.session,
                custom,
                critical=critical,
            )
        except Exception as error:
            self._warn("a call could not be reported: %s: %s", type(error).__name__, error)


def _own_name(
    ctx: ServerRequestContext[Any, Any], contract: Contract
) -> tuple[str | None, ServerRequestContext[Any, Any]]:
    """The server's own name of the called tool, and the call under that name.

    A name that the contract does not have is unknown, in the words that MCP has for it.
    """
    name = (ctx.params or {}).get("name")
    if not isinstance(name, str):
        return None, ctx
    own = contract.own(name)
    if own is None:
        from mcp import MCPError
        from mcp_types import INVALID_PARAMS

        raise MCPError(
            code=INVALID_PARAMS,
            message=f"Unknown tool: {name}. The tools of this server have changed; list them again",
        )
    return own, ctx if own == name else replace(ctx, params={**(ctx.params or {}), "name": own})


def _list_may_change(result: HandlerResult) -> HandlerResult:
    """The answer to ``initialize``, saying that ``notifications/tools/list_changed`` may come."""
    capabilities = result.get("capabilities") if isinstance(result, dict) else None
    if not isinstance(capabilities, dict) or "tools" not in capabilities:
        return result
    tools = {**(capabilities["tools"] or {}), "listChanged": True}
    return {**result, "capabilities": {**capabilities, "tools": tools}}  # type: ignore[dict-item]


def _signed(
    ctx: ServerRequestContext[Any, Any], result: HandlerResult, selection: Selection | None
) -> HandlerResult:
    """The result with the variant it was given under, for clients that know of variants."""
    capabilities = ctx.session.client_capabilities
    extensions = capabilities.extensions if capabilities is not None else None
    if selection is None or not isinstance(result, dict) or EXT not in (extensions or {}):
        return result
    said = {"variant": selection.variant.id}
    return {**result, "_meta": {**(result.get("_meta") or {}), EXT: said}}


def _is_error(result: Any) -> bool:
    if isinstance(result, Mapping):
        return bool(result.get("isError", False))
    return bool(getattr(result, "is_error", False))
