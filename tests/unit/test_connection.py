"""Connections to Redis: which commands are tried again, and which are not."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import hiredis
import pytest
import redis.asyncio as redis_asyncio
from redis import utils as redis_utils
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as NoAnswer

from milepost.journal import failover
from milepost.journal.connection import connect, pool_of
from milepost.journal.failover import FailoverWatch
from milepost.journal.refusals import WrongServer
from milepost.journal.shared_connection import SharedConnection
from milepost.settings import JournalSettings
from tests.proxy import Proxy
from tests.servers import HOST, WITHIN, Valkey, eventually


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server:
        yield server


async def connections(valkey: Valkey) -> int:
    """How many it has taken, this one included."""
    async with redis_asyncio.from_url(valkey.url) as client:
        return int((await client.info("stats"))["total_connections_received"])


async def answers(client: redis_asyncio.Redis) -> bool:
    try:
        return bool(await client.ping())
    except NoAnswer:
        return False


@pytest.mark.parametrize("form", ["redis+sentinel://{}:{}/mymaster", "redis+cluster://{}:{}"])
async def test_server_whose_answer_has_another_form_is_named_as_one_that_does_not_answer(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milepost.journal.servers.ASK_WITHIN", WITHIN)  # on a busy machine, too

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while commands := await reader.read(65536):
            writer.write(b"+OK\r\n" * commands.count(b"*"))
        writer.close()

    async with await asyncio.start_server(answer, HOST, 0) as server:
        url = form.format(*server.sockets[0].getsockname())
        async with connect(JournalSettings.read(redis_url=url), answer_within=WITHIN, retries=0) as client:
            with pytest.raises(ConnectionLost, match=r"answers: \w+ at its answer"):
                await client.ping()


@pytest.mark.parametrize("opened", [True, False], ids=["a command", "a connection"])
async def test_command_to_a_hung_redis_is_not_tried_again(tmp_path: Path, *, opened: bool) -> None:
    with Valkey(tmp_path) as valkey:
        async with connect(JournalSettings.read(redis_url=valkey.url), answer_within=0.1) as client:
            if opened:
                await eventually(lambda: answers(client))
            before = await connections(valkey)
            valkey.freeze()
            with pytest.raises(NoAnswer):
                await client.ping()
            valkey.thaw()
            looked = 1 if opened else 2  # this look, and perhaps one of the ping
            assert await connections(valkey) == before + looked


async def test_connections_read_the_metadata_of_redis_py_once(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(redis_utils, "get_lib_version", lambda: read.append("8") or read[-1])
    for _ in range(3):
        async with connect(JournalSettings.read(redis_url=redis_url)) as client:
            await client.ping()
    assert len(read) <= 1


async def test_a_connection_that_died_unnoticed_is_made_anew(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey:
        async with connect(JournalSettings.read(redis_url=valkey.url)) as client:
            await client.ping()
            valkey.kill()
            valkey.start()
            assert await client.ping()


class Sentinel:
    """A Sentinel of one service. It names the primary `at`, of the failover `epoch`, once `answering` is set."""

    def __init__(self, at: Valkey, epoch: int = 0) -> None:
        self.at, self.epoch = at, epoch
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self._connections: set[asyncio.Task[None] | None] = set()

    async def ended(self) -> None:
        self.answering.set()
        await eventually(lambda: not self._connections, what="the clients close their connections")

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.current_task())
        parser = hiredis.Reader()
        while chunk := await reader.read(65536):
            parser.feed(chunk)
            while (command := parser.gets()) is not False:
                if command[0] == b"SENTINEL":
                    self.asked += 1
                    state = {"name": "s", "ip": HOST, "port": self.at.port, "flags": "master"}
                    state |= {"num-other-sentinels": 2, "config-epoch": self.epoch}
                    items = "".join(f"+{name}\r\n+{value}\r\n" for name, value in state.items())
                    await self.answering.wait()
                    writer.write(f"*1\r\n%{len(state)}\r\n{items}".encode())
                else:
                    writer.write(b"+OK\r\n")
        writer.close()
        await writer.wait_closed()
        self._connections.discard(asyncio.current_task())


@asynccontextmanager
async def following(*sentinels: Sentinel) -> AsyncIterator[redis_asyncio.Redis]:
    """A client that asks these."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(await asyncio.start_server(one, HOST, 0)) for one in sentinels]
        at = ",".join("{}:{}".format(*server.sockets[0].getsockname()) for server in servers)
        client = connect(JournalSettings.read(redis_url=f"redis+sentinel://{at}/s"))
        yield await stack.enter_async_context(client)
        for sentinel in sentinels:
            await sentinel.ended()


