"""The same event often; and many submissions that differ in nothing but their place."""

import asyncio
from functools import partial

from tests.faults.registry import fault
from tests.faults.run import Run
from tests.faults.stage_proxy import StageProxy


@fault(
    "every event delivered 1 to 5 times, in random order, concurrently",
    loaded=False,
    most=600,
    rate=30,
    proxied=("distance", "store", "email"),
)
async def delivered_often(run: Run) -> None:
    for proxy in run.stack.proxies.values():
        proxy.behaviour = StageProxy.forward_often
    await run.load.submit(run.n)


async def one_address(run: Run, *, together: int) -> None:
    for group in range(max(1, run.n // together // 4)):
        await run.load.together([run.load.new(f"shared{group}@example.org") for _ in range(together)])
        await asyncio.sleep(together / run.load.rate)


for _together in (2, 10, 100):
    fault(f"{_together} submissions at once for one address", loaded=False)(partial(one_address, together=_together))
