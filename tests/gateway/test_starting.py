"""The form asks for wake-ups, and a submission's status says which stage is starting."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import httpx
import pytest
from redis.asyncio import Redis

from gateway.wake import PageWakeUps
from milepost.bridge.bridge import PAGE_LOOK
from milepost.graph import WiredStage
from milepost.journal import WakeUps, keys
from tests.gateway.samples import LONDON, STAGES, tell_stages
from tests.servers import ANSWER_WITHIN, HOST, Module, eventually, free_port


@pytest.fixture(scope="module")
def waking(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    stages = [{"name": name, "consumes": one, "emits": other} for name, (one, other) in STAGES.items()]
    stages[1] |= {"wake": "page", "wakeAfter": 20}
    env = {"REDIS_URL": redis_url, "STAGES": json.dumps(stages)}
    with Module(tmp_path_factory.mktemp("waking"), "gateway", env=env) as process:
        yield process


@pytest.fixture
async def client(waking: Module, redis: Redis, redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    tell_stages(redis_url)
    async with httpx.AsyncClient(base_url=waking.url, timeout=ANSWER_WITHIN) as client:
        yield client


async def test_opened_form_asks_for_wake_ups(client: httpx.AsyncClient, redis: Redis) -> None:
    assert (await client.get("/")).status_code == 200
    await eventually(lambda: redis.get(keys.WAKE))
    assert await redis.get(keys.WAKE) == b"raw_input"
    assert 0 < await redis.pttl(keys.WAKE) <= 20_000


async def test_only_an_opened_form_asks_and_several_gateways_ask_once(redis: Redis) -> None:
    stage = WiredStage(name="one", consumes="raw_input", wake="page")
    gateways = [PageWakeUps([stage], WakeUps(redis)) for _ in range(2)]
    before = asyncio.all_tasks()
    gateways[0].form_asked("HEAD")
    PageWakeUps([WiredStage(name="one", consumes="raw_input")], WakeUps(redis)).form_asked("GET")
    assert asyncio.all_tasks() == before
    gateways[0].form_asked("GET")
    await asyncio.wait(asyncio.all_tasks() - before)
    assert await redis.exists(keys.WAKE)
    await redis.set(keys.WAKE, b"the first", keepttl=True)
    gateways[1].form_asked("GET")
    await asyncio.wait(asyncio.all_tasks() - before)
    gateways[0].form_asked("GET")
    assert asyncio.all_tasks() == before
    assert await redis.get(keys.WAKE) == b"the first"


async def test_request_stays_until_each_bridge_has_seen_it(redis: Redis) -> None:
    class Recorded(WakeUps):
        every = 0.0

        async def ask(self, channel: str, *, every: float) -> None:
            self.every = every
            await super().ask(channel, every=every)

    stage = WiredStage(name="one", consumes="raw_input", wake="page", wake_after=timedelta(milliseconds=1))
    before = asyncio.all_tasks()
    PageWakeUps([stage], recorded := Recorded(redis)).form_asked("GET")
    await asyncio.wait(asyncio.all_tasks() - before)
    assert recorded.every >= 2 * PAGE_LOOK


async def test_form_asks_again_after_redis_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.wake.SEEN_WITHIN", 0.0)
    stage = WiredStage(name="one", consumes="raw_input", wake="page", wake_after=timedelta(hours=1))
    before = asyncio.all_tasks()
    async with Redis.from_url(f"redis://{HOST}:{free_port()}") as away:
        wake_ups = PageWakeUps([stage], WakeUps(away))
        for _ in range(2):
            wake_ups.form_asked("GET")
            asking = asyncio.all_tasks() - before
            assert asking
            await asyncio.wait(asking)


async def test_status_and_stream_say_which_stage_is_starting(client: httpx.AsyncClient, redis: Redis) -> None:
    place = (await client.post("/distance", json=LONDON)).json()["status"]
    wake_ups = WakeUps(redis)
    assert (await client.get(place)).json()["starting"] == []
    async with client.stream("GET", f"{place}/events") as stream:
        lines = stream.aiter_lines()
        await wake_ups.show_starting("distance", within=60)
        await wake_ups.show_starting("email", within=60)
        await _told(lines, ["calculated_distance", "email:sent"])
        assert (await client.get(place)).json()["starting"] == ["calculated_distance", "email:sent"]
        page = (await client.get(place, headers={"accept": "text/html"})).text
        assert page.count('<span class="took">starting</span>') == 1  # only of the next
        await wake_ups.show_started("distance")
        await _told(lines, ["email:sent"])


async def _told(lines: AsyncIterator[str], channels: list[str]) -> None:
    """Wait for an event named `starting` with these channels."""
    async with asyncio.timeout(ANSWER_WITHIN):
        async for line in lines:
            if line == "event: starting":
                data = await anext(lines)
                if json.loads(data.removeprefix("data: ")) == {"channels": channels}:
                    return
    raise AssertionError("the stream ended")
