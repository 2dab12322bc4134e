"""The fleet's ends: real MCP clients over streamable HTTP, one connection each, kept open."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import attrs
import httpx2
import mcp_types as types
from mcp import Client
from mcp.client import advertise
from mcp.client.streamable_http import streamable_http_client

from xenolect_mcp.data import Call
from xenolect_mcp.demo.traffic import Member
from xenolect_mcp.identity import EXT
from xenolect_mcp.transport import Exchange, WireTransport, speaking
from xenolect_mcp.wire import Coding, Dictionaries, Dictionary

__all__ = ["Clients", "Server", "Ticket", "serving"]


@attrs.frozen
class Ticket:
    """A call of a conversation under a variant: what goes into ``_meta``, and how it is written."""

    session: str
    index: int
    variant: str
    changes: Mapping[str, Any]

    @property
    def meta(self) -> Any:
        return {EXT: {"session": self.session, "call": self.index, "variant": self.variant}}


async def _declined(*_: Any, **__: Any) -> types.ErrorData:
    """Clients that declare sampling, elicitation or roots have someone to ask; nobody asks here."""
    return types.ErrorData(code=-1, message="declined")


class Clients:
    """Opens a connection per member and tool contract when it is first needed.

    A client caches what ``tools/list`` said, as real ones do, so a conversation under another tool
    contract runs over a connection of its own.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        limits = httpx2.Limits(max_connections=500, max_keepalive_connections=500)
        self._inner = httpx2.AsyncHTTPTransport(limits=limits)
        self._open: dict[tuple[str, str, int], asyncio.Future[Client]] = {}
        self._owners: list[asyncio.Task[None]] = []
        self._end = asyncio.Event()
        self.generations: dict[int, Dictionary] = {}
        self.hear: Callable[[bytes], None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end.set()
        await asyncio.gather(*self._owners, return_exceptions=True)
        await self._inner.aclose()

    def _heard(self, body: bytes) -> None:
        if self.hear is not None:
            self.hear(body)

    def publish(self, generation: int, dictionary: Dictionary) -> None:
        """A dictionary the members of that generation and later ones have."""
        self.generations[generation] = dictionary

    def dictionaries(self, member: Member) -> Dictionaries:
        """Those a member can read: everything up to its generation."""
        return Dictionaries(
            dictionary
            for generation, dictionary in self.generations.items()
            if generation <= member.dictionary
        )

    def writes(
        self, member: Member, changes: Mapping[str, Any]
    ) -> tuple[Coding, Dictionary | None]:
        """How a member writes its requests under a variant.

        With the variant's dictionary if it has it, else with its newest: the server keeps the older ones.
        """
        coding = Coding(changes["wire"])
        if coding is not Coding.DCZ:
            return coding, None
        known = self.dictionaries(member)
        wanted = known.get(changes["dictionary"])
        if wanted is not None:
            return coding, wanted
        newest = max((g for g in self.generations if g <= member.dictionary), default=None)
        return (coding, self.generations[newest]) if newest is not None else (Coding.ZSTD, None)

    async def call(self, member: Member, call: Call, ticket: Ticket, exchange: Exchange) -> bool:
        """One tool call, counted into ``exchange``; whether the tool itself said it is an error.

        Raises what the SDK raises: for an answer that can not be read, for a structured result that
        the declared schema does not allow, for a server that refuses.
        """
        client = await self._connection(member, ticket)
        coding, dictionary = self.writes(member, ticket.changes)
        with speaking(coding, dictionary) as seen:
            try:
                result = await client.call_tool(call.name, dict(call.arguments), meta=ticket.meta)
            finally:
                exchange.coding, exchange.answered = seen.coding, seen.answered
                exchange.sent += seen.sent
                exchange.received += seen.received
                exchange.plain += seen.plain
                exchange.headers += seen.headers
                exchange.requests += seen.requests
        return result.is_error

    async def _connection(self, member: Member, ticket: Ticket) -> Client:
        key = (member.name, ticket.changes.get("tools", ""), member.dictionary)
        ready = self._open.get(key)
        if ready is None:
            ready = self._open[key] = asyncio.get_running_loop().create_future()
            self._owners.append(asyncio.create_task(self._own(member, ticket, ready)))
        return await asyncio.shield(ready)

    async def _own(self, member: Member, ticket: Ticket, ready: asyncio.Future[Client]) -> None:
        """Hold a connection open: the SDK wants it closed by the task that opened it."""
        try:
            async with AsyncExitStack() as stack:
                ready.set_result(await self._connect(member, ticket, stack))
                await self._end.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)

    async def _connect(self, member: Member, ticket: Ticket, stack: AsyncExitStack) -> Client:
        wire = WireTransport(_Shared(self._inner), self.dictionaries(member), hear=self._heard)
        http = httpx2.AsyncClient(transport=wire, timeout=30.0)
        asked = {
            "sampling": {"sampling_callback": _declined},
            "elicitation": {"elicitation_callback": _declined},
            "roots": {"list_roots_callback": _declined},
        }
        declared: dict[str, Any] = {}
        for name, callback in asked.items():
            if name in member.declared:
                declared |= callback
        client = Client(
            streamable_http_client(self._url, http_client=http, terminate_on_close=False),
            mode=member.mode,
            client_info=types.Implementation(name=member.name, version="1"),
            extensions=[advertise(EXT, member.settings)],
            cache=None,
            **declared,
        )
        await stack.enter_async_context(http)
        await stack.enter_async_context(client)
        await client.list_tools(meta=ticket.meta)
        return client


class _Shared(httpx2.AsyncBaseTransport):
    """One pool of connections for all; a client that closes does not close it for the others."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self._inner.handle_async_request(request)


@attrs.frozen
class Server:
    """The server's process, seen from here."""

    url: str

    async def status(self, http: httpx2.AsyncClient) -> Mapping[str, Any]:
        """Its revision, and how often it agreed."""
        found: Mapping[str, Any] = (await http.get(f"{self.url}/status")).json()
        return found

    async def follows(self, http: httpx2.AsyncClient, revision: int) -> Mapping[str, Any]:
        """Wait until its manager has followed to a revision (it looks ten times a second)."""
        for _ in range(500):
            status = await self.status(http)
            if status["revision"] >= revision:
                return status
            await asyncio.sleep(0.02)
        raise RuntimeError(
            f"the server did not follow to revision {revision} of the store within ten seconds"
        )


@asynccontextmanager
async def serving(
    store: str, epoch: float, policy: Mapping[str, Any], execute: bool = False
) -> AsyncIterator[Server]:
    """Start the server on the store, in another process; end it with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "xenolect_mcp.demo.server", stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        options = {"store": store, "epoch": epoch, "policy": policy, "execute": execute}
        process.stdin.write(json.dumps(options).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise RuntimeError("the demo's server did not start; its message is above")
        yield Server(f"http://127.0.0.1:{json.loads(line)['port']}")
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5.0)
        except TimeoutError:
            process.kill()
            await process.wait()
