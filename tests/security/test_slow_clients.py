"""Clients that send a little and then nothing more: others are served meanwhile, and in the end they are sent away."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from functions.payloads import CalculatedDistance, Submission
from milepost import stage
from milepost.server import http, protocol
from milepost.server.protocol import Protocol
from tests.security.conftest import EVENT, STRUCTURED, Door
from tests.security.raw import CLOSE, request
from tests.servers import HOST, WITHIN, eventually

SLOW = 300
"""Clients at once."""

PATIENCE = 0.1
"""Seconds, where a test is not to wait for as long as a server does."""

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"


def good(event_id: str, *headers: bytes) -> bytes:
    return request("POST", "/", [STRUCTURED, *headers], json.dumps({**EVENT, "id": event_id}).encode())


async def sending(port: int, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """A connection, and what of `sent` is still to be sent. The rest is there before a server on this loop knows of
    the connection, so that its patience is not spent by a machine that stops in between.
    """
    link = socket.create_connection((HOST, port))
    link.settimeout(0)
    begun = link.send(sent) if sent else 0
    reader, writer = await asyncio.open_connection(sock=link)
    return reader, writer, sent[begun:]


async def status(port: int, sent: bytes) -> int | None:
    """The status of the answer, however long it takes; None if the connection was closed without one."""
    reader, writer, rest = await sending(port, sent)
    line = b""
    try:
        async with asyncio.timeout(WITHIN):
            with contextlib.suppress(ConnectionError):
                writer.write(rest)
                line = await reader.readline()
                await reader.read()
        return int(line.split()[1]) if line else None
    finally:
        writer.transport.abort()


async def test_others_are_served_while_hundreds_of_clients_stall(door: Door) -> None:
    closing = request("POST", door.path, [door.content_type, CLOSE], door.body)
    stalled = [HEAD, HEAD + b"content-length: 1000\r\n\r\n{", b""]
    links = [socket.create_connection((HOST, door.port)) for _ in range(SLOW)]
    try:
        for number, link in enumerate(links):
            link.sendall(stalled[number % len(stalled)])
        assert [await status(door.port, closing) for _ in range(3)] == [door.expected] * 3
    finally:
        for link in links:
            link.close()
    assert await status(door.port, closing) == door.expected


@pytest.fixture
async def impatient(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The port of a stage served as gateway and bridge serve, with little patience."""
    monkeypatch.setattr(protocol, "HEAD_WITHIN", PATIENCE)
    monkeypatch.setattr(http, "READ_WITHIN", PATIENCE)

    async def distance(submission: Submission) -> CalculatedDistance:
        """Say 1 to everyone, and take longer than what is sent may take."""
        await asyncio.sleep(2 * PATIENCE)
        return CalculatedDistance(email=submission.email, distance_from_velocity=1)

    app = Starlette(routes=[Route("/", stage(distance), methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=0, http=Protocol, log_config=None))
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


@pytest.mark.parametrize("sent", [b"", b"P", HEAD, HEAD + b"x-a: "], ids=["nothing", "a byte", "half", "in a value"])
async def test_a_head_that_does_not_arrive_is_408(impatient: int, sent: bytes) -> None:
    assert await status(impatient, sent) == 408


async def test_the_head_of_a_second_request_has_no_more_time(impatient: int) -> None:
    reader, writer, rest = await sending(impatient, good("1"))
    async with asyncio.timeout(WITHIN):
        assert not rest
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        assert b" 408 " in await reader.read()
    writer.close()


async def test_a_body_that_does_not_arrive_is_408_at_a_stage_and_the_bridge(impatient: int) -> None:
    assert await status(impatient, HEAD + b"content-length: 9\r\nconnection: close\r\n\r\n{") == 408


async def test_a_head_without_end_is_431(impatient: int) -> None:
    assert await status(impatient, HEAD + b"x-a: " + b"a" * 1_000_000) in {431, None}
    name = b"".join(b"x-%d: a\r\n" % number for number in range(20_000))
    assert await status(impatient, HEAD + name) in {431, None}


async def test_time_limit_of_a_head_does_not_end_a_slow_response(impatient: int) -> None:
    closing = good("2", CLOSE)
    assert await status(impatient, closing) == 200
