"""A failover of a replicated Redis behind a forwarder that keeps open connections, as a Service or a DNS name does.

Every component must work again with the new primary by itself. Until it does, it is not ready.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import redis.asyncio as redis_asyncio

from gateway.submissions import SOURCE
from milepost.errors import JournalUnavailable
from milepost.events.event import Event
from milepost.journal import keys
from tests.bridge.rig import Rig, ready
from tests.cli.running import MILEPOST, Milepost, environment
from tests.gateway.samples import LONDON
from tests.proxy import Proxy
from tests.servers import ANSWER_WITHIN, HOST, ROOT, WITHIN, Module, Valkey, eventually


@dataclass
class Pair:
    """Two servers, and the forwarder through which all of Milepost reaches the one that is the primary."""

    old: Valkey
    new: Valkey
    to_old: redis_asyncio.Redis
    to_new: redis_asyncio.Redis
    proxy: Proxy

    @property
    def url(self) -> str:
        return self.proxy.url

    async def replicate(self) -> None:
        """Make the new server a replica of the old one, with all that this has."""
        await self.to_new.replicaof(HOST, str(self.old.port))
        await self.caught_up()

    async def caught_up(self) -> None:
        async def linked() -> bool:
            told = await self.to_new.info("replication")
            return bool(told["master_link_status"] == "up")

        await eventually(linked, what="the replica is linked")
        await self.to_old.execute_command("WAIT", 1, 10_000)

    async def promote(self) -> None:
        """The replica becomes a primary, and new connections lead to it."""
        await self.to_new.replicaof("NO", "ONE")
        await self.to_new.config_resetstat()
        self.proxy.target = self.new.port

    async def looks(self) -> int:
        """How often someone has asked the new primary who it is, since it was promoted."""
        return int((await self.to_new.info("commandstats")).get("cmdstat_info", {"calls": 0})["calls"])


async def demoted(pair: Pair) -> None:
    """The old primary becomes a replica of the new one and keeps its connections."""
    await pair.promote()
    await pair.to_old.replicaof(HOST, str(pair.new.port))


async def demoted_first(pair: Pair) -> None:
    """For a moment there is no primary."""
    await pair.to_old.replicaof(HOST, str(pair.new.port))
    await pair.promote()


async def frozen(pair: Pair) -> None:
    """The old primary answers nothing and keeps its connections."""
    pair.old.freeze()
    await pair.promote()


async def cut_off(pair: Pair) -> None:
    """The old primary does not know that it is none any more, and still takes writes."""
    await pair.promote()


async def without_replicas(pair: Pair) -> None:
    """The old primary refuses writes, because its replica is gone."""
    await pair.to_old.config_set("min-replicas-to-write", 1)
    await pair.promote()


MOST_LOOKS = 5
"""Looks at the new primary, one every two seconds, that a process may need until it works with it. The first of them
closes the old connections.
"""

every_failover = pytest.mark.parametrize("fail_over", [demoted, demoted_first, frozen, cut_off, without_replicas])
hardest_failovers = pytest.mark.parametrize("fail_over", [frozen, cut_off])
"""Those in which the old primary does not say that it is none. All connections are of one kind, so the bridge alone
meets every failover.
"""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Valkey, Valkey]]:
    quick = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
    with Valkey(tmp_path, options=quick) as old, Valkey(tmp_path, options=quick) as new:
        yield old, new


@pytest.fixture
async def pair(servers: tuple[Valkey, Valkey]) -> AsyncIterator[Pair]:
    old, new = servers
    async with (
        redis_asyncio.from_url(old.url) as to_old,
        redis_asyncio.from_url(new.url) as to_new,
        Proxy(old.url) as proxy,
    ):
        pair = Pair(old, new, to_old, to_new, proxy)
        await pair.replicate()
        yield pair
        old.thaw()


@pytest.fixture
async def rig(pair: Pair, tmp_path: Path) -> AsyncIterator[Rig]:
    """Stages, and a journal that publishes through the forwarder."""
    rig = Rig(pair.url, pair.to_new, tmp_path)
    watching = asyncio.create_task(rig.journal.failover.run())
    yield rig
    watching.cancel()
    await asyncio.wait([watching])
    await rig.close()
    assert not rig.faults


@asynccontextmanager
async def running(process: Module) -> AsyncIterator[httpx.AsyncClient]:
    """Start a process and wait until it is ready; a client of it. The forwarder of this loop serves it meanwhile."""
    process.launch()
    try:
        await ready(process)
        async with httpx.AsyncClient(base_url=process.url, timeout=ANSWER_WITHIN) as client:
            yield client
    finally:
        process.close()
        print(process.log)


async def is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


async def submit(client: httpx.AsyncClient, server: redis_asyncio.Redis) -> bool:
    """Submit to a gateway; whether the event was accepted by this server."""
    answer = await client.post("/distance", json=LONDON)
    assert answer.status_code in {202, 503}
    return answer.status_code == 202 and bool(await server.exists(keys.seen(SOURCE, answer.json()["id"])))


async def post(client: httpx.AsyncClient, server: redis_asyncio.Redis) -> bool:
    """Post an event to a bridge; whether it was accepted by this server."""
    event = Event(id=uuid4().hex, source="/test", type="in", data="posted")
    headers, body = event.to_http()
    answer = await client.post("/", headers=headers, content=body)
    assert answer.status_code in {202, 503}
    return answer.status_code == 202 and bool(await server.exists(keys.seen("/test", event.id)))


@hardest_failovers
async def test_gateway_accepts_submissions_again(
    pair: Pair, tmp_path: Path, fail_over: Callable[[Pair], Awaitable[None]]
) -> None:
    env = {"REDIS_URL": pair.url, "RATE_LIMIT": "100000/minute"}
    async with running(Module(tmp_path, "gateway", env=env)) as client:
        assert await submit(client, pair.to_old)
        await pair.caught_up()
        await fail_over(pair)
        await eventually(lambda: submit(client, pair.to_new), what="a submission accepted by the new primary")
        assert await pair.looks() <= MOST_LOOKS
        await eventually(lambda: is_ready(client), what="ready")


@every_failover
async def test_bridge_accepts_delivers_and_adopts_again(
    pair: Pair, rig: Rig, fail_over: Callable[[Pair], Awaitable[None]]
) -> None:
    await rig.stage("stage", "in", "out")
    last = await rig.stage("last", "out")
    async with running(rig.process()) as client:
        await rig.publish("in", "before")
        await eventually(lambda: last.count["before"])
        await pair.caught_up()
        await fail_over(pair)
        await eventually(lambda: post(client, pair.to_new), what="an event accepted by the new primary")
        assert await pair.looks() <= 2 * MOST_LOOKS  # the journal of this test looks too
        after: list[str] = []

        async def published() -> bool:
            """The journal of this test has followed too: until then a primary that is cut off may take its events."""
            after.append(uuid4().hex)
            with suppress(JournalUnavailable):
                await rig.publish("in", after[-1])
            return bool(await pair.to_new.exists(keys.seen("/test", after[-1])))

        await eventually(published, what="an event published to the new primary")
        await eventually(lambda: last.count[after[-1]], what="delivered by both stages")

        async def adopted() -> bool:
            await pair.to_new.publish("in", '"plain"')
            await asyncio.sleep(0.1)
            return any(event.data == "plain" for event in last.received)

        await eventually(adopted, what="a plain message is adopted")
        await eventually(lambda: is_ready(client), what="ready")


@hardest_failovers
async def test_commands_that_run_go_on(
    pair: Pair, tmp_path: Path, fail_over: Callable[[Pair], Awaitable[None]]
) -> None:
    """`milepost publish CHANNEL -` with a stream that stays open, and `milepost watch`."""
    publishing = await asyncio.create_subprocess_exec(
        *[*MILEPOST, "publish", "raw_input", "-", "--redis-url", pair.url],
        cwd=ROOT,
        env=environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert publishing.stdin
    assert publishing.stdout

    async def published(text: str) -> str:
        publishing.stdin.write(text.encode() + b"\n")
        async with asyncio.timeout(WITHIN):
            return (await publishing.stdout.readline()).decode().strip()

    with Milepost("watch", "raw_input", "--redis-url", pair.url) as watching:
        await eventually(lambda: "watching" in watching.output)
        assert await published("before")
        await eventually(lambda: "before" in watching.output)
        await pair.caught_up()
        await fail_over(pair)

        async def goes_on() -> bool:
            word = uuid4().hex
            event_id = await published(word)
            assert event_id, f"ended with {await publishing.wait()}"
            await asyncio.sleep(0.1)
            return word in watching.output and await pair.to_new.xlen(keys.journal("raw_input")) > 1

        await eventually(goes_on, what="a message that is published and watched")
        assert await pair.looks() <= 3 * MOST_LOOKS  # by publish, and twice by watch
    publishing.stdin.close()
    assert await publishing.wait() == 0


async def test_component_that_reaches_only_a_replica_is_not_ready(pair: Pair, rig: Rig, tmp_path: Path) -> None:
    """Demoted in place, and no new primary can be reached."""
    await rig.stage("stage", "in", "out")
    async with (
        running(Module(tmp_path, "gateway", env={"REDIS_URL": pair.url})) as gateway,
        running(rig.process()) as bridge,
    ):
        await pair.to_new.replicaof("NO", "ONE")
        await pair.to_old.replicaof(HOST, str(pair.new.port))
        for client in (gateway, bridge):
            await eventually(lambda: _answers(client, 503), what="not ready")
        refused = await asyncio.create_subprocess_exec(
            *[*MILEPOST, "publish", "raw_input", "hello", "--redis-url", pair.url],
            cwd=ROOT,
            env=environment(),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await refused.communicate()
        assert refused.returncode == 3
        assert b"a read-only replica" in said
        await pair.to_old.replicaof("NO", "ONE")
        for client in (gateway, bridge):
            await eventually(lambda: is_ready(client), what="ready again")
        assert await submit(gateway, pair.to_old)
        assert await post(bridge, pair.to_old)


async def _answers(client: httpx.AsyncClient, status: int) -> bool:
    return (await client.get("/readyz")).status_code == status
