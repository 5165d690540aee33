"""The stages table: beats, which stages are served, and how a stage is forgotten."""

import json
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from milepost.errors import JournalUnavailable
from milepost.journal import (
    Bury,
    Complete,
    Forgotten,
    GroupMissing,
    Journal,
    Maintenance,
    Park,
    StageServed,
    Wiring,
    keys,
)
from milepost.settings import JournalSettings
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CALCULATED,
    RAW,
    SENT,
    everything,
    failure,
    heard,
    journaled,
    made,
    submission,
    taken,
    unserved,
)


async def test_beat_writes_what_a_route_consumes_and_emits_and_its_url(
    journal: Journal, maintenance: Maintenance, redis: Redis
) -> None:
    before, _ = await redis.time()
    await maintenance.beat(
        {
            "broker": Wiring([RAW, "user:email"], [CALCULATED], "http://broker"),
            "audit": Wiring([RAW], [], "http://audit", needs_data=[RAW]),
        }
    )
    wired = json.loads(await redis.hget(keys.STAGES, "broker"))
    after, _ = await redis.time()
    assert before * 1000 <= wired.pop("beat") <= (after + 1) * 1000
    url = "http://broker"
    assert wired == {"consumes": [RAW, "user:email"], "emits": [CALCULATED], "url": url, "needsData": []}
    assert await journal.admin.needs_data() == {RAW}
    audit, broker = await journal.admin.stages()
    assert (audit.name, audit.consumes, audit.emits, audit.url) == ("audit", (RAW,), (), "http://audit")
    assert broker.consumes == (RAW, "user:email")


async def test_beat_announces_the_channels_of_served_stages(
    maintenance: Maintenance, redis: Redis, table: Table
) -> None:
    await table(store=(CALCULATED, "user:email"), audit=(RAW,))
    await unserved(redis, "store")
    async with heard(redis, keys.STAGES) as messages:
        await table(distance=(RAW, CALCULATED))
        await table(email=("user:email", SENT))
        await maintenance.beat({})
    announced = [sorted(json.loads(message)) for _, message in messages]
    assert announced == [[RAW], [RAW, "user:email"], [RAW, "user:email"]]


async def test_beat_announces_no_channel_while_no_stage_is_served(
    maintenance: Maintenance, redis: Redis, table: Table
) -> None:
    """Its form stays a list: an empty table of Lua would be an object."""
    await table(store=(CALCULATED,))
    await unserved(redis, "store")
    async with heard(redis, keys.STAGES) as messages:
        await maintenance.beat({})
    assert messages == [(keys.STAGES, b"[]")]


async def test_beat_replaces_a_table_of_another_type(journal: Journal, redis: Redis, table: Table) -> None:
    await redis.set(keys.STAGES, "of another type")
    await table(distance=(RAW, CALCULATED))
    assert [stage.name for stage in await journal.admin.stages()] == ["distance"]


async def test_beat_removes_a_key_of_version_0_1(maintenance: Maintenance, redis: Redis) -> None:
    await redis.sadd("{milepost}:announced", SENT)
    await maintenance.beat({})
    assert not await redis.exists("{milepost}:announced")


async def test_stage_whose_beat_is_older_than_a_minute_is_not_served(
    journal: Journal, redis: Redis, table: Table
) -> None:
    await table(distance=(RAW, CALCULATED), store=(CALCULATED,))
    await unserved(redis, "store")
    assert {stage.name: stage.served for stage in await journal.admin.stages()} == {"distance": True, "store": False}
    await table(store=(CALCULATED,))
    assert all(stage.served for stage in await journal.admin.stages())


async def test_stages_are_shown_with_their_backlog_and_pause(
    journal: Journal, redis: Redis, table: Table, consumers: Consumers
) -> None:
    await table(distance=(RAW, CALCULATED), audit=(RAW,))
    distance = consumers("distance")
    await made(distance, consumers("audit"))
    entries = await taken(journal, distance, 4)
    await journal.publish(submission())
    await distance.settle(
        [Complete(entries[0], "", None), Park(entries[1], "", failure(), 60), Bury(entries[2], "", failure())]
    )
    await journal.admin.pause("audit")
    found = {stage.name: stage for stage in await journal.admin.stages()}
    assert {name: stage.paused for name, stage in found.items()} == {"distance": False, "audit": True}
    assert found["distance"].ordered_by == ""
    assert (found["distance"].journaled, found["distance"].parked, found["distance"].dead) == (2, 1, 1)
    assert (found["audit"].journaled, found["audit"].parked, found["audit"].dead) == (5, 0, 0)


async def test_table_is_empty_before_any_bridge_has_run(journal: Journal, redis: Redis) -> None:
    assert await journal.admin.stages() == []


async def test_stage_whose_channel_has_no_journal_yet_has_no_backlog(
    journal: Journal, redis: Redis, table: Table
) -> None:
    await table(distance=(RAW,))
    (stage,) = await journal.admin.stages()
    assert stage.journaled == 0


async def test_served_stage_cannot_be_forgotten(journal: Journal, redis: Redis, table: Table) -> None:
    await table(distance=(RAW,))
    before = await everything(redis)
    with pytest.raises(StageServed, match="distance is served"):
        await journal.admin.forget("distance")
    assert await everything(redis) == before


async def test_pause_is_confirmed_by_replicas_where_doors_wait_for_them(
    opened: Callable[[JournalSettings], Journal], settings: JournalSettings, table: Table
) -> None:
    await table(distance=(RAW,))
    journal = opened(settings.model_copy(update={"replicas": 1}))
    with pytest.raises(JournalUnavailable, match="0 of 1 replicas"):
        await journal.admin.pause("distance")


