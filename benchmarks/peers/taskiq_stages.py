"""taskiq on Redis streams: each stage is a task that kicks the task of the next stage. A stage has a queue and a worker
of its own.

python -m benchmarks.peers.taskiq_stages fill EVENTS              kick tasks of the stage `distance`
python -m benchmarks.peers.taskiq_stages distance|store|email     a worker of the stage
uvicorn benchmarks.peers.taskiq_stages:app                        the form handler
REDIS_URL, MONGO_URL and SENT_EMAILS in the environment.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from benchmarks.peers import work

AT_ONCE = 100

QUEUE = sys.argv[1] if sys.argv[1] in {"store", "email"} else "distance"
broker = RedisStreamBroker(os.environ["REDIS_URL"], queue_name=QUEUE)


@broker.task("distance", queue_name="distance")
async def distance(address: str, lat: float, long: float) -> None:
    await store.kiq(address, work.miles(lat, long))


@broker.task("store", queue_name="store")
async def store(address: str, miles: float) -> None:
    await work.store(address, miles)
    await email.kiq(address)


@broker.task("email", queue_name="email")
async def email(address: str) -> None:
    await work.email(address)


@asynccontextmanager
async def opened(*_: Any) -> AsyncIterator[None]:
    """Make the queue's consumer group. It reads the entries that come after it."""
    await broker.startup()
    yield
    await broker.shutdown()


async def submit(address: str, lat: float, long: float) -> None:
    await distance.kiq(address, lat, long)


async def fill(events: int) -> None:
    async with opened():
        for first in range(0, events, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, events))
            await asyncio.gather(*(submit(f"{number}@example.org", 51.5074, -0.1278) for number in numbers))


async def run() -> None:
    async with opened():
        print("ready", flush=True)
        await run_receiver_task(broker)


if __name__ == "__main__":
    uvloop.run(fill(int(sys.argv[2])) if sys.argv[1] == "fill" else run())
else:
    from benchmarks.peers.door import door

    app = door(submit, opened)
