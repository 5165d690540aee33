"""A real gateway process on the run's Valkey, and ways to look at what it published."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from milepost import keys
from tests.gateway.samples import Published
from tests.servers import Module


@pytest.fixture(scope="session")
def gateway(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    with Module(tmp_path_factory.mktemp("gateway"), "gateway", env={"REDIS_URL": redis_url}) as process:
        yield process


@pytest.fixture
async def client(gateway: Module, redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway; Redis is empty."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as client:
        yield client


@pytest.fixture
def published(redis: Redis) -> Published:
    """The events in the journal of raw_input, oldest first."""

    async def read() -> list[dict[str, Any]]:
        rows: Any = await redis.xrange(keys.journal("raw_input"))
        return [json.loads(fields[b"event"]) for _, fields in rows]

    return read


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Module]:
    """A gateway whose Redis is not there."""
    env = {"REDIS_URL": "redis://127.0.0.1:1"}
    with Module(tmp_path, "gateway", env=env, ready="/healthz") as process:
        yield process
