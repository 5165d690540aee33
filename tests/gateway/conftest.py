"""Gateway processes that stay, on a Valkey of their own, and ways to look at the events that they published."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from milepost.journal import Journal, keys
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.gateway.operating import BASIC, BEARER, PAGE, TOKEN
from tests.gateway.samples import STAGES, Published, tell_stages
from tests.servers import ANSWER_WITHIN, Module, Valkey


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server of its own: the gateways stay connected, and other tests count the commands sent to a server."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="session")
def gateway(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    with Module(tmp_path_factory.mktemp("gateway"), "gateway", env={"REDIS_URL": redis_url}) as process:
        yield process


@pytest.fixture
async def client(gateway: Module, redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway; Redis is empty."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=ANSWER_WITHIN) as client:
        yield client


@pytest.fixture(scope="module")
def valkey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A server for one module, with its STAGES, else those of the pipeline, which a gateway then keeps for a while."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        tell_stages(server.url, getattr(request.module, "STAGES", STAGES))
        yield server


@pytest.fixture(scope="module")
def own_gateway(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    with Module(tmp_path_factory.mktemp("gateway"), "gateway", env={"REDIS_URL": valkey.url}) as process:
        yield process


@pytest.fixture
async def visitor(own_gateway: Module) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the module's own gateway."""
    async with httpx.AsyncClient(base_url=own_gateway.url, timeout=ANSWER_WITHIN) as client:
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


@pytest.fixture(scope="session")
def guarded(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    env = {"REDIS_URL": redis_url, "OPS_TOKEN": TOKEN}
    with Module(tmp_path_factory.mktemp("ops"), "gateway", env=env) as process:
        yield process


@pytest.fixture
async def stranger(guarded: Module, redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    """A client without the token; Redis is empty."""
    async with httpx.AsyncClient(base_url=guarded.url, timeout=ANSWER_WITHIN) as client:
        yield client


@pytest.fixture
async def operator(stranger: httpx.AsyncClient) -> httpx.AsyncClient:
    """The same with the token, as a program sends it."""
    stranger.headers.update(BEARER)
    return stranger


@pytest.fixture
async def browser(stranger: httpx.AsyncClient) -> httpx.AsyncClient:
    """The same as a browser sends it."""
    stranger.headers.update(BASIC | PAGE)
    return stranger


@pytest.fixture
async def journal(redis_url: str, redis: Redis) -> AsyncIterator[Journal]:
    settings = JournalSettings(redis_url=redis_url)
    journal = Journal(connect(settings), settings)
    yield journal
    await journal.close()
