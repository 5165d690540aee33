"""What lasts: a stage that is away or broken for long, and a backlog that is large."""

import asyncio
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

from milepost.bridge.retry import BROKEN_AFTER
from milepost.events.event import Event, now
from milepost.journal import Journal, keys
from tests.bridge.rig import Answer, Delivery, status
from tests.faults.history import Operation
from tests.faults.registry import fault
from tests.faults.rows.stages import recorded
from tests.faults.run import Run
from tests.faults.stage_proxy import Behaviour, StageProxy
from tests.servers import Module, eventually

OUTAGE = 30.0
"""Seconds. With the settings below it is what ten minutes are to those that are shipped."""

SHORT = {"backoffDelay": "PT0.01S", "timeout": "PT3S"}

MAY_GROW = 20.0
"""MB that the bridge may grow by in an outage: the window's events, and what its allocator keeps."""

BACKLOG = 200_000
MOST_MEMORY = 100.0
"""MB of the bridge's process with that before it."""

DEDUP = 20
"""Seconds for which producers' retries are recognised in the row that waits for their keys to go."""


def memory(bridge: Module, field: str = "VmRSS") -> float:
    """MB of a process: now (VmRSS) or at most (VmHWM)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{bridge.pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


class ReturnedStage:
    """A stage that is back. The bridge may have one delivery more on the wire than this has answered."""

    def __init__(self) -> None:
        self.excess = 0
        self._on_wire = 0
        self._answered = 0

    async def behaviour(self, proxy: StageProxy, delivery: Delivery) -> Answer:
        self._on_wire += 1
        self.excess = max(self.excess, self._on_wire - self._answered - 1)
        answer = await proxy.forward(delivery)
        self._on_wire -= 1
        self._answered += 1
        return answer


async def broken(_proxy: StageProxy, _delivery: Delivery) -> Answer:
    return status(500)


async def hanging(_proxy: StageProxy, _delivery: Delivery) -> Answer:
    await asyncio.Event().wait()
    return None


async def outage(run: Run, *, behaviour: Behaviour | None) -> None:
    """`behaviour` None: nothing listens."""
    proxy, bridge = run.stack.proxies["store"], run.stack.bridge
    if behaviour is None:
        await proxy.refuse()
    else:
        proxy.behaviour = behaviour
    await asyncio.sleep(OUTAGE / 3)
    early = memory(bridge)
    await asyncio.sleep(OUTAGE * 2 / 3)
    late = memory(bridge)
    letters = await run.stack.journal.admin.dead_letters("store", count=1000)
    back = ReturnedStage()
    proxy.behaviour = back.behaviour
    if behaviour is None:
        await proxy.open()
    run.check(len(letters) <= BROKEN_AFTER, f"{len(letters)} events were buried")
    run.check(late - early <= MAY_GROW, f"the bridge grew from {early:.0f} to {late:.0f} MB")
    if letters:
        await run.milepost("dead", "replay", "store", "--all")
    await run.recover()
    run.check(back.excess <= 0, f"at its return the stage got {back.excess} deliveries too many at once")
    run.notes.append(f"bridge {early:.0f} MB, then {late:.0f} MB; {len(letters)} events buried, and replayed")


for _how, _behaviour in {"is away": None, "answers 500 to everything": broken, "hangs": hanging}.items():
    fault(f"store {_how} for 10 minutes, at a twentieth of all times", proxied=("store",), delivery=SHORT)(
        partial(outage, behaviour=_behaviour)
    )


@fault(
    "200,000 events in the backlog",
    loaded=False,
    most=600,
    no_twin="200,000 events wait in the row itself",
    bridge={"BACKLOG_LIMIT": str(BACKLOG), "DEDUP": f"PT{DEDUP}S"},
)
async def backlog(run: Run) -> None:
    """They lie before a stage of their own, which is away at first."""
    stack = run.stack
    bulk = await recorded(run, "bulk", "bulk", lambda _: status(204))
    await bulk.refuse()
    stack.extra_routes.append({"name": "bulk", "consumes": "bulk", "url": bulk.url})
    await stack.down(stack.bridges.pop())
    bridge = stack.add_bridge()
    await stack.up(bridge)

    empty = await used(run)
    journal = Journal(stack.client, stack.settings.model_copy(update={"dedup": timedelta(seconds=DEDUP)}))
    for numbers in portions(range(BACKLOG)):
        await asyncio.gather(*(published(run, journal, event(number), key="email") for number in numbers))
    run.notes.append(f"{(await used(run) - empty) / BACKLOG:.0f} bytes of Redis per event")
    await eventually(run.load.is_refused_as_full, what="the gateway's limit")
    run.check(memory(bridge, "VmHWM") < MOST_MEMORY, f"the bridge has {memory(bridge, 'VmHWM'):.0f} MB")

    await bulk.open()
    await eventually(lambda: bulk.count.total() >= BACKLOG, 600, "the backlog is delivered")
    run.check(bulk.count.total() == len(bulk.count) == BACKLOG, f"{bulk.count.total()} deliveries of {BACKLOG} events")
    run.check(memory(bridge, "VmHWM") < MOST_MEMORY, f"the bridge had {memory(bridge, 'VmHWM'):.0f} MB")
    run.notes.append(f"bridge {memory(bridge, 'VmHWM'):.0f} MB at most")

    await run.load.submit(run.n, doors=("gateway", "ingress"))
    await run.recover()
    await run.settle()
    await eventually(lambda: gone(run), DEDUP * 3, "what recognises retries is gone")
    await bulk.close()


async def published(run: Run, journal: Journal, event: Event, *, key: str) -> None:
    """Publish an event for a stage of the row's own. The history has it, with its `key`."""
    assert isinstance(event.data, dict)
    begin = time.monotonic()
    await journal.publish(event)
    run.stack.history.add(Operation("publish", begin, time.monotonic(), event.id, 202, "publish", str(event.data[key])))


def portions(numbers: range, size: int = 2000) -> Iterator[range]:
    """In portions of `size`, which are under way together."""
    return (numbers[first : first + size] for first in range(0, len(numbers), size))


def event(number: int) -> Event:
    """As large as a submission."""
    data = {"email": f"s{number}@example.org", "lat": -80.5, "long": 0.0005 * number}
    return Event(id=f"b{number}", source="/faults/bulk", type="bulk", time=now(), data=data)


async def used(run: Run) -> int:
    return int((await run.stack.client.info("memory"))["used_memory"])


async def gone(run: Run) -> bool:
    """Whether no dedup mark is left; the statuses of submissions expire by themselves too."""
    redis = run.stack.client
    if [key async for key in redis.scan_iter(f"{keys.seen('', '')[:-1]}*", count=10_000)]:
        return False
    noted = [key async for key in redis.scan_iter(f"{keys.status('')}*", count=10_000)]
    async with redis.pipeline(transaction=False) as each:
        for key in noted:
            each.ttl(key)
        stays = sum(ttl < 0 for ttl in await each.execute())
    run.check(not stays, f"{stays} of {len(noted)} submissions' progress stays for ever")
    return True
