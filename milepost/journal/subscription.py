"""A pub/sub connection that is read in bulk: each wake-up takes all messages that have arrived.

redis-py connects it (TLS, user, password); its replies are parsed here, at a third of redis-py's cost for a message. A
bridge receives its own announcements too, so each hop pays that cost twice.
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
"""Bytes taken at once, at most."""


class Message(NamedTuple):
    """`kind`: `message`, or what a change of the subscription is confirmed with; `refused` for a channel that Redis
    does not let us hear, with its reason as data.
    """

    kind: bytes
    channel: bytes
    data: bytes


class Subscription:
    """Made by `subscribed`. Each method raises RedisError or OSError when the connection cannot be used any more."""

    def __init__(self, connection: AbstractConnection, stream: asyncio.StreamReader) -> None:
        self._connection = connection
        self._stream = stream
        self._parser = hiredis.Reader(replyError=ResponseError)
        self._asked: deque[str] = deque()

    async def subscribe(self, *channels: str) -> None:
        """Subscribe to these channels too. A message of kind `subscribe` or `refused` answers for each."""
        for channel in channels:  # one by one: of several that one command names Redis refuses all or none
            self._asked.append(channel)
            await self._send("SUBSCRIBE", channel)

    async def unsubscribe(self, *channels: str) -> None:
        """Unsubscribe from these channels. A message of kind `unsubscribe` answers for each."""
        await self._send("UNSUBSCRIBE", *channels)

    async def _send(self, *command: str) -> None:
        await self._connection.send_command(*command, check_health=False)

    async def messages(self, *, silence: float) -> AsyncIterator[Sequence[Message]]:
        """Yield all messages that have arrived, as soon as there are any. After `silence` seconds without a byte, send
        PING and yield an empty sequence; raise OSError if nothing arrives for as long again.
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
        """All that has arrived, as soon as something has; None after `within` seconds of silence."""
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
    """A connection of its own to the server of `redis`, closed at the end. Raises RedisError, OSError."""
    connection = pool_of(redis).make_connection()
    await connection.connect()
    try:
        yield Subscription(connection, connection.reader)
    finally:
        await connection.disconnect(nowait=True)
