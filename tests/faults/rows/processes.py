"""Processes that end: each component killed, and asked to end, twice in a row, and back after two seconds."""

import asyncio
import random
import time
from functools import partial
from signal import SIGKILL, SIGTERM, Signals

from tests.faults.registry import EVERY_REDIS, fault
from tests.faults.run import Run
from tests.servers import Server

AWAY = 2.0
"""Seconds until what ended is back."""

SLOW_FOR = 15.0
"""Seconds for which processes are stopped at random."""

MAY_LOSE = 2.0
"""Seconds before its end whose writes Redis may lose with appendfsync everysec."""

MAY_RESEND = {"email", "mongo"}


async def ends_twice(run: Run, server: Server, number: Signals) -> None:
    for _ in range(2):
        await run.stack.down(server, number)
        await asyncio.sleep(AWAY)
        await run.stack.up(server)


async def component_ends(run: Run, *, component: str, number: Signals) -> None:
    await ends_twice(run, run.stack.component(component), number)


@fault("nothing")
async def nothing(run: Run) -> None:
    """The stack left alone."""


for _number in (SIGKILL, SIGTERM):
    for _component in ("bridge", "distance", "store", "email", "gateway", "mongo"):
        fault(f"{_component}: {_number.name}", resends=_component in MAY_RESEND, twin=True)(
            partial(component_ends, component=_component, number=_number)
        )
    fault(f"one of two bridges: {_number.name}", bridges=2, twin=True, bounded=True)(
        partial(component_ends, component="bridge", number=_number)
    )
    for _kind, _server in EVERY_REDIS.items():
        fault(f"redis: {_number.name} ({_kind})", redis=_server, twin=True)(
            partial(component_ends, component="redis", number=_number)
        )

for _component in ("bridge", "distance", "store", "email", "redis"):
    fault(
        f"routes without a batch, {_component}: SIGKILL",
        resends=_component in MAY_RESEND,
        delivery={"batch": 1},
        twin=True,
    )(partial(component_ends, component=_component, number=SIGKILL))

for _kind, _server in EVERY_REDIS.items():
    fault(
        f"redis, appendfsync everysec: SIGKILL ({_kind})", redis=_server, fsync="everysec", may_lose=MAY_LOSE, twin=True
    )(partial(component_ends, component="redis", number=SIGKILL))


@fault("all of it: SIGKILL", resends=True, twin=True)
async def all_killed(run: Run) -> None:
    """The machine is gone, and comes back."""
    stack = run.stack
    everything = [stack.gateway, stack.bridge, *stack.functions.values(), stack.mongo, stack.redis]
    await asyncio.gather(*(stack.down(server, SIGKILL) for server in everything))
    await asyncio.sleep(AWAY)
    await asyncio.gather(*map(stack.up, everything))


@fault("every process stopped at random, for up to 2 s", bridges=2, resends=True)
async def stopped_at_random(run: Run) -> None:
    """A slow machine: up to three processes at once stand still for a moment."""
    stack = run.stack
    everything = [stack.gateway, *stack.bridges, *stack.functions.values(), stack.mongo, stack.redis]
    end = time.monotonic() + SLOW_FOR

    async def stop_some(choice: random.Random) -> None:
        while time.monotonic() < end:
            await asyncio.sleep(choice.uniform(0, 0.5))
            server = everything.pop(choice.randrange(len(everything)))
            stack.freeze(server)
            await asyncio.sleep(choice.uniform(0.05, 2))
            stack.thaw(server)
            everything.append(server)

    await asyncio.gather(*(stop_some(random.Random(random.random())) for _ in range(3)))


@fault("bridge: SIGKILL, default times", quick=False, twin=True)
async def bridge_killed_with_defaults(run: Run) -> None:
    """Claim 30 s, lease 10 s, timeout 60 s, as they are shipped."""
    await ends_twice(run, run.stack.bridge, SIGKILL)
