"""How it is kept, wake: put back into the journal with `for`, then ZREM. A parked event holds nothing meanwhile."""

import asyncio

import pytest
from redis.asyncio import Redis

from milepost import keys
from milepost.errors import JournalUnavailable
from milepost.events.event import Event
from milepost.journal import Complete, Entry, Group, Journal, Park, Upkeep
from tests.journal.conftest import Groups
from tests.journal.events import (
    RAW,
    READY,
    commands,
    journaled,
    letter,
    made,
    overdue,
    pending,
    submission,
    verbs,
)


@pytest.fixture
async def distance(redis: Redis, groups: Groups) -> Group:
    group = groups("distance")
    await group.ensure()
    return group


async def parked(journal: Journal, group: Group, delay: float = 0, **counts: int) -> Entry:
    event = submission(channel=group.channel)
    await journal.publish(event)
    (entry,) = await group.read(1, block=READY) or []
    assert await group.settle(Park(entry, letter(event, **counts), delay)) == "done"
    return entry


async def test_a_woken_event_keeps_its_counts_and_since_and_is_for_the_route_that_parked_it(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group
) -> None:
    entry = await parked(journal, distance, attempts=4, crashes=2)
    assert await upkeep.wake(["distance"], most=9) == (1, None)
    (woken,) = await distance.read(9, block=READY) or []
    assert woken.id != entry.id
    assert (woken.event, woken.only, woken.since, woken.attempts, woken.crashes) == (
        entry.event,
        "distance",
        entry.since,
        4,
        2,
    )
    assert not await redis.exists(keys.waiting("distance"))


async def test_parked_again_and_again_an_event_keeps_the_since_of_its_first_journaling(
    journal: Journal, upkeep: Upkeep, distance: Group
) -> None:
    first = await parked(journal, distance)
    for attempts in range(1, 4):
        await upkeep.wake(["distance"], most=1)
        (entry,) = await distance.read(1, block=READY) or []
        assert (entry.since, entry.attempts) == (first.since, attempts - 1)
        await distance.settle(Park(entry, letter(Event.from_json(entry.event), attempts=attempts), 0))


async def test_only_the_route_that_parked_it_is_named_so_that_others_ack_it_unseen(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group, groups: Groups
) -> None:
    audit = groups("audit")
    await made(audit)
    await parked(journal, distance)
    (own,) = await audit.read(1, block=READY) or []
    await audit.settle(Complete(own, None))
    await upkeep.wake(["distance"], most=1)
    (other,) = await audit.read(1, block=READY) or []
    assert (own.only, other.only) == ("", "distance")
    assert await audit.settle(Complete(other, None)) == "done"
    (entry,) = await distance.read(1, block=READY) or []
    assert entry.only == "distance"


async def test_wake_leaves_what_is_not_due_and_says_when_it_is(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group
) -> None:
    await parked(journal, distance, delay=60)
    await parked(journal, distance, delay=30)
    await parked(journal, distance, delay=0)
    woken, due = await upkeep.wake(["distance", "nobody"], most=9)
    assert woken == 1
    assert due is not None
    assert 20 < due <= 30
    assert await redis.zcard(keys.waiting("distance")) == 2


async def test_wake_puts_back_no_more_than_asked_of_each_route_the_first_due_first(
    journal: Journal, upkeep: Upkeep, distance: Group, groups: Groups
) -> None:
    store = groups("store", channel="calculated_distance")
    await made(store)
    entries = [await parked(journal, distance) for _ in range(3)]
    await parked(journal, store)
    assert await upkeep.wake(["distance", "store"], most=2) == (3, 0)
    assert [entry.event for entry in await distance.read(9, block=READY) or []] == [
        entry.event for entry in entries[:2]
    ]
    assert await upkeep.wake(["distance", "store"], most=2) == (1, None)


async def test_an_event_is_woken_once_by_any_number_of_bridges(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group
) -> None:
    for _ in range(5):
        await parked(journal, distance)
    answers = await asyncio.gather(*(upkeep.wake(["distance"], most=3) for _ in range(6)))
    assert sum(woken for woken, _ in answers) == 5
    assert len(await distance.read(99, block=READY) or []) == 5


async def test_wake_adds_to_the_journal_before_it_takes_from_what_waits(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group
) -> None:
    await upkeep.wake(["distance"], most=1)
    await parked(journal, distance)
    async with commands(redis) as called:
        await upkeep.wake(["distance"], most=1)
    order = [verb for verb in verbs(called) if verb in {"XACK", "XADD", "ZREM"}]
    assert order == ["XACK", "XADD", "ZREM"]


async def test_an_event_that_cannot_be_woken_stays_parked_and_holds_up_no_other(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group, groups: Groups
) -> None:
    broken, store = groups("broken", channel="broken"), groups("store", channel="calculated_distance")
    await made(broken, store)
    await parked(journal, broken)
    await parked(journal, store)
    await parked(journal, distance)
    await redis.delete(keys.journal("broken"))
    await redis.set(keys.journal("broken"), "not a stream")
    with pytest.raises(JournalUnavailable, match="WRONGTYPE"):
        await upkeep.wake(["broken", "distance", "store"], most=9)
    assert await redis.zcard(keys.waiting("broken")) == 1
    assert len(await distance.read(9, block=READY) or []) == 1
    assert len(await store.read(9, block=READY) or []) == 1


async def test_a_waiting_event_holds_no_slot_and_pins_no_journal(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group
) -> None:
    await parked(journal, distance, delay=3600)
    assert await pending(redis, distance) == 0
    assert await upkeep.trim(RAW) == ("trimmed", 1)
    assert await journaled(redis, RAW) == []
    await overdue(redis, keys.waiting("distance"))
    assert (await upkeep.wake(["distance"], most=1))[0] == 1
    assert len(await distance.read(1, block=READY) or []) == 1
