"""A broken stage buries no event; a bad event is buried though its stage is sound."""

import asyncio

import pytest

from milepost.bridge import retry
from milepost.journal import keys
from tests.bridge.rig import Answer, Delivery, Rig, status, value
from tests.servers import eventually

HASTY = {"backoffDelay": "PT0.001S", "backoffPolicy": "linear"}


@pytest.mark.parametrize("fault", ["500", "unusable", "closed", "timeout"])
async def test_broken_stage_buries_no_event_until_it_recovers(rig: Rig, fault: str) -> None:
    async def break_down(_: Delivery) -> Answer:
        if fault == "timeout":
            await asyncio.Event().wait()
        return {"500": status(500), "unusable": status(200, b"OK"), "closed": None}[fault]

    stage = await rig.stage("stage", "in", "out", break_down)
    bridge = await rig.bridge({**HASTY, "retry": 2, "crashRetry": 2, "timeout": "PT0.05S"})
    ids = [f"{n:02}" for n in range(30)]
    await rig.publish_all("in", ids)
    await eventually(lambda: bridge.workers[0].limit.found_down > 4, what="a few failed probes")
    await eventually(lambda: sum(stage.count.values()) > 40, what="more deliveries than would bury them")
    assert not await rig.dead("stage")
    if fault == "timeout":  # else responses that a slow machine gives late would be counted from now on
        await rig.stop(bridge)
    stage.script = stage.succeed
    if fault == "timeout":
        bridge = await rig.bridge({**HASTY, "retry": 2, "crashRetry": 2})
    await eventually(lambda: rig.settled(stage))
    assert not await rig.dead("stage")
    assert set(stage.count) == set(ids)
    assert not bridge.workers[0].limit.down


async def test_broken_stage_gets_one_probe_at_a_time(rig: Rig) -> None:
    async def fail(_: Delivery) -> Answer:
        await asyncio.sleep(0)
        return status(500)

    stage = await rig.stage("stage", "in", "out", fail)
    bridge = await rig.bridge(HASTY)
    await rig.publish_all("in", [f"{n}" for n in range(40)])
    await eventually(lambda: bridge.workers[0].limit.found_down > 3)
    stage.most_on_wire, before = 0, sum(stage.count.values())
    await eventually(lambda: sum(stage.count.values()) > before + 5)
    assert stage.most_on_wire == 1


