"""Faults of Redis and MongoDB that do not end them."""

import asyncio

from redis.exceptions import ResponseError

from milepost.journal import keys
from tests.faults.registry import fault, on_every_redis
from tests.faults.run import Run
from tests.faults.state import ids_in

JOURNAL = keys.journal("calculated_distance")
SPELL = 6.0


@on_every_redis("the journal deleted")
async def journal_deleted(run: Run) -> None:
    """The events in it are destroyed, and known by id; later ones are not."""
    for channel in ("raw_input", "calculated_distance", "user:email"):
        async with run.stack.client.pipeline(transaction=True) as step:
            step.xrange(keys.journal(channel))
            step.delete(keys.journal(channel))
            rows, _ = await step.execute()
        run.destroy(ids_in(rows))
        await asyncio.sleep(0.5)


@on_every_redis("consumer groups destroyed")
async def groups_destroyed(run: Run) -> None:
    for _ in range(3):
        for entry in run.stack.stages:
            try:
                await run.stack.client.xgroup_destroy(keys.journal(entry.consumes), entry.name)
            except ResponseError as missing:  # trimmed to nothing, or not made again yet
                run.note(str(missing))
        await asyncio.sleep(0.7)


@on_every_redis("SCRIPT FLUSH")
async def scripts_flushed(run: Run) -> None:
    for _ in range(20):
        await run.stack.client.script_flush()
        await asyncio.sleep(0.1)


@on_every_redis("Redis full for 6 s")
async def full(run: Run) -> None:
    redis = run.stack.client
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", used + 30_000)
    await asyncio.sleep(SPELL)
    await redis.config_set("maxmemory", 0)


@on_every_redis("CLIENT PAUSE for 8 s")
async def paused(run: Run) -> None:
    await run.stack.client.client_pause(8000)
    await asyncio.sleep(8)


@on_every_redis("half-open connections to Redis", server_behind_proxy="redis")
async def redis_half_open(run: Run) -> None:
    run.check(run.stack.stall(), "there was no connection to stall")


@fault("half-open connections to MongoDB", server_behind_proxy="mongo")
async def mongo_half_open(run: Run) -> None:
    run.check(run.stack.stall(), "there was no connection to stall")


@on_every_redis("Redis silent for 8 s", server_behind_proxy="redis")
async def redis_silent(run: Run) -> None:
    run.stack.freeze(run.stack.proxy)
    await asyncio.sleep(8)
    run.stack.thaw(run.stack.proxy)


@fault("MongoDB silent for 8 s", server_behind_proxy="mongo", resends=True)
async def mongo_silent(run: Run) -> None:
    """Longer than a request lasts: the window between mail and mark opens as if MongoDB had died."""
    run.stack.freeze(run.stack.proxy)
    await asyncio.sleep(8)
    run.stack.thaw(run.stack.proxy)


@fault("MongoDB frozen for 8 s", resends=True)
async def mongo_frozen(run: Run) -> None:
    run.stack.freeze(run.stack.mongo)
    await asyncio.sleep(8)
    run.stack.thaw(run.stack.mongo)
