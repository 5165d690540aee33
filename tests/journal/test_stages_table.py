"""How it is kept, the stages table: beats, what is served, and how a stage is forgotten."""

import json
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from milepost import keys
from milepost.events.event import Event
from milepost.journal import Bury, Complete, Forgotten, Journal, Park, StageServed, Upkeep, Wiring
from tests.journal.conftest import Groups, Table
from tests.journal.events import (
    CALCULATED,
    RAW,
    READY,
    SENT,
    everything,
    journaled,
    letter,
    made,
    submission,
    unserved,
)


async def test_a_beat_writes_what_a_route_consumes_emits_and_where_it_is(
    journal: Journal, upkeep: Upkeep, redis: Redis
) -> None:
    await upkeep.beat(
        {
            "broker": Wiring([RAW, "user:email"], [CALCULATED], "http://broker"),
            "audit": Wiring([RAW], [], "http://audit"),
        }
    )
    wired = json.loads(await redis.hget(keys.STAGES, "broker"))
    seconds, _ = await redis.time()
    assert abs(wired.pop("beat") - seconds * 1000) < 10_000
    assert wired == {"consumes": [RAW, "user:email"], "emits": [CALCULATED], "url": "http://broker"}
    audit, broker = await journal.stages()
    assert (audit.name, audit.consumes, audit.emits, audit.url) == ("audit", (RAW,), (), "http://audit")
    assert broker.consumes == (RAW, "user:email")


async def test_a_channel_is_only_announced_while_it_is_emitted_and_nobody_consumes_it(
    journal: Journal, redis: Redis, table: Table
) -> None:
    async def kept() -> bool:
        """Whether an event of the channel is journaled now."""
        before = await redis.xlen(keys.journal(CALCULATED))
        await journal.publish(Event(id=uuid4().hex, source="/test", type=CALCULATED))
        return bool(await redis.xlen(keys.journal(CALCULATED)) - before)

    assert await kept(), "no stage is known"
    await table(distance=(RAW, CALCULATED))
    assert await redis.smembers(keys.ANNOUNCED) == {CALCULATED.encode()}
    assert not await kept()
    await table(store=(CALCULATED, SENT))
    assert await redis.smembers(keys.ANNOUNCED) == {SENT.encode()}
    assert await kept()
    await unserved(redis, "store")
    await table(distance=(RAW, CALCULATED))
    assert await kept(), "a stage that is away comes back"
    await journal.forget("store")
    assert await redis.smembers(keys.ANNOUNCED) == {CALCULATED.encode()}
    assert not await kept()


async def test_a_stage_whose_beat_is_older_than_a_minute_is_not_served(
    journal: Journal, redis: Redis, table: Table
) -> None:
    await table(distance=(RAW, CALCULATED), store=(CALCULATED,))
    await unserved(redis, "store")
    assert {stage.name: stage.served for stage in await journal.stages()} == {"distance": True, "store": False}
    await table(store=(CALCULATED,))
    assert all(stage.served for stage in await journal.stages())


async def test_stages_are_shown_with_what_lies_before_them(
    journal: Journal, redis: Redis, table: Table, groups: Groups
) -> None:
    await table(distance=(RAW, CALCULATED), audit=(RAW,))
    distance, audit = groups("distance"), groups("audit")
    await made(distance, audit)
    events = [submission() for _ in range(5)]
    for event in events:
        await journal.publish(event)
    entries = await distance.read(4, block=READY) or []
    await distance.settle(Complete(entries[0], None))
    await distance.settle(Park(entries[1], letter(events[1]), 60))
    await distance.settle(Bury(entries[2], letter(events[2])))
    found = {stage.name: stage for stage in await journal.stages()}
    server = await redis.info("server")
    if "valkey_version" in server or int(server["redis_version"].partition(".")[0]) >= 7:
        assert found["distance"].backlog == 2
    assert (found["distance"].parked, found["distance"].dead) == (1, 1)
    assert (found["audit"].backlog, found["audit"].parked, found["audit"].dead) == (5, 0, 0)


async def test_the_table_is_empty_before_any_bridge_has_run(journal: Journal, redis: Redis) -> None:
    assert await journal.stages() == []


async def test_a_stage_whose_channel_has_no_journal_yet_has_no_backlog(
    journal: Journal, redis: Redis, table: Table
) -> None:
    await table(distance=(RAW,))
    (stage,) = await journal.stages()
    assert stage.backlog == 0


async def test_forget_is_refused_while_the_beat_is_fresh(journal: Journal, redis: Redis, table: Table) -> None:
    await table(distance=(RAW,))
    before = await everything(redis)
    with pytest.raises(StageServed, match="distance is served"):
        await journal.forget("distance")
    assert await everything(redis) == before


async def test_forget_removes_entry_group_parked_and_dead_and_says_how_many(
    journal: Journal, upkeep: Upkeep, redis: Redis, table: Table, groups: Groups
) -> None:
    await table(distance=(RAW, CALCULATED), audit=(RAW,))
    distance, audit = groups("distance"), groups("audit")
    await made(distance, audit)
    events = [submission() for _ in range(4)]
    for event in events:
        await journal.publish(event)
    entries = await distance.read(3, block=READY) or []
    await distance.settle(Park(entries[0], letter(events[0]), 60))
    await distance.settle(Park(entries[1], letter(events[1]), 60))
    await distance.settle(Bury(entries[2], letter(events[2])))
    await unserved(redis, "distance")
    assert await journal.forget("distance") == Forgotten(parked=2, dead=1)
    assert [stage.name for stage in await journal.stages()] == ["audit"]
    assert not await redis.exists(keys.waiting("distance"), keys.dead("distance"))
    assert [row["name"] for row in await redis.xinfo_groups(keys.journal(RAW))] == [b"audit"]
    for entry in await audit.read(9, block=READY) or []:
        await audit.settle(Complete(entry, None))
    await upkeep.trim(RAW)
    assert await journaled(redis, RAW) == []
    assert await journal.backlog() == 0


async def test_a_group_that_the_table_does_not_know_can_be_forgotten(
    journal: Journal, redis: Redis, groups: Groups
) -> None:
    await made(groups("stray"))
    assert await journal.forget("stray") == Forgotten(parked=0, dead=0)
    assert await redis.xinfo_groups(keys.journal(RAW)) == []


async def test_an_unknown_stage_cannot_be_forgotten(journal: Journal, redis: Redis) -> None:
    with pytest.raises(LookupError):
        await journal.forget("nobody")


async def test_a_forgotten_stage_that_is_served_again_gets_all_that_is_left(
    journal: Journal, redis: Redis, table: Table, groups: Groups
) -> None:
    await table(distance=(RAW,))
    distance = groups("distance")
    await made(distance)
    await journal.publish(submission())
    await unserved(redis, "distance")
    await journal.forget("distance")
    assert await distance.read(1, block=READY) is None
    await distance.ensure()
    assert len(await distance.read(9, block=READY) or []) == 1


async def test_a_journal_that_no_stage_consumes_is_shown_and_can_be_forgotten(
    journal: Journal, redis: Redis, table: Table
) -> None:
    await table(distance=(RAW, CALCULATED))
    for _ in range(3):
        await journal.publish(Event(id=uuid4().hex, source="/test", type="raw_imput"))
    await journal.publish(submission())
    assert await journal.unconsumed() == {"raw_imput": 3, RAW: 1}, "no bridge has made its group yet"
    assert await journal.forget_journal("raw_imput") == 3
    assert not await redis.exists(keys.journal("raw_imput"))
    with pytest.raises(StageServed):
        await journal.forget_journal(RAW)
    assert await journal.backlog() == 1
