"""Options of a stage in `helm/values.yaml`: headers, a deadline, a delay; and an outside receiver as a stage."""

import logging

import pytest

from milepost.bridge.settings import BridgeSettings
from milepost.errors import ConfigurationError
from milepost.events.event import Event
from milepost.journal import keys
from tests.bridge.rig import Answer, Delivery, Rig, status, value
from tests.servers import eventually

ROW = {"name": "hook", "consumes": "in", "url": "http://hook/", "headersFrom": {"Authorization": "HOOK_TOKEN"}}
SECRET = "Bearer hush"


async def test_an_outside_receiver_gets_its_headers_and_any_2xx_completes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOOK_TOKEN", f"{SECRET}\n")
    caplog.set_level(logging.DEBUG)
    deliveries: list[Delivery] = []

    def take(delivery: Delivery) -> Answer:
        deliveries.append(delivery)
        return status(500 if delivery.count == 1 else 202, b"<p>thanks</p>", content_type="text/html")

    hook = await rig.stage("hook", "in", None, take)
    bridge = await rig.bridge({"headersFrom": {"Authorization": "HOOK_TOKEN"}})
    await rig.publish("in", "1", {"n": 1})
    await eventually(lambda: hook.count["1"] == 2)
    await eventually(lambda: rig.settled(hook))
    assert [delivery.headers["authorization"] for delivery in deliveries] == [SECRET, SECRET]
    assert deliveries[1].event.data == {"n": 1}
    assert not await rig.dead("hook")
    shown = b"".join((await rig.redis.hgetall(keys.STAGES)).values()).decode()
    assert "hush" not in caplog.text + shown + repr(bridge._settings)


@pytest.mark.parametrize(
    ("variable", "headers", "fault"),
    [
        (None, {"Authorization": "HOOK_TOKEN"}, "Authorization comes from the variable HOOK_TOKEN, which is not set"),
        ("", {"Authorization": "HOOK_TOKEN"}, "Authorization comes from the variable HOOK_TOKEN, which is not set"),
        ("hush\r\nHost: evil", {"Authorization": "HOOK_TOKEN"}, "header Authorization: its value would break"),
        ("hush", {"Content-Type": "HOOK_TOKEN"}, "header Content-Type is the client's own"),
        ("hush", {"a b": "HOOK_TOKEN"}, "no header name: 'a b'"),
        ("hush", "HOOK_TOKEN", "must be an object"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_by_name_and_never_by_value(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, headers: object, fault: str
) -> None:
    monkeypatch.delenv("HOOK_TOKEN", raising=False)
    if variable is not None:
        monkeypatch.setenv("HOOK_TOKEN", variable)
    with pytest.raises(ConfigurationError) as caught:
        BridgeSettings.read(routes=[{**ROW, "headersFrom": headers}])
    assert "HEADERSFROM" in str(caught.value)
    assert fault in str(caught.value)
    assert "hush" not in str(caught.value)


async def test_a_routes_own_deadline_stands_before_the_bridges(rig: Rig) -> None:
    hasty = await rig.stage("hasty", "in", None, lambda _: status(503, retry_after="0"))
    patient = await rig.stage("patient", "in", None, lambda _: status(503, retry_after="0"))
    await rig.bridge(routes=[hasty.route(deadline="PT1H"), patient.route()])
    await rig.publish("in", "fresh")
    await journaled_before(rig, "in", "old", 7200)
    await eventually(lambda: rig.dead("hasty"))
    await eventually(lambda: hasty.count["fresh"] > 1 and patient.count["old"] > 1, what="those two are tried again")
    (letter,) = await rig.dead("hasty")
    assert (letter.id, letter.reason) == ("old", "deadline passed; last: HTTP 503")
    assert (letter.attempts, letter.crashes) == (0, 0)
    assert not await rig.dead("patient")


async def test_a_delayed_event_waits_in_redis_and_no_other_stage_with_it(rig: Rig) -> None:
    late = await rig.stage("late", "in", "out")
    prompt = await rig.stage("prompt", "in", None)
    bridge = await rig.bridge(routes=[late.route(delay="PT10M"), prompt.route()])
    await rig.publish("in", "1")
    await eventually(lambda: rig.parked("late"))
    await eventually(lambda: rig.settled(prompt))
    assert 500 < await due_in(rig, "late") <= 600
    assert await rig.pending(late) == 0
    assert not late.count
    assert value(bridge, "deliveries_total", stage="prompt", outcome="delivered") == 1


async def test_a_delay_outlives_its_bridge_and_counts_for_nothing(rig: Rig) -> None:
    """Not as an attempt, and not against the deadline, though it is longer than that."""
    late = await rig.stage("late", "in", "out")
    late.script = lambda delivery: status(500) if delivery.count == 1 else late.succeed(delivery)
    routes = [late.route(delay="PT10M", deadline="PT5M", retry=1)]
    first = await rig.bridge(routes=routes)
    await rig.publish("in", "early")
    await eventually(lambda: rig.parked("late"))
    await rig.stop(first)
    assert not late.count
    await journaled_before(rig, "in", "1", 601)
    await rig.bridge(routes=routes)
    await eventually(lambda: late.count["1"] == 2)
    await eventually(lambda: rig.journal.status("1"), what="its reply")
    assert late.count == {"1": 2}, "the other one waits still"
    assert await rig.parked("late") == 1
    await rig.overdue("late")
    await eventually(lambda: rig.settled(late))
    assert late.count == {"1": 2, "early": 2}
    assert list(await rig.journal.status("early")) == ["in", "out"]
    assert not await rig.dead("late")


async def test_a_delay_is_the_events_age_whenever_a_bridge_first_reads_it(rig: Rig) -> None:
    late = await rig.stage("late", "in", "out")
    await rig.publish("in", "1")
    await eventually(lambda: older_than(rig, "in", 0.5))
    await rig.bridge(routes=[late.route(delay="PT600S")])
    await eventually(lambda: rig.parked("late"))
    assert await due_in(rig, "late") <= 599.5


async def test_a_dead_letter_that_is_replayed_is_not_delayed_again(rig: Rig) -> None:
    late = await rig.stage("late", "in", "out")
    late.script = lambda delivery: status(422) if delivery.count == 1 else late.succeed(delivery)
    await rig.bridge(routes=[late.route(delay="PT0.1S")])
    await rig.publish("in", "1")
    await eventually(lambda: rig.dead("late"))
    (letter,) = await rig.dead("late")
    await rig.stop(rig.bridges[0])
    await rig.bridge(routes=[late.route(delay="PT10M")])
    assert await rig.journal.admin.replay("late", [letter.entry]) == 1
    await eventually(lambda: late.count["1"] == 2)
    await eventually(lambda: rig.settled(late))


async def due_in(rig: Rig, stage: str) -> float:
    """Seconds until the one event that waits for this stage is due."""
    return await rig.due(stage) - await rig.now()


async def older_than(rig: Rig, channel: str, age: float) -> bool:
    ((entry, _),) = await rig.redis.xrange(keys.journal(channel))
    return await rig.now() - int(entry.partition(b"-")[0]) / 1000 > age


async def journaled_before(rig: Rig, channel: str, id: str, seconds: float) -> None:
    """Journal an event as it is that was journaled so long ago and has failed since, uncounted."""
    event = Event(id=id, source="/test", type=channel).to_json()
    since = round((await rig.now() - seconds) * 1000)
    await rig.redis.xadd(keys.journal(channel), {"event": event, "since": since})
