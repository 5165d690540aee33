"""The whole pipeline, form to e-mail, on a stand-in for MongoDB that costs next to nothing (benchmarks/mongo.py)."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvloop

from benchmarks import load
from benchmarks.accounts import cpu, peak_memory
from benchmarks.bench import OURS, Bench, Figure, Measured
from benchmarks.harness import Harness, Peer, Stopwatch, idle_seconds, own_python
from benchmarks.mails import Mails
from benchmarks.rows.function import Uvicorn
from benchmarks.rows.hop import TASKS, WORKFLOWS
from benchmarks.rows.latency import figures
from milepost import stage_values
from tests.servers import ROOT, Server

EVENTS = 5_000
RATE = 50.0
PACED = 1_500
WARM = 100
IDLE = 20.0
"""Seconds for which idleness is measured."""


@dataclass(frozen=True)
class Pipeline:
    """A door and the services behind it. `functions`: those of `services` whose memory is looked at. `redis`: whether
    the services use it.
    """

    door: Server
    services: tuple[Server, ...]
    functions: tuple[Server, ...] = ()
    redis: bool = True


def environment(harness: Harness) -> dict[str, str]:
    mongo = harness.start(Peer(harness.folder, "benchmarks.mongo", "PORT", python=own_python()))
    harness.sent_emails.unlink(missing_ok=True)
    os.mkfifo(harness.sent_emails)
    url = f"mongodb://127.0.0.1:{mongo.port}/milepost"
    return {"REDIS_URL": harness.redis.url, "MONGO_URL": url, "SENT_EMAILS": str(harness.sent_emails)}


def ours(harness: Harness, **delivery: Any) -> Pipeline:
    """As it is shipped, but for what `delivery` says of each stage."""
    env = environment(harness)
    stages = {stage.name: stage for stage in stage_values.read(ROOT)}
    functions = {name: harness.function(name, **env) for name in stages}
    routes = [
        {
            "name": name,
            "consumes": stage.consumes,
            "emits": stage.emits,
            "url": functions[name].url,
            **stage.delivery,
            **delivery,
        }
        for name, stage in stages.items()
    ]
    bridge = harness.bridge(*routes)
    gateway = harness.gateway(**env)
    return Pipeline(gateway, (gateway, bridge, *functions.values()), tuple(functions.values()))


def pubsub(harness: Harness, *, loop: str) -> Pipeline:
    env = environment(harness)
    stages = [harness.peer("pubsub", name, loop, **env) for name in ("distance", "store", "email")]
    door = harness.start(Uvicorn(harness, "benchmarks.peers.form:app", **env))
    return Pipeline(door, (door, *stages), tuple(stages))


def tasks(harness: Harness, *, module: str) -> Pipeline:
    """A queue of tasks, and a worker for each stage."""
    env = environment(harness)
    stages = [harness.peer(module, name, **env) for name in ("distance", "store", "email")]
    door = harness.start(Uvicorn(harness, f"benchmarks.peers.{module}:app", **env))
    return Pipeline(door, (door, *stages), tuple(stages))


def dbos(harness: Harness) -> Pipeline:
    """One process: the steps run where the form handler is."""
    env = {**environment(harness), "DATABASE": str(harness.folder / "dbos.sqlite")}
    door = harness.start(Uvicorn(harness, "benchmarks.peers.dbos_stages:app", **env))
    return Pipeline(door, (door,), (door,), redis=False)


def throughput(harness: Harness, *, build: Callable[[Harness], Pipeline], events: int = EVENTS) -> Measured:
    pipeline = build(harness)

    async def run() -> Measured:
        mails = Mails(harness.sent_emails)
        try:
            await load.closed_loop(pipeline.door.port, [load.form(number) for number in range(events, events + WARM)])
            await mails.all(WARM)
            watch = Stopwatch(*pipeline.services, redis=harness.redis if pipeline.redis else None)
            await load.closed_loop(pipeline.door.port, [load.form(number) for number in range(events)])
            await mails.all(events + WARM)
            return watch.stop(events)
        finally:
            mails.close()

    found = uvloop.run(run())
    return {**found, "memory": max(peak_memory([function.pid]) for function in pipeline.functions)}


def latency(harness: Harness, *, build: Callable[[Harness], Pipeline]) -> Measured:
    pipeline = build(harness)

    async def run() -> Measured:
        mails = Mails(harness.sent_emails)
        try:
            forms = [load.form(number) for number in range(PACED + WARM)]
            sent = await load.paced(pipeline.door.port, forms, rate=RATE)
            await mails.all(len(forms))
            return figures(sent[WARM:], [mails.sent[number] for number in range(WARM, len(forms))])
        finally:
            mails.close()

    return uvloop.run(run())


def idle(harness: Harness, *, build: Callable[[Harness], Pipeline], functions: bool = True) -> Measured:
    """CPU of one core, in percent, of the services and Redis with nothing to do."""
    pipeline = build(harness)
    running = [one for one in pipeline.services if functions or one not in pipeline.functions]
    for gone in set(pipeline.services) - set(running):
        gone.close()
    pids = [one.pid for one in (*running, harness.redis)]
    idle_seconds(3)
    before = cpu(pids)
    idle_seconds(IDLE)
    return {"idle": (cpu(pids) - before) / IDLE * 100}


def posts(harness: Harness, *, build: Callable[[Harness], Server]) -> Measured:
    door = build(harness)
    uvloop.run(load.closed_loop(door.port, [load.form(number) for number in range(EVENTS, EVENTS + WARM)]))
    watch = Stopwatch(door)
    uvloop.run(load.closed_loop(door.port, [load.form(number) for number in range(EVENTS)]))
    return watch.stop(EVENTS)


def _gateway(harness: Harness) -> Server:
    return harness.gateway()


def _form(harness: Harness) -> Server:
    return harness.start(Uvicorn(harness, "benchmarks.peers.form:app", REDIS_URL=harness.redis.url))


BUSY, WAITING = partial(pubsub, loop="busy"), partial(pubsub, loop="waiting")
DOCKET, TASKIQ = partial(tasks, module="docket_stages"), partial(tasks, module="taskiq_stages")

BENCHES = [
    Bench(
        "pipeline",
        (
            Figure("rate", "whole pipeline, form to e-mail", "events/s", 2_000, more_is_better=True),
            Figure("cpu", "whole pipeline: CPU of its services", "CPU s/1000", 0.8),
            Figure("redis", "whole pipeline: CPU of its Redis", "CPU s/1000"),
            Figure("all", "whole pipeline: CPU of its services and Redis", "CPU s/1000"),
            Figure("memory", "whole pipeline: peak memory of its largest function", "MB", 60),
        ),
        {
            OURS: partial(throughput, build=ours),
            "pub/sub, busy": partial(throughput, build=BUSY),
            "pub/sub, waiting": partial(throughput, build=WAITING),
            "docket": partial(throughput, build=DOCKET, events=TASKS),
            "taskiq": partial(throughput, build=TASKIQ, events=TASKS),
            "DBOS": partial(throughput, build=dbos, events=WORKFLOWS),
        },
    ),
    Bench(
        "pipeline-alone",
        (
            Figure("rate", "whole pipeline, one event a request", "events/s", more_is_better=True),
            Figure("cpu", "whole pipeline, one event a request: CPU", "CPU s/1000"),
            Figure("redis", "whole pipeline, one event a request: CPU of its Redis", "CPU s/1000"),
        ),
        {OURS: partial(throughput, build=partial(ours, batch=1))},
    ),
    Bench(
        "pipeline-latency",
        (
            Figure("p50", "form to e-mail at 50/s: p50", "ms", 4.0),
            Figure("p99", "form to e-mail at 50/s: p99", "ms", 10.0),
        ),
        {
            OURS: partial(latency, build=ours),
            "pub/sub, busy": partial(latency, build=BUSY),
            "pub/sub, waiting": partial(latency, build=WAITING),
            "docket": partial(latency, build=DOCKET),
            "taskiq": partial(latency, build=TASKIQ),
        },
    ),
    Bench(
        "idle",
        (Figure("idle", "idle: gateway, bridge, Redis, functions at zero", "% CPU", 0.5),),
        {
            OURS: partial(idle, build=ours, functions=False),
            "pub/sub, busy": partial(idle, build=BUSY),
            "pub/sub, waiting": partial(idle, build=WAITING),
        },
        durable=False,
    ),
    Bench(
        "gateway",
        (
            Figure("rate", "gateway, POSTs of a form, one process", "events/s", 3_000, more_is_better=True),
            Figure("cpu", "gateway, POSTs of a form: CPU", "CPU s/1000"),
        ),
        {OURS: partial(posts, build=_gateway), "fire-and-forget form handler": partial(posts, build=_form)},
    ),
]
