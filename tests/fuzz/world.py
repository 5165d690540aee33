"""The processes under test: Valkey, MongoDB, a bridge, the functions and a gateway, each started when first needed."""

import asyncio
import contextlib
import json
import re
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

from redis import Redis

from tests.fuzz.link import Link, close
from tests.fuzz.oracle import TRACEBACK
from tests.servers import HOST, Function, Module, Mongo, Server, Valkey

T = TypeVar("T")

LINKS = 8
"""Connections kept to each server."""

LINES_OF_THEIR_OWN = {"milepost.bridge", "gateway"}
OWN_LINE = re.compile(r"\d\d:\d\d:\d\d [A-Z]+ [\w.]+ .*")
"""The form of every log line. A line that an input injected has another form."""


@dataclass(frozen=True)
class Delivered:
    """One POST of the bridge, parsed without Milepost's code."""

    channel: str
    fields: dict[str, Any]


class Sink:
    """The stages of the bridge: each accepts every event and records it."""

    def __init__(self) -> None:
        self.delivered: list[Delivered] = []
        self.ports: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    async def open(self, channels: list[str]) -> Self:
        for channel in channels:
            server = await asyncio.start_server(self._accept(channel), HOST, 0)
            self._servers.append(server)
            self.ports[channel] = server.sockets[0].getsockname()[1]
        return self

    def routes(self) -> str:
        """ROUTES of a bridge that delivers here."""
        rows = [
            {"name": channel.replace(":", "-").replace("_", "-"), "consumes": channel, "emits": None}
            | {"url": f"http://{HOST}:{port}"}
            for channel, port in self.ports.items()
        ]
        return json.dumps(rows)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        await asyncio.gather(*self._tasks)

    def _accept(self, channel: str) -> Any:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(channel, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accepted

    async def _serve(self, channel: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length))
                self.delivered.append(Delivered(channel, json.loads(body)))
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                await writer.drain()
        await close(writer)


class World:
    """Everything under one folder, on one loop. `with World(folder) as world`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[Server] = []
        self._runner = asyncio.Runner()
        self._links: dict[int, list[Link]] = {}
        self._read: dict[int, int] = {}
        self.named: set[tuple[str, str]] = set()
        """Sources and ids of events that were sent: the bridge takes the same one once."""
        self.submitted: set[str] = set()
        """Ids that the gateway gave: the same key and body get the same one, which it publishes once."""
        self.kept = False
        """Whether MongoDB has a distance for the good address."""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._runner)
        return self

    def __exit__(self, *fault: object) -> None:
        async def close_all() -> None:
            for links in self._links.values():
                for link in links:
                    await link.close()
            if "sink" in self.__dict__:
                await self.sink.close()

        for server in reversed(self.servers):
            server.__exit__(*fault)
        self.run(close_all())
        self._stack.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def links(self, server: Server) -> list[Link]:
        """The connections kept to a server."""
        return self._links.setdefault(server.port, [Link(server.port) for _ in range(LINKS)])

    def started(self, server: Server) -> Any:
        self.servers.append(server)
        return server.start()

    @cached_property
    def valkey(self) -> Valkey:
        """The bridge's."""
        valkey: Valkey = self.started(Valkey(self.folder, options={"appendfsync": "no"}))
        return valkey

    @cached_property
    def gateway_valkey(self) -> Valkey:
        """The gateway's: its events stay there until a test looks at them."""
        valkey: Valkey = self.started(Valkey(self.folder, options={"appendfsync": "no"}))
        return valkey

    @cached_property
    def redis(self) -> Redis:
        return self._stack.enter_context(Redis.from_url(self.valkey.url))

    @cached_property
    def gateway_redis(self) -> Redis:
        return self._stack.enter_context(Redis.from_url(self.gateway_valkey.url))

    @cached_property
    def mongo(self) -> Mongo:
        mongo: Mongo = self.started(Mongo(self.folder))
        return mongo

    @cached_property
    def sink(self) -> Sink:
        return self.run(Sink().open(["raw_input", "calculated_distance", "user:email"]))

    @cached_property
    def bridge(self) -> Module:
        env = {"REDIS_URL": self.valkey.url, "ROUTES": self.sink.routes()}
        bridge: Module = self.started(Module(self.folder, "milepost.bridge", env=env))
        return bridge

    @cached_property
    def gateway(self) -> Module:
        gateway: Module = self.started(Module(self.folder, "gateway", env={"REDIS_URL": self.gateway_valkey.url}))
        return gateway

    @cached_property
    def functions(self) -> Mapping[str, Function]:
        env = {"MONGO_URL": f"{self.mongo.url}/fuzz", "SENT_EMAILS": str(self.folder / "sent_emails")}
        return {name: self.started(Function(self.folder, name, env=env)) for name in ("distance", "store", "email")}

    def alive(self) -> None:
        """Check that no process has ended, logged a traceback, or logged a line of another form."""
        for server in self.servers:
            assert server.alive, f"{server.name} ended: {server.log[-4000:]}"
            with server.log_path.open("rb") as log:
                log.seek(self._read.get(server.port, 0))
                whole, _, _ = log.read().rpartition(b"\n")  # the last line may be half written
                lines = whole.decode().split("\n") if whole else []
                self._read[server.port] = self._read.get(server.port, 0) + (len(whole) + 1 if whole else 0)
            assert not any(TRACEBACK in line for line in lines), "\n".join(lines)[-4000:]
            if server.name in LINES_OF_THEIR_OWN:
                strange = [line for line in lines if not (OWN_LINE.fullmatch(line) and line.isprintable())]
                assert not strange, strange[:3]
