"""Parked events that are due go to their stage's retries. Until then they are in no journal."""

import asyncio

import pytest
from redis.asyncio import Redis

from milepost.journal import Consumer, Entry, Journal, Maintenance, Park, StageNotServed, keys
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CALCULATED,
    RAW,
    assert_bounded,
    commands,
    event_of,
    failure,
    journaled,
    made,
    overdue,
    pending,
    settled,
    submission,
    taken,
    verbs,
)


async def parked(journal: Journal, consumer: Consumer, delay: float = 0, **counts: int) -> Entry:
    (entry,) = await taken(journal, consumer)
    assert await settled(consumer, Park(entry, event_of(entry).id, failure(**counts), delay)) == "done"
    return entry


async def test_due_event_keeps_its_counts_its_channel_and_its_deadline(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    entry = await parked(journal, distance, attempts=4, crashes=2)
    assert await maintenance.retry_due(["distance"], most=9) == (1, None, {})
    (retry,) = await distance.take(9)
    assert (retry.stream, retry.retried, retry.only) == (keys.retries("distance", RAW), True, "")
    assert (retry.event, retry.channel, retry.since) == (entry.event, RAW, entry.since)
    assert (retry.attempts, retry.crashes) == (4, 2)
    assert not await redis.exists(keys.parked("distance"))


async def test_event_that_is_parked_again_and_again_keeps_the_since_of_its_first_journaling(
    journal: Journal, maintenance: Maintenance, distance: Consumer
) -> None:
    first = await parked(journal, distance)
    for attempts in range(1, 4):
        await maintenance.retry_due(["distance"], most=1)
        (entry,) = await distance.take(1)
        assert (entry.since, entry.attempts) == (first.since, attempts - 1)
        await settled(distance, Park(entry, event_of(entry).id, failure(attempts=attempts), 0))


async def test_due_event_is_for_the_stage_that_parked_it_alone(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, consumers: Consumers
) -> None:
    audit = consumers("audit")
    await made(audit)
    await parked(journal, distance)
    assert len(await audit.take(9)) == 1
    await maintenance.retry_due(["distance"], most=1)
    assert await audit.take(9) == []
    assert len(await distance.take(9)) == 1


async def test_events_that_are_not_due_stay_and_the_time_of_the_next_is_returned(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    await parked(journal, distance, delay=60)
    await parked(journal, distance, delay=30)
    await parked(journal, distance, delay=0)
    moved, due, refused = await maintenance.retry_due(["distance", "nobody"], most=9)
    assert (moved, refused) == (1, {})
    assert due is not None
    assert 20 < due <= 30
    assert await redis.zcard(keys.parked("distance")) == 2


async def test_no_more_events_than_asked_are_moved_and_the_first_due_first(
    journal: Journal, maintenance: Maintenance, distance: Consumer, consumers: Consumers
) -> None:
    store = consumers("store", channel=CALCULATED)
    await made(store)
    entries = [await parked(journal, distance) for _ in range(3)]
    await parked(journal, store)
    assert await maintenance.retry_due(["distance", "store"], most=2) == (3, 0, {})
    assert [entry.event for entry in await distance.take(9)] == [entry.event for entry in entries[:2]]
    assert await maintenance.retry_due(["distance", "store"], most=2) == (1, None, {})


async def test_next_event_is_due_at_once_while_due_ones_are_left(
    journal: Journal, maintenance: Maintenance, distance: Consumer, consumers: Consumers
) -> None:
    audit = consumers("audit")
    await made(audit)
    for _ in range(2):
        await parked(journal, distance)
    (*_, entry) = await audit.take(9)
    await settled(audit, Park(entry, event_of(entry).id, failure(), 60))
    assert await maintenance.retry_due(["distance", "audit"], most=1) == (1, 0.0, {})


async def test_due_event_is_retried_once_by_any_number_of_bridges(
    journal: Journal, maintenance: Maintenance, distance: Consumer
) -> None:
    for _ in range(5):
        await parked(journal, distance)
    answers = await asyncio.gather(*(maintenance.retry_due(["distance"], most=3) for _ in range(6)))
    assert sum(moved for moved, *_ in answers) == 5
    assert len(await distance.take(99)) == 5


async def test_retry_is_added_before_the_parked_event_is_removed(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    await maintenance.retry_due(["distance"], most=1)
    await parked(journal, distance)
    async with commands(redis) as called:
        await maintenance.retry_due(["distance"], most=1)
    order = [verb for verb in verbs(called) if verb in {"XACK", "XADD", "ZREM"}]
    assert order == ["XACK", "XADD", "ZREM"]


@pytest.mark.parametrize("broken", [keys.retries("broken", "broken"), keys.parked("broken")])
async def test_stage_whose_keys_are_of_another_type_holds_up_no_other(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, consumers: Consumers, broken: str
) -> None:
    stages = [consumers(name, channel=name) for name in ("broken", "second")]
    stages += [distance, consumers("store", channel=CALCULATED)]
    await made(*stages)
    for consumer in stages:
        await parked(journal, consumer)
    await redis.set(broken, "of another type")
    await redis.set(broken.replace("broken", "second"), "of another type")
    count, due, refused = await maintenance.retry_due(["broken", "distance", "second", "store"], most=9)
    assert (count, [*refused]) == (2, ["broken", "second"])
    assert all("WRONGTYPE" in reason for reason in refused.values())
    for consumer in stages[2:]:
        assert len(await consumer.take(9)) == 1
    if broken == keys.retries("broken", "broken"):
        assert await redis.zcard(keys.parked("broken")) == 1, "the event is not lost"
        assert due is not None
        assert 50 < due <= 60


async def test_channel_whose_retries_redis_refuses_holds_up_no_other_channel_of_the_broker(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    for channel in (RAW, CALCULATED):
        broker = consumers("broker", channel=channel)
        await made(broker)
        (entry,) = await taken(journal, broker)
        await settled(broker, Park(entry, event_of(entry).id, failure(), 0))
    await redis.set(keys.retries("broker", RAW), "of another type")
    moved, _, refused = await maintenance.retry_due(["broker"], most=1)
    assert (moved, [*refused]) == (0, ["broker"])
    assert (await maintenance.retry_due(["broker"], most=1))[0] == 1
    assert await redis.xlen(keys.retries("broker", CALCULATED)) == 1


@pytest.mark.parametrize(
    "member",
    [
        b"nonsense",
        b"",
        b"\xff\xfe\x00",
        b"1-1 1 0 0 raw_input",
        b"1-1 -1 0 0 raw_input\n{}",
        b"1-1 x 0 0 raw_input\n{}",
        b"1-1 1 0 0\n{}",
        b'\n{"specversion":"1.0"}',
    ],
    ids=repr,
)
async def test_parked_member_that_is_no_event_becomes_a_dead_letter(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, member: bytes
) -> None:
    """It can never be delivered; were it to stay, every step would find it again."""
    await redis.zadd(keys.parked("distance"), {member: 1})
    await parked(journal, distance)
    assert await maintenance.retry_due(["distance"], most=9) == (2, None, {})
    assert not await redis.exists(keys.parked("distance"))
    (dead,) = await journal.admin.dead_letters("distance")
    assert (dead.event, dead.channel, dead.id, dead.attempts, dead.crashes) == (member, "", None, 0, 0)
    assert dead.reason == "cannot be retried: it is not a parked event"
    assert await journal.admin.dead_stages() == ["distance"]
    assert len(await distance.take(9)) == 1
    assert await journal.admin.drop("distance", [dead.entry]) == 1


async def test_parked_event_of_a_channel_that_its_stage_no_longer_consumes_becomes_a_dead_letter(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, table: Table
) -> None:
    """No bridge would read its retry, and the backlog would not count it."""
    await table(distance=(RAW,))
    entry = await parked(journal, distance, attempts=2)
    await table(distance=(CALCULATED,))
    assert await maintenance.retry_due(["distance"], most=9) == (1, None, {})
    (dead,) = await journal.admin.dead_letters("distance")
    assert (dead.event, dead.channel, dead.id, dead.attempts) == (entry.event, RAW, event_of(entry).id, 2)
    assert dead.reason == "the stage no longer consumes raw_input"
    with pytest.raises(StageNotServed):
        await journal.admin.replay("distance", [dead.entry])
    await table(distance=(RAW,))
    assert await journal.admin.replay("distance", [dead.entry]) == 1
    await assert_bounded(redis)


async def test_large_due_events_are_moved_in_several_steps(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    """A step blocks Redis while it copies: 8 MB at most."""
    text = submission(data="x" * 900_000).to_json()
    for number in range(10):
        await redis.zadd(keys.parked("distance"), {f"1-{number} 1 0 0 {RAW}\n{text}": 1})
    assert await maintenance.retry_due(["distance"], most=99) == (8, 0, {})
    assert await maintenance.retry_due(["distance"], most=99) == (2, None, {})
    assert len(await distance.take(99)) == 10


async def test_parked_member_that_is_larger_than_a_step_holds_up_no_other(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    await redis.zadd(keys.parked("distance"), {"x" * 8_000_001: 1})
    await parked(journal, distance)
    assert [(await maintenance.retry_due(["distance"], most=9))[0] for _ in range(3)] == [1, 1, 0]
    assert await redis.xlen(keys.dead("distance")) == 1
    assert len(await distance.take(9)) == 1


async def test_parked_event_holds_no_slot_and_pins_no_journal(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    await parked(journal, distance, delay=3600)
    assert await pending(redis, distance) == 0
    await maintenance.trim(RAW)
    assert await journaled(redis, RAW) == []
    await overdue(redis, keys.parked("distance"))
    assert (await maintenance.retry_due(["distance"], most=1))[0] == 1
    assert len(await distance.take(1)) == 1
