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
from benchmarks.lab import Lab, Peer, Stopwatch, idle_seconds, own_python
from benchmarks.mails import Mails
from benchmarks.rows.function import Uvicorn
from benchmarks.rows.hop import TASKS, WORKFLOWS
from benchmarks.rows.latency import figures
from milepost import stages_table
from tests.servers import ROOT, Server

EVENTS = 5_000
RATE = 50.0
PACED = 1_500
WARM = 100
IDLE = 20.0
"""Seconds for which idleness is measured."""


@dataclass(frozen=True)
class Pipeline:
    """A door and the services behind it. `functions` are those of `services` whose memory is looked at."""

    door: Server
    services: tuple[Server, ...]
    functions: tuple[Server, ...] = ()


def environment(lab: Lab) -> dict[str, str]:
    mongo = lab.start(Peer(lab.folder, "benchmarks.mongo", "PORT", python=own_python()))
    lab.sent_emails.unlink(missing_ok=True)
    os.mkfifo(lab.sent_emails)
    url = f"mongodb://127.0.0.1:{mongo.port}/milepost"
    return {"REDIS_URL": lab.redis.url, "MONGO_URL": url, "SENT_EMAILS": str(lab.sent_emails)}


def ours(lab: Lab, **delivery: Any) -> Pipeline:
    """As it is shipped, but for what `delivery` says of each stage."""
    env = environment(lab)
    stages = {stage.name: stage for stage in stages_table.read(ROOT)}
    functions = {name: lab.function(name, **env) for name in stages}
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
    bridge = lab.bridge(*routes)
    gateway = lab.gateway(**env)
    return Pipeline(gateway, (gateway, bridge, *functions.values()), tuple(functions.values()))


def pubsub(lab: Lab, *, loop: str) -> Pipeline:
    env = environment(lab)
    stages = [lab.peer("pubsub", name, loop, **env) for name in ("distance", "store", "email")]
    door = lab.start(Uvicorn(lab, "benchmarks.peers.form:app", **env))
    return Pipeline(door, (door, *stages), tuple(stages))


def tasks(lab: Lab, *, module: str) -> Pipeline:
    """A queue of tasks, and a worker for each stage."""
    env = environment(lab)
    stages = [lab.peer(module, name, **env) for name in ("distance", "store", "email")]
    door = lab.start(Uvicorn(lab, f"benchmarks.peers.{module}:app", **env))
    return Pipeline(door, (door, *stages), tuple(stages))


def dbos(lab: Lab) -> Pipeline:
    """One process: the steps run where the form handler is."""
    env = {**environment(lab), "DATABASE": str(lab.folder / "dbos.sqlite")}
    door = lab.start(Uvicorn(lab, "benchmarks.peers.dbos_stages:app", **env))
    return Pipeline(door, (door,), (door,))


def throughput(lab: Lab, *, build: Callable[[Lab], Pipeline], events: int = EVENTS) -> Measured:
    pipeline = build(lab)

    async def run() -> Measured:
        mails = Mails(lab.sent_emails)
        try:
            await load.closed_loop(pipeline.door.port, [load.form(number) for number in range(events, events + WARM)])
            await mails.all(WARM)
            watch = Stopwatch(*pipeline.services, redis=lab.redis)
            await load.closed_loop(pipeline.door.port, [load.form(number) for number in range(events)])
            await mails.all(events + WARM)
            return watch.stop(events)
        finally:
            mails.close()

    found = uvloop.run(run())
    return {**found, "memory": max(peak_memory([function.pid]) for function in pipeline.functions)}


def latency(lab: Lab, *, build: Callable[[Lab], Pipeline]) -> Measured:
    pipeline = build(lab)

    async def run() -> Measured:
        mails = Mails(lab.sent_emails)
        try:
            forms = [load.form(number) for number in range(PACED + WARM)]
            sent = await load.paced(pipeline.door.port, forms, rate=RATE)
            await mails.all(len(forms))
            return figures(sent[WARM:], [mails.sent[number] for number in range(WARM, len(forms))])
        finally:
            mails.close()

    return uvloop.run(run())


def idle(lab: Lab, *, build: Callable[[Lab], Pipeline], functions: bool = True) -> Measured:
    """CPU of one core, in percent, of the services and Redis with nothing to do."""
    pipeline = build(lab)
    running = [one for one in pipeline.services if functions or one not in pipeline.functions]
    for gone in set(pipeline.services) - set(running):
        gone.close()
    pids = [one.pid for one in (*running, lab.redis)]
    idle_seconds(3)
    before = cpu(pids)
    idle_seconds(IDLE)
    return {"idle": (cpu(pids) - before) / IDLE * 100}


def posts(lab: Lab, *, build: Callable[[Lab], Server]) -> Measured:
    door = build(lab)
    uvloop.run(load.closed_loop(door.port, [load.form(number) for number in range(EVENTS, EVENTS + WARM)]))
    watch = Stopwatch(door)
    uvloop.run(load.closed_loop(door.port, [load.form(number) for number in range(EVENTS)]))
    return watch.stop(EVENTS)


def _gateway(lab: Lab) -> Server:
    return lab.gateway()


def _form(lab: Lab) -> Server:
    return lab.start(Uvicorn(lab, "benchmarks.peers.form:app", REDIS_URL=lab.redis.url))


BUSY, WAITING = partial(pubsub, loop="busy"), partial(pubsub, loop="waiting")
DOCKET, TASKIQ = partial(tasks, module="docket_stages"), partial(tasks, module="taskiq_stages")

BENCHES = [
    Bench(
        "pipeline",
        (
            Figure("rate", "whole pipeline, form to e-mail", "events/s", 2_000, more_is_better=True),
            Figure("cpu", "whole pipeline: CPU of its services", "CPU s/1000", 0.8),
            Figure("redis", "whole pipeline: CPU of its Redis", "CPU s/1000"),
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
