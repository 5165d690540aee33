"""Broker mode: one route to K_SINK, for the events of every consumed channel."""

import asyncio
import json
from base64 import b64encode

import pytest

from milepost.journal import keys
from tests.bridge.rig import Answer, Delivery, Rig, Stage, ended, replied, status, value
from tests.bridge.test_doors import STRUCTURED, door, structured
from tests.servers import eventually, http_status


async def broker(rig: Rig) -> Stage:
    """The Broker: it accepts every event. Rows of the stages behind it have no URL."""
    sink = await rig.stage("broker", "in", None, lambda _: status(202, b"taken"))
    rig.stages.remove(sink)
    rig.sinks.append(sink)
    return sink


ROUTES = [
    {"name": "first", "consumes": "in", "emits": "middle"},
    {"name": "second", "consumes": "middle", "emits": "out"},
]


async def silence(rig: Rig, name: str) -> None:
    """As if this stage's last beat were two minutes old."""
    wired = await rig.redis.hget(keys.STAGES, name)
    head, _, beat = wired.rpartition(b":")
    await rig.redis.hset(keys.STAGES, name, b"%b:%d}" % (head, int(beat[:-1]) - 120_000))


async def test_events_of_every_consumed_channel_go_to_the_sink_under_the_name_broker(rig: Rig) -> None:
    sink = await broker(rig)
    await rig.bridge(delivery="broker", k_sink=sink.url, routes=ROUTES)
    await rig.publish("in", "1")
    await rig.publish("middle", "2")
    await eventually(lambda: sink.count == {"1": 1, "2": 1})
    assert {event.id: event.type for event in sink.received} == {"1": "in", "2": "middle"}
    await eventually(lambda: rig.settled(sink))
    _, histories = await rig.journal.whole_status("1")
    assert not [step for history in histories.values() for step in history.steps], "a Broker never replies"
    for channel in ("in", "middle"):
        groups = await rig.redis.xinfo_groups(keys.journal(channel))
        assert [group["name"] for group in groups] == [b"broker"]
    (row,) = await rig.journal.admin.stages()
    assert (row.name, row.consumes, row.emits, row.served) == ("broker", ("in", "middle"), ("middle", "out"), True)


async def test_events_for_a_broker_that_is_away_are_parked_under_its_name(rig: Rig) -> None:
    sink = await broker(rig)
    await sink.refuse()
    bridge = await rig.bridge(delivery="broker", k_sink=sink.url, routes=ROUTES)
    await rig.publish_all("in", ["1", "2"])
    await eventually(lambda: rig.parked("broker"))
    assert not await rig.parked("first")
    await sink.open()
    await eventually(lambda: set(sink.count) == {"1", "2"})
    await eventually(lambda: value(bridge, "deliveries_total", stage="broker", outcome="delivered") == 2)


async def test_each_channel_has_a_limit_of_its_own(rig: Rig) -> None:
    sink = await broker(rig)
    go = asyncio.Event()

    async def hold(_: Delivery) -> Answer:
        await go.wait()
        return status(202)

    sink.script = hold
    bridge = await rig.bridge(delivery="broker", k_sink=sink.url, routes=ROUTES, window=4)
    await rig.publish_all("in", [f"in-{n}" for n in range(20)])
    await rig.publish_all("middle", [f"middle-{n}" for n in range(20)])
    await eventually(lambda: sink.on_wire == 8)
    assert [worker.limit.unsettled for worker in bridge.workers] == [4, 4]
    go.set()
    await eventually(lambda: len(sink.count) == 40)
    assert sink.most_on_wire == 8


async def test_dead_letter_is_taken_while_the_backlog_is_over_its_limit(rig: Rig) -> None:
    """The event was accepted once; a Broker whose sink refuses it throws it away."""
    sink = await broker(rig)
    await sink.close()
    bridge = await rig.bridge(delivery="broker", k_sink=sink.url, routes=ROUTES, backlog_limit=1)
    async with door(bridge) as client:
        assert (await client.post("/", content=structured("1"), headers=STRUCTURED)).status_code == 202
        assert (await client.post("/", content=structured("2"), headers=STRUCTURED)).status_code == 503
        assert (await client.post("/dead/first", content=structured("0"), headers=STRUCTURED)).status_code == 202
    assert len(await rig.dead("first")) == 1


