"""How it is kept, adopt: journal what foreign programs published, never PUBLISH it again. And announce, broker mode."""

import asyncio

from redis.asyncio import Redis

from milepost import keys
from milepost.events.wrap import wrap
from milepost.journal import Complete, Foreign, Journal, Upkeep
from tests.journal.conftest import Groups, Table
from tests.journal.events import (
    CALCULATED,
    RAW,
    READY,
    SENT,
    everything,
    heard,
    journaled,
    made,
    reply_to,
    submission,
)


def plain(token: str) -> Foreign:
    return Foreign(wrap("user:email", b"someone@example.org")[0], token)


async def test_a_sound_cloudevent_is_adopted_by_any_bridge_once_and_never_published_again(
    journal: Journal, upkeep: Upkeep, redis: Redis
) -> None:
    event = submission()
    async with heard(redis, RAW) as messages:
        answers = await asyncio.gather(*(upkeep.adopt([Foreign(event, None)]) for _ in range(5)))
    assert sorted(answers) == [["done"], ["seen"], ["seen"], ["seen"], ["seen"]]
    assert messages == []
    assert await journaled(redis, RAW) == [{b"event": event.to_json().encode()}]
    assert await redis.get(keys.seen(event.source, event.id)) == b"carried"
    assert list(await journal.progress(event.id)) == [RAW]


async def test_a_plain_message_is_the_leaders_alone(upkeep: Upkeep, redis: Redis) -> None:
    await upkeep.lease("leader", ttl=10, tell=False)
    message = plain("leader")
    assert await upkeep.adopt([plain("follower")]) == ["not leading"]
    assert await upkeep.adopt([message]) == ["done"]
    assert await upkeep.adopt([message]) == ["seen"]
    assert await redis.xlen(keys.journal("user:email")) == 1


async def test_a_plain_message_is_not_adopted_under_a_lease_that_ended(upkeep: Upkeep, redis: Redis) -> None:
    await upkeep.lease("leader", ttl=10, tell=False)
    await upkeep.release("leader")
    before = await everything(redis)
    assert await upkeep.adopt([plain("leader")]) == ["not leading"]
    assert await everything(redis) == before


async def test_each_message_of_a_batch_has_its_own_answer(upkeep: Upkeep, redis: Redis) -> None:
    await upkeep.lease("leader", ttl=10, tell=False)
    event = submission()
    answers = await upkeep.adopt(
        [Foreign(event, None), plain("leader"), plain("follower"), Foreign(event, None), Foreign(submission(), None)]
    )
    assert answers == ["done", "done", "not leading", "seen", "done"]


async def test_what_was_published_here_is_recognised(journal: Journal, upkeep: Upkeep, redis: Redis) -> None:
    event = submission()
    await journal.publish(event)
    assert await upkeep.adopt([Foreign(event, None)]) == ["seen"]
    assert await redis.xlen(keys.journal(RAW)) == 1


async def test_a_reply_of_a_hop_is_recognised(
    journal: Journal, upkeep: Upkeep, redis: Redis, groups: Groups, table: Table
) -> None:
    await table(distance=(RAW, CALCULATED), store=(CALCULATED,))
    distance = groups("distance")
    await made(distance)
    event = submission()
    await journal.publish(event)
    (entry,) = await distance.read(1, block=READY) or []
    await distance.settle(Complete(entry, reply_to(event)))
    assert await upkeep.adopt([Foreign(reply_to(event), None)]) == ["seen"]


async def test_an_announced_event_is_adopted_if_its_channel_has_a_stage_by_now(
    journal: Journal, upkeep: Upkeep, redis: Redis, table: Table
) -> None:
    await table(email=("user:email", SENT))
    event = submission(channel=SENT)
    await journal.publish(event)
    assert await upkeep.adopt([Foreign(event, None)]) == ["seen"]
    await table(archive=(SENT,))
    async with heard(redis, SENT) as messages:
        assert await upkeep.adopt([Foreign(event, None)]) == ["done"]
        assert await upkeep.adopt([Foreign(event, None)]) == ["seen"]
    assert messages == []
    assert await redis.xlen(keys.journal(SENT)) == 1


async def test_what_redis_will_never_take_is_told_apart_and_the_rest_is_not_doubled(
    upkeep: Upkeep, redis: Redis
) -> None:
    batch = [Foreign(submission(), None), Foreign(submission(channel="broken"), None), Foreign(submission(), None)]
    await redis.set(keys.journal("broken"), "not a stream")
    first, refused, last = await upkeep.adopt(batch)
    assert (first, last) == ("done", "done")
    assert refused.startswith("error WRONGTYPE")
    await redis.delete(keys.journal("broken"))
    assert await upkeep.adopt(batch) == ["seen", "done", "seen"]
    assert await redis.xlen(keys.journal(RAW)) == 2


async def test_what_a_broker_carried_is_announced_and_marked_and_never_journaled(
    journal: Journal, upkeep: Upkeep, redis: Redis, table: Table
) -> None:
    await table(broker=(RAW, CALCULATED))
    event = submission(channel=CALCULATED)
    async with heard(redis, CALCULATED) as messages:
        assert await upkeep.announce(event) is True
        assert await upkeep.announce(event) is False
        assert await upkeep.adopt([Foreign(event, None)]) == ["seen"]
    assert messages == [(CALCULATED, event.to_json().encode())]
    assert not await redis.exists(keys.journal(CALCULATED))
    assert list(await journal.progress(event.id)) == [CALCULATED]
