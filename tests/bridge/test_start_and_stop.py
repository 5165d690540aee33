"""The start and the stop of a bridge: waiting for Redis, wrong settings, SIGTERM."""

import asyncio
import gc
import signal
import sys
from pathlib import Path

import pytest
import redis.asyncio as redis_asyncio

from milepost.bridge import bridge as bridge_module
from milepost.bridge import worker as worker_module
from milepost.bridge.app import GC_THRESHOLD, create_app
from milepost.bridge.bridge import Bridge
from milepost.bridge.settings import BridgeSettings
from milepost.errors import ConfigurationError
from milepost.journal import failover as failover_module
from milepost.journal import keys
from milepost.server.protocol import freeze_heap
from tests.bridge.rig import Answer, Delivery, Rig, ended, probed, ready
from tests.journal.events import unserved
from tests.proxy import Proxy
from tests.servers import WITHIN, Module, Valkey, eventually, free_port


async def test_heap_is_frozen_when_the_bridge_starts(rig: Rig) -> None:
    await rig.stage("stage", "in")
    app = create_app(bridge_module.Bridge(rig.settings()), failed=lambda: None)
    threshold = gc.get_threshold()
    gc.unfreeze()
    freeze_heap.cache_clear()
    try:
        async with app.router.lifespan_context(app):
            assert gc.get_freeze_count() > 0
            assert gc.get_threshold()[0] == GC_THRESHOLD
    finally:
        gc.freeze()  # as in conftest.py
        gc.set_threshold(*threshold)


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("REDIS_URL", "redis://:hunter2secret@127.0.0.1:6379/3", "database 0"),
        ("REDIS_URL", "http://:hunter2secret@127.0.0.1", "must look like redis://"),
        ("ROUTES", "not JSON", ""),
        ("ROUTES", '{"name":"a"}', ""),
        ("ROUTES", '[{"name":"a","consumes":"in","url":"http://x:99999"}]', "url"),
        ("ROUTES", '[{"name":"a","consumes":"in","url":"http://x/#here"}]', "url"),
        ("ROUTES", '[{"name":"a","consumes":"in"}]', "a: url is missing"),
        ("ROUTES", "[]", "names no stage"),
        ("ROUTES", '[{"name":"a","consumes":"in","url":"http://x","retri":3}]', "retri"),
        ("ROUTES", '[{"name":"broker","consumes":"in","url":"http://x"}]', "broker"),
        ("CLAIM", "soon", ""),
        ("CLAIM", "PT0S", ""),
        ("PORT", "eighty", ""),
        ("DELIVERY", "pigeon", ""),
        ("K_SINK", "ftp://x", "http://"),
        ("BACKLOG_LIMIT", "0", ""),
    ],
)
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, setting: str, words: str) -> None:
    monkeypatch.setenv(name, setting)
    with pytest.raises(ConfigurationError) as refused:
        BridgeSettings.read()
    assert name in str(refused.value)
    assert words.lower() in str(refused.value).lower()
    assert "hunter2secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("REDIS_URL", "http://:hunter2secret@127.0.0.1"),
        ("ROUTES", "not JSON"),
        ("LOG_LEVEL", "LOUD"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
    ],
)
async def test_a_bad_setting_ends_it_with_2_and_is_named(tmp_path: Path, name: str, setting: str) -> None:
    routes = '[{"name":"stage","consumes":"in","url":"http://127.0.0.1:1"}]'
    env = {"REDIS_URL": "redis://127.0.0.1:1/0", "ROUTES": routes, name: setting}
    process = Module(tmp_path, "milepost.bridge", env=env).launch()
    assert await ended(process) == 2, process.log
    assert name in process.log
    assert "Traceback" not in process.log
    assert "hunter2secret" not in process.log


