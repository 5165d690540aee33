"""A stage that gives several answers to an event: each becomes an event of its own, all in one step."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.parts import SplitProgress
from gateway.status import GraphReader, Status, StatusReader
from milepost.events.event import Event
from milepost.journal import keys
from tests.bridge.rig import Answer, Delivery, Rig, Stage, status, together, value
from tests.servers import eventually

SPLIT = {"emits": ["item"], "split": True}


def answers(event: Event, data: Sequence[Any], channel: str = "item") -> bytes:
    """The response with an answer for each of the data."""
    return together([Event(id=f"{event.id}/{n}", source="/test", type=channel, data=one) for n, one in enumerate(data)])


def split(delivery: Delivery) -> Answer:
    """Give an answer for each item of the event's data."""
    return answers(delivery.event, delivery.event.data) if delivery.event.data else status(204)


async def splitter(rig: Rig, script: Any = split) -> Stage:
    return await rig.stage("split", "raw_input", None, script)


async def read_status(rig: Rig, event_id: str) -> Status:
    return await StatusReader(rig.journal, GraphReader(rig.journal), event_id).read()


async def splits(rig: Rig, event_id: str) -> Sequence[SplitProgress]:
    return (await read_status(rig, event_id)).splits


async def is_over(rig: Rig, event_id: str) -> bool:
    return (await read_status(rig, event_id)).is_over


async def test_each_answer_becomes_an_event_and_the_status_counts_those_that_have_ended(rig: Rig) -> None:
    first = await splitter(rig)
    go = asyncio.Event()

    async def ship_after(delivery: Delivery) -> Answer:
        if delivery.event.id != "1/0":
            await go.wait()
        return status(422) if delivery.event.id == "1/2" else ship.succeed(delivery)

    ship = await rig.stage("ship", "item", "shipped", ship_after)
    await rig.bridge(routes=[first.route(**SPLIT), ship.route()])
    await rig.publish("raw_input", "1", ["a", 2216.0742916592476, {"c": []}])
    await eventually(lambda: len(ship.received) == 3)
    assert {event.id: event.data for event in ship.received} == {
        "1/0": "a",
        "1/1": 2216.0742916592476,
        "1/2": {"c": []},
    }
    assert {event.source for event in ship.received} == {"/test"}
    await eventually(lambda: some(rig, "1", ended=1))
    assert await splits(rig, "1") == [SplitProgress("split", 3, 1)]
    assert not await is_over(rig, "1")
    go.set()
    await eventually(lambda: is_over(rig, "1"))
    assert await splits(rig, "1") == [SplitProgress("split", 3, 3)]
    assert list(await rig.journal.status("1")) == ["raw_input", "parts:split"]
    assert list(await rig.journal.status("1/1")) == ["item", "shipped"]
    assert list(await rig.journal.status("1/2")) == ["item", "dead:ship"]
    statuses = [key async for key in rig.redis.scan_iter(keys.status("*"))]
    assert len(statuses) == 4
    assert all([0 < await rig.redis.ttl(key) <= 3600 for key in statuses])


async def some(rig: Rig, event_id: str, *, ended: int) -> bool:
    return [one.ended for one in await splits(rig, event_id)] == [ended]


async def test_split_of_a_part_is_nested(rig: Rig) -> None:
    first = await splitter(rig)
    second = await rig.stage(
        "again", "item", None, lambda delivery: answers(delivery.event, delivery.event.data, "piece")
    )
    await rig.bridge(routes=[first.route(**SPLIT), second.route(emits=["piece"], split=True)])
    await rig.publish("raw_input", "1", [["a", "b"], ["c"]])
    await eventually(lambda: is_over(rig, "1"))
    assert sorted(await rig.journaled("piece")) == ["1/0/0", "1/0/1", "1/1/0"]
    assert await splits(rig, "1") == [SplitProgress("split", 2, 2)]


