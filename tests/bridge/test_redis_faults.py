"""Redis dies, hangs, is cut off or full; the bridge recovers by itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.exceptions import OutOfMemoryError

from milepost.bridge import bridge as bridge_module
from milepost.bridge import worker
from milepost.bridge.failure_log import FailureLog
from milepost.bridge.ingest import adopter, subscriber
from milepost.errors import JournalUnavailable
from milepost.journal import keys
from tests.bridge.rig import Rig, status, value
from tests.proxy import Proxy
from tests.servers import Valkey, eventually


async def publish_through(rig: Rig, channel: str, ids: list[str]) -> None:
    """Publish each until Redis has taken it, as the gateway's callers do."""
    for id in ids:

        async def taken(id: str = id) -> bool:
            try:
                await rig.publish(channel, id)
            except JournalUnavailable:
                return False
            return True

        await eventually(taken)


async def test_everything_is_delivered_though_redis_is_killed_and_started_again(own: Rig, valkey: Valkey) -> None:
    stage = await own.stage("stage", "in", "out")
    watcher = await own.stage("watcher", "out")
    bridge = await own.bridge()
    ids = [f"{n:03}" for n in range(200)]
    publishing = asyncio.create_task(publish_through(own, "in", ids))
    for share in (40, 120):
        await eventually(lambda: len(watcher.count) >= share)
        valkey.kill()
        await asyncio.to_thread(valkey.start)
    await publishing
    await eventually(lambda: set(watcher.count) == set(ids))
    await eventually(lambda: own.settled(stage))
    await eventually(lambda: own.settled(watcher))
    assert len(await own.journal.status("000")) == 2
    await eventually(lambda: value(bridge, "leading") == 1)
    await own.redis.publish("in", '"plain"')
    await eventually(lambda: any(event.data == "plain" for event in stage.received))


async def test_deliveries_that_end_while_redis_is_away_are_settled_once_it_is_back(own: Rig, valkey: Valkey) -> None:
    stage = await own.stage("stage", "in", "out")
    go = asyncio.Event()
    stage.answer_after(go)
    await own.bridge(claim="PT60S")
    await own.publish_all("in", ["1", "2", "3"])
    await eventually(lambda: stage.on_wire == 3)
    valkey.kill()
    go.set()
    await eventually(lambda: stage.on_wire == 0)
    await asyncio.to_thread(valkey.start)
    await eventually(lambda: own.settled(stage))
    assert stage.count == {"1": 1, "2": 1, "3": 1}
    assert [list(await own.journal.status(id)) for id in "123"] == [["in", "out"]] * 3


