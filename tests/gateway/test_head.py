"""HEAD is answered wherever GET is, and an event stream to an HTTP/1.0 client ends with the connection."""

import asyncio

import httpx
import pytest

from milepost.events.ids import new_id
from milepost.journal import Journal
from tests.gateway.samples import reach
from tests.servers import ANSWER_WITHIN, HOST, Module

PATHS = ("/", "/docs", "/channels", "/asyncapi.json", "/openapi.json", "/healthz", "/readyz", "/static/milepost.js")


async def same(client: httpx.AsyncClient, path: str, **headers: str) -> None:
    get, head = await client.get(path, headers=headers), await client.head(path, headers=headers)
    assert (head.status_code, head.headers["content-type"]) == (200, get.headers["content-type"])
    assert get.status_code == 200
    assert not head.content


@pytest.mark.parametrize("path", PATHS)
async def test_head_of_a_page_or_document(client: httpx.AsyncClient, path: str) -> None:
    await same(client, path)


async def test_head_of_a_submission(client: httpx.AsyncClient, journal: Journal) -> None:
    event_id = new_id()
    assert (await client.head(f"/submissions/{event_id}")).status_code == 404
    await reach(journal, event_id, "raw_input")
    for accept in ("text/html", "application/json"):
        await same(client, f"/submissions/{event_id}", accept=accept)


async def test_head_of_a_stream_ends_at_once(client: httpx.AsyncClient, journal: Journal) -> None:
    event_id = new_id()
    await reach(journal, event_id, "raw_input")
    head = await client.head(f"/submissions/{event_id}/events")
    assert head.status_code == 200
    assert head.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("path", ["/ops", "/ops.json", "/ops/messages"])
async def test_head_of_the_operators_pages(operator: httpx.AsyncClient, path: str) -> None:
    assert (await operator.head(path)).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/asyncapi.json", "/channels"])
async def test_405_names_both(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.put(path)
    assert answer.status_code == 405
    assert {method.strip() for method in answer.headers["allow"].split(",")} == {"GET", "HEAD"}


async def test_stream_to_an_http_1_0_client_is_not_chunked(gateway: Module, journal: Journal) -> None:
    event_id = new_id()
    await reach(journal, event_id, "raw_input")
    reader, writer = await asyncio.open_connection(HOST, gateway.port)
    async with asyncio.timeout(ANSWER_WITHIN):
        writer.write(f"GET /submissions/{event_id}/events HTTP/1.0\r\nhost: x\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        events = await reader.readuntil(b"id: raw_input\n\n")
    writer.transport.abort()
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert events.startswith(b"retry: 2000\n\n")
