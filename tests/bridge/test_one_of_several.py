"""A stage that emits one of several channels, in both delivery modes."""

import pytest

from gateway.status import GraphReader, StatusReader
from milepost.events.event import Event
from tests.bridge.rig import Answer, Delivery, Rig, replied, status, together
from tests.bridge.test_doors import STRUCTURED, door, structured
from tests.servers import eventually

DECIDE = {"emits": ["approved", "declined"]}


def by_data(delivery: Delivery) -> Answer:
    """Answer on the channel that the event's data names."""
    return replied(delivery.event, str(delivery.event.data))


async def test_type_of_the_reply_chooses_the_channel(rig: Rig) -> None:
    decide = await rig.stage("decide", "raw_input", None, by_data)
    ship = await rig.stage("ship", "approved", "shipped")
    await rig.bridge(routes=[decide.route(**DECIDE, retry=0), ship.route()])
    for event_id, channel in (("1", "approved"), ("2", "declined"), ("3", "elsewhere")):
        await rig.publish("raw_input", event_id, channel)
    await eventually(lambda: rig.dead("decide"))
    await eventually(lambda: rig.settled(decide))
    await eventually(lambda: ship.count["1"])
    await eventually(lambda: rig.settled(ship))
    assert ship.ids == ["1"]
    reached = {event_id: list(await rig.journal.status(event_id)) for event_id in ("1", "2")}
    assert reached == {"1": ["raw_input", "approved", "shipped"], "2": ["raw_input", "declined"]}
    (letter,) = await rig.dead("decide")
    assert letter.reason == "unusable reply: type: elsewhere, not approved or declined"
    graph = await GraphReader(rig.journal).graph()
    assert all(graph.is_finished("raw_input", channels) for channels in reached.values())
    assert not graph.is_finished("raw_input", ["raw_input", "approved"])
    (row, _) = await rig.journal.admin.stages()
    assert (row.name, row.emits) == ("decide", ("approved", "declined"))


@pytest.mark.parametrize("batch", [1, 8])
async def test_event_that_the_stage_does_not_answer_is_over(rig: Rig, batch: int) -> None:
    decide = await rig.stage("decide", "raw_input", None, lambda _: status(204))
    items = b'[{"id":"1","status":204},{"id":"2","status":422}]'
    decide.batch_script = lambda _: status(207, items, content_type="application/json")
    ids = [str(number) for number in range(1, 1 + min(batch, 2))]
    for event_id in ids:
        await rig.publish("raw_input", event_id)
    await rig.bridge(routes=[decide.route(**DECIDE, batch=batch)])
    await eventually(lambda: rig.settled(decide))
    shown = [await StatusReader(rig.journal, GraphReader(rig.journal), event_id).read() for event_id in ids]
    assert [(one.state, one.is_over) for one in shown] == [("ended", True), ("dead", True)][: len(ids)]
    assert shown[0].ended_at == ["decide"]


async def test_replies_of_a_batch_choose_their_channels(rig: Rig) -> None:
    decide = await rig.stage("decide", "in")
    decide.batch_script = lambda events: together(
        [Event(id=event.id, source="/test", type=str(event.data)) for event in events]
    )
    await rig.publish("in", "1", "approved")
    await rig.publish("in", "2", "declined")
    await rig.bridge(routes=[decide.route(**DECIDE, batch=8)])
    await eventually(lambda: rig.settled(decide))
    assert (decide.batches, await rig.dead("decide")) == ([["1", "2"]], [])
    for event_id, channel in (("1", "approved"), ("2", "declined")):
        assert list(await rig.journal.status(event_id)) == ["in", channel]


async def test_in_broker_mode_each_channel_is_announced_and_ends_the_submission(rig: Rig) -> None:
    sink = await rig.stage("broker", "raw_input", None, lambda _: status(202))
    routes = [
        {"name": "decide", "consumes": "raw_input", **DECIDE},
        {"name": "ship", "consumes": "approved", "emits": "shipped"},
    ]
    bridge = await rig.bridge(delivery="broker", k_sink=sink.url, routes=routes)
    async with door(bridge) as client:
        for event_id, channel in (("1", "approved"), ("2", "declined")):
            await rig.publish("raw_input", event_id)
            answer = await client.post("/replies", content=structured(event_id, channel), headers=STRUCTURED)
            assert answer.status_code == 202
    graph = await GraphReader(rig.journal).graph()
    assert graph.reached("raw_input") == ("raw_input", "approved", "declined", "shipped")
    assert not graph.is_finished("raw_input", await rig.journal.status("1"))
    assert graph.is_finished("raw_input", [*await rig.journal.status("1"), "shipped"])
    assert graph.is_finished("raw_input", await rig.journal.status("2"))
