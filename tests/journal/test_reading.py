"""Reading: take and wait, reread, renewal, handing back, and the life of consumers and groups."""

import asyncio

import pytest
from redis.asyncio import Redis

from milepost.errors import JournalUnavailable
from milepost.journal import Complete, Consumer, GroupMissing, Journal, keys
from tests.journal.conftest import Consumers
from tests.journal.events import CALCULATED, CLAIM, RAW, READY, abandoned, made, reaped, settled, submission, taken
from tests.servers import eventually


@pytest.fixture
async def distance(redis: Redis, consumers: Consumers) -> Consumer:
    consumer = consumers("distance", "one")
    await made(consumer)
    return consumer


@pytest.fixture
def other(consumers: Consumers) -> Consumer:
    """The consumer of another bridge."""
    return consumers("distance", "other")


async def owners(redis: Redis) -> dict[str, str]:
    rows = await redis.xpending_range(keys.journal(RAW), "distance", "-", "+", 1000)
    return {row["message_id"].decode(): row["consumer"].decode() for row in rows}


async def consumer_names(redis: Redis) -> set[str]:
    return {row["name"].decode() for row in await redis.xinfo_consumers(keys.journal(RAW), "distance")}


async def blocked(redis: Redis) -> None:
    """Wait until a client blocks."""

    async def one_is() -> bool:
        return bool((await redis.info("clients"))["blocked_clients"] > 0)

    await eventually(one_is)


# reading


async def test_each_entry_goes_to_one_consumer(journal: Journal, distance: Consumer, other: Consumer) -> None:
    for _ in range(5):
        await journal.publish(submission())
    first = await distance.take(2)
    second = await other.take(9)
    assert (len(first), len(second)) == (2, 3)
    assert len({entry.key for entry in [*first, *second]}) == 5


async def test_unread_entry_was_never_tried_and_its_deadline_counts_from_its_journaling(
    journal: Journal, distance: Consumer
) -> None:
    (entry,) = await taken(journal, distance)
    assert (entry.stream, entry.channel, entry.only, entry.retried) == (keys.journal(RAW), RAW, "", False)
    assert (entry.attempts, entry.crashes, entry.failures) == (0, 0, 0)
    assert entry.since == int(entry.id.partition("-")[0])


