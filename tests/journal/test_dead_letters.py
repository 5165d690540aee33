"""Dead letters: replay afresh, drop, and messages that the bridge itself could not read."""

import asyncio

import pytest
from redis.asyncio import Redis

from milepost.journal import (
    Bury,
    Consumer,
    DeadLetter,
    Journal,
    Maintenance,
    Park,
    StageNotServed,
    Unreadable,
    Wiring,
    keys,
)
from milepost.journal.maintenance import LARGEST_UNREADABLE, MOST_UNREADABLE
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CALCULATED,
    RAW,
    commands,
    event_of,
    everything,
    failure,
    made,
    settled,
    submission,
    taken,
    unserved,
    verbs,
)


@pytest.fixture
async def distance(redis: Redis, consumers: Consumers, table: Table) -> Consumer:
    await table(distance=(RAW,))
    consumer = consumers("distance")
    await made(consumer)
    return consumer


async def buried(journal: Journal, consumer: Consumer) -> DeadLetter:
    (entry,) = await taken(journal, consumer)
    assert await settled(consumer, Bury(entry, event_of(entry).id, failure(attempts=11, crashes=2))) == "buried"
    return (await journal.admin.dead_letters(consumer.stage, start="-", count=999))[-1]


async def test_replay_starts_counts_and_deadline_afresh(journal: Journal, distance: Consumer) -> None:
    dead = await buried(journal, distance)
    assert (dead.status, dead.attempts, dead.crashes) == (500, 11, 2)
    assert await journal.admin.replay("distance", [dead.entry]) == 1
    (entry,) = await distance.take(1)
    assert (entry.event, entry.channel, entry.retried) == (dead.event, RAW, True)
    assert (entry.attempts, entry.crashes) == (0, 0)
    assert entry.since == int(entry.id.partition("-")[0])
    assert await journal.admin.dead_letters("distance") == []


async def test_replay_is_for_the_stage_that_the_event_died_on_alone(
    journal: Journal, redis: Redis, distance: Consumer, consumers: Consumers, table: Table
) -> None:
    await table(audit=(RAW,))
    audit = consumers("audit")
    await made(audit)
    dead = await buried(journal, distance)
    await audit.take(9)
    await journal.admin.replay("distance", [dead.entry])
    assert await audit.take(9) == []
    assert len(await distance.take(9)) == 1


async def test_replay_removes_the_note_that_the_event_died(journal: Journal, distance: Consumer) -> None:
    dead = await buried(journal, distance)
    assert dead.id is not None
    assert list(await journal.status(dead.id)) == [RAW, "dead:distance"]
    await journal.admin.replay("distance", [dead.entry])
    assert list(await journal.status(dead.id)) == [RAW]


