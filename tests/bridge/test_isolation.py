"""A fault of one event, one key or one route is that one's alone, and each is counted, logged or both."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from milepost.bridge import bridge as bridge_module
from milepost.bridge import worker as worker_module
from milepost.bridge.concurrency import ConcurrencyLimit
from milepost.bridge.delivery import Deliverer
from milepost.bridge.http.client import Client
from milepost.bridge.metrics import StageMetrics
from milepost.bridge.retry import RetryPolicy
from milepost.bridge.wake import Silence
from milepost.events.event import Event
from milepost.journal import Complete, Delay, Entry, Park, Settlement, StageNotServed, Wiring, keys
from tests.bridge.rig import Answer, Delivery, Rig, replied, status, value
from tests.servers import eventually

HASTY = {"backoffDelay": "PT0.001S", "backoffPolicy": "linear"}


class BridgeError(Exception):
    """A fault of the bridge's own code."""


def logged(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether a fault of the bridge's own code was logged, with its traceback."""
    return any(record.exc_info and record.exc_info[0] is BridgeError for record in caplog.records)


def raise_for_bad_post(monkeypatch: pytest.MonkeyPatch) -> None:
    post: Callable[..., Awaitable[Any]] = Client.post

    async def broken(self: Client, body: bytes, **given: Any) -> Any:
        if b'"bad"' in body:
            raise BridgeError
        return await post(self, body, **given)

    monkeypatch.setattr(Client, "post", broken)


def raise_for_bad_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    deliver: Callable[..., Awaitable[Any]] = Deliverer.deliver

    async def broken(self: Deliverer, entries: Sequence[Entry]) -> Any:
        if any(b'"bad"' in entry.event for entry in entries):
            raise BridgeError
        return await deliver(self, entries)

    monkeypatch.setattr(Deliverer, "deliver", broken)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("broken", [raise_for_bad_post, raise_for_bad_delivery])
async def test_unexpected_exception_is_logged_and_counted_and_ends_as_a_dead_letter_with_its_reason(
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: Callable[[pytest.MonkeyPatch], None],
    batch: int,
) -> None:
    rig.expects_logged_exceptions = True
    broken(monkeypatch)
    stage = await rig.stage("stage", "in", "out")
    good = [str(number) for number in range(7)]
    await rig.publish_all("in", [*good[:3], "bad", *good[3:]])
    bridge = await rig.bridge({**HASTY, "retry": 2, "batch": batch})
    await eventually(lambda: rig.settled(stage))
    (letter,) = await rig.dead("stage")
    assert (letter.id, letter.status, letter.attempts, letter.crashes) == ("bad", None, 3, 0)
    assert letter.reason == "the bridge failed at it: BridgeError"
    logged = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert len(logged) >= letter.attempts, "a traceback for each attempt"
    assert set(logged) == {BridgeError}
    delivered = [*stage.count, *(of for events in stage.batches for of in events)]
    assert sorted(delivered) == good
    await eventually(lambda: bridge.workers[0].limit.unsettled == 0, what="settled in the bridge too")
    assert (bridge.workers[0].limit.in_flight, value(bridge, "in_flight", stage="stage")) == (0, 0)
    assert value(bridge, "stale_total", stage="stage") == 0


@pytest.mark.parametrize("order", [False, "key"])
async def test_events_that_are_put_off_again_and_again_keep_no_unread_event_from_the_stage(
    rig: Rig, order: str | bool
) -> None:
    """They come due faster than the stage answers, so there is always a retry."""
    stage = await rig.stage("stage", "in", "out")
    answering = asyncio.Lock()

    async def work(delivery: Delivery) -> Answer:
        async with answering:
            await asyncio.sleep(0.005)
        return stage.succeed(delivery) if delivery.event.id == "good" else status(409, retry_after="0")

    stage.script = work
    await rig.bridge({"order": order})
    for number in range(48):
        await rig.publish("in", str(number), {"key": number})
    await eventually(lambda: len(stage.count) == 48)  # from now on more come due than are answered
    await rig.publish("in", "good", {"key": "good"})
    await eventually(lambda: stage.count["good"])


def raise_for_bad(monkeypatch: pytest.MonkeyPatch, settlement: Any) -> None:
    """Let the bridge raise when it makes this kind of settlement for the event `bad`."""

    def broken(entry: Entry, *given: Any) -> Settlement:
        if b'"bad"' in entry.event:
            raise BridgeError
        made: Settlement = settlement(entry, *given)
        return made

    monkeypatch.setattr(worker_module, settlement.__name__, broken)


@pytest.mark.parametrize("batch", [1, 8])
async def test_exception_at_the_settlement_of_one_event_makes_no_second_request(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, batch: int
) -> None:
    rig.expects_logged_exceptions = True
    raise_for_bad(monkeypatch, Complete)
    stage = await rig.stage("stage", "in", "out")
    ids = ["1", "2", "bad", "3", "4"]
    await rig.publish_all("in", ids)
    bridge = await rig.bridge({"retry": 0, "batch": batch})
    await eventually(lambda: rig.settled(stage))
    (letter,) = await rig.dead("stage")
    assert (letter.id, letter.reason) == ("bad", "the bridge failed at it: BridgeError")
    assert logged(caplog)
    assert sorted(stage.count.elements()) == (sorted(ids) if batch == 1 else [])
    assert stage.batches == ([] if batch == 1 else [ids])
    await eventually(lambda: not bridge.workers[0].in_delivery)
    for outcome, events in {"delivered": 4, "failed": 1}.items():
        assert value(bridge, "deliveries_total", stage="stage", outcome=outcome) == events
    assert value(bridge, "stale_total", stage="stage") == 0


async def test_exception_at_every_settlement_of_one_event_leaves_it_pending_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig.expects_logged_exceptions = True
    for settlement in (Complete, Park):
        raise_for_bad(monkeypatch, settlement)
    stage = await rig.stage("stage", "in", "out")
    await rig.publish_all("in", ["1", "2", "bad", "3"])
    bridge = await rig.bridge({"batch": 8}, claim="PT60S")
    await eventually(lambda: not bridge.workers[0].in_delivery)
    assert "outcome=left-pending reason=BridgeError" in caplog.text
    assert logged(caplog)
    assert (stage.batches, stage.count) == ([["1", "2", "bad", "3"]], {})
    assert await rig.pending(stage) == 1
    assert sorted(await rig.journaled("out")) == ["1", "2", "3"]


async def test_exception_at_the_delay_of_one_event_delays_the_others_all_the_same(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig.expects_logged_exceptions = True
    raise_for_bad(monkeypatch, Delay)
    stage = await rig.stage("stage", "in", "out")
    await rig.publish_all("in", ["1", "bad", "2"])
    await rig.bridge({"retry": 0, "batch": 8, "delay": "PT3600S"})
    await eventually(lambda: rig.dead("stage"))
    (letter,) = await rig.dead("stage")
    assert (letter.id, await rig.parked("stage")) == ("bad", 2)
    assert logged(caplog)
    assert not stage.batches
    assert not stage.count


@pytest.mark.parametrize("broken", [(StageMetrics, "delivered"), (ConcurrencyLimit, "succeeded")])
async def test_exception_in_the_counting_of_outcomes_changes_no_settlement(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: tuple[type, str]
) -> None:
    rig.expects_logged_exceptions = True

    def fail(*_: object) -> None:
        raise BridgeError

    monkeypatch.setattr(*broken, fail)
    stage = await rig.stage("stage", "in", "out")
    await rig.publish_all("in", ["1", "2", "3"])
    bridge = await rig.bridge({"batch": 8})
    await eventually(lambda: not bridge.workers[0].in_delivery)
    assert (stage.batches, stage.count) == ([["1", "2", "3"]], {})
    assert sorted(await rig.journaled("out")) == ["1", "2", "3"]
    assert "outcome=uncounted" in caplog.text
    assert logged(caplog)


async def test_exception_after_a_request_counts_as_a_failure_and_makes_no_second_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.expects_logged_exceptions = True

    def fail(*_: object, answered: bool) -> None:
        raise BridgeError

    monkeypatch.setattr(Silence, "request_ended", fail)
    stage = await rig.stage("stage", "in", "out")
    await rig.publish_all("in", ["1", "2", "3"])
    await rig.bridge({"retry": 0, "batch": 8})
    await eventually(lambda: rig.settled(stage))
    assert (stage.batches, stage.count) == ([["1", "2", "3"]], {})
    assert [letter.reason for letter in await rig.dead("stage")] == ["the bridge failed at it: BridgeError"] * 3


async def test_outcomes_that_are_too_few_count_as_failures_and_make_no_second_request(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.expects_logged_exceptions = True
    deliver: Callable[..., Awaitable[Any]] = Deliverer.deliver

    async def deliver_too_few(self: Deliverer, entries: Sequence[Entry]) -> Any:
        return (await deliver(self, entries))[1:]

    monkeypatch.setattr(Deliverer, "deliver", deliver_too_few)
    stage = await rig.stage("stage", "in", "out")
    await rig.publish_all("in", ["1", "2", "3"])
    bridge = await rig.bridge({"retry": 0, "batch": 8})
    await eventually(lambda: rig.settled(stage))
    assert (stage.batches, stage.count) == ([["1", "2", "3"]], {})
    assert [letter.reason for letter in await rig.dead("stage")] == ["the bridge failed at it: ValueError"] * 3
    await eventually(lambda: not bridge.workers[0].in_delivery)


async def test_event_that_redis_refuses_to_park_holds_no_slot_and_no_other_event(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda delivery: (
        status(500) if delivery.event.id == "bad" and delivery.count == 1 else stage.succeed(delivery)
    )
    bridge = await rig.bridge(window=1, claim="PT2S")
    await rig.redis.set(keys.parked("stage"), "not a sorted set")
    await rig.publish("in", "bad")
    await eventually(lambda: "outcome=left-pending" in caplog.text)
    ids = [str(number) for number in range(20)]
    await rig.publish_all("in", ids)
    await eventually(lambda: set(ids) <= set(stage.count))
    await rig.redis.delete(keys.parked("stage"))
    await eventually(lambda: rig.settled(stage), what="redelivered after the claim time")
    assert stage.count == {"bad": 2} | dict.fromkeys(ids, 1)
    await eventually(lambda: bridge.workers[0].limit.unsettled == 0, what="settled in the bridge too")


async def test_exception_after_a_refusal_leaves_the_entry_pending_and_holds_no_slot(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig.expects_logged_exceptions = True

    def fail(*_: object) -> None:
        raise BridgeError

    monkeypatch.setattr(RetryPolicy, "decide_refusal", fail)
    stage = await rig.stage("stage", "in", None, lambda _: status(500))
    await rig.redis.set(keys.parked("stage"), "not a sorted set")
    bridge = await rig.bridge(claim="PT60S")
    await rig.publish("in", "1")
    await eventually(lambda: stage.count["1"] and not bridge.workers[0].in_delivery)
    assert await rig.pending(stage) == 1
    assert bridge.workers[0].limit.unsettled == 0
    assert logged(caplog)


async def test_event_that_redis_never_parks_is_counted_and_becomes_a_dead_letter(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "LOOK_EVERY", 0.05)
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda delivery: status(500) if delivery.event.id == "bad" else stage.succeed(delivery)
    await rig.bridge({"retry": 2}, claim="PT0.5S")
    await rig.redis.set(keys.parked("stage"), "not a sorted set")
    await rig.publish("in", "bad")
    ids = [str(number) for number in range(20)]
    await rig.publish_all("in", ids)
    await eventually(lambda: rig.dead("stage"))
    (letter,) = await rig.dead("stage")
    assert (letter.id, letter.status, letter.attempts) == ("bad", 500, 3)
    assert letter.reason.startswith("HTTP 500; and it cannot be parked: Redis: WRONGTYPE")
    assert set(stage.count) == {"bad", *ids}


async def test_event_that_redis_refuses_to_park_while_its_stage_is_down_is_not_buried(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "LOOK_EVERY", 0.05)
    stage = await rig.stage("stage", "in", "out", lambda _: status(503))
    bridge = await rig.bridge({"retry": 0}, claim="PT0.5S")
    await rig.redis.set(keys.parked("stage"), "not a sorted set")
    ids = [str(number) for number in range(4)]
    await rig.publish_all("in", ids)
    await eventually(lambda: set(stage.count) == set(ids))
    await eventually(lambda: not bridge.workers[0].in_delivery)
    stage.script = stage.succeed
    await rig.publish("in", "probe")

    async def drained() -> bool:
        return not await rig.pending(stage)

    await eventually(drained, what="redelivered when the stage is up")
    assert not await rig.dead("stage")
    assert sorted(set(await rig.journaled("out"))) == sorted([*ids, "probe"])


async def test_event_whose_dead_letter_is_refused_is_parked_until_it_can_be_written(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "LOOK_EVERY", 0.05)
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda delivery: status(500) if delivery.event.id == "bad" else stage.succeed(delivery)
    await rig.redis.set(keys.dead("stage"), "not a stream")
    await rig.redis.set(keys.parked("stage"), "not a sorted set")
    bridge = await rig.bridge({"retry": 0}, claim="PT0.2S")
    await rig.publish_all("in", ["bad", "good"])
    await eventually(lambda: stage.count["bad"] == 2, what="left pending, and redelivered")
    await rig.redis.delete(keys.parked("stage"))
    await eventually(lambda: rig.parked("stage"))
    await eventually(lambda: stage.count["good"])
    before = stage.count["bad"]
    assert not bridge.workers[0].limit.down
    assert await rig.due("stage") > await rig.now() + 10
    await rig.redis.delete(keys.dead("stage"))
    await rig.overdue("stage")
    await eventually(lambda: rig.dead("stage"))
    assert stage.count == {"bad": before + 1, "good": 1}


async def test_reply_that_redis_refuses_parks_its_event_and_holds_up_no_other_stage(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda delivery: status(204) if delivery.event.id == "quiet" else stage.succeed(delivery)
    other = await rig.stage("other", "in", "elsewhere")
    await rig.redis.set(keys.journal("out"), "not a stream")
    bridge = await rig.bridge({**HASTY, "retry": 0})
    await rig.publish("in", "1")
    await eventually(lambda: rig.parked("stage"))
    await eventually(lambda: not bridge.workers[0].in_delivery, what="it holds no slot")
    assert value(bridge, "deliveries_total", stage="stage", outcome="routedown") > 0
    await rig.publish_all("in", ["quiet", "2", "3"])
    await eventually(lambda: rig.settled(other))
    await eventually(lambda: stage.count["quiet"])
    assert not await rig.dead("stage"), "no event is at fault"
    await rig.redis.delete(keys.journal("out"))
    await eventually(lambda: rig.settled(stage))
    assert other.count == dict.fromkeys(["1", "quiet", "2", "3"], 1)
    assert sorted(await rig.journaled("out")) == ["1", "2", "3"]


async def test_member_that_is_no_parked_event_holds_up_no_retry_of_any_stage(rig: Rig) -> None:
    first = await rig.stage("first", "in", None, lambda delivery: status(500 if delivery.count == 1 else 204))
    second = await rig.stage("second", "in", None, lambda delivery: status(500 if delivery.count == 1 else 204))
    await rig.redis.zadd(keys.parked("first"), {"no parked event": 1})
    await rig.bridge(HASTY)
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(first))
    await eventually(lambda: rig.settled(second))
    assert first.count["1"] == second.count["1"] == 2
    (letter,) = await rig.dead("first")
    assert letter.event == b"no parked event"


async def test_due_events_of_another_stage_are_retried_beside_a_broken_key(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    stage = await rig.stage("stage", "in", None, lambda delivery: status(500 if delivery.count == 1 else 204))
    broken = await rig.stage("broken", "other", None, lambda delivery: status(500 if delivery.count == 1 else 204))
    await rig.redis.set(keys.parked("broken"), "not a sorted set")
    await rig.bridge(HASTY)
    await rig.publish("in", "1")
    await eventually(lambda: stage.count["1"] == 2)
    await eventually(lambda: "stage=broken outcome=not-retried" in caplog.text)
    caplog.clear()
    await rig.redis.delete(keys.parked("broken"))
    await rig.publish("other", "2")
    await eventually(lambda: broken.count["2"] == 2)
    await eventually(lambda: rig.settled(broken))
    await rig.redis.set(keys.parked("broken"), "not a sorted set")
    await eventually(lambda: "stage=broken outcome=not-retried" in caplog.text, what="logged again")


async def test_broken_journal_key_holds_up_no_trim_and_no_door_of_another_channel(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    slow = await rig.stage("slow", "in")  # two stages, so that entries stay until they are trimmed
    stage = await rig.stage("stage", "in")
    await rig.stage("broken", "broken")
    await rig.bridge()
    await rig.redis.delete(keys.journal("broken"))
    await rig.redis.set(keys.journal("broken"), "not a stream")
    await rig.publish_all("in", ["1", "2", "3"])
    await eventually(lambda: rig.settled(slow))
    await eventually(lambda: rig.settled(stage))

    async def trimmed() -> bool:
        return not await rig.journaled("in")

    await eventually(trimmed)
    await eventually(lambda: "channel=broken outcome=untrimmed" in caplog.text)
    assert "channel=in outcome=untrimmed" not in caplog.text

    async def counted_anew() -> bool:
        return not await rig.redis.exists(keys.BACKLOG)  # the count that doors remember has expired

    await eventually(counted_anew)
    await rig.publish("in", "4")
    await eventually(lambda: stage.count["4"] == slow.count["4"] == 1)


async def test_journal_that_cannot_be_trimmed_for_want_of_a_group_is_logged(
    own: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge_module, "TRIM", 0.01)
    monkeypatch.setattr(bridge_module, "TRIM_ALL", 0.05)
    stage = await own.stage("stage", "in")
    bridge = await own.bridge()
    await own.publish("in", "1")
    await eventually(lambda: own.settled(stage))
    await own.redis.execute_command("ACL", "SETUSER", "default", "-xgroup")  # type: ignore[no-untyped-call]
    await bridge.maintenance.beat({"added": Wiring(["in"], [], "http://127.0.0.1:1")})
    await eventually(lambda: "channel=in outcome=untrimmed entries=" in caplog.text)


@pytest.mark.parametrize("broken", [keys.journal("other"), keys.retries("broken", "other")])
async def test_bridge_starts_beside_a_key_of_another_type_and_its_stage_heals(
    rig: Rig, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    await rig.redis.set(broken, "not a stream")
    first = await rig.stage("broken", "other")
    stage = await rig.stage("stage", "in")
    bridge = await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(stage))
    await eventually(lambda: value(bridge, "unread_channels", stage="broken") == 1)
    assert "stage=broken channel=other outcome=unread reason='Redis: WRONGTYPE" in caplog.text
    assert value(bridge, "unread_channels", stage="stage") == 0
    await rig.redis.delete(broken)
    await rig.publish("other", "2")
    await eventually(lambda: first.count["2"] == 1)
    await eventually(lambda: rig.settled(first))
    assert value(bridge, "unread_channels", stage="broken") == 0


@pytest.mark.parametrize("table", ["of another type", "with rows of others"])
async def test_names_and_rows_of_another_program_stop_no_bridge_and_no_view(rig: Rig, table: str) -> None:
    if table == "of another type":
        await rig.redis.set(keys.STAGES, "no hash")
    else:
        rows = {"text": "no JSON", "list": "[]", "number": '{"beat":"now"}', b"\xff": "{}"}
        await rig.redis.hset(keys.STAGES, mapping={**rows, "channels": '{"consumes":[1],"emits":0,"beat":1,"url":""}'})
    stage = await rig.stage("stage", "in")
    for names in (keys.JOURNALS, keys.DEAD):
        await rig.redis.sadd(names, b"\xff", "no such")
    await rig.redis.xgroup_create(keys.journal("in"), b"\xff", "0", mkstream=True)
    await rig.redis.xadd(keys.dead("stage"), {"no": "letter"})
    bridge = await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: stage.count["1"])
    await eventually(lambda: value(bridge, "dead_events", stage="stage") == 1, what="the metrics are shown")
    assert bridge.ready
    assert [stage.name for stage in await rig.journal.admin.stages()] == ["stage", "\ufffd:in"]
    letter, *_ = await rig.dead("stage")
    assert (letter.channel, letter.event, letter.id, letter.status) == ("", b"", None, None)
    with pytest.raises(StageNotServed):
        await rig.journal.admin.replay("stage", [letter.entry])


async def test_first_failure_of_a_route_is_logged_with_its_status_and_detail_and_then_now_and_then(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = json.dumps({"title": "Unavailable", "detail": "MongoDB does not answer"}).encode()
    stage = await rig.stage(
        "stage", "in", "out", lambda _: status(503, problem, content_type="application/problem+json")
    )
    bridge = await rig.bridge(HASTY)

    def lines() -> list[str]:
        return [record.message for record in caplog.records if "outcome=routedown" in record.message]

    await rig.publish_all("in", ["1", "2", "3"])
    await eventually(lambda: bridge.workers[0].limit.found_down > 5)
    assert lines() == ["stage=stage outcome=routedown status=503 reason='HTTP 503: MongoDB does not answer'"]
    assert [record.levelno for record in caplog.records if "routedown" in record.message] == [logging.WARNING]
    monkeypatch.setattr(worker_module, "LOG_OUTAGE_EVERY", 0.0)
    await eventually(lambda: len(lines()) > 1, what="one line more after a while")
    stage.script = stage.succeed
    await eventually(lambda: rig.settled(stage))


@pytest.mark.parametrize("away", ["503", "refused"])
async def test_batches_in_delivery_when_the_route_goes_down_are_probed_one_at_a_time(rig: Rig, away: str) -> None:
    ids = [f"{number:02}" for number in range(64)]
    under_way, most = 0, 0
    healed = False

    async def counted(answer: Callable[[], Answer]) -> Answer:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return answer()

    def one(delivery: Delivery) -> Awaitable[Answer]:
        return counted(lambda: replied(delivery.event, "out") if healed else status(503))

    def batch(events: list[Event]) -> Awaitable[Answer]:
        return counted(lambda: stage.succeed_together(events) if healed else status(503))

    stage = await rig.stage("stage", "in", "out", one)
    stage.batch_script = batch
    if away == "refused":
        await stage.refuse()
    await rig.publish_all("in", ids)
    bridge = await rig.bridge({**HASTY, "batch": 8, "retry": 0, "crashRetry": 0})
    limit = bridge.workers[0].limit
    await eventually(lambda: limit.found_down > 2)
    most = 0
    before = limit.found_down
    await eventually(lambda: limit.found_down > before + 3)
    assert most <= 1, "one request at a time"
    assert limit.size == 1
    assert await rig.pending(stage) <= 16, "unread events stay in the journal"
    assert not await rig.dead("stage")
    healed = True
    if away == "refused":
        await stage.open()
    await eventually(lambda: rig.settled(stage))
    assert not await rig.dead("stage")
    assert {of for events in stage.batches for of in events} | set(stage.count) == set(ids)
    assert all([list(await rig.journal.status(of)) == ["in", "out"] for of in ids])
    await eventually(
        lambda: (limit.unsettled, limit.in_flight, limit.unsettled_bytes) == (0, 0, 0), what="settled in the bridge too"
    )
    assert not limit.down


@pytest.mark.parametrize("code", [502, 503])
async def test_event_that_alone_meets_503_again_and_again_leaves_the_route_up(rig: Rig, code: int) -> None:
    """As when a function's process dies of the event: Knative's queue-proxy answers 502."""

    def script(delivery: Delivery) -> Answer:
        return status(code) if delivery.event.id == "bad" else replied(delivery.event, "out")

    stage = await rig.stage("stage", "in", "out", script)
    bridge = await rig.bridge({"backoffDelay": "PT1S"})
    limit = bridge.workers[0].limit
    await rig.publish("in", "bad")
    for number in range(30):
        if stage.count["bad"] > 3 and not limit.down:
            break
        await rig.publish("in", str(number))
        await eventually(lambda number=number: stage.count[str(number)])  # type: ignore[misc]
        if await rig.parked("stage"):
            await rig.overdue("stage")
    outage, came = limit.outage, stage.count["bad"]
    await rig.overdue("stage")
    await eventually(lambda: stage.count["bad"] > came)
    await rig.publish_all("in", [f"more-{number}" for number in range(100)])
    await eventually(lambda: sum(id.startswith("more-") for id in stage.count) == 100)
    assert limit.outage == outage
    assert await rig.dead("stage") == []
