"""A paused stage is delivered nothing, also after restarts; the others go on."""

import asyncio

import pytest

from milepost.bridge.bridge import Bridge
from milepost.errors import BacklogFull
from milepost.events.event import Event
from milepost.journal import keys
from tests.bridge.rig import Answer, Delivery, Rig, replied, status, value
from tests.servers import WITHIN, eventually


def event(number: int) -> Event:
    return Event(id=str(number), source="/test", type="in", data={})


async def paused(rig: Rig, bridge: Bridge, stage: str) -> None:
    await rig.journal.admin.pause(stage)
    await eventually(lambda: value(bridge, "paused", stage=stage) == 1)


async def test_a_paused_stage_gets_nothing_until_it_is_resumed_and_others_go_on(rig: Rig) -> None:
    one, other = await rig.stage("one", "in", "out"), await rig.stage("other", "in")
    bridge = await rig.bridge()
    await paused(rig, bridge, "one")
    await rig.publish_all("in", ["1", "2", "3"])
    await eventually(lambda: len(other.received) == 3)
    assert one.received == []
    [row] = [row for row in await rig.journal.admin.stages() if row.name == "one"]
    assert (row.paused, row.served, row.journaled) == (True, True, 3)
    assert await rig.journal.admin.resume("one")
    await eventually(lambda: sorted(one.ids) == ["1", "2", "3"])
    assert value(bridge, "paused", stage="one") == 0
    assert not await rig.redis.exists(keys.PAUSED)


async def test_request_under_way_ends_and_its_retry_waits(rig: Rig) -> None:
    answer = asyncio.Event()

    async def script(delivery: Delivery) -> Answer:
        await answer.wait()
        return status(500) if delivery.event.id == "bad" and delivery.count == 1 else replied(delivery.event, "out")

    one = await rig.stage("one", "in", "out", script)
    bridge = await rig.bridge()
    await rig.publish_all("in", ["good", "bad"])
    await eventually(lambda: one.on_wire == 2)
    await paused(rig, bridge, "one")
    answer.set()
    await eventually(lambda: one.on_wire == 0)

    async def good_is_out_and_bad_waits() -> bool:
        [depth] = await rig.journal.admin.depths({"one": ["in"]})
        return await rig.journaled("out") == ["good"] and depth.journaled + depth.parked == 1

    await eventually(good_is_out_and_bad_waits)
    assert one.count["bad"] == 1
    await rig.journal.admin.resume("one")
    await eventually(lambda: one.count["bad"] == 2)


async def test_a_pause_survives_a_restart_and_holds_back_no_stop(rig: Rig) -> None:
    one = await rig.stage("one", "in", "out")
    bridge = await rig.bridge(grace="PT60S")
    await paused(rig, bridge, "one")
    await rig.publish("in", "1")  # a read that began before the pause may bring it
    async with asyncio.timeout(WITHIN):
        await rig.stop(bridge)
    bridge = await rig.bridge()
    assert value(bridge, "paused", stage="one") == 1
    assert one.received == []
    await rig.journal.admin.resume("one")
    await eventually(lambda: one.ids == ["1"])


async def test_stage_that_is_paused_before_the_start_is_paused_before_the_first_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await rig.stage("one", "in", "out"), await rig.stage("other", "in")
    await rig.redis.sadd(keys.PAUSED, "one")
    bridge = Bridge(rig.settings())
    paused_at_start: list[float] = []
    (worker, _) = bridge.workers
    run = worker.run

    async def noted() -> None:
        paused_at_start.append(value(bridge, "paused", stage="one"))
        await run()

    monkeypatch.setattr(worker, "run", noted)
    rig.start(bridge)
    await eventually(lambda: bridge.ready)
    assert paused_at_start == [1]
    for id in ("1", "2", "3", "4", "5"):
        await rig.publish("in", id)
        await eventually(lambda id=id: other.count[id])  # type: ignore[misc]
    assert await rig.pending(one) == 0, "nothing was read"


async def test_doors_accept_for_a_paused_stage_up_to_the_backlog_limit(rig: Rig) -> None:
    await rig.stage("one", "in", "out")
    bridge = await rig.bridge(backlog_limit=3)
    await paused(rig, bridge, "one")
    for number in range(3):
        await bridge.journal.publish(event(number))

    async def closed() -> bool:
        try:
            await bridge.journal.publish(event(9))
        except BacklogFull:
            return True
        return False

    await eventually(closed)
    await rig.journal.admin.resume("one")


async def test_a_stage_that_nobody_knows_cannot_be_paused_and_a_forgotten_one_is_no_more(rig: Rig) -> None:
    with pytest.raises(LookupError):
        await rig.journal.admin.pause("unknown")
    await rig.redis.hset(keys.STAGES, "old", '{"consumes":["in"],"emits":[],"url":"http://old","beat":0}')
    assert await rig.journal.admin.pause("old")
    assert not await rig.journal.admin.pause("old")
    await rig.journal.admin.forget("old")
    assert await rig.journal.admin.paused() == frozenset()


async def test_a_pause_key_of_another_type_pauses_nothing(rig: Rig) -> None:
    await rig.redis.set(keys.PAUSED, "of another type")
    one = await rig.stage("one", "in", "out")
    await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: one.ids == ["1"])
