"""Several bridges: they come and go, one leads, one freezes."""

import asyncio
import json
import random
import time
from functools import partial
from signal import SIGKILL, SIGTERM

from milepost.journal import keys
from tests.faults.history import Operation
from tests.faults.load import Acceptance
from tests.faults.registry import fault
from tests.faults.run import Run
from tests.servers import Module, eventually, http_status

BEYOND_CLAIM = 5.0
"""Seconds; the claim is 3 here."""

CHANGES = 8
"""How often a bridge is ended or started."""


async def come_and_go(run: Run) -> None:
    stack, bridges = run.stack, run.stack.bridges
    for _ in range(CHANGES):
        bridge = random.choice(bridges)
        if bridge.alive:
            await stack.down(bridge, random.choice([SIGTERM, SIGKILL]))
        else:
            await stack.up(bridge)
        await asyncio.sleep(random.random())
    await asyncio.gather(*(stack.up(bridge) for bridge in bridges if not bridge.alive))


@fault("3 bridges restarted one after the other while Redis is away", bridges=3, twin=True)
async def rolling_restart(run: Run) -> None:
    stack = run.stack
    await stack.down(stack.redis, SIGKILL)
    starting: list[asyncio.Task[None]] = []
    for bridge in stack.bridges:
        await stack.down(bridge)
        starting.append(asyncio.create_task(stack.up(bridge)))

        async def lives(port: int = bridge.port) -> bool:
            return await asyncio.to_thread(http_status, port, "/healthz") == 200

        await eventually(lives, what="the next bridge lives")
    run.check(not any(task.done() for task in starting), "a bridge was ready without Redis")
    await stack.up(stack.redis)
    await asyncio.gather(*starting)


for _count in (2, 3):
    fault(f"{_count} bridges, ended and started at random", bridges=_count, twin=True)(come_and_go)


async def leader(run: Run) -> Module:
    """The bridge that holds the lease."""
    leading: list[Module] = []

    async def one_leads() -> bool:
        for bridge in run.stack.bridges:
            if bridge.alive and await run.metric(bridge, "milepost_leading") == 1:
                leading[:] = [bridge]
        return bool(leading)

    await eventually(one_leads, what="a bridge that leads")
    return leading[0]


@fault("the leading bridge: SIGKILL, plain messages lost in the gap are shown", bridges=2, twin=True, bounded=True)
async def leader_killed(run: Run) -> None:
    stack = run.stack
    killed = await leader(run)
    await stack.down(killed, SIGKILL)
    redis = stack.client
    for number in range(50):
        plain = run.load.new(f"plain{number}@example.org")
        plain.acceptance = Acceptance.UNANSWERED
        attempt = Operation("publish", time.monotonic(), by="plain message", to=plain.email, line=plain.line)
        stack.history.add(attempt)
        await redis.publish("raw_input", json.dumps(plain.body))
        await asyncio.sleep(0.05)
    await stack.up(killed)
    await leader(run)


@fault("a bridge frozen beyond claim and lease, its work taken over, and continued", bridges=2)
async def frozen(run: Run) -> None:
    stack = run.stack
    sleeper = await leader(run)
    token = await stack.client.get(keys.LEASE)
    stack.freeze(sleeper)
    stack.asleep.add(sleeper)

    async def succeeded() -> bool:
        return await stack.client.get(keys.LEASE) not in {token, None}

    await eventually(succeeded, what="the other bridge leads")
    await asyncio.sleep(BEYOND_CLAIM)
    stack.thaw(sleeper)
    stack.asleep.discard(sleeper)


async def frozen_with_all(run: Run, *, seconds: float) -> None:
    """Gateway, bridge and functions stand still together, as on a machine that sleeps."""
    stack = run.stack
    everything = [stack.gateway, *stack.bridges, *stack.functions.values()]
    for server in everything:
        stack.freeze(server)
    await asyncio.sleep(seconds)
    for server in everything:
        stack.thaw(server)


fault("everything but the servers frozen for 10 s")(partial(frozen_with_all, seconds=10))


@fault(
    "one of two bridges: SIGKILL, with a backlog and the other one's places taken",
    bridges=2,
    delivery={"timeout": "PT60S"},
    twin=True,
)
async def killed_with_a_backlog(run: Run) -> None:
    """The other bridge takes over the killed one's events though it has a backlog, and no place is free."""
    stack = run.stack
    distance = stack.functions["distance"]
    stack.freeze(distance)

    async def held(bridge: Module) -> set[bytes]:
        streams = keys.journal("raw_input"), keys.retries("distance", "raw_input")
        found = [await stack.client.xpending_range(stream, "distance", "-", "+", 10_000) for stream in streams]
        rows = [row for of_stream in found for row in of_stream]
        pid = f"-{bridge.pid}-".encode()
        return {row["message_id"] for row in rows if pid in row["consumer"]}

    async def both_hold_some() -> bool:
        return all([await held(bridge) for bridge in stack.bridges])

    await eventually(both_hold_some, what="both bridges hold events")
    # After `timeout` the frozen stage counts as broken, and nothing is redelivered to it.
    await eventually(lambda: len(run.load.sent) >= min(run.n * 0.9, 300), what="a backlog")
    killed, other = stack.bridges
    theirs = await held(killed)
    await stack.down(killed, SIGKILL)

    async def redelivered() -> bool:
        return theirs <= await held(other)

    await eventually(redelivered, what="the other bridge has what the killed one held")
    (depth,) = await stack.journal.admin.depths({"distance": ["raw_input"]})
    run.check(depth.journaled > len(theirs), "there was no backlog")
    stack.thaw(distance)
    await stack.up(killed)
