"""How an answer leaves: uvicorn served for real, its writes to the transport noted on the way."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar, cast

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from milepost.answers import OneWrite
from tests.servers import HOST, eventually

LONG = 3_000_000
REQUEST = b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class Noting:
    """A transport that notes what is written to it."""

    def __init__(self, transport: asyncio.Transport, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Noted(OneWrite):
    writes: ClassVar[list[bytes]] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", Noting(transport, self.writes)))


def short(_: Request) -> Response:
    return PlainTextResponse("short")


async def soon(_: Request) -> Response:
    return PlainTextResponse("soon")


def long(_: Request) -> Response:
    return PlainTextResponse("~" * LONG)


def streamed(_: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(LONG // 1000):
            yield b"~" * 1000

    return StreamingResponse(chunks())


def heard(_: Request) -> Response:
    """What is said at once is heard before the rest is there."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    return StreamingResponse(chunks())


@pytest.fixture
def writes() -> Iterator[list[bytes]]:
    yield Noted.writes
    Noted.writes.clear()


@pytest.fixture
async def link(writes: list[bytes]) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    app = Starlette(routes=[Route(f"/{one.__name__}", one) for one in (short, soon, long, streamed, heard)])
    config = uvicorn.Config(app, host=HOST, port=0, http=Noted, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    reader, writer = await asyncio.open_connection(HOST, server.servers[0].sockets[0].getsockname()[1])
    async with asyncio.timeout(20):
        yield reader, writer
    writer.close()
    server.should_exit = True
    await serving


async def test_head_and_body_leave_in_one_write(
    link: tuple[asyncio.StreamReader, asyncio.StreamWriter], writes: list[bytes]
) -> None:
    reader, writer = link
    writer.write(REQUEST % b"/short")
    answer = await reader.readuntil(b"short")
    writer.write(LAST % b"/short")
    assert (await reader.read()).endswith(b"\r\n\r\nshort")
    assert len(writes) == 2
    assert writes[0] == answer


async def test_two_requests_in_one_packet_are_answered_in_turn(
    link: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    reader, writer = link
    writer.write(REQUEST % b"/short" + LAST % b"/long")
    answers = await reader.read(-1)
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert b"\r\n\r\nshortHTTP/1.1" in answers
    assert answers.endswith(b"\r\n\r\n" + b"~" * LONG)


@pytest.mark.parametrize("path", [b"/long", b"/streamed"])
async def test_a_long_answer_arrives_whole_and_is_not_gathered(
    link: tuple[asyncio.StreamReader, asyncio.StreamWriter], writes: list[bytes], path: bytes
) -> None:
    reader, writer = link
    writer.write(LAST % path)
    assert (await reader.read(-1)).count(b"~") == LONG
    assert path == b"/long" or max(map(len, writes)) < 70_000


async def test_what_is_said_at_once_does_not_wait(link: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = link
    writer.write(REQUEST % b"/heard")
    assert b"200 OK" in await reader.readuntil(b"first")


async def test_a_client_that_closes_its_side_after_the_request_gets_the_answer(
    link: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    reader, writer = link
    writer.write(REQUEST % b"/soon")
    writer.write_eof()
    assert (await reader.read(-1)).endswith(b"\r\n\r\nsoon")
