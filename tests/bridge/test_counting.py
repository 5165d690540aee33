"""The metrics of a bridge, and the statistics that it writes to Redis."""

import asyncio
import logging
import time

import pytest

from milepost.bridge import bridge as bridge_module
from milepost.bridge.metrics import StageMetrics
from milepost.bridge.outcome import Delivered
from milepost.bridge.stats import Stats
from milepost.journal import keys
from milepost.journal.stats import read
from tests.bridge.rig import Rig, status, value
from tests.journal.events import unserved
from tests.servers import eventually


async def test_outcomes_and_dead_letters_are_counted_by_stage(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", script=lambda delivery: status(500 if delivery.count < 3 else 204))
    refusing = await rig.stage("refusing", "in", script=lambda _: status(422))
    bridge = await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(stage))
    await eventually(lambda: value(bridge, "dead_letters_total", stage="refusing") == 1)
    assert refusing.count["1"] == 1
    assert value(bridge, "deliveries_total", stage="stage", outcome="failed") == 2
    assert value(bridge, "deliveries_total", stage="stage", outcome="delivered") == 1
    assert value(bridge, "deliveries_total", stage="refusing", outcome="refused") == 1
    assert value(bridge, "delivery_seconds_count", stage="stage") == 3
    await eventually(lambda: value(bridge, "dead_events", stage="refusing") == 1)


async def test_limit_is_told_how_long_a_response_took(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await rig.stage("stage", "in")
    (worker,) = (await rig.bridge()).workers
    told: list[float] = []
    monkeypatch.setattr(worker.limit, "succeeded", lambda seconds, *_: told.append(seconds))
    began = time.perf_counter()
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(stage))
    (seconds,) = told
    assert 0 < seconds < time.perf_counter() - began


async def test_events_in_delivery_and_waiting_are_shown(rig: Rig) -> None:
    go = asyncio.Event()
    stage = await rig.stage("stage", "in")

    ordered = await rig.stage("ordered", "keyed")
    stage.answer_after(go)
    ordered.answer_after(go)
    bridge = await rig.bridge(window=2, routes=[stage.route(), ordered.route(order="key")])
    await rig.publish_all("in", ["1", "2", "3"])
    for one in ("a", "b", "c"):
        await rig.publish("keyed", one, {"key": "k"})
    await eventually(lambda: value(bridge, "in_flight", stage="stage") == 2)
    await eventually(lambda: value(bridge, "journaled_events", stage="stage") == 3)
    await eventually(lambda: value(bridge, "oldest_event_seconds", stage="stage") > 0)
    await eventually(lambda: value(bridge, "held_events", stage="ordered") == 2)
    assert value(bridge, "journaled_events", stage="ordered") == 3
    assert value(bridge, "held_events", stage="stage") == 0
    go.set()
    await eventually(lambda: rig.settled(stage))
    await eventually(lambda: ordered.ids == ["a", "b", "c"])
    await eventually(lambda: value(bridge, "journaled_events", stage="stage") == 0)
    await eventually(lambda: value(bridge, "held_events", stage="ordered") == 0)
    assert value(bridge, "oldest_event_seconds", stage="stage") == 0
    assert value(bridge, "in_flight", stage="stage") == 0


async def test_stats_are_written_to_redis(rig: Rig) -> None:
    stage = await rig.stage("stage", "in")
    bridge = await rig.bridge()
    await rig.publish_all("in", ["1", "2"])
    await eventually(lambda: rig.settled(stage))

    async def delivered() -> int:
        return sum(slot.counts.delivered for slot in (await read(rig.journal.scripts)).get("stage", []))

    async def all_delivered() -> bool:
        return await delivered() == 2

    await eventually(all_delivered)
    assert value(bridge, "deliveries_total", stage="stage", outcome="delivered") == 2


async def test_stats_are_written_only_when_something_changed(rig: Rig) -> None:
    metrics = _Clocked(rig)
    await metrics.stats.write()
    assert await rig.redis.keys(f"{keys.STATS}*") == []
    metrics.deliver()
    await metrics.stats.write()
    [key] = await rig.redis.keys(f"{keys.STATS}:*")
    await rig.redis.delete(key)
    await metrics.stats.write()
    assert await rig.redis.exists(key) == 0
    metrics.now += 5
    metrics.deliver()
    await metrics.stats.write()
    slots = (await read(rig.journal.scripts))["stage"]
    assert [slot.counts.delivered for slot in slots] == [1, 1]
    assert slots[0].age - slots[1].age == 5


async def test_full_redis_delays_stats_and_nothing_else(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    stage = await rig.stage("stage", "in")
    await rig.redis.config_set("maxmemory-policy", "noeviction")
    await rig.publish_all("in", ["1", "2"])
    await rig.redis.config_set("maxmemory", "1mb")
    try:
        await rig.bridge()
        with caplog.at_level(logging.WARNING):
            await eventually(lambda: "no-stats" in caplog.text)
        await eventually(lambda: rig.settled(stage))
    finally:
        await rig.redis.config_set("maxmemory", "0")

    async def caught_up() -> bool:
        slots = (await read(rig.journal.scripts)).get("stage", [])
        return sum(slot.counts.delivered for slot in slots) == 2

    await eventually(caught_up)


class _Clocked:
    """Stats of one stage, with a clock that the test moves."""

    def __init__(self, rig: Rig) -> None:
        self.now = 100.0
        self.stage = StageMetrics()
        self.stats = Stats(rig.journal.scripts, "bridge-1", {"stage": self.stage}, lambda: self.now)

    def deliver(self) -> None:
        self.stage.delivered(Delivered(), self.now, self.now)


async def test_dropped_events_of_an_unserved_stage_are_counted_and_logged(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge_module, "TRIM", 0.01)
    served, gone = await rig.stage("served", "in"), await rig.stage("gone", "in")
    await rig.stop(await rig.bridge())
    await unserved(rig.redis, "gone")
    bridge = await rig.bridge(routes=[served.route()], backlog_limit=2)
    for id in ("1", "2", "3", "4", "5"):
        await rig.publish("in", id)
    await eventually(lambda: value(bridge, "unserved_dropped_total", channel="in") == 3)
    assert "channel=in outcome=unserved-dropped entries=" in caplog.text
    await eventually(lambda: rig.settled(served))
    assert await rig.journaled("in") == ["4", "5"]
    assert gone.ids == []
