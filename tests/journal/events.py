"""Helpers of the journal's tests: events of the pipeline, consumers at work, and the content of Redis."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis

from milepost.errors import EventError, MilepostError
from milepost.events.event import Event
from milepost.events.ids import new_id
from milepost.journal import Consumer, Entry, Failure, Journal, Maintenance, Settlement, keys
from milepost.settings import JournalSettings
from tests.servers import eventually

RAW, CALCULATED, SENT = "raw_input", "calculated_distance", "email:sent"
PLACE = {"email": "someone@example.org", "lat": 52.52, "long": 13.405}

READY = 20.0
"""Seconds within which something that is there already arrives."""

CLAIM = 30.0
"""Seconds without a renewal after which tests take entries over."""

HOUR = 3_600_000
"""Milliseconds."""


def submission(event_id: str | None = None, *, channel: str = RAW, source: str = "/tests", data: Any = PLACE) -> Event:
    return Event(id=event_id or new_id(), source=source, type=channel, data=data)


def reply_to(event: Event, channel: str = CALCULATED, data: Any = None) -> Event:
    """A reply of a stage: the same id, a source of its own."""
    return Event(id=event.id, source="/milepost/distance", type=channel, data=data)


def event_of(entry: Entry) -> Event:
    return Event.from_json(entry.event)


def failure(reason: str = "HTTP 500", *, attempts: int = 0, crashes: int = 0) -> Failure:
    return Failure(reason, 500, attempts, crashes)


def maintenance_of(journal: Journal, settings: JournalSettings) -> Maintenance:
    return Maintenance(journal.scripts, dedup=settings.dedup, limit=settings.backlog_limit)


async def made(*consumers: Consumer) -> None:
    for consumer in consumers:
        await consumer.ensure()


async def taken(journal: Journal, consumer: Consumer, count: int = 1, *, channel: str | None = None) -> list[Entry]:
    """Publish `count` events on a channel of this consumer; return the entries that it takes then."""
    for _ in range(count):
        await journal.publish(submission(channel=channel or consumer.channel))
    return await consumer.take(count)


async def settled(consumer: Consumer, settlement: Settlement) -> str | MilepostError:
    """Settle one delivery; return its answer."""
    (answer,) = await consumer.settle([settlement])
    return answer


async def journaled(redis: Redis, channel: str) -> list[dict[bytes, bytes]]:
    """Return the fields of each entry of a journal."""
    return [fields for _, fields in await redis.xrange(keys.journal(channel))]


async def pending(redis: Redis, consumer: Consumer) -> int:
    """Return how many entries the stage of this consumer has pending."""
    streams = [keys.retries(consumer.stage, consumer.channel), keys.journal(consumer.channel)]
    return sum([int((await redis.xpending(stream, consumer.stage))["pending"]) for stream in streams])


async def everything(redis: Redis) -> dict[bytes, bytes | None]:
    """Return the whole contents of Redis but the backlog that doors remember for a tenth of a second."""
    return {key: await redis.dump(key) for key in await redis.keys("*") if key != keys.BACKLOG.encode()}


async def assert_bounded(redis: Redis) -> None:
    """Check that each key of Redis is counted in the backlog, one of a few, or expires within an hour.

    Counted are the journals that have a group, and the parked events, retries and dead letters of stages that the
    backlog knows. Few are the stages table and the sets of names. All others expire, also a journal that no stage
    consumes. A status may live longer than an hour while an event of its submission is parked.
    """
    table = {name.decode(): json.loads(text) for name, text in (await redis.hgetall(keys.STAGES)).items()}
    known = [*table, *(name.decode() for name in await redis.smembers(keys.DEAD))]
    bounded = {keys.JOURNALS, keys.STAGES, keys.DEAD, keys.STATS, keys.PAUSED}
    bounded |= {family(stage) for family in (keys.parked, keys.dead) for stage in known}
    bounded |= {keys.retries(stage, channel) for stage, wired in table.items() for channel in wired["consumes"]}
    for name in await redis.smembers(keys.JOURNALS):
        journal = keys.journal(name.decode())
        if await redis.exists(journal) and await redis.xinfo_groups(journal):
            bounded.add(journal)
    waiting = {
        keys.status(_id_of(member))
        for key in await redis.keys(keys.parked("*"))
        for member in await redis.zrange(key, 0, -1)
    }
    for name in await redis.keys("*"):
        key = name.decode()
        left = await redis.pttl(key)
        if key not in bounded:
            assert left != -1, f"{key} never expires, and the backlog does not count it"
            assert left <= HOUR or key in waiting, f"{key} expires in {left / HOUR:.1f} hours"


def _id_of(member: bytes) -> str:
    """Return the id of a parked event, or an empty text."""
    try:
        return Event.from_json(member.partition(b"\n")[2]).id
    except EventError:
        return ""


@asynccontextmanager
async def heard(redis: Redis, *channels: str) -> AsyncIterator[list[tuple[str, bytes]]]:
    """Collect the messages on `channels` meanwhile; the list is complete when the body has ended."""
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
    """Collect the commands that scripts call meanwhile; the list is complete when the body has ended."""
    called: list[str] = []
    async with redis.monitor() as monitor:
        yield called
        end = uuid4().hex
        await redis.echo(end)
        async for seen in monitor.listen():
            if seen["client_type"] == "lua":
                called.append(seen["command"])
            elif seen["command"] == f"ECHO {end}":
                return


def verbs(called: Iterable[str]) -> list[str]:
    return [command.split(maxsplit=1)[0].upper() for command in called]


async def overdue(redis: Redis, key: str) -> None:
    """Make every parked event of this sorted set due."""
    for member in await redis.zrange(key, 0, -1):
        await redis.zadd(key, {member: 1})


async def unserved(redis: Redis, *stages: str) -> None:
    """Age the beats of these stages by more than a minute, as if their last bridge had gone then."""
    for stage in stages:
        wired = json.loads(await redis.hget(keys.STAGES, stage))
        await redis.hset(keys.STAGES, stage, json.dumps({**wired, "beat": wired["beat"] - 61_000}))


async def reaped(consumer: Consumer) -> None:
    """Reap consumers that are silent, as soon as there is one."""

    async def one() -> bool:
        return await consumer.reap(idle=0) > 0

    await eventually(one)


async def abandoned(redis: Redis, consumer: Consumer, *entries: Entry, seconds: float = CLAIM + 1) -> None:
    """Make entries look as if this consumer had not renewed them for so long."""
    idle = round(seconds * 1000)
    for entry in entries:
        await redis.xclaim(entry.stream, consumer.stage, consumer.name, 0, [entry.id], idle=idle, justid=True)
