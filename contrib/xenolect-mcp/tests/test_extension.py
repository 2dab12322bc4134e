"""The extension: negotiated, answered, and absent where the other side does not know it."""

from __future__ import annotations

import sys
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.server.lowlevel import Server
from pydantic import ConfigDict
from servers import LEGACY, MODERN, in_meta, names, prefer, user, variants, weather
from xenolect_mcp import (
    EXT,
    PRINCIPAL,
    EmergenceExtension,
    EmergenceMiddleware,
    conversation,
    speaks,
)
from xenolect_mcp.extension import FAILURE, SELECTION

from xenolect import AgentContext, EmergenceManager
from xenolect.testing import Clock

pytestmark = pytest.mark.anyio


class Ask(types.Request[types.RequestParams, str]):
    """``xenolect/selection``."""

    method: str = SELECTION
    params: types.RequestParams


class Words(types.RequestParams):
    """What a client may say, be it right or wrong."""

    variant: str
    critical: Any = None


class Tell(types.Request[Words, str]):
    """``xenolect/failure``."""

    method: str = FAILURE
    params: Words


class Answer(types.Result):
    """Whatever was answered."""

    model_config = ConfigDict(extra="allow")


async def everything(server: Any, mode: Any, **more: Any) -> list[Any]:
    """What a client sees of a server: who it is, its tools, and a call's result."""
    async with Client(server, mode=mode, cache=None, **more) as client:
        said = client.session.initialize_result or client.session.discover_result
        seen = [said, await client.list_tools(), await client.call_tool("sunset", {"city": "Oslo"})]
        return [each.model_dump(mode="json", by_alias=True) for each in seen if each is not None]


@pytest.mark.parametrize("mode", [LEGACY, "auto"])
async def test_a_client_that_does_not_know_it_sees_plain_mcp(
    manager: EmergenceManager, mode: Any
) -> None:
    """The same answers as without the middleware; said is only that lists may change, and in "auto", which
    is 2026-07-28 here, that there is such an extension."""
    variants(manager)
    plain = await everything(weather(), mode)
    wired = await everything(weather(EmergenceMiddleware(manager)), mode)
    if mode == LEGACY:
        plain[0]["capabilities"]["tools"]["listChanged"] = True
    else:
        assert wired[0]["capabilities"]["extensions"].pop(EXT) == {"protocol": "default"}
        plain[0]["capabilities"]["extensions"] = {}
    assert wired == plain


@pytest.mark.parametrize("mode", [LEGACY, "auto"])
async def test_a_server_that_does_not_know_it_is_not_disturbed(mode: Any) -> None:
    """A client that speaks of variants, on a server that never heard of them."""
    plain = await everything(weather(), mode)
    aware = await everything(weather(), mode, extensions=[speaks(preferences={"latency": 1.0})])
    assert aware == plain
    async with Client(weather(), mode=mode, cache=None) as client:
        meta: Any = conversation("trip", variant="zstd")
        said = await client.call_tool("radar", {"city": "Oslo"}, meta=meta)
        assert said.content[0].text == "none"  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", [LEGACY, "auto"])
async def test_who_knows_it_hears_under_which_variant(manager: EmergenceManager, mode: Any) -> None:
    """In ``_meta`` of a result, and when asked."""
    variants(manager)
    server = weather(EmergenceMiddleware(manager))
    async with Client(server, mode=mode, cache=None, extensions=[speaks()]) as client:
        result = await client.call_tool("radar", {"city": "Oslo"})
        assert (result.meta or {})[EXT] == {"variant": "plain"}
        meta: Any = conversation("trip")
        ask = Ask(params=types.RequestParams(_meta=meta))
        answer = await client.session.send_request(ask, Answer)  # type: ignore[arg-type]
        said = answer.model_dump(by_alias=True, exclude={"meta", "result_type"})
        assert {k: said[k] for k in ("protocol", "variant", "changes")} == {
            "protocol": "default",
            "variant": "plain",
            "changes": {},
        }
    async with Client(server, mode=mode, cache=None) as client:
        with pytest.raises(MCPError, match="did not declare required extension"):
            await client.session.send_request(ask, Answer)  # type: ignore[arg-type]


