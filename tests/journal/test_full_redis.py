"""How it is kept, a full Redis (maxmemory, noeviction): what takes more is refused, what drains runs through."""

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from milepost import keys
from milepost.errors import JournalUnavailable
from milepost.journal import Bury, Complete, Entry, Foreign, Journal, Park, Unreadable, Upkeep, Wiring
from tests.journal.conftest import Groups, Table
from tests.journal.events import (
    CALCULATED,
    RAW,
    READY,
    SENT,
    everything,
    heard,
    letter,
    made,
    pending,
    reply_to,
    submission,
    unserved,
)

Full = Callable[[], Awaitable[None]]
EVENTS = [submission(f"event-{number}") for number in range(4)]


@pytest.fixture
async def entries(journal: Journal, redis: Redis, groups: Groups) -> list[Entry]:
    """Four entries that the group `distance` has read, and one that it has not."""
    distance = groups("distance")
    await made(distance)
    for event in EVENTS:
        await journal.publish(event)
    taken = await distance.read(4, block=READY) or []
    await journal.publish(submission())
    return taken


async def test_it_is_full(redis: Redis, full: Full) -> None:
    await full()
    with pytest.raises(OutOfMemoryError):
        await redis.set("anything", "")


@pytest.mark.parametrize("channel", [RAW, SENT])
async def test_publish_is_refused_and_nothing_is_written(
    journal: Journal, redis: Redis, full: Full, table: Table, channel: str
) -> None:
    await table(email=("user:email", SENT))
    before = await everything(redis)
    async with heard(redis, channel) as messages:
        await full()
        with pytest.raises(JournalUnavailable, match="Redis is full"):
            await journal.publish(submission(channel=channel))
    assert messages == []
    assert await everything(redis) == before


async def test_adoption_is_refused_and_nothing_is_written(upkeep: Upkeep, redis: Redis, full: Full) -> None:
    await full()
    with pytest.raises(JournalUnavailable, match="Redis is full"):
        await upkeep.adopt([Foreign(submission(), None)])
    assert await everything(redis) == {}


async def test_reading_completing_and_trimming_run_through(
    journal: Journal, upkeep: Upkeep, redis: Redis, groups: Groups, entries: list[Entry], full: Full
) -> None:
    await full()
    distance = groups("distance")
    (last,) = await distance.read(9, block=READY) or []
    assert await distance.settle(Complete(last, None)) == "done"
    assert await distance.settle(Complete(entries[0], reply_to(EVENTS[0]))) == "done"
    assert await redis.xlen(keys.journal(CALCULATED)) == 1
    assert await upkeep.trim(RAW) == ("trimmed", 1)
    assert await distance.reread() == entries[1:]


async def test_parking_burying_waking_and_replaying_run_through(
    journal: Journal, upkeep: Upkeep, redis: Redis, groups: Groups, entries: list[Entry], full: Full
) -> None:
    await upkeep.beat({"distance": Wiring([RAW], [], "")})
    await full()
    distance = groups("distance")
    assert await distance.settle(Park(entries[0], letter(EVENTS[0]), 0)) == "done"
    assert await distance.settle(Bury(entries[1], letter(EVENTS[1]))) == "buried"
    assert (await upkeep.wake(["distance"], most=1))[0] == 1
    (dead,) = await journal.dead_letters("distance")
    assert await journal.replay("distance", [dead.entry]) == 1
    assert len(await distance.read(9, block=READY) or []) == 3


async def test_unreadable_messages_wait_for_room(upkeep: Upkeep, full: Full) -> None:
    await full()
    with pytest.raises(JournalUnavailable, match="full"):
        await upkeep.unreadable([Unreadable(RAW, b"\xff", "not UTF-8")])


async def test_renewing_taking_over_handing_back_and_reaping_run_through(
    redis: Redis, groups: Groups, entries: list[Entry], full: Full
) -> None:
    await full()
    distance, other = groups("distance"), groups("distance", "other")
    assert await distance.renew([entry.id for entry in entries]) == []
    assert await distance.hand_back(claim=30) == 4
    assert (await other.takeover(9, claim=30, held=[], cursor="0-0"))[1] == entries
    assert await distance.renew([entries[0].id]) == [entries[0].id]
    assert await other.reap(idle=-1) == 1


async def test_a_bridge_starts(upkeep: Upkeep, redis: Redis, groups: Groups, table: Table, full: Full) -> None:
    await full()
    await table(distance=(RAW, CALCULATED))
    assert await redis.hexists(keys.STAGES, "distance")
    assert await redis.smembers(keys.ANNOUNCED) == {CALCULATED.encode()}
    assert await groups("distance").ensure() is True
    assert await groups("distance").read(1, block=0.01) == []


async def test_the_lease_is_taken_renewed_and_freed(upkeep: Upkeep, redis: Redis, full: Full) -> None:
    await full()
    assert await upkeep.lease("one", ttl=10, tell=False) == "one"
    assert await upkeep.lease("one", ttl=30, tell=False) == "one"
    assert await redis.pttl(keys.LEASE) > 20_000
    assert await upkeep.release("one") is True


async def test_a_lookup_a_drop_and_forgetting_a_stage_run_through(
    journal: Journal, redis: Redis, groups: Groups, table: Table, entries: list[Entry], full: Full
) -> None:
    await table(distance=(RAW, CALCULATED))
    await unserved(redis, "distance")
    distance = groups("distance")
    for entry, event in zip(entries[:2], EVENTS, strict=False):
        await distance.settle(Bury(entry, letter(event)))
    await full()
    assert list(await journal.progress(EVENTS[0].id)) == [RAW, "dead:distance"]
    assert await journal.backlog() == 7
    dead = await journal.dead_letters("distance")
    assert await journal.drop("distance", [dead[0].entry]) == 1
    assert (await journal.forget("distance")).dead == 1


async def test_what_was_refused_is_taken_once_there_is_room(
    journal: Journal, redis: Redis, groups: Groups, full: Full
) -> None:
    event = submission()
    await full()
    with pytest.raises(JournalUnavailable):
        await journal.publish(event)
    await redis.config_set("maxmemory", 0)
    assert await journal.publish(event) is True
    distance = groups("distance")
    await made(distance)
    assert await pending(redis, distance) == 0
    assert len(await distance.read(9, block=READY) or []) == 1
