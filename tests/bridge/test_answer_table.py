"""One test for each row of the answer table."""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable

import pytest

from milepost.bridge import outcome
from milepost.bridge.bridge import Bridge
from milepost.bridge.concurrency import FIRST
from milepost.events.event import Event
from tests.bridge.rig import Answer, Delivery, Rig, replied, status, value
from tests.servers import eventually

RETRY = 10

HASTY = {"backoffDelay": "PT0.001S", "backoffPolicy": "linear"}
"""Retries follow one another within milliseconds, however many they are."""

MILLISECOND = 0.001
"""In seconds: as finely as Redis is told when an event is due."""


async def test_reply_enters_the_next_journal_and_the_entry_leaves_its_own(rig: Rig) -> None:
    first = await rig.stage("first", "in", "middle")
    second = await rig.stage("second", "middle", "out")
    bridge = await rig.bridge()
    await rig.publish("in", "1", {"n": 2216.0742916592476})
    await eventually(lambda: second.count["1"] == 1)
    assert first.count["1"] == 1
    assert second.received[0].data == {"n": 2216.0742916592476}
    await eventually(lambda: rig.settled(second))
    assert list(await rig.journal.status("1")) == ["in", "middle", "out"]
    assert value(bridge, "deliveries_total", stage="first", outcome="delivered") == 1


async def test_stage_gets_the_event_in_structured_mode_without_our_journalid(rig: Rig) -> None:
    deliveries: list[Delivery] = []

    def keep(delivery: Delivery) -> Answer:
        deliveries.append(delivery)
        return status(204)

    stage = await rig.stage("stage", "in", "out", keep)
    await rig.bridge()
    await rig.publish("in", "1", "x")
    await eventually(lambda: stage.count["1"])
    assert deliveries[0].headers["content-type"] == "application/cloudevents+json"
    assert "journalid" not in deliveries[0].event.extensions


async def test_204_completes_and_nothing_is_published(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: status(204))
    await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(stage))
    assert stage.count["1"] == 1
    assert list(await rig.journal.status("1")) == ["in"]


async def test_history_has_a_success_without_reply_where_a_reply_was_possible(rig: Rig) -> None:
    first = await rig.stage("first", "in", "out", lambda _: status(204))
    last = await rig.stage("last", "in")
    await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(first))
    await eventually(lambda: rig.settled(last))
    _, histories = await rig.journal.whole_status("1")
    assert [step.did for step in histories["first"].steps] == ["delivered"]
    assert not [step.did for name, history in histories.items() if name != "first" for step in history.steps]


@pytest.mark.parametrize(
    "answer",
    [
        status(200, b"OK"),
        status(201),
        status(202, b"{}", content_type="application/json"),
        replied(Event(id="1", source="/x", type="y"), "elsewhere"),
        status(200, b"x" * 2_000_000),
    ],
    ids=["200 OK", "201", "202", "an event", "2 MB"],
)
async def test_any_2xx_of_a_stage_that_emits_nothing_completes_and_its_body_is_not_read(
    rig: Rig, answer: bytes
) -> None:
    stage = await rig.stage("stage", "in", None, lambda _: answer)
    await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(stage))
    assert stage.count["1"] == 1
    assert not await rig.dead("stage")


async def test_time_out_halves_the_limit_of_its_route(rig: Rig) -> None:
    async def late_once(delivery: Delivery) -> Answer:
        if delivery.count == 1:
            await asyncio.Event().wait()
        return status(204)

    stage = await rig.stage("stage", "in", "out", late_once)
    bridge = await rig.bridge({"timeout": "PT0.2S"})
    (worker,) = bridge.workers
    before = worker.limit.size
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(stage))
    late = stage.count["1"] - 1  # of a slow machine the answer may be late again
    assert late >= 1
    assert worker.limit.size == max(1, before >> late)


async def test_409_with_retry_after_is_parked_uncounted_and_leaves_the_limit_as_it_is(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda delivery: status(409, retry_after="0") if delivery.count <= 13 else stage.succeed(delivery)
    bridge = await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(stage))
    assert stage.count["1"] == 14
    assert value(bridge, "deliveries_total", stage="stage", outcome="deferred") == 13
    assert not bridge.workers[0].limit.down
    assert bridge.workers[0].limit.size >= 16


