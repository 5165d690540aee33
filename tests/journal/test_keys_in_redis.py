"""The keys of Redis: the type of each, and how the status of a submission is written."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from milepost.errors import EventError
from milepost.journal import Bury, Journal, Maintenance, Park, Unreadable, keys
from milepost.journal.models import LARGEST_NOTE
from milepost.journal.stats import Counts, Slot, write
from milepost.settings import JournalSettings
from tests.journal.conftest import Consumers, Table
from tests.journal.events import CALCULATED, HOUR, RAW, event_of, failure, made, submission, taken
from tests.servers import eventually


async def hours(redis: Redis, key: str) -> float:
    """Return in how many hours a key expires."""
    return round(await redis.pttl(key) / HOUR, 1)


async def test_every_key_has_the_one_hash_tag_and_its_type(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    await table(distance=(RAW, CALCULATED))
    distance = consumers("distance")
    await made(distance)
    entries = await taken(journal, distance, 3)
    events = [event_of(entry) for entry in entries]
    await distance.settle([Park(entries[0], events[0].id, failure(), 60), Bury(entries[1], events[1].id, failure())])
    await maintenance.lease("token", ttl=10, known=None)
    await maintenance.unreadable([Unreadable(RAW, b"\xff", "not UTF-8")])
    await write(journal.scripts, "bridge-1", {"distance": [Slot(0, Counts(1))]})
    types = {key.decode(): (await redis.type(key)).decode() for key in await redis.keys("*")}
    types.pop(keys.BACKLOG, None)  # it lives for a tenth of a second
    assert len({key_slot(key.encode()) for key in [*types, keys.BACKLOG]}) == 1
    assert types == {
        keys.JOURNALS: "set",
        keys.DEAD: "set",
        keys.STAGES: "hash",
        keys.LEASE: "string",
        keys.STATS: "zset",
        keys.stats("distance", "bridge-1"): "string",
        keys.journal(RAW): "stream",
        keys.retries("distance", RAW): "stream",
        keys.parked("distance"): "zset",
        keys.dead("distance"): "stream",
        keys.dead("bridge"): "stream",
        **{keys.seen(event.source, event.id): "string" for event in events},
        **{keys.status(event.id): "hash" for event in events},
    }


async def test_seen_mark_expires_after_the_dedup_time(
    redis: Redis, settings: JournalSettings, opened: Callable[[JournalSettings], Journal]
) -> None:
    event, other = submission(), submission()
    await opened(settings).publish(event)
    await opened(settings.model_copy(update={"dedup": timedelta(hours=3)})).publish(other)
    assert await hours(redis, keys.seen(event.source, event.id)) == 1
    assert await hours(redis, keys.seen(other.source, other.id)) == 3


async def test_event_is_new_again_after_the_dedup_time(journal: Journal, redis: Redis) -> None:
    event = submission()
    await journal.publish(event)
    await redis.pexpire(keys.seen(event.source, event.id), 1)

    async def published_again() -> bool:
        return await journal.publish(event)

    await eventually(published_again)
    assert await redis.xlen(keys.journal(RAW)) == 2


async def test_status_is_in_the_order_of_time(journal: Journal, redis: Redis) -> None:
    for moment, channel in enumerate(("b", "c", "a"), start=1):
        await redis.hset(keys.status("one"), channel, f'{{"at":{moment}000000,"data":null}}')
    notes = await journal.status("one")
    assert list(notes) == ["b", "c", "a"]
    assert notes["b"].at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


async def test_fields_of_a_later_version_are_left_out_of_a_status(journal: Journal, redis: Redis) -> None:
    """In a rolling upgrade an old gateway reads the status that a new bridge writes."""
    event = submission()
    await journal.publish(event)
    fields = {"count": '{"count":1}', "number": "1", "text": "é", "early": '{"at":-1e300,"data":1}', b"\xff": b"\xff"}
    await redis.hset(keys.status(event.id), mapping=fields)
    assert list(await journal.status(event.id)) == [RAW]


async def test_unknown_id_has_no_status(journal: Journal, redis: Redis) -> None:
    assert await journal.status("nobody") == {}


async def test_status_notes_large_data_as_null(journal: Journal, redis: Redis) -> None:
    small, large = submission(data="x" * (LARGEST_NOTE - 2)), submission(data="x" * (LARGEST_NOTE - 1))
    for event in (small, large):
        await journal.publish(event)
    assert (await journal.status(small.id))[RAW].data == small.data
    assert (await journal.status(large.id))[RAW].data is None


@pytest.mark.parametrize("source", ["/a|b", "|"])
def test_no_source_holds_the_bar_of_a_seen_key(source: str) -> None:
    with pytest.raises(EventError, match="source"):
        submission(source=source)
