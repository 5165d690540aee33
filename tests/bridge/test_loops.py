"""The loops of a bridge, at moments that other tests meet only by chance."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from milepost.bridge import bridge as bridge_module
from milepost.bridge import worker as worker_module
from milepost.bridge.bridge import Bridge
from milepost.bridge.concurrency import FIRST, LEAST_EXTRA, MOST_EXTRA
from milepost.errors import JournalUnavailable
from milepost.journal import Consumer, Entry, GroupMissing, TakenOver, keys, maintenance
from tests.bridge.rig import Answer, Delivery, Rig, Stage, status, value
from tests.proxy import Proxy
from tests.servers import WITHIN, eventually

NEVER = 1000.0
"""Seconds: so long that a periodic step does not come again within a test."""


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> list[TakenOver]:
    """What each look for redeliveries has brought. The first is followed by another one only if more may be left."""
    monkeypatch.setattr(worker_module, "LOOK_EVERY", NEVER)
    take_over, found = Consumer.take_over, []

    async def recorded(consumer: Consumer, most: int, *, claim: float) -> TakenOver:
        found.append(await take_over(consumer, most, claim=claim))
        return found[-1]

    monkeypatch.setattr(Consumer, "take_over", recorded)
    return found


async def abandon(rig: Rig, events: int) -> None:
    """Leave so many events pending for a bridge that has not renewed them for five minutes."""
    journal = keys.journal("in")
    await rig.publish_all("in", [f"{number:03}" for number in range(events)])
    await rig.redis.xgroup_create(journal, "stage", "0")
    ((_, rows),) = await rig.redis.xreadgroup("stage", "gone", {journal: ">"}, count=events)
    entries = [entry for entry, _ in rows]
    await rig.redis.xclaim(journal, "stage", "gone", 0, entries, idle=300_000, justid=True)


async def several_turns(rig: Rig, other: Stage) -> None:
    """Let every loop go on for a while: until another stage has got several events, one after the other."""
    for number in range(5):
        await rig.publish(other.consumes, f"turn-{number}")
        await eventually(lambda number=number: other.count[f"turn-{number}"])  # type: ignore[misc]


async def test_all_events_of_a_dead_bridge_are_redelivered_at_the_first_look(rig: Rig, takes: list[TakenOver]) -> None:
    stage = await rig.stage("stage", "in")
    await abandon(rig, 300)
    await rig.bridge()
    await eventually(lambda: len(stage.count) == 300)
    await eventually(lambda: rig.settled(stage))
    looks = len(takes)
    assert looks <= 1 + 300 / MOST_EXTRA
    await rig.publish("in", "new")
    await eventually(lambda: stage.count["new"])
    assert len(takes) <= looks + 1, "it waits for new events, and looks for no redelivery meanwhile"


async def test_redeliveries_of_too_many_bytes_come_a_few_at_each_look(rig: Rig, takes: list[TakenOver]) -> None:
    stage, other = await rig.stage("stage", "in"), await rig.stage("other", "else")
    go = asyncio.Event()
    stage.answer_after(go)
    await abandon(rig, 200)
    await rig.bridge(routes=[stage.route()], window_bytes=100)
    await rig.bridge(routes=[other.route()])
    most = FIRST + MOST_EXTRA + LEAST_EXTRA
    await eventually(lambda: stage.on_wire >= most)
    await several_turns(rig, other)
    assert stage.on_wire == most
    go.set()


async def test_redeliveries_are_looked_for_though_no_event_comes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (worker_module, bridge_module):
        monkeypatch.setattr(module, "BLOCK", NEVER)
    stage = await rig.stage("stage", "in")
    await abandon(rig, 1)
    await rig.bridge(claim="PT600S")
    await rig.publish("in", "new")
    await eventually(lambda: stage.count["new"])
    (row,) = await rig.redis.xpending_range(keys.journal("in"), "stage", "-", "+", 1, "gone")
    await rig.redis.xclaim(keys.journal("in"), "stage", "gone", 0, [row["message_id"]], idle=700_000, justid=True)
    await eventually(lambda: stage.count["000"])


async def test_retries_and_unread_events_of_one_read_share_the_limit(rig: Rig) -> None:
    stage, other = await rig.stage("stage", "in"), await rig.stage("other", "else")
    stage.script = lambda _: status(400)
    first = await rig.bridge()
    await rig.publish_all("in", [f"retry-{number}" for number in range(FIRST)])
    await eventually(lambda: rig.settled(stage))
    letters = await rig.dead("stage")
    await rig.stop(first)
    await rig.journal.admin.replay("stage", [letter.entry for letter in letters])
    await rig.publish_all("in", [f"unread-{number}" for number in range(FIRST)])
    go = asyncio.Event()
    stage.answer_after(go)
    await rig.bridge()
    await eventually(lambda: stage.on_wire >= FIRST)
    await several_turns(rig, other)
    assert stage.on_wire == FIRST
    go.set()
    await eventually(lambda: rig.settled(stage))


async def test_unread_events_beside_retries_are_read_only_into_the_bytes_that_are_left(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "UNREAD_EVERY", 0.02)
    stage, go, answering = await rig.stage("stage", "in"), asyncio.Event(), asyncio.Lock()

    async def put_off(delivery: Delivery) -> Answer:
        if delivery.event.id == "hangs":  # its bytes tell the bridge the size of the others
            await go.wait()
        if go.is_set():
            return status(204)
        async with answering:
            await asyncio.sleep(0.002)  # more come due than are answered, so there is always a retry
        return status(409, retry_after="0")

    stage.script = put_off
    most_bytes = 2000  # 18 events
    (worker,) = (await rig.bridge(window_bytes=most_bytes)).workers
    worker.limit.size = 512
    held: list[int] = []
    start = worker._start

    def recorded(entries: Sequence[Entry], **given: Any) -> None:
        start(entries, **given)
        held.append(worker.limit.unsettled_bytes)

    monkeypatch.setattr(worker, "_start", recorded)
    await rig.publish("in", "hangs")
    await eventually(lambda: stage.count["hangs"])
    await rig.publish_all("in", [f"early-{number}" for number in range(36)])
    await eventually(lambda: len(stage.count) == 37)
    await rig.publish_all("in", [f"late-{number}" for number in range(80)])
    await eventually(lambda: len(stage.count) == 117)
    assert max(held) < 3 * most_bytes, "a read may bring as many retries as there is room for, and unread events again"
    go.set()
    await eventually(lambda: rig.settled(stage))


@pytest.mark.parametrize("end", ["resumed", "stopped"])
async def test_event_that_a_read_brings_after_the_pause_began_waits_for_its_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(bridge_module, "PAUSE_LOOK", NEVER)
    stage, other = await rig.stage("stage", "in"), await rig.stage("other", "else")
    wait = Consumer.wait

    async def paused_meanwhile(consumer: Consumer, count: int, **given: Any) -> Sequence[Entry]:
        entries = await wait(consumer, count, **given)
        if consumer.stage == "stage" and entries:
            worker.pause(paused=True)
        return entries

    monkeypatch.setattr(Consumer, "wait", paused_meanwhile)
    bridge = await rig.bridge(grace="PT60S")
    (worker,) = [worker for worker in bridge.workers if worker.stage == "stage"]
    await rig.publish("in", "1")
    await eventually(lambda: worker.in_delivery)
    await several_turns(rig, other)
    assert stage.received == []
    assert (worker.limit.in_flight, worker.limit.unsettled) == (0, 1)
    if end == "resumed":
        worker.pause(paused=False)
        await eventually(lambda: rig.settled(stage))
        assert stage.ids == ["1"]
        await eventually(lambda: (worker.limit.in_flight, worker.limit.unsettled) == (0, 0))
    else:
        async with asyncio.timeout(WITHIN / 4):
            await rig.stop(bridge)  # it gives no grace to an event that it may not send
        assert await rig.pending(stage) == 1


async def test_paused_stage_has_its_group_when_the_bridge_is_ready(rig: Rig) -> None:
    """Without the group its channel would count as one that no stage consumes, and lose its oldest events."""
    stage = await rig.stage("stage", "in")
    await rig.redis.sadd(keys.PAUSED, "stage")
    await rig.bridge()
    assert await rig.pending(stage) == 0, "XPENDING of a group that is missing is refused"


async def test_entries_of_a_read_whose_reply_is_lost_are_delivered_when_redis_answers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = await rig.stage("stage", "in")
    wait = Consumer.wait
    lost: list[Entry] = []

    async def cut(consumer: Consumer, count: int, **given: Any) -> Sequence[Entry]:
        entries = await wait(consumer, count, **given)
        if entries and not lost:
            lost.extend(entries)
            raise JournalUnavailable("Redis: the connection was lost")
        return entries

    monkeypatch.setattr(Consumer, "wait", cut)
    monkeypatch.setattr(worker_module, "TRY_AGAIN_AFTER", 0.001)
    bridge = await rig.bridge(claim="PT600S")
    await rig.publish("in", "1")
    await eventually(lambda: stage.count["1"] == 1)
    await eventually(lambda: rig.settled(stage))
    assert "stage=stage channel=in outcome=unread" in caplog.text
    assert value(bridge, "unread_channels", stage="stage") == 0


async def test_entries_of_a_read_whose_connection_is_lost_are_delivered_before_the_claim_time(
    own: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "LOOK_EVERY", NEVER)
    stage = await own.stage("stage", "in")
    async with Proxy(own.url) as proxy:
        bridge = await own.bridge(redis_url=proxy.url, claim="PT600S")
        proxy.lose(b"XREADGROUP")
        await own.publish("in", "1")  # the answer to the read after this one is lost
        await eventually(lambda: stage.count["1"])
        await own.publish("in", "2")
        await eventually(lambda: stage.count["2"])
        assert proxy.lost == 1
        await own.stop(bridge)


async def test_each_reason_of_reads_that_fail_again_and_again_is_logged_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = await rig.stage("stage", "in")
    wait, reread, reasons = Consumer.wait, Consumer.reread, ["a", "a", "b", "b", "b", "a"]

    async def fail_once(consumer: Consumer, count: int, **given: Any) -> Sequence[Entry]:
        if len(reasons) == 6:
            raise JournalUnavailable(reasons.pop(0))
        return await wait(consumer, count, **given)

    async def fail(consumer: Consumer) -> list[Entry]:
        if reasons:
            raise JournalUnavailable(reasons.pop(0))
        return await reread(consumer)

    monkeypatch.setattr(Consumer, "wait", fail_once)
    monkeypatch.setattr(Consumer, "reread", fail)
    monkeypatch.setattr(worker_module, "TRY_AGAIN_AFTER", 0.001)
    bridge = await rig.bridge()
    await eventually(lambda: not reasons)
    await rig.publish("in", "1")
    await eventually(lambda: stage.count["1"] == 1)
    lines = [line for line in caplog.messages if "outcome=unread" in line]
    assert lines == [f"stage=stage channel=in outcome=unread reason={reason}" for reason in "ab"]
    assert value(bridge, "unread_channels", stage="stage") == 0


async def test_group_that_goes_away_again_and_again_is_shown(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = await rig.stage("stage", "in")
    gone = True

    async def fail(consumer: Consumer) -> list[Entry]:
        if gone:
            raise GroupMissing("NOGROUP")
        return await reread(consumer)

    reread = Consumer.reread
    bridge = await rig.bridge()
    monkeypatch.setattr(Consumer, "reread", fail)
    monkeypatch.setattr(worker_module, "LOOK_EVERY", 0.01)
    await rig.redis.xgroup_destroy(keys.journal("in"), "stage")
    await eventually(lambda: value(bridge, "unread_channels", stage="stage") == 1)
    assert "stage=stage channel=in outcome=unread reason=NOGROUP" in caplog.messages
    gone = False
    await rig.redis.xgroup_destroy(keys.journal("in"), "stage")
    await rig.publish("in", "1")
    await eventually(lambda: stage.count["1"] == 1)
    await eventually(lambda: value(bridge, "unread_channels", stage="stage") == 0)


async def test_group_that_is_gone_and_may_not_be_made_is_tried_for_a_few_times_a_second(
    own: Rig, ten_beats: Callable[[], Awaitable[None]]
) -> None:
    await own.stage("stage", "in")
    await own.redis.execute_command("ACL", "SETUSER", "bridge", "on", ">pass", "~*", "&*", "+@all")  # type: ignore[no-untyped-call]
    bridge = await own.bridge(redis_url=own.url.replace("redis://", "redis://bridge:pass@"))
    await own.redis.execute_command("ACL", "SETUSER", "bridge", "-xgroup")  # type: ignore[no-untyped-call]
    await own.redis.xgroup_destroy(keys.journal("in"), "stage")
    await eventually(lambda: value(bridge, "unread_channels", stage="stage") == 1)
    before = await commands(own)
    await ten_beats()
    assert await commands(own) - before < 200


async def test_delivery_that_is_being_settled_is_not_ended_though_its_claim_is_lost(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first settlement of an entry counts, also if its bridge has lost the claim."""
    stage = await rig.stage("stage", "in", "out")
    settle, begun, go = Consumer.settle, asyncio.Event(), asyncio.Event()

    async def late(consumer: Consumer, *settlements: Any, **given: Any) -> Any:
        begun.set()
        await go.wait()
        return await settle(consumer, *settlements, **given)

    monkeypatch.setattr(Consumer, "settle", late)
    bridge = await rig.bridge(claim="PT600S")
    (worker,) = bridge.workers
    await rig.publish("in", "1")
    await begun.wait()
    ((entry, _),) = await rig.redis.xrange(keys.journal("in"))
    await rig.redis.xclaim(keys.journal("in"), "stage", "another", 0, [entry], justid=True)
    await worker.renew()
    go.set()
    await eventually(lambda: not worker.in_delivery)
    assert await rig.journaled("out") == ["1"]
    assert await rig.pending(stage) == 0


