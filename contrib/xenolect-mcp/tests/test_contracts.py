"""What contracts do in a conversation: kept, drained, told about, and measured. Real SDK, in memory."""

from __future__ import annotations

from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client
from mcp.server.subscriptions import InMemorySubscriptionBus
from servers import CELSIUS, LEGACY, MODERN, in_meta, names, prefer, user, variants, weather
from xenolect_mcp import CONTRACT_SCHEMA, PRINCIPAL, Contract, ContractError, EmergenceMiddleware

from xenolect import AgentContext, EmergenceManager, InvalidError
from xenolect.testing import Clock

pytestmark = pytest.mark.anyio
PLAIN = ["forecast", "radar", "sunset"]
CONTRACT = ["forecast", "rain_radar"]


def rollout(manager: EmergenceManager, fraction: float = 0.5, **more: Any) -> tuple[str, str]:
    """Start one of ``celsius`` among forty principals; one who is served it, and one who is not."""
    variants(manager)
    people = [f"user{i}" for i in range(40)]
    manager.agents.register_many(
        [(f"principal:{name}", AgentContext({PRINCIPAL: True})) for name in people]
    )
    manager.canaries.start("celsius", initial_fraction=fraction, seed=1, **more)
    inside = [n for n in people if manager.canaries.routes("celsius", f"principal:{n}")]
    outside = [n for n in people if n not in inside]
    return inside[0], outside[0]


def emergent(manager: EmergenceManager, **more: Any) -> EmergenceMiddleware:
    """Middleware that takes a name in ``_meta`` for a proof."""
    return EmergenceMiddleware(manager, principal=in_meta, **more)


@pytest.mark.parametrize("mode", [LEGACY, MODERN])
async def test_a_rollout_reaches_the_routed_principals_only(
    manager: EmergenceManager, mode: Any
) -> None:
    """Both lists at once from one server; each call counts for the variant it was made under."""
    inside, outside = rollout(manager)
    async with Client(weather(emergent(manager)), mode=mode, cache=None) as client:
        assert await names(client, meta=user(inside)) == CONTRACT
        assert await names(client, meta=user(outside)) == PLAIN
        await client.call_tool("rain_radar", {"city": "Oslo"}, meta=user(inside))
        await client.call_tool("radar", {"city": "Oslo"}, meta=user(outside))
    assert manager.performance.history("celsius").count == 1
    assert manager.performance.history("plain").count == 1


@pytest.mark.parametrize("mode", [LEGACY, MODERN])
async def test_a_conversation_keeps_its_contract(manager: EmergenceManager, mode: Any) -> None:
    """It began under the old contract; the new one is promoted and replaces it; the conversation goes
    on as it began, and the next one of the same principal is new."""
    _, outside = rollout(manager, replaces="plain")
    async with Client(weather(emergent(manager)), mode=mode, cache=None) as client:
        assert await names(client, meta=user(outside, "old")) == PLAIN
        manager.canaries.promote("celsius", force=True)
        assert str(manager.variants.get("plain").status) == "deprecated"
        assert await names(client, meta=user(outside, "old")) == PLAIN
        said = await client.call_tool("radar", {"city": "Oslo"}, meta=user(outside, "old"))
        assert said.content[0].text == "plain"  # type: ignore[union-attr]
        assert await names(client, meta=user(outside, "new")) == CONTRACT


async def test_a_contract_rolled_back_is_kept_by_nobody(manager: EmergenceManager) -> None:
    """Conversations under it are drained at once, and are told to read the list again."""
    inside, _ = rollout(manager)
    heard: list[Any] = []
    told = anyio.Event()

    async def hear(message: Any) -> None:
        heard.append(message)
        if isinstance(message, types.ToolListChangedNotification):
            told.set()

    server = weather(emergent(manager, notify_every=0.01))
    async with Client(server, mode=LEGACY, message_handler=hear, cache=None) as client:
        capabilities = client.session.initialize_result.capabilities  # type: ignore[union-attr]
        assert capabilities.tools is not None
        assert capabilities.tools.list_changed is True
        assert await names(client, meta=user(inside, "trip")) == CONTRACT
        await anyio.sleep(0.05)
        assert not told.is_set()
        manager.rollback("celsius", reason="it was no good")
        with anyio.fail_after(20):
            await told.wait()
        assert await names(client, meta=user(inside, "trip")) == PLAIN
        await anyio.sleep(0.05)
    assert sum(isinstance(m, types.ToolListChangedNotification) for m in heard) == 1


