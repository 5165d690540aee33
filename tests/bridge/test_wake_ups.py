"""Wake-ups: `GET /` to the functions downstream of a stage that may be at zero, and nothing else comes of them."""

import asyncio
import gc
import itertools
from typing import Any
from weakref import WeakSet

import pytest

from milepost.bridge import wake
from milepost.bridge.bridge import Bridge
from milepost.bridge.metrics import BridgeMetrics
from milepost.bridge.outcome import Delivered
from milepost.journal import WakeUps, keys
from tests.bridge.rig import Rig, Stage, status
from tests.servers import WITHIN, eventually

LONG = "PT1H"


async def line(rig: Rig, *names: str) -> list[Stage]:
    """Stages one after the other: the first consumes c0 and emits c1."""
    return [await rig.stage(name, f"c{number}", f"c{number + 1}") for number, name in enumerate(names)]


def woken(*stages: Stage) -> list[int]:
    return [stage.wake_ups for stage in stages]


def hold(stage: Stage) -> asyncio.Event:
    """Let a stage answer events only once the event is set, as one that starts."""
    go = asyncio.Event()

    async def answer(delivery: Any) -> bytes:
        await go.wait()
        return stage.succeed(delivery)

    stage.script = answer
    return go


def counted(bridge: Bridge, *stages: Stage) -> list[float | None]:
    registry = bridge.metrics.registry
    return [registry.get_sample_value("milepost_wakeups_total", {"stage": stage.name}) for stage in stages]


async def test_one_event_wakes_every_stage_downstream_of_a_silent_one(rig: Rig) -> None:
    one, two, three = await line(rig, "one", "two", "three")
    go = hold(one)
    bridge = await rig.bridge()
    await rig.publish("c0", "1")
    await eventually(lambda: woken(one, two, three) == [0, 1, 1])  # though the first has not answered yet
    go.set()
    await eventually(lambda: rig.settled(three))
    assert woken(one, two, three) == [0, 1, 1]
    assert counted(bridge, one, two, three) == [None, 1, 1]


async def test_stage_wakes_others_again_only_after_a_silence(rig: Rig) -> None:
    one, two = await line(rig, "one", "two")
    warm = await rig.bridge({"wakeAfter": LONG})
    for count in (1, 2, 3):
        await rig.publish("c0", str(count))
        await eventually(lambda: rig.settled(two))
    assert woken(one, two) == [0, 1]
    await rig.stop(warm)
    await rig.bridge({"wakeAfter": "PT0.2S"})
    ids = map(str, itertools.count(4))

    async def woken_after_a_silence() -> bool:
        await asyncio.sleep(0.25)  # the silence itself
        await rig.publish("c0", next(ids))
        await eventually(lambda: rig.settled(two))
        return two.wake_ups >= 3  # the new bridge's first one, and one more

    await eventually(woken_after_a_silence)
    assert one.wake_ups == 0


