"""A backlog carried into a fast HTTP sink, one event per POST."""

from collections.abc import Callable
from functools import partial
from typing import Any

import redis

from benchmarks import fill
from benchmarks.arrivals import Arrivals
from benchmarks.bench import FLOOR, OURS, Bench, Figure, Measured
from benchmarks.harness import Harness, Stopwatch, until
from milepost.journal import keys
from tests.servers import Server

EVENTS = 40_000
SLOW_EVENTS = 20_000
SLOW = 0.05
"""Seconds that the slow sink takes."""


def carried(
    arrivals: Arrivals,
    events: int,
    relay: Server,
    *,
    redis: Server | None = None,
    settled: Callable[[], bool] = lambda: True,
) -> Measured:
    """The clock runs from the first arrivals, when the relay has started, until the last event is settled."""
    until(lambda: arrivals.count, every=0.0005)
    before, watch = arrivals.count, Stopwatch(relay, redis=redis)
    until(lambda: arrivals.count == events)
    until(settled)
    return watch.stop(events - before)


def settled(url: str, channel: str = "raw_input", stage: str = "sink") -> Callable[[], bool]:
    """Whether the stage's group has read everything and has nothing pending, and no event is a retry or held."""
    client = redis.Redis.from_url(url)
    journal, rest = keys.journal(channel), (keys.retries(stage, channel), keys.held(stage, channel))

    def look() -> bool:
        groups = {row["name"].decode(): row for row in client.xinfo_groups(journal)}
        mine = groups[stage]
        if client.exists(*rest) and (client.xlen(rest[0]) or client.zcard(rest[1])):
            return False
        return not mine["pending"] and mine["last-delivered-id"] == client.xinfo_stream(journal)["last-generated-id"]

    return look


def ours(
    harness: Harness, *, events: int = EVENTS, delay: float = 0, size: int = 0, addresses: int = 0, **route: Any
) -> Measured:
    """`route`: further keys of the route."""
    fill.journal(
        harness.redis.url, (fill.submission(number, size=size, addresses=addresses) for number in range(events))
    )
    sink, arrivals = harness.sink(events, delay=delay)
    whole = {"name": "sink", "consumes": "raw_input", "url": f"http://127.0.0.1:{sink.port}", **route}
    relay = harness.bridge(whole, ready=False)
    return carried(arrivals, events, relay, redis=harness.redis, settled=settled(harness.redis.url))


def floor(harness: Harness, *, events: int = EVENTS) -> Measured:
    fill.stream(harness.redis.url, map(fill.submission, range(events)))
    sink, arrivals = harness.sink(events)
    return carried(arrivals, events, harness.peer("floor", harness.redis.port, sink.port))


def faststream(harness: Harness, *, events: int = EVENTS, delay: float = 0) -> Measured:
    fill.stream(harness.redis.url, map(fill.submission, range(events)))
    sink, arrivals = harness.sink(events, delay=delay)
    url = f"http://127.0.0.1:{sink.port}"
    return carried(arrivals, events, harness.peer("faststream_relay", harness.redis.url, url))


def full(harness: Harness) -> Measured:
    return {"memory": ours(harness, events=100_000, delay=SLOW)["memory"]}


BENCHES = [
    Bench(
        "drain",
        (
            Figure("rate", "bridge, 40,000 events into a fast sink", "events/s", 20_000, more_is_better=True),
            Figure("cpu", "bridge, 40,000 events into a fast sink: CPU", "CPU s/1000", 0.05),
            Figure("redis", "bridge, 40,000 events into a fast sink: CPU of its Redis", "CPU s/1000"),
        ),
        {OURS: ours, "FastStream + aiohttp": partial(faststream, events=8_000), FLOOR: partial(floor, events=200_000)},
    ),
    Bench(
        "slow-sink",
        (Figure("rate", "bridge, a sink that takes 50 ms", "events/s", 6_000, more_is_better=True),),
        {
            OURS: partial(ours, events=SLOW_EVENTS, delay=SLOW),
            "FastStream + aiohttp": partial(faststream, events=8_000, delay=SLOW),
        },
    ),
    Bench(
        "memory",
        (Figure("memory", "bridge with 100,000 in the backlog: peak memory", "MB", 60),),
        {OURS: full},
        durable=False,
    ),
]
