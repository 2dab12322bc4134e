"""The client's end of a wire variant: an httpx2 transport that encodes, decodes and counts.

::

    wire = WireTransport(httpx2.AsyncHTTPTransport(), Dictionaries([dictionary]))
    http = httpx2.AsyncClient(transport=wire)
    async with Client(streamable_http_client(url, http_client=http)) as client:
        with speaking(Coding.DCZ, dictionary) as exchange:
            await client.call_tool("add", {"a": 1, "b": 2})
        exchange.sent, exchange.received          # bytes of the bodies, as they were on the wire
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import attrs
import httpx2

from xenolect_mcp.wire import LIMIT, Coding, DecodeError, Dictionaries, Dictionary, decode, encode

__all__ = ["Exchange", "WireError", "WireTransport", "speaking"]


class WireError(httpx2.StreamError):
    """An answer could not be decoded.

    A StreamError, because that is what the SDK's streamable HTTP transport turns into a JSON-RPC parse
    error for the one request concerned; any other exception would end the whole connection.
    """


@attrs.define
class Exchange:
    """What went over the wire while it was the current one: bytes, as sent and received.

    ``sent`` and ``received`` are bodies, ``plain`` what they are without their encoding; ``headers`` are request and answer lines and headers, both
    ways, before HTTP/1.1 framing. ``coding`` and ``dictionary`` are how requests are written.
    """

    coding: Coding = Coding.JSON
    dictionary: Dictionary | None = None
    sent: int = 0
    received: int = 0
    plain: int = 0
    headers: int = 0
    requests: int = 0
    answered: str = ""

    @property
    def bodies(self) -> int:
        """Bytes of bodies, both ways."""
        return self.sent + self.received


_current: ContextVar[Exchange | None] = ContextVar("xenolect_exchange", default=None)


@contextmanager
def speaking(coding: Coding, dictionary: Dictionary | None = None) -> Iterator[Exchange]:
    """Write the requests made in this block so, and count their bytes.

    The SDK sends from the caller's context, so this reaches the transport through its task groups.
    """
    exchange = Exchange(coding, dictionary)
    token = _current.set(exchange)
    try:
        yield exchange
    finally:
        _current.reset(token)


class WireTransport(httpx2.AsyncBaseTransport):
    """Wraps a transport. Outside of ``speaking`` requests go as ``coding``, and all are counted.

    ``dictionaries`` are those this client can read. ``limit``: bytes a decoded answer may have.
    ``hear`` is called with every body in plain, of requests and of encoded or whole JSON answers: what a
    dictionary can be trained on.
    """

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        dictionaries: Dictionaries | None = None,
        *,
        coding: Coding = Coding.JSON,
        dictionary: Dictionary | None = None,
        limit: int = LIMIT,
        hear: Callable[[bytes], None] | None = None,
    ) -> None:
        self.inner = inner
        self.hear = hear
        self.dictionaries = Dictionaries() if dictionaries is None else dictionaries
        self.limit = limit
        self.total = Exchange(coding, dictionary)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Encode the request, send it, and hand the answer back as it was before its encoding."""
        exchange = _current.get() or self.total
        body = await request.aread()
        if body and self.hear is not None:
            self.hear(body)
        wire = encode(body, exchange.coding, exchange.dictionary) if body else body
        headers = httpx2.Headers(request.headers)
        headers["accept-encoding"] = "identity"
        if exchange.coding is not Coding.JSON:
            headers["accept-encoding"] = "dcz, zstd" if len(self.dictionaries) else "zstd"
            if exchange.coding is Coding.DCZ and exchange.dictionary is not None:
                headers["available-dictionary"] = exchange.dictionary.available
        if body and exchange.coding is not Coding.JSON:
            headers["content-encoding"] = exchange.coding.token
            headers["content-length"] = str(len(wire))
        sent = httpx2.Request(
            request.method,
            request.url,
            headers=headers,
            content=wire,
            extensions=request.extensions,
        )
        counters = (exchange, self.total) if exchange is not self.total else (exchange,)
        for counter in counters:
            counter.requests += 1
            counter.sent += len(wire)
            counter.plain += len(body)
            counter.headers += len(request.method) + len(request.url.raw_path) + 12
            counter.headers += _size(sent.headers)
        response = await self.inner.handle_async_request(sent)
        token = response.headers.get("content-encoding", "")
        for counter in counters:
            counter.headers += 17 + _size(response.headers)
            counter.answered = token or "identity"
        answer = httpx2.Headers(
            [
                pair
                for pair in response.headers.raw
                if not token or pair[0].lower() not in (b"content-encoding", b"content-length")
            ]
        )
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        plain = response.headers.get("content-type", "").startswith("application/json")
        return httpx2.Response(
            response.status_code,
            headers=answer,
            stream=_Answer(
                response.stream,
                token,
                self.dictionaries,
                self.limit,
                counters,
                self.hear if plain else None,
            ),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self.inner.aclose()


class _Answer(httpx2.AsyncByteStream):
    """An answer's body: counted as it comes, decoded when it is whole; streams pass through."""

    def __init__(
        self,
        inner: httpx2.AsyncByteStream,
        token: str,
        dictionaries: Dictionaries,
        limit: int,
        counters: tuple[Exchange, ...],
        hear: Callable[[bytes], None] | None,
    ) -> None:
        self._inner = inner
        self._token = token
        self._dictionaries = dictionaries
        self._limit = limit
        self._counters = counters
        self._hear = hear

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts, size = [], 0
        whole = bool(self._token) or self._hear is not None
        async for part in self._inner:
            size += len(part)
            for counter in self._counters:
                counter.received += len(part)
            if not whole:
                for counter in self._counters:
                    counter.plain += len(part)
                yield part
                continue
            if size > self._limit:
                raise WireError(f"the answer has more than {self._limit} bytes")
            parts.append(part)
        if whole:
            try:
                body = decode(b"".join(parts), self._token, self._dictionaries, self._limit)
            except DecodeError as error:
                raise WireError(str(error)) from error
            for counter in self._counters:
                counter.plain += len(body)
            if self._hear is not None:
                self._hear(body)
            yield body

    async def aclose(self) -> None:
        await self._inner.aclose()


def _size(headers: httpx2.Headers) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers.raw)
