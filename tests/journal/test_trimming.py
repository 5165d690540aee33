"""Trimming: finished entries go, behind the slowest group of the journal; missing groups are made first."""

from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from milepost.journal import Complete, Consumer, Entry, GroupMissing, Journal, Maintenance, keys
from milepost.settings import JournalSettings
from tests.journal.conftest import Consumers, Table
from tests.journal.events import CALCULATED, RAW, everything, journaled, made, maintenance_of, submission, unserved

NOTHING = ("trimmed", 0, 0)


@pytest.fixture
async def audit(redis: Redis, consumers: Consumers) -> Consumer:
    """A second stage of the channel, so that a settlement deletes no entry at once."""
    consumer = consumers("audit")
    await made(consumer)
    return consumer


async def published(journal: Journal, count: int) -> None:
    for _ in range(count):
        await journal.publish(submission())


async def finished(consumer: Consumer, count: int) -> list[Entry]:
    entries = await consumer.take(count)
    assert await consumer.settle([Complete(entry, "", None) for entry in entries]) == ["done"] * len(entries)
    return entries


async def test_journal_is_trimmed_behind_the_slowest_group(
    journal: Journal, maintenance: Maintenance, distance: Consumer, audit: Consumer
) -> None:
    await published(journal, 5)
    await finished(distance, 5)
    await finished(audit, 2)
    assert await maintenance.trim(RAW) == ("trimmed", 2, 0)
    assert len(await audit.take(9)) == 3
    assert await maintenance.trim(RAW) == NOTHING


async def test_finished_journal_is_empty_after_a_trim(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, audit: Consumer
) -> None:
    await published(journal, 4)
    await finished(distance, 4)
    await finished(audit, 4)
    assert await maintenance.trim(RAW) == ("trimmed", 4, 0)
    assert await journaled(redis, RAW) == []
    await published(journal, 1)
    assert len(await finished(distance, 1)) == 1


async def test_group_that_the_stages_table_lacks_keeps_its_events(
    journal: Journal, maintenance: Maintenance, distance: Consumer, audit: Consumer, table: Table
) -> None:
    await table(distance=(RAW,))
    await published(journal, 3)
    await finished(distance, 3)
    assert await maintenance.trim(RAW) == NOTHING
    assert len(await audit.take(9)) == 3


async def test_group_that_the_stages_table_has_is_made_before_anything_is_trimmed(
    journal: Journal, maintenance: Maintenance, distance: Consumer, audit: Consumer, consumers: Consumers, table: Table
) -> None:
    await table(distance=(RAW,), late=(RAW,), store=(CALCULATED,))
    await published(journal, 3)
    await finished(distance, 3)
    await finished(audit, 3)
    assert await maintenance.trim(RAW) == NOTHING
    late = consumers("late")
    await late.ensure()
    assert len(await finished(late, 9)) == 3
    with pytest.raises(GroupMissing):
        await consumers("store").take(1)
    assert await maintenance.trim(RAW) == ("trimmed", 3, 0)


async def test_refused_group_keeps_the_journal_as_it_is(
    journal: Journal,
    opened: Callable[[JournalSettings], Journal],
    redis: Redis,
    redis_url: str,
    distance: Consumer,
    audit: Consumer,
    table: Table,
) -> None:
    """Otherwise a stage that is added later would miss its events."""
    await table(distance=(RAW,), late=(RAW,))
    await published(journal, 3)
    await finished(distance, 3)
    await finished(audit, 3)
    rights = ["+@all", "-xgroup|create"]
    await redis.acl_setuser("narrow", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=rights)
    narrow = JournalSettings.read(redis_url=redis_url.replace("//", "//narrow:pw@"))
    happened, left, dropped = await maintenance_of(opened(narrow), narrow).trim(RAW)
    await redis.acl_deluser("narrow")
    assert happened not in {"trimmed", "absent", "unconsumed"}
    assert (left, dropped) == (3, 0)
    assert len(await journaled(redis, RAW)) == 3


async def test_stage_that_no_bridge_serves_keeps_its_events(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, audit: Consumer, table: Table
) -> None:
    await table(distance=(RAW,), audit=(RAW,))
    await unserved(redis, "audit")
    await published(journal, 2)
    await finished(distance, 2)
    assert await maintenance.trim(RAW) == NOTHING
    assert len(await audit.take(9)) == 2


async def test_channel_without_a_journal_gets_none_by_a_trim(
    maintenance: Maintenance, redis: Redis, table: Table
) -> None:
    await table(distance=(RAW,))
    before = await everything(redis)
    assert await maintenance.trim(RAW) == ("absent", 0, 0)
    assert await everything(redis) == before


