"""Helpers of the bridge's tests: stages that answer as told, bridges, and the contents of Redis.

async def test_something(rig: Rig) -> None:
    distance = await rig.stage("distance", "in", "out", lambda delivery: status(500))
    await rig.bridge()                              # in this process; serves every stage made so far
    await rig.publish("in", id="1")
    await eventually(lambda: distance.count["1"] == 11)
"""

import asyncio
import contextlib
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from inspect import isawaitable
from pathlib import Path
from typing import Any, Self

import redis.asyncio as redis_asyncio

from milepost.bridge.bridge import Bridge
from milepost.bridge.settings import BridgeSettings
from milepost.events.batch import BATCH_TYPE, is_batch, read_batch, write_batch
from milepost.events.event import Event
from milepost.journal import DeadLetter, Journal, keys
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.servers import HOST, WITHIN, Module, eventually, http_status

QUICK = {"backoffDelay": "PT0.02S"}
"""Delivery settings of a stage unless a test says otherwise."""

SHORT = {"claim": "PT10S", "lease": "PT10S", "grace": "PT1S"}
"""A bridge's settings unless a test says otherwise. Claim and lease outlast any stall of the machine: a bridge that
stands still for longer loses them, as it should.
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One POST, whole, and how many times this event has come by now."""

    event: Event
    count: int
    headers: Mapping[str, str]


Answer = bytes | None
"""A whole HTTP reply, or None: the connection is closed without one."""

Script = Callable[[Delivery], Answer | Awaitable[Answer]]


def status(code: int, body: bytes = b"", **headers: str) -> bytes:
    """A reply without an event. `retry_after="1"` is the header Retry-After."""
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {code} X\r\n{fields}content-length: {len(body)}\r\n\r\n".encode() + body


def replied(event: Event, channel: str) -> bytes:
    """The next event, in binary mode: same id, same data, the source of the channel's maker."""
    reply = Event(id=event.id, source=f"/test/{channel}", type=channel, data=event.data)
    headers, body = reply.to_http()
    return status(200, body, **headers)


def together(events: list[Event]) -> bytes:
    """The next events, as a batch."""
    return status(200, write_batch(event.to_json().encode() for event in events), content_type=BATCH_TYPE)


