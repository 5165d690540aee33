"""A pub/sub connection that is read in bulk: each read takes all messages that have arrived.

redis-py connects it (TLS, user, password). After that this module parses the replies, at a third of redis-py's cost for
a message. A bridge receives its own messages too, so each hop has that cost twice.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from milepost.journal.connection import pool_of
from milepost.journal.refusals import wrong_server

CHUNK = 256 * 1024
"""Most bytes read at once."""


class Message(NamedTuple):
    """A message of the connection. `kind`: `message`; `subscribe` and `unsubscribe` confirm a change; `refused`: Redis
    does not let this user subscribe to the channel, and `data` says why.
    """

    kind: bytes
    channel: bytes
    data: bytes


class Subscription:
    """A connection that `subscribed` made. Methods raise RedisError or OSError when it cannot be used any more."""

    def __init__(self, connection: AbstractConnection, stream: asyncio.StreamReader) -> None:
        self._connection = connection
        self._stream = stream
        self._parser = hiredis.Reader(replyError=ResponseError)
        self._asked: deque[str] = deque()

    async def subscribe(self, *channels: str) -> None:
        """Subscribe to these channels too. A message of kind `subscribe` or `refused` answers for each."""
        for channel in channels:  # one by one: Redis would refuse all channels of a command for one of them
            self._asked.append(channel)
            await self._send("SUBSCRIBE", channel)

    async def unsubscribe(self, *channels: str) -> None:
        """Unsubscribe from these channels. A message of kind `unsubscribe` answers for each."""
        await self._send("UNSUBSCRIBE", *channels)

    async def _send(self, *command: str) -> None:
        await self._connection.send_command(*command, check_health=False)

    async def messages(self, *, silence: float) -> AsyncIterator[Sequence[Message]]:
        """Yield messages as they arrive, all that are there at once. After `silence` seconds without a byte it sends
        PING and yields an empty sequence. If nothing arrives for as long again, it raises OSError.
        """
        pinged = False
        while True:
            messages = await self._received(silence)
            if messages is None and pinged:
                raise OSError("no answer to PING")
            pinged = messages is None
            if pinged:
                await self._send("PING")
            yield messages or ()

    async def _received(self, within: float) -> Sequence[Message] | None:
        """Wait for bytes and return all messages in them; None after `within` seconds without a byte."""
        try:
            async with asyncio.timeout(within):
                chunk = await self._stream.read(CHUNK)
        except TimeoutError:
            return None
        if not chunk:
            raise OSError("Redis closed the connection")
        try:
            self._parser.feed(chunk)
            return list(self._parsed())
        except hiredis.HiredisError as fault:
            raise RedisError(str(fault)) from None

    def _parsed(self) -> Iterator[Message]:
        while (reply := self._parser.gets()) is not False:
            if isinstance(reply, ResponseError):
                refusal = wrong_server(reply)
                if refusal is not None or not self._asked:
                    raise refusal or reply
                yield Message(b"refused", self._asked.popleft().encode(), str(reply).encode())
            elif isinstance(reply, list) and len(reply) == len(Message._fields):  # else the answer to a PING
                message = Message(*reply)
                if message.kind == b"subscribe":
                    self._asked.popleft()
                yield message


@asynccontextmanager
async def subscribed(redis: Redis) -> AsyncIterator[Subscription]:
    """Connect to the server of `redis`; the connection is closed at the end. Raises RedisError, OSError."""
    connection = pool_of(redis).make_connection()
    await connection.connect()
    try:
        yield Subscription(connection, connection.reader)
    finally:
        await connection.disconnect(nowait=True)