async def test_stages_that_split_one_event_have_parts_and_counts_of_their_own(rig: Rig) -> None:
    first = await splitter(rig)
    second = await rig.stage("pack", "raw_input", None, lambda delivery: answers(delivery.event, "xyz", "box"))
    go = asyncio.Event()

    async def ship_when_told(delivery: Delivery) -> Answer:
        if delivery.event.id == "1/0":
            await go.wait()
        return ship.succeed(delivery)

    ship = await rig.stage("ship", "item", "shipped", ship_when_told)
    store = await rig.stage("store", "box", "stored", lambda _: status(422))
    await rig.bridge(
        routes=[first.route(**SPLIT), second.route(emits=["box"], split=True), ship.route(), store.route()]
    )
    await rig.publish("raw_input", "1", ["a", "b"])

    async def counts(*expected: tuple[int, int]) -> bool:
        found = {one.stage: (one.parts, one.ended) for one in await splits(rig, "1")}
        return [found.get("split"), found.get("pack")] == [*expected]

    await eventually(lambda: counts((2, 1), (3, 3)))
    assert len(await rig.dead("store")) == 3, "of which 1/0 is one, and not the other 1/0"
    assert {event.id: event.data for event in ship.received} == {"1/0": "a", "1/1": "b"}
    assert {event.id: event.data for event in store.received} == {"1/0": "x", "1/1": "y", "1/2": "z"}
    go.set()
    await eventually(lambda: counts((2, 2), (3, 3)))


async def test_parts_that_come_back_to_the_stage_that_made_them_have_ids_of_their_own(rig: Rig) -> None:
    def walk(delivery: Delivery) -> Answer:
        children = enumerate(delivery.event.data)
        kinds = [("raw_input" if isinstance(child, list) else "file", n, child) for n, child in children]
        of = delivery.event.id
        return together([Event(id=f"{of}/{n}", source="/test", type=kind, data=child) for kind, n, child in kinds])

    walker = await rig.stage("walk", "raw_input", None, walk)
    await rig.bridge(routes=[walker.route(emits=["raw_input", "file"], split=True)])
    await rig.publish("raw_input", "1", ["a", ["b", ["c"]]])
    await eventually(lambda: is_over(rig, "1"))
    assert sorted(await rig.journaled("file")) == ["1/0", "1/1/0", "1/1/1/0"]
    assert walker.ids == ["1", "1/1", "1/1/1"]


async def test_no_answers_end_the_event(rig: Rig) -> None:
    first = await splitter(rig)
    bridge = await rig.bridge(routes=[first.route(**SPLIT)])
    await rig.publish("raw_input", "1", [])
    await eventually(lambda: is_over(rig, "1"))
    assert await splits(rig, "1") == [SplitProgress("split", 0, 0)]
    assert value(bridge, "deliveries_total", stage="split", outcome="delivered") == 1


async def test_redelivery_of_a_split_publishes_nothing_twice(rig: Rig) -> None:
    first = await splitter(rig)
    await rig.publish("raw_input", "1", ["a", "b"])
    seen: list[bytes] = []
    async with rig.redis.pubsub() as subscription:
        await subscription.subscribe("item")
        bridges = [await rig.bridge(routes=[first.route(**SPLIT)], claim="PT0.2S") for _ in range(2)]
        await eventually(lambda: is_over(rig, "1"))
        await rig.publish("raw_input", "1")  # the same source and id
        await rig.publish("raw_input", "2", ["last"])
        while not seen or b'"2/0"' not in seen[-1]:
            message = await subscription.get_message(ignore_subscribe_messages=True, timeout=1)
            seen += [message["data"]] if message else []
    ids = [json.loads(message)["id"] for message in seen]
    assert ids == ["1/0", "1/1", "2/0"]
    assert all(json.loads(message)["journalid"] for message in seen)
    assert len(bridges) == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([0] * 257, "unusable reply: 257 answers to one event; the limit is 256"),
        (["x" * 600_000] * 2, "unusable reply: answers of over 1000000 bytes together, the limit"),
    ],
    ids=["257", "1.2 MB"],
)
async def test_too_many_answers_are_the_events_fault(rig: Rig, data: list[Any], reason: str) -> None:
    first = await splitter(rig, lambda delivery: answers(delivery.event, data))
    await rig.bridge(routes=[first.route(**SPLIT)])
    await rig.publish("raw_input", "1")
    await eventually(lambda: rig.dead("split"))
    (letter,) = await rig.dead("split")
    assert letter.reason == reason
    assert first.count["1"] == 1
    assert not await rig.journaled("item")


async def test_as_many_answers_as_may_be_are_journaled(rig: Rig) -> None:
    first = await splitter(rig, lambda delivery: answers(delivery.event, ["x" * 3_700] * 256))
    await rig.bridge(routes=[first.route(**SPLIT)])
    await rig.publish("raw_input", "1")
    await eventually(lambda: is_over(rig, "1"))
    assert await rig.journaled("item") == [f"1/{n}" for n in range(256)]