async def test_reply_through_the_broker_shows_on_its_channel_and_runs_once(rig: Rig) -> None:
    """The Broker has delivered an event that a Trigger brings to /replies, so the sink gets each event once."""
    sink = await broker(rig)
    bridge = await rig.bridge(delivery="broker", k_sink=sink.url, routes=ROUTES)
    async with door(bridge) as client:
        await rig.publish("in", "1")
        await eventually(lambda: sink.count["1"] == 1)
        reply = replied(sink.received[0], "middle")
        assert reply
        answer = await client.post("/replies", content=structured("1", "middle"), headers=STRUCTURED)
        assert answer.status_code == 202
        await rig.publish("middle", "last")
        await eventually(lambda: sink.count["last"] == 1)
    assert sink.count["1"] == 1
    assert list(await rig.journal.status("1")) == ["in", "middle"]


async def test_dead_letter_of_the_broker_is_kept_and_replayed_through_the_broker(rig: Rig) -> None:
    sink = await broker(rig)
    bridge = await rig.bridge(delivery="broker", k_sink=sink.url, routes=ROUTES)
    event = structured(
        "1", "in", {"a": 1}, knativeerrorcode="500", knativeerrordata="boom", knativeerrordest="http://x"
    )
    async with door(bridge) as client:
        answer = await client.post("/dead/first", content=event, headers=STRUCTURED)
        assert answer.status_code == 202
    (letter,) = await rig.dead("first")
    assert (letter.id, letter.status, letter.channel) == ("1", 500, "in")
    assert (letter.attempts, letter.crashes) == (0, 0), "the tries were the Broker's"
    assert value(bridge, "dead_letters_total", stage="first") == 1
    assert letter.reason == "the Broker gave up: HTTP 500: boom"
    assert "dead:first" in await rig.journal.status("1")
    assert await rig.journal.admin.replay("first", [letter.entry]) == 1
    await eventually(lambda: sink.count["1"] == 1)
    assert not [name for name in sink.received[0].extensions if name.startswith("knative")]


async def test_dead_letter_of_the_broker_for_a_stage_that_is_not_in_routes_is_404_and_not_kept(rig: Rig) -> None:
    sink = await broker(rig)
    bridge = await rig.bridge(delivery="broker", k_sink=sink.url, routes=ROUTES)
    async with door(bridge) as client:
        answer = await client.post("/dead/third", content=structured("1"), headers=STRUCTURED)
    assert answer.status_code == answer.json()["status"] == 404
    assert "third" in answer.json()["detail"]
    assert not await rig.dead("third")


def encoded(body: str | bytes) -> str:
    """`knativeerrordata` as Eventing makes it: base64, at most 1,024 characters of it."""
    return b64encode(body if isinstance(body, bytes) else body.encode())[:1024].decode()


PROBLEM = {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "MongoDB: caf\u00e9 is away"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encoded(json.dumps(PROBLEM)), "MongoDB: café is away"),
        (encoded(json.dumps(PROBLEM, ensure_ascii=False)), "MongoDB: café is away"),
        (encoded(json.dumps({**PROBLEM, "errors": ["x" * 2000]})), "MongoDB: café is away"),
        (encoded(json.dumps({**PROBLEM, "detail": "long!" * 400})), "long!" * 100),
        (encoded(json.dumps({**PROBLEM, "detail": 'a \\ "quoted"\nline'})), 'a \\ "quoted" line'),
        (encoded(json.dumps({**PROBLEM, "detail": "lone \ud800"})), "lone ?"),
        (encoded('{"error": "no problem document"}'), '{"error": "no problem document"}'),
        (encoded("é" * 1000), "é" * 384),
        (encoded("connection\n refused\n"), "connection refused"),
        (encoded("a"), "a"),
        (json.dumps(PROBLEM), "MongoDB: café is away"),
        ("boom", "boom"),
        ("dispatch error: EOF", "dispatch error: EOF"),
        ("circuit reset", "circuit reset"),
        (encoded(b"\x1f\x8b\x08\x00"), encoded(b"\x1f\x8b\x08\x00")),
        ("", ""),
    ],
)
async def test_reason_of_a_dead_letter_of_the_broker_is_the_text_of_the_stage(rig: Rig, data: str, said: str) -> None:
    sink = await broker(rig)
    bridge = await rig.bridge(delivery="broker", k_sink=sink.url, routes=ROUTES)
    extensions = {"knativeerrorcode": "503"} | ({"knativeerrordata": data} if data else {})
    async with door(bridge) as client:
        answer = await client.post("/dead/first", content=structured("1", "in", **extensions), headers=STRUCTURED)
        assert answer.status_code == 202
    (letter,) = await rig.dead("first")
    assert letter.reason == "the Broker gave up: HTTP 503" + (f": {said}" if said else "")


