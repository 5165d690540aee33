"""The order of taking: redeliveries before retries before unread events."""

import pytest
from redis.asyncio import Redis

from milepost.journal import Bury, Consumer, Entry, GroupMissing, Journal, Maintenance, Park, Taken, keys
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


def streams(found: Taken) -> list[str]:
    return [entry.stream for entry in found.entries]


async def test_redeliveries_come_before_retries_before_unread_events_at_any_backlog(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    lost = await taken(journal, dead, 3)
    retried = await retry(journal, maintenance, distance, 2)
    await published(journal, BACKLOG)
    await abandoned(redis, dead, *lost)
    found = await distance.take(8, extra=8, claim=CLAIM)
    assert (found.redelivered, found.destroyed) == (3, 0)
    assert found.entries[:3] == lost
    assert [entry.event for entry in found.entries[3:5]] == [entry.event for entry in retried]
    assert streams(found)[3:] == [keys.retries("distance", RAW)] * 2 + [keys.journal(RAW)] * 3


async def test_lost_retry_is_redelivered_before_the_lost_entries_of_journals(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    await retry(journal, maintenance, dead)
    await published(journal, 1)
    entries = (await dead.take(2)).entries
    await abandoned(redis, dead, *entries)
    found = await distance.take(2, claim=CLAIM)
    assert streams(found) == [keys.retries("distance", RAW), keys.journal(RAW)]
    assert found.entries == entries
    assert found.entries[0].failures == 1


async def test_redeliveries_leave_no_room_for_retries_and_unread_events(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    lost = await taken(journal, dead, 5)
    await retry(journal, maintenance, distance)
    await published(journal, 9)
    await abandoned(redis, dead, *lost)
    first = await distance.take(3, claim=CLAIM)
    second = await distance.take(3, claim=CLAIM)
    assert (first.entries, first.redelivered) == (lost[:3], 3)
    assert (second.entries[:2], second.redelivered) == (lost[3:], 2)
    assert len(second.entries) == 3


async def test_redeliveries_may_exceed_the_limit_by_over_and_nothing_else_does(
    journal: Journal, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    """A bridge whose slots are all taken by slow deliveries still recovers the events of a dead one."""
    lost = await taken(journal, dead, 5)
    await published(journal, 9)
    await abandoned(redis, dead, *lost)
    assert await distance.take(0, claim=CLAIM) == Taken([], 0, 0)
    assert await distance.take(0, extra=2, claim=CLAIM) == Taken(lost[:2], 2, 0)
    assert await distance.take(1, extra=3, claim=CLAIM) == Taken(lost[2:], 3, 0)
    assert await distance.take(0, extra=3, claim=CLAIM) == Taken([], 0, 0)
    assert await pending(redis, distance) == 5


async def test_redeliveries_take_their_room_from_retries_and_both_from_unread_events(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    lost = await taken(journal, dead, 6)
    retried = await retry(journal, maintenance, distance, 4)
    await published(journal, 9)
    await abandoned(redis, dead, *lost[:4])
    assert await distance.take(2, extra=2, claim=CLAIM) == Taken(lost[:4], 4, 0)
    await abandoned(redis, dead, lost[4])
    found = await distance.take(3, claim=CLAIM)
    assert [entry.event for entry in found.entries] == [entry.event for entry in (lost[4], *retried[:2])]
    assert [entry.deliveries for entry in found.entries] == [2, 1, 1]
    await abandoned(redis, dead, lost[5])
    found = await distance.take(6, claim=CLAIM)
    assert [entry.event for entry in found.entries[:3]] == [entry.event for entry in (lost[5], *retried[2:])]
    assert len(found.entries) == 6


async def test_entry_that_was_renewed_within_the_claim_time_is_not_redelivered(
    journal: Journal, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    fresh, lost = await taken(journal, dead, 2)
    await abandoned(redis, dead, fresh, seconds=CLAIM - 5)
    await abandoned(redis, dead, lost, seconds=CLAIM)
    assert await distance.take(9, claim=CLAIM) == Taken([lost], 1, 0)
    assert await distance.take(9, claim=CLAIM) == Taken([], 0, 0)


async def test_redelivery_is_not_looked_for_without_a_claim_time(
    journal: Journal, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    await abandoned(redis, dead, *(await taken(journal, dead, 2)))
    assert await distance.take(9, extra=9) == Taken([], 0, 0)


async def test_redelivery_passes_over_many_entries_that_are_renewed(
    journal: Journal, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    """One look goes through everything that is pending: no cursor is kept until the next."""
    entries = await taken(journal, dead, 200)
    await abandoned(redis, dead, entries[-1])
    assert await distance.take(1, claim=CLAIM) == Taken([entries[-1]], 1, 0)


async def test_entries_that_an_operator_deleted_are_counted_and_no_longer_pending(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, dead: Consumer
) -> None:
    entries = await taken(journal, dead, 3)
    await retry(journal, maintenance, dead)
    (retried,) = (await dead.take(1)).entries
    await abandoned(redis, dead, *entries, retried)
    await redis.xdel(keys.journal(RAW), entries[0].id, entries[2].id)
    await redis.xtrim(keys.retries("distance", RAW), maxlen=0, approximate=False)
    assert await distance.take(9, claim=CLAIM) == Taken([entries[1]], 1, 3)
    assert await pending(redis, distance) == 1


async def test_retries_leave_no_room_for_unread_events(
    journal: Journal, maintenance: Maintenance, distance: Consumer
) -> None:
    retried = await retry(journal, maintenance, distance, 5)
    await published(journal, 9)
    first = await distance.take(3)
    assert [entry.event for entry in first.entries] == [entry.event for entry in retried[:3]]
    second = await distance.take(3)
    assert [entry.event for entry in second.entries[:2]] == [entry.event for entry in retried[3:]]
    assert len(second.entries) == 3


async def test_replayed_dead_letter_comes_before_unread_events(
    journal: Journal, distance: Consumer, table: Table
) -> None:
    await table(distance=(RAW,))
    (entry,) = await taken(journal, distance)
    await settled(distance, Bury(entry, "", failure()))
    await published(journal, BACKLOG)
    (dead,) = await journal.admin.dead_letters("distance")
    await journal.admin.replay("distance", [dead.entry])
    assert (await distance.take(4)).entries[0].event == entry.event


async def test_take_never_exceeds_its_limit(journal: Journal, maintenance: Maintenance, distance: Consumer) -> None:
    await retry(journal, maintenance, distance, 5)
    await published(journal, 40)
    for most in range(1, 9):
        assert len((await distance.take(most)).entries) == most


@pytest.mark.parametrize("stream", [keys.retries("distance", RAW), keys.journal(RAW)])
@pytest.mark.parametrize("claim", [0, CLAIM])
async def test_missing_group_of_any_stream_raises(redis: Redis, distance: Consumer, stream: str, claim: float) -> None:
    await redis.xgroup_destroy(stream, "distance")
    with pytest.raises(GroupMissing):
        await distance.take(9, claim=claim)
    await distance.ensure()
    assert await distance.take(9, claim=claim) == Taken([], 0, 0)


async def test_entries_that_were_read_before_a_missing_group_was_found_are_not_lost(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer
) -> None:
    (retried,) = await retry(journal, maintenance, distance)
    await redis.xgroup_destroy(keys.journal(RAW), "distance")
    with pytest.raises(GroupMissing):
        await distance.take(9)
    await distance.ensure()
    assert [entry.event for entry in await distance.reread()] == [retried.event]
