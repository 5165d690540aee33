"""A route with a `batch`: which events go together, and that none is lost, doubled or counted for another."""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from milepost.bridge.concurrency import FIRST
from milepost.events.event import Event
from milepost.journal import keys
from tests.bridge.rig import Answer, Delivery, Rig, Stage, replied, status, together, value
from tests.servers import eventually

BATCH = {"batch": 8}
IDS = [str(number) for number in range(40)]


async def settled(rig: Rig, stage: Stage) -> None:
    await eventually(lambda: rig.settled(stage))


def all_of(stage: Stage) -> list[str]:
    return sorted(id for batch in stage.batches for id in batch)


def each_once_but(stage: Stage, spoiled: list[str]) -> bool:
    """Whether each event came in one batch or alone, as the limit had room for it, and these in both."""
    return sorted(all_of(stage) + list(stage.count)) == sorted(IDS + spoiled)


async def test_backlog_is_delivered_in_batches_and_each_reply_enters_the_next_journal(rig: Rig) -> None:
    first = await rig.stage("first", "in", "middle")
    second = await rig.stage("second", "middle", "out")
    await rig.publish_all("in", IDS)
    bridge = await rig.bridge(BATCH)
    await settled(rig, first)
    await settled(rig, second)
    for stage in (first, second):
        came = all_of(stage) + list(stage.count)
        assert sorted(came) == sorted(IDS), "each once, together or alone"
        assert all(len(batch) <= 8 for batch in stage.batches)
        assert value(bridge, "deliveries_total", stage=stage.name, outcome="delivered") == len(IDS)
    assert [len(batch) for batch in first.batches[:2]] == [8, 8], "as many as may, of the first limit of 16"
    assert list(await rig.journal.status("7")) == ["in", "middle", "out"]


