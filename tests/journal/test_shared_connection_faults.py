"""The shared connection where it breaks at the worst moment, on both event loops: a bridge runs on uvloop."""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError

from milepost.journal.connection import connect, pool_of
from milepost.journal.refusals import LOOK_AGAIN, WrongServer
from milepost.journal.shared_connection import SharedConnection
from milepost.settings import JournalSettings
from tests.servers import ANSWER_WITHIN, HOST, eventually

Loop = Callable[[], asyncio.AbstractEventLoop]
Greeted = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LAST_GREETING = b"LIB-VER"
"""In the last command with which redis-py introduces itself."""

STEPS = 40
"""Turns of the event loop in which a connection is made, and some more."""

on_both_loops = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


def run(loop: Loop, test: Awaitable[None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(ANSWER_WITHIN):
            await test

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(within())


class Server:
    """Greets as Redis does, answers the first `greetings` reads of it, and then behaves as told."""

    def __init__(self, greeted: Greeted, *, greetings: int) -> None:
        self.connections = 0
        self.open = 0
        self._greeted = greeted
        self._greetings = greetings
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._accept, HOST, 0)
        try:
            yield f"redis://{HOST}:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())
        self.connections += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        left = self._greetings
        try:
            while data := await reader.read(65536):
                if left:
                    writer.write(b"+OK\r\n" * data.count(b"*"))
                    left -= 1
                if LAST_GREETING in data:
                    await self._greeted(reader, writer)
                    return
        except ConnectionError:
            return
        finally:
            self.open -= 1


@asynccontextmanager
async def lined(
    greeted: Greeted, *, greetings: int = 99, again: bool = True, within: float = 2 * ANSWER_WITHIN
) -> AsyncIterator[tuple[SharedConnection, Server]]:
    """A line to such a server. It waits for replies for longer than a test may take."""
    server = Server(greeted, greetings=greetings)
    async with server.listening() as url:
        line = SharedConnection(connect(JournalSettings.read(redis_url=url), answer_within=within), again=again)
        yield line, server
        await line.close()


async def hung_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def deaf(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ends its side while the other still has much to say."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write_eof()
    await asyncio.Event().wait()


def refusing(reply: bytes) -> Greeted:
    """A server that answers each command so."""

    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(reply)

    return refusing


@on_both_loops
@pytest.mark.parametrize("end", [hung_up, reset])
@pytest.mark.parametrize(("again", "connections"), [(True, 2), (False, 1)])
def test_connection_that_is_lost_right_after_the_greeting_raises(
    loop: Loop, end: Greeted, *, again: bool, connections: int
) -> None:
    async def test() -> None:
        async with lined(end, again=again) as (line, server):
            with pytest.raises(ConnectionLost):
                await line.call("PING")
            assert server.connections == connections

    run(loop, test())


@on_both_loops
@pytest.mark.parametrize("end", [hung_up, reset])
def test_call_that_waits_for_a_reply_ends_with_its_connection(loop: Loop, end: Greeted) -> None:
    async def at_a_command(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        await end(reader, writer)

    async def test() -> None:
        async with lined(at_a_command, again=False) as (line, _):
            with pytest.raises(ConnectionLost, match="Redis closed the connection"):
                await line.call("PING")

    run(loop, test())


@on_both_loops
def test_connection_that_the_server_has_half_closed_is_not_used(loop: Loop) -> None:
    async def test() -> None:
        async with lined(deaf, again=False) as (line, server):
            with pytest.raises(ConnectionLost):
                await line.call("SET", "key", b"x" * 30_000_000)
            with pytest.raises(ConnectionLost):
                await line.call("PING")
            assert server.connections == 2

    run(loop, test())


@on_both_loops
@pytest.mark.parametrize("code", LOOK_AGAIN)
@pytest.mark.parametrize(
    "reply",
    [
        "-{} so it is\r\n",
        "-ERR {} so it is\r\n",
        "*2\r\n+done\r\n-{} so it is\r\n",
        "*2\r\n$4\r\ndone\r\n${length}\r\nerror {} so it is\r\n",
    ],
    ids=["an error", "an error that a script raised anew", "an error in an array", "text in a script's answer"],
)
@pytest.mark.parametrize(("again", "connections"), [(True, 2), (False, 1)])
def test_refusal_for_another_server_is_followed_by_a_new_connection(
    loop: Loop, code: str, reply: str, *, again: bool, connections: int
) -> None:
    refused = reply.replace("{length}", str(len(f"error {code} so it is"))).replace("{}", code)

    async def test() -> None:
        async with lined(refusing(refused.encode()), again=again) as (line, server):
            for calls in (1, 2):
                with pytest.raises(WrongServer, match=re.escape(LOOK_AGAIN[code])):
                    await line.call("SET", "key", "value")
                assert server.connections == calls * connections

    run(loop, test())


@on_both_loops
@pytest.mark.parametrize("begin", ["-ERR ", "*1\r\n${length}\r\nerror ERR "], ids=["an error", "text in a result"])
@pytest.mark.parametrize(
    "told",
    [
        "Script attempted to access a non local key in a cluster node script: on @user_script:1.",
        "Attempted to access a non local key in a cluster node script: on @user_script:1.",
        "Script attempted to execute a write command while the cluster is down and readonly",
    ],
)
def test_error_of_a_node_without_our_keys_is_followed_by_a_new_connection(loop: Loop, told: str, begin: str) -> None:
    """Redis gives it no code, and Valkey words it differently."""
    reply = begin.replace("{length}", str(len(f"error ERR {told}"))) + told + "\r\n"

    async def test() -> None:
        async with lined(refusing(reply.encode())) as (line, server):
            with pytest.raises(WrongServer, match="a node of a Redis Cluster"):
                await line.call("SET", "key", "value")
            assert server.connections == 2

    run(loop, test())


@on_both_loops
@pytest.mark.parametrize("code", ["ERR", "NOPERM", "OOM", "WRONGTYPE"])
def test_other_refusals_leave_the_connection(loop: Loop, code: str) -> None:
    async def test() -> None:
        async with lined(refusing(f"-{code} so it is\r\n".encode())) as (line, server):
            for _ in range(2):
                with pytest.raises(ResponseError, match=code):
                    await line.call("SET", "key", "value")
            assert server.connections == 1

    run(loop, test())


@on_both_loops
@pytest.mark.parametrize("greetings", [0, 1, 99])
def test_close_at_any_moment_of_connecting_leaves_nothing_open(loop: Loop, greetings: int) -> None:
    async def test() -> None:
        for steps in range(STEPS):
            async with lined(silent, greetings=greetings) as (line, server):
                call = asyncio.create_task(line.call("PING"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                await line.close()
                with pytest.raises(ConnectionLost):
                    await call
                await eventually(lambda: not server.open, what="the end of its connections")

    run(loop, test())


@on_both_loops
@pytest.mark.parametrize("order", [1, -1])
def test_caller_that_is_cancelled_with_the_connecting_is_cancelled(loop: Loop, order: int) -> None:
    async def test() -> None:
        async with lined(silent, greetings=0) as (line, server):
            call = asyncio.create_task(line.call("PING"))
            await eventually(lambda: server.open)
            others = asyncio.all_tasks() - {asyncio.current_task(), call, *server._tasks}
            for task in [call, *others][::order]:
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert server.connections == 1

    run(loop, test())


@on_both_loops
def test_pooled_connection_that_was_left_is_made_anew(loop: Loop, redis_url: str) -> None:
    """Without a second try: nothing was sent."""

    async def test() -> None:
        async with connect(JournalSettings.read(redis_url=redis_url), retries=0) as client:
            before = await client.client_id()
            for opened in [*pool_of(client).opened]:
                opened.leave()
            assert await client.client_id() != before

    run(loop, test())
