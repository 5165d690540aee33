"""Depth: how many events wait for a stage, and since when."""

import json

from redis.asyncio import Redis

from milepost.journal import Bury, Complete, Consumer, Depth, Journal, Park, keys
from tests.journal.conftest import Consumers
from tests.journal.events import CALCULATED, RAW, event_of, failure, made, settled, submission, taken

LONG_AGO = 3_600_000

EMPTY = Depth("distance", 0, 0, 0, None)


async def look(journal: Journal, stage: str = "distance", *channels: str) -> Depth:
    [found] = await journal.admin.depths({stage: channels or [RAW]})
    return found


async def age(redis: Redis, entry: str) -> float:
    """Return the seconds since a stream id was made."""
    seconds, microseconds = await redis.time()
    return float(seconds + microseconds / 1e6 - int(entry.partition("-")[0]) / 1000)


async def test_stage_that_nobody_has_sent_to_has_no_backlog(journal: Journal, redis: Redis) -> None:
    assert await look(journal) == EMPTY
    assert await journal.admin.depths({}) == []
    assert await journal.admin.depths({"bridge": []}) == [Depth("bridge", 0, 0, 0, None)]


async def test_age_of_one_stage_is_not_that_of_the_next(journal: Journal, redis: Redis) -> None:
    await journal.publish(submission())
    first, second = await journal.admin.depths({"distance": [RAW], "store": [CALCULATED]})
    assert first.oldest is not None
    assert second == Depth("store", 0, 0, 0, None)


async def test_unread_events_are_counted_before_the_group_is_made(journal: Journal, redis: Redis) -> None:
    for _ in range(3):
        await journal.publish(submission())
    found = await look(journal)
    [(first, _)] = await redis.xrange(keys.journal(RAW), count=1)
    assert (found.journaled, found.parked, found.dead) == (3, 0, 0)
    assert found.oldest is not None
    assert 0 <= found.oldest <= await age(redis, first.decode())


async def test_pending_events_are_counted_until_they_are_settled(journal: Journal, distance: Consumer) -> None:
    for _ in range(3):
        await journal.publish(submission())
    entries = await distance.take(2)
    assert (await look(journal)).journaled == 3
    await distance.settle([Complete(entry, "", None) for entry in entries])
    assert (await look(journal)).journaled == 1
    await distance.settle([Complete(entry, "", None) for entry in await distance.take(9)])
    assert await look(journal) == EMPTY


async def test_each_stage_of_a_channel_has_its_own_depth(
    journal: Journal, distance: Consumer, consumers: Consumers
) -> None:
    await made(consumers("other"))
    (entry,) = await taken(journal, distance)
    await settled(distance, Complete(entry, "", None))
    found = await journal.admin.depths({"distance": [RAW], "other": [RAW], "both": [RAW, "else"]})
    assert [depth.journaled for depth in found] == [0, 1, 1]


async def test_parked_event_counts_from_its_first_journaling(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    seconds, _ = await redis.time()
    retry = {"event": submission().to_json(), "channel": RAW, "since": str(seconds * 1000 - LONG_AGO)}
    await redis.xadd(keys.retries("distance", RAW), retry)  # type: ignore[arg-type]
    unread = await look(journal)
    [entry] = await distance.take(1)
    pending = await look(journal)
    await settled(distance, Park(entry, event_of(entry).id, failure(attempts=1), 100))
    parked = await look(journal)
    assert (unread.journaled, pending.journaled, parked.journaled, parked.parked) == (1, 1, 0, 1)
    for found in (unread, pending, parked):
        assert found.oldest is not None
        assert found.oldest >= LONG_AGO / 1000


async def test_age_is_that_of_the_oldest_pending_event(journal: Journal, redis: Redis, distance: Consumer) -> None:
    seconds, _ = await redis.time()
    for age in (LONG_AGO, 0):
        await redis.xadd(keys.journal(RAW), {"event": submission().to_json()}, id=f"{seconds * 1000 - age}-1")
    assert len(await distance.take(2)) == 2
    found = await look(journal)
    assert found.oldest is not None
    assert found.oldest >= LONG_AGO / 1000


async def test_dead_letters_are_counted_and_have_no_age(journal: Journal, distance: Consumer) -> None:
    [entry] = await taken(journal, distance)
    await settled(distance, Bury(entry, event_of(entry).id, failure()))
    assert await look(journal) == Depth("distance", 0, 0, 1, None)


async def test_journal_of_another_type_does_not_hide_the_depth_of_other_stages(journal: Journal, redis: Redis) -> None:
    await redis.set(keys.journal("odd"), json.dumps({}))
    await journal.publish(submission())
    odd, distance = await journal.admin.depths({"odd": ["odd"], "distance": [RAW]})
    assert (odd.journaled, distance.journaled) == (0, 1)
