"""The middleware never breaks a call, and says once why it did not do what it is for."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.server.lowlevel import Server
from servers import MODERN, in_meta, names, prefer, user, variants, weather
from xenolect_mcp import EXT, PRINCIPAL, EmergenceMiddleware, conversation

from xenolect import AgentContext, AsyncEmergenceManager, EmergenceManager

pytestmark = pytest.mark.anyio


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the middleware has said."""
    return [r.getMessage() for r in caplog.records if r.name == "xenolect.mcp"]


async def asked(middleware: EmergenceMiddleware, meta: Any = None) -> str:
    """The variant that a tool hears of."""
    async with Client(weather(middleware), mode=MODERN, cache=None) as client:
        assert len(await names(client, meta=meta)) == 3
        said = await client.call_tool("radar", {"city": "Oslo"}, meta=meta)
        return said.content[0].text  # type: ignore[union-attr]


async def test_a_store_without_variants(
    manager: EmergenceManager, caplog: pytest.LogCaptureFixture
) -> None:
    """The first thing a newcomer meets: the server works, and the log says what to do."""
    assert await asked(EmergenceMiddleware(manager)) == "none"
    assert messages(caplog) == [
        "no variant could be selected, the call passes through: NoCompatibleVariantError: protocol "
        "'default' has no variants; propose one and activate it"
    ]


async def test_nothing_that_the_caller_can_speak(
    manager: EmergenceManager, caplog: pytest.LogCaptureFixture
) -> None:
    """The baseline, with the reason why nothing was compatible; it is not counted."""
    base = manager.variants.propose("x", {}, id="base", requirements={"zstd.dict": {"at_least": 2}})
    manager.variants.activate(base)
    assert await asked(EmergenceMiddleware(manager)) == "base"
    assert manager.performance.history("base").count == 0
    (message,) = messages(caplog)
    assert message.startswith("no variant could be selected, the baseline is used: NoCompatible")
    assert "zstd.dict" in message


async def test_a_baseline_with_tools_for_others(
    manager: EmergenceManager, caplog: pytest.LogCaptureFixture
) -> None:
    """Who may not be served the baseline's tools is served the server's own."""
    tools = {"tools": {"sunset": None}}
    base = manager.variants.propose("x", tools, id="base", requirements={PRINCIPAL: True})
    manager.variants.activate(base)
    assert await asked(EmergenceMiddleware(manager)) == "none"
    assert len(messages(caplog)) == 1


async def test_who_calls_can_not_be_found_out(
    manager: EmergenceManager, caplog: pytest.LogCaptureFixture
) -> None:
    """A ``principal`` that raises is no reason to refuse a call."""
    variants(manager)

    def nobody(ctx: Any) -> str | None:
        raise KeyError("x-user")

    assert await asked(EmergenceMiddleware(manager, principal=nobody)) == "none"
    assert messages(caplog) == [
        "who sent a request could not be found out, it passes through: KeyError: 'x-user'"
    ]


async def test_a_client_is_followed_within_its_tools(manager: EmergenceManager) -> None:
    """With ``follow`` the variant that it names, if it may have it, but no other tools than it has."""
    manager.variants.activate(manager.variants.propose("a", {"wire": "json"}, id="json"))
    zstd = manager.variants.propose(
        "b", {"wire": "zstd"}, id="zstd", requirements={PRINCIPAL: True}
    )
    manager.variants.activate(zstd, force=True)
    other = manager.variants.propose("c", {"tools": {"radar": {"title": "x"}}}, id="other")
    manager.variants.activate(other, force=True)
    prefer(manager, "json")
    middleware = EmergenceMiddleware(manager, principal=in_meta, follow=True)
    ann = user("ann")
    assert await asked(middleware, ann) == "json"
    assert await asked(middleware, ann | {EXT: {"variant": "zstd"}}) == "zstd"
    assert await asked(middleware, ann | {EXT: {"variant": "other"}}) == "json"
    assert await asked(middleware, conversation("trip", variant="zstd")) == "json"
    assert await asked(middleware, conversation("trip", variant="json")) == "json"
    assert (middleware.agreed, middleware.differed) == (2, 6)


async def test_a_registered_principal_is_what_the_registry_says(manager: EmergenceManager) -> None:
    """Also when it is registered after it was seen first; what its client declares counts no more."""
    variants(
        manager, requirements={PRINCIPAL: True, "mcp": {"at_least": "2025-06-18", "order": "mcp"}}
    )
    manager.variants.activate("celsius", force=True)
    prefer(manager, "celsius")
    middleware = EmergenceMiddleware(manager, principal=in_meta)
    async with Client(weather(middleware), mode=MODERN, cache=None) as client:
        assert "rain_radar" in await names(client, meta=user("ann"))
        manager.agents.register("principal:ann", AgentContext({PRINCIPAL: True}))
        middleware.chooser._unregistered.clear()  # as five seconds later
        assert "rain_radar" not in await names(client, meta=user("ann"))


async def test_a_tool_that_asks_back_has_not_answered(manager: EmergenceManager) -> None:
    """An interim result is neither a success nor a failure."""
    variants(manager)

    async def call(ctx: Any, params: Any) -> types.InputRequiredResult:
        return types.InputRequiredResult(request_state="more")

    async def listed(ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[types.Tool(name="one", input_schema={"type": "object"})]
        )

    server: Server[Any] = Server("small", on_list_tools=listed, on_call_tool=call)
    server.middleware.append(EmergenceMiddleware(manager))
    async with Client(server, mode=MODERN, cache=None) as client:
        await client.session.call_tool("one", {}, allow_input_required=True)
    assert manager.performance.history("plain").count == 0


async def test_an_exception_is_a_failure(manager: EmergenceManager) -> None:
    """What the server raises reaches the client as before, and counts."""
    variants(manager)

    async def call(ctx: Any, params: Any) -> types.CallToolResult:
        raise MCPError(code=-32603, message="out of order")

    server: Server[Any] = Server("small", on_call_tool=call)
    server.middleware.append(EmergenceMiddleware(manager))
    async with Client(server, mode=MODERN, cache=None) as client:
        with pytest.raises(MCPError, match="out of order"):
            await client.session.call_tool("one", {})
    history = manager.performance.history("plain")
    assert (history.count, history.failures) == (1, 1)


def test_a_manager_is_wanted(manager: EmergenceManager) -> None:
    """A path is not opened by itself; the asynchronous manager holds a plain one."""
    with pytest.raises(TypeError, match=r"takes an open manager, .*, not 'variants/'"):
        EmergenceMiddleware("variants/")  # type: ignore[arg-type]
    assert EmergenceMiddleware(AsyncEmergenceManager(manager)).manager is manager
