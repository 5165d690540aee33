"""A consumer takes over entries that others left, and reads retries before unread events."""

from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from milepost.journal import Bury, Consumer, Entry, GroupMissing, Journal, Maintenance, Park, TakenOver, keys
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CLAIM,
    RAW,
    abandoned,
    failure,
    made,
    pending,
    settled,
    submission,
    taken,
)

BACKLOG = 300


@pytest.fixture
async def distance(redis: Redis, consumers: Consumers) -> Consumer:
    """The consumer of a bridge that is alive."""
    consumer = consumers("distance", "alive")
    await made(consumer)
    return consumer


@pytest.fixture
def dead(consumers: Consumers) -> Consumer:
    """The consumer of a bridge that died."""
    return consumers("distance", "dead")


async def published(journal: Journal, count: int) -> None:
    for _ in range(count):
        await journal.publish(submission())


async def retry(journal: Journal, maintenance: Maintenance, consumer: Consumer, count: int = 1) -> list[Entry]:
    """Let this consumer fail so many new events once, and return them; they are due again."""
    entries = [(await taken(journal, consumer))[0] for _ in range(count)]
    for entry in entries:
        assert await settled(consumer, Park(entry, "", failure(attempts=1), 0)) == "done"
    await maintenance.retry_due([consumer.stage], most=count)
    return entries


def streams(entries: Sequence[Entry]) -> list[str]:
    return [entry.stream for entry in entries]


async def test_lost_retry_is_redelivered_before_the_lost_entries_of_journals(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    await retry(journal, maintenance, dead)
    await published(journal, 1)
    entries = await dead.take(2)
    await abandoned(redis, dead, *entries)
    found = await distance.take_over(2, claim=CLAIM)
    assert streams(found.entries) == [keys.retries("distance", RAW), keys.journal(RAW)]
    assert found.entries == entries
    assert found.entries[0].failures == 1


async def test_take_over_brings_the_oldest_redeliveries_and_nothing_else(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    lost = await taken(journal, dead, 5)
    await retry(journal, maintenance, distance)
    await published(journal, BACKLOG)
    await abandoned(redis, dead, *lost)
    assert await distance.take_over(0, claim=CLAIM) == TakenOver([], 0)
    assert await distance.take_over(2, claim=CLAIM) == TakenOver(lost[:2], 0)
    assert await distance.take_over(9, claim=CLAIM) == TakenOver(lost[2:], 0)
    assert await distance.take_over(9, claim=CLAIM) == TakenOver([], 0)
    assert await pending(redis, distance) == 5


async def test_take_brings_no_redelivery(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    await abandoned(redis, dead, *(await taken(journal, dead, 2)))
    retried = await retry(journal, maintenance, distance, 2)
    await published(journal, BACKLOG)
    found = await distance.take(5)
    assert [entry.event for entry in found[:2]] == [entry.event for entry in retried]
    assert streams(found) == [keys.retries("distance", RAW)] * 2 + [keys.journal(RAW)] * 3
    assert [entry.deliveries for entry in found] == [1] * 5


async def test_entry_that_was_renewed_within_the_claim_time_is_not_redelivered(
    journal: Journal, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    fresh, lost = await taken(journal, dead, 2)
    await abandoned(redis, dead, fresh, seconds=CLAIM - 5)
    await abandoned(redis, dead, lost, seconds=CLAIM)
    assert await distance.take_over(9, claim=CLAIM) == TakenOver([lost], 0)
    assert await distance.take_over(9, claim=CLAIM) == TakenOver([], 0)


async def test_redelivery_passes_over_many_entries_that_are_renewed(
    journal: Journal, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    """One look goes through everything that is pending: no cursor is kept until the next."""
    entries = await taken(journal, dead, 200)
    await abandoned(redis, dead, entries[-1])
    assert await distance.take_over(1, claim=CLAIM) == TakenOver([entries[-1]], 0)


async def test_entries_that_an_operator_deleted_are_counted_and_no_longer_pending(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    entries = await taken(journal, dead, 3)
    await retry(journal, maintenance, dead)
    (retried,) = await dead.take(1)
    await abandoned(redis, dead, *entries, retried)
    await redis.xdel(keys.journal(RAW), entries[0].id, entries[2].id)
    await redis.xtrim(keys.retries("distance", RAW), maxlen=0, approximate=False)
    assert await distance.take_over(9, claim=CLAIM) == TakenOver([entries[1]], 3)
    assert await pending(redis, distance) == 1


async def test_retries_leave_no_room_for_unread_events(
    journal: Journal, maintenance: Maintenance, distance: Consumer
) -> None:
    retried = await retry(journal, maintenance, distance, 5)
    await published(journal, 9)
    first = await distance.take(3)
    assert [entry.event for entry in first] == [entry.event for entry in retried[:3]]
    second = await distance.take(3)
    assert [entry.event for entry in second[:2]] == [entry.event for entry in retried[3:]]
    assert len(second) == 3


async def test_unread_events_can_be_read_beside_retries_that_wait(
    journal: Journal, maintenance: Maintenance, distance: Consumer
) -> None:
    await retry(journal, maintenance, distance, 2)
    await published(journal, 3)
    assert streams(await distance.take_unread(2)) == [keys.journal(RAW)] * 2
    assert streams(await distance.take(9)) == [keys.retries("distance", RAW)] * 2 + [keys.journal(RAW)]
    assert await distance.take_unread(9) == []


async def test_replayed_dead_letter_comes_before_unread_events(
    journal: Journal, distance: Consumer, table: Table
) -> None:
    await table(distance=(RAW,))
    (entry,) = await taken(journal, distance)
    await settled(distance, Bury(entry, "", failure()))
    await published(journal, BACKLOG)
    (dead,) = await journal.admin.dead_letters("distance")
    await journal.admin.replay("distance", [dead.entry])
    assert (await distance.take(4))[0].event == entry.event


async def test_take_never_exceeds_its_limit(journal: Journal, maintenance: Maintenance, distance: Consumer) -> None:
    await retry(journal, maintenance, distance, 5)
    await published(journal, 40)
    for most in range(1, 9):
        assert len(await distance.take(most)) == most


@pytest.mark.parametrize("stream", [keys.retries("distance", RAW), keys.journal(RAW)])
async def test_missing_group_of_any_stream_raises(redis: Redis, distance: Consumer, stream: str) -> None:
    await redis.xgroup_destroy(stream, "distance")
    with pytest.raises(GroupMissing):
        await distance.take(9)
    with pytest.raises(GroupMissing):
        await distance.take_over(9, claim=CLAIM)
    await distance.ensure()
    assert await distance.take(9) == []
    assert await distance.take_over(9, claim=CLAIM) == TakenOver([], 0)


async def test_entries_that_were_read_before_a_missing_group_was_found_are_not_lost(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    (retried,) = await retry(journal, maintenance, distance)
    await redis.xgroup_destroy(keys.journal(RAW), "distance")
    with pytest.raises(GroupMissing):
        await distance.take(9)
    await distance.ensure()
    assert [entry.event for entry in await distance.reread()] == [retried.event]