async def test_it_waits_for_a_redis_that_is_away_says_so_then_serves(rig: Rig, tmp_path: Path) -> None:
    stage = await rig.stage("stage", "in", "out")
    with Valkey(tmp_path) as valkey:
        valkey.kill()
        process = rig.process(REDIS_URL=valkey.url).launch()
        await eventually(lambda: "outcome=waiting" in process.log)
        assert await probed(process, "/healthz") == 200
        assert await probed(process, "/readyz") == 503
        await asyncio.to_thread(valkey.start)
        await ready(process)
        async with redis_asyncio.from_url(valkey.url) as client:
            await client.publish("in", "1")
        await eventually(lambda: len(stage.received) == 1)
        assert await stop(process) == 0


async def test_it_stops_at_once_while_it_waits_for_redis(rig: Rig) -> None:
    await rig.stage("stage", "in", "out")
    process = rig.process(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0").launch()
    await eventually(lambda: "outcome=waiting" in process.log)
    assert await stop(process) == 0


async def stop(process: Module, within: float = WITHIN, number: int = signal.SIGTERM) -> int:
    assert process.process
    process.process.send_signal(number)
    return await ended(process, within)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_clean_stop_exits_0_without_a_traceback(rig: Rig, number: int) -> None:
    await rig.stage("stage", "in", "out")
    process = await rig.running()
    assert await stop(process, number=number) == 0
    assert "Traceback" not in process.log
    assert not await rig.redis.get(keys.LEASE)


STOPPED_EARLY = """
import signal
import uvicorn
from milepost.bridge.__main__ import main

def run(self):
    signal.raise_signal(signal.SIGTERM)
    raise RuntimeError("it serves in spite of SIGTERM")

uvicorn.Server.run = run
raise SystemExit(main())
"""


async def test_sigterm_before_the_server_runs_ends_the_process_with_0(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.stage("stage", "in")
    process = rig.process()
    monkeypatch.setattr(process, "argv", lambda: [sys.executable, "-c", STOPPED_EARLY])
    assert await ended(process.launch()) == 0, process.log


async def test_sigterm_lets_requests_under_way_finish(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    go = asyncio.Event()
    stage.answer_after(go)
    process = await rig.running(GRACE="PT30S", CLAIM="PT30S")
    await rig.publish_all("in", ["1", "2"])
    await eventually(lambda: stage.on_wire == 2)
    assert process.process
    process.process.send_signal(signal.SIGTERM)
    await eventually(lambda: not_led(rig), what="it gave up the lease")
    await rig.publish("in", "later")
    go.set()
    assert await ended(process) == 0
    assert stage.count["1"] == stage.count["2"] == 1
    assert list(await rig.journal.status("1")) == ["in", "out"]
    await rig.bridge()
    await eventually(lambda: rig.settled(stage))
    assert stage.count["1"] == stage.count["2"] == 1
    assert stage.count["later"] >= 1


async def not_led(rig: Rig) -> bool:
    return await rig.redis.get(keys.LEASE) is None


async def test_sigterm_hands_back_unfinished_entries_and_the_next_bridge_gets_them_at_once(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    never = asyncio.Event()
    stage.answer_after(never, first=True)
    process = await rig.running(GRACE="PT0.2S", CLAIM="PT300S")
    await rig.publish_all("in", ["1", "2", "3"])
    await eventually(lambda: stage.on_wire == 3)
    assert await stop(process) == 0
    await rig.bridge(claim="PT300S")
    await eventually(lambda: rig.settled(stage))
    assert stage.count == {"1": 2, "2": 2, "3": 2}
    never.set()


async def test_claims_are_not_renewed_once_entries_are_handed_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while another stage of the bridge takes longer to end."""
    stage = await rig.stage("stage", "in", "out")
    never = asyncio.Event()
    stage.answer_after(never, first=True)
    bridge = await rig.bridge(grace="PT0.1S", claim="PT300S")
    await rig.publish("in", "1")
    await eventually(lambda: stage.on_wire)
    (worker,) = bridge.workers
    finish = worker.finish

    async def renewed_afterwards(*, grace: float) -> None:
        await finish(grace=grace)
        await worker.renew()

    monkeypatch.setattr(worker, "finish", renewed_afterwards)
    await rig.stop(bridge)
    await rig.bridge(claim="PT300S")
    await eventually(lambda: rig.settled(stage))
    assert stage.count == {"1": 2}
    never.set()


async def test_claims_are_renewed_until_a_clean_stop_has_ended_so_that_no_request_is_sent_twice(rig: Rig) -> None:
    """GRACE is longer than CLAIM, as for functions that work for minutes."""
    stage = await rig.stage("stage", "in", "out")
    go = asyncio.Event()
    stage.answer_after(go)
    bridge = await rig.bridge(grace="PT300S", claim="PT2S")
    await rig.publish("in", "1")
    await eventually(lambda: stage.on_wire)
    stopping = asyncio.create_task(rig.stop(bridge))

    async def reads_have_ended() -> bool:
        return (await rig.redis.info("clients"))["blocked_clients"] == 0 and await not_led(rig)

    await eventually(reads_have_ended)
    await rig.bridge(claim="PT200S")  # it would take over entries that are not renewed
    (row,) = await rig.redis.xpending_range(keys.journal("in"), "stage", "-", "+", 1)
    entry, holder = row["message_id"], row["consumer"]
    await rig.redis.xclaim(keys.journal("in"), "stage", holder, 0, [entry], idle=100_000, justid=True)

    async def renewed() -> bool:
        (row,) = await rig.redis.xpending_range(keys.journal("in"), "stage", "-", "+", 1)
        return bool(row["time_since_delivered"] < 100_000)

    await eventually(renewed)
    go.set()
    await stopping
    await eventually(lambda: rig.settled(stage))
    assert stage.count == {"1": 1}


async def test_bridge_that_stops_is_known_as_alive_and_follows_a_failover_until_it_has_ended(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GRACE may be longer than the minute for which a beat counts."""
    monkeypatch.setattr(bridge_module, "BEAT", 0.02)
    monkeypatch.setattr(failover_module, "LOOK_EVERY", 0.02)
    look, looks = failover_module.FailoverWatch.look, list[failover_module.FailoverWatch]()

    async def counted(self: failover_module.FailoverWatch) -> None:
        looks.append(self)
        await look(self)

    monkeypatch.setattr(failover_module.FailoverWatch, "look", counted)
    stage = await rig.stage("stage", "in", "out")
    go = asyncio.Event()
    stage.answer_after(go)
    bridge = await rig.bridge(grace="PT300S")
    await rig.publish("in", "1")
    await eventually(lambda: stage.on_wire)
    stopping = asyncio.create_task(rig.stop(bridge))

    async def reads_have_ended() -> bool:
        return (await rig.redis.info("clients"))["blocked_clients"] == 0 and await not_led(rig)

    async def served() -> bool:
        return (await rig.journal.admin.stages())[0].served

    await eventually(reads_have_ended)
    for _ in range(2):  # more than once, because a beat that was under way may come afterwards
        await unserved(rig.redis, "stage")
        looks.clear()
        await eventually(served)
        await eventually(lambda: bridge.journal.failover in looks)
    go.set()
    await stopping
    assert stage.count == {"1": 1}


async def test_sigterm_ends_it_within_10_seconds_though_stage_and_redis_are_frozen(rig: Rig, tmp_path: Path) -> None:
    stage = await rig.stage("stage", "in", "out")
    never = asyncio.Event()

    async def hold(_: Delivery) -> Answer:
        await never.wait()
        return None

    stage.script = hold
    with Valkey(tmp_path) as valkey:
        process = await rig.running(REDIS_URL=valkey.url, GRACE="PT2S")
        async with redis_asyncio.from_url(valkey.url) as client:
            await client.publish("in", "1")
        await eventually(lambda: stage.on_wire)
        valkey.freeze()
        assert await stop(process) == 0
        valkey.thaw()


async def test_the_password_is_in_no_log(rig: Rig, tmp_path: Path) -> None:
    await rig.stage("stage", "in", "out")
    secret = "correct-horse-battery"
    with Valkey(tmp_path) as valkey:
        async with redis_asyncio.from_url(valkey.url) as client:
            await client.config_set("requirepass", secret)
        wrong = rig.process(REDIS_URL=f"redis://:not-{secret}@127.0.0.1:{valkey.port}/0").launch()
        await eventually(lambda: "outcome=waiting" in wrong.log)
        right = await rig.running(REDIS_URL=f"redis://:{secret}@127.0.0.1:{valkey.port}/0")
        valkey.kill()
        await eventually(lambda: right.log.count("reason=") > 4)
        for process in (wrong, right):
            assert await stop(process) == 0
            assert secret not in process.log


async def test_unsafe_redis_settings_are_logged(rig: Rig, tmp_path: Path) -> None:
    await rig.stage("stage", "in", "out")
    with Valkey(tmp_path, options={"appendonly": "no", "maxmemory-policy": "allkeys-lru"}) as valkey:
        process = await rig.running(REDIS_URL=valkey.url)
        assert "maxmemory-policy is allkeys-lru, not noeviction" in process.log
        assert "AOF off" in process.log
        assert await stop(process) == 0


async def test_a_redis_that_will_not_say_is_a_warning(rig: Rig, tmp_path: Path) -> None:
    await rig.stage("stage", "in", "out")
    with Valkey(tmp_path) as valkey:
        async with redis_asyncio.from_url(valkey.url) as client:
            await client.execute_command("ACL", "SETUSER", "default", "-info")
        process = await rig.running(REDIS_URL=valkey.url)
        assert "outcome=unsafe" in process.log
        assert await stop(process) == 0


async def test_many_bridges_start_and_stop_under_load_and_nothing_is_lost_or_done_twice(rig: Rig) -> None:
    stage = await rig.stage("stage", "in", "out")
    watcher = await rig.stage("watcher", "out")
    ids = [f"{n:03}" for n in range(300)]
    await rig.bridge()
    for start in range(0, 300, 50):
        bridge = await rig.bridge(grace="PT30S")
        await rig.publish_all("in", ids[start : start + 50])
        await rig.stop(bridge)
    await eventually(lambda: rig.settled(stage))
    await eventually(lambda: set(watcher.count) == set(ids))
    assert stage.count == watcher.count == dict.fromkeys(ids, 1)


async def test_redis_that_goes_away_while_a_bridge_starts_is_waited_for(
    own: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    stage = await own.stage("stage", "in", "out")
    async with Proxy(own.url) as proxy:
        proxy.lose(b"$4\r\nINFO\r\n", goes_down=True)  # the last command before it serves
        bridge = own.start(Bridge(own.settings(redis_url=proxy.url)))
        await eventually(lambda: proxy.is_down and "outcome=waiting" in caplog.text)
        proxy.is_down = False
        await eventually(lambda: bridge.ready)
        await own.publish("in", "1")
        await eventually(lambda: stage.count["1"])
        await own.stop(bridge)


async def test_bridge_that_may_make_no_group_is_ready_once_it_may(own: Rig, caplog: pytest.LogCaptureFixture) -> None:
    await own.stage("stage", "in", "out")
    await own.redis.execute_command("ACL", "SETUSER", "default", "-xgroup")  # type: ignore[no-untyped-call]
    bridge = own.start(Bridge(own.settings()))
    await eventually(lambda: "outcome=waiting reason=" in caplog.text)
    assert not bridge.ready
    await own.redis.execute_command("ACL", "SETUSER", "default", "+xgroup")  # type: ignore[no-untyped-call]
    await eventually(lambda: bridge.ready)


async def test_older_redis_than_milepost_needs_is_a_warning(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge_module, "LEAST_VERSION", (99, 0))  # no server as old as that can be installed here
    await rig.stage("stage", "in", "out")
    await rig.bridge()
    assert "Milepost needs 99.0 or newer" in caplog.text
    assert caplog.text.count("outcome=unsafe") == 1, "nothing else is wrong with this server"


async def test_fewer_replicas_than_replicas_asks_for_are_a_warning(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    await rig.stage("stage", "in", "out")
    await rig.bridge(replicas=1)
    assert "Redis has 0 replicas, REPLICAS is 1: doors answer 503" in caplog.text


@pytest.mark.parametrize(
    ("version", "too_old"),
    [("7.0.0", False), ("6.2.14", True), ("10.1", False), ("255.255.255", False), ("unstable", False), ("", False)],
)
def test_version_of_redis_that_is_no_number_is_not_too_old(version: str, too_old: bool) -> None:
    """The check only warns, so it must not end the bridge."""
    assert bridge_module.is_too_old(version) is too_old


async def test_part_that_swallows_its_cancellation_twice_has_ended_when_the_bridge_has_stopped(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Python 3.12 the `wait_for` in redis-py can swallow a cancellation."""
    await rig.stage("stage", "in")
    bridge = bridge_module.Bridge(rig.settings())
    swallowed: list[bool] = []

    async def run() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if len(swallowed) == 2:
                    raise
                swallowed.append(True)

    monkeypatch.setattr(bridge.workers[0], "run", run)
    bridge.start(failed=lambda: rig.faults.append("a bridge failed"))
    await eventually(lambda: bridge.ready)
    await bridge.stop()
    assert len(swallowed) == 2
    assert run.__qualname__ not in {task.get_coro().__qualname__ for task in asyncio.all_tasks()}


async def test_exception_while_a_bridge_serves_ends_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig.expects_logged_exceptions = True
    await rig.stage("stage", "in")
    bridge = bridge_module.Bridge(rig.settings())
    fail = asyncio.Event()

    async def run() -> None:
        await fail.wait()
        raise RuntimeError("planted")

    monkeypatch.setattr(bridge.workers[0], "run", run)
    ended: list[bool] = []
    bridge.start(failed=lambda: ended.append(bridge.ready))
    await eventually(lambda: bridge.ready)
    fail.set()
    await eventually(lambda: ended)
    assert ended == [False], "once, and it is not ready any more"
    assert "planted" in caplog.text
    await bridge.stop()
    assert ended == [False]


FAILING = """
from milepost.bridge import worker
from milepost.bridge.__main__ import main

async def run(self):
    raise RuntimeError("planted")

worker.Worker.run = run
raise SystemExit(main())
"""


async def test_process_whose_serving_fails_exits_1(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.stage("stage", "in")
    process = rig.process()
    monkeypatch.setattr(process, "argv", lambda: [sys.executable, "-c", FAILING])
    assert await ended(process.launch()) == 1
    assert "planted" in process.log


async def test_stopped_bridge_leaves_no_connection(rig: Rig) -> None:
    first, second = await rig.stage("first", "in", "out"), await rig.stage("second", "out")
    await rig.publish("in", "1")

    async def connections() -> set[str]:
        return {client["id"] for client in await rig.redis.client_list()}

    before = await connections()
    bridge = await rig.bridge()
    await eventually(lambda: second.count["1"] and second.wake_ups)
    await rig.stop(bridge)

    async def none_is_left() -> bool:
        return await connections() <= before and not first.connections + second.connections

    await eventually(none_is_left)


async def test_bridge_that_is_stopped_before_it_registered_writes_no_beat(rig: Rig) -> None:
    await rig.stage("first", "in")
    await rig.stop(rig.start(Bridge(rig.settings())))
    assert not await rig.redis.exists(keys.STAGES)


async def test_exception_in_the_stop_of_one_stage_keeps_no_other_from_handing_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig.expects_logged_exceptions = True
    await rig.stage("first", "in")
    second = await rig.stage("second", "in")
    never = asyncio.Event()
    second.answer_after(never, first=True)
    bridge = await rig.bridge(grace="PT0.1S", claim="PT300S")
    await rig.publish("in", "1")
    await eventually(lambda: second.on_wire)

    async def fail(**_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(bridge.workers[0].consumer, "hand_back", fail)
    monkeypatch.setattr(worker_module, "HAND_BACK_WITHIN", WITHIN)
    await rig.stop(bridge)
    assert "planted" in caplog.text
    await rig.bridge(claim="PT300S")
    await eventually(lambda: rig.settled(second))
    assert second.count["1"] == 2
    never.set()
