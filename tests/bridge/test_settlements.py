"""How a bridge settles entries: together with others, and a fault of one settlement is its own."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from milepost.bridge import worker
from milepost.bridge.worker import Worker
from milepost.errors import JournalUnavailable, MilepostError
from milepost.journal import Complete, Consumer, Settlement
from tests.bridge.rig import Answer, Delivery, Rig, value
from tests.servers import WITHIN, eventually

IDS = [str(number) for number in range(7)]


async def test_settlements_wait_for_the_pace_of_the_latest_round_trip(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PACE", 3600)
    monkeypatch.setattr(worker, "SETTLE_WITHIN", 0)
    stage = await rig.stage("stage", "in")
    bridge = await rig.bridge(grace="PT0.1S")
    await rig.publish("in", "first")
    await eventually(lambda: rig.settled(stage))
    await rig.publish("in", "second")
    await eventually(lambda: value(bridge, "deliveries_total", stage="stage", outcome="delivered") == 2)
    assert await rig.pending(stage) == 1
    await rig.stop(bridge)
    await rig.bridge()
    await eventually(lambda: rig.settled(stage), what="handed back at the stop")


async def test_settlement_that_the_next_event_of_a_key_waits_for_waits_for_no_other(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PACE", 3600)
    stage = await rig.stage("stage", "in")
    await rig.bridge({"order": "key"})
    for one in IDS:
        await rig.publish("in", one, {"key": "same"})
    await eventually(lambda: stage.ids == IDS)
    await eventually(lambda: rig.settled(stage))


async def test_settlement_that_stays_unavailable_does_not_hold_up_the_others(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, tried = Consumer.settle, list[str]()

    async def refusing(self: Consumer, settlements: Sequence[Settlement]) -> list[str | MilepostError]:
        answers = await settle(self, [one for one in settlements if one.id != "bad"])
        for place, one in enumerate(settlements):
            tried.append(one.id)
            if one.id == "bad":
                answers.insert(place, JournalUnavailable("Redis: no"))
        return answers

    monkeypatch.setattr(Consumer, "settle", refusing)
    monkeypatch.setattr(worker, "TRY_AGAIN_AFTER", 3600)
    monkeypatch.setattr(worker, "SETTLE_WITHIN", 0)
    stage = await rig.stage("stage", "in", "out")
    await rig.publish_all("in", ["bad", "beside"])
    bridge = await rig.bridge({"batch": 2}, grace="PT0.01S")
    for one in IDS:
        await rig.publish("in", one)
        await eventually(lambda: len(bridge.workers[0].in_delivery) == 1 and one == stage.ids[-1])
    assert await rig.pending(stage) == 1
    await rig.stop(bridge)
    assert sorted(tried) == [*IDS, "bad", "beside"]


async def test_settlement_that_was_unavailable_is_tried_again_each_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, tried = Consumer.settle, Counter[str]()

    async def refuse_the_first_try(self: Consumer, settlements: Sequence[Settlement]) -> list[str | MilepostError]:
        answers: list[str | MilepostError] = []
        for one in settlements:
            tried[one.id] += 1
            answers += [JournalUnavailable("Redis: no")] if tried[one.id] == 1 else await settle(self, [one])
        return answers

    monkeypatch.setattr(Consumer, "settle", refuse_the_first_try)
    monkeypatch.setattr(worker, "TRY_AGAIN_AFTER", 0.01)
    stage = await rig.stage("stage", "in", "out")
    bridge = await rig.bridge()
    for count, one in enumerate(IDS[:2], 1):
        await rig.publish("in", one)
        await eventually(lambda: not bridge.workers[0].in_delivery and len(stage.ids) == count)
    assert tried == dict.fromkeys(IDS[:2], 2)
    assert await rig.journaled("out") == stage.ids == IDS[:2]


async def test_stop_gives_settlements_the_rest_of_grace(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    settle, begun, go = Consumer.settle, asyncio.Event(), asyncio.Event()

    async def late(self: Consumer, settlements: Sequence[Settlement]) -> list[str | MilepostError]:
        begun.set()
        await go.wait()
        return await settle(self, settlements)

    monkeypatch.setattr(Consumer, "settle", late)
    monkeypatch.setattr(worker, "SETTLE_WITHIN", 0)
    await rig.stage("stage", "in", "out")
    bridge = await rig.bridge(grace="PT1H")
    await rig.publish("in", "1")
    await eventually(begun.is_set)
    finish, finishing = Worker.finish, asyncio.Event()

    async def noted(self: Worker, *, grace: float) -> None:
        asyncio.get_running_loop().call_soon(finishing.set)  # once it waits
        await finish(self, grace=grace)

    monkeypatch.setattr(Worker, "finish", noted)
    stopping = asyncio.create_task(rig.stop(bridge))
    await eventually(finishing.is_set)
    go.set()
    await stopping
    assert await rig.journaled("out") == ["1"]


async def test_each_reason_of_a_settlement_that_fails_again_and_again_is_logged_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settle, reasons = Consumer.settle, ["a", "a", "b", "b", "b", "a"]

    async def refusing(self: Consumer, settlements: Sequence[Settlement]) -> list[str | MilepostError]:
        if reasons:
            return [JournalUnavailable(reasons.pop(0))]
        return await settle(self, settlements)

    monkeypatch.setattr(Consumer, "settle", refusing)
    monkeypatch.setattr(worker, "TRY_AGAIN_AFTER", 0.001)
    stage = await rig.stage("stage", "in", "out")
    await rig.publish("in", "1")
    await rig.bridge()
    await eventually(lambda: rig.settled(stage))
    lines = [line for line in caplog.messages if "outcome=unsettled" in line]
    assert lines == [f"stage=stage channel=in outcome=unsettled entries=1 reason={reason}" for reason in "ab"]


async def test_stop_gives_settlements_their_time_though_a_delivery_used_up_grace(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, begun, go, never = Consumer.settle, asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def late(self: Consumer, settlements: Sequence[Settlement]) -> list[str | MilepostError]:
        begun.set()
        await go.wait()
        return await settle(self, settlements)

    async def hang(delivery: Delivery) -> Answer:
        if delivery.event.id == "hangs":
            await never.wait()
        return stage.succeed(delivery)

    monkeypatch.setattr(Consumer, "settle", late)
    monkeypatch.setattr(worker, "SETTLE_WITHIN", WITHIN)
    stage = await rig.stage("stage", "in", "out", hang)
    bridge = await rig.bridge(grace="PT0S")
    await rig.publish_all("in", ["hangs", "answered"])
    await eventually(lambda: begun.is_set() and stage.on_wire)
    stopping = asyncio.create_task(rig.stop(bridge))
    await eventually(lambda: all(task.done() for _, task, *_ in bridge.workers[0].in_delivery.values()))
    go.set()
    await stopping
    assert await rig.journaled("out") == ["answered"]
    assert await rig.pending(stage) == 1
    never.set()


class BridgeError(Exception):
    """A fault of the bridge's own code."""


