"""A weather server with variants, in memory and behind HTTP with tokens, for the tests beside this file."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import mcp_types as types
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from pydantic import AnyHttpUrl
from xenolect_mcp import PRINCIPAL, EmergenceExtension, EmergenceMiddleware, current_selection
from xenolect_mcp.identity import EXT

from xenolect import EmergenceManager

CELSIUS = {
    "forecast": {
        "description": "Weather of a city, in degrees Celsius",
        "outputSchema": {
            "type": "object",
            "properties": {"celsius": {"type": "integer"}},
            "required": ["celsius"],
        },
    },
    "sunset": None,
    "radar": {"name": "rain_radar"},
}
LEGACY, MODERN = "legacy", "2026-07-28"


class Tokens:
    """Knows who has which token."""

    def __init__(self, **tokens: AccessToken) -> None:
        self._tokens = tokens

    async def verify_token(self, token: str) -> AccessToken | None:
        return self._tokens.get(token)


def weather(middleware: EmergenceMiddleware | None = None, **more: Any) -> MCPServer[Any]:
    """A server of three tools; ``forecast`` answers as the selected variant says."""
    logging.getLogger("mcp").setLevel(logging.ERROR)
    wired: dict[str, Any] = {}
    if middleware is not None:
        wired = {"middleware": [middleware], "extensions": [EmergenceExtension(middleware)]}
    server: MCPServer[Any] = MCPServer("weather", log_level="ERROR", **wired, **more)

    @server.tool(structured_output=False)
    def forecast(city: str) -> Any:
        """Weather of a city."""
        if city == "Atlantis":
            raise ConnectionError("no such place")
        celsius: Any = "mild" if city == "Nowhere" else 21
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=f"{city}: {celsius}")],
            structured_content={"celsius": celsius},
        )

    @server.tool()
    def sunset(city: str) -> str:
        """When the sun sets."""
        return "21:40"

    @server.tool()
    def radar(city: str) -> str:
        """Where it rains."""
        selection = current_selection()
        return selection.variant.id if selection else "none"

    return server


def variants(manager: EmergenceManager, **contract: Any) -> None:
    """The baseline ``plain``, and ``celsius`` with a contract for principals; only proposed."""
    manager.variants.activate(manager.variants.propose("as it is", {}, id="plain"))
    manager.variants.propose(
        "declare the result",
        {"tools": CELSIUS},
        id="celsius",
        **({"requirements": {PRINCIPAL: True}} | contract),
    )


def prefer(manager: EmergenceManager, variant: str) -> None:
    """Let the history speak for one of the variants: all work, and it is fast."""
    for other in manager.variants.list():
        for _ in range(50):
            fast = other.id == variant
            manager.report(other, "x", success=True, latency_ms=1.0 if fast else 500.0)


@contextmanager
def behind_http(server: Any) -> Iterator[str]:
    """The server, or an ASGI app, behind uvicorn on a free port; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = server.streamable_http_app() if isinstance(server, MCPServer) else server
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws="none")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}/mcp"
    running.should_exit = True
    thread.join(30)


def authenticated(**tokens: AccessToken) -> dict[str, Any]:
    """Arguments of an ``MCPServer`` that lets only these tokens in."""
    auth = AuthSettings(issuer_url=AnyHttpUrl("https://idp.example"), resource_server_url=None)
    return {"auth": auth, "token_verifier": Tokens(**tokens)}


@asynccontextmanager
async def client_of(
    url: str, token: str | None = None, name: str = "some client", **more: Any
) -> AsyncIterator[Client]:
    """A real client over HTTP, with a token or without."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    info = types.Implementation(name=name, version="1")
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30.0) as http,
        Client(
            streamable_http_client(url, http_client=http), client_info=info, cache=None, **more
        ) as client,
    ):
        yield client


def in_meta(ctx: Any) -> str | None:
    """A principal for servers in memory, where there is no token: what the test put into ``_meta``."""
    return (ctx.meta or {}).get("test/user")


def user(name: str, session: str | None = None) -> Any:
    """The ``_meta`` of a request of a user."""
    said: dict[str, Any] = {"test/user": name}
    return said if session is None else said | {EXT: {"session": session}}


async def names(client: Client, **more: Any) -> list[str]:
    """What is listed."""
    return sorted(tool.name for tool in (await client.list_tools(**more)).tools)