async def test_wait_returns_with_the_first_entry_or_after_the_time_asked(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    assert await distance.wait(1, block=0.01) == []
    waiting = asyncio.create_task(distance.wait(9, block=READY))
    await blocked(redis)
    await journal.publish(submission())
    assert len(await waiting) == 1
    for _ in range(3):
        await journal.publish(submission())
    assert [len(await distance.wait(count, block=READY)) for count in (1, 2)] == [1, 2]


async def test_missing_group_raises_and_a_new_one_begins_at_the_beginning(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    entries = await taken(journal, distance, 3)
    await redis.xgroup_destroy(keys.journal(RAW), "distance")
    for reading in (
        distance.take(9),
        distance.take_over(9, claim=CLAIM),
        distance.wait(9, block=READY),
        distance.reread(),
    ):
        with pytest.raises(GroupMissing):
            await reading
    assert await distance.ensure() is True
    assert await distance.ensure() is False
    assert await distance.take(9) == entries


async def test_missing_group_of_retries_raises_and_is_made_again(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    await redis.delete(keys.retries("distance", RAW))
    with pytest.raises(GroupMissing):
        await distance.take(9)
    assert await distance.ensure() is False, "the groups of journals are there"
    assert len(await taken(journal, distance)) == 1


@pytest.mark.parametrize("how", ["destroyed", "deleted"])
async def test_group_that_is_removed_while_a_read_waits_raises(redis: Redis, distance: Consumer, how: str) -> None:
    waiting = asyncio.create_task(distance.wait(1, block=READY))
    await blocked(redis)
    if how == "destroyed":
        await redis.xgroup_destroy(keys.journal(RAW), "distance")
    else:
        await redis.delete(keys.journal(RAW))
    with pytest.raises(GroupMissing):
        await waiting
    with pytest.raises(GroupMissing):
        await distance.wait(1, block=READY)


async def test_group_begins_at_the_beginning_of_its_journal(
    journal: Journal, redis: Redis, consumers: Consumers
) -> None:
    event = submission()
    await journal.publish(event)
    late = consumers("late")
    await made(late)
    (entry,) = await late.take(9)
    assert entry.event == event.to_json().encode()


async def test_group_may_be_made_before_its_journal(journal: Journal, redis: Redis, consumers: Consumers) -> None:
    store = consumers("store", channel=CALCULATED)
    assert await store.ensure() is True
    assert await redis.smembers(keys.JOURNALS) == {CALCULATED.encode()}
    assert await journal.backlog() == 0


async def test_reread_returns_the_pending_entries_of_this_consumer_alone(
    journal: Journal, distance: Consumer, other: Consumer
) -> None:
    mine = await taken(journal, distance, 2)
    await taken(journal, other)
    assert await distance.reread() == mine


async def test_read_that_is_cut_off_raises_and_loses_nothing(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    waiting = asyncio.create_task(distance.wait(1, block=READY))

    async def cut() -> int:
        clients = await redis.client_list()
        reading = [client["id"] for client in clients if client["cmd"].startswith("xreadgroup")]
        return sum([await redis.client_kill_filter(_id=number) for number in reading])

    await eventually(cut)
    with pytest.raises(JournalUnavailable):
        await waiting
    assert await distance.reread() == []
    assert len(await taken(journal, distance)) == 1


async def test_pending_entry_without_a_body_is_not_reread(journal: Journal, redis: Redis, distance: Consumer) -> None:
    first, second = await taken(journal, distance, 2)
    await redis.xdel(keys.journal(RAW), first.id)
    assert await distance.reread() == [second]


async def test_entry_of_another_program_reads_as_an_event_that_every_stage_refuses(
    redis: Redis, distance: Consumer
) -> None:
    """One bad event harms no other, and never kills a process: its stage refuses it, and it becomes a dead letter."""
    await redis.xadd(keys.journal(RAW), {"anything": "else"})
    (entry,) = await distance.take(1)
    assert (entry.event, entry.only) == (b"", "")


@pytest.mark.parametrize("stream", [keys.journal(RAW), keys.retries("distance", RAW)])
async def test_fields_that_make_no_sense_count_as_absent(redis: Redis, distance: Consumer, stream: str) -> None:
    fields = {"event": "{}", "for": b"\xff", "since": "yesterday", "attempts": "-1", "crashes": "9" * 400}
    await redis.xadd(stream, {**fields, "channel": b"\xff"}, id="1700000000000-0")  # type: ignore[dict-item]
    (entry,) = await distance.take(1)
    assert (entry.since, entry.attempts, entry.crashes) == (1_700_000_000_000, 0, 0)
    assert entry.only not in {"", "distance"}


async def test_retry_of_version_0_1_names_the_one_stage_that_it_is_for(redis: Redis, distance: Consumer) -> None:
    fields = {"event": submission().to_json(), "for": "distance", "since": "1700000000000", "attempts": "3"}
    await redis.xadd(keys.journal(RAW), {**fields, "crashes": "1"})
    (entry,) = await distance.take(1)
    assert (entry.only, entry.retried, entry.failures) == ("distance", True, 4)
    assert entry.since == 1_700_000_000_000


# renewal


async def test_renewed_entry_is_not_taken_over(
    journal: Journal, redis: Redis, distance: Consumer, other: Consumer
) -> None:
    (entry,) = await taken(journal, distance)
    await abandoned(redis, distance, entry)
    assert await distance.renew([entry]) == []
    assert (await other.take_over(9, claim=CLAIM)).entries == []


async def test_renewal_and_handing_back_count_as_no_delivery(
    journal: Journal, distance: Consumer, consumers: Consumers
) -> None:
    entries = await taken(journal, distance)
    for _ in range(3):
        await distance.renew(entries)
    await distance.hand_back(claim=CLAIM)
    (entry,) = (await consumers("distance", "other").take_over(1, claim=CLAIM)).entries
    assert entry.deliveries == 2


async def test_renewal_returns_lost_entries_and_never_takes_them_back(
    journal: Journal, redis: Redis, distance: Consumer, other: Consumer
) -> None:
    kept, stolen, done, unnamed = await taken(journal, distance, 4)
    await other.renew([kept])
    assert (await owners(redis))[kept.id] == "one"
    await abandoned(redis, distance, stolen)
    await other.take_over(9, claim=CLAIM)
    await redis.xack(keys.journal(RAW), "distance", done.id)
    assert await distance.renew([kept, stolen, done]) == [stolen, done]
    assert (await owners(redis))[stolen.id] == "other"
    assert (await owners(redis))[unnamed.id] == "one"


@pytest.mark.parametrize("gone", ["group", "journal"])
async def test_every_entry_is_lost_with_its_group(
    journal: Journal, redis: Redis, distance: Consumer, gone: str
) -> None:
    entries = await taken(journal, distance, 2)
    if gone == "group":
        await redis.xgroup_destroy(keys.journal(RAW), "distance")
    else:
        await redis.delete(keys.journal(RAW))
    assert await distance.renew(entries) == entries


# handing back, reaping


async def delivery_counts(redis: Redis, consumer: Consumer) -> list[int]:
    """Return how often each pending entry was given out, which the way of an event shows."""
    rows = await redis.xpending_range(keys.journal(RAW), consumer.stage, "-", "+", 99)
    return [row["times_delivered"] for row in rows]


async def test_entries_that_a_clean_stop_hands_back_are_taken_over_at_once(
    journal: Journal, redis: Redis, distance: Consumer, other: Consumer
) -> None:
    entries = await taken(journal, distance, 2)
    assert (await other.take_over(9, claim=CLAIM)).entries == []
    await distance.renew(entries)
    assert await distance.hand_back(claim=CLAIM) == 2
    assert await delivery_counts(redis, distance) == [1, 1]
    assert (await other.take_over(9, claim=CLAIM)).entries == entries
    assert await delivery_counts(redis, distance) == [2, 2]


async def test_entries_of_other_consumers_are_not_handed_back(
    journal: Journal, distance: Consumer, other: Consumer
) -> None:
    await taken(journal, other, 2)
    assert await distance.hand_back(claim=CLAIM) == 0
    assert (await distance.take_over(9, claim=CLAIM)).entries == []


async def test_handing_back_to_a_missing_group_does_nothing(distance: Consumer, redis: Redis) -> None:
    await redis.xgroup_destroy(keys.journal(RAW), "distance")
    assert await distance.hand_back(claim=CLAIM) == 0


async def test_consumer_with_a_pending_entry_is_never_deleted(
    journal: Journal, redis: Redis, distance: Consumer, other: Consumer, consumers: Consumers
) -> None:
    (entry,) = await taken(journal, distance)
    await taken(journal, other)
    await settled(distance, Complete(entry, "", None))
    await reaped(consumers("distance", "third"))
    assert await consumer_names(redis) == {"other"}
    assert list((await owners(redis)).values()) == ["other"]


async def test_consumer_is_deleted_only_after_its_silence_and_never_by_itself(
    journal: Journal, redis: Redis, distance: Consumer, other: Consumer
) -> None:
    (entry,) = await taken(journal, distance)
    await settled(distance, Complete(entry, "", None))
    assert await other.reap(idle=CLAIM) == 0
    assert await distance.reap(idle=0) == 0
    assert await consumer_names(redis) == {"one"}

    async def deleted() -> bool:
        await other.reap(idle=0)  # it may have read one of its two streams later, and be silent there later
        return not await consumer_names(redis)

    await eventually(deleted)


async def test_reaped_consumer_may_read_again(journal: Journal, distance: Consumer, other: Consumer) -> None:
    (entry,) = await taken(journal, distance)
    await settled(distance, Complete(entry, "", None))
    await reaped(other)
    assert len(await taken(journal, distance)) == 1


async def test_reaping_a_missing_group_does_nothing(distance: Consumer, redis: Redis) -> None:
    await redis.xgroup_destroy(keys.journal(RAW), "distance")
    assert await distance.reap(idle=0) == 0
