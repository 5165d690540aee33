"""How it is kept, the table of keys: what each holds and how long it lives."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from milepost import keys
from milepost.errors import EventError
from milepost.journal import Bury, Complete, Journal, Park, Unreadable, Upkeep
from milepost.settings import JournalSettings
from tests.journal.conftest import Groups, Table
from tests.journal.events import CALCULATED, RAW, READY, SENT, letter, made, reply_to, submission
from tests.servers import eventually

HOUR = 3_600_000
"""Milliseconds."""


async def lives(redis: Redis, key: str) -> float:
    """Hours."""
    return round(await redis.pttl(key) / HOUR, 1)


async def test_every_key_bears_the_one_hash_tag_and_has_its_type(
    journal: Journal, upkeep: Upkeep, redis: Redis, groups: Groups, table: Table
) -> None:
    await table(distance=(RAW, CALCULATED))
    distance = groups("distance")
    await made(distance)
    events = [submission() for _ in range(3)]
    for event in events:
        await journal.publish(event)
    entries = await distance.read(3, block=READY) or []
    await distance.settle(Park(entries[0], letter(events[0]), 60))
    await distance.settle(Bury(entries[1], letter(events[1])))
    await upkeep.lease("token", ttl=10, tell=False)
    await upkeep.unreadable([Unreadable(RAW, b"\xff", "not UTF-8")])
    types = {key.decode(): (await redis.type(key)).decode() for key in await redis.keys("*")}
    types.pop(keys.BACKLOG, None)  # it lives for a tenth of a second
    assert len({key_slot(key.encode()) for key in [*types, keys.BACKLOG]}) == 1
    assert types == {
        keys.JOURNALS: "set",
        keys.DEAD: "set",
        keys.STAGES: "hash",
        keys.ANNOUNCED: "set",
        keys.LEASE: "string",
        keys.journal(RAW): "stream",
        keys.waiting("distance"): "zset",
        keys.dead("distance"): "stream",
        keys.dead("bridge"): "stream",
        **{keys.seen(event.source, event.id): "string" for event in events},
        **{keys.progress(event.id): "hash" for event in events},
    }


async def test_seen_lives_for_the_dedup_time(
    redis: Redis, settings: JournalSettings, opened: Callable[[JournalSettings], Journal]
) -> None:
    event, other = submission(), submission()
    await opened(settings).publish(event)
    await opened(settings.model_copy(update={"dedup": timedelta(hours=3)})).publish(other)
    assert await lives(redis, keys.seen(event.source, event.id)) == 1
    assert await lives(redis, keys.seen(other.source, other.id)) == 3


async def test_after_the_dedup_time_an_event_is_new_again(journal: Journal, redis: Redis) -> None:
    event = submission()
    await journal.publish(event)
    await redis.pexpire(keys.seen(event.source, event.id), 1)

    async def published_again() -> bool:
        return await journal.publish(event)

    await eventually(published_again)
    assert await redis.xlen(keys.journal(RAW)) == 2


async def test_progress_lives_for_the_deadline_and_an_hour_from_each_note(
    journal: Journal, redis: Redis, table: Table, groups: Groups
) -> None:
    await table(distance=(RAW, CALCULATED), store=(CALCULATED,))
    distance = groups("distance")
    await made(distance)
    event = submission()
    await journal.publish(event)
    assert await lives(redis, keys.progress(event.id)) == 25
    await redis.pexpire(keys.progress(event.id), HOUR)
    (entry,) = await distance.read(1, block=READY) or []
    await distance.settle(Complete(entry, reply_to(event)))
    assert await lives(redis, keys.progress(event.id)) == 25


async def test_progress_lives_an_hour_from_the_note_of_a_channel_that_no_stage_consumes(
    journal: Journal, redis: Redis, table: Table, groups: Groups
) -> None:
    await table(email=("user:email", SENT))
    email = groups("email", channel="user:email")
    await made(email)
    event = submission(channel="user:email")
    await journal.publish(event)
    (entry,) = await email.read(1, block=READY) or []
    await email.settle(Complete(entry, reply_to(event, SENT)))
    assert await lives(redis, keys.progress(event.id)) == 1


async def test_the_note_of_a_death_keeps_progress_for_the_deadline(
    journal: Journal, redis: Redis, groups: Groups
) -> None:
    distance = groups("distance")
    await made(distance)
    event = submission()
    await journal.publish(event)
    (entry,) = await distance.read(1, block=READY) or []
    await distance.settle(Bury(entry, letter(event)))
    assert await lives(redis, keys.progress(event.id)) == 25


async def test_progress_is_in_the_order_of_time(journal: Journal, redis: Redis) -> None:
    for moment, channel in enumerate(("b", "c", "a"), start=1):
        await redis.hset(keys.progress("one"), channel, f'{{"at":{moment}000000,"data":null}}')
    notes = await journal.progress("one")
    assert list(notes) == ["b", "c", "a"]
    assert notes["b"].at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


async def test_nobody_knows_an_unknown_id(journal: Journal, redis: Redis) -> None:
    assert await journal.progress("nobody") == {}


async def test_progress_notes_large_data_as_null(journal: Journal, redis: Redis) -> None:
    large = submission(data="x" * 64_000)
    await journal.publish(large)
    assert (await journal.progress(large.id))[RAW].data is None


@pytest.mark.parametrize("source", ["/a|b", "|"])
def test_the_bar_of_a_seen_key_is_in_no_source(source: str) -> None:
    with pytest.raises(EventError, match="source"):
        submission(source=source)
