"""Redis behind Sentinels: everything follows the primary that they name, and doors wait for replicas if told to."""

import asyncio
import itertools
from pathlib import Path

import httpx
import pytest
from redis.exceptions import ResponseError

from milepost.errors import JournalUnavailable
from milepost.events.event import Event
from milepost.journal import keys
from milepost.journal.connection import connect
from milepost.journal.shared_connection import NotReplicated
from milepost.settings import JournalSettings
from tests.bridge.rig import Rig, value
from tests.cli.running import MILEPOST, environment
from tests.failover.following import following, publishing
from tests.gateway.samples import LONDON
from tests.replicated import SERVICE, Watched, ask, is_primary, sentinel, tell
from tests.servers import ANSWER_WITHIN, HOST, ROOT, Module, Valkey, eventually

FEW = 30
"""Calls, one each 10 ms or slower, that may fail after most Sentinels, or all nodes of a Cluster, name the new server.
A connection that stays at the old one fails for two seconds, until the watch looks.
"""


async def test_service_that_no_sentinel_knows_is_named(watched: Watched) -> None:
    async with following(watched.url.replace(f"/{SERVICE}", "/other")) as journal:
        with pytest.raises(JournalUnavailable, match="the Sentinels know no service 'other'"):
            await journal.ping()


async def test_sentinels_that_are_away_are_named(watched: Watched) -> None:
    async with following(f"redis+sentinel://{HOST}:1/{SERVICE}") as journal:
        with pytest.raises(JournalUnavailable, match=r"no Sentinel answers: .*:1"):
            await journal.ping()


async def test_sentinel_with_a_password_gets_its_own_or_that_of_redis(tmp_path: Path) -> None:
    with Valkey(tmp_path) as primary, sentinel(Valkey, tmp_path, primary, "requirepass hush") as one:
        at = f"{HOST}:{one.port}/{SERVICE}"
        for url in (f"redis+sentinel://{at}?sentinel_password=hush", f"redis+sentinel://default:hush@{at}"):
            async with following(url) as journal:
                await journal.ping()
        for url in (f"redis+sentinel://{at}", f"redis+sentinel://default:hush@{at}?sentinel_password=wrong"):
            async with following(url) as journal:
                with pytest.raises(JournalUnavailable, match=r"no Sentinel answers: .*([Aa]uth|invalid)"):
                    await journal.ping()


async def test_all_components_follow_a_planned_failover(watched: Watched, tmp_path: Path) -> None:
    env = {"REDIS_URL": watched.url, "RATE_LIMIT": "100000/minute"}
    gateway = Module(tmp_path, "gateway", env=env)
    client = connect(JournalSettings.read(redis_url=watched.url))
    rig = Rig(watched.url, client, tmp_path)
    last = await rig.stage("last", "in")
    bridge = await rig.bridge()
    old = watched.primary
    await asyncio.to_thread(gateway.start)

    async def submitted() -> bool:
        async with httpx.AsyncClient(timeout=ANSWER_WITHIN) as http:
            answer = await http.post(f"{gateway.url}/distance", json=LONDON)
        assert answer.status_code in {202, 503}
        return answer.status_code == 202

    async def adopted() -> bool:
        ask(watched.primary, "PUBLISH", "in", '"plain"')
        await asyncio.sleep(0.1)
        return any(event.data == "plain" for event in last.received)

    def begun() -> bool:
        try:
            return bool(ask(watched.sentinels[0], "SENTINEL", "FAILOVER", SERVICE))
        except ResponseError:  # the last one has only just ended, or the Sentinel has not heard of the replicas yet
            return False

    try:
        await eventually(submitted)
        await eventually(adopted)
        last.received.clear()
        await eventually(lambda: watched.primary is not old or begun(), what="a failover")
        await eventually(lambda: watched.primary is not old, what="another primary")
        await eventually(submitted, what="a submission accepted by the new primary")
        await eventually(adopted, what="a plain message adopted by way of the new primary")
        assert bridge.ready
        assert value(bridge, "leaderless_seconds_total") > 0
        # Until then a command that no Sentinel tells of the failover in time is accepted by the old one, and lost.
        await eventually(lambda: watched.is_decided() and not is_primary(old), what="the old primary is a replica")
        published = await asyncio.create_subprocess_exec(
            *[*MILEPOST, "publish", "in", "hello"], cwd=ROOT, env=environment(REDIS_URL=watched.url)
        )
        assert await published.wait() == 0
        await eventually(lambda: any(event.data == "hello" for event in last.received), what="its event is delivered")
    finally:
        gateway.close()
        await rig.close()
        await client.aclose()


