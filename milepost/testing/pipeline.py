"""Run a pipeline in the test's own process: a real Redis, the real bridge, and the stages behind HTTP.

    async with LocalPipeline(distance, store) as pipeline:
        await pipeline.publish(Submission(email="ada@example.org", lat=51.5, long=-0.1))
        event = await pipeline.published("calculated_distance")

Publish through `pipeline.redis` to act as a foreign program: the bridge adopts the message.
"""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import uvicorn
from redis.asyncio.client import PubSub
from starlette.applications import Starlette
from starlette.routing import Route

from milepost.bridge.bridge import Bridge
from milepost.bridge.settings import BridgeSettings
from milepost.errors import ConfigurationError, EventError
from milepost.events.event import Event
from milepost.events.payload import Payload
from milepost.events.wrap import wrap
from milepost.function.lifespan import leave_all
from milepost.function.stage import StageHandler
from milepost.journal import Journal
from milepost.journal.connection import connect
from milepost.server.protocol import Protocol
from milepost.testing.calling import described, event_of
from milepost.testing.servers import HOST, WITHIN, Valkey, eventually

SHORT = {"claim": "PT2S", "lease": "PT10S", "grace": "PT1S"}
"""The bridge's settings, unless a test gives others. Claim and grace are short, so that takeovers and stops are quick.
The lease is long: if a slow machine stalled the bridge for longer, plain messages would be lost.
"""


class LocalPipeline:
    """Stages, wired by their annotations.

    `redis_url`: an empty Redis of yours; else a Valkey is started, and ended with the pipeline. `delivery`: the keys of
    a stage's delivery (`retry`, `backoffDelay`, …), for every stage. `order`: of stages that are ordered, the name and
    what their row in the values has as `order`. `within`: seconds that `published` waits.
    `settings`: those of the bridge (`claim`, `window`, …). Raises ConfigurationError if the bridge refuses them.
    """

    def __init__(
        self,
        *stages: StageHandler,
        redis_url: str | None = None,
        delivery: Mapping[str, Any] | None = None,
        order: Mapping[str, str | bool] | None = None,
        within: float = WITHIN,
        **settings: Any,
    ) -> None:
        self.within = within
        self._stages = {described(stage).name: stage for stage in stages}
        self._url = redis_url
        self._delivery = delivery or {}
        self._order = order or {}
        self._settings = {**SHORT, **settings}
        self._life = AsyncExitStack()
        self._heard: list[Event] = []
        self._given: set[int] = set()
        self._news = asyncio.Condition()
        self._faults: list[str] = []

    async def __aenter__(self) -> Self:
        async with self._life as life:
            url = self._url or life.enter_context(_valkey())
            functions = await life.enter_async_context(_served(self._stages))
            routes = [{**self._delivery, **route} for route in self._routes(functions)]
            settings = BridgeSettings.read(**{"redis_url": url, "routes": routes, **self._settings})
            self.redis = connect(settings)
            self.journal = Journal(self.redis, settings)
            life.push_async_callback(self.journal.close)
            await life.enter_async_context(self._listening())
            self.bridge = Bridge(settings)
            life.push_async_callback(self.bridge.stop)
            self.bridge.start(failed=lambda: self._faults.append("the bridge failed; its log says why"))
            await eventually(lambda: self.bridge.ready, what="the bridge ready")
            self._life = life.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._life.aclose()
        assert not self._faults, self._faults

    @property
    def channels(self) -> list[str]:
        """The channels that the stages consume or emit."""
        found = [described(stage) for stage in self._stages.values()]
        return sorted({payload.channel for one in found for payload in (one.consumes, *one.emits)})

    async def publish(self, payload: Payload, *, event_id: str | None = None) -> str:
        """Journal a payload on its channel. Returns the event's id, which the events that follow from it keep."""
        event = event_of(payload.channel, payload, event_id=event_id)
        await self.journal.publish(event)
        return event.id

    async def published(self, channel: str, event_id: str | None = None) -> Event:
        """Return the next event on a channel, or the next with this id. Each event is returned once, also one that
        was published before the call.

        Raises AssertionError after `within` seconds, with the reasons of dead letters, and ConfigurationError for a
        channel of no stage.
        """
        if channel not in self.channels:
            raise ConfigurationError(f"no stage consumes or emits {channel}, only {', '.join(self.channels)}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.within), self._news:
                while (found := self._take(channel, event_id)) is None:
                    await self._news.wait()
                return found
        buried = [f"{name}: {text}" for name in self._stages for text in await self._buried(name)]
        raise AssertionError(
            f"nothing{f' of {event_id}' if event_id else ''} on {channel} within {self.within} s; "
            f"buried: {'; '.join([*self._faults, *buried]) or 'nothing'}"
        )

    def _take(self, channel: str, event_id: str | None) -> Event | None:
        for number, event in enumerate(self._heard):
            if number not in self._given and event.type == channel and event_id in {None, event.id}:
                self._given.add(number)
                return event
        return None

    async def _buried(self, stage: str) -> list[str]:
        return [letter.reason for letter in await self.journal.admin.dead_letters(stage)]

    def _routes(self, functions: str) -> Iterator[dict[str, Any]]:
        for name, stage in self._stages.items():
            found = described(stage)
            emits = [payload.channel for payload in found.emits]
            wiring = {"consumes": found.consumes.channel, "emits": emits, "split": found.split}
            wiring["order"] = self._order.get(name, False)
            yield {"name": name, **wiring, "url": f"{functions}/{name}", "wake": "off"}  # nothing is ever at zero here

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        async with self.redis.pubsub() as subscription:
            await subscription.subscribe(*self.channels)
            for _ in self.channels:
                assert await subscription.get_message(timeout=WITHIN), "Redis does not confirm the subscription"
            task = asyncio.create_task(self._listen(subscription))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait({task})

    async def _listen(self, subscription: PubSub) -> None:
        while True:
            message = await subscription.get_message(ignore_subscribe_messages=True, timeout=1)
            if message is None:
                continue
            with contextlib.suppress(EventError):  # the bridge buries messages that are no events
                event, _ = wrap(message["channel"].decode(), message["data"])
                async with self._news:
                    self._heard.append(event)
                    self._news.notify_all()


@contextmanager
def _valkey() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="milepost-") as folder,
        Valkey(Path(folder), options={"maxmemory-policy": "noeviction"}) as valkey,
    ):
        yield valkey.url


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the test run."""
        yield


@asynccontextmanager
async def _served(stages: Mapping[str, StageHandler]) -> AsyncIterator[str]:
    """Serve each stage under its name. Yields the URL above them."""
    routes = [Route(f"/{name}", stage, methods=["GET", "POST"]) for name, stage in stages.items()]
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
        app = Starlette(routes=routes)
        config = uvicorn.Config(app, http=Protocol, ws="none", log_config=None, access_log=False, lifespan="off")
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            await eventually(lambda: server.started or serving.done(), what="the stages served")
            yield f"http://{HOST}:{port}"
        finally:
            server.should_exit = True
            await serving
            await leave_all()
