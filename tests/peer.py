r"""The other end of an HTTP client, under a test's hand: it reads requests whole and answers them byte by byte.

@on_each_loop
async def test_something() -> None:
    async def script(line: Line) -> None:      # run for each connection; it is closed when this returns
        await line.request()
        line.write(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")

    async with Peer(script) as peer: ...        # peer.url, peer.lines, peer.requests
"""

import asyncio
import functools
import gc
import inspect
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self

import pytest
import uvloop

from milepost.bridge.http.client import Client, Lost, NotSent, Response
from tests.servers import WITHIN, eventually

EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


def reply(body: bytes = b"", *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A reply whose length is given, which keeps the connection."""
    head = b"\r\n".join([b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers])
    return head + b"\r\n\r\n" + body


class Line:
    """A connection that the client made."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.requests: list[bytes] = []
        self.hung_up = asyncio.Event()

    async def head(self) -> bytes:
        """The next request's head alone."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def request(self) -> bytes:
        """The next request. Raises IncompleteReadError if the client closes instead."""
        head = await self.head()
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        whole = head + await self.reader.readexactly(int(length.partition(b":")[2]))
        self.requests.append(whole)
        return whole

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def reset(self) -> None:
        """Break the connection so that the client gets an error, not an end."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def closed(self) -> None:
        """Wait until the client has closed its end."""
        try:
            while await self.reader.read(65_536):
                pass
        except OSError:
            pass


async def answer_all(line: Line) -> None:
    """Answers every request at once, with a 204."""
    while True:
        await line.request()
        line.write(EMPTY)


async def never_answer(line: Line) -> None:
    """Reads one request and waits for the client to give up."""
    await line.request()
    await line.closed()


async def post(
    client: Client, body: bytes = b"{}", *, within: float = 60, headers: Mapping[str, str] | None = None
) -> Response:
    return await client.post(body, content_type="application/json", timeout=within, headers=headers)


async def timed_out(client: Client, within: float) -> Lost:
    """The loss of a POST that is not answered in time. One that had no connection in time was not sent: once more."""
    while True:
        try:
            await post(client, within=within)
        except NotSent:
            continue
        except Lost as lost:
            return lost


class Peer:
    """A server on a free port of 127.0.0.1. An exception of a script fails the test, unless its client has gone."""

    def __init__(self, script: Callable[[Line], Awaitable[None]], *, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.lines: list[Line] = []
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def requests(self) -> list[bytes]:
        return [request for line in self.lines for request in line.requests]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, Exception) and fault is None:
                    raise outcome

    def refuse(self) -> None:
        """Accept no connection from now on; those there are stay."""
        self._server.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        self.lines.append(line)
        self._tasks.add(asyncio.create_task(self._serve(line)))

    async def _serve(self, line: Line) -> None:
        try:
            await self.script(line)
            line.writer.close()
            await line.writer.wait_closed()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            line.hung_up.set()
            line.writer.transport.abort()


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on asyncio's own loop and on uvloop; tasks that are left and errors that were not handled fail it."""

    @functools.wraps(test)
    @pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def run(new_loop: Callable[[], asyncio.AbstractEventLoop], **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            unhandled = runner.run(_watched(test(**arguments)))
        assert not unhandled

    signature = inspect.signature(test)
    new_loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), new_loop])  # type: ignore[attr-defined]
    return run


async def _watched(test: Coroutine[Any, Any, None]) -> list[dict[str, Any]]:
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    async with asyncio.timeout(WITHIN):
        await test
        await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()}, what="no task left over")
    gc.collect()
    return unhandled