async def test_journal_is_trimmed_soon_after_a_settlement_and_not_only_with_all_others(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "TRIM", 0.01)
    monkeypatch.setattr(bridge_module, "TRIM_ALL", NEVER)
    first, second = await rig.stage("first", "in"), await rig.stage("second", "in")
    await rig.bridge()
    await rig.publish_all("in", ["1", "2", "3"])
    await eventually(lambda: len(first.count) == len(second.count) == 3)

    async def trimmed() -> bool:
        return not await rig.journaled("in")

    await eventually(trimmed)


async def test_journals_where_another_bridge_settled_events_are_trimmed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "TRIM", NEVER)
    first, second = await rig.stage("first", "in"), await rig.stage("second", "in")
    settles = await rig.bridge()
    await rig.publish_all("in", ["1", "2", "3"])
    await eventually(lambda: len(first.count) == len(second.count) == 3)
    await eventually(lambda: not any(worker.in_delivery for worker in settles.workers))
    await rig.stop(settles)
    assert len(await rig.journaled("in")) == 3
    monkeypatch.setattr(bridge_module, "TRIM", 0.01)
    monkeypatch.setattr(bridge_module, "TRIM_ALL", 0.05)
    await rig.bridge()

    async def trimmed() -> bool:
        return not await rig.journaled("in")

    await eventually(trimmed)


