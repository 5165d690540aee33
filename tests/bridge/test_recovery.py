"""Recovery is bounded: redeliveries and retries come before newer events, however long the backlog is."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from milepost.journal import keys
from tests.bridge.rig import Answer, Delivery, Rig, Stage, status
from tests.servers import eventually

OLD = [f"old-{number}" for number in range(8)]
BACKLOG = 600
CLAIM = "PT2S"

Script = Callable[[Delivery], Awaitable[Answer]]


def busy(stage: Stage, *, at_once: int, seconds: float) -> Script:
    """A stage that works on `at_once` events, each for `seconds`, and never answers the first delivery of OLD."""
    room, never = asyncio.Semaphore(at_once), asyncio.Event()

    async def work(delivery: Delivery) -> Answer:
        if delivery.event.id in OLD and delivery.count == 1:
            await never.wait()
        async with room:
            await asyncio.sleep(seconds)
        return stage.succeed(delivery)

    return work


async def abandon(rig: Rig, stage: Stage, backlog: int = BACKLOG, channel: str = "in", **given: str) -> None:
    """Kill a bridge that holds OLD, with a backlog of newer events behind them."""
    killed = await rig.running(stages=[stage], claim=CLAIM, **given)
    await rig.publish_all(channel, OLD)
    await eventually(lambda: stage.on_wire == len(OLD))
    killed.kill()
    await killed_ends(rig)
    await rig.publish_all(channel, [f"new-{number}" for number in range(backlog)])


async def killed_ends(rig: Rig) -> None:
    await eventually(lambda: not rig.processes[-1].alive)


def newer_before_last_old(stage: Stage) -> int:
    """How many deliveries of newer events began before the last redelivery of OLD did."""
    again = [index for index, of in enumerate(stage.ids) if of in OLD][2 * len(OLD) - 1]
    return sum(of.startswith("new") for of in stage.ids[:again])


@pytest.mark.parametrize(("at_once", "seconds"), [(8, 0.05), (4, 0.5), (1, 0.2)])
@pytest.mark.parametrize("survivors", [1, 2])
async def test_killed_bridge_events_are_redelivered_before_newer_ones(
    rig: Rig, at_once: int, seconds: float, survivors: int
) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.script = busy(stage, at_once=at_once, seconds=seconds)
    await abandon(rig, stage)
    claimed = await rig.now()
    for _ in range(survivors):
        await rig.bridge(claim=CLAIM)
    await eventually(lambda: all(stage.count[of] == 2 for of in OLD), 60, "redelivery")
    recovered = await rig.now()
    assert await rig.journaled("in"), "there was no backlog any more"
    # Within the claim time the survivors deliver newer events: as many as the stage takes. After it not one read more.
    passed = sum(of.startswith("new") for of in stage.ids)
    assert passed <= survivors * 16 + (recovered - claimed) * (at_once / seconds + 1) * 2
    assert recovered - claimed < 60


async def test_redelivery_needs_no_room_under_the_limit(rig: Rig) -> None:
    """All of the limit is taken by deliveries that do not end, and so are twice the bytes."""
    stage = await rig.stage("stage", "in", "out")
    never = asyncio.Event()

    async def hang(_: Delivery) -> Answer:
        await never.wait()
        return None

    stage.script = hang
    await abandon(rig, stage, 50)
    bridge = await rig.bridge(claim=CLAIM, window=4, window_bytes=100)
    await eventually(lambda: bridge.workers[0].limit.unsettled >= 4)
    await eventually(lambda: all(stage.count[of] == 2 for of in OLD), what="redelivery over the limit")
    assert sum(of.startswith("new") for of in stage.ids) <= 8


async def test_redelivery_in_broker_mode_comes_before_newer_events(rig: Rig) -> None:
    sink = await rig.stage("sink", "in", "out")
    other = await rig.stage("other", "elsewhere")
    sink.script = busy(sink, at_once=4, seconds=0.2)
    mode = {"delivery": "broker", "k_sink": sink.url}
    await abandon(rig, sink, **mode)
    await rig.publish_all("elsewhere", [f"new-elsewhere-{number}" for number in range(BACKLOG)])
    await rig.bridge(claim=CLAIM, **mode)
    await eventually(lambda: all(sink.count[of] == 2 for of in OLD), 60, "redelivery")
    assert await rig.journaled("in")
    assert not other.ids


async def test_due_retry_is_delivered_before_unread_events(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    room = asyncio.Semaphore(4)

    async def work(delivery: Delivery) -> Answer:
        if delivery.event.id == "retried" and delivery.count == 1:
            return status(500)
        async with room:
            await asyncio.sleep(0.05)
        return stage.succeed(delivery)

    stage.script = work
    await rig.publish("in", "retried")
    await rig.publish_all("in", [f"new-{number}" for number in range(BACKLOG)])
    bridge = await rig.bridge()
    await eventually(lambda: stage.count["retried"] == 2, 60, "retry")
    assert len(await rig.journaled("in")) > BACKLOG / 2, "the retry waited for the backlog"
    assert bridge.ready


async def test_replayed_dead_letter_is_delivered_before_unread_events(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    room = asyncio.Semaphore(4)

    async def work(delivery: Delivery) -> Answer:
        if delivery.event.id == "dead" and delivery.count == 1:
            return status(422)
        async with room:
            await asyncio.sleep(0.05)
        return stage.succeed(delivery)

    stage.script = work
    await rig.publish("in", "dead")
    await rig.bridge()
    await eventually(lambda: rig.dead("stage"))
    await rig.publish_all("in", [f"new-{number}" for number in range(BACKLOG)])
    (letter,) = await rig.dead("stage")
    await rig.journal.admin.replay("stage", [letter.entry])
    await eventually(lambda: stage.count["dead"] == 2, 60, "replay")
    assert len(await rig.journaled("in")) > BACKLOG / 2, "the replay waited for the backlog"


async def test_hung_delivery_keeps_nothing_else_in_the_journal(rig: Rig) -> None:
    """One event that hangs must not let the journal grow to the doors' limit while the stage is healthy."""
    stage = await rig.stage("stage", "in", "out")
    never = asyncio.Event()

    async def work(delivery: Delivery) -> Answer:
        if delivery.event.id == "hung":
            await never.wait()
        return stage.succeed(delivery)

    stage.script = work
    await rig.bridge()
    await rig.publish("in", "hung")
    await eventually(lambda: stage.on_wire == 1)
    await rig.publish_all("in", [f"new-{number}" for number in range(300)])
    await eventually(lambda: len(stage.count) == 301)

    async def only_hung_and_last() -> bool:
        return await rig.redis.xlen(keys.journal("in")) <= 2

    await eventually(only_hung_and_last, what="finished entries leave the journal")
    assert "hung" in await rig.journaled("in")
    assert await rig.journal.backlog() == 1


async def test_channel_that_hangs_in_broker_mode_delays_no_other(rig: Rig) -> None:
    sink = await rig.stage("sink", "in", "out")
    await rig.stage("other", "elsewhere")
    never = asyncio.Event()

    async def work(delivery: Delivery) -> Answer:
        if delivery.event.type == "in":
            await never.wait()
        return status(202)

    sink.script = work
    await rig.bridge(delivery="broker", k_sink=sink.url, window=8)
    await rig.publish_all("in", [f"hangs-{number}" for number in range(50)])
    await eventually(lambda: sink.on_wire >= 8)
    ids = [f"passes-{number}" for number in range(50)]
    await rig.publish_all("elsewhere", ids)
    await eventually(lambda: all(sink.count[of] == 1 for of in ids), what="the other channel's events")