async def test_unexpected_exception_in_a_settlement_is_counted_for_its_event_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig.expects_logged_exceptions = True
    settle = Consumer.settle

    async def broken(self: Consumer, settlements: Sequence[Settlement]) -> list[str | MilepostError]:
        if any(isinstance(one, Complete) and b'"bad"' in one.entry.event for one in settlements):
            raise BridgeError
        return await settle(self, settlements)

    monkeypatch.setattr(Consumer, "settle", broken)
    stage = await rig.stage("stage", "in", "out")
    await rig.publish_all("in", [*IDS[:3], "bad", *IDS[3:]])
    bridge = await rig.bridge({"batch": 8, "retry": 0})
    await eventually(lambda: rig.settled(stage))
    (letter,) = await rig.dead("stage")
    assert (letter.id, letter.reason) == ("bad", "the bridge failed at it: BridgeError")
    assert sorted(await rig.journaled("out")) == IDS
    assert stage.batches == [[*IDS[:3], "bad", *IDS[3:]]]
    await eventually(lambda: not bridge.workers[0].in_delivery)
    assert any(record.exc_info and record.exc_info[0] is BridgeError for record in caplog.records)


async def test_settlement_that_fails_whatever_it_is_leaves_its_entry_pending_and_holds_no_slot(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.expects_logged_exceptions = True
    settle = Consumer.settle

    async def broken(self: Consumer, settlements: Sequence[Settlement]) -> list[str | MilepostError]:
        if any(b'"bad"' in one.entry.event for one in settlements):
            raise BridgeError
        return await settle(self, settlements)

    monkeypatch.setattr(Consumer, "settle", broken)
    stage = await rig.stage("stage", "in", "out")
    bridge = await rig.bridge(window=1, claim="PT60S")
    await rig.publish_all("in", ["bad", *IDS])
    await eventually(lambda: set(stage.count) == {"bad", *IDS})
    await eventually(lambda: not bridge.workers[0].in_delivery)
    assert await rig.pending(stage) == 1
    assert bridge.workers[0].limit.unsettled == 0


async def test_unexpected_exception_at_the_answers_is_counted_for_its_event_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig.expects_logged_exceptions = True
    settle = Consumer.settle

    async def answer_too_few(self: Consumer, settlements: Sequence[Settlement]) -> list[str | MilepostError]:
        return await settle(self, [one for one in settlements if not (isinstance(one, Complete) and one.id == "bad")])

    monkeypatch.setattr(Consumer, "settle", answer_too_few)
    stage = await rig.stage("stage", "in", "out")
    await rig.publish_all("in", ["good", "bad"])
    bridge = await rig.bridge({"batch": 2, "retry": 0}, claim="PT60S")
    await eventually(lambda: rig.settled(stage))
    (letter,) = await rig.dead("stage")
    assert (letter.id, letter.reason) == ("bad", "the bridge failed at it: ValueError")
    assert await rig.journaled("out") == ["good"]
    await eventually(lambda: not bridge.workers[0].in_delivery)
    assert bridge.workers[0].limit.unsettled == 0
    assert any(record.exc_info and record.exc_info[0] is ValueError for record in caplog.records)
