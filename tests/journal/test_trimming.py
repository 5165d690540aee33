"""How it is kept, trim: behind the slowest group, over all groups there are, missing ones made first."""

import pytest
from redis.asyncio import Redis

from milepost import keys
from milepost.journal import Complete, Entry, Group, Journal, Upkeep
from tests.journal.conftest import Groups, Table
from tests.journal.events import RAW, READY, everything, journaled, made, submission, unserved


@pytest.fixture
async def distance(redis: Redis, groups: Groups) -> Group:
    group = groups("distance")
    await group.ensure()
    return group


async def published(journal: Journal, count: int) -> None:
    for _ in range(count):
        await journal.publish(submission())


async def finished(group: Group, count: int) -> list[Entry]:
    entries = await group.read(count, block=READY) or []
    for entry in entries:
        assert await group.settle(Complete(entry, None)) == "done"
    return entries


async def test_a_journal_is_trimmed_behind_the_slowest_group(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group, groups: Groups
) -> None:
    audit = groups("audit")
    await made(audit)
    await published(journal, 5)
    await finished(distance, 5)
    await finished(audit, 2)
    assert await upkeep.trim(RAW) == ("trimmed", 2)
    assert len(await audit.read(9, block=READY) or []) == 3
    assert await upkeep.trim(RAW) == ("trimmed", 0)


async def test_a_finished_journal_is_empty_after_a_trim(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group
) -> None:
    await published(journal, 4)
    await finished(distance, 4)
    assert await upkeep.trim(RAW) == ("trimmed", 4)
    assert await journaled(redis, RAW) == []
    await published(journal, 1)
    assert len(await finished(distance, 1)) == 1


async def test_a_group_that_the_route_table_misses_counts_as_well(
    journal: Journal, upkeep: Upkeep, distance: Group, groups: Groups, table: Table
) -> None:
    await table(distance=(RAW,))
    unknown = groups("unknown")
    await made(unknown)
    await published(journal, 3)
    await finished(distance, 3)
    assert await upkeep.trim(RAW) == ("trimmed", 0)


async def test_a_group_the_route_table_knows_is_made_at_0_before_anything_goes(
    journal: Journal, upkeep: Upkeep, distance: Group, groups: Groups, table: Table
) -> None:
    await table(distance=(RAW,), audit=(RAW,), store=("calculated_distance",))
    await published(journal, 3)
    await finished(distance, 3)
    assert await upkeep.trim(RAW) == ("trimmed", 0)
    assert len(await finished(groups("audit"), 9)) == 3
    assert await groups("store").read(1, block=READY) is None
    assert await upkeep.trim(RAW) == ("trimmed", 3)


async def test_a_stage_that_no_bridge_serves_keeps_its_events(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group, table: Table
) -> None:
    await table(distance=(RAW,), audit=(RAW,))
    await unserved(redis, "audit")
    await published(journal, 2)
    await finished(distance, 2)
    assert await upkeep.trim(RAW) == ("trimmed", 0)


async def test_a_journal_without_any_group_is_never_trimmed(journal: Journal, upkeep: Upkeep, redis: Redis) -> None:
    await published(journal, 3)
    before = await everything(redis)
    assert await upkeep.trim(RAW) == ("no group", 3)
    assert await everything(redis) == before


async def test_a_channel_without_a_journal_gets_none_by_a_trim(upkeep: Upkeep, redis: Redis, table: Table) -> None:
    await table(distance=(RAW,))
    before = await everything(redis)
    assert await upkeep.trim(RAW) == ("absent", 0)
    assert await everything(redis) == before


async def test_one_pending_entry_pins_only_what_came_after_it(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group
) -> None:
    await published(journal, 5)
    await finished(distance, 2)
    (pinned,) = await distance.read(1, block=READY) or []
    await finished(distance, 2)
    assert await upkeep.trim(RAW) == ("trimmed", 2)
    assert (await redis.xrange(keys.journal(RAW)))[0][0].decode() == pinned.id
    await distance.settle(Complete(pinned, None))
    assert await upkeep.trim(RAW) == ("trimmed", 3)


async def test_no_groups_unread_entries_are_ever_trimmed(
    journal: Journal, upkeep: Upkeep, distance: Group, groups: Groups
) -> None:
    audit = groups("audit")
    await made(audit)
    await published(journal, 2)
    await finished(distance, 2)
    await finished(audit, 2)
    await published(journal, 3)
    await finished(distance, 3)
    assert await upkeep.trim(RAW) == ("trimmed", 2)
    assert len(await audit.read(9, block=READY) or []) == 3


async def test_entries_that_an_operator_set_a_group_back_to_are_unread_again(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group
) -> None:
    await published(journal, 3)
    await finished(distance, 2)
    await distance.read(1, block=READY)
    await redis.xgroup_setid(keys.journal(RAW), "distance", "0")
    assert await upkeep.trim(RAW) == ("trimmed", 0)
    assert len(await distance.read(9, block=READY) or []) == 3


async def test_entries_of_one_millisecond_are_told_apart(
    journal: Journal, upkeep: Upkeep, redis: Redis, distance: Group
) -> None:
    names = [f"1700000000000-{number}" for number in (1, 2, 9, 10, 11)]
    for name in names:
        await redis.xadd(keys.journal(RAW), {"event": "{}"}, id=name)
    entries = await distance.read(4, block=READY) or []
    for entry in (entries[0], entries[1], entries[3]):
        await distance.settle(Complete(entry, None))
    assert await upkeep.trim(RAW) == ("trimmed", 2)
    await distance.settle(Complete(entries[2], None))
    assert await upkeep.trim(RAW) == ("trimmed", 2)
    assert [name.decode() for name, _ in await redis.xrange(keys.journal(RAW))] == names[4:]