async def test_status_of_an_event_that_waits_for_long_is_kept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "STATUS_AGE", timedelta(0))
    await rig.stage("stage", "in")
    await rig.redis.sadd(keys.PAUSED, "stage")
    await rig.publish("in", "1")
    assert await rig.redis.pexpire(keys.status("1"), 60_000)
    await rig.bridge()

    async def kept() -> bool:
        return int(await rig.redis.pttl(keys.status("1"))) > 60_000

    await eventually(kept)


async def test_parked_event_is_retried_when_it_is_due_and_not_at_the_next_look(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "LOOK", NEVER)
    stage = await rig.stage("stage", "in", None, lambda delivery: status(500 if delivery.count < 3 else 204))
    await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: stage.count["1"] == 3)
    await eventually(lambda: rig.settled(stage))


async def test_depths_are_left_out_of_the_metrics_while_redis_does_not_tell_them(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "STATS_EVERY", 0.02)
    await rig.stage("stage", "in")
    bridge = await rig.bridge()

    def depth() -> float | None:
        return bridge.metrics.registry.get_sample_value("milepost_journaled_events", {"stage": "stage"})

    async def away(_: object) -> None:
        raise JournalUnavailable("away")

    await eventually(lambda: depth() == 0)
    with monkeypatch.context() as patch:
        patch.setattr(bridge.journal.admin, "depths", away)
        await eventually(lambda: depth() is None)
    await eventually(lambda: depth() == 0)