async def test_everything_that_fails_while_redis_is_away_is_logged_in_each_outage(
    own: Rig, valkey: Valkey, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for period in ("BEAT", "TRIM", "TRIM_ALL", "LOOK", "KEEP_STATUSES", "UNBLOCK_LOST", "STATS_EVERY", "PAUSE_LOOK"):
        monkeypatch.setattr(bridge_module, period, 0.05)
    init, succeeded = FailureLog.__init__, FailureLog.succeeded
    outcomes: dict[FailureLog, object] = {}
    over: set[object] = set()

    def made(failures: FailureLog, **fields: object) -> None:
        init(failures, **fields)
        outcomes[failures] = fields["outcome"]

    def noted(failures: FailureLog) -> None:
        succeeded(failures)
        over.add(outcomes[failures])

    monkeypatch.setattr(FailureLog, "__init__", made)
    monkeypatch.setattr(FailureLog, "succeeded", noted)
    every = {
        f"no-{one}" for one in ("beat", "pauses", "stats", "depths", "statuses", "unblocking", "renewal", "reaping")
    }
    steps = {"unread", "unsettled", "not-retried", "untrimmed"} | every
    stage = await own.stage("stage", "in", "out")
    bridge = await own.bridge(claim="PT0.5S")
    for id in ("1", "2"):
        go = asyncio.Event()
        stage.answer_after(go)
        await own.publish("in", id)
        await eventually(lambda: stage.on_wire)
        valkey.kill()
        go.set()
        for outcome in steps | {"unsubscribed"}:
            await eventually(lambda outcome=outcome: f"outcome={outcome} " in caplog.text, what=outcome)  # type: ignore[misc]
        assert "stage=stage channel=in outcome=no-renewal " in caplog.text
        over.clear()
        await asyncio.to_thread(valkey.start)
        await eventually(lambda: over >= steps)
        await eventually(lambda: value(bridge, "leading") == 1)
        caplog.clear()
    await eventually(lambda: own.settled(stage))


async def test_paused_redis_delays_events_and_loses_none(own: Rig) -> None:
    stage = await own.stage("stage", "in", "out")
    await own.bridge()
    await own.publish_all("in", [f"{n}" for n in range(20)])
    await own.redis.execute_command("CLIENT", "PAUSE", "1000", "ALL")
    await own.publish_all("in", [f"{n}" for n in range(20, 40)])
    await eventually(lambda: len(stage.count) == 40)
    await eventually(lambda: own.settled(stage))


async def test_stages_table_is_written_with_the_first_group_after_redis_was_emptied(
    own: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the next beat, which does not come here: until then a channel without a stage keeps everything."""
    monkeypatch.setattr(bridge_module, "BEAT", 1000.0)
    stage = await own.stage("stage", "in", "out")
    await own.bridge()
    await own.redis.flushall()
    await eventually(lambda: own.redis.hexists(keys.STAGES, "stage"))
    await own.publish("in", "1")
    await eventually(lambda: stage.count["1"])
    await eventually(lambda: own.settled(stage))
    assert await own.redis.pttl(keys.journal("out")) > 0, "the table says that no stage consumes it"


async def test_bridge_recovers_from_a_frozen_redis(
    own: Rig, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subscriber, "QUIET", 0.5)
    stage = await own.stage("stage", "in", "out")
    await own.bridge()
    await own.publish("in", "1")
    await eventually(lambda: stage.count["1"])
    valkey.freeze()
    late = asyncio.create_task(publish_through(own, "in", ["2"]))
    await eventually(lambda: "outcome=unsubscribed" in caplog.text)
    valkey.thaw()
    await late
    await eventually(lambda: stage.count["2"])
    await eventually(lambda: own.settled(stage))


async def test_bridge_recovers_from_half_open_connections(
    own: Rig, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shorter times make the test quick; the silence is detected in the same way."""
    monkeypatch.setattr(worker, "BLOCK", 0.5)
    monkeypatch.setattr(bridge_module, "BLOCK", 0.5)
    monkeypatch.setattr(bridge_module, "ANSWER_WITHIN", 0.5)
    monkeypatch.setattr(subscriber, "QUIET", 0.5)
    stage = await own.stage("stage", "in", "out")
    async with Proxy(valkey.url) as proxy:
        bridge = await own.bridge(redis_url=proxy.url)
        await own.publish("in", "1")
        await eventually(lambda: own.settled(stage))
        proxy.stall()
        await own.publish_all("in", ["2", "3"])
        await eventually(lambda: stage.count["2"] and stage.count["3"])
        await eventually(lambda: own.settled(stage))
        await eventually(lambda: value(bridge, "leading") == 1)
        await own.redis.publish("in", '"plain"')
        await eventually(lambda: any(event.data == "plain" for event in stage.received))
        await own.stop(bridge)


@pytest.fixture
async def full(own: Rig) -> AsyncIterator[Rig]:
    """The same, with a way to fill it: `await fill(rig)`, `await free(rig)`."""
    yield own
    await free(own)


async def fill(rig: Rig) -> None:
    await rig.redis.config_set("maxmemory-policy", "noeviction")
    await rig.redis.config_set("maxmemory", "1mb")
    with pytest.raises(OutOfMemoryError):
        await rig.redis.set("more", "x")


async def free(rig: Rig) -> None:
    await rig.redis.config_set("maxmemory", "0")


async def test_backlog_drains_while_redis_is_full(full: Rig) -> None:
    stage = await full.stage("stage", "in", "out")
    watcher = await full.stage("watcher", "out")
    stage.script = lambda _: status(503)
    ids = [f"{n}" for n in range(30)]
    bridge = await full.bridge()
    await full.publish_all("in", ids)
    await eventually(lambda: bridge.workers[0].limit.down)
    await fill(full)
    with pytest.raises(JournalUnavailable, match="full"):
        await full.publish("in", "refused")
    stage.script = stage.succeed
    await eventually(lambda: full.settled(stage))
    await eventually(lambda: full.settled(watcher))
    assert set(watcher.count) == set(ids)

    async def trimmed() -> bool:
        return not await full.journaled("in") and not await full.journaled("out")

    await eventually(trimmed)


async def test_bridge_starts_and_serves_on_a_full_redis(full: Rig) -> None:
    stage = await full.stage("stage", "in", "out")
    await full.publish_all("in", ["1", "2"])
    await fill(full)
    await full.bridge()
    await eventually(lambda: full.settled(stage))
    assert stage.count == {"1": 1, "2": 1}


async def test_adoption_waits_while_redis_is_full_and_goes_on_when_it_is_free(
    full: Rig, caplog: pytest.LogCaptureFixture, ten_beats: Callable[[], Awaitable[None]]
) -> None:
    stage = await full.stage("stage", "in", "out")
    bridge = await full.bridge()
    await eventually(lambda: value(bridge, "leading") == 1)
    await fill(full)
    for number in range(50):
        await full.redis.publish("in", str(number))
    await full.redis.pexpire(keys.LEASE, 8_000)

    async def renewed() -> bool:
        return bool(await full.redis.pttl(keys.LEASE) > 8_000)

    await eventually(renewed, what="the lease renewed though Redis is full")
    assert "outcome=unadopted messages=" in caplog.text

    async def scripts() -> int:
        return int((await full.redis.info("commandstats"))["cmdstat_evalsha"]["calls"])

    before = await scripts()
    await ten_beats()
    assert await scripts() - before < 60, "it tries a few times a second"
    assert not stage.received
    await free(full)
    await eventually(lambda: len(stage.received) == 50)
    assert [event.data for event in sorted(stage.received, key=lambda event: event.data)] == list(range(50))


async def test_messages_dropped_for_want_of_room_are_counted(full: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopter, "MOST_BUFFERED", 10)
    monkeypatch.setattr(adopter, "MOST_ADOPTED", 1)
    stage = await full.stage("stage", "in", "out")
    bridge = await full.bridge()
    await eventually(lambda: value(bridge, "leading") == 1)
    await fill(full)
    for number in range(50):
        await full.redis.publish("in", str(number))
    await eventually(lambda: value(bridge, "adoption_overflow_total") >= 39)
    await free(full)
    await eventually(lambda: len(stage.received) + value(bridge, "adoption_overflow_total") == 50)
