"""An HTTP proxy in front of an S3 service that does to the k-th request what networks and services do.

It passes everything on unchanged, the Host header included, so that signatures stay valid.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

__all__ = ["FAULTS", "FaultProxy"]

FAULTS = {
    "500": "an internal error instead of doing it",
    "503": "a request to slow down instead of doing it",
    "409": "a conflict with another request under way instead of doing it",
    "412": "a create is refused as if the name were taken, instead of doing it",
    "dropped": "the connection ends before anything is done",
    "lost": "it is done, and the connection ends without an answer",
    "500 after": "it is done, and an internal error is the answer",
    "late": "it is done, and the answer comes after the client's patience",
    "afterwards": "nothing happens until the client has given up, and then it is done",
    "cut": "it is done, and half of the answer arrives",
}
_CODES = {
    "500": "InternalError",
    "503": "SlowDown",
    "409": "ConditionalRequestConflict",
    "412": "PreconditionFailed",
}
_HOP = {"connection", "keep-alive", "transfer-encoding"}


class FaultProxy:
    """``fault`` happens to request number ``at`` (from 1; 0: to none), and with ``lasting`` to all
    after it. ``requests`` are those so far, as "METHOD /path"."""

    def __init__(
        self,
        target: str,
        *,
        patience: float = 0.3,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        self.target = urlsplit(target).netloc
        self.patience = patience
        self.fault, self.at, self.lasting = "500", 0, False
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def arm(self, fault: str, at: int, *, lasting: bool = False) -> None:
        """Count anew, and let it happen."""
        with self.lock:
            self.fault, self.at, self.lasting = fault, at, lasting
            self.requests = []

    def heal(self) -> list[str]:
        """Nothing happens any more; the requests since ``arm``."""
        with self.lock:
            self.at = 0
            return list(self.requests)

    def next(self, request: str) -> str | None:
        """Count a request; the fault that befalls it."""
        with self.lock:
            self.requests.append(request)
            now = len(self.requests)
            hit = self.at and (now == self.at or (self.lasting and now > self.at))
            return self.fault if hit else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: FaultProxy

    def handle_error(self, *_: object) -> None:
        """Clients that gave up are what this is about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body = self._body()
        proxy = self.server.proxy
        fault = proxy.next(f"{self.command} {self.path}")
        if fault == "412" and "If-None-Match" not in self.headers:
            fault = None  # without a condition there is none that could fail
        if fault == "dropped":
            self._end()
        elif fault in _CODES:
            self._answer(int(fault), _CODES[fault])
        elif fault == "afterwards":
            time.sleep(proxy.patience * 1.5)
            self._forward(body)
            self._end()
        else:
            status, headers, data = self._forward(body)
            if fault == "lost":
                self._end()
            elif fault == "500 after":
                self._answer(500, "InternalError")
            elif fault == "late":
                time.sleep(proxy.patience * 1.5)
                self._end()
            else:
                self._send(status, headers, data, half=fault == "cut")

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        headers.pop("Expect", None)
        headers["Content-Length"] = str(len(body))
        proxy = self.server.proxy
        there = http.client.HTTPConnection(proxy.target, timeout=20)
        try:
            there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                there.putheader(name, value)
            there.endheaders(body)
            answer = there.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            there.close()

    def _send(
        self, status: int, headers: list[tuple[str, str]], data: bytes, *, half: bool
    ) -> None:
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of a HEAD too
            elif name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        if half and not data:
            self.wfile.write(b"".join(self._headers_buffer)[:20])  # type: ignore[attr-defined]
            self._headers_buffer: Any = []
            self._end()
            return
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if half else data)
        if half:
            self._end()

    def _answer(self, status: int, code: str) -> None:
        data = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        if self.command == "HEAD":
            data = b""
        self._send(status, [("Content-Type", "application/xml")], data, half=False)

    def _end(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Quiet."""
