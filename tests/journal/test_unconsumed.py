"""Journals that no stage consumes: bounded by count, age and expiry, until a stage is added, which begins there."""

from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from milepost.errors import BacklogFull
from milepost.events.event import Event
from milepost.journal import Adoption, Complete, Consumer, Journal, Maintenance, Split, StageNotServed, Wiring, keys
from milepost.settings import JournalSettings
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CALCULATED,
    HOUR,
    RAW,
    SENT,
    assert_bounded,
    event_of,
    failure,
    heard,
    made,
    reply_to,
    settled,
    submission,
    taken,
    unserved,
)

MOST = 10_000
"""Events that such a journal keeps."""

MINUTE = 60_000
"""Milliseconds."""


@pytest.fixture
async def email(redis: Redis, consumers: Consumers, table: Table) -> Consumer:
    """The last stage of a pipeline: no stage consumes the channel it emits to."""
    await table(email=(RAW, SENT))
    consumer = consumers("email")
    await made(consumer)
    return consumer


async def filled(redis: Redis, channel: str, count: int, *, age: int = 0) -> None:
    """Add entries that are so many milliseconds old to a journal, as if they had been published then."""
    seconds, _ = await redis.time()
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(count):
            entry = f"{seconds * 1000 - age}-{number + 1}"
            pipe.xadd(keys.journal(channel), {"event": submission(channel=channel).to_json()}, id=entry)
        pipe.sadd(keys.JOURNALS, channel)
        await pipe.execute()


async def test_it_is_bounded_in_bytes(maintenance: Maintenance, redis: Redis, email: Consumer) -> None:
    for number in range(50):
        await redis.xadd(keys.journal(SENT), {"event": b"x" * 900_000, "number": number})
    assert await maintenance.trim(SENT) == ("unconsumed", await redis.xlen(keys.journal(SENT)), 0)
    newest = [fields[b"number"] for _, fields in await redis.xrange(keys.journal(SENT))]
    assert 20 <= len(newest) <= 36
    assert newest[-1] == b"49"


async def test_it_is_trimmed_though_the_user_may_not_ask_for_its_bytes(
    maintenance: Maintenance, redis: Redis, email: Consumer
) -> None:
    await redis.xadd(keys.journal(SENT), {"event": submission(channel=SENT).to_json()})
    assert await maintenance.trim(SENT) == ("unconsumed", 1, 0)
    await redis.execute_command("ACL", "SETUSER", "default", "-memory|usage")
    try:
        assert await maintenance.trim(SENT) == ("unconsumed", 1, 0)
    finally:
        await redis.execute_command("ACL", "SETUSER", "default", "+memory|usage")


async def by_door(journal: Journal, maintenance: Maintenance, email: Consumer) -> Event:
    event = submission(channel=SENT)
    await journal.publish(event)
    return event


async def by_adoption(journal: Journal, maintenance: Maintenance, email: Consumer) -> Event:
    event = submission(channel=SENT)
    await maintenance.adopt([Adoption(event, None)])
    return event


async def by_hop(journal: Journal, maintenance: Maintenance, email: Consumer) -> Event:
    (entry,) = await taken(journal, email)
    reply = reply_to(event_of(entry), SENT)
    assert await settled(email, Complete(entry, reply.id, reply)) == "done"
    return reply


async def by_split(journal: Journal, maintenance: Maintenance, email: Consumer) -> Event:
    (entry,) = await taken(journal, email)
    answer = reply_to(event_of(entry), SENT)
    assert await settled(email, Split(entry, answer.id, [answer])) == "done"
    return answer


async def by_trim(journal: Journal, maintenance: Maintenance, email: Consumer) -> Event:
    """Bound a journal that was there before the stages table said that no stage consumes it."""
    event = submission(channel=SENT)
    await journal.redis.xadd(keys.journal(SENT), {"event": event.to_json()})
    await journal.redis.sadd(keys.JOURNALS, SENT)
    happened, _, dropped = await maintenance.trim(SENT)
    assert (happened, dropped) == ("unconsumed", 0)
    return event


each_way = pytest.mark.parametrize("way", [by_door, by_adoption, by_hop, by_split, by_trim])


