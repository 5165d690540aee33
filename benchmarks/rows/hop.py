"""One hop with a reply: an event of one journal, through the stage `distance`, into the next journal."""

import asyncio
import json
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Any

import hiredis
import redis

from benchmarks import fill
from benchmarks.bench import OURS, Bench, Figure, Measured
from benchmarks.harness import Harness, Stopwatch, until
from milepost import stage_values
from milepost.journal import Maintenance, Scripts, Wiring, keys
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.servers import ROOT, Server

EVENTS = 10_000
NEXT = "calculated_distance"
TASKS = 2_000
WORKFLOWS = 500
"""Events for the contenders that take a millisecond for each, and for the one that waits for the disk several times."""

Start = Callable[[], tuple[Server, ...]]
"""Starts the servers whose CPU counts."""


def consumed(url: str) -> None:
    """Have the stages table say that the next channel is consumed, so that it is journaled and not only announced."""

    async def beat() -> None:
        scripts = Scripts(connect(JournalSettings.read(redis_url=url)))
        wiring = Wiring([NEXT], ["user:email"], "http://127.0.0.1:1")
        await Maintenance(scripts, dedup=timedelta(hours=1), limit=1_000_000).beat({"store": wiring})
        await scripts.close()

    asyncio.run(beat())


def ours(harness: Harness, **delivery: Any) -> Measured:
    """As it is shipped, but for what `delivery` says."""
    consumed(harness.redis.url)
    fill.journal(harness.redis.url, map(fill.submission, range(EVENTS)))
    function = harness.function("distance")
    shipped = next(stage.delivery for stage in stage_values.read(ROOT) if stage.name == "distance")
    route = {"name": "distance", "consumes": "raw_input", "emits": NEXT, "url": function.url, **shipped, **delivery}
    return arriving(harness, keys.journal(NEXT), lambda: (harness.bridge(route, ready=False), function))


def faststream(harness: Harness) -> Measured:
    fill.stream(harness.redis.url, map(fill.submission, range(EVENTS)))
    return arriving(harness, NEXT, lambda: (harness.peer("faststream_stage", harness.redis.url),))


def tasks(harness: Harness, module: str, stream: str) -> Measured:
    """A queue of tasks on Redis streams: the stage's worker alone, which adds the next stage's tasks to `stream`."""
    env = {"REDIS_URL": harness.redis.url}
    harness.fill(module, TASKS, **env)
    return arriving(harness, stream, lambda: (harness.peer(module, "distance", **env),), TASKS)


def dbos(harness: Harness) -> Measured:
    """The reply is the workflow's result, in the database when the workflow has ended."""
    database = harness.folder / "dbos.sqlite"
    harness.fill("dbos_stages", WORKFLOWS, DATABASE=str(database))
    ended = "SELECT count(*) FROM workflow_status WHERE status = 'SUCCESS'"
    with closing(sqlite3.connect(database, timeout=30)) as client:
        return counted(
            harness,
            lambda: client.execute(ended).fetchone()[0],
            lambda: (harness.peer("dbos_stages", "distance", DATABASE=str(database)),),
            WORKFLOWS,
            redis=False,
        )


def arriving(harness: Harness, stream: str, start: Start, events: int = EVENTS) -> Measured:
    """From the first replies in the next stream until the last."""
    with redis.Redis.from_url(harness.redis.url) as client:
        return counted(harness, lambda: client.xlen(stream), start, events)


def counted(harness: Harness, count: Callable[[], int], start: Start, events: int, *, redis: bool = True) -> Measured:
    """From the first replies that `count()` sees until it sees all. `redis`: whether the servers use it."""
    servers = start()
    until(count, every=0.001)
    before, watch = count(), Stopwatch(*servers, redis=harness.redis if redis else None)
    until(lambda: count() == events, every=0.005)
    return watch.stop(events - before)


def pubsub(harness: Harness, loop: str) -> Measured:
    """What waits for it lies in Redis's buffer for a subscriber, while the stage stands still."""
    stage = harness.peer("pubsub", "distance", loop, REDIS_URL=harness.redis.url)
    with socket.create_connection(("127.0.0.1", harness.redis.port)) as link:
        link.sendall(f"SUBSCRIBE {NEXT}\r\n".encode())
        link.recv(4096)
        stage.freeze()
        with redis.Redis.from_url(harness.redis.url) as client:
            pipeline = client.pipeline(transaction=False)
            for number in range(EVENTS):
                pipeline.publish("raw_input", json.dumps(fill.submission(number).data))
            pipeline.execute()
        watch = Stopwatch(stage, redis=harness.redis)
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
            Figure("redis", "one hop with reply: CPU of its Redis", "CPU s/1000"),
            Figure("all", "one hop with reply: CPU of function, bridge and Redis", "CPU s/1000"),
        ),
        {
            OURS: ours,
            "FastStream stage": faststream,
            "docket": partial(tasks, module="docket_stages", stream="store:stream"),
            "taskiq": partial(tasks, module="taskiq_stages", stream="store"),
            "DBOS": dbos,
            "pub/sub stage, busy": partial(pubsub, loop="busy"),
            "pub/sub stage, waiting": partial(pubsub, loop="waiting"),
        },
    ),
    Bench(
        "hop-alone",
        (
            Figure("rate", "one hop with reply, one event a request", "events/s", more_is_better=True),
            Figure("cpu", "one hop with reply, one event a request: CPU of both", "CPU s/1000"),
            Figure("redis", "one hop with reply, one event a request: CPU of its Redis", "CPU s/1000"),
        ),
        {OURS: partial(ours, batch=1)},
    ),
]
