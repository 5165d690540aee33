"""A subscription: which messages it yields, and how it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from milepost.journal.connection import connect, pool_of
from milepost.journal.refusals import WrongServer
from milepost.journal.subscription import Message, Subscription, subscribed
from milepost.settings import JournalSettings
from tests.journal.events import READY
from tests.servers import Valkey, eventually


@pytest.fixture
async def client(settings: JournalSettings, redis: Redis) -> AsyncIterator[Redis]:
    async with connect(settings) as client:
        yield client


async def received(subscription: Subscription, count: int, *, silence: float = READY) -> list[Message]:
    """Return the next messages, so many."""
    found: list[Message] = []
    async for messages in subscription.messages(silence=silence):
        found += messages
        if len(found) >= count:
            break
    return found


async def test_each_channel_is_confirmed_or_refused_and_its_messages_are_received(
    settings: JournalSettings, redis: Redis
) -> None:
    await redis.acl_setuser("narrow", enabled=True, passwords=["+pw"], categories=["+@all"], channels=["yes*"])
    url = settings.redis_url.get_secret_value().replace("redis://", "redis://narrow:pw@")
    await redis.config_resetstat()
    try:
        async with connect(JournalSettings.read(redis_url=url)) as narrow, subscribed(narrow) as subscription:
            await subscription.subscribe("yes-1", "no-1")
            await subscription.subscribe("yes-2", "no-2")
            answers = await received(subscription, 4)
            assert [(message.kind, message.channel) for message in answers] == [
                (b"subscribe", b"yes-1"),
                (b"refused", b"no-1"),
                (b"subscribe", b"yes-2"),
                (b"refused", b"no-2"),
            ]
            assert answers[1].data.startswith(b"No permissions") or b"NOPERM" in answers[1].data
            await redis.publish("yes-1", b"\x00data")
            assert await received(subscription, 1) == [Message(b"message", b"yes-1", b"\x00data")]
            await subscription.unsubscribe("yes-1")
            (answer,) = await received(subscription, 1)
            assert (answer.kind, answer.channel) == (b"unsubscribe", b"yes-1")
            await redis.publish("yes-1", "lost")
            await redis.publish("yes-2", "received")
            assert await received(subscription, 1) == [Message(b"message", b"yes-2", b"received")]
            assert "cmdstat_ping" not in await redis.info("commandstats"), "it was never silent"
    finally:
        await redis.acl_deluser("narrow")


async def test_silent_connection_stays_while_redis_answers_its_pings(client: Redis, redis: Redis) -> None:
    async def stays(silence: float) -> bool:
        async with subscribed(client) as subscription:
            await subscription.subscribe("channel")
            await received(subscription, 1)
            with suppress(OSError):  # on a busy machine an answer may take longer
                quiet = subscription.messages(silence=silence)
                for _ in range(4):
                    assert not await anext(quiet)
                await redis.publish("channel", "later")
                async for messages in quiet:
                    if messages:
                        return [*messages] == [Message(b"message", b"channel", b"later")]
        return False

    await redis.config_resetstat()
    assert await stays(0.05) or await stays(0.5) or await stays(5)
    assert (await redis.info("commandstats"))["cmdstat_ping"]["calls"] >= 2


async def test_connection_that_does_not_answer_a_ping_ends(tmp_path: Path) -> None:
    with Valkey(tmp_path) as server:
        async with connect(JournalSettings.read(redis_url=server.url)) as client, subscribed(client) as subscription:
            await subscription.subscribe("channel")
            await received(subscription, 1)
            server.freeze()
            try:
                with pytest.raises(OSError, match="no answer to PING"):
                    await received(subscription, 1, silence=0.05)
            finally:
                server.thaw()


async def test_connection_that_redis_closes_ends_and_one_that_is_left_is_closed(client: Redis, redis: Redis) -> None:
    async def subscribers() -> int:
        return len(await redis.client_list(_type="pubsub"))

    async with subscribed(client) as subscription:
        await subscription.subscribe("channel")
        await received(subscription, 1)
        await redis.client_kill_filter(_type="pubsub")
        with pytest.raises(OSError, match="closed"):
            await received(subscription, 1)
    async with subscribed(client) as subscription:
        await subscription.subscribe("channel")
        await received(subscription, 1)
        assert await subscribers() == 1

    async def none_left() -> bool:
        return await subscribers() == 0

    await eventually(none_left)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"no reply of Redis\r\n", RedisError),
        (b"-READONLY You can't write against a read only replica.\r\n", WrongServer),
        (b"-ERR max number of clients reached\r\n", ResponseError),
    ],
)
async def test_connection_with_an_unexpected_reply_ends(client: Redis, data: bytes, fault: type[Exception]) -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(data)
    with pytest.raises(fault):
        await received(Subscription(pool_of(client).make_connection(), stream), 1)


async def test_answer_to_a_ping_is_no_message(client: Redis) -> None:
    stream = asyncio.StreamReader()
    message = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"
    stream.feed_data(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n+PONG\r\n" + message)
    found = await received(Subscription(pool_of(client).make_connection(), stream), 1)
    assert found == [Message(b"message", b"a", b"b")]
