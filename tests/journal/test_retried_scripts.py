"""Every script may run twice: its first answer is lost on the way, and the connection sends it once more."""

from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from milepost.errors import JournalUnavailable
from milepost.journal import Adoption, Bury, Complete, Consumer, Journal, Maintenance, Park, Wiring, keys
from milepost.journal.connection import connect
from milepost.journal.shared_connection import SharedConnection
from milepost.settings import JournalSettings
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CALCULATED,
    CLAIM,
    RAW,
    READY,
    abandoned,
    event_of,
    failure,
    heard,
    made,
    maintenance_of,
    pending,
    reply_to,
    settled,
    submission,
    taken,
    unserved,
)
from tests.proxy import Proxy

SCRIPT = b"EVALSHA"


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
def lossy(proxy: Proxy, opened: Callable[[JournalSettings], Journal]) -> Journal:
    """A journal behind the proxy."""
    return opened(JournalSettings.read(redis_url=proxy.url))


@pytest.fixture
def lossy_maintenance(lossy: Journal, settings: JournalSettings) -> Maintenance:
    return maintenance_of(lossy, settings)


@pytest.fixture
async def lossy_consumer(lossy: Journal, settings: JournalSettings, redis: Redis) -> Consumer:
    consumer = Consumer(
        "distance",
        RAW,
        "consumer",
        reader=lossy.scripts.connection,
        scripts=lossy.scripts,
        deadline=settings.deadline,
    )
    await made(consumer)
    return consumer


async def test_event_is_published_once(lossy: Journal, proxy: Proxy, redis: Redis) -> None:
    await lossy.publish(submission())
    async with heard(redis, RAW) as messages:
        proxy.lose(SCRIPT)
        await lossy.publish(submission())
    assert proxy.lost == 1
    assert len(messages) == 1
    assert await redis.xlen(keys.journal(RAW)) == 2


async def test_hop_publishes_its_reply_once(
    journal: Journal, lossy_consumer: Consumer, proxy: Proxy, redis: Redis
) -> None:
    first, second = await taken(journal, lossy_consumer, 2)
    await settled(lossy_consumer, Complete(first, "", None))
    reply = reply_to(event_of(second))
    async with heard(redis, CALCULATED) as messages:
        proxy.lose(SCRIPT)
        assert await settled(lossy_consumer, Complete(second, reply.id, reply)) == "stale"
    assert proxy.lost == 1
    assert len(messages) == await redis.xlen(keys.journal(CALCULATED)) == 1
    assert await pending(redis, lossy_consumer) == 0


async def test_event_is_parked_and_buried_once(
    journal: Journal, lossy_consumer: Consumer, proxy: Proxy, redis: Redis
) -> None:
    first, second = await taken(journal, lossy_consumer, 2)
    proxy.lose(SCRIPT)
    await settled(lossy_consumer, Park(first, event_of(first).id, failure(), 60))
    proxy.lose(SCRIPT)
    await settled(lossy_consumer, Bury(second, event_of(second).id, failure()))
    assert proxy.lost == 2
    assert await redis.zcard(keys.parked("distance")) == await redis.xlen(keys.dead("distance")) == 1


async def test_due_event_is_retried_once_and_a_dead_one_replayed_once(
    journal: Journal,
    lossy: Journal,
    lossy_maintenance: Maintenance,
    consumers: Consumers,
    table: Table,
    proxy: Proxy,
    redis: Redis,
) -> None:
    await table(distance=(RAW,))
    distance = consumers("distance")
    await made(distance)
    (entry,) = await taken(journal, distance)
    await settled(distance, Park(entry, "", failure(), 0))
    proxy.lose(SCRIPT)
    await lossy_maintenance.retry_due(["distance"], most=9)
    (entry,) = await distance.take(9)
    await settled(distance, Bury(entry, "", failure()))
    (dead,) = await journal.admin.dead_letters("distance")
    proxy.lose(SCRIPT)
    await lossy.admin.replay("distance", [dead.entry])
    assert proxy.lost == 2
    assert len(await distance.take(9)) == 1


