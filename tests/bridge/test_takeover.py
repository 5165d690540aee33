"""Takeover: several bridges, of which one dies, freezes or loses its claim."""

import asyncio
import json
import re
import urllib.request
from hashlib import sha1

import pytest

from milepost.bridge import worker as worker_module
from milepost.events.event import Event
from milepost.journal import keys
from milepost.journal.consumer import MOST_PENDING
from milepost.journal.scripts import SCRIPTS
from tests.bridge.rig import Answer, Delivery, Rig, ended, status, subscribed, value
from tests.proxy import Proxy
from tests.servers import WITHIN, Module, eventually


async def test_two_bridges_share_the_work_and_deliver_each_event_once(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    bridges = [await rig.bridge(), await rig.bridge()]
    ids = [f"{n:03}" for n in range(400)]
    async with subscribed(rig.redis, "out") as heard:
        await rig.publish_all("in", ids)
        await eventually(lambda: rig.settled(stage))
        await eventually(lambda: len(heard) == 400)
    assert stage.count == dict.fromkeys(ids, 1)
    assert sorted(message["id"] for message in heard) == ids
    shares = [value(bridge, "deliveries_total", stage="stage", outcome="delivered") for bridge in bridges]
    assert sum(shares) == 400
    assert min(shares) > 0


async def test_killed_bridge_events_are_redelivered_after_the_claim_time(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    watcher = await rig.stage("watcher", "out")
    held = asyncio.Event()
    stage.answer_after(held, first=True)
    killed = await rig.running(stages=[stage])
    await rig.publish_all("in", ["1", "2", "3"])
    await eventually(lambda: stage.on_wire == 3)
    killed.kill()
    survivor = await rig.bridge(claim="PT1S")
    await eventually(lambda: rig.settled(stage))
    assert stage.count == {"1": 2, "2": 2, "3": 2}
    await eventually(lambda: watcher.count == {"1": 1, "2": 1, "3": 1})
    assert value(survivor, "stale_total", stage="stage") == 0
    held.set()


async def test_entry_in_delivery_is_renewed_and_not_redelivered(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    go = asyncio.Event()
    stage.answer_after(go)
    await rig.bridge(claim="PT2S")
    await rig.publish("in", "1")
    await eventually(lambda: stage.on_wire)
    ((entry, holder),) = await claims(rig)
    await rig.redis.xclaim(keys.journal("in"), "stage", holder, 0, [entry], idle=300_000, justid=True)

    async def renewed() -> bool:
        (row,) = await rig.redis.xpending_range(keys.journal("in"), "stage", "-", "+", 1)
        return bool(row["time_since_delivered"] < 100_000)

    await eventually(renewed)
    await rig.bridge(claim="PT200S")  # it looks for redeliveries as soon as it is ready
    await rig.publish("in", "2")
    await eventually(lambda: stage.count["2"] == 1)
    assert (entry, holder) in await claims(rig)
    go.set()
    await eventually(lambda: rig.settled(stage))
    assert stage.count == {"1": 1, "2": 1}


async def claims(rig: Rig) -> list[tuple[bytes, bytes]]:
    """Each pending entry and its consumer."""
    rows = await rig.redis.xpending_range(keys.journal("in"), "stage", "-", "+", 9)
    return [(row["message_id"], row["consumer"]) for row in rows]


async def test_frozen_bridge_that_wakes_publishes_nothing_twice(rig: Rig) -> None:
    """The response is unread in its socket while another bridge delivers the event: one of two replies is journaled."""
    stage = await rig.stage("stage", "in", "out")
    watcher = await rig.stage("watcher", "out")
    go = asyncio.Event()
    stage.answer_after(go, first=True)
    frozen = await rig.running(stages=[stage])
    ids = ["1", "2", "3"]
    await rig.publish_all("in", ids)
    await eventually(lambda: stage.on_wire == 3)
    frozen.freeze()
    await rig.bridge(claim="PT1S")
    await eventually(lambda: stage.count == dict.fromkeys(ids, 2), what="takeover")
    go.set()
    await eventually(lambda: rig.settled(stage))
    await eventually(lambda: watcher.count == dict.fromkeys(ids, 1))
    frozen.thaw()
    await eventually(lambda: asyncio.to_thread(knows_of, frozen, 3), what="the lost claims known")
    await rig.publish("in", "last")
    await eventually(lambda: watcher.count["last"])
    assert frozen.process
    frozen.process.terminate()
    await ended(frozen)
    await eventually(lambda: rig.settled(watcher))
    assert watcher.count == dict.fromkeys([*ids, "last"], 1)


def knows_of(process: Module, events: int) -> bool:
    """Whether this process has found, when it settled or renewed, that so many entries belong to another bridge."""
    with urllib.request.urlopen(f"{process.url}/metrics", timeout=WITHIN) as answer:
        stale = re.search(r'^milepost_stale_total{stage="stage"} (\d+)', answer.read().decode(), re.MULTILINE)
    return process.log.count("lost-claim") + int(stale[1] if stale else 0) == events


async def test_delivery_that_ends_after_its_event_was_settled_counts_stale_and_publishes_nothing(rig: Rig) -> None:
    """Only the first settlement of an entry counts."""
    stage = await rig.stage("stage", "in", "out")
    go = asyncio.Event()
    stage.answer_after(go)
    bridge = await rig.bridge(claim="PT60S")
    async with subscribed(rig.redis, "out") as heard:
        await rig.publish("in", "1")
        await eventually(lambda: stage.on_wire)
        (row,) = await rig.redis.xpending_range(keys.journal("in"), "stage", "-", "+", 1)
        await rig.redis.xack(keys.journal("in"), "stage", row["message_id"])
        go.set()
        await eventually(lambda: value(bridge, "stale_total", stage="stage") == 1)
        assert heard == []
    assert list(await rig.journal.status("1")) == ["in"]


async def test_delivery_whose_claim_was_lost_is_ended(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out", never)
    bridge = await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: stage.on_wire)
    await lose(rig, "1")
    await eventually(lambda: not bridge.workers[0].in_delivery)
    assert (bridge.workers[0].limit.unsettled, bridge.workers[0].limit.in_flight) == (0, 0)
    assert await rig.pending(stage) == 1


async def never(_: Delivery) -> Answer:
    await asyncio.Event().wait()
    return None


async def lose(rig: Rig, *ids: str) -> None:
    """Give the entries of these events to another consumer, as if it had redelivered them."""
    rows = await rig.redis.xrange(keys.journal("in"))
    entries = [entry for entry, fields in rows if json.loads(fields[b"event"])["id"] in ids]
    await rig.redis.xclaim(keys.journal("in"), "stage", "another", 0, entries, justid=True)


async def test_lost_entry_that_the_other_bridge_abandoned_is_redelivered(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda delivery: never(delivery) if delivery.count == 1 else stage.succeed(delivery)
    await rig.bridge(claim="PT5S")
    await rig.publish("in", "1")
    await eventually(lambda: stage.on_wire)
    await lose(rig, "1")
    await eventually(lambda: stage.count["1"] == 2)
    await eventually(lambda: rig.settled(stage))


async def test_claim_lost_for_part_of_a_batch_lets_the_rest_of_it_be_settled(rig: Rig) -> None:
    go = asyncio.Event()
    stage = await rig.stage("stage", "in", "out")

    async def hold(events: list[Event]) -> Answer:
        await go.wait()
        return stage.succeed_together(events)

    stage.batch_script = hold
    watcher = await rig.stage("watcher", "out")
    ids = [str(number) for number in range(8)]
    await rig.publish_all("in", ids)
    bridge = await rig.bridge(routes=[stage.route(batch=8), watcher.route()], claim="PT60S")
    await eventually(lambda: stage.batches)
    await lose(rig, "3", "5")
    journal = keys.journal("in")
    rows = await rig.redis.xpending_range(journal, "stage", "-", "+", 9, "another")
    lost = {row["message_id"] for row in rows}
    (worker,) = [worker for worker in bridge.workers if worker.stage == "stage"]
    await worker.renew()
    assert len(worker.in_delivery) == 8, "the batch goes on for the other six"
    await rig.redis.xack(journal, "stage", *lost)  # the other bridge settles its two first
    go.set()
    await eventually(lambda: len(watcher.count) == 6)
    await eventually(lambda: not worker.in_delivery)
    assert len(stage.batches) == 1
    assert set(watcher.count) == set(ids) - {"3", "5"}
    assert value(bridge, "stale_total", stage="stage") == 2
    assert (worker.limit.unsettled, worker.limit.unsettled_bytes) == (0, 0)


async def test_batch_is_ended_once_the_claims_on_all_of_it_are_lost(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.batch_script = hang
    ids = [str(number) for number in range(8)]
    await rig.publish_all("in", ids)
    bridge = await rig.bridge({"batch": 8}, claim="PT10S")
    await eventually(lambda: stage.batches)
    await lose(rig, *ids)
    await eventually(lambda: not bridge.workers[0].in_delivery)
    assert (bridge.workers[0].limit.unsettled, bridge.workers[0].limit.in_flight) == (0, 0)
    assert await rig.pending(stage) == 8


async def hang(_: list[Event]) -> Answer:
    await asyncio.Event().wait()
    return None


@pytest.mark.parametrize("read", ["after a lost read", "takeover"])
async def test_event_that_is_settled_while_redis_lists_it_as_pending_is_not_delivered_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """Reads and settlements go over two connections, so the answer to a read can be older than that to a settlement."""
    monkeypatch.setattr(worker_module, "LOOK_EVERY", 0.05)
    stage = await rig.stage("stage", "in", "out")
    go = asyncio.Event()
    stage.answer_after(go, first=True)
    async with Proxy(rig.url) as proxy:
        bridge = await rig.bridge(redis_url=proxy.url, claim="PT60S")
        await rig.publish("in", "1")
        await eventually(lambda: stage.on_wire)
        if read == "takeover":
            proxy.hold(sha1(SCRIPTS["take_over"].encode(), usedforsecurity=False).hexdigest().encode())
            ((entry, holder),) = await claims(rig)
            await rig.redis.xclaim(keys.journal("in"), "stage", holder, 0, [entry], idle=300_000, justid=True)
        else:
            proxy.hold(f"\r\n{MOST_PENDING}\r\n".encode())
            proxy.lose(b"XREADGROUP")
        await eventually(lambda: proxy.holds)
        go.set()
        await eventually(lambda: not bridge.workers[0].in_delivery)
        proxy.pass_on()
        await rig.publish("in", "last")
        await eventually(lambda: rig.settled(stage))
        assert stage.count == {"1": 1, "last": 1}
        await rig.stop(bridge)


async def test_entry_that_an_operator_deleted_is_acknowledged_and_counted(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    await rig.publish("in", "1")
    journal = keys.journal("in")
    await rig.redis.xgroup_create(journal, "stage", "0")
    ((_, ((entry, _),)),) = await rig.redis.xreadgroup("stage", "gone", {journal: ">"}, count=1)
    await rig.redis.xdel(journal, entry)
    bridge = await rig.bridge(claim="PT0.2S")
    await eventually(lambda: value(bridge, "destroyed_total", stage="stage") == 1)
    assert await rig.pending(stage) == 0
    assert not stage.count


async def test_consumers_of_dead_bridges_disappear(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    killed = await rig.running()
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(stage))
    killed.kill()
    await rig.bridge(claim="PT0.3S")
    await rig.publish("in", "2")
    await eventually(lambda: stage.count["2"])

    async def one_left() -> bool:
        return len(await rig.redis.xinfo_consumers(keys.journal("in"), "stage")) == 1

    await eventually(one_left)


async def test_destroyed_group_is_made_again_from_the_beginning_of_its_journal(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    stage = await rig.stage("stage", "in", "out")
    slow = await rig.stage("slow", "in", None, lambda _: status(503))  # keeps the journal from being trimmed
    await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(stage))
    await rig.redis.xgroup_destroy(keys.journal("in"), "stage")
    await rig.publish("in", "2")
    await eventually(lambda: stage.count["2"] == 1)
    await eventually(lambda: rig.settled(stage))
    assert "stage=stage outcome=groups-made" in caplog.messages
    slow.script = slow.succeed


async def test_group_destroyed_under_a_delivery_gives_the_event_out_again(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    watcher = await rig.stage("watcher", "out")
    go = asyncio.Event()
    stage.answer_after(go, first=True)
    bridge = await rig.bridge(claim="PT60S")
    await rig.publish("in", "1")
    await eventually(lambda: stage.on_wire)
    await rig.redis.xgroup_destroy(keys.journal("in"), "stage")
    go.set()
    await eventually(lambda: watcher.count["1"])
    await eventually(lambda: rig.settled(stage))
    assert watcher.count["1"] == 1
    assert value(bridge, "stale_total", stage="stage") <= 1


async def test_deleted_journal_is_made_again(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(stage))
    await rig.redis.delete(keys.journal("in"))
    await rig.publish("in", "2")
    await eventually(lambda: stage.count["2"] == 1)
    await eventually(lambda: rig.settled(stage))


async def test_flushed_scripts_are_loaded_again(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    await rig.bridge()
    for number in range(5):
        await rig.redis.script_flush()
        await rig.publish_all("in", [f"{number}-{n}" for n in range(20)])
    await eventually(lambda: len(stage.count) == 100)
    await eventually(lambda: rig.settled(stage))
    assert set(stage.count.values()) == {1}


async def test_events_published_before_the_first_bridge_are_delivered(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    await rig.publish_all("in", ["1", "2", "3"])
    await rig.bridge()
    await eventually(lambda: stage.count == {"1": 1, "2": 1, "3": 1})


async def test_stage_added_to_a_channel_gets_the_events_still_in_its_journal(rig: Rig) -> None:
    go = asyncio.Event()
    first = await rig.stage("first", "in")

    first.answer_after(go)
    await rig.bridge()
    await rig.publish_all("in", ["1", "2"])
    await eventually(lambda: first.on_wire == 2)
    second = await rig.stage("second", "in")
    await rig.bridge(routes=[second.route()])
    await eventually(lambda: rig.settled(second))
    assert second.count == {"1": 1, "2": 1}
    go.set()


async def test_removed_stage_is_shown_as_not_served_and_keeps_nothing_once_forgotten(rig: Rig) -> None:
    removed = await rig.stage("removed", "in", None, lambda _: status(503, retry_after="60"))
    kept = await rig.stage("kept", "in")
    bridge = await rig.bridge()
    await rig.publish_all("in", ["1", "2", "3"])
    await eventually(lambda: rig.settled(kept))
    await eventually(lambda: rig.parked("removed"))
    await rig.stop(bridge)
    await silence(rig, "removed")
    await rig.bridge(routes=[kept.route()])
    served = {stage.name: stage.served for stage in await rig.journal.admin.stages()}
    assert served == {"kept": True, "removed": False}
    await rig.publish("in", "4")
    await eventually(lambda: rig.settled(kept))
    assert await rig.journaled("in")
    forgotten = await rig.journal.admin.forget("removed")
    assert forgotten.parked >= 1

    async def trimmed() -> bool:
        return not await rig.journaled("in")

    await rig.publish("in", "5")
    await eventually(trimmed)
    assert kept.count == dict.fromkeys(["1", "2", "3", "4", "5"], 1)
    assert removed.name not in {stage.name for stage in await rig.journal.admin.stages()}


async def silence(rig: Rig, name: str) -> None:
    """As if this stage's last beat were two minutes old."""
    wired = await rig.redis.hget(keys.STAGES, name)
    head, _, beat = wired.rpartition(b":")
    await rig.redis.hset(keys.STAGES, name, b"%b:%d}" % (head, int(beat[:-1]) - 120_000))


async def test_replayed_dead_letter_goes_to_its_own_stage_only(rig: Rig) -> None:
    bad = await rig.stage("bad", "in", None, lambda _: status(422))
    good = await rig.stage("good", "in")
    await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: rig.dead("bad"))
    bad.script = bad.succeed
    (letter,) = await rig.dead("bad")
    assert await rig.journal.admin.replay("bad", [letter.entry]) == 1
    await eventually(lambda: bad.count["1"] == 2)
    await eventually(lambda: rig.settled(good))
    await eventually(lambda: rig.settled(bad))
    assert good.count["1"] == 1
    assert not await rig.dead("bad")


async def test_retry_that_version_0_1_journaled_goes_to_its_own_stage_only(rig: Rig) -> None:
    stage, other = await rig.stage("stage", "in"), await rig.stage("other", "in")
    await rig.bridge()
    event = Event(id="1", source="/test", type="in").to_json()
    await rig.redis.xadd(keys.journal("in"), {"event": event, "for": "stage", "attempts": "1"})
    await eventually(lambda: stage.count["1"])
    await eventually(lambda: rig.settled(stage))
    await eventually(lambda: rig.settled(other))
    assert (stage.count["1"], other.count["1"]) == (1, 0)


async def test_retry_goes_only_to_the_stage_that_failed(rig: Rig) -> None:
    flaky = await rig.stage("flaky", "in")
    flaky.script = lambda delivery: status(500) if delivery.count < 4 else flaky.succeed(delivery)
    steady = await rig.stage("steady", "in")
    await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: flaky.count["1"] == 4)
    await eventually(lambda: rig.settled(flaky))
    await eventually(lambda: rig.settled(steady))
    assert steady.count["1"] == 1


async def test_two_equal_events_from_different_sources_both_run(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    await rig.bridge()
    for source in ("/a", "/b"):
        await rig.journal.publish(Event(id="1", source=source, type="in"))
    await eventually(lambda: stage.count["1"] == 2)
