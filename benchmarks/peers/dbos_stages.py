"""DBOS on SQLite: a workflow with a step for each stage, in the process that has the form handler.

python -m benchmarks.peers.dbos_stages fill EVENTS      enqueue workflows with the step `distance` alone
python -m benchmarks.peers.dbos_stages distance         run them
uvicorn benchmarks.peers.dbos_stages:app                the form handler and the pipeline
DATABASE (a path), MONGO_URL and SENT_EMAILS in the environment.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from dbos import DBOS, DBOSConfig

from benchmarks.peers import work

QUEUE = "distance"
CONFIG = DBOSConfig(
    name="pipeline",
    application_version="1",
    system_database_url=f"sqlite:///{os.environ['DATABASE']}",
    log_level="WARNING",
)


@DBOS.step()
async def distance(lat: float, long: float) -> float:
    return work.miles(lat, long)


@DBOS.step()
async def store(address: str, miles: float) -> None:
    await work.store(address, miles)


@DBOS.step()
async def email(address: str) -> None:
    await work.email(address)


@DBOS.workflow()
async def hop(address: str, lat: float, long: float) -> tuple[str, float]:
    return address, await distance(lat, long)


@DBOS.workflow()
async def pipeline(address: str, lat: float, long: float) -> None:
    await store(address, await distance(lat, long))
    await email(address)


@asynccontextmanager
async def launched(_: object) -> AsyncIterator[None]:
    """Launch DBOS with the form handler, and end it with it."""
    DBOS.launch()
    yield
    DBOS.destroy()


async def submit(address: str, lat: float, long: float) -> None:
    await DBOS.start_workflow_async(pipeline, address, lat, long)


async def fill(events: int) -> None:
    """Enqueue workflows and run none."""
    DBOS.listen_queues([])
    DBOS.launch()
    await DBOS.register_queue_async(QUEUE)
    for number in range(events):
        await DBOS.enqueue_workflow_async(QUEUE, hop, f"{number}@example.org", 51.5074, -0.1278)
    DBOS.destroy()


async def run() -> None:
    DBOS.launch()
    await DBOS.register_queue_async(QUEUE)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    DBOS(config=CONFIG)
    uvloop.run(fill(int(sys.argv[2])) if sys.argv[1] == "fill" else run())
else:
    from benchmarks.peers.door import door

    DBOS(config=CONFIG)
    app = door(submit, launched)
