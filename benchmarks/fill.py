"""Backlogs: numbered submissions put into Redis as fast as it goes, before a contender is asked to carry them."""

import asyncio
from collections.abc import Iterable, Iterator

import redis

from benchmarks.arrivals import name
from milepost.events.event import Event, now
from milepost.journal import Journal
from milepost.journal.connection import connect
from milepost.settings import JournalSettings

SOURCE = "/benchmark"
STREAM = "events"
"""What peers that know no journal read."""

_AT_ONCE = 2000


def submission(number: int, *, channel: str = "raw_input", size: int = 0, addresses: int = 0) -> Event:
    """A numbered event; its data is filled up to `size` bytes. `addresses`: how many there are at most."""
    data: dict[str, object] = {
        "email": f"{name(number % addresses if addresses else number)}@example.org",
        "lat": 51.5074,
        "long": -0.1278,
    }
    if size:
        data = {"filling": "x" * size}
    return Event(id=name(number), source=SOURCE, type=channel, time=now(), data=data)


def journal(url: str, events: Iterable[Event]) -> None:
    """Publish by the journal, as the gateway does."""

    async def publish() -> None:
        settings = JournalSettings.read(redis_url=url)
        client = Journal(connect(settings), settings)
        try:
            for some in _chunks(events):
                await asyncio.gather(*map(client.publish, some))
        finally:
            await client.close()

    asyncio.run(publish())


def stream(url: str, events: Iterable[Event], field: str = "event") -> None:
    """XADD to the peers' stream."""
    with redis.Redis.from_url(url) as client:
        for some in _chunks(events):
            pipeline = client.pipeline(transaction=False)
            for event in some:
                pipeline.xadd(STREAM, {field: event.to_json()})
            pipeline.execute()


def _chunks(events: Iterable[Event]) -> Iterator[list[Event]]:
    some: list[Event] = []
    for event in events:
        some.append(event)
        if len(some) == _AT_ONCE:
            yield some
            some = []
    if some:
        yield some
