"""Faults that stop a script in the middle, or concern one event: no other event, and no other step, suffers."""

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from milepost.errors import JournalUnavailable
from milepost.journal import (
    Bury,
    Complete,
    Consumer,
    Delay,
    Journal,
    Maintenance,
    Park,
    SettlementRefused,
    Unreadable,
    Wiring,
    keys,
)
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CALCULATED,
    RAW,
    assert_bounded,
    event_of,
    failure,
    heard,
    journaled,
    made,
    pending,
    reply_to,
    settled,
    submission,
    taken,
    unserved,
)
from tests.servers import eventually

DIRECT = {"distance": Wiring([RAW], [CALCULATED], "")}
BROKER = {"broker": Wiring([RAW], [CALCULATED], "")}


@pytest.fixture
async def distance(redis: Redis, consumers: Consumers, table: Table) -> Consumer:
    await table(distance=(RAW, CALCULATED))
    consumer = consumers("distance")
    await made(consumer)
    return consumer


async def test_status_of_another_type_holds_up_no_reply(journal: Journal, redis: Redis, distance: Consumer) -> None:
    (entry,) = await taken(journal, distance)
    event = event_of(entry)
    await redis.delete(keys.status(event.id))
    await redis.set(keys.status(event.id), "of another type")
    assert await settled(distance, Complete(entry, event.id, reply_to(event))) == "done"
    assert len(await journaled(redis, CALCULATED)) == 1
    assert await redis.pttl(keys.status(event.id)) > 0