async def commands(rig: Rig) -> int:
    return int((await rig.redis.info("stats"))["total_commands_processed"])


async def test_idle_bridge_sends_few_commands(rig: Rig, ten_beats: Callable[[], Awaitable[None]]) -> None:
    stage, ordered = await rig.stage("stage", "in"), await rig.stage("ordered", "keyed")
    late = await rig.stage("late", "later")
    bridge = await rig.bridge(routes=[stage.route(), ordered.route(order="key"), late.route(delay="PT1H")])
    await eventually(lambda: value(bridge, "leading") == 1)
    await rig.publish("later", "1")
    await eventually(lambda: rig.parked("late"))

    before = await commands(rig)
    await ten_beats()
    assert await commands(rig) - before < 160, "100, and 6 for each beat"


async def test_bridge_that_waits_for_the_other_delivery_mode_sends_few_commands(
    rig: Rig, ten_beats: Callable[[], Awaitable[None]]
) -> None:
    await rig.stage("stage", "in")
    await rig.bridge()
    waiting = rig.start(Bridge(rig.settings(delivery="broker", k_sink="http://127.0.0.1:1")))
    await eventually(lambda: waiting.ready)
    before = await commands(rig)
    await ten_beats()
    assert await commands(rig) - before < 200


async def test_bridge_that_starts_without_redis_tries_again_a_few_times_a_second(
    own: Rig, ten_beats: Callable[[], Awaitable[None]]
) -> None:
    await own.stage("stage", "in")
    other = await own.stage("other", "else")
    await own.bridge(routes=[other.route()])
    async with Proxy(own.url) as proxy:
        proxy.is_down = True
        bridge = own.start(Bridge(own.settings(redis_url=proxy.url)))
        await eventually(lambda: proxy.connections)
        before = proxy.connections
        await ten_beats()
        assert proxy.connections - before < 60
        await own.stop(bridge)


async def test_bridge_without_redis_tries_again_a_few_times_a_second(
    own: Rig, ten_beats: Callable[[], Awaitable[None]]
) -> None:
    stage, other = await own.stage("stage", "in", "out"), await own.stage("other", "else")
    go = asyncio.Event()
    stage.answer_after(go)
    async with Proxy(own.url) as proxy:
        bridge = await own.bridge(redis_url=proxy.url, routes=[stage.route()])
        await own.publish("in", "1")
        await eventually(lambda: stage.on_wire)
        proxy.lose(b"EVALSHA", goes_down=True)
        await eventually(lambda: proxy.is_down)
        go.set()
        await eventually(lambda: stage.on_wire == 0)
        await own.bridge(routes=[other.route()])
        before = proxy.connections
        await ten_beats()
        assert proxy.connections - before < 60
        proxy.is_down = False
        await eventually(lambda: own.settled(stage))
        await own.stop(bridge)
    assert stage.count == {"1": 1}