async def test_a_client_tells_of_what_only_it_can_see(manager: EmergenceManager) -> None:
    """Who is somebody, of what it is served; anything else is refused with words, and not counted."""
    variants(manager)
    people = [f"principal:{name}" for name in ("ann", "ben")]
    manager.agents.register_many([(name, AgentContext({PRINCIPAL: True})) for name in people])
    manager.variants.activate("celsius", force=True)
    prefer(manager, "celsius")
    server = weather(EmergenceMiddleware(manager, principal=in_meta))

    async def tell(client: Client, meta: Any, variant: str, critical: Any = None) -> None:
        params = Words(variant=variant, critical=critical, _meta=meta)
        await client.session.send_request(Tell(params=params), Answer)  # type: ignore[arg-type]

    async with Client(server, mode=MODERN, cache=None, extensions=[speaks()]) as client:
        await tell(client, user("ann"), "celsius")
        assert manager.performance.history("celsius").failures == 1
        with pytest.raises(MCPError, match="only an authenticated client may tell of failures"):
            await tell(client, None, "plain")
        with pytest.raises(MCPError, match="served 'celsius' now, not 'plain'"):
            await tell(client, user("ann"), "plain")
        with pytest.raises(MCPError):
            await tell(client, user("ann"), "celsius", "it looked at me")
        assert manager.performance.history("celsius").failures == 1
        await tell(client, user("ann"), "celsius", "crash_on_load")
        assert str(manager.variants.get("celsius").status) == "active"
        await tell(client, user("ben"), "celsius", "crash_on_load")
        assert str(manager.variants.get("celsius").status) == "rolled_back"


async def test_a_low_level_server_takes_it_too(manager: EmergenceManager) -> None:
    """The same list of middleware."""
    variants(manager)

    async def listed(ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[types.Tool(name="one", input_schema={"type": "object"})]
        )

    server: Server[Any] = Server("small", on_list_tools=listed)
    server.middleware.append(EmergenceMiddleware(manager))
    async with Client(server, mode=MODERN, cache=None) as client:
        assert await names(client) == ["one"]


def test_the_extension_wants_the_middleware(manager: EmergenceManager) -> None:
    """Given the manager, it says what to give it."""
    with pytest.raises(TypeError, match=r"not EmergenceManager: emergence = EmergenceMiddleware\("):
        EmergenceExtension(manager)  # type: ignore[arg-type]


async def test_the_middleware_is_missed(
    manager: EmergenceManager, caplog: pytest.LogCaptureFixture
) -> None:
    """The extension alone does nothing, and says so."""
    variants(manager)
    server = weather(extensions=[EmergenceExtension(EmergenceMiddleware(manager))])
    async with Client(server, mode=MODERN, cache=None) as client:
        await client.call_tool("radar", {"city": "Oslo"})
    (record,) = [r for r in caplog.records if r.name == "xenolect.mcp"]
    assert "add middleware=[emergence]" in record.getMessage()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_notices_come_under_trio_too(
    manager: EmergenceManager, clock: Clock, anyio_backend: str
) -> None:
    """The look for changes runs in whichever loop serves."""
    variants(manager)
    manager.variants.activate("celsius", force=True)
    prefer(manager, "celsius")
    told = anyio.Event()

    async def hear(message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            told.set()

    server = weather(EmergenceMiddleware(manager, principal=in_meta, notify_every=0.01))
    async with Client(server, mode=LEGACY, message_handler=hear, cache=None) as client:
        assert "rain_radar" in await names(client, meta=user("ann"))
        manager.rollback("celsius", reason="it was no good")
        with anyio.fail_after(20):
            await told.wait()
    assert "trio" in sys.modules
