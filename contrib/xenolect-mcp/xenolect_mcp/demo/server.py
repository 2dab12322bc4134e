"""The demo's server, in a process of its own: a real MCP server, and a manager on the same store.

It knows 128 tools and answers their calls with recorded results, or by executing them. Which declarations it lists and how it
encodes its answers is what its own manager selects for the calling agent and conversation.

Started as ``python -m xenolect_mcp.demo.server`` with one line of JSON on standard input; prints one line of
JSON with its port when it serves, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import mcp_types as types
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from xenolect_mcp import data
from xenolect_mcp.asgi import SCOPE, WireASGI
from xenolect_mcp.identity import EXT
from xenolect_mcp.middleware import EmergenceMiddleware, current_selection
from xenolect_mcp.wire import Coding, Dictionaries, Dictionary

if TYPE_CHECKING:
    from xenolect import EmergenceManager
    from xenolect_mcp.demo.suites import Executed

__all__ = ["build", "main", "scaled"]

STRICT, LENIENT = "strict", "lenient"


def scaled(epoch: float, speed: float) -> Callable[[], float]:
    """A clock that runs ``speed`` times as fast since ``epoch``; the same in every process."""
    return lambda: epoch + (time.time() - epoch) * speed


def listing(contract: str) -> types.ListToolsResult:
    """All tools; under the strict contract with their declared ``outputSchema``."""
    declared = [
        {k: v for k, v in tool.items() if contract == STRICT or k != "outputSchema"}
        for tool in data.tools().values()
    ]
    return types.ListToolsResult(
        tools=[types.Tool.model_validate(tool) for tool in declared],
        ttl_ms=0,
        cache_scope="private",
    )


def answer(call: data.Call) -> types.CallToolResult:
    """The recorded result as the tool would give it: text, and structured content.

    MCP carries objects only, so a list or null is wrapped as the SDK wraps them. A result that is
    nothing but an error message is the tool's own error.
    """
    result = call.result
    content: Any = types.TextContent(type="text", text=json.dumps(result))
    return types.CallToolResult(
        content=[content],
        structured_content=result if isinstance(result, dict) else {"result": result},
        is_error=isinstance(result, dict) and set(result) == {"error"},
    )


class Recorded:
    """Answers a call from the recording: the n-th call of the named session, if it is that call."""

    def __init__(self) -> None:
        self._sessions = {session.id: session.calls for session in data.sessions()}

    def find(self, params: types.CallToolRequestParams) -> data.Call | None:
        """The recorded call; None where the session did something else."""
        named = (params.meta or {}).get(EXT)
        if not isinstance(named, Mapping):
            return None
        session = str(named.get("session", "")).rpartition("#")[2]
        index = named.get("call")
        calls = self._sessions.get(session, ())
        if not isinstance(index, int) or not 0 <= index < len(calls):
            return None
        call = calls[index]
        same = call.name == params.name and dict(call.arguments) == (params.arguments or {})
        return call if same else None


class Shelf:
    """The dictionaries of the variants, read from their states when they are first needed."""

    def __init__(self, manager: EmergenceManager) -> None:
        self._manager = manager
        self.dictionaries = Dictionaries()

    def get(self, variant_id: str) -> Dictionary:
        """The newest state of a variant, as a dictionary."""
        dictionary = self.dictionaries.get(variant_id)
        if dictionary is None:
            dictionary = Dictionary(variant_id, self._manager.states.get(variant_id))
            self.dictionaries.add(dictionary)
        return dictionary

    def choose(self, scope: Mapping[str, Any]) -> tuple[Coding, Dictionary | None] | None:
        """How to write an answer: as the selected variant says."""
        selection = scope[SCOPE].get("selection")
        if selection is None:
            return None
        changes = selection.variant.changes
        coding = Coding(changes["wire"])
        return coding, self.get(changes["dictionary"]) if coding is Coding.DCZ else None


def build(manager: EmergenceManager, execute: bool = False) -> Any:
    """The ASGI app; ``execute`` runs the tool suites instead of answering from the recording."""
    recorded = Recorded()
    calls: Recorded | Executed = recorded
    if execute:
        from xenolect_mcp.demo import suites

        calls = suites.Executed(recorded)
    listings = {contract: listing(contract) for contract in (STRICT, LENIENT)}
    shelf = Shelf(manager)
    middleware = EmergenceMiddleware(manager, record=False, follow=True)

    async def list_tools(
        ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        selection = current_selection()
        contract = selection.variant.changes.get("tools", LENIENT) if selection else LENIENT
        return listings[contract]

    async def call_tool(
        ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        call = calls.find(params)
        if call is None:
            text: Any = types.TextContent(type="text", text="nothing is recorded for this call")
            return types.CallToolResult(content=[text], is_error=True)
        return answer(call)

    async def status(_: Request) -> JSONResponse:
        """What the other process wants to know: how far this one follows, and how often they agree."""
        for variant in manager.variants.list():
            dictionary = variant.changes.get("dictionary")
            if dictionary is not None and manager.states.versions(dictionary):
                shelf.get(dictionary)
        return JSONResponse(
            {
                "revision": manager.status()["revision"],
                "agreed": middleware.agreed,
                "differed": middleware.differed,
                "dictionaries": len(shelf.dictionaries),
                "executed": [getattr(calls, "same", 0), getattr(calls, "other", 0)],
                "cpu_seconds": time.process_time(),
            }
        )

    schemas = {name: tool["inputSchema"] for name, tool in data.tools().items()}
    server: Server[Any] = Server(
        "xenolect-demo",
        version="1",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        get_tool_input_schema=schemas.get,
    )
    server.middleware.append(middleware)
    app = server.streamable_http_app(
        json_response=True, custom_starlette_routes=[Route("/status", status)]
    )
    return WireASGI(app, shelf.dictionaries, choose=shelf.choose)


async def _serve(options: Mapping[str, Any]) -> None:
    from xenolect import EmergenceManager

    policy = options["policy"]
    # IPPROTO_TCP, because asyncio turns Nagle's algorithm off only for sockets that say so: without
    # it each call waits 40 ms for a delayed acknowledgement
    with (
        EmergenceManager.open(
            options["store"],
            clock=scaled(options["epoch"], float(policy["speed"])),
            scoring=policy["scoring"],
            breaker=policy["breaker"],
            actor="demo server",
        ) as manager,
        socket.socket(proto=socket.IPPROTO_TCP) as listener,
    ):
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            build(manager, options["execute"]),
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            if serving.done():
                await serving
                return
            await asyncio.sleep(0.005)
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving


def main() -> None:
    """Serve until standard input ends."""
    logging.getLogger("mcp").setLevel(logging.ERROR)
    options = json.loads(sys.stdin.readline())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options))


if __name__ == "__main__":
    main()
