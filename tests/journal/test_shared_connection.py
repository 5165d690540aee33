"""The one connection that many calls share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import redis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as TimedOut

from milepost.journal import shared_connection
from milepost.journal.connection import connect
from milepost.journal.shared_connection import NotReplicated, SharedConnection
from milepost.settings import JournalSettings
from tests.servers import HOST, WITHIN, eventually

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Opened = Callable[..., SharedConnection]

PINGS = 200


@pytest.fixture
async def opened(redis_url: str, redis: Redis) -> AsyncIterator[Opened]:
    """Opens lines that are closed when the test ends."""
    async with AsyncExitStack() as stack:

        def opened(url: str = redis_url, *, within: float = 5.0, again: bool = True) -> SharedConnection:
            line = SharedConnection(connect(JournalSettings.read(redis_url=url), answer_within=within), again=again)
            stack.push_async_callback(line.close)
            return line

        yield opened


@pytest.fixture
async def server() -> AsyncIterator[Callable[[Answer], Awaitable[str]]]:
    """Starts a server that greets as Redis does and then behaves as told; its URL."""
    async with AsyncExitStack() as stack:

        async def start(answer: Answer) -> str:
            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                try:
                    while b"*1\r\n$4\r\nPING" not in (data := await reader.read(65536)) and data:
                        writer.write(b"+OK\r\n" * data.count(b"*"))  # to every command of the login
                    if data:
                        await answer(reader, writer)
                finally:
                    writer.close()

            listening = await asyncio.start_server(accept, HOST, 0)
            stack.callback(listening.close)  # not its context manager: since Python 3.12 that waits for the clients
            return f"redis://{HOST}:{listening.sockets[0].getsockname()[1]}"

        yield start


async def kill(redis: Redis, line: SharedConnection) -> None:
    await redis.client_kill_filter(_id=str(await line.call("CLIENT", "ID")))


async def test_many_calls_share_one_connection_and_each_gets_its_own_reply(opened: Opened) -> None:
    line = opened()
    numbers = await asyncio.gather(*(line.call("ECHO", number) for number in range(PINGS)))
    assert numbers == [str(number).encode() for number in range(PINGS)]
    assert len(set(await asyncio.gather(*(line.call("CLIENT", "ID") for _ in range(PINGS))))) == 1


async def test_refusal_is_an_error_of_its_call_alone(opened: Opened) -> None:
    line = opened()
    answers = await asyncio.gather(
        line.call("ECHO", "1"), line.call("NONSENSE"), line.call("ECHO", "2"), return_exceptions=True
    )
    assert (answers[0], answers[2]) == (b"1", b"2")
    assert isinstance(answers[1], ResponseError)
    assert "NONSENSE" in str(answers[1])


async def test_cancelled_caller_leaves_the_replies_of_others_in_order(opened: Opened) -> None:
    line = opened()
    await line.call("PING")
    calls = [asyncio.create_task(line.call("ECHO", number)) for number in range(9)]
    await asyncio.sleep(0)  # they are on the way
    calls[4].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers.pop(4), asyncio.CancelledError)
    assert answers == [b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"8"]


async def test_call_on_a_dead_connection_is_sent_on_a_new_one(opened: Opened, redis: Redis) -> None:
    line = opened()
    await kill(redis, line)
    assert await line.call("ECHO", "here") == b"here"


async def test_calls_sent_together_on_a_dead_connection_are_all_sent_on_a_new_one(
    opened: Opened, redis_url: str
) -> None:
    """The first write to a closed connection succeeds, the second closes it, and later ones find it closed."""
    line = opened()
    await line.call("PING")
    with redis.Redis.from_url(redis_url) as admin:  # not asyncio: nobody reads that the connection has ended
        admin.client_kill_filter(_type="normal", skipme=True)
    answers = await asyncio.gather(*(line.call("ECHO", number) for number in range(9)))
    assert answers == [b"%d" % number for number in range(9)]


async def test_line_that_must_not_repeat_a_call_raises_and_connects_at_the_next_one(
    opened: Opened, redis: Redis
) -> None:
    line = opened(again=False)
    waiting = asyncio.create_task(line.call("BLPOP", "nothing", 0))
    await eventually(lambda: _blocked(redis))
    await redis.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(ConnectionLost):
        await waiting
    assert await line.call("PING") == b"PONG"


async def _blocked(redis: Redis) -> bool:
    return bool((await redis.info("clients"))["blocked_clients"])


async def test_missing_reply_ends_every_call_that_waits_behind_it(opened: Opened, redis: Redis) -> None:
    line = opened(within=0.2)
    answers = await asyncio.gather(line.call("BLPOP", "nothing", 0), line.call("PING"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [TimedOut, TimedOut]
    await eventually(lambda: _answered(line))


@pytest.mark.parametrize("limit_ended", [False, True])
async def test_missing_reply_is_noticed_whether_asked_before_or_after_the_limit_of_an_earlier_call(
    opened: Opened, limit_ended: bool
) -> None:
    line, other = opened(within=0.1), opened(within=0.1)
    await eventually(lambda: _answered(line))
    for asked in [other, line] if limit_ended else [line]:  # the limit on `other` begins after that of the first call
        with pytest.raises(TimedOut):
            async with asyncio.timeout(WITHIN):
                await asked.call("BLPOP", "nothing", 0)


async def _answered(line: SharedConnection) -> bool:
    try:
        return bool(await line.call("PING") == b"PONG")
    except TimedOut:  # the machine was busy for so long
        return False


async def test_slow_calls_within_the_time_limit_are_answered(opened: Opened, redis: Redis) -> None:
    line = opened(within=2.5)
    await line.call("PING")  # its limit ends while one of the others waits
    for _ in range(8):
        assert await line.call("BLPOP", "nothing", 0.35) is None


@pytest.mark.parametrize("reply", [b"!!\r\n", b"+1\r\n+2\r\n+3\r\n"], ids=["garbage", "one too many"])
async def test_connection_to_a_server_that_breaks_the_protocol_is_closed(
    opened: Opened, server: Callable[[Answer], Awaitable[str]], reply: bytes
) -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(reply)
        await reader.read()

    line = opened(await server(answer), again=False)
    await asyncio.gather(line.call("PING"), line.call("PING"), return_exceptions=True)
    await asyncio.gather(line.call("PING"), line.call("PING"), return_exceptions=True)
    assert connections == 2


async def test_call_on_a_lost_connection_is_repeated_once(
    opened: Opened, server: Callable[[Answer], Awaitable[str]]
) -> None:
    calls = 0

    async def answer(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1

    line = opened(await server(answer))
    with pytest.raises(ConnectionLost):
        await line.call("PING")
    assert calls == 2


async def test_reply_counts_only_once_so_many_replicas_have_confirmed_the_write(
    opened: Opened, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_connection, "REPLICATED_WITHIN", 0.01)
    line = opened()
    assert await line.call_replicated(0, "INCR", "number") == 1
    with pytest.raises(NotReplicated, match="0 of 1 replicas"):
        await line.call_replicated(1, "INCR", "number")
    assert await redis.get("number") == b"2"
    with pytest.raises(ResponseError, match="NONSENSE"):
        await line.call_replicated(1, "NONSENSE")


async def test_close_ends_calls_under_way(opened: Opened, redis: Redis) -> None:
    line = opened()
    waiting = asyncio.create_task(line.call("BLPOP", "nothing", 0))
    await eventually(lambda: _blocked(redis))
    await line.close()
    with pytest.raises(ConnectionLost, match="the connection was closed"):
        await waiting
    with pytest.raises(ConnectionLost, match="the connection was closed"):
        await line.call("PING")


async def test_close_while_connecting_leaves_nothing_open(
    opened: Opened, server: Callable[[Answer], Awaitable[str]]
) -> None:
    async def answer(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    line = opened(await server(answer))
    call = asyncio.create_task(line.call("PING"))
    await asyncio.sleep(0)
    await line.close()
    with pytest.raises(ConnectionLost):
        await call
