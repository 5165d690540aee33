"""uvicorn's HTTP protocol with four faults mended and a system call saved: `--http milepost.server.protocol:Protocol`.

1. A head (request line and headers) is limited in size and time. uvicorn waits for its end without a limit.
2. An offer to upgrade is ignored (RFC 9110, section 7.8). For httptools a request with such an offer ends where its
   head ends, and uvicorn then reads the body as the next request. Here the head is read again without the offer, then
   the body.
3. A response of unknown length to an HTTP/1.0 client ends with the connection. uvicorn sends it chunked.
4. Trailer fields of a chunked body are ignored (RFC 9110, section 6.5.1). uvicorn adds them to the headers.
5. The head of a response leaves together with its body. uvicorn writes one after the other, and uvloop sends each at
   once, so the client would be woken twice.

It uses private parts of uvicorn; tests/security/test_upgrade_offers.py and test_slow_clients.py fail when they change.
"""

import asyncio
import gc
import json
from functools import cache
from http import HTTPStatus

import httptools
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

LARGEST_HEAD = 64_000
"""Bytes of a head, counted as they arrive; the packet that ends the head may bring more."""

HEAD_WITHIN = 10.0
"""Seconds for a head to arrive, from the beginning of the connection or the first byte of the request."""

GC_THRESHOLD = 5_000
"""New objects before the garbage collector runs; Python 3.11 has 700. A request makes hundreds and frees them."""


class Protocol(HttpToolsProtocol):
    """One connection. A head over the limit is answered 431, a slow one 408, and the connection is closed."""

    _received = 0
    _in_head = False
    _refused = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        freeze_heap()
        super().connection_made(transport)
        self.parser = _Parser(self)
        self._begin_head()
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._received += len(data)
        super().data_received(data)
        if self._in_head:
            self._start_timer()  # most heads arrive in one packet and need no timer
            if self._received > LARGEST_HEAD:
                self._refuse(431, f"the head of a request has at most {LARGEST_HEAD} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:
            self._begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the parser reads this head again, without the offer
        super().on_headers_complete()
        self._end_head()
        if self.scope["method"] != "HEAD":
            self.cycle.transport = _HeadWithBody(self.transport)  # type: ignore[assignment]
        if self.scope["http_version"] < "1.1":
            self.cycle.__class__ = _UntilClose

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def head_without_offer(self) -> bytes:
        """Return the head that was read last, without its Upgrade header."""
        request = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = (b"%s: %s" % header for header in self.headers if header[0] != b"upgrade")
        return b"\r\n".join([request, *kept, b"\r\n"])

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed."""
        self._refuse(400, msg)

    def _begin_head(self) -> None:
        self._in_head = True
        self._received = 0

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(
                HEAD_WITHIN, self._refuse, 408, f"the head of a request did not arrive within {HEAD_WITHIN:g} s"
            )

    def _end_head(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, detail: str) -> None:
        """Answer with a problem and close. If the response to an earlier request is not complete, let it complete and
        close without an answer: the client would take the problem for that response.
        """
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        in_head = self._in_head
        self._end_head()
        if in_head and self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return
        title = HTTPStatus(status).phrase
        body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
        self.transport.write(
            f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
        )
        self.transport.close()


class _Parser(httptools.HttpRequestParser):
    """A parser for requests, which may offer an upgrade. After a head with an offer a new parser reads that head again
    without the offer: the first would read nothing after `Connection: close`.
    """

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        """Parse received bytes. Raises HttpParserError, also for CONNECT, whose head no HTTP follows."""
        parser = self
        while True:
            try:
                httptools.HttpRequestParser.feed_data(parser, data)
            except httptools.HttpParserUpgrade as offer:
                if parser.get_method() == b"CONNECT":
                    raise httptools.HttpParserError("CONNECT") from None
                data = self._protocol.head_without_offer() + data[offer.args[0] :]
                parser = self._protocol.parser = _Parser(self._protocol)
            else:
                return


class _HeadWithBody:
    """The transport for one response. It keeps the head until the body is written or the response is given up.

    It sends the head of a stream, which names no length, at once: the body may begin much later.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._kept: bytes | None = None
        """The head; empty once it was sent."""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if self._kept is None and not data.startswith(b"HTTP/1.1 100 "):
            self._kept = data if b"\r\ncontent-length: " in data else b""
            if self._kept:
                return
        if self._kept:
            data, self._kept = self._kept + data, b""
        self._transport.write(data)

    def close(self) -> None:
        if self._kept:
            self._transport.write(self._kept)
        self._transport.close()


class _UntilClose(RequestResponseCycle):
    """The response to an HTTP/1.0 request."""

    _has_length = True

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            if not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
                self.chunked_encoding = False
                self._has_length = False
        elif message["type"] == "http.response.body" and not self._has_length:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


@cache
def freeze_heap() -> None:
    """Call gc.freeze() once start-up is done, so that the collector does not rescan long-lived modules, and turn the
    collector on. Later calls do nothing: they would freeze garbage.
    """
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    gc.enable()  # off since the start, in a function's process
