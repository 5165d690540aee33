"""What lies before a stage, and since when."""

import json

from redis.asyncio import Redis

from milepost import keys
from milepost.journal import Bury, Complete, Depth, Journal, Park, depths
from tests.journal.conftest import Groups
from tests.journal.events import RAW, READY, letter, made, submission

LONG_AGO = 3_600_000


async def look(journal: Journal, stage: str = "distance", *channels: str) -> Depth:
    [found] = await depths(journal.scripts, {stage: channels or [RAW]})
    return found


async def age(redis: Redis, entry: str) -> float:
    """Seconds since a journal id was made."""
    seconds, microseconds = await redis.time()
    return float(seconds + microseconds / 1e6 - int(entry.partition("-")[0]) / 1000)


async def test_nothing_lies_before_a_stage_nobody_has_sent_to(journal: Journal) -> None:
    assert await look(journal) == Depth("distance", 0, 0, 0, None)
    assert await depths(journal.scripts, {}) == []
    assert await depths(journal.scripts, {"bridge": []}) == [Depth("bridge", 0, 0, 0, None)]


async def test_what_nobody_has_read_lies_before_it(journal: Journal, redis: Redis) -> None:
    """Whether or not its group was made by now."""
    for _ in range(3):
        await journal.publish(submission())
    found = await look(journal)
    [(first, _)] = await redis.xrange(keys.journal(RAW), count=1)
    assert (found.backlog, found.parked, found.dead) == (3, 0, 0)
    assert found.oldest is not None
    assert 0 <= found.oldest <= await age(redis, first.decode())


async def test_what_is_read_and_not_settled_lies_before_it(journal: Journal, groups: Groups) -> None:
    distance = groups("distance")
    await made(distance)
    for _ in range(3):
        await journal.publish(submission())
    entries = await distance.read(2, block=READY) or []
    assert (await look(journal)).backlog == 3
    for entry in entries:
        await distance.settle(Complete(entry, None))
    assert (await look(journal)).backlog == 1
    for entry in await distance.read(9, block=READY) or []:
        await distance.settle(Complete(entry, None))
    assert await look(journal) == Depth("distance", 0, 0, 0, None)


async def test_another_stage_of_the_channel_has_its_own(journal: Journal, groups: Groups) -> None:
    distance, other = groups("distance"), groups("other")
    await made(distance, other)
    await journal.publish(submission())
    for entry in await distance.read(1, block=READY) or []:
        await distance.settle(Complete(entry, None))
    found = await depths(journal.scripts, {"distance": [RAW], "other": [RAW], "both": [RAW, "else"]})
    assert [depth.backlog for depth in found] == [0, 1, 1]


async def test_a_parked_event_counts_from_its_first_journaling(journal: Journal, redis: Redis, groups: Groups) -> None:
    distance = groups("distance")
    await made(distance)
    event = submission()
    seconds, _ = await redis.time()
    long_ago = str(seconds * 1000 - LONG_AGO)
    await redis.xadd(keys.journal(RAW), {"event": event.to_json(), "since": long_ago})
    unread = await look(journal)
    [entry] = await distance.read(1, block=READY) or []
    pending = await look(journal)
    await distance.settle(Park(entry, letter(event, attempts=1), 100))
    parked = await look(journal)
    assert (unread.backlog, pending.backlog, parked.backlog, parked.parked) == (1, 1, 0, 1)
    for found in (unread, pending, parked):
        assert found.oldest is not None
        assert found.oldest >= LONG_AGO / 1000


async def test_dead_letters_are_counted_and_have_no_age(journal: Journal, groups: Groups) -> None:
    distance = groups("distance")
    await made(distance)
    event = submission()
    await journal.publish(event)
    [entry] = await distance.read(1, block=READY) or []
    await distance.settle(Bury(entry, letter(event)))
    assert await look(journal) == Depth("distance", 0, 0, 1, None)


async def test_a_key_of_another_kind_is_passed_over(journal: Journal, redis: Redis) -> None:
    await redis.set(keys.journal("odd"), json.dumps({}))
    assert (await look(journal, "distance", "odd")).backlog == 0