async def test_replay_adds_the_retry_before_it_deletes_the_dead_letter(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    dead = await buried(journal, distance)
    await journal.admin.replay("distance", ["0-1"])
    async with commands(redis) as called:
        await journal.admin.replay("distance", [dead.entry])
    order = [verb for verb in verbs(called) if verb in {"XACK", "XRANGE", "XADD", "XDEL"}]
    assert order == ["XRANGE", "XACK", "XADD", "XDEL"]


async def test_dead_letter_is_replayed_once_and_an_unknown_one_not_at_all(journal: Journal, distance: Consumer) -> None:
    dead = [await buried(journal, distance) for _ in range(3)]
    names = [*(letter.entry for letter in dead), dead[0].entry, "1-1"]
    answers = await asyncio.gather(*(journal.admin.replay("distance", names) for _ in range(4)))
    assert sum(answers) == 3
    assert len(await distance.take(99)) == 3


async def test_one_step_of_a_replay_moves_about_8_mb(journal: Journal, redis: Redis, distance: Consumer) -> None:
    await redis.sadd(keys.DEAD, "distance")
    letter = {"event": "x" * 3_000_000, "channel": RAW}
    names = [(await redis.xadd(keys.dead("distance"), letter)).decode() for _ in range(5)]  # type: ignore[arg-type]
    async with commands(redis) as called:
        assert await journal.admin.replay("distance", [*names, names[0]]) == 5
    assert verbs(called).count("HGETALL") == 2  # each step reads the stages table
    assert await redis.xlen(keys.retries("distance", RAW)) == 5


async def test_event_that_a_broker_gave_up_on_is_replayed_through_the_broker(
    journal: Journal, maintenance: Maintenance, consumers: Consumers, table: Table
) -> None:
    event = submission()
    await maintenance.bury_given_up("distance", event, failure())
    (dead,) = await journal.admin.dead_letters("distance")
    assert (dead.id, dead.event, dead.crashes) == (event.id, event.to_json().encode(), 0)
    assert "dead:distance" in await journal.status(event.id)
    await table(broker=(RAW,))
    broker = consumers("broker")
    await made(broker)
    await journal.admin.replay("distance", [dead.entry])
    (entry,) = await broker.take(1)
    assert (entry.event, entry.channel) == (dead.event, RAW)


async def test_dead_letters_of_one_mode_are_replayed_in_the_other(
    journal: Journal,
    maintenance: Maintenance,
    redis: Redis,
    consumers: Consumers,
    distance: Consumer,
    table: Table,
) -> None:
    """After a change of the delivery mode: by the stage itself if it is served, else through the Broker."""
    mine = await buried(journal, distance)
    await maintenance.bury_given_up("distance", submission(), failure())
    given_up = (await journal.admin.dead_letters("distance"))[-1]
    assert await journal.admin.replay("distance", [given_up.entry]) == 1
    assert len(await distance.take(9)) == 1
    await unserved(redis, "distance")
    await maintenance.switch({"broker": Wiring([RAW], [], "")})
    await table(broker=(RAW,))
    broker = consumers("broker")
    await made(broker)
    assert await journal.admin.replay("distance", [mine.entry]) == 1
    assert mine.event in [entry.event for entry in await broker.take(9)]


async def test_dead_letter_of_a_stage_that_no_bridge_serves_is_not_replayed(
    journal: Journal, maintenance: Maintenance, redis: Redis, distance: Consumer, table: Table
) -> None:
    mine = await buried(journal, distance)
    await maintenance.bury_given_up("distance", submission(channel=CALCULATED), failure())
    entries = [letter.entry for letter in await journal.admin.dead_letters("distance")]

    async def refused(of: list[str], message: str) -> None:
        before = await everything(redis)
        with pytest.raises(StageNotServed, match=message):
            await journal.admin.replay("distance", of)
        assert await everything(redis) == before

    await refused(entries, "no bridge serves distance on calculated_distance")
    await unserved(redis, "distance")
    await maintenance.switch({"broker": Wiring([RAW], [], "")})
    await table(broker=(RAW,))
    await refused(entries, "no bridge serves distance on calculated_distance")
    await unserved(redis, "broker")
    await refused([mine.entry], "no bridge serves distance on raw_input")
    await table(broker=(RAW,))
    assert await journal.admin.replay("distance", [mine.entry]) == 1


async def test_dead_letter_without_an_id_is_replayed_and_one_without_a_channel_is_not(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    """An operator may have added them by hand."""
    await redis.xadd(keys.dead("distance"), {"event": "{}", "channel": RAW})
    await redis.xadd(keys.dead("distance"), {"event": "{}"})
    first, second = await journal.admin.dead_letters("distance")
    assert await journal.admin.replay("distance", [first.entry]) == 1
    assert [entry.event for entry in await distance.take(9)] == [b"{}"]
    with pytest.raises(StageNotServed):
        await journal.admin.replay("distance", [second.entry])


async def test_drop_deletes_dead_letters_for_good(journal: Journal, distance: Consumer) -> None:
    dead = [await buried(journal, distance) for _ in range(3)]
    assert await journal.admin.drop("distance", [dead[0].entry, dead[2].entry, "1-1"]) == 2
    assert await journal.admin.drop("distance", []) == 0
    assert await journal.admin.dead_letters("distance") == [dead[1]]
    assert await distance.take(9) == []


async def test_dead_letters_are_read_in_pages_oldest_first(journal: Journal, distance: Consumer) -> None:
    dead = [await buried(journal, distance) for _ in range(5)]
    assert await journal.admin.dead_letters("distance", count=2) == dead[:2]
    assert await journal.admin.dead_letters("distance", start=f"({dead[1].entry}", count=2) == dead[2:4]


async def test_every_stage_that_had_a_dead_letter_is_listed(
    journal: Journal, maintenance: Maintenance, distance: Consumer
) -> None:
    assert await journal.admin.dead_stages() == []
    await buried(journal, distance)
    await maintenance.unreadable([Unreadable(RAW, b"\xff", "not UTF-8")])
    assert await journal.admin.dead_stages() == ["bridge", "distance"]


async def test_unreadable_message_is_kept_with_its_reason_and_its_first_64_kb(
    journal: Journal, maintenance: Maintenance, redis: Redis
) -> None:
    long = b"\xff" * (LARGEST_UNREADABLE + 1)
    assert await maintenance.unreadable([Unreadable(RAW, long, "not UTF-8"), Unreadable(RAW, b"{", "broken")]) == 0
    first, second = await journal.admin.dead_letters("bridge")
    assert (first.event, first.reason, first.channel, first.id) == (long[:-1], "not UTF-8", RAW, None)
    assert (second.event, second.status, second.attempts, second.crashes) == (b"{", None, 0, 0)


async def test_unreadable_messages_are_capped_at_ten_thousand_and_removed_ones_are_counted(
    journal: Journal, maintenance: Maintenance, redis: Redis
) -> None:
    for start in range(0, MOST_UNREADABLE, 2_000):
        batch = [Unreadable(RAW, str(number).encode(), "") for number in range(start, start + 2_000)]
        assert await maintenance.unreadable(batch) == 0
    assert await maintenance.unreadable([Unreadable(RAW, b"one more", ""), Unreadable(RAW, b"and another", "")]) == 2
    assert await redis.xlen(keys.dead("bridge")) == MOST_UNREADABLE == 10_000
    assert (await journal.admin.dead_letters("bridge", count=1))[0].event == b"2"


async def test_unreadable_messages_are_bounded_in_bytes(
    journal: Journal, maintenance: Maintenance, redis: Redis
) -> None:
    batch = [Unreadable(RAW, b"\xff" * LARGEST_UNREADABLE, "") for _ in range(100)]
    removed = [await maintenance.unreadable(batch) for _ in range(6)]
    left = await redis.xlen(keys.dead("bridge"))
    assert left == 600 - sum(removed)
    assert 300 < left < 520


async def test_unreadable_messages_can_be_dropped_but_not_replayed(
    journal: Journal, maintenance: Maintenance, redis: Redis
) -> None:
    await maintenance.unreadable([Unreadable(RAW, b"\xff", "not UTF-8")])
    (dead,) = await journal.admin.dead_letters("bridge")
    before = await everything(redis)
    with pytest.raises(ValueError, match="cannot be replayed"):
        await journal.admin.replay("bridge", [dead.entry])
    assert await everything(redis) == before
    assert await journal.admin.drop("bridge", [dead.entry]) == 1


async def test_event_that_dies_again_after_its_replay_keeps_only_its_new_counts(
    journal: Journal, redis: Redis, distance: Consumer
) -> None:
    dead = await buried(journal, distance)
    await journal.admin.replay("distance", [dead.entry])
    (entry,) = await distance.take(1)
    assert await settled(distance, Park(entry, event_of(entry).id, failure(attempts=1), 60)) == "done"
    (member,) = await redis.zrange(keys.parked("distance"), 0, -1)
    assert member.split()[2:4] == [b"1", b"0"]
