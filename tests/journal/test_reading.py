"""How it is kept: read, renew, takeover, hand back, and the life of consumers and groups."""

import asyncio

import pytest
from redis.asyncio import Redis

from milepost import keys
from milepost.errors import JournalUnavailable
from milepost.journal import Complete, Entry, Group, Journal
from tests.journal.conftest import Groups
from tests.journal.events import RAW, READY, abandoned, pending, submission
from tests.servers import eventually

CLAIM = 30.0
START = "0-0"


@pytest.fixture
async def distance(redis: Redis, groups: Groups) -> Group:
    group = groups("distance", "one")
    await group.ensure()
    return group


@pytest.fixture
def other(groups: Groups) -> Group:
    """Another bridge's side of the same group."""
    return groups("distance", "other")


async def taken(journal: Journal, group: Group, count: int) -> list[Entry]:
    for _ in range(count):
        await journal.publish(submission(channel=group.channel))
    return await group.read(count, block=READY) or []


async def owners(redis: Redis) -> dict[str, str]:
    rows = await redis.xpending_range(keys.journal(RAW), "distance", "-", "+", 1000)
    return {row["message_id"].decode(): row["consumer"].decode() for row in rows}


async def consumers(redis: Redis) -> set[str]:
    return {row["name"].decode() for row in await redis.xinfo_consumers(keys.journal(RAW), "distance")}


# read


async def test_read_takes_no_more_than_the_window_has_free_and_each_entry_goes_to_one(
    journal: Journal, redis: Redis, distance: Group, other: Group
) -> None:
    for _ in range(5):
        await journal.publish(submission())
    first = await distance.read(2, block=READY) or []
    second = await other.read(9, block=READY) or []
    assert (len(first), len(second)) == (2, 3)
    assert len({entry.id for entry in [*first, *second]}) == 5


