"""The cost of a hop in Redis: reading entries and completing them with a reply, without a bridge or a function."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

import redis

from benchmarks import fill
from benchmarks.bench import OURS, Bench, Figure, Measured
from benchmarks.harness import Harness, Stopwatch
from benchmarks.rows.hop import NEXT
from milepost.events.batch import MOST_ANSWERS, part_id
from milepost.events.event import Event
from milepost.journal import Complete, Consumer, Entry, Maintenance, Scripts, Settlement, Split, Wiring
from milepost.journal.connection import connect
from milepost.journal.shared_connection import SharedConnection
from milepost.settings import JournalSettings

EVENTS = 12_000
AT_ONCE = 128
SPLITS = 48
DATA = {"email": "ada@example.org", "distance_from_velocity": 2216.0742916592476}


def completed(entries: Sequence[Entry]) -> list[Complete]:
    """Settle each entry with a reply of the same id."""
    ids = [Event.from_json(entry.event).id for entry in entries]
    replies = [Event(id=of, source="/milepost/distance", type=NEXT, data=DATA) for of in ids]
    return [Complete(entry, reply.id, reply) for entry, reply in zip(entries, replies, strict=True)]


def split(entries: Sequence[Entry]) -> list[Split]:
    """Settle each entry with MOST_ANSWERS answers."""
    settlements = []
    for entry in entries:
        of = Event.from_json(entry.event).id
        ids = [part_id(of, place) for place in range(MOST_ANSWERS)]
        settlements.append(Split(entry, of, [Event(id=id, source="/split", type=NEXT, data=DATA) for id in ids]))
    return settlements


Settle = Callable[[Sequence[Entry]], Sequence[Settlement]]


async def hops(url: str, events: int, *, settle: Settle = completed) -> None:
    """Read and settle so many events, `AT_ONCE` in each round trip."""
    settings = JournalSettings.read(redis_url=url)
    scripts, reader = Scripts(connect(settings)), SharedConnection(connect(settings), again=False)
    consumer = Consumer("distance", "raw_input", "one", reader=reader, scripts=scripts, deadline=timedelta(days=1))
    try:
        await consumer.ensure()
        while events > 0:
            entries = await consumer.wait(min(events, AT_ONCE), block=1.0)
            answers = await consumer.settle(settle(entries))
            if answers != ["done"] * len(entries):
                raise RuntimeError(f"not settled: {answers}")
            events -= len(entries)
    finally:
        await reader.close()
        await scripts.close()


async def wire(url: str) -> None:
    """Have the stages table say that both channels are consumed."""
    scripts = Scripts(connect(JournalSettings.read(redis_url=url)))
    routes = {"distance": Wiring(["raw_input"], [NEXT], ""), "store": Wiring([NEXT], [], "")}
    await Maintenance(scripts, dedup=timedelta(hours=1), limit=1_000_000).beat(routes)
    await scripts.close()


def ours(harness: Harness) -> Measured:
    """The first round is not counted: it loads the scripts."""
    asyncio.run(wire(harness.redis.url))
    fill.journal(harness.redis.url, map(fill.submission, range(EVENTS)))
    asyncio.run(hops(harness.redis.url, AT_ONCE))
    counted = EVENTS - AT_ONCE
    with redis.Redis.from_url(harness.redis.url) as client:
        before, watch = client.info("memory")["used_memory"], Stopwatch(harness.redis)
        asyncio.run(hops(harness.redis.url, counted))
        cpu = watch.stop(counted)["cpu"]
        return {"cpu": cpu, "bytes": (client.info("memory")["used_memory"] - before) / counted}


def of_split(harness: Harness) -> Measured:
    """The CPU for 1,000 answers, to be compared with that for 1,000 hops."""
    asyncio.run(wire(harness.redis.url))
    fill.journal(harness.redis.url, map(fill.submission, range(SPLITS + 1)))
    asyncio.run(hops(harness.redis.url, 1, settle=split))
    watch = Stopwatch(harness.redis)
    asyncio.run(hops(harness.redis.url, SPLITS, settle=split))
    return {"cpu": watch.stop(SPLITS * MOST_ANSWERS)["cpu"]}


BENCHES = [
    Bench(
        "redis",
        (
            Figure("cpu", "one hop in Redis, read and settled: CPU", "CPU s/1000", 0.07),
            Figure("bytes", "one hop in Redis: left behind until its journals are trimmed", "bytes", 300),
        ),
        {OURS: ours},
        durable=False,
    ),
    Bench(
        "redis-split",
        (Figure("cpu", f"a split of {MOST_ANSWERS} in Redis, settled: CPU for its answers", "CPU s/1000"),),
        {OURS: of_split},
        durable=False,
    ),
]
