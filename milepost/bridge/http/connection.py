"""One HTTP/1.1 connection, which carries one POST at a time.

MilepostError
  NotSent            the request was not sent: the server cannot have seen it
  Lost               it was sent, and no response came: the server may have seen it
  ResponseTooLarge   the response's body is over the limit
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from starlette.datastructures import Headers

from milepost.errors import MilepostError

LARGEST_HEAD = 65_536
"""Most bytes of a response before its body. Chunked framing may take as many bytes as the body itself."""


class NotSent(MilepostError):
    """The request was not sent: DNS or TLS failed, or the connection was refused or not made in time."""


class Lost(MilepostError):
    """The request was sent and no response came: time is over, the connection closed, or the bytes are not HTTP."""

    def __init__(self, detail: str, *, timed_out: bool = False) -> None:
        super().__init__(detail)
        self.timed_out = timed_out


class ResponseTooLarge(MilepostError):
    """The response's body is over the limit; `status` is its HTTP status."""

    def __init__(self, detail: str, *, status: int) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(slots=True)  # frozen, each would take longer to make
class Response:
    """A complete response. Header names are in lower case. A header that comes twice is there twice, when iterated."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Result: TypeAlias = Response | Lost | ResponseTooLarge


class Connection(asyncio.Protocol):
    """A connection to `peer`. It belongs to one POST from `send` until `rest`, and is idle after that.

    The future that `send` returns never gets an exception: after a cancelled POST asyncio would log it as unretrieved.
    """

    __slots__ = (
        "_answered",
        "_headers",
        "_largest",
        "_loop",
        "_on_lost",
        "_parser",
        "_parts",
        "_peer",
        "_raw",
        "_received",
        "_size",
        "_status",
        "_transport",
        "_waiter",
        "deadline",
        "dropped",
        "lost",
        "usable",
    )

    def __init__(
        self, peer: str, largest_response: int, loop: asyncio.AbstractEventLoop, on_lost: Callable[["Connection"], None]
    ) -> None:
        self.deadline = 0.0  # loop time at which the POST is given up, or the idle connection
        self.usable = False
        self.dropped = False  # the other side closed it before the first byte of a response
        self.lost = loop.create_future()
        self._peer = peer
        self._largest = largest_response
        self._loop = loop
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Result] | None = None
        self._raw: list[tuple[bytes, bytes]] = []
        self._parser = HttpResponseParser(self)

    # Called for a POST

    def send(self, request: bytes, deadline: float) -> asyncio.Future[Result]:
        """Write a whole request; return a future of its result. After a Response, `usable` says whether to `rest`."""
        transport = self._transport
        if transport is None:
            raise RuntimeError("not connected")
        self.deadline = deadline
        self._answered = False
        self._received = 0
        self._headers: Mapping[str, str] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        waiter = self._waiter = self._loop.create_future()
        transport.write(request)
        return waiter

    def rest(self, until: float) -> None:
        self._waiter = None
        self.deadline = until

    def expire(self) -> None:
        """The deadline has passed: give up the POST, or the idle connection."""
        if self._waiter is None:
            self.abort()
        elif not self._waiter.done():
            self.fail(Lost(f"{self._peer}: no response in time", timed_out=True))

    def fail(self, outcome: Lost | ResponseTooLarge) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(outcome)
        self.abort()

    def abort(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.usable = True

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            self.abort()  # no request is under way, so these bytes belong to none
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as fault:
            self.usable = False
            if not self._answered:
                self.fail(self._too_large() if self._size > self._largest else self._not_http(fault))
                return
        if self._answered:
            self._finish(self._waiter)
        elif self._headers is None:
            if self._received > LARGEST_HEAD:
                self.fail(self._not_http(f"its head is over {LARGEST_HEAD} bytes"))
        elif self._received > LARGEST_HEAD + 2 * self._largest:
            self.fail(self._too_large())

    def eof_received(self) -> None:
        self.usable = False
        if self._waiter is not None and not self._waiter.done() and self._ends_with_connection():
            self._finish(self._waiter)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self.dropped = not self._received
            where = "before it responded" if self.dropped else "in the middle of its response"
            self._waiter.set_result(Lost(f"{self._peer}: closed the connection {where}" + (f": {exc}" if exc else "")))
        self._waiter = None  # parser and connection refer to each other, and would keep the response
        self.usable = False
        self.lost.set_result(None)
        self._on_lost(self)

    # Called by the parser

    def on_message_begin(self) -> None:
        if self._answered:
            raise ValueError("a second response")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._raw.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # below 200 it is interim: the response is still to come
            self._status = status
            self._headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._raw}
            if len(self._headers) != len(self._raw):
                self._headers = Headers(raw=self._raw.copy())
        self._raw.clear()

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._largest:
            raise ValueError("too large")
        self._parts.append(part)

    def on_message_complete(self) -> None:
        if self._headers is not None:
            self._raw.clear()  # trailers are no headers
            self._answered = True
            if not self._parser.should_keep_alive():
                self.usable = False

    def _finish(self, waiter: asyncio.Future[Result]) -> None:
        if self._transport is not None and self._transport.get_write_buffer_size():
            self.usable = False  # answered before the body was wholly sent
        waiter.set_result(Response(self._status, self._headers or {}, b"".join(self._parts)))

    def _ends_with_connection(self) -> bool:
        """Whether the response ends with the connection (RFC 9112, section 6.3)."""
        headers = self._headers
        if headers is None or "content-length" in headers:
            return False
        return "chunked" not in headers.get("transfer-encoding", "").lower()

    def _too_large(self) -> ResponseTooLarge:
        return ResponseTooLarge(f"{self._peer}: the response is over {self._largest} bytes", status=self._status)

    def _not_http(self, fault: object) -> Lost:
        return Lost(f"{self._peer}: the response is not HTTP: {fault}")
