"""The life of an event on a Redis Cluster of one shard, and under a user who may touch only Milepost's keys."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from redis.asyncio import Redis, from_url

from milepost.events.batch import part_id
from milepost.journal import (
    Adoption,
    Bury,
    Complete,
    Consumer,
    Delay,
    Forgotten,
    Journal,
    Maintenance,
    Park,
    Split,
    Unreadable,
    Wiring,
    keys,
)
from milepost.journal.connection import connect
from milepost.journal.scripts import SCRIPTS
from milepost.journal.stats import Counts, Slot, read, write
from milepost.settings import JournalSettings
from tests.journal.events import (
    CALCULATED,
    CLAIM,
    RAW,
    failure,
    maintenance_of,
    reply_to,
    settled,
    submission,
    unserved,
)
from tests.servers import Valkey, eventually, free_port

ROUTES = {"distance": Wiring([RAW], [CALCULATED], ""), "store": Wiring([CALCULATED], [], "")}


async def live(url: str, redis: Redis) -> None:
    """Run every script at least once."""
    given = JournalSettings.read(redis_url=url)
    journal = Journal(connect(given), given)
    maintenance = maintenance_of(journal, given)
    distance = Consumer(
        "distance",
        RAW,
        "one",
        reader=journal.scripts.connection,
        scripts=journal.scripts,
        deadline=given.deadline,
    )
    event = submission()
    assert await maintenance.switch(ROUTES) is None
    await maintenance.beat(ROUTES)
    assert await distance.ensure()
    assert await journal.publish(event)
    (entry,) = await distance.take(1)
    assert await distance.renew([entry]) == []
    assert await settled(distance, Delay(entry, event.id, 0)) == "done"
    (entry,) = await distance.take(1)
    assert await settled(distance, Park(entry, event.id, failure(), 0)) == "done"
    assert await maintenance.retry_due(["distance"], most=1) == (1, None, {})
    (entry,) = await distance.take(1)
    assert await settled(distance, Bury(entry, event.id, failure())) == "buried"
    (dead,) = await journal.admin.dead_letters("distance")
    assert await journal.admin.replay("distance", [dead.entry]) == 1
    await distance.take(1)
    assert await distance.hand_back(claim=CLAIM) == 1
    (entry,) = (await distance.take_over(1, claim=CLAIM)).entries
    assert await settled(distance, Complete(entry, event.id, reply_to(event))) == "done"
    split = submission()
    assert await journal.publish(split)
    (entry,) = await distance.take(1)
    assert (
        await settled(distance, Split(entry, split.id, [replace(reply_to(split), id=part_id(split.id, 0))])) == "done"
    )
    assert await distance.reap(idle=0) == 0
    assert await maintenance.trim(RAW) == ("trimmed", 2, 0)
    await maintenance.keep_statuses(RAW)
    assert await maintenance.lease("token", ttl=10, known=None) == "token"
    assert await maintenance.adopt([Adoption(submission(), "token"), Adoption(submission(), None)]) == ["done", "done"]
    assert await maintenance.announce(submission(channel=CALCULATED))
    assert await maintenance.release("token")
    await maintenance.bury_given_up("store", submission(), failure())
    await maintenance.unreadable([Unreadable(RAW, b"\xff", "not UTF-8")])
    await write(journal.scripts, "one", {"distance": [Slot(0, Counts(1))]})
    assert await read(journal.scripts)
    assert list(await journal.status(event.id)) == [RAW, CALCULATED]
    assert await journal.backlog() == 6
    assert [stage.name for stage in await journal.admin.stages()] == ["distance", "store"]
    await unserved(redis, "distance")
    assert await journal.admin.forget("distance") == Forgotten(0, 0)
    assert await journal.admin.forget_journal(RAW) == 2
    await live_in_order(journal, maintenance, given)
    await journal.close()


async def live_in_order(journal: Journal, maintenance: Maintenance, given: JournalSettings) -> None:
    """Let a stage that is ordered by key read, hold and release events."""
    routes = {"ordered": Wiring([RAW], [], "", order=True)}
    ordered = Consumer(
        "ordered",
        RAW,
        "one",
        reader=journal.scripts.connection,
        scripts=journal.scripts,
        deadline=given.deadline,
        order=True,
    )
    await maintenance.beat(routes)
    await ordered.ensure()
    await journal.admin.pause("ordered")
    await journal.admin.resume("ordered")
    for _ in range(2):
        await journal.publish(replace(submission(), extensions={"partitionkey": "one"}))
    (entry,) = await ordered.take(2)
    assert [depth.held for depth in await journal.admin.depths({"ordered": [RAW]})] == [1]
    await maintenance.keep_statuses(RAW)
    await journal.scripts.call("XACK", entry.stream, "ordered", entry.id)
    assert await maintenance.unblock_lost(routes) == 1
    (entry,) = await ordered.wait(2, block=10)
    assert await settled(ordered, Complete(entry, "", None)) == "done"


async def test_life_of_an_event_runs_every_script(redis: Redis, redis_url: str) -> None:
    """So that the tests below say something of each of them."""
    await redis.script_flush()
    async with redis.monitor() as monitor:
        await live(redis_url, redis)
        end = uuid4().hex
        await redis.echo(end)
        sent: set[str] = set()
        async for seen in monitor.listen():
            if seen["command"] == f"ECHO {end}":
                break
            sent |= {name for name, text in SCRIPTS.items() if f"-- {name}(" in seen["command"]}
    assert sent == set(SCRIPTS)


async def test_all_keys_are_on_one_shard_of_a_cluster(tmp_path: Path) -> None:
    with Valkey(tmp_path, options={"cluster-enabled": "yes", "cluster-port": str(free_port())}) as shard:
        redis = from_url(shard.url)
        await redis.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

        async def up() -> bool:
            return b"cluster_state:ok" in await redis.execute_command("CLUSTER", "INFO")

        await eventually(up)
        await live(shard.url, redis)
        await redis.aclose()


async def test_user_needs_no_keys_but_those_of_milepost_and_no_administration(redis: Redis, redis_url: str) -> None:
    await redis.execute_command(
        *["ACL", "SETUSER", "narrow", "on", ">pw", "~{milepost}:*", "resetchannels"],
        *(f"&{channel}" for channel in (RAW, CALCULATED, keys.LEASE, keys.STAGES)),
        *["+@all", "-@admin", "-@dangerous"],
    )
    await live(redis_url.replace("//", "//narrow:pw@"), redis)
    await redis.acl_deluser("narrow")