async def test_dead_letters_of_the_broker_are_in_the_backlog_and_in_the_list(rig: Rig) -> None:
    sink = await broker(rig)
    bridge = await rig.bridge(delivery="broker", k_sink=sink.url, routes=ROUTES)
    async with door(bridge) as client:
        await client.post("/dead/first", content=structured(), headers=STRUCTURED)
    assert "first" in await rig.journal.admin.dead_stages()
    assert await rig.journal.backlog() == 1


async def test_bridge_without_k_sink_waits_logs_it_and_stops(rig: Rig) -> None:
    await rig.stage("first", "in")
    process = rig.process(DELIVERY="broker").launch()
    await eventually(lambda: "K_SINK is not set" in process.log)
    await eventually(lambda: asyncio.to_thread(http_status, process.port, "/healthz"), what="it listens")
    assert await asyncio.to_thread(http_status, process.port, "/readyz") == 503
    assert process.process
    process.process.terminate()
    assert await ended(process) == 0


async def test_change_of_the_delivery_mode_and_back_loses_and_repeats_nothing(rig: Rig) -> None:
    first = await rig.stage("first", "in", None)
    sink = await broker(rig)
    direct, through = {"routes": rig.routes()}, {"delivery": "broker", "k_sink": sink.url, "routes": ROUTES}
    bridge = await rig.bridge(**direct)
    await rig.publish("in", "done")
    await eventually(lambda: rig.settled(first))
    first.script = lambda _: status(503, retry_after="60")
    await rig.publish("in", "parked")
    await eventually(lambda: rig.parked("first"))
    await rig.stop(bridge)
    await rig.publish("in", "unread")
    await silence(rig, "first")
    bridge = await rig.bridge(**through)
    assert {row.name: row.served for row in await rig.journal.admin.stages()} == {"broker": True}
    await eventually(lambda: sink.count == {"parked": 1, "unread": 1})
    await eventually(lambda: value(bridge, "deliveries_total", stage="broker", outcome="delivered") == 2)
    await rig.stop(bridge)
    await silence(rig, "broker")
    first.script = first.succeed
    await rig.bridge(**direct)
    await rig.publish("in", "last")
    await eventually(lambda: first.count["last"])
    await eventually(lambda: rig.settled(first))
    assert first.count == {"done": 1, "parked": 1, "last": 1}
    assert await rig.journal.backlog() == 0


async def test_bridge_waits_while_the_other_delivery_mode_is_served(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    first = await rig.stage("first", "in", None)
    direct = await rig.bridge()
    sink = await broker(rig)
    await rig.bridge(delivery="broker", k_sink=sink.url, routes=ROUTES)  # ready: its HTTP door publishes
    await eventually(lambda: "the other delivery mode still serves first" in caplog.text)
    await rig.publish("in", "1")
    await eventually(lambda: rig.settled(first))
    await rig.stop(direct)
    await silence(rig, "first")
    await rig.publish("in", "2")
    await eventually(lambda: sink.count["2"])
    assert (first.count, sink.count) == ({"1": 1}, {"2": 1})
