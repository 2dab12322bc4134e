"""Tool contracts go by who has proved to be whom: real servers over HTTP, real tokens, real clients."""

from __future__ import annotations

import asyncio
from typing import Any

import mcp_types as types
import pytest
from mcp import MCPError
from mcp.server.auth.provider import AccessToken
from servers import (
    LEGACY,
    MODERN,
    authenticated,
    behind_http,
    client_of,
    names,
    prefer,
    variants,
    weather,
)
from xenolect_mcp import PRINCIPAL, EmergenceMiddleware, conversation, principal_id, speaks

from xenolect import AgentContext, EmergenceManager

PLAIN = ["forecast", "radar", "sunset"]
CONTRACT = ["forecast", "rain_radar"]
ALICE = AccessToken(token="a", client_id="alice", scopes=[])
BOB = AccessToken(token="b", client_id="bob", scopes=[])


def gold_for_alice(manager: EmergenceManager) -> None:
    """``celsius`` is active and requires a capability that only Alice is registered with."""
    variants(manager, requirements={PRINCIPAL: True, "tier": "gold"})
    manager.agents.register(principal_id("alice"), AgentContext({PRINCIPAL: True, "tier": "gold"}))
    manager.agents.register(principal_id("bob"), AgentContext({PRINCIPAL: True}))
    manager.variants.activate("celsius", force=True)
    prefer(manager, "celsius")


@pytest.mark.parametrize("mode", [LEGACY, MODERN])
def test_two_principals_see_two_contracts(manager: EmergenceManager, mode: str) -> None:
    """One server, two tokens, two lists; and neither gets the other's by what it claims: a name, a
    capability, a conversation, a tool it has heard of."""
    gold_for_alice(manager)

    async def play(url: str) -> None:
        claims = speaks(capabilities={PRINCIPAL: True, "tier": "gold"})
        async with (
            client_of(url, "a", "alice's", mode=mode) as alice,
            client_of(url, "b", principal_id("alice"), mode=mode, extensions=[claims]) as bob,
        ):
            here: Any = conversation("trip", variant="celsius")
            assert await names(alice, meta=here) == CONTRACT
            assert await names(bob, meta=here) == PLAIN
            assert await names(bob) == PLAIN
            assert (await alice.call_tool("rain_radar", {"city": "Oslo"})).content[
                0
            ].text == "celsius"
            assert (await bob.call_tool("radar", {"city": "Oslo"})).content[0].text == "plain"
            with pytest.raises(MCPError, match="Unknown tool: sunset. The tools of this server"):
                await alice.call_tool("sunset", {"city": "Oslo"})
            stranger = await bob.call_tool("rain_radar", {"city": "Oslo"})
            assert stranger.is_error

    server = weather(EmergenceMiddleware(manager), **authenticated(a=ALICE, b=BOB))
    with behind_http(server) as url:
        asyncio.run(play(url))
    assert manager.performance.history("celsius").count == 52


@pytest.mark.parametrize("mode", [MODERN])
def test_who_proves_nothing_gets_the_baseline(
    manager: EmergenceManager, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the variant forgot to require a principal; that is said once, and nothing is counted."""
    variants(manager, requirements={})
    manager.variants.activate("celsius", force=True)
    prefer(manager, "celsius")
    before = manager.performance.history("celsius").count

    async def play(url: str) -> None:
        claims = speaks(capabilities={PRINCIPAL: True})
        async with client_of(url, name=principal_id("alice"), mode=mode, extensions=[claims]) as c:
            assert await names(c) == PLAIN
            await c.call_tool("radar", {"city": "Oslo"})

    with behind_http(weather(EmergenceMiddleware(manager))) as url:
        asyncio.run(play(url))
    assert manager.performance.history("celsius").count == before
    said = [r.getMessage() for r in caplog.records if "has not proved who it is" in r.getMessage()]
    assert len(said) == 1
    assert "requirements={'mcp.principal': True}" in said[0]


def test_a_changed_list_is_told_over_http(manager: EmergenceManager) -> None:
    """To the one session whose contract was taken back, on the stream that it keeps open."""
    gold_for_alice(manager)

    async def play(url: str) -> None:
        told = asyncio.Event()

        async def hear(message: Any) -> None:
            if isinstance(message, types.ToolListChangedNotification):
                told.set()

        async with client_of(url, "a", mode=LEGACY, message_handler=hear) as alice:
            assert await names(alice) == CONTRACT
            manager.rollback("celsius", reason="it was no good")
            await asyncio.wait_for(told.wait(), 30)
            assert await names(alice) == PLAIN

    middleware = EmergenceMiddleware(manager, notify_every=0.02)
    with behind_http(weather(middleware, **authenticated(a=ALICE))) as url:
        asyncio.run(play(url))


def test_principals_have_ids_of_their_own() -> None:
    """No two share one, none can be claimed, and all fit."""
    triples = [
        ("a", None, None),
        ("a|b", None, None),
        ("a", "b", None),
        ("a", None, "b"),
        ("b", "a", None),
        ("a/b", None, None),
        ("a%7Cb", None, None),
        ("x" * 500, None, None),
        ("x" * 501, None, None),
        ("", None, None),
        ("é\n", None, None),
    ]
    ids = [principal_id(c, issuer=i, subject=s) for c, i, s in triples]
    assert len(set(ids)) == len(ids)
    assert all(i.startswith("principal:") and i.isprintable() and len(i) <= 200 for i in ids)