async def test_409_is_parked_for_its_retry_after(rig: Rig) -> None:
    await rig.stage("stage", "in", "out", lambda _: status(409, retry_after="120"))
    await rig.bridge()
    began = await rig.now()
    await rig.publish("in", "1")
    await eventually(lambda: rig.parked("stage"))
    assert began + 120 - MILLISECOND <= await rig.due("stage") <= await rig.now() + 120


@pytest.mark.parametrize("named", ["0", "Sat, 01 Jan 2000 00:00:00 GMT"])
async def test_409_with_retry_after_0_or_a_past_date_is_parked_for_a_second(rig: Rig, named: str) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: status(409, retry_after=named))
    await rig.bridge()
    began = await rig.now()
    await rig.publish("in", "1")
    await eventually(lambda: rig.parked("stage"))
    assert began + 1 - MILLISECOND <= await rig.due("stage") <= await rig.now() + 1
    assert stage.count["1"] == 1


@pytest.mark.parametrize("code", [400, 402, 406, 409, 410, 413, 415, 418, 422, 451])
async def test_other_4xx_bury_at_once(rig: Rig, code: int) -> None:
    problem = json.dumps({"title": "no", "detail": "latitude: too\nfar"}).encode()
    stage = await rig.stage(
        "stage", "in", "out", lambda _: status(code, problem, content_type="application/problem+json")
    )
    await rig.bridge()
    await rig.publish("in", "1", {"lat": 91})
    await eventually(lambda: rig.dead("stage"))
    (letter,) = await rig.dead("stage")
    assert (letter.id, letter.status, letter.attempts, letter.crashes) == ("1", code, 0, 0)
    assert letter.reason == f"HTTP {code}: latitude: too far"
    assert Event.from_json(letter.event).data == {"lat": 91}
    assert stage.count["1"] == 1
    assert (await rig.journal.status("1"))["dead:stage"].data == {"reason": letter.reason}


async def test_burial_is_one_line_of_the_log_that_quotes_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    problem = json.dumps({"detail": "someone@example.org: nothing is known of them"}).encode()
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda delivery: status(
        {1: 500, 2: 422}[delivery.count], problem, content_type="application/problem+json"
    )
    caplog.set_level(logging.INFO)
    await rig.bridge()
    await rig.publish("in", "mine", "someone@example.org")
    await rig.redis.publish("in", b'{"specversion":"1.0","id":"1","source":"/x","type":"someone@example.org"}')
    await eventually(lambda: rig.dead("stage"))
    await eventually(lambda: "outcome=buried" in caplog.text)
    await eventually(lambda: "outcome=unreadable" in caplog.text)
    lines = [re.sub(r" entry=\d+-\d+ ", " ", record.message) for record in caplog.records]
    assert [line for line in lines if "id=mine" in line] == [
        "stage=stage channel=in id=mine outcome=failed status=500",
        "stage=stage channel=in id=mine outcome=buried status=422",
    ]
    assert "someone@" not in caplog.text
    (letter,) = await rig.dead("stage")
    assert letter.reason == "HTTP 422: someone@example.org: nothing is known of them"


async def test_deliveries_are_logged_at_debug_only(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    stage = await rig.stage("stage", "in")
    await rig.bridge()
    for name, level in (("quiet", logging.INFO), ("told", logging.DEBUG)):
        caplog.set_level(level, "milepost.bridge")
        await rig.publish("in", name)
        await eventually(lambda: rig.settled(stage))
    told = [record.msg for record in caplog.records if "outcome=delivered" in record.message]
    assert [(line["stage"], line["channel"], line["id"]) for line in told] == [("stage", "in", "told")]


@pytest.mark.parametrize("code", [500, 501, 505, 507, 599])
async def test_5xx_counts_against_the_event_and_buries_it_after_11_deliveries(rig: Rig, code: int) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: status(code))
    await rig.bridge(HASTY)
    await rig.publish("in", "1")
    await eventually(lambda: rig.dead("stage"))
    (letter,) = await rig.dead("stage")
    assert stage.count["1"] == RETRY + 1
    assert (letter.id, letter.status, letter.attempts, letter.crashes) == ("1", code, RETRY + 1, 0)
    assert letter.reason == f"HTTP {code}"
    assert await rig.settled(stage)


