"""Broker mode from end to end, with the Triggers and the environment that the chart renders."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis.asyncio as redis_asyncio

from milepost.events.event import Event
from milepost.journal import Journal
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.chart.broker import Broker
from tests.chart.rendering import SECRET, container, environment, merged, only, render
from tests.servers import STAGES, Function, Module, Mongo, eventually, free_port, wait_for

QUICK = {"broker": {"delivery": {"retry": 2, "backoffDelay": "PT0.05S"}}}
OBJECTS = render(merged(SECRET, {"delivery": "broker"}, QUICK))


class Pipeline:
    """A bridge in broker mode, the three functions, and the Broker between them."""

    def __init__(self, bridge: Module, broker: Broker, journal: Journal, functions: dict[str, Function]) -> None:
        self.bridge = bridge
        self.broker = broker
        self.journal = journal
        self.functions = functions

    async def submit(self, **changes: Any) -> str:
        event_id = str(uuid4())
        submission = {"email": address(event_id), "lat": 51.5074, "long": -0.1278, **changes}
        event = Event(id=event_id, source="/test", type="raw_input", data=submission)
        assert await self.journal.publish(event)
        return event_id

    async def reached(self, event_id: str, channel: str) -> None:
        async def noted() -> bool:
            return channel in await self.journal.status(event_id)

        await eventually(noted, what=f"{channel}\n{self.bridge.log}")


@pytest.fixture(scope="module")
def functions(mongo_server: Mongo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Function]]:
    env = {"MONGO_URL": f"{mongo_server.url}/broker-{uuid4().hex}"}
    folder = tmp_path_factory.mktemp("functions")
    with ExitStack() as stack:
        found = {name: Function(folder, name, env=env) for name in STAGES}
        for function in found.values():
            stack.enter_context(function.launch())
        for function in found.values():
            wait_for(function.is_ready, what=function.name)
        yield found


@pytest.fixture
async def pipeline(
    redis: redis_asyncio.Redis, redis_url: str, functions: dict[str, Function], tmp_path: Path
) -> AsyncIterator[Pipeline]:
    port = free_port()
    services = {f"milepost-{name}": function.url for name, function in functions.items()}
    services["milepost-bridge"] = f"http://127.0.0.1:{port}"
    env = environment(container(only(OBJECTS, "Deployment", "milepost-bridge")), {"redis-password": "hush"})
    settings = JournalSettings(redis_url=redis_url)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Broker(OBJECTS, services))
        bound = {**env, "REDIS_URL": redis_url, "K_SINK": broker.url}
        bridge = stack.enter_context(Module(tmp_path, "milepost.bridge", port=port, env=bound).start())
        journal = Journal(connect(settings), settings)
        stack.push_async_callback(journal.close)
        yield Pipeline(bridge, broker, journal, functions)


def address(event_id: str) -> str:
    return f"{event_id}@example.org"


async def test_a_submission_goes_all_the_way_and_shows_on_every_channel(pipeline: Pipeline) -> None:
    event_id = await pipeline.submit()
    await pipeline.reached(event_id, "email:sent")
    notes = await pipeline.journal.status(event_id)
    assert set(notes) >= {"raw_input", "calculated_distance", "user:email", "email:sent"}
    assert notes["calculated_distance"].data["distance_from_velocity"] == 2216.0742916592476
    assert pipeline.functions["email"].log.count(f"Email sent to: {address(event_id)};") == 1
    types = [kind for kind, url in pipeline.broker.deliveries if url.endswith("/replies")]
    assert [types.count(channel) for channel in ("calculated_distance", "user:email", "email:sent")] == [1, 1, 1]
    await eventually(lambda: drained(pipeline), what="the hop is acknowledged")


async def test_refused_event_becomes_a_dead_letter_of_its_stage(pipeline: Pipeline) -> None:
    event_id = await pipeline.submit(lat=91)
    await pipeline.reached(event_id, "dead:distance")
    (letter,) = await pipeline.journal.admin.dead_letters("distance")
    assert (letter.id, letter.status, letter.channel) == (event_id, 422, "raw_input")
    assert letter.reason.startswith("the Broker gave up: HTTP 422: lat: ")
    tries = [url for kind, url in pipeline.broker.deliveries if kind == "raw_input"]
    assert tries.count(pipeline.functions["distance"].url + "/") == 1, "422 is not retried"
    assert sum(url.endswith("/dead/distance") for url in tries) == 1


async def test_event_that_outlasts_knatives_retries_is_delivered_when_it_is_replayed(pipeline: Pipeline) -> None:
    pipeline.functions["store"].kill()
    event_id = await pipeline.submit()
    await pipeline.reached(event_id, "dead:store")
    (letter,) = await pipeline.journal.admin.dead_letters("store")
    assert (letter.id, letter.channel) == (event_id, "calculated_distance")
    tries = [url for kind, url in pipeline.broker.deliveries if url == pipeline.functions["store"].url + "/"]
    assert len(tries) == 3
    pipeline.functions["store"].start()
    assert await pipeline.journal.admin.replay("store", [letter.entry]) == 1
    await pipeline.reached(event_id, "email:sent")
    assert pipeline.functions["email"].log.count(f"Email sent to: {address(event_id)};") == 1


async def drained(pipeline: Pipeline) -> bool:
    return all(row.journaled == row.parked == 0 for row in await pipeline.journal.admin.stages())
