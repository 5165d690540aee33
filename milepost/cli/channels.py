"""A subscription to channels of Redis."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from milepost.journal.connection import connect
from milepost.journal.failover import Watch
from milepost.settings import JournalSettings

SILENCE = 10.0
"""Seconds without a message after which a PING is sent."""

ANSWER_WITHIN = 5.0


@dataclass(frozen=True)
class Message:
    """A message and the channel it was published on."""

    channel: str
    body: bytes


@asynccontextmanager
async def subscribed(settings: JournalSettings, channels: Sequence[str]) -> AsyncIterator["Subscription"]:
    """A subscription to these channels, confirmed by Redis. Raises RedisError or OSError."""
    redis = connect(settings, retries=0)  # a silent reconnect would hide what was missed
    pubsub = redis.pubsub()
    try:
        await pubsub.subscribe(*channels)
        for _ in channels:
            if await pubsub.get_message(timeout=ANSWER_WITHIN) is None:
                raise TimeoutError("Redis does not confirm the subscription")
        async with Watch(redis).running():
            yield Subscription(pubsub, channels)
    finally:
        with contextlib.suppress(RedisError, OSError):
            await pubsub.aclose()  # type: ignore[no-untyped-call]
        await redis.aclose()


class Subscription:
    """Receives the messages of its channels until the connection is lost."""

    def __init__(self, pubsub: PubSub, channels: Iterable[str]) -> None:
        self.channels = set(channels)
        self._pubsub = pubsub

    async def add(self, channels: Sequence[str]) -> None:
        """Subscribe to these channels too. Raises RedisError or OSError."""
        await self._pubsub.subscribe(*channels)
        self.channels.update(channels)

    async def messages(self) -> AsyncIterator[Message]:
        """Yield each message as it comes. Raises RedisError or OSError when the connection is lost or half-open."""
        while True:
            found = await self._pubsub.get_message(timeout=SILENCE)
            if found is None:
                await self._pubsub.ping()
                found = await self._pubsub.get_message(timeout=ANSWER_WITHIN)
                if found is None:
                    raise TimeoutError("Redis went silent")
            if found["type"] == "message":
                yield Message(found["channel"].decode(errors="replace"), found["data"])