async def test_an_entry_read_for_the_first_time_is_for_all_since_its_journaling_and_never_tried(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    (entry,) = await taken(journal, distance, 1)
    assert (entry.channel, entry.only, entry.attempts, entry.crashes) == (RAW, "", 0, 0)
    assert entry.since == int(entry.id.partition("-")[0])


async def test_read_waits_for_the_first_entry_and_no_longer_than_asked(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    assert await distance.read(1, block=0.01) == []
    reading = asyncio.create_task(distance.read(9, block=READY))

    async def blocked() -> bool:
        return (await redis.info("clients"))["blocked_clients"] > 0

    await eventually(blocked)
    await journal.publish(submission())
    assert len(await reading or []) == 1


async def test_a_missing_group_reads_as_none_and_made_at_0_delivers_everything_again(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    entries = await taken(journal, distance, 3)
    await distance.settle(Complete(entries[0], None))
    await redis.xgroup_destroy(keys.journal(RAW), "distance")
    assert await distance.read(9, block=READY) is None
    assert await distance.reread() is None
    assert await distance.ensure() is True
    assert await distance.ensure() is False
    assert await distance.read(9, block=READY) == entries


@pytest.mark.parametrize("how", ["destroyed", "deleted"])
async def test_a_group_that_goes_while_a_read_waits_reads_as_none(redis: Redis, distance: Group, how: str) -> None:
    reading = asyncio.create_task(distance.read(1, block=READY))

    async def blocked() -> bool:
        return (await redis.info("clients"))["blocked_clients"] > 0

    await eventually(blocked)
    if how == "destroyed":
        await redis.xgroup_destroy(keys.journal(RAW), "distance")
    else:
        await redis.delete(keys.journal(RAW))
    assert not await reading
    assert await distance.read(1, block=READY) is None


async def test_a_group_made_late_begins_at_the_journals_beginning(
    journal: Journal, redis: Redis, groups: Groups
) -> None:
    event = submission()
    await journal.publish(event)
    late = groups("late")
    await late.ensure()
    (entry,) = await late.read(9, block=READY) or []
    assert entry.event == event.to_json().encode()


async def test_a_group_may_be_made_before_its_journal(journal: Journal, redis: Redis, groups: Groups) -> None:
    store = groups("store", channel="calculated_distance")
    assert await store.ensure() is True
    assert await redis.smembers(keys.JOURNALS) == {b"calculated_distance"}
    assert await journal.backlog() == 0


async def test_reread_brings_what_this_consumer_has_pending_and_nothing_of_others(
    journal: Journal, redis: Redis, distance: Group, other: Group
) -> None:
    mine = await taken(journal, distance, 2)
    await taken(journal, other, 1)
    assert await distance.reread() == mine


async def test_a_read_that_is_cut_off_raises_and_loses_nothing(journal: Journal, redis: Redis, distance: Group) -> None:
    reading = asyncio.create_task(distance.read(1, block=READY))

    async def cut() -> int:
        clients = await redis.client_list()
        blocked = [client["id"] for client in clients if client["cmd"].startswith("xreadgroup")]
        return sum([await redis.client_kill_filter(_id=number) for number in blocked])

    await eventually(cut)
    with pytest.raises(JournalUnavailable):
        await reading
    assert await distance.reread() == []
    assert len(await taken(journal, distance, 1)) == 1


async def test_an_entry_without_a_body_is_left_out(journal: Journal, redis: Redis, distance: Group) -> None:
    first, second = await taken(journal, distance, 2)
    await redis.xdel(keys.journal(RAW), first.id)
    assert await distance.reread() == [second]


async def test_an_entry_that_somebody_else_put_in_reads_as_an_event_that_no_stage_can_take(
    redis: Redis, distance: Group
) -> None:
    """One bad event harms no other, and never kills a process: it goes to the function, is refused and buried."""
    await redis.xadd(keys.journal(RAW), {"anything": "else"})
    (entry,) = await distance.read(1, block=READY) or []
    assert (entry.event, entry.only) == (b"", "")


async def test_fields_of_somebody_elses_that_make_no_sense_say_nothing(redis: Redis, distance: Group) -> None:
    fields = {"event": "{}", "for": b"\xff", "since": "yesterday", "attempts": "-1", "crashes": "9" * 400}
    await redis.xadd(keys.journal(RAW), fields, id="1700000000000-0")  # type: ignore[arg-type]
    (entry,) = await distance.read(1, block=READY) or []
    assert (entry.since, entry.attempts, entry.crashes) == (1_700_000_000_000, 0, 0)
    assert entry.only not in {"", "distance"}


# renew


async def test_renew_keeps_the_claim(journal: Journal, redis: Redis, distance: Group, other: Group) -> None:
    (entry,) = await taken(journal, distance, 1)
    await abandoned(redis, distance, entry.id)
    assert await distance.renew([entry.id]) == []
    assert await other.takeover(9, claim=CLAIM, held=[], cursor=START) == (START, [], 0)


async def test_renew_answers_what_is_lost_and_never_steals(
    journal: Journal, redis: Redis, distance: Group, other: Group
) -> None:
    entries = [entry.id for entry in await taken(journal, distance, 4)]
    kept, stolen, settled, _ = entries
    await other.renew([kept])
    assert (await owners(redis))[kept] == "one"
    await abandoned(redis, distance, stolen)
    await other.takeover(9, claim=CLAIM, held=[], cursor=START)
    await redis.xack(keys.journal(RAW), "distance", settled)
    assert await distance.renew(entries[:3]) == [stolen, settled]
    assert (await owners(redis))[stolen] == "other"


@pytest.mark.parametrize("gone", ["group", "journal"])
async def test_all_is_lost_with_the_group(journal: Journal, redis: Redis, distance: Group, gone: str) -> None:
    entries = [entry.id for entry in await taken(journal, distance, 2)]
    if gone == "group":
        await redis.xgroup_destroy(keys.journal(RAW), "distance")
    else:
        await redis.delete(keys.journal(RAW))
    assert await distance.renew(entries) == entries


# takeover


async def test_takeover_brings_what_went_unrenewed_for_the_claim_time_with_its_body(
    journal: Journal, redis: Redis, distance: Group, other: Group
) -> None:
    entries = await taken(journal, distance, 3)
    await abandoned(redis, distance, entries[1].id, CLAIM)
    assert await other.takeover(9, claim=CLAIM, held=[], cursor=START) == (START, [entries[1]], 0)
    assert (await owners(redis))[entries[1].id] == "other"
    assert await other.takeover(9, claim=CLAIM, held=[], cursor=START) == (START, [], 0)


async def test_takeover_skips_what_this_process_holds(
    journal: Journal, redis: Redis, distance: Group, other: Group
) -> None:
    held, orphan = await taken(journal, distance, 2)
    _, entries, _ = await distance.takeover(9, claim=0, held=[held.id], cursor=START)
    assert entries == [orphan]


async def test_takeover_acknowledges_and_counts_an_entry_without_a_body(
    journal: Journal, redis: Redis, distance: Group, other: Group
) -> None:
    entries = await taken(journal, distance, 3)
    await redis.xdel(keys.journal(RAW), entries[0].id, entries[2].id)
    cursor, bodies, destroyed = await other.takeover(9, claim=0, held=[], cursor=START)
    assert (cursor, bodies, destroyed) == (START, [entries[1]], 2)
    assert await pending(redis, distance) == 1


async def test_takeover_brings_no_more_than_asked_and_goes_on_at_the_cursor(
    journal: Journal, redis: Redis, distance: Group, other: Group
) -> None:
    entries = await taken(journal, distance, 5)
    cursor, brought = START, []
    for count in (2, 2, 1):
        cursor, some, _ = await other.takeover(2, claim=0, held=[], cursor=cursor)
        assert len(some) == count
        brought += some
    assert brought == entries
    assert cursor == START


async def test_takeover_of_a_group_that_is_gone_brings_nothing(redis: Redis, other: Group) -> None:
    assert await other.takeover(9, claim=0, held=[], cursor=START) == (START, [], 0)


# hand back, reap


async def test_a_clean_stop_hands_back_so_that_another_takes_over_at_once(
    journal: Journal, redis: Redis, distance: Group, other: Group
) -> None:
    entries = await taken(journal, distance, 2)
    assert (await other.takeover(9, claim=CLAIM, held=[], cursor=START))[1] == []
    assert await distance.hand_back(claim=CLAIM) == 2
    assert (await other.takeover(9, claim=CLAIM, held=[], cursor=START))[1] == entries


async def test_handing_back_leaves_what_others_hold(
    journal: Journal, redis: Redis, distance: Group, other: Group
) -> None:
    await taken(journal, other, 2)
    assert await distance.hand_back(claim=CLAIM) == 0
    assert (await distance.takeover(9, claim=CLAIM, held=[], cursor=START))[1] == []


async def test_handing_back_to_a_group_that_is_gone_does_nothing(distance: Group, redis: Redis) -> None:
    await redis.xgroup_destroy(keys.journal(RAW), "distance")
    assert await distance.hand_back(claim=CLAIM) == 0


async def test_a_consumer_with_something_pending_is_never_deleted(
    journal: Journal, redis: Redis, distance: Group, other: Group, groups: Groups
) -> None:
    (entry,) = await taken(journal, distance, 1)
    await taken(journal, other, 1)
    await distance.settle(Complete(entry, None))
    assert await groups("distance", "third").reap(idle=-1) == 1
    assert await consumers(redis) == {"other"}
    assert list((await owners(redis)).values()) == ["other"]


async def test_a_consumer_is_deleted_only_after_its_silence_and_never_by_itself(
    journal: Journal, redis: Redis, distance: Group, other: Group
) -> None:
    (entry,) = await taken(journal, distance, 1)
    await distance.settle(Complete(entry, None))
    assert await other.reap(idle=CLAIM) == 0
    assert await distance.reap(idle=-1) == 0
    assert await consumers(redis) == {"one"}
    assert await other.reap(idle=-1) == 1
    assert await consumers(redis) == set()


async def test_a_reaped_consumer_may_read_again(journal: Journal, redis: Redis, distance: Group, other: Group) -> None:
    (entry,) = await taken(journal, distance, 1)
    await distance.settle(Complete(entry, None))
    assert await other.reap(idle=-1) == 1
    assert len(await taken(journal, distance, 1)) == 1


async def test_reaping_a_group_that_is_gone_does_nothing(distance: Group, redis: Redis) -> None:
    await redis.xgroup_destroy(keys.journal(RAW), "distance")
    assert await distance.reap(idle=0) == 0