@each_way
async def test_event_is_journaled_and_its_journal_expires_an_hour_later(
    journal: Journal, maintenance: Maintenance, redis: Redis, email: Consumer, way: Callable[..., object]
) -> None:
    event = await way(journal, maintenance, email)  # type: ignore[misc]
    ((_, fields),) = await redis.xrange(keys.journal(SENT))
    assert fields[b"event"] == event.to_json().encode()
    assert HOUR - MINUTE < await redis.pttl(keys.journal(SENT)) <= HOUR
    await redis.pexpire(keys.journal(SENT), MINUTE)
    await way(journal, maintenance, email)  # type: ignore[misc]
    assert HOUR - MINUTE < await redis.pttl(keys.journal(SENT)) <= HOUR
    await assert_bounded(redis)


async def test_newest_ten_thousand_events_are_kept(
    journal: Journal, maintenance: Maintenance, redis: Redis, email: Consumer
) -> None:
    await filled(redis, SENT, MOST + 5, age=MINUTE)
    event = await by_door(journal, maintenance, email)
    assert await redis.xlen(keys.journal(SENT)) == MOST
    ((_, newest),) = await redis.xrevrange(keys.journal(SENT), count=1)
    assert newest[b"event"] == event.to_json().encode()


async def test_events_older_than_an_hour_are_removed(
    journal: Journal, maintenance: Maintenance, redis: Redis, email: Consumer
) -> None:
    await filled(redis, SENT, 3, age=HOUR + MINUTE)
    await filled(redis, SENT, 2, age=HOUR - MINUTE)
    await by_door(journal, maintenance, email)
    assert await redis.xlen(keys.journal(SENT)) == 3


async def test_events_are_not_in_the_backlog_and_close_no_door(
    maintenance: Maintenance,
    redis: Redis,
    email: Consumer,
    settings: JournalSettings,
    opened: Callable[[JournalSettings], Journal],
) -> None:
    journal = opened(settings.model_copy(update={"backlog_limit": 2}))
    for _ in range(5):
        assert await journal.publish(submission(channel=SENT))
        await redis.delete(keys.BACKLOG)
    assert await journal.backlog() == 0
    assert await journal.publish(submission())
    assert await journal.backlog() == 1


async def test_event_is_announced_and_recognised_when_it_is_published_again(
    journal: Journal, redis: Redis, email: Consumer
) -> None:
    event = submission(channel=SENT)
    async with heard(redis, SENT) as messages:
        assert await journal.publish(event) is True
        assert await journal.publish(event) is False
    assert len(messages) == 1
    assert await redis.xlen(keys.journal(SENT)) == 1
    assert SENT in await journal.status(event.id)


async def test_stage_that_is_added_later_begins_at_the_first_event_that_is_left(
    journal: Journal, redis: Redis, email: Consumer, consumers: Consumers, table: Table
) -> None:
    events = [submission(channel=SENT) for _ in range(3)]
    for event in events:
        await journal.publish(event)
    await table(archive=(SENT,))
    archive = consumers("archive", channel=SENT)
    await made(archive)
    assert await redis.pttl(keys.journal(SENT)) == -1
    await journal.publish(submission(channel=SENT))
    assert await redis.pttl(keys.journal(SENT)) == -1, "and it does not expire any more"
    found = await archive.take(9)
    assert [entry.event for entry in found[:3]] == [event.to_json().encode() for event in events]
    assert len(found) == 4
    assert await journal.backlog() == 4


@pytest.mark.parametrize("by", ["ensure", "trim", "switch"])
async def test_journal_that_gets_a_group_does_not_expire(
    journal: Journal,
    maintenance: Maintenance,
    redis: Redis,
    email: Consumer,
    consumers: Consumers,
    table: Table,
    by: str,
) -> None:
    await journal.publish(submission(channel=SENT))
    assert await redis.pttl(keys.journal(SENT)) > 0
    await table(archive=(SENT,))
    if by == "ensure":
        await made(consumers("archive", channel=SENT))
    elif by == "trim":
        await maintenance.trim(SENT)
    else:
        await unserved(redis, "email", "archive")
        routes = {"broker": Wiring([RAW, SENT], [], "")}
        assert await maintenance.switch(routes) is None
        await maintenance.beat(routes)
    assert await redis.pttl(keys.journal(SENT)) == -1
    assert len(await redis.xinfo_groups(keys.journal(SENT))) == 1
    await assert_bounded(redis)


async def test_journal_that_got_a_group_of_another_program_does_not_expire_any_more(
    journal: Journal, maintenance: Maintenance, redis: Redis, email: Consumer
) -> None:
    await journal.publish(submission(channel=SENT))
    await redis.xgroup_create(keys.journal(SENT), "other", "0")
    assert await redis.pttl(keys.journal(SENT)) > 0
    await maintenance.trim(SENT)
    await journal.publish(submission(channel=SENT))
    assert await redis.pttl(keys.journal(SENT)) == -1
    assert await redis.xlen(keys.journal(SENT)) == 2


