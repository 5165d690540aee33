"""The watch for a failover looks at intervals, and closes no connection while nothing has moved."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis_asyncio
from redis.exceptions import TimeoutError as NoAnswer

from milepost.journal import failover
from milepost.journal.connection import connect
from milepost.journal.failover import FailoverWatch
from milepost.settings import JournalSettings
from tests.servers import Valkey, eventually

NEVER = 3600.0
"""Seconds: longer than any test."""


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server of its own, which nothing else asks for INFO."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
async def client(redis: redis_asyncio.Redis, redis_url: str) -> AsyncIterator[redis_asyncio.Redis]:
    await redis.config_resetstat()
    async with connect(JournalSettings.read(redis_url=redis_url)) as client:
        yield client


async def looks(redis: redis_asyncio.Redis) -> int:
    """Return how often Redis was asked for INFO, which this does not do."""
    found: Any = await redis.execute_command("LATENCY", "HISTOGRAM", "info")
    return int(found.get(b"info", {b"calls": 0})[b"calls"])


async def test_watch_pauses_between_two_looks_and_ends(
    client: redis_asyncio.Redis, redis: redis_asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "LOOK_TRUSTED", 0.0)
    monkeypatch.setattr(failover, "LOOK_EVERY", NEVER)
    watch, before = FailoverWatch(client), len(asyncio.all_tasks())
    async with watch.running():
        await eventually(lambda: looks(redis))
        for _ in range(20):
            await redis.ping()
        assert await looks(redis) == 1
    assert len(asyncio.all_tasks()) == before


async def test_watch_looks_again_after_each_pause(
    client: redis_asyncio.Redis, redis: redis_asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause is the one for a URL that names the server itself."""
    monkeypatch.setattr(failover, "LOOK_TRUSTED", 0.0)
    monkeypatch.setattr(failover, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(failover, "LOOK_EVERY_IF_TOLD", NEVER)

    async def looked_thrice() -> bool:
        return await looks(redis) >= 3

    async with FailoverWatch(client).running():
        await eventually(looked_thrice)


async def test_watch_closes_nothing_but_its_own_connections_while_the_server_is_the_same(
    client: redis_asyncio.Redis, redis: redis_asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "LOOK_TRUSTED", 0.0)
    number = await client.client_id()
    watch = FailoverWatch(client)
    for _ in range(3):
        await watch.look()
    assert await looks(redis) == 3
    assert await client.client_id() == number

    async def alone() -> bool:
        return [one["id"] for one in await redis.client_list() if one["name"] == "milepost"] == [str(number)]

    await eventually(alone)


async def test_result_of_a_look_counts_for_all_callers_for_a_time(
    client: redis_asyncio.Redis, redis: redis_asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "LOOK_TRUSTED", NEVER)
    watch = FailoverWatch(client)
    await asyncio.gather(watch.look(), watch.look())
    await watch.look()
    assert await looks(redis) == 1


async def test_look_at_a_frozen_server_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "LOOK_WITHIN", 0.05)
    with Valkey(tmp_path) as valkey:
        valkey.freeze()
        async with connect(JournalSettings.read(redis_url=valkey.url)) as client:
            with pytest.raises(NoAnswer, match=r"no answer within 0\.05 s"):
                await FailoverWatch(client).look()
        valkey.thaw()
