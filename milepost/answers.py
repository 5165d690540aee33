"""An answer leaves in one write: uvicorn writes its head and its body apart, and a write is a system call."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from milepost.heap import keep_what_is_loaded

_MOST = 65_536
"""Bytes that wait for the end of the turn; more are written at once, and so a long answer meets flow control."""


class OneWrite(HttpToolsProtocol):
    """For uvicorn's `http`: what is written in one turn of the event loop leaves together."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        keep_what_is_loaded()
        self._gathering = _Gathering(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._gathering))

    def eof_received(self) -> None:
        self._gathering.flush()  # the event loop closes the transport itself after this
        super().eof_received()


class _Gathering:
    """A transport that writes at the end of the loop's turn what it was given in that turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._given = b""

    def write(self, data: bytes) -> None:
        if not self._given:
            self._loop.call_soon(self.flush)
        self._given += data
        if len(self._given) > _MOST:
            self.flush()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        given, self._given = self._given, b""
        if given and not self._transport.is_closing():
            self._transport.write(given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
