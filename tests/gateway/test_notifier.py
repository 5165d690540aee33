"""The notifier, the graph of the stages and a stream by themselves, in this process."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway import stream
from gateway.notifier import Notifier
from gateway.status import GraphReader, StatusReader
from gateway.stream import Watch, status_events
from milepost.journal import Journal
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.gateway.samples import reach, tell_stages
from tests.proxy import Proxy
from tests.servers import Valkey, eventually


@pytest.fixture
async def journal(redis: Redis, redis_url: str) -> AsyncIterator[Journal]:
    tell_stages(redis_url)
    settings = JournalSettings(redis_url=redis_url)
    journal = Journal(connect(settings), settings)
    yield journal
    await journal.close()


async def test_a_half_open_subscription_is_noticed(valkey_server: Valkey, journal: Journal) -> None:
    """The notifier alone, so that looking at progress now and then does not hide it."""
    async with Proxy(valkey_server.url) as proxy:
        redis = connect(JournalSettings(redis_url=proxy.url), retries=0)
        notifier = Notifier(redis, GraphReader(journal).channels, most_of_client=1)
        running = asyncio.create_task(notifier.run())
        event_id = "0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e11"
        with notifier.watch(event_id, "192.0.2.1") as changed:
            await eventually(changed.is_set, what="subscribed")
            proxy.stall()
            changed.clear()
            await eventually(changed.is_set, what="subscribed anew, and told so")
        running.cancel()
        await asyncio.wait([running])
        await redis.aclose()


async def test_quiet_stream_has_comments_and_an_end(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEPALIVE", 0)
    monkeypatch.setattr(stream, "LOOK_EVERY", 0.01)
    event_id = "0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e12"
    await reach(journal, event_id, "raw_input")
    graphs = GraphReader(journal)
    notifier = Notifier(journal.redis, graphs.channels, most_of_client=1)
    reader = StatusReader(journal, graphs, event_id)
    with notifier.watch(event_id, "192.0.2.1") as changed:
        frames = status_events(notifier, Watch(reader, await reader.read(), changed), [])
        assert [(await anext(frames)).partition(b":")[0] for _ in range(3)] == [b"retry", b"data", b""]
        monkeypatch.setattr(stream, "LONGEST", 0)
        assert [frame async for frame in frames] == []


async def test_concurrent_readers_of_the_graph_all_wait_for_it(journal: Journal) -> None:
    graphs = GraphReader(journal)
    found = await asyncio.gather(*(graphs.graph() for _ in range(5)))
    assert {graph.ends("raw_input") for graph in found} == {frozenset({"email:sent"})}
