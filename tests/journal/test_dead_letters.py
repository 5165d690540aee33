"""How it is kept, dead letters: replay afresh, drop, and what the bridge itself could not read."""

import asyncio

import pytest
from redis.asyncio import Redis

from milepost import keys
from milepost.events.event import Event
from milepost.journal import Bury, DeadLetter, Group, Journal, Park, StageNotServed, Unreadable, Upkeep
from milepost.journal.upkeep import LARGEST_UNREADABLE, MOST_UNREADABLE
from tests.journal.conftest import Groups, Table
from tests.journal.events import (
    CALCULATED,
    RAW,
    READY,
    commands,
    everything,
    letter,
    made,
    submission,
    unserved,
    verbs,
)


@pytest.fixture
async def distance(redis: Redis, groups: Groups, table: Table) -> Group:
    await table(distance=(RAW,))
    group = groups("distance")
    await group.ensure()
    return group


async def buried(journal: Journal, group: Group) -> DeadLetter:
    event = submission(channel=group.channel)
    await journal.publish(event)
    (entry,) = await group.read(1, block=READY) or []
    assert await group.settle(Bury(entry, letter(event, attempts=11, crashes=2))) == "buried"
    return (await journal.dead_letters(group.name, start="-", count=999))[-1]


async def test_replay_starts_counts_and_deadline_afresh_for_the_route_it_died_on(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    dead = await buried(journal, distance)
    assert await journal.replay("distance", [dead.entry]) == 1
    (entry,) = await distance.read(1, block=READY) or []
    assert (entry.event, entry.only, entry.attempts, entry.crashes) == (dead.event, "distance", 0, 0)
    assert entry.since == int(entry.id.partition("-")[0])
    assert await journal.dead_letters("distance") == []


async def test_replay_takes_back_the_note_that_it_died(journal: Journal, redis: Redis, distance: Group) -> None:
    dead = await buried(journal, distance)
    assert dead.id is not None
    assert list(await journal.progress(dead.id)) == [RAW, "dead:distance"]
    await journal.replay("distance", [dead.entry])
    assert list(await journal.progress(dead.id)) == [RAW]


async def test_replay_adds_to_the_journal_before_it_takes_from_the_dead(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    dead = await buried(journal, distance)
    await journal.replay("distance", ["0-1"])
    async with commands(redis) as called:
        await journal.replay("distance", [dead.entry])
    order = [verb for verb in verbs(called) if verb in {"XACK", "XRANGE", "XADD", "XDEL"}]
    assert order == ["XRANGE", "XACK", "XADD", "XDEL"]


async def test_a_dead_letter_is_replayed_once_and_an_unknown_one_not_at_all(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    dead = [await buried(journal, distance) for _ in range(3)]
    names = [*(letter.entry for letter in dead), dead[0].entry, "1-1"]
    answers = await asyncio.gather(*(journal.replay("distance", names) for _ in range(4)))
    assert sum(answers) == 3
    assert len(await distance.read(99, block=READY) or []) == 3


async def test_what_a_broker_gave_up_on_is_replayed_for_the_broker(
    journal: Journal, upkeep: Upkeep, groups: Groups, redis: Redis, table: Table
) -> None:
    event = submission()
    await upkeep.bury("distance", event, letter(event), only="broker")
    (dead,) = await journal.dead_letters("distance")
    assert (dead.id, dead.event) == (event.id, event.to_json().encode())
    assert "dead:distance" in await journal.progress(event.id)
    await table(broker=(RAW,))
    broker = groups("broker")
    await made(broker)
    await journal.replay("distance", [dead.entry])
    (entry,) = await broker.read(1, block=READY) or []
    assert entry.only == "broker"


async def test_what_is_for_a_route_that_no_bridge_serves_is_not_replayed(
    journal: Journal, upkeep: Upkeep, groups: Groups, redis: Redis, distance: Group, table: Table
) -> None:
    """As after a switch from broker to direct mode: every group there is would acknowledge it unseen."""
    mine = await buried(journal, distance)
    event = submission()
    await upkeep.bury("distance", event, letter(event), only="broker")
    entries = [letter.entry for letter in await journal.dead_letters("distance")]

    async def refused() -> None:
        before = await everything(redis)
        with pytest.raises(StageNotServed, match="no bridge serves broker on raw_input"):
            await journal.replay("distance", entries)
        assert await everything(redis) == before

    await refused()
    await table(broker=(RAW,))
    await refused()  # it has no group
    await made(groups("broker"))
    await unserved(redis, "broker")
    await refused()
    await table(broker=(CALCULATED,))
    await refused()
    assert await journal.replay("distance", [mine.entry]) == 1
    await table(broker=(RAW,))
    assert await journal.replay("distance", entries) == 1


async def test_drop_deletes_dead_letters_for_good(journal: Journal, redis: Redis, distance: Group) -> None:
    dead = [await buried(journal, distance) for _ in range(3)]
    assert await journal.drop("distance", [dead[0].entry, dead[2].entry, "1-1"]) == 2
    assert await journal.drop("distance", []) == 0
    assert await journal.dead_letters("distance") == [dead[1]]
    assert await distance.read(9, block=0.01) == []


async def test_dead_letters_are_read_in_pages_oldest_first(journal: Journal, redis: Redis, distance: Group) -> None:
    dead = [await buried(journal, distance) for _ in range(5)]
    assert await journal.dead_letters("distance", count=2) == dead[:2]
    assert await journal.dead_letters("distance", start=f"({dead[1].entry}", count=2) == dead[2:4]


async def test_whoever_had_a_dead_letter_is_listed(journal: Journal, upkeep: Upkeep, distance: Group) -> None:
    assert await journal.dead_stages() == []
    await buried(journal, distance)
    await upkeep.unreadable([Unreadable(RAW, b"\xff", "not UTF-8")])
    assert await journal.dead_stages() == ["bridge", "distance"]


async def test_an_unreadable_message_is_kept_with_its_reason_its_first_64_kb(
    journal: Journal, upkeep: Upkeep, redis: Redis
) -> None:
    long = b"\xff" * (LARGEST_UNREADABLE + 1)
    assert await upkeep.unreadable([Unreadable(RAW, long, "not UTF-8"), Unreadable(RAW, b"{", "broken")]) == 0
    first, second = await journal.dead_letters("bridge")
    assert (first.event, first.reason, first.channel, first.id) == (long[:-1], "not UTF-8", RAW, None)
    assert (second.event, second.status, second.attempts, second.crashes) == (b"{", None, 0, 0)


async def test_unreadable_messages_are_capped_at_ten_thousand_and_what_falls_out_is_counted(
    journal: Journal, upkeep: Upkeep, redis: Redis
) -> None:
    for start in range(0, MOST_UNREADABLE, 2_000):
        batch = [Unreadable(RAW, str(number).encode(), "") for number in range(start, start + 2_000)]
        assert await upkeep.unreadable(batch) == 0
    assert await upkeep.unreadable([Unreadable(RAW, b"one more", ""), Unreadable(RAW, b"and another", "")]) == 2
    assert await redis.xlen(keys.dead("bridge")) == MOST_UNREADABLE == 10_000
    assert (await journal.dead_letters("bridge", count=1))[0].event == b"2"


async def test_what_the_bridge_could_not_read_can_be_dropped_but_not_replayed(
    journal: Journal, upkeep: Upkeep, redis: Redis
) -> None:
    await upkeep.unreadable([Unreadable(RAW, b"\xff", "not UTF-8")])
    (dead,) = await journal.dead_letters("bridge")
    before = await everything(redis)
    with pytest.raises(ValueError, match="cannot be replayed"):
        await journal.replay("bridge", [dead.entry])
    assert await everything(redis) == before
    assert await journal.drop("bridge", [dead.entry]) == 1


async def test_an_event_that_dies_again_after_its_replay_keeps_only_its_new_counts(
    journal: Journal, redis: Redis, distance: Group
) -> None:
    dead = await buried(journal, distance)
    await journal.replay("distance", [dead.entry])
    (entry,) = await distance.read(1, block=READY) or []
    assert await distance.settle(Park(entry, letter(Event.from_json(entry.event), attempts=1), 60)) == "done"
    (member,) = await redis.zrange(keys.waiting("distance"), 0, -1)
    assert member.split()[2:4] == [b"1", b"0"]