async def test_event_of_another_program_is_adopted_once_and_the_lease_is_kept(
    lossy_maintenance: Maintenance, proxy: Proxy, redis: Redis
) -> None:
    proxy.lose(SCRIPT)
    assert await lossy_maintenance.lease("token", ttl=10, known=None) == "token"
    proxy.lose(SCRIPT)
    foreign = Adoption(submission(channel="user:email"), "token")
    assert await lossy_maintenance.adopt([foreign]) in (["seen"], ["done"])
    assert await redis.xlen(keys.journal("user:email")) == 1


async def test_mode_is_switched_once(
    journal: Journal,
    lossy_maintenance: Maintenance,
    consumers: Consumers,
    table: Table,
    proxy: Proxy,
    redis: Redis,
) -> None:
    await table(distance=(RAW,))
    distance, broker = consumers("distance"), consumers("broker")
    await made(distance)
    await taken(journal, distance, 3)
    await journal.publish(submission())
    await unserved(redis, "distance")
    proxy.lose(SCRIPT)
    assert await lossy_maintenance.switch({"broker": Wiring([RAW], [], "")}) is None
    assert proxy.lost == 1
    assert len(await broker.take(9)) == 4


@pytest.fixture
async def lossy_reads(
    journal: Journal, proxy: Proxy, redis: Redis, settings: JournalSettings
) -> AsyncIterator[Consumer]:
    """A consumer that reads through the proxy, as a bridge does: a read is never sent again."""
    reader = SharedConnection(connect(JournalSettings.read(redis_url=proxy.url)), again=False)
    consumer = Consumer(
        "distance",
        RAW,
        "consumer",
        reader=reader,
        scripts=journal.scripts,
        deadline=settings.deadline,
    )
    await made(consumer)
    yield consumer
    await reader.close()


@pytest.mark.parametrize("how", ["take", "wait"])
async def test_entries_of_a_lost_reply_are_reread_and_not_read_twice(
    lossy_reads: Consumer, proxy: Proxy, redis: Redis, how: str
) -> None:
    event = submission()
    await redis.xadd(keys.retries("distance", RAW), {"event": event.to_json(), "channel": RAW})
    proxy.lose(b"XREADGROUP")
    with pytest.raises(JournalUnavailable):
        await (lossy_reads.take(9) if how == "take" else lossy_reads.wait(9, block=READY))
    (entry,) = await lossy_reads.reread()
    assert entry.event == event.to_json().encode()
    assert await lossy_reads.take(9) == []


async def test_entries_of_a_lost_takeover_are_reread(
    journal: Journal, consumers: Consumers, lossy_reads: Consumer, proxy: Proxy, redis: Redis
) -> None:
    dead = consumers("distance", "dead")
    entries = await taken(journal, dead, 2)
    assert (await lossy_reads.take_over(9, claim=CLAIM)).entries == []
    await abandoned(redis, dead, *entries)
    proxy.lose(SCRIPT)
    with pytest.raises(JournalUnavailable):
        await lossy_reads.take_over(9, claim=CLAIM)
    assert await lossy_reads.reread() == entries
    assert (await lossy_reads.take_over(9, claim=CLAIM)).entries == []


async def test_scripts_that_the_server_forgot_are_sent_again(
    journal: Journal, maintenance: Maintenance, consumers: Consumers, redis: Redis
) -> None:
    distance = consumers("distance")
    await made(distance)
    (entry,) = await taken(journal, distance)
    await redis.script_flush()
    assert await journal.publish(submission()) is True
    await redis.script_flush()
    assert await settled(distance, Complete(entry, "", None)) == "done"
    await redis.script_flush()
    assert len(await distance.take(1)) == 1
    await redis.script_flush()
    assert await maintenance.retry_due(["distance"], most=1) == (0, None, {})
