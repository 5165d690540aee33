"""Makes `redis-0.1.jsonl`: what version 0.1 leaves in Redis when it is killed with events under way.

    git worktree add ../milepost-0.1 65617cc
    .venv/bin/python -m tests.upgrade.fill ../milepost-0.1 > tests/upgrade/redis-0.1.jsonl

The bridge and the commands are those of that checkout, run by this environment's Python.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from redis.asyncio import Redis

from milepost.events.event import Event
from tests.bridge.rig import Answer, Delivery, Stage, replied, status
from tests.servers import ANSWER_WITHIN, Module, Valkey, eventually
from tests.upgrade import snapshot

ROUTES = [
    {"name": "first", "consumes": "in", "emits": "middle"},
    {"name": "copy", "consumes": "in"},
    {"name": "second", "consumes": "middle", "emits": "out"},
    {"name": "late", "consumes": "tomorrow", "delay": "PT1H"},
]


class Old(Module):
    """A component of the old checkout."""


async def first(delivery: Delivery) -> Answer:
    """The stage `first`: the id of an event says how it answers."""
    event = delivery.event
    match event.id:
        case "pending":
            await asyncio.Event().wait()
        case "woken" if delivery.count > 1:
            await asyncio.Event().wait()
        case "woken":
            return status(500, retry_after="1")
        case "parked":
            return status(500, retry_after="290")
        case "dead":
            return status(422)
    return replied(event, "middle")


async def second(delivery: Delivery) -> Answer:
    if delivery.event.id == "halfway":
        await asyncio.Event().wait()
    return replied(delivery.event, "out")


async def fill(checkout: Path, folder: Path, redis: Redis, url: str) -> None:
    """Run 0.1 until each event is where it is to be found, and kill it."""
    Old.project = checkout
    scripts = {"first": first, "second": second}
    stages = [await Stage(str(r["name"]), r["consumes"], r.get("emits"), scripts.get(r["name"])).open() for r in ROUTES]
    routes = [{**route, "url": stage.url} for route, stage in zip(ROUTES, stages, strict=True)]
    bridge = Old(folder, "milepost.bridge", env={"REDIS_URL": url, "ROUTES": json.dumps(routes)}).launch()
    await eventually(lambda: asyncio.to_thread(bridge.is_ready), what="the old bridge is ready")
    async with httpx.AsyncClient(base_url=bridge.url, timeout=ANSWER_WITHIN) as client:
        for name in ("done-1", "done-2", "pending", "woken", "parked", "dead", "halfway"):
            await post(client, Event(id=name, source="/test", type="in", data=name))
        await post(client, Event(id="held", source="/test", type="tomorrow", data="held"))
    await redis.publish("in", '"plain"')
    await redis.publish("in", '{"specversion":"1.0","id":"","source":"/test","type":"in"}')
    counts = {stage.name: stage.count for stage in stages}
    await eventually(
        lambda: counts["first"]["woken"] == 2 and counts["first"]["parked"] and counts["second"]["halfway"]
    )
    await eventually(lambda: len(counts["second"]) == 4 and len(counts["copy"]) == 8)
    for key in ("waiting:first", "waiting:late", "dead:first", "dead:bridge", "stats"):
        await eventually(lambda key=key: redis.exists(f"{{milepost}}:{key}"), what=key)
    bridge.kill()
    # Journaled while no bridge runs, and never read.
    publish = [sys.executable, "-m", "milepost.cli", "publish", "in", "--redis-url", url]
    for name in ("unread-1", "unread-2"):
        named = [*publish, name, "--id", name, "--source", "/test"]
        env = {**os.environ, "PYTHONPATH": str(checkout)}
        made = await asyncio.create_subprocess_exec(*named, cwd=checkout, env=env, stdout=subprocess.DEVNULL)
        assert await made.wait() == 0
    await asyncio.gather(*(stage.close() for stage in stages))


async def post(client: httpx.AsyncClient, event: Event) -> None:
    headers, body = event.to_http()
    answer = await client.post("/", headers=headers, content=body)
    assert answer.status_code == 202, answer.text


async def main(checkout: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, Valkey(Path(folder)) as valkey:
        async with Redis.from_url(valkey.url) as redis:
            await fill(checkout, Path(folder), redis, valkey.url)
            taken = await snapshot.take(redis)
    sys.stdout.write(taken.replace(socket.gethostname(), "old-host"))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve()))