async def test_who_asks_for_nothing_is_not_warned_of(
    manager: EmergenceManager, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """What an earlier reader would be shown now is looked up in silence."""
    variants(manager, requirements={})
    middleware = emergent(manager, bus=InMemorySubscriptionBus())
    async with Client(weather(middleware), mode=MODERN, cache=None) as client:
        await client.list_tools()  # of nobody
        manager.variants.activate("celsius", force=True)
        prefer(manager, "celsius")
        clock.advance(3600.0)
        await middleware._notices.look()
        assert [r for r in caplog.records if r.name == "xenolect.mcp"] == []
        await client.list_tools()
        assert len([r for r in caplog.records if r.name == "xenolect.mcp"]) == 1


async def test_listeners_of_2026_hear_it_over_the_bus(manager: EmergenceManager) -> None:
    """From 2026-07-28 on change notices are only for who listens."""
    inside, _ = rollout(manager)
    bus = InMemorySubscriptionBus()
    server = weather(emergent(manager, notify_every=0.01, bus=bus), subscriptions=bus)
    async with Client(server, mode=MODERN, cache=None) as client:
        assert await names(client, meta=user(inside)) == CONTRACT
        async with client.listen(tools_list_changed=True) as events:
            manager.rollback("celsius", reason="it was no good")
            with anyio.fail_after(20):
                async for event in events:
                    assert type(event).__name__ == "ToolsListChanged"
                    break
        assert await names(client, meta=user(inside)) == PLAIN


async def test_lists_are_private_and_are_not_kept(manager: EmergenceManager) -> None:
    """A shared cache must not hand one principal's tools to another."""
    inside, _ = rollout(manager)
    async with Client(weather(emergent(manager)), mode=MODERN, cache=None) as client:
        listed = await client.list_tools(meta=user(inside))
        assert (listed.cache_scope, listed.ttl_ms) == ("private", 0)


async def test_a_connection_is_a_conversation(manager: EmergenceManager) -> None:
    """Where nothing names one, as over standard input and output: until 2025-11-25, and not after."""
    variants(manager)
    seen: list[str | None] = []
    middleware = emergent(manager)
    choose = middleware.chooser.choose
    middleware.chooser.choose = lambda caller, named=None: (  # type: ignore[method-assign]
        seen.append(caller.session),
        choose(caller, named),
    )[1]
    for mode in (LEGACY, LEGACY, MODERN):
        async with Client(weather(middleware), mode=mode, cache=None) as client:
            await client.list_tools(meta=user("a"))
            await client.list_tools(meta=user("a"))
    assert seen[0] == seen[1] != seen[2] == seen[3]
    assert seen[0] is not None
    assert seen[0].startswith("principal:a/connection ")
    assert seen[4:] == [None, None]


async def test_a_broken_output_schema_is_critical(
    manager: EmergenceManager, caplog: pytest.LogCaptureFixture
) -> None:
    """What the variant declared and its result breaks: a failure, and with the second registered
    principal the variant is taken back. What is the tool's own doing is not."""
    variants(manager)
    people = [f"principal:{name}" for name in ("ann", "ben")]
    manager.agents.register_many([(name, AgentContext({PRINCIPAL: True})) for name in people])
    manager.variants.activate("celsius", force=True)
    prefer(manager, "celsius")
    server = weather(emergent(manager))
    async with Client(server, mode=MODERN, cache=None) as client:
        await client.list_tools(meta=user("ann"))
        await client.call_tool("forecast", {"city": "Oslo"}, meta=user("ann"))
        assert manager.performance.history("celsius").failures == 0
        for _ in range(2):
            with pytest.raises(RuntimeError, match="Invalid structured content"):
                await client.call_tool("forecast", {"city": "Nowhere"}, meta=user("ann"))
        with pytest.raises(RuntimeError):
            await client.call_tool("forecast", {"city": "Nowhere"}, meta=user("a stranger"))
        assert manager.performance.history("celsius").failures == 3
        assert str(manager.variants.get("celsius").status) == "active"
        failed = await client.call_tool("forecast", {"city": "Atlantis"}, meta=user("ben"))
        assert failed.is_error
        assert manager.performance.history("celsius").failures == 3
        assert manager.performance.history("celsius").custom["tool_error"] == pytest.approx(1 / 5)
        with pytest.raises(RuntimeError):
            await client.call_tool("forecast", {"city": "Nowhere"}, meta=user("ben"))
        assert str(manager.variants.get("celsius").status) == "rolled_back"
        await client.list_tools(meta=user("ben"))
        said = await client.call_tool("forecast", {"city": "Nowhere"}, meta=user("ben"))
        assert not said.is_error
    messages = [r.getMessage() for r in caplog.records if r.name == "xenolect.mcp"]
    assert messages == [
        "variant celsius: a result of tool forecast breaks the outputSchema that the variant declares: "
        "$.celsius: 'mild' is not of type 'integer'"
    ]


PARTS = [({"additionalProperties": False}, 0), ({"properties": {"result": {"maxLength": 3}}}, 1)]


@pytest.mark.parametrize(("part", "failures"), PARTS)
async def test_a_patched_schema_is_checked_whole_before_any_list(
    manager: EmergenceManager, part: Any, failures: int
) -> None:
    """A patch of a part says nothing alone: the tool's own schema is asked of the server."""
    manager.variants.activate(manager.variants.propose("as it is", {}, id="plain"))
    changes = {"tools": {"sunset": {"outputSchema": part}}}
    manager.variants.activate(manager.variants.propose("x", changes, id="strict"), force=True)
    prefer(manager, "strict")
    async with Client(weather(emergent(manager)), mode=MODERN, cache=None) as client:
        await client.call_tool("sunset", {"city": "Oslo"}, meta=user("ann"))
    history = manager.performance.history("strict")
    assert (history.count, history.failures) == (51, failures)


# -- contracts with a mistake in them --------------------------------------------------------------

MISTAKES = {
    "a wrong word": (
        {"forecast": {"output_schema": {}}},
        "changes.tools.forecast of variant celsius is no contract of a tool: Additional properties are "
        "not allowed ('output_schema' was unexpected)",
    ),
    "not a patch": (
        {"forecast": "strict"},
        "changes.tools.forecast of variant celsius is no contract of a tool: 'strict' is not of type "
        "'object', 'null'",
    ),
    "one name for two": (
        {"forecast": {"name": "weather"}, "sunset": {"name": "weather"}},
        "variant celsius gives the tools 'forecast' and 'sunset' one name, 'weather'; give each its own",
    ),
    "another's name": (
        {"forecast": {"name": "radar"}},
        "variant celsius lists the tools 'forecast' and 'radar' both as 'radar'; hide one (null) or give it "
        "another name",
    ),
    "no schema left": (
        {"forecast": {"inputSchema": {"type": "string"}}},
        "variant celsius makes tool 'forecast' one that MCP 2026-07-28 can not list: inputSchema.type: Input "
        "should be 'object'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said_in_words(manager: EmergenceManager, name: str) -> None:
    """Which variant, where in it, what is wrong, and mostly what to do."""
    tools, words = MISTAKES[name]
    variant = manager.variants.propose("x", {"tools": tools}, id="celsius")
    listed = {
        "tools": [{"name": n, "inputSchema": {"type": "object"}} for n in PLAIN],
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
    }

    def apply() -> None:
        contract = Contract.of(variant)
        assert contract is not None
        contract.applied(listed, MODERN)

    with pytest.raises(ContractError) as raised:
        apply()
    assert str(raised.value).startswith(words)


async def test_a_contract_with_a_mistake_fails_the_variant_and_not_the_call(
    manager: EmergenceManager, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's own tools are served, the log says what is wrong, and the variant has failed."""
    tools, words = MISTAKES["another's name"]
    variants(manager)
    manager.variants.update("celsius", changes={"tools": tools}, expected_version=1)
    manager.variants.activate("celsius", force=True)
    prefer(manager, "celsius")
    async with Client(weather(emergent(manager)), mode=MODERN, cache=None) as client:
        for _ in range(2):
            said = await client.call_tool("radar", {"city": "Oslo"}, meta=user("ann"))
            assert said.content[0].text == "celsius"  # type: ignore[union-attr]
            assert await names(client, meta=user("ann")) == PLAIN
    history = manager.performance.history("celsius")
    assert (history.count, history.failures) == (54, 4)
    (message,) = {r.getMessage() for r in caplog.records if r.name == "xenolect.mcp"}
    assert message.startswith(words)
    assert "CONTRACT_SCHEMA" in message


async def test_a_tool_that_is_not_there_is_said(
    manager: EmergenceManager, caplog: pytest.LogCaptureFixture
) -> None:
    """A misspelt name changes nothing; the log says which names there are."""
    variants(manager)
    changes = {"tools": {"forcast": {"title": "x"}}}
    manager.variants.update("celsius", changes=changes, expected_version=1)
    manager.variants.activate("celsius", force=True)
    prefer(manager, "celsius")
    async with Client(weather(emergent(manager)), mode=MODERN, cache=None) as client:
        assert await names(client, meta=user("ann")) == PLAIN
    assert [r.getMessage() for r in caplog.records if r.name == "xenolect.mcp"] == [
        "variant celsius changes tools that this server does not list (forcast); it lists forecast, "
        "radar, sunset"
    ]


def test_the_schema_finds_mistakes_when_a_variant_is_proposed(manager: EmergenceManager) -> None:
    """As a variant's ``changes_schema``."""
    schema = {"changes_schema": CONTRACT_SCHEMA}
    with pytest.raises(InvalidError, match=r"\$.tools.forecast: .*'output_schema' was unexpected"):
        manager.variants.propose(
            "x", {"tools": {"forecast": {"output_schema": {}}}}, metadata=schema
        )
    good = manager.variants.propose("x", {"tools": CELSIUS, "wire": "json"}, metadata=schema)
    contract = Contract.of(good)
    assert contract is not None
    assert contract.own("rain_radar") == "radar"
    assert (contract.own("radar"), contract.own("sunset")) == (None, None)
    assert contract.own("anything") == "anything"
    with pytest.raises(ContractError):
        Contract.of(manager.variants.propose("y", {"tools": {"a": 1}}))