async def test_restart_of_the_bridge_loses_no_count_of_attempts(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: status(500))
    bridge = await rig.bridge()
    await rig.publish("in", "1")
    await eventually(lambda: stage.count["1"] >= 3)
    await rig.stop(bridge)
    await rig.bridge(HASTY)
    await eventually(lambda: rig.dead("stage"))
    assert stage.count["1"] == RETRY + 1
    assert (await rig.dead("stage"))[0].attempts == RETRY + 1


async def test_retry_is_the_number_of_deliveries_after_the_first(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: status(500))
    await rig.bridge({"retry": 0})
    await rig.publish("in", "1")
    await eventually(lambda: rig.dead("stage"))
    assert stage.count["1"] == 1


def another_type(delivery: Delivery) -> Answer:
    return replied(delivery.event, "elsewhere")


def with_two_ids(delivery: Delivery) -> Answer:
    return replied(delivery.event, "out").replace(b"ce-id:", b"ce-id: other\r\nCe-Id:", 1)


def wrapped_in_lists(_: Delivery) -> Answer:
    fields = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "out"}
    return status(200, b"[" * 20_000 + b"]" * 20_000, content_type="application/json", **fields)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: status(200, b"OK"), "neither ce- headers"),
        (lambda _: status(200), "neither ce- headers"),
        (lambda _: status(201), "201 where 200 or 204 was due"),
        (lambda _: status(200, b"\xff\x00", content_type="application/cloudevents+json"), "not JSON"),
        (lambda _: status(200, b"[]", content_type="application/cloudevents+json"), "a CloudEvent is a JSON object"),
        (lambda _: status(200, b"{}", content_type="application/cloudevents+json"), "specversion: must be 1.0"),
        (another_type, "type: elsewhere, not out"),
        (with_two_ids, "ce-id: given twice"),
        (wrapped_in_lists, "nested too deeply"),
        (lambda _: status(200, b"x" * 1_000_001), "over 1000000 bytes"),
        (lambda _: status(200, b"x" * 3_000_000), "over 1000000 bytes"),
    ],
    ids=["OK", "empty", "201", "garbage", "list", "no event", "other type", "two ids", "deep", "1 MB", "3 MB"],
)
async def test_unusable_reply_counts_like_500(rig: Rig, answer: Callable[[Delivery], Answer], reason: str) -> None:
    stage = await rig.stage("stage", "in", "out", answer)
    await rig.bridge({"retry": 2, **HASTY})
    await rig.publish("in", "1")
    await eventually(lambda: rig.dead("stage"))
    (letter,) = await rig.dead("stage")
    assert stage.count["1"] == letter.attempts == 3
    assert letter.reason.startswith("unusable reply: ")
    assert reason in letter.reason
    assert list(await rig.journal.status("1")) == ["in", "dead:stage"]


async def test_time_out_counts_against_crash_retry(rig: Rig) -> None:
    async def hang(_: Delivery) -> Answer:
        await asyncio.Event().wait()
        return None

    stage = await rig.stage("stage", "in", "out", hang)
    await rig.bridge({"crashRetry": 3, "timeout": "PT0.05S", **HASTY})
    await rig.publish("in", "1")
    await eventually(lambda: rig.dead("stage"))
    (letter,) = await rig.dead("stage")
    await eventually(lambda: stage.count["1"] == 4)
    assert (letter.status, letter.attempts, letter.crashes) == (None, 0, 4)
    assert "no response in time" in letter.reason


async def test_connection_closed_after_the_request_counts_against_crash_retry_of_50(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: None)
    bridge = await rig.bridge(HASTY)
    await rig.publish("in", "1")
    await eventually(lambda: rig.dead("stage"))
    (letter,) = await rig.dead("stage")
    assert stage.count["1"] == 51
    assert bridge.workers[0].limit.size == FIRST, "it is no time-out"
    assert (letter.status, letter.attempts, letter.crashes) == (None, 0, 51)
    assert "closed the connection" in letter.reason


async def test_request_on_a_reused_connection_that_closes_is_sent_again_at_once_uncounted(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.script = lambda delivery: (
        None if delivery.event.id == "2" and delivery.count == 1 else stage.succeed(delivery)
    )
    bridge = await rig.bridge({"crashRetry": 0})
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(stage))
    await rig.publish("in", "2")
    await eventually(lambda: rig.settled(stage))
    assert stage.count["2"] == 2
    assert not await rig.dead("stage")
    assert value(bridge, "deliveries_total", stage="stage", outcome="crashed") == 0


