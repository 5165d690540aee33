"""Stages and bridges that come later than the events, stages that go, and stages that split and choose."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from signal import SIGKILL
from typing import Any

from milepost.events.batch import part_id
from milepost.events.event import Event
from milepost.journal import keys
from milepost.journal.subscription import subscribed
from tests.bridge.rig import Answer, Delivery, Script, Stage, replied, together
from tests.faults.history import Operation
from tests.faults.registry import fault
from tests.faults.run import Run
from tests.faults.state import ids_in
from tests.servers import ANSWER_WITHIN, eventually

CHANNEL = "calculated_distance"

PARTS = 3
SIDES = ("left", "right")
"""Into how many parts an event is split, and the two channels on which a part may be answered."""

END = b"end"
"""A message that is no part: all parts were published before it."""


@fault("500 events published before the first bridge ever started", loaded=False, most=500, bridges=0)
async def before_the_first_bridge(run: Run) -> None:
    await run.load.submit(run.n, doors=("gateway", "publish"))
    run.check(await run.stack.journal.backlog() >= len(run.load.accepted), "the journal holds less than was accepted")
    await run.stack.up(run.stack.add_bridge())
    await run.recover()


async def recorded(run: Run, name: str, consumes: str, script: Script | None = None, key: str = "email") -> Stage:
    """A stage of the row's own, whose script must not wait. The history has its deliveries, each with its `key`."""
    stage = Stage(name, consumes, None, script)
    made = stage.script

    def answer(delivery: Delivery) -> Answer:
        stage.received.clear()  # there may be very many, and the history has them
        begin, response = time.monotonic(), made(delivery)
        assert isinstance(response, bytes)
        event, status = delivery.event, int(response.split(b" ", 2)[1])
        address = str(event.data[key])
        run.stack.history.add(Operation("deliver", begin, time.monotonic(), event.id, status, name, address))
        return response

    stage.script = answer
    return await stage.open()


async def audited(run: Run) -> Stage:
    """A stage of the suite's own on the channel that `store` consumes, and the route to it."""
    stage = await recorded(run, "audit", CHANNEL)
    run.stack.extra_routes.append({"name": "audit", "consumes": CHANNEL, "url": stage.url})
    return stage


@fault("a stage added later gets the events still in the journal", loaded=False, most=600, twin=True)
async def added_later(run: Run) -> None:
    stack = run.stack
    store = stack.functions["store"]
    await stack.down(store, SIGKILL)
    if run.fault.waiting:
        await run.fill()
    await run.load.submit(run.n)

    async def all_before_store() -> bool:
        (depth,) = await stack.journal.admin.depths({"distance": ["raw_input"]})
        return depth.journaled == depth.parked == 0

    await eventually(all_before_store, within=600, what="all events wait for store")
    await run.fault_begins()
    audit = await audited(run)
    await stack.up(stack.add_bridge())
    rows: Any = await run.stack.client.xrange(keys.journal(CHANNEL))
    there = set(ids_in(row for row in rows if not row[1].get(b"for")))  # parked events are for one stage alone
    left = stack.is_ordered("store") or len(there) > run.n // 2  # an ordered stage takes its events out of the journal
    run.check(left, "little lay in the journal: the row shows nothing")
    await stack.up(store)
    await run.recover()
    await eventually(lambda: there <= set(audit.count), within=600, what="it reaches the new stage")
    run.check(set(audit.count.values()) <= {1}, "the new stage got an event twice")
    await audit.close()
    await forget(run)


@fault("a stage removed is shown, and pins nothing once forgotten", loaded=False, most=600, twin=True)
async def removed(run: Run) -> None:
    audit = await audited(run)
    stack = run.stack
    second = stack.add_bridge()
    await stack.up(second)
    await run.load.submit(run.n // 2)
    await run.recover()
    if run.fault.waiting:
        await run.fill()
    await run.fault_begins()
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


@fault("a bridge of stages that split and choose: SIGKILL", loaded=False, most=600, twin=True)
async def split_and_chosen(run: Run) -> None:
    """Of each event all parts are published, once, and each part is answered on its own channel, once."""
    stack = run.stack
    split = await recorded(run, "split", CHANNEL, in_parts)
    choose = await recorded(run, "choose", "part", lambda delivery: replied(delivery.event, side(delivery.event.id)))
    stack.extra_routes += [split.route(emits=["part"], split=True), choose.route(emits=[*SIDES])]
    killed, alive = stack.add_bridge(), stack.add_bridge()
    await asyncio.gather(stack.up(killed), stack.up(alive))
    async with noted_parts(run):
        if run.fault.waiting:
            await run.fill()
        async with run.loaded():
            await eventually(lambda: choose.count, what="parts")
            await stack.down(killed, SIGKILL)

        async def all_answered() -> bool:
            depths = await stack.journal.admin.depths({"split": [CHANNEL], "choose": ["part"]})
            return not any(depth.journaled or depth.parked or depth.dead for depth in depths)

        await eventually(all_answered, 600, "every part is answered")
    run.parts = sides_of_parts
    await split.close()
    await choose.close()


@asynccontextmanager
async def noted_parts(run: Run) -> AsyncIterator[None]:
    """The history has every part that is answered meanwhile. It is published in the step that journals it."""
    async with subscribed(run.stack.client) as subscription:
        await subscription.subscribe(*SIDES)

        async def note() -> None:
            async for messages in subscription.messages(silence=60):
                for message in messages:
                    if message.kind != b"message":
                        continue
                    if message.data == END:
                        return
                    now, part = time.monotonic(), json.loads(message.data)
                    operation = Operation("part", now, now, part["id"], by=message.channel.decode())
                    run.stack.history.add(replace(operation, to=part["data"]["email"]))

        noting = asyncio.create_task(note())
        try:
            yield
            await run.stack.client.publish(SIDES[0], END)
            await asyncio.wait_for(noting, ANSWER_WITHIN)
        finally:
            noting.cancel()


def in_parts(delivery: Delivery) -> Answer:
    event = delivery.event
    ids = [part_id(event.id, place) for place in range(PARTS)]
    return together([Event(id=one, source="/split", type="part", data=event.data) for one in ids])


def side(part: str) -> str:
    return SIDES[sum(part.encode()) % 2]


def sides_of_parts(event_id: str) -> Mapping[str, str]:
    return {part: side(part) for part in (part_id(event_id, place) for place in range(PARTS))}
