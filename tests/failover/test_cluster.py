"""A Redis Cluster: everything goes to the node that owns Milepost's slot, and follows the slot."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as ConnectionLost

from milepost.errors import JournalUnavailable
from milepost.journal.connection import connect
from milepost.journal.servers import SLOT, servers_of
from milepost.settings import JournalSettings
from tests.bridge.rig import Rig
from tests.failover.following import Publishing, following, publishing
from tests.failover.test_sentinel import FEW
from tests.replicated import RedisCluster, ask, is_primary, tell
from tests.servers import HOST, WITHIN, Valkey, eventually, free_port


@pytest.fixture
async def rig(cluster: RedisCluster, tmp_path: Path) -> AsyncIterator[Rig]:
    """Two stages behind a bridge, which reach the Cluster by one node that does not own our slot."""
    url = f"redis+cluster://{HOST}:{cluster.third.port}"
    client = connect(JournalSettings.read(redis_url=url))
    rig = Rig(url, client, tmp_path)
    await rig.stage("stage", "in", "out")
    await rig.stage("last", "out")
    await rig.bridge()
    yield rig
    await rig.close()
    await client.aclose()
    assert not rig.faults


async def test_server_that_is_no_cluster_is_named(tmp_path: Path) -> None:
    with Valkey(tmp_path) as alone:
        async with following(f"redis+cluster://{HOST}:{alone.port}") as journal:
            with pytest.raises(JournalUnavailable, match=r"no node of the Cluster answers: .*cluster support disabled"):
                await journal.ping()


async def test_cluster_that_does_not_serve_our_slot_is_named(tmp_path: Path) -> None:
    options = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    with Valkey(tmp_path, options=options) as node:
        _, servers = servers_of(f"redis+cluster://{HOST}:{node.port}")
        assert servers
        for slots in ((0, SLOT - 2), (SLOT + 2, 16_383)):
            with pytest.raises(ConnectionLost, match=f"no node of the Cluster serves slot {SLOT}"):
                await servers.find({})
            tell(node, "CLUSTER", "ADDSLOTSRANGE", *slots)
        with pytest.raises(ConnectionLost, match=f"no node of the Cluster serves slot {SLOT}"):
            await servers.find({})
        tell(node, "CLUSTER", "ADDSLOTS", SLOT)
        assert await servers.find({}) == (HOST, node.port)


async def test_node_of_a_part_that_does_not_serve_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milepost.journal.servers.ASK_WITHIN", WITHIN)
    nodes = [Valkey(tmp_path, options={"cluster-enabled": "yes", "cluster-port": str(free_port())}) for _ in range(2)]
    with nodes[0] as serving, nodes[1] as cut_off:
        tell(serving, "CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        tell(cut_off, "CLUSTER", "SET-CONFIG-EPOCH", 5)
        tell(cut_off, "CLUSTER", "ADDSLOTS", SLOT)
        await eventually(lambda: b"cluster_state:ok" in ask(serving, "CLUSTER", "INFO"))
        _, servers = servers_of(f"redis+cluster://{HOST}:{cut_off.port},{HOST}:{serving.port}")
        assert servers
        assert await servers.find({}) == (HOST, serving.port)


async def test_messages_published_at_any_node_are_adopted_once(cluster: RedisCluster, rig: Rig) -> None:
    """Published again until one of each node has arrived: the bus between the nodes may lose one."""
    _, last = rig.stages
    nodes = [*cluster.nodes[:3], cluster.twin]
    numbers = itertools.count()

    def received() -> list[str]:
        return [str(event.data) for event in last.received]

    def reached() -> bool:
        missing = [node for node in nodes if not any(text.startswith(f"at {node.port},") for text in received())]
        for node in missing:
            ask(node, "PUBLISH", "in", f'"at {node.port}, {next(numbers)}"')
        return not missing

    await eventually(reached, what="a plain message from each node")
    for stage in rig.stages:
        await eventually(lambda stage=stage: rig.settled(stage), what="nothing is left over")
    assert len(received()) == len(set(received()))


async def delivered(rig: Rig, load: Publishing) -> None:
    """Wait until all that was accepted has been through both stages."""
    _, last = rig.stages
    await eventually(lambda: set(load.accepted) <= set(last.count), what="all that was accepted is delivered")
    for stage in rig.stages:
        await eventually(lambda stage=stage: rig.settled(stage), what="nothing is left over")
    assert not await rig.dead("stage")
    assert not await rig.dead("last")


async def test_slot_that_moves_under_load_takes_everything_along(cluster: RedisCluster, rig: Rig) -> None:
    async with publishing(rig.journal, "in") as load:
        await eventually(lambda: len(load.accepted) > 20)
        source = cluster.now_owner
        target = cluster.other_primary(source)
        await asyncio.to_thread(cluster.move, source, target, lambda: time.sleep(0.01), at_once=1)
        await eventually(lambda: cluster.is_known_as_owner(target), what="all nodes name the new owner")
        load.decided, before = True, len(load.accepted)
        await eventually(lambda: len(load.accepted) > before + 20, what="events accepted by the new owner")
    assert len(load.refused) <= FEW
    await delivered(rig, load)


async def test_node_that_an_earlier_answer_named_tells_of_a_move_while_the_node_of_the_url_is_down(
    cluster: RedisCluster,
) -> None:
    await eventually(cluster.complete, what="a change by another test is over")
    source = cluster.now_owner
    assert source
    target = cluster.other_primary(source)
    named = cluster.replica_of(target)
    _, servers = servers_of(f"redis+cluster://{HOST}:{named.port}")
    assert servers
    await eventually(lambda: cluster.is_known_as_owner(source), what="all nodes name the owner")
    assert await servers.find({}) == (HOST, source.port)
    named.kill()
    try:
        await asyncio.to_thread(cluster.move, source, target)

        async def found() -> bool:
            return await servers.find({}) == (HOST, target.port)

        await eventually(found, what="the new owner is found")
    finally:
        named.launch()
    await eventually(cluster.complete, what="the node is back")


async def test_planned_failover_of_the_owner_is_followed(cluster: RedisCluster, rig: Rig) -> None:
    await eventually(cluster.complete, what="what another test has changed is over")
    old = cluster.now_owner
    twin = cluster.replica_of(old)
    async with rig.journal.failover.running(), publishing(rig.journal, "in") as load:
        await eventually(lambda: len(load.accepted) > 20)
        tell(twin, "CLUSTER", "FAILOVER")
        await eventually(lambda: is_primary(twin) and not is_primary(old), what="the roles are exchanged")
        await eventually(lambda: cluster.is_known_as_owner(twin), what="all nodes name the new owner")
        load.decided, before = True, len(load.accepted)
        await eventually(lambda: len(load.accepted) > before + 20, what="events accepted by the new owner")
    assert len(load.refused) <= FEW
    await delivered(rig, load)