async def test_forget_removes_every_trace_of_a_stage_and_returns_what_was_lost(
    journal: Journal, maintenance: Maintenance, redis: Redis, table: Table, consumers: Consumers
) -> None:
    await table(distance=(RAW, CALCULATED), audit=(RAW,))
    distance, audit = consumers("distance"), consumers("audit")
    await made(distance, audit)
    entries = await taken(journal, distance, 4)
    await distance.settle([Park(entry, "", failure(), 60 * number) for number, entry in enumerate(entries[:3])])
    await distance.settle([Bury(entries[3], "", failure())])
    await maintenance.retry_due(["distance"], most=9)
    await journal.admin.pause("distance")
    await unserved(redis, "distance")
    assert await journal.admin.forget("distance") == Forgotten(parked=3, dead=1)
    assert await journal.admin.paused() == frozenset()
    assert [stage.name for stage in await journal.admin.stages()] == ["audit"]
    assert not await redis.exists(keys.parked("distance"), keys.dead("distance"), keys.retries("distance", RAW))
    assert [row["name"] for row in await redis.xinfo_groups(keys.journal(RAW))] == [b"audit"]
    assert await journal.admin.dead_stages() == []
    await audit.settle([Complete(entry, "", None) for entry in await audit.take(9)])
    await maintenance.trim(RAW)
    assert await journaled(redis, RAW) == []
    assert await journal.backlog() == 0


async def test_forget_finds_the_retries_of_a_channel_whose_journal_an_operator_has_deleted(
    journal: Journal, redis: Redis, table: Table
) -> None:
    await table(distance=(RAW,))
    await redis.xadd(keys.retries("distance", RAW), {"event": "{}"})
    await unserved(redis, "distance")
    assert await journal.admin.forget("distance") == Forgotten(parked=1, dead=0)
    assert not await redis.exists(keys.retries("distance", RAW))


async def test_group_that_the_table_does_not_know_can_be_forgotten(
    journal: Journal, redis: Redis, consumers: Consumers
) -> None:
    await made(consumers("stray"))
    assert await journal.admin.forget("stray") == Forgotten(parked=0, dead=0)
    assert await redis.xinfo_groups(keys.journal(RAW)) == []


@pytest.mark.parametrize("left", ["parked", "dead"])
async def test_group_with_as_many_other_events_can_be_forgotten(
    journal: Journal, redis: Redis, consumers: Consumers, left: str
) -> None:
    stray = consumers("stray")
    await made(stray)
    (entry,) = await taken(journal, stray)
    await stray.settle([Park(entry, "", failure(), 60) if left == "parked" else Bury(entry, "", failure())])
    found = Forgotten(parked=int(left == "parked"), dead=int(left == "dead"))
    assert await journal.admin.forget("stray") == found


async def test_stage_whose_keys_are_of_another_type_can_be_forgotten(journal: Journal, redis: Redis) -> None:
    stray = (keys.parked("stray"), keys.retries("stray", RAW), keys.dead("stray"))
    for key in stray:
        await redis.set(key, "of another type")
    await redis.sadd(keys.DEAD, "stray")
    await redis.sadd(keys.JOURNALS, RAW)
    with pytest.raises(LookupError):
        await journal.admin.forget("stray")
    assert not await redis.exists(*stray)


async def test_unknown_stage_cannot_be_forgotten_or_paused(journal: Journal, redis: Redis) -> None:
    with pytest.raises(LookupError):
        await journal.admin.forget("nobody")
    with pytest.raises(LookupError):
        await journal.admin.pause("nobody")
    assert await journal.admin.paused() == frozenset()


async def test_forgotten_stage_that_is_served_again_gets_every_event_that_is_left(
    journal: Journal, redis: Redis, table: Table, consumers: Consumers
) -> None:
    await table(distance=(RAW,))
    distance = consumers("distance")
    await made(distance)
    await journal.publish(submission())
    await unserved(redis, "distance")
    await journal.admin.forget("distance")
    with pytest.raises(GroupMissing):
        await distance.take(1)
    await distance.ensure()
    assert len(await distance.take(9)) == 1


async def test_journal_that_no_stage_consumes_is_shown_and_can_be_forgotten(
    journal: Journal, redis: Redis, table: Table, consumers: Consumers
) -> None:
    await table(distance=(RAW, CALCULATED))
    for _ in range(3):
        await journal.publish(submission(channel="raw_imput"))
    await journal.publish(submission())
    assert await journal.admin.unconsumed() == {"raw_imput": 3, RAW: 1}, "no bridge has made its group yet"
    await made(consumers("distance"))
    assert await journal.admin.unconsumed() == {"raw_imput": 3}
    assert await journal.admin.forget_journal("raw_imput") == 3
    assert await redis.smembers(keys.JOURNALS) == {RAW.encode()}
    assert not await redis.exists(keys.journal("raw_imput"))
    with pytest.raises(StageServed):
        await journal.admin.forget_journal(RAW)
    assert await journal.backlog() == 1


async def test_journal_with_a_group_or_a_stage_cannot_be_forgotten(
    journal: Journal, redis: Redis, table: Table, consumers: Consumers
) -> None:
    await table(distance=(RAW, CALCULATED))
    await journal.publish(submission())
    with pytest.raises(StageServed):  # its bridge has not made the group yet
        await journal.admin.forget_journal(RAW)
    await made(consumers("distance"))
    await redis.delete(keys.STAGES)
    with pytest.raises(StageServed):
        await journal.admin.forget_journal(RAW)
    assert await journal.backlog() == 1


async def test_journal_of_another_type_can_be_forgotten(journal: Journal, redis: Redis) -> None:
    await redis.set(keys.journal("odd"), "of another type")
    assert await journal.admin.forget_journal("odd") == 0
    assert not await redis.exists(keys.journal("odd"))
