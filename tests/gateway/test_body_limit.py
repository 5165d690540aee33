"""A body over 64 kB, however it comes, is 413; a slow one is 408. Nothing is published."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from gateway import body_limit
from gateway.body_limit import LARGEST, BodyLimit
from gateway.refusal import Refusal
from tests.gateway.samples import LONDON, Published
from tests.servers import HOST, Module

JSON = {"Content-Type": "application/json"}


def padded(size: int) -> bytes:
    body = json.dumps(LONDON).encode()
    return body + b" " * (size - len(body))


async def in_chunks(body: bytes, size: int = 7000) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("size", [LARGEST + 1, 1_000_000, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_body_over_the_limit_is_413(
    client: httpx.AsyncClient, published: Published, size: int, *, chunked: bool
) -> None:
    body = padded(size)
    # In few chunks: the gateway reads a refused body for two seconds, and a busy machine sends many more slowly.
    content = in_chunks(body, max(7000, size // 100)) if chunked else body
    answer = await client.post("/distance", content=content, headers=JSON)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert await published() == []
    assert (await client.post("/distance", json=LONDON)).status_code == 202


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_body_at_the_limit_is_taken(client: httpx.AsyncClient, published: Published, *, chunked: bool) -> None:
    body = padded(LARGEST)
    answer = await client.post("/distance", content=in_chunks(body) if chunked else body, headers=JSON)
    assert answer.status_code == 202
    assert len(await published()) == 1


async def test_a_form_over_the_limit_is_413_as_a_page(client: httpx.AsyncClient, published: Published) -> None:
    texts = {name: str(value) for name, value in LONDON.items()}
    for answer in (
        await client.post("/distance", files={"cv": ("cv.pdf", b"x" * 1_000_000)}, data=texts),
        await client.post("/distance", data={**texts, "email": "a" * 100_000}),
        await client.post("/", data={**texts, "email": "a" * 100_000}),
    ):
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert await published() == []


async def test_client_that_disconnects_within_a_body_publishes_nothing(
    gateway: Module, client: httpx.AsyncClient, published: Published
) -> None:
    body = json.dumps(LONDON).encode()
    with socket.create_connection((HOST, gateway.port)) as link:
        head = "POST /distance HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        link.sendall(head.encode() + body)
    assert (await client.get("/healthz")).status_code == 200
    assert await published() == []


@pytest.fixture
def impatient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_limit, "BODY_WITHIN", 0.05)
        patch.setattr(body_limit, "DRAIN_WITHIN", 0.05)
        yield


async def test_a_body_that_does_not_arrive_is_408(impatient: None) -> None:
    async def never(scope: object, receive: object, send: object) -> None:
        raise AssertionError("the application was called")

    never_comes = asyncio.Event()

    async def trickle() -> dict[str, object]:
        await never_comes.wait()
        return {}

    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [], "path": "/distance"}
    await BodyLimit(never, refuse=refuse)(scope, trickle, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]  # type: ignore[operator]
    assert sent[-1] == {"type": "http.response.body", "body": b""}


async def test_small_bodies_pass_unchanged_and_requests_without_body_unread() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(await Request(scope, receive).body())(scope, receive, send)

    transport = httpx.ASGITransport(BodyLimit(echo, refuse=refuse))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert (await client.post("/", content=in_chunks(b"twelve bytes", 5))).content == b"twelve bytes"
        assert (await client.post("/")).content == b""
        assert (await client.get("/")).content == b""


def refuse(headers: Headers, refusal: Refusal) -> Response:
    return PlainTextResponse(refusal.detail, refusal.status)
