"""Fixtures of the journal's tests. Each test runs on the embedded Valkey and, where it is installed, on Debian's Redis.

journal, maintenance   on an empty server; `table(...)` writes the stages table
consumers              makes a consumer of a stage: `consumers("distance", "consumer-a", [RAW], order="email")`
distance               a consumer of the stage `distance`, whose groups are made
full                   makes the server refuse every command that takes memory, until the test ends
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack

import pytest
import redis.asyncio as redis_asyncio

from milepost.journal import Consumer, Journal, Maintenance, Wiring
from milepost.journal.connection import connect
from milepost.journal.shared_connection import SharedConnection
from milepost.settings import JournalSettings
from tests.journal.events import RAW, made, maintenance_of
from tests.servers import REDIS_SERVER, Redis

Consumers = Callable[..., Consumer]
Table = Callable[..., Awaitable[None]]


@pytest.fixture(scope="session", params=["valkey", "redis"])
def redis_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "valkey":
        yield request.getfixturevalue("valkey_server").url
        return
    if REDIS_SERVER is None:
        pytest.skip("no redis-server on PATH: these tests ran on the embedded Valkey alone")
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def settings(redis_url: str) -> JournalSettings:
    return JournalSettings.read(redis_url=redis_url)


@pytest.fixture
async def opened(redis: redis_asyncio.Redis) -> AsyncIterator[Callable[[JournalSettings], Journal]]:
    """Open journals with other settings; they are closed when the test ends."""
    async with AsyncExitStack() as stack:

        def opened(settings: JournalSettings) -> Journal:
            journal = Journal(connect(settings), settings)
            stack.push_async_callback(journal.close)
            return journal

        yield opened


@pytest.fixture
def journal(opened: Callable[[JournalSettings], Journal], settings: JournalSettings) -> Journal:
    return opened(settings)


@pytest.fixture
def maintenance(journal: Journal, settings: JournalSettings) -> Maintenance:
    return maintenance_of(journal, settings)


@pytest.fixture
async def consumers(journal: Journal, settings: JournalSettings) -> AsyncIterator[Consumers]:
    lines: list[SharedConnection] = []

    def consumers(
        stage: str,
        name: str = "consumer",
        channel: str = RAW,
        *,
        emits: bool = True,
        order: str | bool = False,
    ) -> Consumer:
        lines.append(SharedConnection(connect(settings, answer_within=30), again=False))
        return Consumer(
            stage,
            channel,
            name,
            reader=lines[-1],
            scripts=journal.scripts,
            deadline=settings.deadline,
            emits=emits,
            order=order,
        )

    yield consumers
    for line in lines:
        await line.close()


@pytest.fixture
async def distance(redis: redis_asyncio.Redis, consumers: Consumers) -> Consumer:
    """A consumer of the stage `distance`, whose groups are made."""
    consumer = consumers("distance")
    await made(consumer)
    return consumer


@pytest.fixture
def table(maintenance: Maintenance) -> Table:
    """Write routes into the stages table, name=(consumed, emitted): `distance=("raw_input", "calculated_distance")`."""

    async def table(**stages: Sequence[str]) -> None:
        await maintenance.beat(
            {
                name: Wiring(consumes=channels[:1], emits=channels[1:], url=f"http://{name}")
                for name, channels in stages.items()
            }
        )

    return table


@pytest.fixture
async def full(redis: redis_asyncio.Redis) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async def fill() -> None:
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.config_set("maxmemory", "1")  # byte

    yield fill
    await redis.config_set("maxmemory", "0")