ROUTE_FAULTS = [301, 302, 307, 401, 403, 404, 405, 407, 408, 425, 429, 502, 503, 504]


@pytest.mark.parametrize("code", ROUTE_FAULTS)
async def test_faults_of_the_route_are_uncounted_and_one_probe_at_a_time_is_sent(rig: Rig, code: int) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: status(code))
    bridge = await rig.bridge(HASTY)

    async def heal() -> None:
        stage.script = stage.succeed

    await outage(rig, bridge, heal=heal)


async def test_refused_connection_is_a_fault_of_the_route(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    await stage.refuse()
    bridge = await rig.bridge(HASTY)
    await outage(rig, bridge, heal=stage.open)


async def outage(rig: Rig, bridge: Bridge, *, heal: Callable[[], Awaitable[object]]) -> None:
    """Forty events meet a route that is down: nothing counted, most unread, then all delivered once it is back."""
    (stage,), limit = rig.stages, bridge.workers[0].limit

    def probes() -> float:
        return value(bridge, "deliveries_total", stage="stage", outcome="routedown")

    ids = [f"{n:02}" for n in range(40)]
    await rig.publish_all("in", ids)
    await eventually(lambda: probes() > 25, what="25 failures")
    assert limit.down
    assert limit.size == 1
    assert await rig.pending(stage) <= 16
    before, stage.most_on_wire = probes(), 0
    await eventually(lambda: probes() > before + 10, what="10 more probes")
    assert stage.most_on_wire <= 1
    assert not await rig.dead("stage")
    await heal()
    await eventually(lambda: rig.settled(stage), what="all delivered")
    assert set(ids) == set(stage.count)
    assert not await rig.dead("stage")
    assert not limit.down
    assert [len(await rig.journal.status(id)) for id in ids] == [2] * 40


async def test_unread_events_stay_in_the_journal_while_the_route_is_down(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: status(503, retry_after="1"))
    bridge = await rig.bridge()
    await rig.publish("in", "first")
    await eventually(lambda: rig.parked("stage"))
    await rig.publish_all("in", [f"{n}" for n in range(100)])
    assert sum(stage.count.values()) <= bridge.workers[0].limit.found_down + 1, "one probe at a time"
    # A read that began before the route went down may still bring its entries, and no more.
    assert await rig.pending(stage) <= 16
    stage.script = stage.succeed
    await eventually(lambda: rig.settled(stage))
    assert len(stage.count) == 101
    assert bridge.workers[0].limit.size > 1


@pytest.mark.parametrize(("asked", "granted"), [("7", 7.0), ("100000", outcome.LONGEST_RETRY_AFTER)])
@pytest.mark.parametrize("code", [500, 503])
async def test_retry_after_is_honoured_up_to_300_seconds(rig: Rig, code: int, asked: str, granted: float) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: status(code, retry_after=asked))
    await rig.bridge()
    began = await rig.now()
    await rig.publish("in", "1")
    await eventually(lambda: rig.parked("stage"))
    assert began + granted - MILLISECOND <= await rig.due("stage") <= await rig.now() + granted
    assert stage.count["1"] == 1


async def test_event_past_its_deadline_is_tried_once_and_then_buried(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: status(503))
    await rig.bridge(deadline="PT0.001S")
    await rig.publish("in", "1")
    await eventually(lambda: rig.dead("stage"))
    (letter,) = await rig.dead("stage")
    assert letter.reason == "deadline passed; last: HTTP 503"
    assert letter.attempts == 0
    assert stage.count["1"] == 1


async def test_posts_at_the_same_time_are_limited_per_route(rig: Rig) -> None:
    go = asyncio.Event()
    stage = await rig.stage("stage", "in", "out")

    stage.answer_after(go)
    bridge = await rig.bridge(window=20)
    await rig.publish_all("in", [f"{n}" for n in range(60)])
    await eventually(lambda: stage.on_wire == 16)
    assert await rig.pending(stage) == 16
    go.set()
    await eventually(lambda: rig.settled(stage))
    assert stage.most_on_wire <= 20
    await eventually(lambda: bridge.workers[0].limit.unsettled == 0, what="settled in the bridge too")
    assert max(stage.count.values()) == 1
