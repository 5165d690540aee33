"""The life of an event on a Redis Cluster of one shard, and for a user who may touch nothing but Milepost's keys."""

from pathlib import Path

from redis.asyncio import Redis, from_url

from milepost import keys
from milepost.connection import connect
from milepost.journal import Bury, Complete, Foreign, Forgotten, Group, Journal, Park, Upkeep, Wiring
from milepost.settings import JournalSettings
from tests.journal.events import CALCULATED, RAW, READY, letter, reply_to, submission, unserved
from tests.servers import Valkey, eventually, free_port


async def live(url: str, redis: Redis) -> None:
    """Use every script once."""
    given = JournalSettings.read(redis_url=url)
    journal = Journal(connect(given), given)
    upkeep = Upkeep(journal.scripts, journal.keeping)
    distance = Group(
        RAW,
        "distance",
        "one",
        reader=journal.scripts.line,
        scripts=journal.scripts,
        keeping=journal.keeping,
        deadline=given.deadline,
    )
    event = submission()
    await upkeep.beat({"distance": Wiring([RAW], [CALCULATED], ""), "store": Wiring([CALCULATED], [], "")})
    assert await distance.ensure()
    assert await journal.publish(event)
    (entry,) = await distance.read(1, block=READY) or []
    assert await distance.renew([entry.id]) == []
    assert await distance.settle(Park(entry, letter(event), 0)) == "done"
    assert (await upkeep.wake(["distance"], most=1))[0] == 1
    (entry,) = await distance.read(1, block=READY) or []
    assert await distance.settle(Bury(entry, letter(event))) == "buried"
    (dead,) = await journal.dead_letters("distance")
    assert await journal.replay("distance", [dead.entry]) == 1
    await distance.read(1, block=READY)
    assert await distance.hand_back(claim=1) == 1
    _, (entry,), _ = await distance.takeover(1, claim=1, held=[], cursor="0-0")
    assert await distance.settle(Complete(entry, reply_to(event))) == "done"
    assert await distance.reap(idle=0) == 0
    assert await upkeep.trim(RAW) == ("trimmed", 3)
    assert await upkeep.lease("token", ttl=10, tell=True) == "token"
    assert await upkeep.adopt([Foreign(submission(), "token"), Foreign(submission(), None)]) == ["done", "done"]
    assert await upkeep.announce(submission(channel=CALCULATED))
    assert await upkeep.release("token")
    await upkeep.bury("store", submission(), letter(event), only="broker")
    assert list(await journal.progress(event.id)) == [RAW, CALCULATED]
    assert await journal.backlog() == 4
    await unserved(redis, "distance")
    assert await journal.forget("distance") == Forgotten(0, 0)
    await journal.close()


async def test_all_keys_are_on_one_shard_of_a_cluster(tmp_path: Path) -> None:
    with Valkey(tmp_path, options={"cluster-enabled": "yes", "cluster-port": str(free_port())}) as shard:
        redis = from_url(shard.url)
        await redis.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

        async def up() -> bool:
            return b"cluster_state:ok" in await redis.execute_command("CLUSTER", "INFO")

        await eventually(up)
        await live(shard.url, redis)
        await redis.aclose()


async def test_a_user_needs_no_keys_but_ours_and_no_administration(redis: Redis, redis_url: str) -> None:
    await redis.execute_command(
        *["ACL", "SETUSER", "narrow", "on", ">pw", "~{milepost}:*", "resetchannels"],
        *(f"&{channel}" for channel in (RAW, CALCULATED, keys.LEASE, keys.STAGES)),
        *["+@all", "-@admin", "-@dangerous"],
    )
    await live(redis_url.replace("//", "//narrow:pw@"), redis)
    await redis.acl_deluser("narrow")
