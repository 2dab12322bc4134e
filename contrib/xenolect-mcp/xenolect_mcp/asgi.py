"""The server's end of a wire variant: ASGI middleware around a streamable HTTP app.

Requests are decoded by their ``Content-Encoding``. Answers are encoded as the chosen variant says,
where ``choose`` knows one, and otherwise as the client asks (``Accept-Encoding``,
``Available-Dictionary``; RFC 9842). Event streams pass through untouched.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from xenolect_mcp.wire import LIMIT, Coding, DecodeError, Dictionaries, Dictionary, decode, encode

__all__ = ["SCOPE", "WireASGI"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Choice = tuple[Coding, Dictionary | None]

SCOPE = "xenolect"
"""Key of a dict in the ASGI scope where ``EmergenceMiddleware`` leaves the call's selection."""


class WireASGI:
    """Wraps an ASGI app; see the module.

    ``choose(scope)`` is asked when an answer begins, so it can read what the app has put into
    ``scope["xenolect"]``; None leaves it to negotiation. ``limit``: bytes of a body, before and after decoding.
    """

    def __init__(
        self,
        app: App,
        dictionaries: Dictionaries | None = None,
        *,
        choose: Callable[[Scope], Choice | None] | None = None,
        limit: int = LIMIT,
    ) -> None:
        self.app = app
        self.dictionaries = Dictionaries() if dictionaries is None else dictionaries
        self.choose = choose
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        scope = {**scope, SCOPE: {}}
        token = headers.get(b"content-encoding", b"").decode("latin-1")
        if token.strip().lower() not in ("", "identity"):
            try:
                body = decode(
                    await _whole(receive, self.limit), token, self.dictionaries, self.limit
                )
            except DecodeError as error:
                await _refuse(send, str(error), bool(len(self.dictionaries)))
                return
            receive = _replay(body, receive)
            scope["headers"] = [
                *(
                    pair
                    for pair in scope["headers"]
                    if pair[0] not in (b"content-encoding", b"content-length")
                ),
                (b"content-length", str(len(body)).encode()),
            ]
        await self.app(scope, receive, _Encoder(self, scope, headers, send))

    def coding(self, scope: Scope, headers: dict[bytes, bytes]) -> Choice:
        """How the answer to this request shall be written."""
        chosen = self.choose(scope) if self.choose is not None else None
        if chosen is not None:
            return chosen
        accepted = {
            part.partition(";")[0].strip().lower()
            for part in headers.get(b"accept-encoding", b"").decode("latin-1").split(",")
            if not part.replace(" ", "").endswith((";q=0", ";q=0.0"))
        }
        named = headers.get(b"available-dictionary")
        if "dcz" in accepted and named is not None:
            dictionary = self.dictionaries.available(named.decode("latin-1"))
            if dictionary is not None:
                return Coding.DCZ, dictionary
        return (Coding.ZSTD if "zstd" in accepted else Coding.JSON), None


class _Encoder:
    """Holds an answer's start back until it is known whether, and to how many bytes, it is encoded."""

    def __init__(
        self, wire: WireASGI, scope: Scope, headers: dict[bytes, bytes], send: Send
    ) -> None:
        self._wire = wire
        self._scope = scope
        self._headers = headers
        self._send = send
        self._start: Message | None = None
        self._choice: Choice = (Coding.JSON, None)
        self._parts: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            if kind.startswith(b"application/json"):
                self._choice = self._wire.coding(self._scope, self._headers)
            if self._choice[0] is Coding.JSON:
                await self._send(message)
            else:
                self._start = message
            return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        coding, dictionary = self._choice
        body = encode(b"".join(self._parts), coding, dictionary)
        self._start["headers"] = [
            *(pair for pair in self._start["headers"] if pair[0] != b"content-length"),
            (b"content-encoding", coding.token.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"vary", b"accept-encoding, available-dictionary"),
        ]
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


async def _whole(receive: Receive, limit: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise DecodeError("the client went away before its body was whole")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise DecodeError(f"the body has more than {limit} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The decoded body first, then whatever the connection says (that it is gone, say)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(send: Send, why: str, dictionaries: bool) -> None:
    """415 with the codings that would do (RFC 9110, 12.5.3), in the words of JSON-RPC."""
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": why}}
    body = json.dumps(error).encode()
    accept = b"dcz, zstd" if dictionaries else b"zstd"
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"accept-encoding", accept),
    ]
    await send({"type": "http.response.start", "status": 415, "headers": headers})
    await send({"type": "http.response.body", "body": body})