async def test_journal_that_was_deleted_is_not_listed_after_a_trim(
    journal: Journal, maintenance: Maintenance, redis: Redis
) -> None:
    await published(journal, 1)
    await redis.delete(keys.journal(RAW))
    assert await maintenance.journals() == [RAW]
    assert await maintenance.trim(RAW) == ("absent", 0, 0)
    assert await maintenance.journals() == []


async def test_pending_entry_keeps_no_finished_one_but_the_last(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, audit: Consumer
) -> None:
    """The last entry that was given out stays: without it Redis could not tell how many a group has not read."""
    await published(journal, 5)
    await finished(audit, 5)
    await finished(distance, 2)
    (pinned,) = await distance.take(1)
    await finished(distance, 2)
    assert await maintenance.trim(RAW) == ("trimmed", 3, 0)
    first, last = await redis.xrange(keys.journal(RAW))
    assert first[0].decode() == pinned.id
    await published(journal, 2)
    assert [depth.journaled for depth in await journal.admin.depths({"distance": [RAW], "audit": [RAW]})] == [3, 2]
    await distance.settle([Complete(pinned, "", None)])
    await finished(distance, 2)
    await finished(audit, 2)
    assert await maintenance.trim(RAW) == ("trimmed", 4, 0)
    assert not await redis.xlen(keys.journal(RAW))
    assert last[0] > first[0]


async def test_unread_entries_of_a_group_are_never_trimmed(
    journal: Journal, maintenance: Maintenance, distance: Consumer, audit: Consumer
) -> None:
    await published(journal, 2)
    await finished(distance, 2)
    await finished(audit, 2)
    await published(journal, 3)
    await finished(distance, 3)
    assert await maintenance.trim(RAW) == ("trimmed", 2, 0)
    assert len(await audit.take(9)) == 3


async def test_entries_that_an_operator_set_a_group_back_to_are_unread_again(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, audit: Consumer
) -> None:
    await published(journal, 3)
    await finished(distance, 2)
    await distance.take(1)
    await redis.xgroup_setid(keys.journal(RAW), "distance", "0")
    assert await maintenance.trim(RAW) == NOTHING
    assert len(await distance.take(9)) == 3


@pytest.mark.parametrize("slow", ["distance", "audit"])
async def test_group_that_is_behind_by_entries_of_one_millisecond_keeps_them(
    maintenance: Maintenance, redis: Redis, distance: Consumer, audit: Consumer, slow: str
) -> None:
    behind, ahead = (distance, audit) if slow == "distance" else (audit, distance)
    for number in range(5):
        await redis.xadd(keys.journal(RAW), {"event": "{}"}, id=f"1700000000000-{number}")
    await finished(ahead, 5)
    await finished(behind, 2)
    assert await maintenance.trim(RAW) == ("trimmed", 2, 0)
    assert len(await behind.take(9)) == 3


async def test_entries_behind_more_pending_ones_than_a_trim_looks_at_stay(
    maintenance: Maintenance, redis: Redis, distance: Consumer, journal: Journal
) -> None:
    """An operator has deleted the events of 100,000 pending entries."""
    read = """
        for _ = 1, 5000 do redis.call('XADD', KEYS[1], '*', 'event', '{}') end
        redis.call('XREADGROUP', 'GROUP', 'distance', 'other', 'COUNT', 5000, 'STREAMS', KEYS[1], '>')
        return redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
    """
    for _ in range(20):  # in portions: Redis answers nothing else meanwhile
        assert await redis.eval(read, 1, keys.journal(RAW)) == 5000
    await published(journal, 2)
    await distance.take(2)
    assert await maintenance.trim(RAW) == NOTHING
    assert len(await journaled(redis, RAW)) == 2


async def test_entries_of_one_millisecond_are_distinguished(
    maintenance: Maintenance, redis: Redis, distance: Consumer, audit: Consumer
) -> None:
    names = [f"1700000000000-{number}" for number in (1, 2, 9, 10, 11)]
    for name in names:
        await redis.xadd(keys.journal(RAW), {"event": "{}"}, id=name)
    await finished(audit, 5)
    entries = await distance.take(4)
    await distance.settle([Complete(entries[number], "", None) for number in (0, 1, 3)])
    assert await maintenance.trim(RAW) == ("trimmed", 2, 0)
    await distance.settle([Complete(entries[2], "", None)])
    assert await maintenance.trim(RAW) == ("trimmed", 2, 0)
    assert [name.decode() for name, _ in await redis.xrange(keys.journal(RAW))] == names[4:]