class Stage:
    """An HTTP server that answers deliveries by `script` and counts them by event id."""

    def __init__(self, name: str, consumes: str, emits: str | None, script: Script | None) -> None:
        self.name = name
        self.consumes = consumes
        self.emits = emits
        self.script: Script = script or self.succeed
        self.count: Counter[str] = Counter()
        self.received: list[Event] = []
        self.batches: list[list[str]] = []
        """Ids of the events of each batch; `count` and `received` have only those that came alone."""
        self.batch_script: Callable[[list[Event]], Answer | Awaitable[Answer]] = self.succeed_together
        self.wake_ups = 0
        self.wake_script: Callable[[], bytes | Awaitable[bytes]] = lambda: status(200)
        self.on_wire = 0
        self.most_on_wire = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._kept: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def connections(self) -> int:
        return len(self._writers)

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.received]

    def succeed(self, delivery: Delivery) -> bytes:
        return replied(delivery.event, self.emits) if self.emits else status(204)

    def answer_after(self, go: asyncio.Event, *, first: bool = False) -> None:
        """Answer each delivery, or only the first of each event, once `go` is set."""

        async def script(delivery: Delivery) -> Answer:
            if delivery.count == 1 or not first:
                await go.wait()
            return self.succeed(delivery)

        self.script = script

    def succeed_together(self, events: list[Event]) -> bytes:
        replies = [Event(id=event.id, source="/test", type=self.emits or "", data=event.data) for event in events]
        return together(replies)

    async def open(self) -> Self:
        """Listen, on the same port as before if there was one."""
        if self._kept:
            self._server, self._kept = await asyncio.start_server(self._accept, sock=self._kept), None
        else:
            self._server = await asyncio.start_server(self._accept, HOST)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def refuse(self) -> None:
        """Refuse connections and close those there are. The port stays ours, for `open`."""
        await self.close()
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind((HOST, self.port))

    async def close(self) -> None:
        """The same, for good."""
        if self._server:
            self._server.close()
            self._server = None
        if self._kept:
            self._kept.close()
            self._kept = None
        for writer in tuple(self._writers):
            writer.transport.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def route(self, **delivery: Any) -> dict[str, Any]:
        """Its row in ROUTES."""
        return {"name": self.name, "consumes": self.consumes, "emits": self.emits, "url": self.url, **QUICK, **delivery}

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                await self._converse(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()  # or a reset is an exception that was never retrieved

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            if first.startswith("GET "):
                self.wake_ups += 1
                answer = self.wake_script()
                writer.write(await answer if isawaitable(answer) else answer)
                await writer.drain()
                continue
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
            if is_batch(headers["content-type"]):
                answer = await self._answer_batch(read_batch(body))
            else:
                answer = await self._answer(Event.from_http(headers, body), headers)
            if answer is None:
                return
            writer.write(answer)
            await writer.drain()

    async def _answer_batch(self, events: list[Event]) -> Answer:
        self.batches.append([event.id for event in events])
        answer = self.batch_script(events)
        return await answer if isawaitable(answer) else answer

    async def _answer(self, event: Event, headers: Mapping[str, str]) -> Answer:
        self.count[event.id] += 1
        self.received.append(event)
        self.on_wire += 1
        self.most_on_wire = max(self.most_on_wire, self.on_wire)
        try:
            answer = self.script(Delivery(event, self.count[event.id], headers))
            return await answer if isawaitable(answer) else answer
        finally:
            self.on_wire -= 1


class Rig:
    """One Redis, and the stages and bridges of one test."""

    def __init__(self, url: str, redis: redis_asyncio.Redis, folder: Path) -> None:
        self.url = url
        self.redis = redis
        self.folder = folder
        self.stages: list[Stage] = []
        self.sinks: list[Stage] = []
        self.bridges: list[Bridge] = []
        self.processes: list[Module] = []
        self.faults: list[str] = []
        self.expects_logged_exceptions = False
        """Whether the bridge must log an exception. A test that leaves this False fails if the bridge logs one."""
        self.journal = Journal(connect(JournalSettings(redis_url=url)), JournalSettings(redis_url=url))

    async def stage(self, name: str, consumes: str, emits: str | None = None, script: Script | None = None) -> Stage:
        stage = await Stage(name, consumes, emits, script).open()
        self.stages.append(stage)
        return stage

    def routes(self, stages: list[Stage] | None = None, **delivery: Any) -> list[dict[str, Any]]:
        return [stage.route(**delivery) for stage in stages or self.stages]

    def settings(self, tries: Mapping[str, Any] | None = None, **given: Any) -> BridgeSettings:
        """`tries`: Knative's delivery keys, for every stage; `given`: the bridge's own settings."""
        return BridgeSettings.read(**{"redis_url": self.url, "routes": self.routes(**(tries or {})), **SHORT, **given})

    async def bridge(self, tries: Mapping[str, Any] | None = None, **given: Any) -> Bridge:
        """A bridge in this process, ready."""
        bridge = self.start(Bridge(self.settings(tries, **given)))
        await eventually(lambda: bridge.ready, what="bridge ready")
        return bridge

    def start(self, bridge: Bridge) -> Bridge:
        self.bridges.append(bridge)
        bridge.start(failed=lambda: self.faults.append("a bridge failed"))
        return bridge

    async def stop(self, bridge: Bridge) -> None:
        self.bridges.remove(bridge)
        await bridge.stop()

    def process(
        self, tries: Mapping[str, Any] | None = None, *, stages: list[Stage] | None = None, **env: str
    ) -> Module:
        """`python -m milepost.bridge`, not started yet. `env`: CLAIM="PT2S"."""
        given = {
            "REDIS_URL": self.url,
            "ROUTES": json.dumps(self.routes(stages, **(tries or {}))),
            **{name.upper(): value for name, value in SHORT.items()},
            **env,
        }
        process = Module(self.folder, "milepost.bridge", env=given)
        self.processes.append(process)
        return process

    async def running(self, tries: Mapping[str, Any] | None = None, **given: Any) -> Module:
        """The same, started and ready. The stages of this process answer meanwhile."""
        process = self.process(tries, **given).launch()
        await ready(process)
        return process

    async def publish(self, channel: str, id: str, data: Any = None, source: str = "/test") -> bool:
        return await self.journal.publish(Event(id=id, source=source, type=channel, data=data))

    async def publish_all(self, channel: str, ids: list[str]) -> None:
        await asyncio.gather(*(self.publish(channel, id) for id in ids))

    async def journaled(self, channel: str) -> list[str]:
        """Ids of the events that lie in a channel's journal."""
        rows = await self.redis.xrange(keys.journal(channel))
        return [json.loads(fields[b"event"])["id"] for _, fields in rows]

    async def pending(self, stage: Stage) -> int:
        streams = keys.journal(stage.consumes), keys.retries(stage.name, stage.consumes)
        return sum([int((await self.redis.xpending(stream, stage.name))["pending"]) for stream in streams])

    async def parked(self, name: str) -> int:
        return int(await self.redis.zcard(keys.parked(name)))

    async def overdue(self, name: str) -> None:
        """Make parked events due, however long they were to wait."""
        for member in await self.redis.zrange(keys.parked(name), 0, -1):
            await self.redis.zadd(keys.parked(name), {member: 1})

    async def due(self, name: str) -> float:
        """When the first parked event of a route is due, by `now`."""
        ((_, due),) = await self.redis.zrange(keys.parked(name), 0, 0, withscores=True)
        return float(due) / 1000

    async def now(self) -> float:
        """Redis TIME, in seconds."""
        seconds, micros = await self.redis.time()
        return float(seconds + micros / 1e6)

    async def dead(self, name: str) -> list[DeadLetter]:
        return await self.journal.admin.dead_letters(name)

    async def settled(self, stage: Stage) -> bool:
        """Whether nothing of this stage is unread, on the wire or parked, all seen in one step."""
        async with self.redis.pipeline(transaction=True) as step:
            step.xlen(keys.journal(stage.consumes))
            step.xinfo_groups(keys.journal(stage.consumes))
            step.zcard(keys.parked(stage.name))
            step.xlen(keys.retries(stage.name, stage.consumes))
            length, groups, parked, retries = await step.execute()
        (group,) = [row for row in groups if row["name"] == stage.name.encode()]
        unread = length if group["lag"] is None else min(length, group["lag"])
        return bool(group["pending"] + unread + parked + retries == 0)

    async def close(self) -> None:
        for process in self.processes:
            process.close()
        await asyncio.gather(*(bridge.stop() for bridge in self.bridges))
        await asyncio.gather(*(stage.close() for stage in self.stages + self.sinks))
        await self.journal.close()


async def ready(process: Module) -> None:
    """Wait until a process answers its readiness probe; show its log if it ends instead."""
    await eventually(lambda: not process.alive or asyncio.to_thread(process.is_ready), what=f"ready: {process.name}")
    assert process.alive, process.log


async def probed(process: Module, path: str) -> int:
    """The status of a GET, as soon as the process answers one."""
    found: list[int] = []

    async def answered() -> bool:
        found.extend(filter(None, [await asyncio.to_thread(http_status, process.port, path)]))
        return bool(found)

    await eventually(answered, what=f"an answer of {process.name}")
    return found[0]


async def ended(process: Module, within: float = WITHIN) -> int:
    """Wait for a process to end, without holding up this loop; its exit status."""
    await eventually(lambda: not process.alive, within, f"end of {process.name}\n{process.log}")
    assert process.process is not None
    return int(process.process.returncode)


@contextlib.asynccontextmanager
async def subscribed(redis: redis_asyncio.Redis, *channels: str) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the messages that are published on these channels, parsed, as they come."""
    heard: list[dict[str, Any]] = []
    async with redis.pubsub() as subscription:
        await subscription.subscribe(*channels)
        for _ in channels:
            await subscription.get_message(timeout=WITHIN)

        async def listen() -> None:
            async for message in subscription.listen():
                heard.append(json.loads(message["data"]))  # noqa: PERF401 - each is seen as it comes

        task = asyncio.create_task(listen())
        try:
            yield heard
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def value(bridge: Bridge, name: str, **labels: str) -> float:
    """One of a bridge's metrics, 0 if it never counted."""
    return bridge.metrics.registry.get_sample_value(f"milepost_{name}", labels) or 0.0
