"""A journal that follows a failover, and publishes without pause meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

from milepost.errors import JournalUnavailable
from milepost.events.event import Event
from milepost.journal import Journal
from milepost.journal.connection import connect
from milepost.settings import JournalSettings


@asynccontextmanager
async def following(url: str, *, replicas: int = 0) -> AsyncIterator[Journal]:
    """A journal whose watch runs, as in the gateway."""
    settings = JournalSettings.read(redis_url=url, replicas=replicas)
    journal = Journal(connect(settings, answer_within=2), settings)
    try:
        async with journal.failover.running():
            yield journal
    finally:
        await journal.close()


@dataclass
class Publishing:
    """Ids of the events that were accepted, and of those that were refused since `decided` was set."""

    accepted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    decided: bool = False


@asynccontextmanager
async def publishing(journal: Journal, channel: str) -> AsyncIterator[Publishing]:
    """Publish one event after the other while the body runs; one that is refused is published again."""
    found = Publishing()

    async def publish() -> None:
        while True:
            event = Event(id=uuid4().hex, source="/load", type=channel, data=1)
            while event.id not in found.accepted:
                decided = found.decided
                try:
                    await journal.publish(event)
                    found.accepted.append(event.id)
                except JournalUnavailable:
                    if decided:
                        found.refused.append(event.id)
                await asyncio.sleep(0.01)

    task = asyncio.create_task(publish())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.wait([task])
