"""A full Redis (maxmemory, noeviction): it refuses every step that takes more, and runs every step that drains."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from milepost.errors import JournalUnavailable
from milepost.journal import (
    Adoption,
    Bury,
    Complete,
    Consumer,
    Entry,
    Journal,
    Maintenance,
    Park,
    Unreadable,
    Wiring,
    keys,
)
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.journal.conftest import Consumers, Table
from tests.journal.events import (
    CALCULATED,
    CLAIM,
    RAW,
    SENT,
    abandoned,
    everything,
    failure,
    heard,
    maintenance_of,
    pending,
    reaped,
    reply_to,
    settled,
    submission,
    unserved,
)
from tests.replicated import QUICK, tell
from tests.servers import HOST, Valkey, eventually

Full = Callable[[], Awaitable[None]]
EVENTS = [submission(f"event-{number}") for number in range(4)]


@pytest.fixture
async def entries(journal: Journal, distance: Consumer) -> list[Entry]:
    """Four entries that the stage `distance` has taken, and one that it has not."""
    for event in EVENTS:
        await journal.publish(event)
    taken = await distance.take(4)
    await journal.publish(submission())
    return taken


async def test_full_redis_refuses_a_key(redis: Redis, full: Full) -> None:
    await full()
    with pytest.raises(OutOfMemoryError):
        await redis.set("anything", "")


@pytest.mark.parametrize("channel", [RAW, SENT])
async def test_publish_is_refused_and_nothing_is_written(
    journal: Journal, redis: Redis, full: Full, table: Table, channel: str
) -> None:
    await table(email=("user:email", SENT))
    before = await everything(redis)
    async with heard(redis, channel) as messages:
        await full()
        with pytest.raises(JournalUnavailable, match="Redis is full"):
            await journal.publish(submission(channel=channel))
    assert messages == []
    assert await everything(redis) == before


async def test_adoption_is_refused_and_nothing_is_written(maintenance: Maintenance, redis: Redis, full: Full) -> None:
    await full()
    with pytest.raises(JournalUnavailable, match="Redis is full"):
        await maintenance.adopt([Adoption(submission(), None)])
    assert await everything(redis) == {}


async def test_reading_completing_and_trimming_run_through(
    maintenance: Maintenance, redis: Redis, distance: Consumer, entries: list[Entry], full: Full
) -> None:
    await full()
    (last,) = await distance.take(9)
    assert await settled(distance, Complete(last, "", None)) == "done"
    assert await settled(distance, Complete(entries[0], EVENTS[0].id, reply_to(EVENTS[0]))) == "done"
    assert await redis.xlen(keys.journal(CALCULATED)) == 1
    assert (await maintenance.trim(RAW))[0] == "trimmed"
    assert await distance.reread() == entries[1:]


async def test_parking_burying_retrying_pausing_and_replaying_run_through(
    journal: Journal, maintenance: Maintenance, distance: Consumer, entries: list[Entry], full: Full
) -> None:
    await maintenance.beat({"distance": Wiring([RAW], [], "")})
    await full()
    assert await settled(distance, Park(entries[0], EVENTS[0].id, failure(), 0)) == "done"
    assert await settled(distance, Bury(entries[1], EVENTS[1].id, failure())) == "buried"
    assert await maintenance.retry_due(["distance"], most=1) == (1, None, {})
    assert await journal.admin.pause("distance")
    await journal.check_writable()
    (dead,) = await journal.admin.dead_letters("distance")
    assert await journal.admin.replay("distance", [dead.entry]) == 1
    assert len(await distance.take(9)) == 3


async def test_unreadable_messages_and_announcements_wait_for_room(maintenance: Maintenance, full: Full) -> None:
    await full()
    with pytest.raises(JournalUnavailable, match="full"):
        await maintenance.unreadable([Unreadable(RAW, b"\xff", "not UTF-8")])
    with pytest.raises(JournalUnavailable, match="full"):
        await maintenance.announce(submission())


async def test_event_that_a_broker_gave_up_becomes_a_dead_letter(
    journal: Journal, maintenance: Maintenance, full: Full
) -> None:
    """The Broker sends it a few times only, and it was accepted once."""
    await full()
    event = submission()
    await maintenance.bury_given_up("distance", event, failure())
    assert [letter.id for letter in await journal.admin.dead_letters("distance")] == [event.id]


async def test_renewing_taking_over_handing_back_and_reaping_run_through(
    distance: Consumer, consumers: Consumers, entries: list[Entry], full: Full
) -> None:
    await full()
    other = consumers("distance", "other")
    assert await distance.renew(entries) == []
    assert await distance.hand_back(claim=CLAIM) == 4
    assert (await other.take_over(4, claim=CLAIM)).entries == entries
    assert await distance.renew(entries[:1]) == entries[:1]
    await distance.settle([Complete(entry, "", None) for entry in entries])
    await reaped(other)


async def test_bridge_starts(
    maintenance: Maintenance, redis: Redis, consumers: Consumers, table: Table, full: Full
) -> None:
    await full()
    assert await maintenance.switch({"distance": Wiring([RAW], [], "")}) is None
    await table(distance=(RAW, CALCULATED))
    assert await redis.hexists(keys.STAGES, "distance")
    distance = consumers("distance")
    assert await distance.ensure() is True
    assert await distance.take(1) == []


async def test_trim_makes_a_missing_group(
    journal: Journal, maintenance: Maintenance, redis: Redis, table: Table, full: Full
) -> None:
    await journal.publish(submission())
    await table(distance=(RAW,))
    await full()
    happened, _, _ = await maintenance.trim(RAW)
    assert happened == "trimmed"
    assert [group["name"] for group in await redis.xinfo_groups(keys.journal(RAW))] == [b"distance"]


async def test_trim_makes_dead_letters_of_retries_that_no_stage_reads(
    journal: Journal, redis: Redis, distance: Consumer, table: Table, full: Full
) -> None:
    await redis.xadd(keys.retries("distance", RAW), {"event": submission().to_json()})
    await table(distance=(CALCULATED,))
    await full()
    await journal.scripts.trim(channel=RAW, fresh=0, limit=1000)
    assert len(await journal.admin.dead_letters("distance")) == 1


async def test_change_of_the_delivery_mode_runs_through(
    maintenance: Maintenance,
    redis: Redis,
    consumers: Consumers,
    distance: Consumer,
    entries: list[Entry],
    table: Table,
    full: Full,
) -> None:
    await table(distance=(RAW,))
    await unserved(redis, "distance")
    await full()
    assert await maintenance.switch({"broker": Wiring([RAW], [], "")}) is None
    assert len(await consumers("broker").take(9)) == 5


async def test_lease_is_taken_renewed_and_released(maintenance: Maintenance, redis: Redis, full: Full) -> None:
    await full()
    assert await maintenance.lease("one", ttl=10, known=None) == "one"
    assert await maintenance.lease("one", ttl=30, known=None) == "one"
    assert await redis.pttl(keys.LEASE) > 20_000
    assert await maintenance.release("one") is True


async def test_lookup_drop_and_forgetting_a_stage_run_through(
    journal: Journal, redis: Redis, distance: Consumer, table: Table, entries: list[Entry], full: Full
) -> None:
    await table(distance=(RAW, CALCULATED))
    await unserved(redis, "distance")
    await distance.settle([Bury(entry, event.id, failure()) for entry, event in zip(entries[:2], EVENTS, strict=False)])
    await full()
    assert list(await journal.status(EVENTS[0].id)) == [RAW, "dead:distance"]
    assert await journal.backlog() == 5
    dead = await journal.admin.dead_letters("distance")
    assert await journal.admin.drop("distance", [dead[0].entry]) == 1
    assert (await journal.admin.forget("distance")).dead == 1


async def test_status_of_a_waiting_event_is_kept(
    maintenance: Maintenance, redis: Redis, entries: list[Entry], full: Full
) -> None:
    await redis.pexpire(keys.status(EVENTS[0].id), 60_000)
    await full()
    await maintenance.keep_statuses(RAW)
    assert await redis.pttl(keys.status(EVENTS[0].id)) <= 60_000, "it is younger than half an hour"


async def test_acts_that_a_full_redis_takes_are_confirmed_by_its_replica(tmp_path: Path) -> None:
    """They took effect, so they must not report that Redis is full: a Broker would send its dead letter again."""
    with Valkey(tmp_path, options=QUICK) as primary, Valkey(tmp_path, options=QUICK) as replica:
        tell(replica, "REPLICAOF", HOST, primary.port)
        settings = JournalSettings.read(redis_url=primary.url, replicas=1)
        journal = Journal(connect(settings), settings)
        doors = Maintenance(journal.doors, dedup=settings.dedup, limit=settings.backlog_limit)

        async def confirm(act: Callable[[], Awaitable[object]]) -> None:
            async def confirmed() -> bool:
                try:
                    await act()
                except JournalUnavailable as fault:  # a replica on a busy machine may take longer than the act waits
                    if "full" in str(fault):
                        raise
                    return False
                return True

            await eventually(confirmed)

        try:
            await maintenance_of(journal, settings).beat({"distance": Wiring([RAW], [], "")})
            await confirm(lambda: journal.admin.pause("distance"))
            tell(primary, "CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(JournalUnavailable, match="full"):
                await journal.publish(submission())
            await confirm(lambda: journal.admin.pause("distance"))
            await confirm(lambda: doors.bury_given_up("distance", submission("given-up"), failure()))
            assert len(await journal.admin.dead_letters("distance")) == 1
        finally:
            await journal.close()


async def test_refused_event_is_taken_once_there_is_room(
    journal: Journal, redis: Redis, distance: Consumer, full: Full
) -> None:
    event = submission()
    await full()
    with pytest.raises(JournalUnavailable):
        await journal.publish(event)
    await redis.config_set("maxmemory", 0)
    assert await journal.publish(event) is True
    assert await pending(redis, distance) == 0
    assert len(await distance.take(9)) == 1


async def test_abandoned_entries_are_taken_over(
    distance: Consumer, consumers: Consumers, redis: Redis, entries: list[Entry], full: Full
) -> None:
    await abandoned(redis, distance, *entries)
    await full()
    assert len((await consumers("distance", "other").take_over(9, claim=CLAIM)).entries) == 4
