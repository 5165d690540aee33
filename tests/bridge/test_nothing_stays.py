"""Promise 5: every key is counted in the backlog, or ends within an hour of the last activity."""

import asyncio

import pytest

from milepost.journal import keys
from tests.bridge.rig import Rig, Stage, status
from tests.bridge.test_doors import STRUCTURED, door, structured
from tests.servers import eventually

HOUR = 3600
GONE = -2
"""TTL of a key that does not exist any more, as the count of the backlog after a tenth of a second."""

CONSTANT = (keys.JOURNALS, keys.STAGES, keys.DEAD, keys.STATS)
"""Keys that are as many and as large as stages and bridges are."""

IDS = [f"{number:03d}" for number in range(40)]


async def assert_bounded(rig: Rig) -> None:
    """Every key ends within an hour, is counted in the backlog, or is one that exists once for a stage or for all."""
    for name in sorted(key.decode() for key in await rig.redis.keys("*")):
        left = await rig.redis.ttl(name)
        if 0 <= left <= HOUR or left == GONE or name in CONSTANT:
            continue
        if name.startswith((keys.journal(""), keys.RETRIES)):
            assert await rig.redis.xinfo_groups(name), f"{name} has no group and does not end"
            await eventually(lambda name=name: counted_or_empty(rig, name), what=f"{name} counted, or trimmed")
            continue
        assert name.startswith((keys.parked(""), keys.dead(""))), f"{name} is not counted and does not end: TTL {left}"
    assert await rig.journal.backlog() >= await waiting(rig)


async def counted_or_empty(rig: Rig, stream: str) -> bool:
    """Finished entries go with the next trim, within a second or two."""
    return await rig.redis.xlen(stream) == 0 or await rig.journal.backlog() > 0


async def waiting(rig: Rig) -> int:
    """How many events are parked or dead."""
    parked = [await rig.redis.zcard(key) for key in await rig.redis.keys(keys.parked("*"))]
    dead = [await rig.redis.xlen(key) for key in await rig.redis.keys(keys.dead("*"))]
    return sum(parked) + sum(dead)


async def drained(rig: Rig, *stages: Stage) -> None:
    for stage in stages:
        await eventually(lambda stage=stage: rig.settled(stage), what=stage.name)


async def trimmed(rig: Rig, channel: str) -> bool:
    """Whether a journal that several groups read is empty: they finish an entry one after the other."""
    return not await rig.journaled(channel)


async def statuses(rig: Rig) -> int:
    return len(await rig.redis.keys(keys.status("*")))


async def test_line_leaves_nothing(rig: Rig) -> None:
    first = await rig.stage("first", "in", "middle")
    second = await rig.stage("second", "middle", "end")
    await rig.bridge()
    await rig.publish_all("in", IDS)
    await drained(rig, first, second)
    assert await statuses(rig) == len(IDS)
    assert await rig.journal.backlog() == 0
    await assert_bounded(rig)
    assert 0 < await rig.redis.ttl(keys.journal("end")) <= HOUR


async def test_last_stage_that_emits_nothing_leaves_nothing(rig: Rig) -> None:
    sink = await rig.stage("sink", "in")
    await rig.bridge()
    await rig.publish_all("in", IDS)
    await drained(rig, sink)
    assert await statuses(rig) == len(IDS)
    await assert_bounded(rig)


@pytest.mark.parametrize("slower", ["ends", "goes on"])
async def test_two_branches_that_end_at_different_times_leave_nothing(rig: Rig, slower: str) -> None:
    go = asyncio.Event()
    ends = await rig.stage("ends", "in")
    goes_on = await rig.stage("goes-on", "in", "out")
    last = await rig.stage("last", "out", "end")
    slow = ends if slower == "ends" else goes_on

    slow.answer_after(go)
    await rig.bridge()
    await rig.publish_all("in", IDS)
    await eventually(lambda: slow.on_wire > 0)
    await assert_bounded(rig)
    go.set()
    await drained(rig, ends, goes_on, last)
    await eventually(lambda: trimmed(rig, "in"))
    assert await statuses(rig) == len(IDS)
    await assert_bounded(rig)


