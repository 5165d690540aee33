"""An offer to upgrade is ignored (RFC 9110, 7.8): the body is read, one response comes, the connection is in step."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from milepost.journal import keys
from milepost.server.protocol import LARGEST_HEAD, Protocol
from tests.security.conftest import PLACE, Door
from tests.security.raw import CLOSE, received, replies, request, statuses
from tests.servers import HOST, WITHIN, Function, eventually

H2C = [b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA"]
OFFERS = {
    "h2c": H2C,
    "h2c of the JDK": [H2C[2], b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"],
    "TLS of Apache HttpClient": [b"connection: upgrade", b"upgrade: TLS/1.2"],
    "websocket": [
        *(b"connection: keep-alive, Upgrade", b"upgrade: websocket"),
        *(b"sec-websocket-version: 13", b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="),
    ],
    "two": [b"connection: upgrade", b"upgrade: h2c", b"upgrade: websocket, foo/2"],
    "in two headers": [b"connection: keep-alive", b"connection: upgrade", b"upgrade: h2c"],
}


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
async def test_offer_with_a_body_is_answered_once_and_the_next_request_too(
    door: Door, offer: list[bytes], *, chunked: bool
) -> None:
    sent = request("POST", door.path, [door.content_type, *offer], door.body, chunked=chunked)
    sent += request("GET", door.alive, offer)
    sent += request("POST", door.path, [door.content_type, CLOSE], door.body, chunked=chunked)
    expected = [door.expected, 200, door.expected]
    assert await statuses(door.port, sent) == expected
    assert await statuses(door.port, *(sent[at : at + 1] for at in range(len(sent)))) == expected


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_offer_of_a_client_that_closes_the_connection_is_answered(door: Door, version: bytes) -> None:
    closing = [b"connection: close, upgrade", b"upgrade: h2c"]
    sent = request("POST", door.path, [door.content_type, *closing], door.body)
    assert await statuses(door.port, sent.replace(b"HTTP/1.1", b"HTTP/" + version)) == [door.expected]


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
async def test_body_of_an_offer_that_comes_later_than_its_head_is_read(door: Door, *, chunked: bool) -> None:
    """The body is sent once the server has asked for it: so it cannot arrive together with the head."""
    head, body = request("POST", door.path, [door.content_type, *H2C, b"expect: 100-continue"], door.body).split(
        b"\r\n\r\n", 1
    )
    if chunked:
        head = head.replace(b"content-length: %d" % len(door.body), b"transfer-encoding: chunked")
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    reader, writer = await asyncio.open_connection(HOST, door.port)
    async with asyncio.timeout(WITHIN):
        writer.write(head + b"\r\n\r\n")
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(body + request("GET", door.alive, [CLOSE]))
        answers = await reader.read()
    writer.transport.abort()
    assert answers.startswith(b"HTTP/1.1 %d " % door.expected)
    assert answers.count(b"HTTP/1.1 ") == 2


async def test_request_hidden_in_the_body_of_an_offer_is_not_run(door: Door) -> None:
    hidden = request("POST", door.path, [door.content_type], door.body)
    sent = request("POST", door.path, [door.content_type, *H2C], hidden) + request("GET", door.alive, [CLOSE])
    assert await statuses(door.port, sent) == [400, 200]


async def test_event_that_came_with_an_offer_keeps_its_data(door: Door, redis: Redis) -> None:
    offered = request("POST", door.path, [door.content_type, *H2C], door.body)
    answer, alive = await replies(door.port, offered, request("GET", door.alive, [CLOSE]))
    assert (answer.status, alive.status) == (door.expected, 200)
    if isinstance(door.server, Function):
        assert json.loads(answer.body)["data"]["email"] == PLACE["email"]
        return
    # In its status: the bridge may have parked the event already, because its stage is away.
    (status,) = [key async for key in redis.scan_iter(keys.status("*"))]
    assert json.loads(await redis.hget(status, "raw_input"))["data"] == PLACE


async def test_connect_is_refused_and_nothing_after_it_is_read(door: Door) -> None:
    for head in (b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n", b"CONNECT / HTTP/1.1\r\nhost: x\r\n"):
        after = request("POST", door.path, [door.content_type], door.body)
        for length in (b"", b"content-length: %d\r\n" % len(after)):
            (answer,) = await replies(door.port, head + length + b"\r\n" + after)
            assert answer.status == 400
            assert answer.headers["connection"] == "close"


async def test_http_2_without_asking_is_refused(door: Door) -> None:
    assert await statuses(door.port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 100) == [400]


# What follows needs an app of its own.


async def echo(incoming: Request) -> Response:
    body = await incoming.body()
    return JSONResponse({"body": body.decode(), "headers": list(incoming.headers)})


async def streamed(_: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        yield b""
        yield b"two"

    return StreamingResponse(parts())


async def given_up(_: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        raise RuntimeError
        yield b"body"

    return StreamingResponse(parts(), headers={"content-length": "4"})


class Recorded:
    """A transport that notes each write."""

    def __init__(self, transport: asyncio.Transport, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)


@pytest.fixture
def writes() -> list[bytes]:
    """Each write of the server."""
    return []


@pytest.fixture
async def opened() -> asyncio.Event:
    """Lets the response to /held go."""
    return asyncio.Event()


@pytest.fixture
async def port(opened: asyncio.Event, writes: list[bytes]) -> AsyncIterator[int]:
    class Recording(Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(Recorded(transport, writes))  # type: ignore[arg-type]

    async def held(_: Request) -> Response:
        await opened.wait()
        return PlainTextResponse("held")

    routes = [
        *(Route("/", echo, methods=["POST"]), Route("/streamed", streamed)),
        *(Route("/given-up", given_up), Route("/held", held)),
    ]
    app = Starlette(routes=routes)
    server = uvicorn.Server(
        uvicorn.Config(app, host=HOST, port=0, http=Recording, log_config=None, timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def test_trailer_fields_are_no_headers(port: int) -> None:
    trailed = request("POST", "/", [b"trailer: ce-id"], b"body", chunked=True)[:-2] + b"ce-id: forged\r\n\r\n"
    first, second = await replies(port, trailed + request("POST", "/", [CLOSE], b"next"))
    assert json.loads(first.body) == {"body": "body", "headers": ["host", "trailer", "transfer-encoding"]}
    assert json.loads(second.body) == {"body": "next", "headers": ["host", "connection", "content-length"]}


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_response_of_unknown_length_is_chunked_only_for_http_1_1(port: int, version: bytes) -> None:
    got = await received(port, b"GET /streamed HTTP/%s\r\nconnection: close\r\n\r\n" % version)
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert (b"transfer-encoding: chunked" in head) == (version == b"1.1")
    assert body == (b"one two" if version == b"1.0" else b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_http_1_0_clients_get_a_content_length(port: int) -> None:
    got = await received(port, b"POST / HTTP/1.0\r\ncontent-length: 2\r\n\r\nok")
    assert b'{"body":"ok"' in got
    assert b"content-length: " in got
    assert b"connection: close" in got


@pytest.mark.parametrize(
    "fault",
    [b"no http\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 2 * LARGEST_HEAD],
    ids=["broken", "connect", "large"],
)
async def test_refusal_does_not_overtake_the_response_to_an_earlier_request(
    port: int, opened: asyncio.Event, fault: bytes
) -> None:
    """The client would take the refusal for that response."""
    reading = asyncio.create_task(replies(port, request("GET", "/held"), fault, b"more", b"and more"))
    assert await statuses(port, fault) in ([400], [431], [])  # refused at once; none where the connection was reset
    opened.set()
    assert [(reply.status, reply.body) for reply in await reading] == [(200, b"held")]


async def test_head_and_body_of_a_response_leave_in_one_write(port: int, writes: list[bytes]) -> None:
    """The client is woken once for both. Each of several responses on a connection has its own write."""
    sent = [request("POST", "/", [], b"one"), request("POST", "/", [b"expect: 100-continue", CLOSE], b"two")]
    await received(port, *sent)
    first, interim, second = writes
    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    for response, body in ((first, b'{"body":"one"'), (second, b'{"body":"two"')):
        assert response.startswith(b"HTTP/1.1 200 OK\r\n")
        assert response.partition(b"\r\n\r\n")[2].startswith(body)


@pytest.mark.parametrize(("method", "path"), [("GET", "/streamed"), ("GET", "/given-up"), ("HEAD", "/streamed")])
async def test_head_of_a_response_without_a_body_yet_is_not_kept_back(
    port: int, method: str, path: str, writes: list[bytes]
) -> None:
    """The body of a stream may come much later, and never where the application fails."""
    got = await received(port, request(method, path, [CLOSE]))
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert writes[0].endswith(b"\r\n\r\n")