async def test_door_refuses_until_replicas_have_the_event_and_recognises_the_retry(watched: Watched) -> None:
    """A connection that has written nothing itself waits too: WAIT alone would count its own writes."""
    event = Event(id="replicated", source="/test", type="replicated", data=1)
    async with (
        following(watched.url, replicas=1) as journal,
        following(watched.url, replicas=1) as second,
        following(watched.url) as other,
    ):
        await eventually(lambda: watched.in_step(1), what="a replica")
        primary = watched.primary

        async def accepted(of: Event) -> bool:
            try:
                await journal.publish(of)
            except JournalUnavailable:  # the replicas of a busy machine may take longer than the door waits
                return False
            return True

        before = Event(id="before", source="/test", type="replicated", data=1)
        await eventually(lambda: accepted(before), what="accepted by a door that waits for replicas")
        replicas = watched.replicas
        for replica in replicas:
            replica.freeze()
        try:
            for _ in range(2):
                with pytest.raises(JournalUnavailable, match=r"0 of 1 replicas confirmed it within 0\.5 s"):
                    await journal.publish(event)
            with pytest.raises(NotReplicated):
                await second.doors.connection.call_replicated(1, "EXISTS", keys.seen("/test", event.id))
            assert not await other.publish(event)  # it is journaled, and this door does not wait
            await journal.scripts.call("PING")
        finally:
            for replica in replicas:
                replica.thaw()

        async def recognised() -> bool:
            try:
                return not await journal.publish(event)
            except JournalUnavailable:
                return False

        await eventually(recognised, what="accepted, and recognised")
        assert tell(primary, "XLEN", keys.journal("replicated")) == 2


async def test_door_refuses_while_a_replica_may_have_been_promoted(watched: Watched) -> None:
    """Until the old primary is told, it takes writes, and its other replica confirms them."""
    await eventually(lambda: watched.in_step(2), what="both replicas")
    primary, promoted = watched.primary, watched.replicas[0]
    async with following(watched.url, replicas=1) as journal:
        numbers = itertools.count()

        async def accepted() -> bool:
            try:
                return await journal.publish(Event(id=f"left-{next(numbers)}", source="/test", type="left", data=1))
            except JournalUnavailable:  # the replicas of a busy machine may take longer than the door waits
                return False

        await eventually(accepted, what="accepted")
        tell(promoted, "REPLICAOF", "NO", "ONE")
        try:
            with pytest.raises(JournalUnavailable, match="may have been promoted"):
                await journal.publish(Event(id="after", source="/test", type="left", data=1))
        finally:
            tell(promoted, "REPLICAOF", HOST, primary.port)
        await eventually(lambda: watched.in_step(2), what="both replicas again")
        await eventually(accepted, what="accepted again")


async def test_primary_that_froze_and_comes_back_is_left_for_the_new_one(watched: Watched) -> None:
    await eventually(watched.complete, what="the Sentinels could begin a failover")
    old = watched.primary
    async with following(watched.url) as journal, publishing(journal, "frozen") as load:
        await eventually(lambda: load.accepted)
        old.freeze()
        try:
            await eventually(lambda: watched.primary is not old and watched.is_decided(), what="another primary")
            load.decided = True
            before = len(load.accepted)
            await eventually(lambda: len(load.accepted) > before, what="an event accepted by the new primary")
            assert len(load.refused) <= FEW
        finally:
            old.thaw()
        await eventually(lambda: is_primary(old), what="two primaries")
        await eventually(lambda: len(load.accepted) > before + 10, what="events accepted meanwhile")
        new = watched.primary
        since = [keys.seen("/load", event_id) for event_id in load.accepted[before:]]
        assert tell(new, "EXISTS", *since) == len(since)


async def test_nothing_changes_while_the_sentinels_are_gone(watched: Watched) -> None:
    await eventually(watched.complete, what="the failover of another test is over")
    async with following(watched.url) as journal, publishing(journal, "gone") as load:
        await eventually(lambda: load.accepted)
        for sentinel in watched.sentinels:
            sentinel.kill()
        try:
            await journal.ping()
            tell(watched.primary, "CLIENT", "KILL", "TYPE", "normal")
            load.decided, before = True, len(load.accepted)
            await eventually(lambda: len(load.accepted) > before + 5, what="events accepted over a new connection")
            await journal.ping()
            assert len(load.refused) <= FEW
        finally:
            for sentinel in watched.sentinels:
                sentinel.launch()
    await eventually(watched.complete, what="the Sentinels know each other again")