async def test_journal_whose_last_stage_is_forgotten_is_bounded_again(
    journal: Journal, maintenance: Maintenance, redis: Redis, email: Consumer, table: Table
) -> None:
    await table(archive=(RAW,))
    await filled(redis, RAW, MOST + 5)
    await maintenance.trim(RAW)
    await unserved(redis, "email", "archive")
    for stage in ("email", "archive"):
        await journal.admin.forget(stage)
    await table(other=(CALCULATED,))
    await maintenance.trim(RAW)
    assert await redis.xlen(keys.journal(RAW)) == MOST
    await assert_bounded(redis)


# before any bridge has run


async def test_nothing_is_lost_before_the_first_bridge_runs(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    """No bridge has said yet which channels are consumed, so nothing expires and all counts."""
    await filled(redis, RAW, MOST + 5, age=2 * HOUR)
    await journal.publish(submission())
    await maintenance.trim(RAW)
    assert await redis.xlen(keys.journal(RAW)) == MOST + 6
    assert await redis.pttl(keys.journal(RAW)) == -1
    assert await journal.backlog() == MOST + 6
    await table(distance=(RAW, CALCULATED))
    await maintenance.trim(RAW)
    distance = consumers("distance")
    await made(distance)
    assert len(await distance.take(2 * MOST)) == MOST + 6


@pytest.mark.parametrize(
    "row",
    [
        "no JSON",
        "5",
        '{"consumes":["other"]}',
        '{"beat":"1","consumes":["other"]}',
        '{"beat":1}',
        '{"beat":1,"consumes":"other"}',
        '{"beat":1,"consumes":[1]}',
    ],
)
async def test_row_of_the_stages_table_that_no_bridge_wrote_counts_for_nothing(
    journal: Journal, redis: Redis, row: str
) -> None:
    await redis.hset(keys.STAGES, "stage", row)
    assert await journal.publish(submission())
    assert await redis.pttl(keys.journal(RAW)) == -1


async def test_doors_keep_to_the_limit_before_the_first_bridge_runs(
    redis: Redis, settings: JournalSettings, opened: Callable[[JournalSettings], Journal]
) -> None:
    journal = opened(settings.model_copy(update={"backlog_limit": 3}))
    for _ in range(3):
        await journal.publish(submission(channel="anything"))
    with pytest.raises(BacklogFull):
        await journal.publish(submission(channel="anything"))


async def test_first_bridge_finds_every_event_of_the_channels_it_consumes(
    journal: Journal, maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table
) -> None:
    """Between its first beat and its groups a door publishes: the journal must not expire for that."""
    events = [submission() for _ in range(3)]
    await journal.publish(events[0])
    await table(distance=(RAW, CALCULATED))
    await journal.publish(events[1])
    assert await redis.pttl(keys.journal(RAW)) == -1
    await redis.delete(keys.journal(RAW))
    await journal.publish(events[2])
    assert await redis.pttl(keys.journal(RAW)) == -1
    distance = consumers("distance")
    await made(distance)
    assert [entry.event for entry in await distance.take(9)] == [events[2].to_json().encode()]


async def test_journal_of_a_stage_that_no_bridge_serves_now_does_not_expire(
    journal: Journal, maintenance: Maintenance, redis: Redis, table: Table
) -> None:
    await table(distance=(RAW, CALCULATED), email=(SENT,))
    await unserved(redis, "distance", "email")
    await table(other=("other",))
    await journal.publish(submission())
    assert await redis.pttl(keys.journal(RAW)) == -1
    await maintenance.trim(RAW)
    assert len(await redis.xinfo_groups(keys.journal(RAW))) == 1


async def test_channel_named_like_a_refusal_of_redis_is_trimmed_and_replayed_as_any_other(
    journal: Journal, maintenance: Maintenance
) -> None:
    channel = "error READONLY perhaps"
    await journal.publish(submission(channel=channel))
    assert await maintenance.journals() == [channel]
    await maintenance.bury_given_up("distance", submission(channel=channel), failure())
    (letter,) = await journal.admin.dead_letters("distance")
    with pytest.raises(StageNotServed, match=channel):
        await journal.admin.replay("distance", [letter.entry])
