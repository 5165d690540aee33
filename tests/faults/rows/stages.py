"""Stages and bridges that come later than the events, and stages that go."""

from collections import Counter
from signal import SIGKILL
from typing import Any

from milepost.journal import keys
from tests.bridge.rig import Stage
from tests.faults.registry import fault
from tests.faults.run import Run
from tests.faults.state import ids_in
from tests.servers import eventually

CHANNEL = "calculated_distance"


@fault("500 events published before the first bridge ever started", loaded=False, most=500, bridges=0)
async def before_the_first_bridge(run: Run) -> None:
    await run.load.submit(run.n, doors=("gateway", "publish"))
    run.check(await run.stack.journal.backlog() >= len(run.load.accepted), "the journal holds less than was accepted")
    await run.stack.up(run.stack.add_bridge())
    await run.recover()


async def audited(run: Run) -> Stage:
    """A stage of the suite's own on the channel that `store` consumes, and the route to it."""
    stage = await Stage("audit", CHANNEL, None, None).open()
    run.stack.extra_routes.append({"name": "audit", "consumes": CHANNEL, "url": stage.url})
    return stage


@fault("a stage added later gets what is still in the journal", loaded=False, most=600)
async def added_later(run: Run) -> None:
    stack = run.stack
    store = stack.functions["store"]
    await stack.down(store, SIGKILL)
    await run.load.submit(run.n)

    async def all_before_store() -> bool:
        (depth,) = await stack.journal.admin.depths({"distance": ["raw_input"]})
        return depth.journaled == depth.parked == 0

    await eventually(all_before_store, what="all events wait for store")
    audit = await audited(run)
    await stack.up(stack.add_bridge())
    rows: Any = await run.stack.client.xrange(keys.journal(CHANNEL))
    there = set(ids_in(row for row in rows if not row[1].get(b"for")))  # what was parked is one stage's alone
    run.check(len(there) > run.n // 2, "little lay in the journal: the row shows nothing")
    await stack.up(store)
    await run.recover()
    await eventually(lambda: there <= set(audit.count), what="what lay in the journal reaches the new stage")
    run.check(max(audit.count.values()) == 1, "the new stage got an event twice")
    await audit.close()
    await forget(run)


@fault("a stage removed is shown, and pins nothing once forgotten", loaded=False, most=600)
async def removed(run: Run) -> None:
    audit = await audited(run)
    stack = run.stack
    second = stack.add_bridge()
    await stack.up(second)
    await run.load.submit(run.n // 2)
    await run.recover()
    await stack.down(second)
    await audit.close()
    await run.load.submit(run.n // 2)
    await run.recover()
    await forget(run)


async def forget(run: Run) -> None:
    """Bridges that serve `audit` stop, its beat grows old, it is shown as not served and forgotten."""
    for bridge in run.stack.bridges[1:]:
        if bridge.alive:
            await run.stack.down(bridge)

    async def not_served() -> bool:
        return any(stage.name == "audit" and not stage.served for stage in await run.stack.journal.admin.stages())

    await eventually(not_served, what="the stage is shown as not served")
    shown = Counter(stage.name for stage in await run.stack.journal.admin.stages())
    run.check(shown["audit"] == 1, "the stage is not shown")
    await run.milepost("stages", "forget", "audit", "--yes")
