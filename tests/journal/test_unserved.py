"""Stages that no bridge serves: they are kept and bounded by themselves, and close no door of those that are served."""

import asyncio
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from milepost.errors import BacklogFull
from milepost.events.event import Event
from milepost.journal import Bury, Complete, Consumer, Depth, Entry, Forgotten, Journal, Maintenance, Park, keys
from milepost.settings import JournalSettings
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CALCULATED,
    RAW,
    SENT,
    assert_bounded,
    event_of,
    failure,
    journaled,
    made,
    maintenance_of,
    pending,
    reply_to,
    submission,
    taken,
    unserved,
)

LIMIT = 10
STAGES = {"distance": (RAW, CALCULATED), "old": (RAW,), "store": (CALCULATED,)}


@pytest.fixture
def few(settings: JournalSettings) -> JournalSettings:
    return settings.model_copy(update={"backlog_limit": LIMIT})


@pytest.fixture
def journal(opened: Callable[[JournalSettings], Journal], few: JournalSettings) -> Journal:
    return opened(few)


@pytest.fixture
def maintenance(journal: Journal, few: JournalSettings) -> Maintenance:
    return maintenance_of(journal, few)


@pytest.fixture
async def distance(redis: Redis, consumers: Consumers, table: Table) -> Consumer:
    """A served stage. `old`, of the same channel, and `store`, alone on its own, are not served."""
    await table(**STAGES)
    distance = consumers("distance")
    await made(distance, consumers("old"), consumers("store", channel=CALCULATED))
    await unserved(redis, "old", "store")
    return distance


async def publish(journal: Journal, channel: str = RAW) -> Event:
    """Publish an event with the backlog counted anew: doors trust their count for a tenth of a second."""
    await journal.redis.delete(keys.BACKLOG)
    event = submission(channel=channel)
    assert await journal.publish(event)
    return event


async def finish(consumer: Consumer, *, emits: str | None = None) -> None:
    entries = await consumer.take(99)
    replies = [reply_to(event_of(entry), emits) if emits else None for entry in entries]
    await consumer.settle([Complete(entry, "", reply) for entry, reply in zip(entries, replies, strict=True)])


async def test_doors_stay_open_for_a_served_stage_however_many_events_wait_for_an_unserved_one(
    journal: Journal, maintenance: Maintenance, distance: Consumer
) -> None:
    for _ in range(3 * LIMIT):
        await publish(journal)
        await finish(distance)
    assert await journal.backlog() == 3 * LIMIT, "it is shown"
    assert await backlog_of(journal, "old") == 3 * LIMIT


async def backlog_of(journal: Journal, stage: str, channel: str = RAW) -> int:
    (depth,) = await journal.admin.depths({stage: [channel]})
    return depth.journaled


async def test_place_that_a_stage_left_behind_is_shown_and_forgotten(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, table: Table
) -> None:
    await publish(journal)
    await table(distance=(SENT,))
    await redis.xadd(keys.retries("distance", RAW), {"event": submission().to_json(), "since": 1})
    left = {
        stage.name: (stage.left_behind, stage.served, stage.consumes, stage.journaled)
        for stage in await journal.admin.stages()
    }
    assert left["distance:raw_input"] == (True, False, (RAW,), 2)
    assert left["distance"] == (False, True, (SENT,), 0)
    (depth,) = await journal.admin.left_behind()
    assert depth.oldest is not None
    seconds, _ = await redis.time()
    assert abs(depth.oldest - seconds) < 3600, "since the first millisecond of all"
    assert depth == Depth("distance:raw_input", 2, 0, 0, depth.oldest)
    assert await journal.admin.forget("distance:raw_input") == Forgotten(parked=1, dead=0)
    assert await journal.admin.left_behind() == []
    assert not await redis.exists(keys.retries("distance", RAW))
    for nothing in ("distance:raw_input", "old:raw_input", "nobody:raw_input"):
        with pytest.raises(LookupError):
            await journal.admin.forget(nothing)
    assert sorted(row["name"] for row in await redis.xinfo_groups(keys.journal(RAW))) == [b"old"]


async def test_place_that_a_stage_left_behind_is_forgotten_if_it_has_a_group_or_retries_alone(
    journal: Journal, redis: Redis, distance: Consumer, table: Table
) -> None:
    await table(distance=(SENT,))
    assert await journal.admin.forget("distance:raw_input") == Forgotten(parked=0, dead=0)
    await redis.xadd(keys.retries("distance", RAW), {"event": submission().to_json(), "since": 1})
    assert await journal.admin.forget("distance:raw_input") == Forgotten(parked=1, dead=0)
    assert not await redis.exists(keys.retries("distance", RAW))