def unusable(event: Event) -> dict[str, bytes]:
    good = Event(id=f"{event.id}/0", source="/x", type="item").to_json()
    double = "application/cloudevents-batch+json\r\ncontent-type: application/json"
    return {
        "one event": status(200, good.encode(), content_type="application/cloudevents+json"),
        "another type": answers(event, [1], "elsewhere"),
        "another id": together([Event(id="x", source="/x", type="item")]),
        "the event's own id": together([Event(id=event.id, source="/x", type="item")]),
        "the same id twice": together([Event(id=f"{event.id}/0", source="/x", type="item")] * 2),
        "201": answers(event, [1]).replace(b"200", b"201", 1),
        "no JSON": status(200, b"[{", content_type="application/cloudevents-batch+json"),
        "no id": status(200, b'[{"specversion":"1.0"}]', content_type="application/cloudevents-batch+json"),
        "two content types": status(200, f"[{good}]".encode(), content_type=double),
    }


@pytest.mark.parametrize("name", unusable(Event(id="1", source="/", type="t")))
async def test_unusable_answers_are_counted_and_none_is_journaled(rig: Rig, name: str) -> None:
    first = await splitter(rig, lambda delivery: unusable(delivery.event)[name])
    await rig.bridge(routes=[first.route(**SPLIT, retry=1)])
    await rig.publish("raw_input", "1")
    await eventually(lambda: rig.dead("split"))
    (letter,) = await rig.dead("split")
    assert letter.reason.startswith("unusable reply: ")
    if found := {"another id": "x", "the event's own id": "1"}.get(name):
        assert letter.reason == f"unusable reply: event 0: id: {found}, not 1/0, the id of answer 0 to 1"
    assert first.count["1"] == 2
    assert not await rig.journaled("item")


async def test_events_of_a_batch_have_their_own_answers(rig: Rig) -> None:
    first = await splitter(rig)

    def in_a_batch(events: list[Event]) -> bytes:
        items = [
            b'{"id":"%b","status":200,"events":%b}'
            % (event.id.encode(), answers(event, event.data).split(b"\r\n\r\n")[1])
            for event in events[:2]
        ]
        others = [b'{"id":"%b","status":204}' % event.id.encode() for event in events[2:]]
        return status(207, b"[%b]" % b",".join(items + others), content_type="application/json")

    first.batch_script = in_a_batch
    for event_id, data in (("1", ["a", "b"]), ("2", ["c"]), ("3", [])):
        await rig.publish("raw_input", event_id, data)
    await rig.bridge(routes=[first.route(**SPLIT, batch=8)])
    await eventually(lambda: rig.settled(first))
    assert first.batches == [["1", "2", "3"]]
    assert not first.count
    assert sorted(await rig.journaled("item")) == ["1/0", "1/1", "2/0"]
    assert await splits(rig, "3") == [SplitProgress("split", 0, 0)]


async def test_answers_with_ids_of_others_in_a_batch_are_asked_for_alone(rig: Rig) -> None:
    first = await splitter(rig)

    def in_a_batch(events: list[Event]) -> bytes:
        foreign = answers(events[0], ["x"]).split(b"\r\n\r\n")[1]
        items = [b'{"id":"%b","status":200,"events":%b}' % (event.id.encode(), foreign) for event in events]
        return status(207, b"[%b]" % b",".join(items), content_type="application/json")

    first.batch_script = in_a_batch
    for event_id in ("1", "2"):
        await rig.publish("raw_input", event_id, [event_id])
    await rig.bridge(routes=[first.route(**SPLIT, batch=8)])
    await eventually(lambda: rig.settled(first))
    assert (first.batches, [*first.count]) == ([["1", "2"]], ["2"])
    assert sorted(await rig.journaled("item")) == ["1/0", "2/0"]


async def test_answers_of_a_batch_in_one_list_are_asked_for_alone(rig: Rig) -> None:
    first = await splitter(rig)
    first.batch_script = lambda events: answers(events[0], ["x", "y"])
    for event_id in ("1", "2"):
        await rig.publish("raw_input", event_id, [event_id])
    await rig.bridge(routes=[first.route(**SPLIT, batch=8)])
    await eventually(lambda: rig.settled(first))
    assert sorted(first.count) == ["1", "2"]
    assert sorted(await rig.journaled("item")) == ["1/0", "2/0"]


async def test_statuses_of_the_whole_stay_while_a_part_moves_on(rig: Rig) -> None:
    first = await splitter(rig)
    ship = await rig.stage("ship", "item", "shipped", lambda _: status(409, retry_after="300"))
    await rig.bridge(routes=[first.route(**SPLIT), ship.route()])
    await rig.publish("raw_input", "1", ["a"])
    await eventually(lambda: rig.parked("ship"))
    for event_id in ("1", "1/0"):
        assert 3600 < await rig.redis.ttl(keys.status(event_id)) <= 3900
