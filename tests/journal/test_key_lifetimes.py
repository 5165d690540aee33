"""Promise 5: every key of Redis is counted in the backlog, or ends an hour after the last activity at the latest.

Each test drains one topology, and then looks at every key there is.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from milepost.events.event import Event
from milepost.journal import Bury, Complete, Consumer, Delay, Entry, Journal, Maintenance, Park, Settlement, keys
from milepost.journal.maintenance import STATUS_PAGE
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CALCULATED,
    HOUR,
    RAW,
    SENT,
    assert_bounded,
    event_of,
    failure,
    made,
    overdue,
    reply_to,
    settled,
    submission,
)

MINUTE = 60_000
"""Milliseconds."""

DAY = 24 * HOUR

LINE = {"distance": (RAW, CALCULATED), "store": (CALCULATED, "user:email"), "email": ("user:email", SENT)}


async def publish(journal: Journal) -> Event:
    event = submission()
    await journal.publish(event)
    return event


async def one(consumer: Consumer) -> Entry:
    """Take the one entry that there is."""
    (entry,) = await consumer.take(9)
    return entry


async def hop(consumer: Consumer, emits: str | None) -> None:
    """Complete the one delivery that there is for this consumer."""
    entry = await one(consumer)
    reply = reply_to(event_of(entry), emits) if emits else None
    assert await settled(consumer, Complete(entry, event_of(entry).id, reply)) == "done"


async def left(redis: Redis, event: Event) -> int:
    """Return in how many milliseconds the status of a submission expires."""
    return int(await redis.pttl(keys.status(event.id)))


async def aged(redis: Redis, event: Event, milliseconds: int) -> None:
    """Make a status look as if its last activity were so long ago."""
    status = keys.status(event.id)
    await redis.pexpire(status, await redis.pttl(status) - milliseconds)


async def drained(journal: Journal, maintenance: Maintenance, redis: Redis) -> None:
    """Check that nothing waits and that every key is bounded."""
    for channel in await maintenance.journals():
        await maintenance.trim(channel)
    await maintenance.keep_statuses(RAW)
    assert await journal.backlog() == 0
    await assert_bounded(redis)
    for stream in [*await redis.keys(keys.journal("*")), *await redis.keys(f"{keys.RETRIES}*")]:
        if await redis.xinfo_groups(stream):
            assert await redis.xlen(stream) == 0


async def test_line_of_stages(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    await table(**LINE)
    stages = [consumers(name, channel=channels[0]) for name, channels in LINE.items()]
    await made(*stages)
    event = await publish(journal)
    for stage, (_, emits) in zip(stages, LINE.values(), strict=True):
        await aged(redis, event, 10 * MINUTE)
        await hop(stage, emits)
        assert await left(redis, event) > HOUR - MINUTE, "an hour from the last activity"
    assert [*await journal.status(event.id)] == [RAW, CALCULATED, "user:email", SENT]
    assert await redis.xlen(keys.journal(SENT)) == 1, "no stage consumes it, so it expires"
    await drained(journal, maintenance, redis)


async def test_last_stage_that_emits_nothing(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    """A webhook at someone else's URL."""
    await table(hook=(RAW,))
    hook = consumers("hook")
    await made(hook)
    event = await publish(journal)
    await aged(redis, event, 30 * MINUTE)
    await hop(hook, None)
    assert HOUR - MINUTE < await left(redis, event) <= HOUR
    await drained(journal, maintenance, redis)


