"""The limit on live streams of one client, and the response to a stream over it."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis
from starlette.requests import Request

from gateway.rate import client_of
from tests.gateway.samples import LONDON
from tests.servers import ANSWER_WITHIN, Module, eventually

LIMIT = 2


@pytest.fixture
def limited(redis_url: str, redis: Redis, tmp_path: Path) -> Iterator[Module]:
    env = {"REDIS_URL": redis_url, "STREAM_LIMIT": str(LIMIT), "FORWARDED_ALLOW_IPS": "127.0.0.1"}
    with Module(tmp_path, "gateway", env=env) as process:
        yield process


async def submitted(client: httpx.AsyncClient) -> str:
    return str((await client.post("/distance", json=LONDON)).json()["status"])


async def status(client: httpx.AsyncClient, place: str, visitor: str) -> int:
    async with client.stream("GET", f"{place}/events", headers={"x-forwarded-for": visitor}) as answer:
        return answer.status_code


async def test_the_one_too_many_is_refused_with_a_reason_and_no_one_else(limited: Module) -> None:
    async with httpx.AsyncClient(base_url=limited.url, timeout=ANSWER_WITHIN) as client, AsyncExitStack() as stack:
        places = [await submitted(client) for _ in range(LIMIT + 1)]
        for place in places[:LIMIT]:
            stream = await stack.enter_async_context(
                client.stream("GET", f"{place}/events", headers={"x-forwarded-for": "192.0.2.1"})
            )
            assert stream.status_code == 200
        refused = await client.get(f"{places[-1]}/events", headers={"x-forwarded-for": "192.0.2.1"})
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert int(refused.headers["retry-after"]) >= 1
        assert f"At most {LIMIT} live streams for one address" in refused.json()["detail"]
        assert "GET /submissions/{id}" in refused.json()["detail"]
        asked = await client.get(places[-1], headers={"x-forwarded-for": "192.0.2.1"})
        assert (asked.status_code, asked.json()["over"]) == (200, False), "as the refusal says"
        assert await status(client, places[-1], "192.0.2.2") == 200
        await stack.aclose()
        await eventually(lambda: admitted(client, places[-1], "192.0.2.1"), what="who leaves makes room")


async def admitted(client: httpx.AsyncClient, place: str, visitor: str) -> bool:
    return await status(client, place, visitor) == 200


async def test_the_addresses_of_one_ipv6_network_are_one_client(limited: Module) -> None:
    async with httpx.AsyncClient(base_url=limited.url, timeout=ANSWER_WITHIN) as client, AsyncExitStack() as stack:
        place = await submitted(client)
        for host in range(LIMIT):
            await stack.enter_async_context(
                client.stream("GET", f"{place}/events", headers={"x-forwarded-for": f"2001:db8:0:1::{host}"})
            )
        assert await status(client, place, "2001:db8:0:1:ffff::1") == 429
        assert await status(client, place, "2001:db8:0:2::1") == 200


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::7", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::1"),
        ("64:ff9b::c000:201", "192.0.2.1"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_client_is_an_address_or_a_network_of_ipv6(host: str, client: str) -> None:
    assert client_of(Request({"type": "http", "client": (host, 0)})) == client
    assert client_of(Request({"type": "http", "client": None})) == "unknown"
