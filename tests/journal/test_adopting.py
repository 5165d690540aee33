"""Adoption: messages of other programs are journaled, and not published again. In broker mode: announced."""

import asyncio

from redis.asyncio import Redis

from milepost.events.wrap import wrap
from milepost.journal import Adoption, Complete, Journal, Maintenance, keys
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CALCULATED,
    RAW,
    everything,
    heard,
    journaled,
    made,
    reply_to,
    settled,
    submission,
    taken,
)


def plain(token: str) -> Adoption:
    return Adoption(wrap("user:email", b"someone@example.org")[0], token)


async def test_cloudevent_is_adopted_once_by_any_bridge_and_not_published_again(
    journal: Journal, maintenance: Maintenance, redis: Redis
) -> None:
    event = submission()
    async with heard(redis, RAW) as messages:
        answers = await asyncio.gather(*(maintenance.adopt([Adoption(event, None)]) for _ in range(5)))
    assert sorted(answers) == [["done"], ["seen"], ["seen"], ["seen"], ["seen"]]
    assert messages == []
    assert await journaled(redis, RAW) == [{b"event": event.to_json().encode()}]
    assert await redis.get(keys.seen(event.source, event.id)) == b"carried"
    assert list(await journal.status(event.id)) == [RAW]


async def test_plain_message_is_adopted_under_the_leaders_token_alone(maintenance: Maintenance, redis: Redis) -> None:
    await maintenance.lease("leader", ttl=10, known=None)
    message = plain("leader")
    assert await maintenance.adopt([plain("follower")]) == ["not leading"]
    assert await maintenance.adopt([message]) == ["done"]
    assert await maintenance.adopt([message]) == ["seen"]
    assert await redis.xlen(keys.journal("user:email")) == 1


async def test_plain_message_is_not_adopted_under_a_lease_that_ended(maintenance: Maintenance, redis: Redis) -> None:
    await maintenance.lease("leader", ttl=10, known=None)
    await maintenance.release("leader")
    before = await everything(redis)
    assert await maintenance.adopt([plain("leader")]) == ["not leading"]
    assert await everything(redis) == before


async def test_each_message_of_a_batch_has_its_own_answer(maintenance: Maintenance, redis: Redis) -> None:
    await maintenance.lease("leader", ttl=10, known=None)
    event = submission()
    answers = await maintenance.adopt(
        [Adoption(event, None), plain("leader"), plain("follower"), Adoption(event, None), Adoption(submission(), None)]
    )
    assert answers == ["done", "done", "not leading", "seen", "done"]


async def test_event_that_a_door_published_is_not_adopted(
    journal: Journal, maintenance: Maintenance, redis: Redis
) -> None:
    event = submission()
    await journal.publish(event)
    assert await maintenance.adopt([Adoption(event, None)]) == ["seen"]
    assert await redis.xlen(keys.journal(RAW)) == 1


async def test_reply_of_a_hop_leaves_no_mark_because_its_message_names_its_entry(
    journal: Journal, redis: Redis, consumers: Consumers, table: Table
) -> None:
    """A bridge ignores messages that begin with the journal mark, so a hop need not spend a key on each reply."""
    await table(distance=(RAW, CALCULATED), store=(CALCULATED,))
    distance = consumers("distance")
    await made(distance)
    (entry,) = await taken(journal, distance)
    reply = reply_to(submission())
    async with heard(redis, CALCULATED) as messages:
        await settled(distance, Complete(entry, reply.id, reply))
    assert not await redis.exists(keys.seen(reply.source, reply.id))
    assert messages[0][1].startswith(b'{"journalid":"')


async def test_refused_message_is_named_and_the_others_are_not_doubled(maintenance: Maintenance, redis: Redis) -> None:
    batch = [Adoption(submission(), None), Adoption(submission(channel="broken"), None), Adoption(submission(), None)]
    await redis.set(keys.journal("broken"), "not a stream")
    first, refused, last = await maintenance.adopt(batch)
    assert (first, last) == ("done", "done")
    assert refused.startswith("error WRONGTYPE")
    await redis.delete(keys.journal("broken"))
    assert await maintenance.adopt(batch) == ["seen", "done", "seen"]
    assert await redis.xlen(keys.journal(RAW)) == 2


async def test_event_of_a_broker_is_announced_and_marked_and_not_journaled(
    journal: Journal, maintenance: Maintenance, redis: Redis, table: Table
) -> None:
    await table(broker=(RAW, CALCULATED))
    event = submission(channel=CALCULATED)
    async with heard(redis, CALCULATED) as messages:
        assert await maintenance.announce(event) is True
        assert await maintenance.announce(event) is False
        assert await maintenance.adopt([Adoption(event, None)]) == ["seen"]
    assert messages == [(CALCULATED, event.to_json().encode())]
    assert not await redis.exists(keys.journal(CALCULATED))
    assert list(await journal.status(event.id)) == [CALCULATED]