async def test_finished_submissions_leave_no_key_once_their_marks_have_ended(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    """The marks and the statuses of all of them end within an hour, and nothing else is left."""
    await table(hook=(RAW,))
    hook = consumers("hook")
    await made(hook)
    kept = set(await redis.keys("*"))
    events = [await publish(journal) for _ in range(100)]
    entries = await hook.take(999)
    await hook.settle([Complete(entry, event.id, None) for entry, event in zip(entries, events, strict=True)])
    await drained(journal, maintenance, redis)
    for event in events:
        assert await redis.pttl(keys.seen(event.source, event.id)) <= HOUR
        await redis.delete(keys.seen(event.source, event.id), keys.status(event.id))
    assert set(await redis.keys("*")) - {keys.BACKLOG.encode()} == kept


@pytest.mark.parametrize("order", [("webhook", "distance", "store"), ("distance", "store", "webhook")], ids="-".join)
async def test_branches_that_end_in_either_order(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table, order: Sequence[str]
) -> None:
    """The branch that ends last decides, and none shortens the time of another."""
    await table(distance=(RAW, CALCULATED), webhook=(RAW,), store=(CALCULATED,))
    stages = {name: consumers(name, channel=CALCULATED if name == "store" else RAW) for name in order}
    await made(*stages.values())
    event = await publish(journal)
    for name in order:
        await aged(redis, event, 20 * MINUTE)
        await hop(stages[name], CALCULATED if name == "distance" else None)
        assert HOUR - MINUTE < await left(redis, event) <= HOUR
    await drained(journal, maintenance, redis)


@pytest.mark.parametrize("how", ["delay", "park"])
async def test_branch_that_ends_does_not_shorten_the_time_of_a_parked_one(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table, how: str
) -> None:
    await table(reminder=(RAW, SENT), webhook=(RAW,))
    reminder, webhook = consumers("reminder"), consumers("webhook")
    await made(reminder, webhook)
    event = await publish(journal)
    entry = await one(reminder)
    wait = 5 * HOUR / 1000
    settlement: Settlement = Delay(entry, event.id, wait) if how == "delay" else Park(entry, event.id, failure(), wait)
    await settled(reminder, settlement)
    assert 6 * HOUR - MINUTE < await left(redis, event) <= 6 * HOUR
    await hop(webhook, None)
    assert await left(redis, event) > 6 * HOUR - MINUTE
    await assert_bounded(redis)
    await aged(redis, event, 5 * HOUR)
    await overdue(redis, keys.parked("reminder"))
    assert await maintenance.retry_due(["reminder"], most=9) == (1, None, {})
    await hop(reminder, SENT)
    assert [*await journal.status(event.id)] == [RAW, SENT]
    assert HOUR - MINUTE < await left(redis, event) <= HOUR
    await drained(journal, maintenance, redis)


async def test_delay_that_is_over_when_a_bridge_first_reads_the_event(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    await table(reminder=(RAW,))
    reminder = consumers("reminder")
    await made(reminder)
    event = await publish(journal)
    entry = await one(reminder)
    await aged(redis, event, 30 * MINUTE)
    late = replace(entry, since=entry.since - DAY)
    await settled(reminder, Delay(late, event.id, 60))
    assert HOUR - MINUTE < await left(redis, event) <= HOUR
    await assert_bounded(redis)
    await maintenance.retry_due(["reminder"], most=9)
    await hop(reminder, None)
    await drained(journal, maintenance, redis)


async def test_retries_keep_the_status_from_try_to_try(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    await table(distance=(RAW,))
    distance = consumers("distance")
    await made(distance)
    event = await publish(journal)
    for attempts in range(1, 4):
        await settled(distance, Park(await one(distance), event.id, failure(attempts=attempts), 50 * 60))
        assert await left(redis, event) > HOUR + 49 * MINUTE
        await assert_bounded(redis)
        await aged(redis, event, 50 * MINUTE)
        await overdue(redis, keys.parked("distance"))
        await maintenance.retry_due(["distance"], most=9)
        await assert_bounded(redis)
    await hop(distance, None)
    assert [*await journal.status(event.id)] == [RAW]
    await drained(journal, maintenance, redis)


async def test_dead_letters_are_counted_and_their_status_ends(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    await table(distance=(RAW,))
    distance = consumers("distance")
    await made(distance)
    event = await publish(journal)
    await aged(redis, event, 30 * MINUTE)
    await settled(distance, Bury(await one(distance), event.id, failure()))
    assert HOUR - MINUTE < await left(redis, event) <= HOUR
    assert await journal.backlog() == 1
    await assert_bounded(redis)
    (dead,) = await journal.admin.dead_letters("distance")
    await aged(redis, event, 30 * MINUTE)
    await journal.admin.replay("distance", [dead.entry])
    assert HOUR - MINUTE < await left(redis, event) <= HOUR
    assert await journal.backlog() == 1
    await assert_bounded(redis)
    await hop(distance, None)
    await drained(journal, maintenance, redis)


async def test_replay_long_after_the_status_has_ended_makes_no_key_without_an_end(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    await table(distance=(RAW, CALCULATED))
    distance = consumers("distance")
    await made(distance)
    event = await publish(journal)
    await settled(distance, Bury(await one(distance), event.id, failure()))
    (dead,) = await journal.admin.dead_letters("distance")
    await redis.delete(keys.status(event.id))
    await journal.admin.replay("distance", [dead.entry])
    assert HOUR - MINUTE < await left(redis, event) <= HOUR
    assert await journal.status(event.id) == {}, "its history alone is there, and ends"
    await hop(distance, CALCULATED)
    assert [*await journal.status(event.id)] == [CALCULATED]
    await drained(journal, maintenance, redis)


async def test_dropped_dead_letters_leave_nothing(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    await table(distance=(RAW,))
    distance = consumers("distance")
    await made(distance)
    event = await publish(journal)
    await settled(distance, Bury(await one(distance), event.id, failure()))
    (dead,) = await journal.admin.dead_letters("distance")
    await journal.admin.drop("distance", [dead.entry])
    await drained(journal, maintenance, redis)


async def test_broker_mode(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    """The Broker delivers replies, and the bridge announces them. It also brings back the events it gave up on."""
    await table(broker=(RAW, CALCULATED))
    broker = consumers("broker")
    await made(broker)
    event = await publish(journal)
    await hop(broker, None)
    await aged(redis, event, 30 * MINUTE)
    reply = reply_to(event)
    assert await maintenance.announce(reply)
    assert HOUR - MINUTE < await left(redis, event) <= HOUR
    await drained(journal, maintenance, redis)
    await aged(redis, event, 30 * MINUTE)
    await maintenance.bury_given_up("store", reply, failure())
    assert HOUR - MINUTE < await left(redis, event) <= HOUR
    assert await journal.backlog() == 1
    await assert_bounded(redis)
    (dead,) = await journal.admin.dead_letters("store")
    await journal.admin.drop("store", [dead.entry])
    await drained(journal, maintenance, redis)


async def test_announced_reply_of_an_unknown_submission_ends(
    maintenance: Maintenance, journal: Journal, redis: Redis
) -> None:
    await maintenance.announce(submission(channel=CALCULATED))
    await drained(journal, maintenance, redis)


async def test_submission_that_another_stage_never_reads_is_counted(
    journal: Journal, redis: Redis, consumers: Consumers, table: Table
) -> None:
    await table(hook=(RAW,), slow=(RAW,))
    hook = consumers("hook")
    await made(hook, consumers("slow"))
    await publish(journal)
    await hop(hook, None)
    assert await journal.backlog() == 1
    await assert_bounded(redis)


# events that wait for hours in a journal


async def waiting(redis: Redis, count: int = 1, *, age: int = HOUR, event_id: str | None = None) -> list[Event]:
    """Make events that were journaled an hour ago, and whose status is about to end."""
    seconds, _ = await redis.time()
    events = [submission(event_id) for _ in range(count)]
    await redis.sadd(keys.JOURNALS, RAW)
    for number, event in enumerate(events):
        entry = f"{seconds * 1000 - age}-{number + 1}"
        await redis.xadd(keys.journal(RAW), {"event": event.to_json()}, id=entry)
        await redis.hset(keys.status(event.id), RAW, '{"at":1,"data":null}')
        await redis.pexpire(keys.status(event.id), MINUTE)
    return events


@pytest.mark.parametrize("read", [False, True], ids=["unread", "pending"])
async def test_status_of_an_event_that_waits_for_hours_is_kept(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table, *, read: bool
) -> None:
    await table(distance=(RAW,))
    distance = consumers("distance")
    await made(distance)
    (event,) = await waiting(redis)
    if read:
        await distance.take(1)
    for _ in range(3):
        await maintenance.keep_statuses(RAW)
        assert HOUR - MINUTE < await left(redis, event) <= HOUR
        await aged(redis, event, 59 * MINUTE)
    await assert_bounded(redis)


@pytest.mark.parametrize("event_id", ["é", "日本", "𝄞", 'quote " and \\', 'a",b', 'a"}b'])
async def test_status_of_a_waiting_event_is_kept_whatever_its_id(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, event_id: str
) -> None:
    await made(consumers("distance"))
    (event,) = await waiting(redis, event_id=event_id)
    await maintenance.keep_statuses(RAW)
    assert await left(redis, event) > HOUR - MINUTE


async def test_statuses_of_the_events_that_a_part_is_of_are_kept_up_to_one_that_has_none(
    maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    await made(consumers("distance"))
    await waiting(redis, event_id="a/0/1")
    await waiting(redis, event_id="b/0/1", age=HOUR - 1)
    for of in ("a/0", "a", "b", "a/0/1/2"):
        await redis.hset(keys.status(of), RAW, '{"at":1,"data":null}')
        await redis.pexpire(keys.status(of), MINUTE)
    await maintenance.keep_statuses(RAW)
    kept = {of: await redis.pttl(keys.status(of)) > MINUTE for of in ("a/0/1", "a/0", "a", "b/0/1", "b", "a/0/1/2")}
    assert kept == {"a/0/1": True, "a/0": True, "a": True, "b/0/1": True, "b": False, "a/0/1/2": False}


async def test_status_of_an_event_that_one_stage_has_not_finished_is_kept(
    maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    distance, audit = consumers("distance"), consumers("audit")
    await made(distance, audit)
    finished, pending, unread = await waiting(redis, 3)
    entries = await distance.take(9)
    await distance.settle([Complete(entry, "", None) for entry in entries])
    first, _ = await audit.take(2)
    await audit.settle([Complete(first, "", None)])
    await maintenance.keep_statuses(RAW)
    assert await left(redis, finished) <= MINUTE
    assert await left(redis, pending) > HOUR - MINUTE
    assert await left(redis, unread) > HOUR - MINUTE


async def test_status_of_the_last_event_is_not_kept_once_it_is_finished(
    maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    """Its entry stays in the journal until the next one comes."""
    distance = consumers("distance")
    await made(distance)
    (event,) = await waiting(redis)
    await distance.settle([Complete(entry, "", None) for entry in await distance.take(9)])
    await maintenance.keep_statuses(RAW)
    assert await left(redis, event) <= MINUTE


async def test_status_of_a_retry_that_waits_for_hours_is_kept(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    """Its stage is busy with slow deliveries."""
    await table(distance=(RAW,))
    distance = consumers("distance")
    await made(distance)
    (event,) = await waiting(redis)
    ((entry, fields),) = await redis.xrange(keys.journal(RAW))
    await distance.settle([Complete(one, "", None) for one in await distance.take(1)])
    await redis.pexpire(keys.status(event.id), MINUTE)
    await redis.xadd(keys.retries("distance", RAW), fields, id=entry)
    await maintenance.keep_statuses(RAW)
    assert await left(redis, event) > HOUR - MINUTE


async def test_status_of_an_event_that_is_retried_late_is_kept(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    """It came due while no bridge was there."""
    await table(distance=(RAW,))
    distance = consumers("distance")
    await made(distance)
    event = await publish(journal)
    await settled(distance, Park(await one(distance), event.id, failure(), 0))
    await redis.pexpire(keys.status(event.id), MINUTE)
    await maintenance.retry_due(["distance"], most=9)
    assert HOUR - MINUTE < await left(redis, event) <= HOUR


async def test_status_of_a_young_event_is_not_touched(
    maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    await made(consumers("distance"))
    (event,) = await waiting(redis, age=20 * MINUTE)
    await maintenance.keep_statuses(RAW)
    assert await left(redis, event) <= MINUTE


async def test_status_that_has_ended_is_not_made_anew(
    maintenance: Maintenance, redis: Redis, consumers: Consumers
) -> None:
    await made(consumers("distance"))
    (event,) = await waiting(redis)
    await redis.delete(keys.status(event.id))
    await maintenance.keep_statuses(RAW)
    assert not await redis.exists(keys.status(event.id))


async def test_statuses_are_kept_page_by_page(maintenance: Maintenance, redis: Redis, consumers: Consumers) -> None:
    await made(consumers("distance"))
    events = await waiting(redis, STATUS_PAGE + 2)
    await redis.xadd(keys.journal(RAW), {"event": "no event at all"})
    await maintenance.keep_statuses(RAW)
    assert min([await left(redis, event) for event in events]) > HOUR - MINUTE


async def test_keeping_statuses_of_a_journal_that_is_gone_does_nothing(maintenance: Maintenance, redis: Redis) -> None:
    await maintenance.keep_statuses(RAW)
    assert await redis.keys("*") == []
    await redis.set(keys.journal(RAW), "of another type")
    await maintenance.keep_statuses(RAW)
