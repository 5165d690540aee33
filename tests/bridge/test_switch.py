"""A change of the delivery mode, with real bridges, there and back."""

import json
from typing import Any

import pytest

from milepost.bridge import bridge as bridge_module
from milepost.bridge.bridge import Bridge
from milepost.journal import keys
from tests.bridge.rig import Answer, Delivery, Rig, Stage, status, value
from tests.bridge.test_takeover import silence
from tests.servers import eventually

IDS = [f"{number:03d}" for number in range(30)]


async def changed(rig: Rig, bridge: Bridge, *, served: list[str], **mode: Any) -> Bridge:
    """Stop this bridge, wait for its last beat to be old, and start one in another mode."""
    await rig.stop(bridge)
    for name in served:
        await silence(rig, name)
    return await rig.bridge(**mode)


async def groups(rig: Rig, channel: str) -> list[str]:
    return sorted(row["name"].decode() for row in await rig.redis.xinfo_groups(keys.journal(channel)))


def broker(sink: Stage) -> dict[str, Any]:
    return {"delivery": "broker", "k_sink": sink.url}


async def test_switch_with_an_empty_backlog_repeats_nothing_and_leaves_no_group(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    sink = await Stage("sink", "in", "out", lambda _: status(202)).open()
    rig.sinks.append(sink)
    bridge = await rig.bridge()
    await rig.publish_all("in", IDS)
    await eventually(lambda: rig.settled(stage))
    bridge = await changed(rig, bridge, served=["stage"], **broker(sink))
    assert await groups(rig, "in") == ["broker"]
    more = [f"more-{of}" for of in IDS]
    await rig.publish_all("in", more)
    await eventually(lambda: len(sink.count) == len(more))
    assert await drained(rig) == 0
    assert set(sink.count) == set(more)
    bridge = await changed(rig, bridge, served=["broker"])
    assert await groups(rig, "in") == ["stage"]
    await rig.publish("in", "last")
    await eventually(lambda: stage.count["last"])
    await eventually(lambda: rig.settled(stage))
    assert stage.count == dict.fromkeys([*IDS, "last"], 1)
    assert [stage.name for stage in await rig.journal.admin.stages()] == ["stage"]
    assert bridge.ready


async def drained(rig: Rig) -> int:
    async def empty() -> bool:
        return await rig.journal.backlog() == 0

    await eventually(empty, what="an empty backlog")
    return await rig.journal.backlog()


@pytest.mark.parametrize("left", ["unread", "parked"])
async def test_switch_delivers_events_that_the_other_mode_left(rig: Rig, left: str) -> None:
    def away(delivery: Delivery) -> Answer:
        return status(503, retry_after="300") if left == "unread" else status(500, retry_after="300")

    await rig.stage("stage", "in", "out", away)
    sink = await Stage("sink", "in", "out", lambda _: status(202)).open()
    rig.sinks.append(sink)
    bridge = await rig.bridge()
    await rig.publish_all("in", IDS)
    await eventually(lambda: rig.parked("stage"))
    await changed(rig, bridge, served=["stage"], **broker(sink))
    await eventually(lambda: sink.count == dict.fromkeys(IDS, 1))
    assert await drained(rig) == 0


async def test_bridge_of_the_new_mode_waits_while_the_old_one_serves(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    sink = await Stage("sink", "in", "out", lambda _: status(202)).open()
    rig.sinks.append(sink)
    old = await rig.bridge()
    new = rig.start(Bridge(rig.settings(**broker(sink))))
    await eventually(lambda: new.ready, what="ready, so that Kubernetes ends the old one")
    await rig.publish_all("in", IDS)
    await eventually(lambda: stage.count == dict.fromkeys(IDS, 1))
    assert not sink.count
    await rig.stop(old)
    await silence(rig, "stage")
    await rig.publish("in", "last")
    await eventually(lambda: sink.count["last"] == 1)
    assert set(sink.count) == {"last"}
    assert await groups(rig, "in") == ["broker"]


async def test_bridge_is_ready_again_once_an_operator_has_removed_what_the_other_mode_left(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it was frozen while a bridge of the other mode came and went."""
    monkeypatch.setattr(bridge_module, "SWITCH_LOOK", 0.05)
    await rig.stage("stage", "in", "out")
    sink = await Stage("sink", "in", "out", lambda _: status(202)).open()
    rig.sinks.append(sink)
    bridge = await rig.bridge(**broker(sink))
    journal, left = keys.journal("in"), ["one", "two"]
    for name in left:
        await rig.redis.xgroup_create(journal, name, "0")
    await rig.publish("in", "1")
    await rig.redis.xreadgroup("one", "gone", {journal: ">"})
    row = json.dumps({"consumes": ["in"], "emits": [], "url": "", "beat": 1})
    await rig.redis.hset(keys.STAGES, mapping=dict.fromkeys(left, row))
    await rig.redis.xgroup_destroy(journal, "broker")
    await eventually(lambda: not bridge.ready)
    await rig.redis.hdel(keys.STAGES, *left)
    await eventually(lambda: bridge.ready)


async def test_bridges_with_different_stages_share_what_the_broker_left(rig: Rig) -> None:
    store, audit = await rig.stage("store", "in"), await rig.stage("audit", "in")
    sink = await Stage("sink", "in", "out", lambda _: status(503, retry_after="300")).open()
    rig.sinks.append(sink)
    of_broker = [await rig.bridge(routes=[stage.route()], **broker(sink)) for stage in (store, audit)]
    await rig.publish("in", "1")
    await eventually(lambda: rig.parked("broker"))
    for bridge in of_broker:
        await rig.stop(bridge)
    await silence(rig, "broker")
    for stage in (store, audit):
        await rig.bridge(routes=[stage.route()])
        await eventually(lambda stage=stage: rig.settled(stage))  # type: ignore[misc]
    assert store.count == audit.count == {"1": 1}


async def test_metrics_show_the_backlog_of_a_stage_that_no_bridge_serves(rig: Rig) -> None:
    removed = await rig.stage("removed", "in", None, lambda _: status(503, retry_after="60"))
    kept = await rig.stage("kept", "in")
    first = await rig.bridge(routes=[removed.route(), kept.route()])
    await rig.stop(first)
    await silence(rig, "removed")
    await rig.redis.xgroup_create(keys.journal("in"), "moved", "0")
    bridge = await rig.bridge(routes=[kept.route()])
    await rig.publish_all("in", IDS)
    await eventually(lambda: rig.settled(kept))
    await eventually(lambda: value(bridge, "journaled_events", stage="removed") == len(IDS))
    assert value(bridge, "oldest_event_seconds", stage="removed") > 0
    assert value(bridge, "journaled_events", stage="moved:in") == len(IDS)
