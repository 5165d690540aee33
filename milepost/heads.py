"""No head of a request may be large, or slow: uvicorn itself waits for its end without any, and keeps all of it."""

import asyncio
import json
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST = 64_000
"""Bytes of a head, as counted when they arrive; what arrives with its end may be more."""

READ_WITHIN = 10.0
"""Seconds from a connection's beginning, or a request's first byte, to the end of the head."""


class BoundedHeads(HttpToolsProtocol):
    """For uvicorn's `http`. Answers 431 to a head over the limit, 408 to a slow one, and closes the connection."""

    _unread = 0
    _in_head = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)
        if self._in_head:
            self._wait()  # most heads arrive whole, and need no timer
            if self._unread > LARGEST:
                self._refuse(431, f"the head of a request has at most {LARGEST} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:
            self._begin()

    def on_headers_complete(self) -> None:
        self._end()
        super().on_headers_complete()

    def _begin(self) -> None:
        self._in_head = True
        self._unread = 0

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(
                READ_WITHIN, self._refuse, 408, f"the head of a request did not arrive within {READ_WITHIN:g} s"
            )

    def _end(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, detail: str) -> None:
        self._end()
        if self.transport.is_closing():
            return
        title = HTTPStatus(status).phrase
        body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
        self.transport.write(
            f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
        )
        self.transport.close()