async def test_single_event_is_delivered_alone(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    await rig.bridge(BATCH)
    await rig.publish("in", "1")
    await settled(rig, stage)
    assert (stage.batches, stage.count) == ([], {"1": 1})


async def test_bad_event_of_a_batch_is_buried_by_its_own_response_and_the_others_are_delivered_alone(rig: Rig) -> None:
    def one(delivery: Delivery) -> Answer:
        return status(422) if delivery.event.id == "3" else replied(delivery.event, "out")

    stage = await rig.stage("stage", "in", "out", one)
    stage.batch_script = lambda events: (
        status(422) if any(event.id == "3" for event in events) else stage.succeed_together(events)
    )
    await rig.publish_all("in", IDS)
    await rig.bridge(BATCH)
    await settled(rig, stage)
    (letter,) = await rig.dead("stage")
    assert (letter.id, letter.status) == ("3", 422)
    spoiled = next(batch for batch in stage.batches if "3" in batch)
    assert each_once_but(stage, spoiled)
    assert set(stage.count.values()) == {1}


def multi(events: list[Event], **said: Any) -> Answer:
    """207: this item for the event of that id, with a leading `e`; a reply for each of the others."""
    answers = []
    for event in events:
        answer = said.get(f"e{event.id}", {"status": 200, "event": json.loads(next_event(event).to_json())})
        answers.append({"id": event.id, **answer} if isinstance(answer, dict) else answer)
    return status(207, json.dumps(answers).encode())


def next_event(event: Event) -> Event:
    return Event(id=event.id, source="/test", type="out", data=event.data)


async def test_each_event_of_a_batch_has_its_own_outcome_and_no_second_delivery(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.batch_script = lambda events: multi(
        events,
        e3={"status": 422, "detail": "lat: too far"},
        e5={"status": 204},
        e7={"status": 500, "detail": "no"},
        e9={"status": 409, "retryAfter": 0},
    )
    await rig.publish_all("in", IDS[:16])
    bridge = await rig.bridge({"batch": 16, "retry": 0})
    await settled(rig, stage)
    letters = {letter.id: (letter.status, letter.reason, letter.attempts) for letter in await rig.dead("stage")}
    assert letters == {"3": (422, "HTTP 422: lat: too far", 0), "7": (500, "HTTP 500: no", 1)}
    assert stage.batches == [IDS[:16]]
    assert stage.count == {"9": 1}, "a deferred event is delivered again, by itself"
    assert [of for of in IDS[:16] if "out" not in await rig.journal.status(of)] == ["3", "5", "7"]
    assert value(bridge, "deliveries_total", stage="stage", outcome="delivered") == 14
    assert value(bridge, "deliveries_total", stage="stage", outcome="refused") == 1


async def test_event_that_the_207_does_not_name_is_delivered_alone(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    others = json.loads(next_event(Event(id="4", source="/test", type="in")).to_json())
    stage.batch_script = lambda events: multi(
        events,
        e3={"status": 200},
        e5="done",
        e7={"status": 200, "event": others},
        e9={"status": 422, "id": "8"},
        e10={"status": 204, "id": None},
    )
    await rig.publish_all("in", IDS[:16])
    await rig.bridge({"batch": 16, "retry": 0})
    await settled(rig, stage)
    assert stage.count == {"3": 1, "5": 1, "7": 1, "9": 1, "10": 1}
    assert not await rig.dead("stage")
    assert all([list(await rig.journal.status(of)) == ["in", "out"] for of in IDS[:16]])


async def test_stage_that_emits_nothing_may_refuse_one_event_of_a_batch(rig: Rig) -> None:
    stage = await rig.stage("stage", "in")
    stage.batch_script = lambda events: status(
        207, json.dumps([{"id": event.id, "status": 422 if event.id == "3" else 204} for event in events]).encode()
    )
    await rig.publish_all("in", IDS[:16])
    await rig.bridge({"batch": 16})
    await settled(rig, stage)
    assert [letter.id for letter in await rig.dead("stage")] == ["3"]
    assert not stage.count


async def test_503_for_some_events_of_a_batch_parks_those_for_its_retry_after(rig: Rig) -> None:
    """And a success beside it does not end the outage before."""
    stage = await rig.stage("stage", "in", "out")
    stage.batch_script = lambda events: multi(
        events, **{f"e{number}": {"status": 503, "retryAfter": 300} for number in (0, 2, 4)}
    )
    await rig.publish_all("in", IDS[:8])
    bridge = await rig.bridge({"batch": 8, "retry": 0})
    (worker,) = bridge.workers
    await eventually(lambda: rig.parked("stage"))
    await eventually(lambda: nothing_pending(rig, stage))
    assert await rig.parked("stage") == 3
    assert worker.limit.down
    assert (stage.count, await rig.dead("stage")) == ({}, [])
    due = await rig.redis.zrange(keys.parked("stage"), 0, -1, withscores=True)
    assert max(score for _, score in due) - min(score for _, score in due) < 60_000, "all of them then, none at once"


async def test_batch_that_hangs_holds_up_no_later_event(rig: Rig) -> None:
    hung = asyncio.Event()

    async def first_hangs(events: list[Event]) -> Answer:
        if "0" in [event.id for event in events]:
            await hung.wait()
        return stage.succeed_together(events)

    stage = await rig.stage("stage", "in", "out")
    stage.batch_script = first_hangs
    await rig.publish_all("in", IDS[:8])
    await rig.bridge({"batch": 32})
    await eventually(lambda: stage.batches)
    await rig.publish_all("in", IDS[8:])
    await eventually(lambda: set(all_of(stage)) | set(stage.count) == set(IDS))
    hung.set()
    await settled(rig, stage)


async def test_event_that_failed_before_is_delivered_alone(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out", lambda delivery: status(500 if delivery.count < 3 else 204))
    stage.batch_script = lambda _: status(500)
    await rig.publish_all("in", IDS[:8])
    await rig.bridge({**BATCH, "retry": 5})
    await settled(rig, stage)
    assert all_of(stage) == sorted(IDS[:8])
    assert stage.count == dict.fromkeys(IDS[:8], 3)
    assert not await rig.dead("stage")


@pytest.mark.parametrize(
    "answer",
    [
        lambda events: together(events[:-1]),
        lambda events: together([Event(id=event.id, source="/test", type="elsewhere") for event in events]),
        lambda events: replied(events[0], "out"),
        lambda _: status(200, b"OK"),
        lambda _: status(200, b"x" * 2_000_000),
        lambda events: stage_order([*events[1:], events[0]]),
        lambda _: status(409, retry_after="60"),
        lambda _: None,
    ],
    ids=["one missing", "another channel", "one event", "OK", "2 MB", "misordered", "409", "closed"],
)
async def test_unclear_response_to_a_batch_counts_against_no_event(
    rig: Rig, answer: Callable[[list[Event]], Answer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "milepost.bridge")
    stage = await rig.stage("stage", "in", "out")
    stage.batch_script = answer
    await rig.publish_all("in", IDS)
    bridge = await rig.bridge({**BATCH, "retry": 0, "crashRetry": 0})
    await settled(rig, stage)
    assert stage.batches
    assert stage.count == dict.fromkeys(IDS, 1)
    assert not await rig.dead("stage")
    assert value(bridge, "deliveries_total", stage="stage", outcome="delivered") == len(IDS)
    logged = [int(events) for events in re.findall(r"stage=stage outcome=batch-undecided events=(\d+) ", caplog.text)]
    assert sum(logged) == len(set(all_of(stage)))


def stage_order(events: Iterable[Event]) -> bytes:
    return together([Event(id=event.id, source="/test", type="out") for event in events])


async def test_503_to_a_batch_parks_it_and_posts_none_of_it_alone(rig: Rig) -> None:
    away = True
    stage = await rig.stage("stage", "in", "out")
    stage.batch_script = lambda events: status(503, retry_after="300") if away else stage.succeed_together(events)
    await rig.publish_all("in", IDS)
    bridge = await rig.bridge({**BATCH, "retry": 0})
    await eventually(lambda: rig.parked("stage"))
    away = False
    assert not stage.count, "none of the batch was posted by itself"
    (worker,) = bridge.workers
    worker.limit.end_outage(worker.limit.outage)  # as if those five minutes were over
    await eventually(lambda: nothing_pending(rig, stage))
    await rig.overdue("stage")
    await settled(rig, stage)
    assert not await rig.dead("stage")
    assert set(all_of(stage)) | set(stage.count) == set(IDS)
    assert max(stage.count.values()) == 1


async def nothing_pending(rig: Rig, stage: Stage) -> bool:
    return not await rig.pending(stage)


async def test_deferred_event_breaks_up_one_batch_at_most(rig: Rig) -> None:
    def one(delivery: Delivery) -> Answer:
        busy = delivery.event.id == "3" and delivery.count < 4
        return status(409, retry_after="0") if busy else replied(delivery.event, "out")

    stage = await rig.stage("stage", "in", "out", one)
    stage.batch_script = lambda events: (
        status(409, retry_after="0") if any(event.id == "3" for event in events) else stage.succeed_together(events)
    )
    await rig.publish_all("in", IDS)
    await rig.bridge(BATCH)
    await settled(rig, stage)
    assert each_once_but(stage, next(batch for batch in stage.batches if "3" in batch))
    assert stage.count.pop("3") == 4
    assert set(stage.count.values()) == {1}


async def test_batches_become_smaller_when_their_replies_are_too_large_together(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.batch_script = lambda events: together(
        [Event(id=event.id, source="/test", type="out", data="x" * 300_000) for event in events]
    )
    ids = [str(number) for number in range(120)]
    await rig.publish_all("in", ids)
    await rig.bridge(BATCH)
    await settled(rig, stage)
    sizes = [len(batch) for batch in stage.batches]
    assert max(sizes) > 3, "at first too many"
    assert sizes[-1] <= 3
    small = {id for batch in stage.batches if len(batch) <= 3 for id in batch}
    assert small.isdisjoint(stage.count), "small events are delivered in batches"


async def test_large_response_of_a_stage_that_emits_nothing_is_ignored(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", None, lambda _: status(204))
    stage.batch_script = lambda _: status(200, b"x" * 2_000_000)
    await rig.publish_all("in", IDS[:8])
    await rig.bridge(BATCH)
    await settled(rig, stage)
    assert (sorted(all_of(stage)), stage.count) == (IDS[:8], {})


async def test_batches_for_a_refused_connection_are_parked_uncounted_and_delivered_later(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    await stage.refuse()
    await rig.publish_all("in", IDS)
    await rig.bridge({**BATCH, "retry": 0})
    await eventually(lambda: rig.parked("stage"))
    assert not await rig.dead("stage")
    await stage.open()
    await settled(rig, stage)
    assert sorted(all_of(stage) + list(stage.count)) == sorted(IDS)


async def test_events_too_large_for_one_batch_are_delivered_alone(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: status(204))
    for number in IDS[:4]:
        await rig.publish("in", number, "x" * 600_000)
    await rig.bridge(BATCH)
    await settled(rig, stage)
    assert (stage.batches, stage.count) == ([], dict.fromkeys(IDS[:4], 1))


async def test_limit_grows_though_a_batch_takes_longer_than_a_single_event_did(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")

    async def slowly(events: list[Event]) -> Answer:
        await asyncio.sleep(0.3)
        return stage.succeed_together(events)

    async def alone_slowly(delivery: Delivery) -> Answer:
        await asyncio.sleep(0.3)
        return stage.succeed(delivery)

    (worker,) = (await rig.bridge(BATCH)).workers
    await rig.publish("in", "alone")
    await settled(rig, stage)
    stage.script, stage.batch_script = alone_slowly, slowly
    worker.pause(paused=True)
    await rig.publish_all("in", IDS)
    worker.pause(paused=False)
    await settled(rig, stage)
    assert worker.limit.size > FIRST


async def test_batch_that_times_out_is_delivered_event_by_event(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.batch_script = _never
    await rig.publish_all("in", IDS[:8])
    bridge = await rig.bridge({**BATCH, "timeout": "PT3S", "retry": 0, "crashRetry": 0})
    (worker,) = bridge.workers
    await eventually(lambda: len(stage.count) == 8)
    await settled(rig, stage)
    assert stage.count == dict.fromkeys(IDS[:8], 1)
    assert not await rig.dead("stage")
    halved, grown = FIRST // 2, 8
    assert worker.limit.size <= halved + grown, "a time-out halves the limit, once, and a batch counts as one"


async def _never(_: list[Event]) -> Answer:
    await asyncio.Event().wait()
    return None


async def test_stop_hands_back_a_batch_and_another_bridge_delivers_it(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    stage.batch_script = _never
    await rig.publish_all("in", IDS[:8])
    bridge = await rig.bridge(BATCH, grace="PT0.1S")
    await eventually(lambda: stage.batches)
    await rig.stop(bridge)
    assert not bridge.workers[0].in_delivery
    assert await rig.pending(stage) == 8
    stage.batch_script = stage.succeed_together
    await rig.bridge(BATCH)
    await settled(rig, stage)
    again = [id for batch in stage.batches[1:] for id in batch] + list(stage.count)
    assert sorted(again) == IDS[:8]
    assert not await rig.dead("stage")