async def test_response_of_a_stage_shows_that_it_is_not_at_zero(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    request_ended, told = wake.Silence.request_ended, list[bool]()

    def note(silence: wake.Silence, now: float, *, answered: bool) -> None:
        before = silence.at
        request_ended(silence, now, answered=answered)
        assert silence.at == (now + 3600 if answered else before)
        told.append(answered)

    monkeypatch.setattr(wake.Silence, "request_ended", note)
    (one,) = await line(rig, "one")
    await rig.bridge({"wakeAfter": LONG})
    await rig.publish("c0", "1")
    await eventually(lambda: rig.settled(one))
    assert told == [True]
    await one.refuse()
    await rig.publish("c0", "2")
    await eventually(lambda: len(told) > 1)
    assert told[1] is False


async def test_a_flood_of_events_and_two_bridges_send_one_wake_up_each(rig: Rig) -> None:
    one, two = await line(rig, "one", "two")
    go = hold(one)
    await rig.bridge({"wakeAfter": LONG})
    await rig.bridge({"wakeAfter": LONG})
    await rig.publish_all("c0", [str(number) for number in range(60)])
    await eventually(lambda: one.on_wire == 2 * 16)  # both bridges have read up to their limit
    go.set()
    await eventually(lambda: len(two.ids) == 60)
    await eventually(lambda: rig.settled(two))
    assert 1 <= two.wake_ups <= 2


async def test_wake_up_that_hangs_or_fails_holds_nothing_and_is_not_repeated(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake, "WITHIN", 10 * WITHIN)
    _, hanging, refusing = await line(rig, "one", "hanging", "refusing")
    never = asyncio.Event()

    async def hang() -> bytes:
        await never.wait()
        return status(200)

    hanging.wake_script = hang
    refusing.wake_script = lambda: status(503)
    bridge = await rig.bridge({"wakeAfter": LONG})
    await rig.publish_all("c0", ["1", "2", "3", "4"])
    await eventually(lambda: len(refusing.ids) == 4)
    await eventually(lambda: rig.settled(refusing))
    await eventually(lambda: woken(hanging, refusing) == [1, 1])
    for worker in bridge.workers:
        assert bridge.metrics.of_stage(worker.stage).outcomes == {Delivered: 4}
        assert not worker.limit.outage
    async with asyncio.timeout(WITHIN):
        await rig.stop(bridge)  # though a wake-up is under way
    never.set()


async def test_bridge_that_restarts_during_wake_ups_wakes_once_more_and_leaves_no_start_shown(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake, "HIDE_WITHIN", WITHIN)
    one, two = await line(rig, "one", "two")
    go, started = hold(one), asyncio.Event()

    async def start() -> bytes:
        await started.wait()
        return status(200)

    two.wake_script = start
    wake_ups = WakeUps(rig.redis)
    before = await rig.bridge({"wakeAfter": LONG}, grace="PT0S")
    await rig.publish("c0", "1")
    await eventually(lambda: _equal(wake_ups, {"one", "two"}))
    await rig.stop(before)
    assert await _equal(wake_ups, set())
    await rig.bridge({"wakeAfter": LONG})
    await eventually(lambda: woken(one, two) == [0, 2])
    await eventually(lambda: _equal(wake_ups, {"one", "two"}))
    go.set()
    started.set()
    await eventually(lambda: two.ids == ["1"])
    await eventually(lambda: _equal(wake_ups, set()))
    assert woken(one, two) == [0, 2]
    assert counted(before, two) == [1]


async def test_stage_has_one_wake_up_under_way(rig: Rig) -> None:
    one, hanging = await line(rig, "one", "hanging")
    never = asyncio.Event()

    async def hang() -> bytes:
        await never.wait()
        return status(200)

    hanging.wake_script = hang
    hanging.script = lambda _: status(503)  # no answer that would show it warm
    await rig.bridge({"wakeAfter": "PT0.001S"})
    for number in (1, 2, 3):
        await rig.publish("c0", str(number))
        await eventually(lambda: rig.settled(one))
    await eventually(lambda: hanging.wake_ups)
    assert hanging.wake_ups == 1


async def test_only_unread_events_wake(rig: Rig) -> None:
    one, two = await line(rig, "one", "two")
    one.script = lambda delivery: status(500) if delivery.count < 3 else one.succeed(delivery)
    await rig.bridge({"wakeAfter": "PT0.001S", "backoffDelay": "PT0.05S"})
    await rig.publish("c0", "1")
    await eventually(lambda: two.ids == ["1"])
    assert one.count["1"] == 3  # two of them retries
    assert not await rig.publish("c0", "1")  # a duplicate
    await eventually(lambda: two.wake_ups)
    assert two.wake_ups == 1


async def test_replayed_dead_letter_wakes_nothing(rig: Rig) -> None:
    one, two = await line(rig, "one", "two")
    one.script = lambda delivery: status(400) if delivery.count == 1 else one.succeed(delivery)
    await rig.bridge({"wakeAfter": "PT0.001S"})
    await rig.publish("c0", "1")
    await eventually(lambda: rig.dead("one"))
    await eventually(lambda: two.wake_ups == 1)  # when it was read, the pause was not known
    await rig.journal.admin.replay("one", [letter.entry for letter in await rig.dead("one")])
    await eventually(lambda: two.ids == ["1"])
    assert two.wake_ups == 1


async def test_nothing_is_woken_while_the_stage_is_down(rig: Rig) -> None:
    one, two = await line(rig, "one", "two")
    await one.refuse()
    bridge = await rig.bridge({"wakeAfter": "PT0.001S"})
    await rig.publish("c0", "1")
    await eventually(lambda: bridge.workers[0].limit.down)
    after_the_first = two.wake_ups
    await rig.publish_all("c0", ["2", "3"])
    await eventually(lambda: bridge.workers[0].limit.found_down >= 4)
    assert after_the_first <= 1
    assert two.wake_ups <= 1


async def test_receiver_of_others_is_never_woken_but_functions_behind_it_are(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    one, theirs, ours, off = await line(rig, "one", "theirs", "ours", "off")
    routes = [one.route(), theirs.route(external=True), ours.route(), off.route(wake=False)]
    await rig.bridge(routes=routes)
    await rig.publish("c0", "1")
    await eventually(lambda: off.ids == ["1"])
    await eventually(lambda: ours.wake_ups)
    assert woken(one, theirs, ours, off) == [0, 0, 1, 0]
    assert "outcome=failed" not in caplog.text, "stages without wake-ups are delivered to at once"


async def test_paused_and_delayed_stages_and_those_behind_them_are_not_woken(rig: Rig) -> None:
    _, paused, behind = await line(rig, "one", "paused", "behind")
    late = await rig.stage("late", "c1", "d2")
    later = await rig.stage("later", "d2", None)
    beside = await rig.stage("beside", "c1", None)
    await rig.redis.sadd(keys.PAUSED, "paused")
    await rig.bridge(routes=[stage.route(**({"delay": LONG} if stage is late else {})) for stage in rig.stages])
    await rig.publish("c0", "1")
    await eventually(lambda: beside.ids == ["1"])
    await eventually(lambda: beside.wake_ups)
    assert woken(paused, behind, late, later, beside) == [0, 0, 0, 0, 1]


async def test_event_read_for_a_paused_stage_wakes_nothing_until_the_stage_is_resumed(rig: Rig) -> None:
    _, two = await line(rig, "one", "two")
    await rig.stage("other", "d0", "d1")
    behind = await rig.stage("behind", "d1")
    bridge = await rig.bridge({"wakeAfter": LONG})
    await rig.journal.admin.pause("one")
    bridge.workers[0].pause(paused=True)  # at once, so that the read that is under way brings the event
    await rig.publish("c0", "1")
    await rig.publish("d0", "2")
    await eventually(lambda: behind.wake_ups)
    assert two.wake_ups == 0
    await rig.journal.admin.resume("one")
    await eventually(lambda: two.wake_ups)
    assert two.wake_ups == 1


async def test_delayed_event_wakes_when_it_is_due(rig: Rig) -> None:
    late, after = await line(rig, "late", "after")
    await rig.bridge(routes=[late.route(delay=LONG), after.route()])
    await rig.publish("c0", "1")
    await eventually(lambda: rig.parked("late"))
    assert after.wake_ups == 0
    await rig.overdue("late")
    await eventually(lambda: after.ids == ["1"])
    await eventually(lambda: after.wake_ups)
    assert after.wake_ups == 1


async def test_event_of_a_stage_that_is_ordered_by_key_wakes(rig: Rig) -> None:
    one, two, three = await line(rig, "one", "two", "three")
    await rig.bridge(routes=[one.route(order="key"), two.route(order="key"), three.route()])
    await rig.publish("c0", "1", {"key": "a"})
    await eventually(lambda: three.ids == ["1"])
    await eventually(lambda: woken(one, two, three) == [0, 1, 1])


async def test_bridge_wakes_the_stages_of_its_own_table_alone(rig: Rig) -> None:
    one, two, three = await line(rig, "one", "two", "three")
    go = hold(two)
    mine = await rig.bridge(routes=[one.route(wakeAfter=LONG)])
    theirs = await rig.bridge(routes=[stage.route(wakeAfter=LONG) for stage in (two, three)])
    await rig.publish("c0", "1")
    await eventually(lambda: two.on_wire == 1)
    await eventually(lambda: woken(one, two, three) == [0, 0, 1])
    assert [counted(bridge, two, three) for bridge in (mine, theirs)] == [[None, None], [None, 1]]
    go.set()
    await eventually(lambda: three.ids == ["1"])


async def test_broker_mode_wakes_the_functions_that_the_broker_reaches(rig: Rig) -> None:
    stages = await line(rig, "one", "two", "three")
    broker = await rig.stage("broker", "", None)
    routes = [stage.route() for stage in stages]
    await rig.bridge(routes=routes, delivery="broker", k_sink=broker.url)
    await rig.publish("c0", "1")
    await eventually(lambda: broker.ids == ["1"])
    await eventually(lambda: woken(*stages) == [0, 1, 1])
    assert broker.wake_ups == 0


async def test_opened_form_wakes_the_stages_that_want_it(rig: Rig) -> None:
    one, two, three = await line(rig, "one", "two", "three")
    other = await rig.stage("other", "elsewhere", None)
    routes = [stage.route(wake="event" if stage is two else "page", wakeAfter=LONG) for stage in rig.stages]
    await rig.bridge(routes=routes)
    wake_ups = WakeUps(rig.redis)
    await wake_ups.ask("c0", every=60)
    await wake_ups.ask("elsewhere", every=60)  # within the time of the other: nothing
    await eventually(lambda: woken(one, two, three) == [1, 0, 1])
    assert other.wake_ups == 0


async def test_stages_that_want_no_page_are_woken_by_the_event_that_follows_the_form(rig: Rig) -> None:
    one, two, three = await line(rig, "one", "two", "three")
    await rig.bridge(routes=[one.route(wake="page", wakeAfter=LONG), two.route(), three.route()])
    await WakeUps(rig.redis).ask("c0", every=60)
    await eventually(lambda: one.wake_ups)
    go = hold(one)
    await rig.publish("c0", "1")
    await eventually(lambda: woken(one, two, three) == [1, 1, 1])
    go.set()


async def test_starting_stage_is_shown_until_it_answers(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wake, "WITHIN", 10 * WITHIN)  # only the answer ends it
    one, two = await line(rig, "one", "two")
    go = hold(one)
    await rig.bridge()
    wake_ups = WakeUps(rig.redis)
    await rig.publish("c0", "1")
    await eventually(lambda: _equal(wake_ups, {"one"}))  # the other has answered its wake-up
    assert await rig.redis.pttl(keys.starting("one")) > 0
    go.set()
    await eventually(lambda: _equal(wake_ups, set()))
    assert two.wake_ups == 1


async def _equal(wake_ups: WakeUps, stages: set[str]) -> bool:
    return await wake_ups.starting(["one", "two"]) == stages


async def test_wake_up_waits_for_its_delay(rig: Rig) -> None:
    one, two = await line(rig, "one", "two")
    go = hold(one)
    await rig.bridge(routes=[one.route(), two.route(wakeDelay=LONG)])
    await rig.publish("c0", "1")
    await eventually(lambda: one.on_wire == 1)
    assert two.wake_ups == 0
    go.set()
    await eventually(lambda: two.ids == ["1"])
    assert two.wake_ups == 0


async def test_wake_up_that_waits_is_not_sent_once_its_stage_has_an_event_or_is_paused(rig: Rig) -> None:
    _, served, paused, last = await line(rig, "one", "served", "paused", "last")
    waker = waker_of(rig, wakeDelay="PT0.05S")
    waker.wake_after(["one"])
    waker.of_stage("served").event_sent()
    waker.paused = frozenset({"paused"})
    await eventually(lambda: last.wake_ups)
    assert woken(served, paused, last) == [0, 0, 1]
    await waker.close()


async def test_event_that_is_sent_during_the_stop_wakes_and_shows_nothing(rig: Rig) -> None:
    await line(rig, "one", "two")
    waker = waker_of(rig)
    await waker.close()
    tasks = asyncio.all_tasks()
    waker.of_stage("one").event_sent()
    assert asyncio.all_tasks() == tasks, "no task that nobody would end"


async def test_task_of_a_wake_up_that_has_ended_is_not_kept(rig: Rig) -> None:
    await line(rig, "one", "two")
    waker = waker_of(rig)
    before = asyncio.all_tasks()
    waker.wake_after(["one"])
    tasks = WeakSet(asyncio.all_tasks() - before)
    assert tasks
    waker.end_start(["one"])
    await eventually(lambda: gc.collect() >= 0 and not tasks)
    await waker.close()


def waker_of(rig: Rig, **delivery: Any) -> wake.Waker:
    return wake.Waker(rig.settings(delivery).routes, WakeUps(rig.redis), BridgeMetrics().wakeups)


async def test_stage_that_has_answered_its_wake_up_is_not_shown_as_starting_and_one_that_answered_500_is(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake, "WITHIN", 10 * WITHIN)  # only an answer ends it
    one = await rig.stage("one", "in")
    warm, broken = await rig.stage("warm", "left"), await rig.stage("broken", "right")
    broken.wake_script = lambda: status(500)
    goes = [hold(stage) for stage in rig.stages]
    routes = [one.route(emits=["left", "right"], wakeAfter=LONG), *rig.routes([warm, broken], wakeAfter=LONG)]
    await rig.bridge(routes=routes)
    wake_ups = WakeUps(rig.redis)

    async def starting(*stages: str) -> bool:
        return await wake_ups.starting(["one", "warm", "broken"]) == set(stages)

    await rig.publish("in", "1")
    await eventually(lambda: starting("one"))
    await eventually(lambda: woken(one, warm, broken) == [0, 1, 1])
    for stage in (warm, broken):
        await rig.publish(stage.consumes, stage.name)
        await eventually(lambda stage=stage: stage.on_wire)
    await eventually(lambda: wake_ups.starting(["broken"]))
    assert await starting("one", "broken"), "the event of the other one was sent before"
    for go in goes:
        go.set()
    await eventually(starting)
