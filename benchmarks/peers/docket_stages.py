"""docket: each stage is a task that adds the task of the next stage. A stage has a docket and a worker of its own.

python -m benchmarks.peers.docket_stages fill EVENTS              add tasks of the stage `distance`
python -m benchmarks.peers.docket_stages distance|store|email     a worker of the stage
uvicorn benchmarks.peers.docket_stages:app                        the form handler
REDIS_URL, MONGO_URL and SENT_EMAILS in the environment.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import uvloop
from docket import Docket, Worker

from benchmarks.peers import work

CONCURRENCY = 128
CHECK_EVERY = timedelta(milliseconds=10)
"""A worker whose slots are all taken sleeps for so long. At the defaults of `docket worker`, 10 slots and 100 ms, it
would run at most 100 tasks a second.
"""
URL = os.environ["REDIS_URL"] + "?max_connections=200"  # its documents want more connections than slots
AT_ONCE = 100


async def distance(address: str, lat: float, long: float) -> None:
    await dockets["store"].add(store)(address, work.miles(lat, long))


async def store(address: str, miles: float) -> None:
    await work.store(address, miles)
    await dockets["email"].add(email)(address)


async def email(address: str) -> None:
    await work.email(address)


TASKS = {task.__name__: task for task in (distance, store, email)}
dockets = {name: Docket(name=name, url=URL) for name in TASKS}


@asynccontextmanager
async def opened(*_: Any) -> AsyncIterator[None]:
    """Connect the dockets."""
    async with AsyncExitStack() as stack:
        for docket in dockets.values():
            await stack.enter_async_context(docket)
        yield


async def submit(address: str, lat: float, long: float) -> None:
    await dockets["distance"].add(distance)(address, lat, long)


async def fill(events: int) -> None:
    async with opened():
        for first in range(0, events, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, events))
            await asyncio.gather(*(submit(f"{number}@example.org", 51.5074, -0.1278) for number in numbers))


async def run(stage: str) -> None:
    dockets[stage].register(TASKS[stage])
    async with opened(), Worker(dockets[stage], concurrency=CONCURRENCY, minimum_check_interval=CHECK_EVERY) as worker:
        print("ready", flush=True)
        await worker.run_forever()


if __name__ == "__main__":
    uvloop.run(fill(int(sys.argv[2])) if sys.argv[1] == "fill" else run(sys.argv[1]))
else:
    from benchmarks.peers.door import door

    app = door(submit, opened)