async def test_status_outlives_a_delayed_branch_and_ends_an_hour_after_it(rig: Rig) -> None:
    quick = await rig.stage("quick", "in", "done")
    slow = await rig.stage("slow", "in", "later")
    await rig.bridge(routes=[quick.route(), slow.route(delay="PT2H")])
    await rig.publish("in", "x")
    await eventually(lambda: quick.count["x"] == 1)
    await eventually(lambda: rig.parked("slow"))
    await drained_of(rig, "done")
    assert 2 * HOUR < await rig.redis.ttl(keys.status("x")) <= 3 * HOUR
    await rig.redis.expire(keys.status("x"), HOUR)  # two hours later
    await rig.overdue("slow")
    await eventually(lambda: slow.count["x"] == 1)
    await drained(rig, quick, slow)
    assert [*await rig.journal.status("x")] == ["in", "done", "later"]
    await assert_bounded(rig)


async def drained_of(rig: Rig, channel: str) -> None:
    await eventually(lambda: rig.journaled(channel), what=f"an event on {channel}")


async def test_status_outlives_a_retry_that_is_far_off(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: status(500))
    await rig.bridge(routes=[stage.route(backoffDelay="PT50S", backoffPolicy="linear")])
    await rig.publish("in", "x")
    await eventually(lambda: rig.parked("stage"))
    due = await rig.due("stage") - await rig.now()
    assert due + HOUR - 65 <= await rig.redis.ttl(keys.status("x")) <= due + HOUR + 1


async def test_event_that_waits_unread_keeps_the_status_of_its_submission(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    await rig.publish("in", "waits")
    (entry,) = await rig.redis.xrange(keys.journal("in"))
    old = int(entry[0].split(b"-")[0]) - 2 * HOUR * 1000
    await rig.redis.delete(keys.journal("in"))
    await rig.redis.xadd(keys.journal("in"), entry[1], f"{old}-0")  # published two hours ago
    await rig.redis.expire(keys.status("waits"), 60)
    stage.script = lambda _: status(503, retry_after="60")
    bridge = await rig.bridge(routes=[stage.route()], window=1)
    await bridge.maintenance.keep_statuses("in")
    assert await rig.redis.ttl(keys.status("waits")) > 60
    await assert_bounded_status(rig, "waits")


async def assert_bounded_status(rig: Rig, of: str) -> None:
    assert await rig.redis.ttl(keys.status(of)) <= HOUR + 60


async def test_stage_at_someone_elses_url_leaves_nothing(rig: Rig) -> None:
    outside = await rig.stage("outside", "in", None, lambda _: status(200, b"thanks", content_type="text/plain"))
    await rig.bridge()
    await rig.publish_all("in", IDS)
    await drained(rig, outside)
    await assert_bounded(rig)


async def test_dead_letters_are_counted_and_their_statuses_end(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out", lambda _: status(422))
    await rig.bridge()
    await rig.publish_all("in", IDS)
    await drained(rig, stage)
    assert await rig.journal.backlog() == len(IDS)
    await assert_bounded(rig)
    letters = await rig.dead("stage")
    stage.script = stage.succeed
    await rig.journal.admin.replay("stage", [letter.entry for letter in letters])
    await drained(rig, stage)
    assert await rig.journal.backlog() == 0
    await assert_bounded(rig)


async def test_broker_mode_leaves_nothing(rig: Rig) -> None:
    sink = await rig.stage("sink", "in", "out")
    sink.script = lambda _: status(202)
    bridge = await rig.bridge(delivery="broker", k_sink=sink.url)
    await rig.publish_all("in", IDS)
    await eventually(lambda: len(sink.count) == len(IDS))
    async with door(bridge) as client:
        for of in IDS:
            reply = await client.post("/replies", content=structured(of, "out"), headers=STRUCTURED)
            assert reply.status_code == 202

    async def settled() -> bool:
        return await rig.journal.backlog() == 0

    await eventually(settled)
    assert await statuses(rig) == len(IDS)
    await assert_bounded(rig)


async def test_plain_messages_leave_nothing(rig: Rig) -> None:
    stage = await rig.stage("stage", "in")
    await rig.bridge()
    for of in IDS:
        await rig.redis.publish("in", f'{{"number": "{of}"}}')
    await eventually(lambda: len(stage.received) == len(IDS))
    await drained(rig, stage)
    await assert_bounded(rig)