async def test_command_that_an_old_primary_refuses_is_tried_again_at_the_new_one(tmp_path: Path) -> None:
    with Valkey(tmp_path) as old, Valkey(tmp_path) as new:
        sentinel = Sentinel(old)
        async with following(sentinel) as client:
            await client.set("key", "old")
            sentinel.at = new
            async with redis_asyncio.from_url(old.url) as admin:
                await admin.replicaof(HOST, new.port)
            assert await client.set("key", "new")
        async with redis_asyncio.from_url(new.url) as admin:
            assert await admin.get("key") == b"new"


async def test_connection_that_was_being_made_at_a_failover_leads_to_the_new_primary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milepost.journal.servers.ASK_WITHIN", WITHIN)
    with Valkey(tmp_path) as old, Valkey(tmp_path) as new:
        sentinel = Sentinel(old)
        async with following(sentinel) as client:
            sentinel.answering.clear()
            connection = pool_of(client).make_connection()
            connecting = asyncio.create_task(connection.connect())
            await eventually(lambda: sentinel.asked)
            sentinel.at = new
            connection.leave()  # the watch has seen the new primary; this answer is late
            sentinel.answering.set()
            await connecting
            assert (sentinel.asked, connection.port) == (2, new.port)
            await connection.disconnect()


async def test_sentinel_that_has_missed_the_last_failover_is_not_followed(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milepost.journal.servers.ASK_WITHIN", WITHIN)
    with Valkey(tmp_path) as old:
        ahead, behind = Sentinel(valkey, epoch=2), Sentinel(old, epoch=1)
        async with following(ahead, behind, Sentinel(old, epoch=1)) as client:
            behind.answering.clear()
            assert await client.ping()  # two of three answered
            behind.answering.set()
            ahead.answering.clear()
            connection = pool_of(client).make_connection()
            await connection.connect()
            assert connection.port == valkey.port
            await connection.disconnect()
            monkeypatch.setattr("milepost.journal.servers.OLDER_WITHIN", 0)  # they were set up anew
            await connection.connect()
            assert connection.port == old.port
            await connection.disconnect()


@pytest.fixture
async def refused(valkey: Valkey) -> AsyncIterator[redis_asyncio.Redis]:
    """A client with one pooled connection, to a server that has become a replica since."""
    async with connect(JournalSettings.read(redis_url=valkey.url)) as client:
        await client.set("key", "value")
        async with redis_asyncio.from_url(valkey.url) as admin:
            await admin.replicaof(HOST, "1")
            yield client


async def test_plain_command_that_a_replica_refuses_is_followed_by_a_new_connection(
    refused: redis_asyncio.Redis, valkey: Valkey
) -> None:
    before = await connections(valkey)
    with pytest.raises(WrongServer, match="a read-only replica"):
        await refused.set("key", "other")
    assert await connections(valkey) == before + 2  # it was tried on a new connection too; and this look
    async with redis_asyncio.from_url(valkey.url) as admin:
        await admin.replicaof("NO", "ONE")
    assert await refused.set("key", "other")


async def test_look_refuses_a_replica_until_it_is_promoted(refused: redis_asyncio.Redis, valkey: Valkey) -> None:
    watch = FailoverWatch(refused)

    async def sound() -> bool:
        try:
            await watch.look()
        except WrongServer:
            return False
        return True

    assert not await sound()
    async with redis_asyncio.from_url(valkey.url) as admin:
        await admin.replicaof("NO", "ONE")
    await eventually(sound)


async def test_watch_closes_old_connections_when_new_ones_lead_to_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(failover, "LOOK_EVERY", 0.02)
    with Valkey(tmp_path) as one, Valkey(tmp_path) as other:
        async with Proxy(one.url) as proxy:
            settings = JournalSettings.read(redis_url=proxy.url)
            async with connect(settings) as client, connect(settings) as second:
                line = SharedConnection(second)
                watch = FailoverWatch(client)
                watch.add(second)
                await watch.look()
                await client.set("server", "one")
                assert await line.call("GET", "server") == b"one"
                proxy.target = other.port
                assert await line.call("GET", "server") == b"one"

                async def moved() -> bool:
                    return await line.call("GET", "server") is None and await client.get("server") is None

                async with watch.running():
                    await eventually(moved)
                await line.close()
    assert any("outcome=redis-moved" in message for message in caplog.messages)


async def test_look_that_a_user_may_not_have_is_taken_for_granted(valkey: Valkey) -> None:
    async with redis_asyncio.from_url(valkey.url) as admin:
        await admin.execute_command("ACL", "SETUSER", "narrow", "on", ">pw", "-@all", "+ping")
    url = valkey.url.replace("redis://", "redis://narrow:pw@")
    async with connect(JournalSettings.read(redis_url=url)) as client:
        await FailoverWatch(client).look()