async def test_event_whose_status_is_of_another_type_becomes_one_dead_letter_and_is_replayed(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    (entry,) = await taken(journal, distance)
    event = event_of(entry)
    await redis.delete(keys.status(event.id))
    await redis.set(keys.status(event.id), "of another type")
    for _ in range(3):
        await settled(distance, Bury(entry, event.id, failure()))
    (letter,) = await journal.admin.dead_letters("distance")
    assert await pending(redis, distance) == 0
    assert await journal.admin.replay("distance", [letter.entry]) == 1


async def test_past_its_deadline_an_event_is_parked_where_its_dead_letter_is_refused(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    await redis.set(keys.dead("distance"), "of another type")
    await redis.xadd(keys.retries("distance", RAW), {"event": submission().to_json(), "since": 1})
    (entry,) = await distance.take(1)
    assert isinstance(await settled(distance, Bury(entry, "", failure())), SettlementRefused)
    assert await settled(distance, Park(entry, "", failure(), 60)) == "done"
    assert (await pending(redis, distance), await redis.zcard(keys.parked("distance"))) == (0, 1)


async def test_member_whose_dead_letter_is_refused_holds_up_no_other_member(
    maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    await redis.set(keys.dead("distance"), "of another type")
    event = submission()
    members = {
        "no parked event": 1,
        f"1-1 1 0 0 {CALCULATED}\n{event.to_json()}": 2,
        f"1-1 1 0 0 {RAW}\n{event.to_json()}": 3,
    }
    await redis.zadd(keys.parked("distance"), members)
    _, due, refused = await maintenance.retry_due(["distance"], most=3)
    assert "WRONGTYPE" in refused["distance"]
    assert [entry.event.decode() for entry in await distance.take(9)] == [event.to_json()]
    assert due is not None
    assert due > 30, "the other two are not looked at in each step"
    assert await redis.zcard(keys.parked("distance")) == 2


async def test_event_whose_stage_cannot_be_named_among_the_dead_leaves_no_letter_behind(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    await redis.set(keys.DEAD, "of another type")
    await redis.delete(keys.BACKLOG)
    await redis.sadd(keys.BACKLOG, "of another type")
    (entry,) = await taken(journal, distance)
    assert isinstance(await settled(distance, Bury(entry, "", failure())), SettlementRefused)
    with pytest.raises(JournalUnavailable):
        await maintenance.unreadable([Unreadable(RAW, b"", "")])
    assert not await redis.exists(keys.dead("distance"), keys.dead("bridge"))


async def test_delayed_event_that_is_due_needs_no_parking(journal: Journal, redis: Redis, distance: Consumer) -> None:
    (entry,) = await taken(journal, distance)
    await redis.set(keys.parked("distance"), "of another type")
    assert isinstance(await settled(distance, Delay(entry, "", 600)), SettlementRefused)
    assert await settled(distance, Delay(replace(entry, since=entry.since - 600_000), "", 600)) == "done"
    (again,) = await distance.take(1)
    assert (again.event, again.retried, again.since) == (entry.event, True, entry.since)


async def test_given_up_event_that_a_broker_sends_twice_is_one_dead_letter(
    journal: Journal, maintenance: Maintenance, redis: Redis, table: Table
) -> None:
    await table(broker=(RAW,))
    event = submission()
    await maintenance.bury_given_up("distance", event, failure())
    await maintenance.bury_given_up("distance", event, failure())
    (letter,) = await journal.admin.dead_letters("distance")
    assert (letter.attempts, letter.crashes) == (0, 0)
    assert await journal.admin.replay("distance", [letter.entry]) == 1
    await maintenance.bury_given_up("distance", event, failure())
    assert len(await journal.admin.dead_letters("distance")) == 1


async def test_announcement_that_is_refused_can_be_made_again(maintenance: Maintenance, redis: Redis) -> None:
    event = submission(channel=CALCULATED)
    await redis.execute_command("ACL", "SETUSER", "default", "resetchannels")
    try:
        with pytest.raises(JournalUnavailable):
            await maintenance.announce(event)
    finally:
        await redis.execute_command("ACL", "SETUSER", "default", "allchannels")
    async with heard(redis, CALCULATED) as messages:
        assert await maintenance.announce(event)
    assert len(messages) == 1


async def test_retries_of_a_channel_that_a_stage_no_longer_consumes_become_dead_letters(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, table: Table
) -> None:
    events = [submission() for _ in range(3)]
    for event in events:
        await redis.xadd(keys.retries("distance", RAW), {"event": event.to_json(), "attempts": 1, "crashes": 2})
    assert len(await distance.take(2)) == 2
    await table(distance=(CALCULATED,))
    await maintenance.trim(RAW)  # a bridge has read this channel within the last minute
    assert await journal.admin.dead_letters("distance") == []

    async def abandoned() -> bool:
        await journal.scripts.trim(channel=RAW, fresh=1, limit=1000)
        return not await redis.exists(keys.retries("distance", RAW))

    await eventually(abandoned)
    letters = await journal.admin.dead_letters("distance")
    assert [letter.event.decode() for letter in letters] == [event.to_json() for event in events]
    assert [letter.id for letter in letters] == [event.id for event in events]
    found = {(letter.attempts, letter.crashes, letter.reason) for letter in letters}
    assert found == {(1, 2, f"the stage no longer consumes {RAW}")}
    await assert_bounded(redis)


async def test_bridge_that_dies_between_its_switch_and_its_beat_makes_no_event_come_twice(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, consumers: Consumers
) -> None:
    (entry,) = await taken(journal, distance)
    await settled(distance, Complete(entry, event_of(entry).id, None))
    await unserved(redis, "distance")
    assert await maintenance.switch(BROKER) is None  # and this bridge dies
    assert "broker" in (await journal.admin.table())
    await unserved(redis, "broker")
    assert await maintenance.switch(DIRECT) is None
    await distance.ensure()
    assert await distance.take(9) == []
    assert [row["name"] for row in await redis.xinfo_groups(keys.journal(RAW))] == [b"distance"]


async def test_beat_of_a_bridge_that_thaws_between_the_switch_and_the_first_beat_is_refused(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    await unserved(redis, "distance")
    assert await maintenance.switch(BROKER) is None
    assert not await maintenance.beat(DIRECT)
    assert await maintenance.beat(BROKER)
    assert set(await journal.admin.table()) == {"broker"}