async def test_doors_close_when_a_served_stage_is_behind(journal: Journal, distance: Consumer) -> None:
    for _ in range(LIMIT):
        await publish(journal)
    with pytest.raises(BacklogFull, match="the backlog is at its limit of 10 events"):
        await publish(journal)


async def test_channel_of_unserved_stages_alone_closes_alone_and_says_why(
    journal: Journal, redis: Redis, distance: Consumer, table: Table, consumers: Consumers
) -> None:
    events = [await publish(journal, CALCULATED) for _ in range(LIMIT)]
    with pytest.raises(BacklogFull) as caught:
        await publish(journal, CALCULATED)
    assert await journal.publish(events[0]) is False, "it is recognised, as everywhere"
    assert str(caught.value) == "no bridge serves the stages of 'calculated_distance', and 10 events wait for them"
    await publish(journal)
    with pytest.raises(BacklogFull):
        await journal.publish(submission(channel=CALCULATED))  # by the count that is trusted now
    await table(store=(CALCULATED,))
    await finish(consumers("store", channel=CALCULATED))
    await publish(journal, CALCULATED)


async def test_each_event_of_a_batch_of_open_and_closed_channels_has_its_own_answer(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    for _ in range(LIMIT):
        await publish(journal, CALCULATED)
    await redis.delete(keys.BACKLOG)
    channels = [RAW, CALCULATED, "user:email", CALCULATED]
    answers = await asyncio.gather(
        *(journal.publish(submission(channel=channel)) for channel in channels), return_exceptions=True
    )
    assert [answer is True for answer in answers] == [True, False, True, False]
    assert await redis.xlen(keys.journal(CALCULATED)) == LIMIT


async def test_channel_whose_name_has_signs_of_a_pattern_closes(
    journal: Journal, redis: Redis, distance: Consumer, table: Table, consumers: Consumers
) -> None:
    channel = "user-email.v1%d"
    await table(letters=(channel,))
    await made(consumers("letters", channel=channel))
    await unserved(redis, "letters")
    for _ in range(LIMIT):
        await publish(journal, channel)
    with pytest.raises(BacklogFull):
        await publish(journal, channel)


async def test_name_that_is_part_of_a_closed_channel_is_open(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    for _ in range(LIMIT):
        await publish(journal, CALCULATED)
    await publish(journal, CALCULATED.removesuffix("_distance"))
    await publish(journal, "distance")


async def test_parked_and_dead_events_of_an_unserved_stage_close_no_door(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, consumers: Consumers, table: Table
) -> None:
    old = consumers("old")
    entries = [await one(journal, old) for _ in range(LIMIT + 5)]
    await finish(distance)
    await old.settle([Park(entry, "", failure(), 60) for entry in entries[:5]])
    await old.settle([Park(entry, "", failure(), 0) for entry in entries[5:8]])
    await old.settle([Bury(entry, "", failure()) for entry in entries[8:]])
    await maintenance.retry_due(["old"], most=99)
    await publish(journal)
    assert await journal.backlog() == LIMIT + 5 + 1
    await table(**STAGES)
    with pytest.raises(BacklogFull):
        await publish(journal)


async def one(journal: Journal, consumer: Consumer) -> Entry:
    """Publish an event and take it, without the limit of doors."""
    event = submission()
    await journal.redis.xadd(keys.journal(RAW), {"event": event.to_json()})
    (entry,) = await consumer.take(1)
    return entry


async def test_trim_drops_the_oldest_events_that_only_unserved_stages_need(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, consumers: Consumers
) -> None:
    events = []
    for _ in range(LIMIT + 5):
        events.append(await publish(journal))
        await finish(distance)
    happened, _, dropped = await maintenance.trim(RAW)
    assert (happened, dropped) == ("trimmed", 5)
    assert await maintenance.trim(RAW) == ("trimmed", 0, 0)
    kept = [fields[b"event"].decode() for fields in await journaled(redis, RAW)]
    assert kept == [event.to_json() for event in events[5:]], "the newest"
    assert len(await consumers("old").take(99)) == LIMIT


async def test_trim_never_drops_an_event_that_a_served_stage_needs(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    for _ in range(3):
        await publish(journal)
    await distance.take(2)
    for _ in range(2 * LIMIT):
        await redis.xadd(keys.journal(RAW), {"event": submission().to_json()})
    assert await maintenance.trim(RAW) == ("trimmed", 0, 0)
    assert await pending(redis, distance) == 2
    assert await redis.xlen(keys.journal(RAW)) == 2 * LIMIT + 3


async def test_many_events_are_dropped_in_one_trim(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(2_500):
            pipe.xadd(keys.journal(RAW), {"event": submission().to_json()}, id=f"1-{number + 1}")
        await pipe.execute()
    for _ in range(30):
        await finish(distance)
    assert (await maintenance.trim(RAW))[2] == 2_500 - LIMIT
    assert await redis.xlen(keys.journal(RAW)) == LIMIT


async def test_replies_to_a_channel_of_unserved_stages_are_never_refused_and_bounded_by_trim(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    """Doors of that channel are closed, but the stage before it is served and goes on."""
    for _ in range(LIMIT + 3):
        await publish(journal)
        await finish(distance, emits=CALCULATED)
    assert await redis.xlen(keys.journal(CALCULATED)) == LIMIT + 3
    with pytest.raises(BacklogFull, match="no bridge serves"):
        await publish(journal, CALCULATED)
    await publish(journal)
    happened, _, dropped = await maintenance.trim(CALCULATED)
    assert (happened, dropped) == ("trimmed", 3)
    assert await redis.xlen(keys.journal(CALCULATED)) == LIMIT
    await assert_bounded(redis)


async def test_everything_is_kept_and_counted_while_no_bridge_is_alive(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, consumers: Consumers
) -> None:
    """Then the bridges are away, and every event waits for them."""
    await unserved(redis, "distance")
    for _ in range(LIMIT):
        await publish(journal)
    with pytest.raises(BacklogFull, match="limit of 10"):
        await publish(journal)
    with pytest.raises(BacklogFull, match="limit of 10"):
        await publish(journal, CALCULATED)
    for _ in range(2 * LIMIT):
        await redis.xadd(keys.journal(CALCULATED), {"event": submission().to_json()})
    assert (await maintenance.trim(CALCULATED))[2] == 0
    assert await redis.xlen(keys.journal(CALCULATED)) == 2 * LIMIT
    await finish(distance)
    await redis.delete(keys.BACKLOG)
    assert (await maintenance.trim(RAW))[2] == 0
    assert len(await consumers("old").take(99)) == LIMIT


async def test_everything_is_kept_while_the_stages_table_is_empty(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    """An operator has deleted it, and no bridge has written it again."""
    for _ in range(2 * LIMIT):
        await redis.xadd(keys.journal(RAW), {"event": submission().to_json()})
    await redis.sadd(keys.JOURNALS, RAW)
    await redis.delete(keys.STAGES)
    assert await maintenance.trim(RAW) == ("trimmed", 0, 0)
    assert len(await distance.take(99)) == 2 * LIMIT


async def test_group_that_the_stages_table_does_not_know_closes_no_door(
    journal: Journal, redis: Redis, distance: Consumer, consumers: Consumers
) -> None:
    """A stage was renamed long ago, and an operator has removed its row by hand."""
    stray = consumers("stray")
    await made(stray)
    for _ in range(2 * LIMIT):
        await publish(journal)
        await finish(distance)


async def test_group_of_a_stage_that_changed_its_channel_closes_no_door_and_is_bounded(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, consumers: Consumers, table: Table
) -> None:
    """The stage is served, but no bridge reads its old channel for it any more."""
    for _ in range(5):
        await publish(journal)
        await finish(distance)
    await table(old=(CALCULATED,))
    for _ in range(2 * LIMIT):
        await publish(journal)
        await finish(distance)
    assert await journal.backlog() == 2 * LIMIT + 5
    assert (await maintenance.trim(RAW))[2] == LIMIT + 5


async def test_unserved_stage_that_is_served_again_gets_every_event_that_is_left(
    journal: Journal, maintenance: Maintenance, distance: Consumer, consumers: Consumers, table: Table
) -> None:
    (lost,) = await taken(journal, consumers("old"))
    for _ in range(4):
        await publish(journal)
    await finish(distance)
    await maintenance.trim(RAW)
    await table(old=(RAW,))
    old = consumers("old")
    assert await old.reread() == [lost]
    assert len(await old.take(99)) == 4
