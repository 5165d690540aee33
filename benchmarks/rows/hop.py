"""One hop with a reply: an event of one journal, through the stage `distance`, into the next journal."""

import asyncio
import json
import socket
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import hiredis
import redis

from benchmarks import fill
from benchmarks.bench import OURS, Bench, Figure, Measured
from benchmarks.lab import Lab, Stopwatch, until
from milepost import stages_table
from milepost.journal import Maintenance, Scripts, Wiring, keys
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.servers import ROOT, Server

EVENTS = 10_000
NEXT = "calculated_distance"


def consumed(url: str) -> None:
    """Have the stages table say that the next channel is consumed, so that it is journaled and not only announced."""

    async def beat() -> None:
        scripts = Scripts(connect(JournalSettings.read(redis_url=url)))
        wiring = Wiring([NEXT], ["user:email"], "http://127.0.0.1:1")
        await Maintenance(scripts, dedup=timedelta(hours=1), limit=1_000_000).beat({"store": wiring})
        await scripts.close()

    asyncio.run(beat())


def ours(lab: Lab, **delivery: Any) -> Measured:
    """As it is shipped, but for what `delivery` says."""
    consumed(lab.redis.url)
    fill.journal(lab.redis.url, map(fill.submission, range(EVENTS)))
    function = lab.function("distance")
    shipped = next(stage.delivery for stage in stages_table.read(ROOT) if stage.name == "distance")
    route = {"name": "distance", "consumes": "raw_input", "emits": NEXT, "url": function.url, **shipped, **delivery}
    return arriving(lab, keys.journal(NEXT), lambda: (lab.bridge(route, ready=False), function))


def faststream(lab: Lab) -> Measured:
    fill.stream(lab.redis.url, map(fill.submission, range(EVENTS)))
    return arriving(lab, NEXT, lambda: (lab.peer("faststream_stage", lab.redis.url),))


def arriving(lab: Lab, stream: str, start: Callable[[], tuple[Server, ...]]) -> Measured:
    """From the first replies in the next stream until the last."""
    client = redis.Redis.from_url(lab.redis.url)
    servers = start()
    until(lambda: client.xlen(stream), every=0.001)
    before, watch = client.xlen(stream), Stopwatch(*servers)
    until(lambda: client.xlen(stream) == EVENTS, every=0.005)
    return watch.stop(EVENTS - before)


def pubsub(lab: Lab, loop: str) -> Measured:
    """What waits for it lies in Redis's buffer for a subscriber, while the stage stands still."""
    stage = lab.peer("pubsub", "distance", loop, REDIS_URL=lab.redis.url)
    with socket.create_connection(("127.0.0.1", lab.redis.port)) as link:
        link.sendall(f"SUBSCRIBE {NEXT}\r\n".encode())
        link.recv(4096)
        stage.freeze()
        with redis.Redis.from_url(lab.redis.url) as client:
            pipeline = client.pipeline(transaction=False)
            for number in range(EVENTS):
                pipeline.publish("raw_input", json.dumps(fill.submission(number).data))
            pipeline.execute()
        watch = Stopwatch(stage)
        stage.thaw()
        reader, heard = hiredis.Reader(), 0
        while heard < EVENTS:
            reader.feed(link.recv(1 << 16))
            while reader.gets() is not False:
                heard += 1
        return watch.stop(EVENTS)


BENCHES = [
    Bench(
        "hop",
        (
            Figure("rate", "one hop with reply, stage distance", "events/s", 4_000, more_is_better=True),
            Figure("cpu", "one hop with reply: CPU of function and bridge", "CPU s/1000", 0.30),
        ),
        {
            OURS: ours,
            "FastStream stage": faststream,
            "pub/sub stage, busy": partial(pubsub, loop="busy"),
            "pub/sub stage, waiting": partial(pubsub, loop="waiting"),
        },
    ),
    Bench(
        "hop-alone",
        (
            Figure("rate", "one hop with reply, one event a request", "events/s", more_is_better=True),
            Figure("cpu", "one hop with reply, one event a request: CPU of both", "CPU s/1000"),
        ),
        {OURS: partial(ours, batch=1)},
    ),
]
