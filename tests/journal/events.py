"""Events of the pipeline, as the tests of the journal send them, and what there is to see of them in Redis."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from milepost import keys
from milepost.events.event import Event
from milepost.events.ids import new_id
from milepost.journal import Group, Letter

RAW, CALCULATED, SENT = "raw_input", "calculated_distance", "email:sent"
PLACE = {"email": "someone@example.org", "lat": 52.52, "long": 13.405}

READY = 20.0
"""Seconds a read waits for what is there already."""


def submission(event_id: str | None = None, *, channel: str = RAW, source: str = "/tests", data: Any = PLACE) -> Event:
    return Event(id=event_id or new_id(), source=source, type=channel, data=data)


def reply_to(event: Event, channel: str = CALCULATED, data: Any = None) -> Event:
    """What a stage answers: the same id, a source of its own."""
    return Event(id=event.id, source="/milepost/distance", type=channel, data=data)


def letter(event: Event, reason: str = "HTTP 500", *, attempts: int = 0, crashes: int = 0) -> Letter:
    return Letter(event.id, reason, 500, attempts, crashes)


async def made(*groups: Group) -> None:
    for group in groups:
        await group.ensure()


async def journaled(redis: Redis, channel: str) -> list[dict[bytes, bytes]]:
    """The fields of each entry of a journal."""
    return [fields for _, fields in await redis.xrange(keys.journal(channel))]


async def pending(redis: Redis, group: Group) -> int:
    return int((await redis.xpending(keys.journal(group.channel), group.name))["pending"])


async def everything(redis: Redis) -> dict[bytes, bytes | None]:
    """The whole contents of Redis, to see that nothing was written but what doors remember of the backlog."""
    return {key: await redis.dump(key) for key in await redis.keys("*") if key != keys.BACKLOG.encode()}


@asynccontextmanager
async def heard(redis: Redis, *channels: str) -> AsyncIterator[list[tuple[str, bytes]]]:
    """Collects what is published on `channels` meanwhile; complete when the body has ended."""
    messages: list[tuple[str, bytes]] = []
    async with redis.pubsub() as subscription:
        await subscription.subscribe("end", *channels)
        for _ in ("end", *channels):
            await subscription.get_message(timeout=READY)
        yield messages
        await redis.publish("end", "")
        while message := await subscription.get_message(timeout=READY):
            if message["channel"] == b"end":
                return
            messages.append((message["channel"].decode(), message["data"]))
        raise AssertionError("the subscription broke")


@asynccontextmanager
async def commands(redis: Redis) -> AsyncIterator[list[str]]:
    """Collects the commands that scripts call meanwhile; complete when the body has ended."""
    called: list[str] = []
    async with redis.monitor() as monitor:
        yield called
        await redis.ping()
        async for seen in monitor.listen():
            if seen["client_type"] == "lua":
                called.append(seen["command"])
            elif seen["command"].upper() == "PING":
                return


def verbs(called: list[str]) -> list[str]:
    return [command.split(maxsplit=1)[0].upper() for command in called]


async def overdue(redis: Redis, key: str) -> None:
    """Make everything that waits under this sorted set due."""
    for member in await redis.zrange(key, 0, -1):
        await redis.zadd(key, {member: 1})


async def unserved(redis: Redis, stage: str) -> None:
    """Age a stage's beat by more than a minute, as if its last bridge had gone then."""
    wired = json.loads(await redis.hget(keys.STAGES, stage))
    await redis.hset(keys.STAGES, stage, json.dumps({**wired, "beat": wired["beat"] - 61_000}))


async def abandoned(redis: Redis, group: Group, entry: str, seconds: float = 31) -> None:
    """Make an entry look as if its holder had not renewed it for so long."""
    idle = round(seconds * 1000)
    await redis.xclaim(keys.journal(group.channel), group.name, group.consumer, 0, [entry], idle=idle, justid=True)