async def test_success_in_between_shows_that_the_stage_is_not_broken(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BROKEN_AFTER", 3)
    monkeypatch.setattr(retry, "BROKEN_EVENTS", 3)
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda delivery: stage.succeed(delivery) if delivery.event.id == "good" else status(500)
    bridge = await rig.bridge({"backoffDelay": "PT1H"})
    for id in ("1", "2", "good", "3", "4"):
        await rig.publish("in", id)
        await eventually(lambda: not bridge.workers[0].in_delivery and stage.ids[-1:] == [id])
    assert not bridge.workers[0].limit.outage
    await rig.publish("in", "5")
    await eventually(lambda: bridge.workers[0].limit.down)


async def test_few_poison_events_are_buried_after_11_deliveries_and_delay_no_other(rig: Rig) -> None:
    poison = [f"poison-{n}" for n in range(5)]
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda delivery: status(500) if delivery.event.id in poison else stage.succeed(delivery)
    await rig.bridge({"backoffDelay": "PT0.02S", "backoffPolicy": "linear"})
    good = [f"good-{n}" for n in range(200)]
    mixed = [*good[:100], *poison, *good[100:]]
    await rig.publish_all("in", mixed)
    await eventually(lambda: set(good) <= set(stage.count), what="the good ones delivered")
    assert not await rig.dead("stage")
    await eventually(lambda: rig.settled(stage))
    assert {letter.id: letter.attempts for letter in await rig.dead("stage")} == dict.fromkeys(poison, 11)
    assert {id: stage.count[id] for id in poison} == dict.fromkeys(poison, 11)
    assert {stage.count[id] for id in good} == {1}


async def test_poison_events_are_buried_when_no_other_events_are_left(rig: Rig) -> None:
    poison = [f"poison-{n}" for n in range(9)]
    stage = await rig.stage("stage", "in", "out", lambda _: status(500))
    bridge = await rig.bridge(HASTY)
    await rig.publish_all("in", poison)
    await eventually(lambda: rig.settled(stage))
    assert {letter.id: letter.attempts for letter in await rig.dead("stage")} == dict.fromkeys(poison, 11)
    assert stage.count == dict.fromkeys(poison, 11)
    assert not bridge.workers[0].limit.down


@pytest.mark.parametrize("fault", ["500", "closed"])
async def test_failure_that_is_counted_against_an_event_ends_the_outage(rig: Rig, fault: str) -> None:
    """Else the stage would count as down until another event comes, though it has answered."""

    def script(delivery: Delivery) -> Answer:
        return status(503) if delivery.count == 1 else {"500": status(500), "closed": None}[fault]

    await rig.stage("stage", "in", "out", script)
    bridge = await rig.bridge({**HASTY, "retry": 0, "crashRetry": 0})
    limit = bridge.workers[0].limit
    await rig.publish("in", "1")
    await eventually(lambda: rig.dead("stage"))
    assert limit.outage == 1, "there was one"
    assert not limit.down


async def test_entries_of_a_dead_bridge_are_redelivered_by_a_bridge_whose_stage_was_down_last(rig: Rig) -> None:
    """Redeliveries probe a stage too. The event that found it down may wait for long, or another bridge may have it."""
    stage = await rig.stage("stage", "in", "out")
    await rig.publish("in", "1")
    journal = keys.journal("in")
    await rig.redis.xgroup_create(journal, "stage", "0")
    ((_, ((entry, _),)),) = await rig.redis.xreadgroup("stage", "dead", {journal: ">"}, count=1)
    stage.script = lambda delivery: (
        status(503, retry_after="300") if delivery.event.id == "away" else stage.succeed(delivery)
    )
    bridge = await rig.bridge(claim="PT200S")
    await rig.publish("in", "away")
    await eventually(lambda: bridge.workers[0].limit.down)
    assert not stage.count["1"]
    await rig.redis.xclaim(journal, "stage", "dead", 0, [entry], idle=300_000, justid=True)
    await eventually(lambda: stage.count["1"])
    await eventually(lambda: not bridge.workers[0].limit.down)


async def test_stage_that_is_down_delays_no_other_stage(rig: Rig) -> None:
    down = await rig.stage("down", "in", "out", lambda _: status(503))
    well = await rig.stage("well", "in", "other")
    await rig.bridge()
    ids = [f"{n:03}" for n in range(300)]
    await rig.publish_all("in", ids)
    await eventually(lambda: rig.settled(well))
    assert well.count == dict.fromkeys(ids, 1)
    down.script = down.succeed
    await eventually(lambda: rig.settled(down))
    assert set(down.count) == set(ids)
    assert set(well.count.values()) == {1}


async def test_parked_event_holds_no_slot_and_no_journal(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda delivery: (
        status(500, retry_after="300") if delivery.event.id == "bad" else stage.succeed(delivery)
    )
    bridge = await rig.bridge()
    await rig.publish("in", "bad")
    await eventually(lambda: rig.parked("stage"))
    await rig.publish_all("in", [f"{n}" for n in range(50)])
    await eventually(lambda: len(stage.count) == 51)
    await eventually(lambda: not_any(rig), what="the journal trimmed")
    await eventually(lambda: bridge.workers[0].limit.unsettled == 0, what="settled in the bridge too")
    assert value(bridge, "stale_total", stage="stage") == 0


async def not_any(rig: Rig) -> bool:
    return not await rig.journaled("in")


async def test_retry_after_of_one_event_stops_its_stage_for_two_seconds_at_most(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda delivery: (
        status(503, retry_after="300") if delivery.event.id == "bad" else stage.succeed(delivery)
    )
    bridge = await rig.bridge()
    await rig.publish("in", "bad")
    await eventually(lambda: rig.parked("stage"))
    assert await rig.due("stage") > await rig.now() + 200, "the event waits as long as it was asked to"
    ids = [f"{n}" for n in range(50)]
    await rig.publish_all("in", ids)
    await eventually(lambda: set(ids) <= set(stage.count))
    assert not bridge.workers[0].limit.down
    assert stage.count["bad"] == 1


async def test_deferred_event_ends_an_outage(rig: Rig) -> None:
    """A stage that answers 409 is there."""
    away = True
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda _: status(503) if away else status(409, retry_after="300")
    bridge = await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: bridge.workers[0].limit.down)
    away = False
    await eventually(lambda: not bridge.workers[0].limit.down)
    assert await rig.parked("stage") == 1
