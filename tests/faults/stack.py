"""The real stack: gateway, bridges, functions, MongoDB and Redis, each a process of its own."""

import asyncio
import json
import signal
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from milepost import stage_values
from milepost.journal import Journal
from milepost.journal.connection import connect
from milepost.settings import JournalSettings
from tests.contract.smtp import SmtpServer
from tests.faults.history import History, Operation
from tests.faults.power import Power
from tests.faults.stage_proxy import StageProxy
from tests.proxy import Proxy
from tests.replicated import RedisCluster, Watched
from tests.servers import HOST, ROOT, WITHIN, Function, Module, Mongo, Server, Valkey, eventually

QUICK_BRIDGE = {"CLAIM": "PT3S", "LEASE": "PT2S", "GRACE": "PT2S"}
QUICK_DELIVERY = {"timeout": "PT10S"}
QUICK_FUNCTION = {"REQUEST_TIMEOUT": "10", "SMTP_TIMEOUT": "1"}
"""Waiting cut short: it proves nothing more by being long. One row runs with the defaults."""

Some = TypeVar("Some", bound=Server)

RECORDED_STAGE = Path(__file__).parent / "recorded_stage.py"

ENDED_WITHIN = 20.0
"""Seconds within which a process ends after SIGTERM."""


@dataclass(frozen=True)
class Options:
    """The stack of a row, where it differs from the usual one."""

    redis: type[Valkey | Watched | RedisCluster] = Valkey
    fsync: str = "always"
    bridges: int = 1
    quick: bool = True
    smtp: bool = False
    """Mails go out by SMTP too, to a server of the suite."""
    proxied: tuple[str, ...] = ()
    """Stages that the bridge reaches through a StageProxy."""
    server_behind_proxy: str | None = None
    """`redis` or `mongo`: the components reach it through a proxy."""
    power: str | None = None
    """`redis` or `mongo`: its power can be cut."""
    delivery: Mapping[str, Any] = field(default_factory=dict)
    bridge: Mapping[str, str] = field(default_factory=dict)
    """Environment of the bridges and the gateway."""
    order: str = ""
    """The field that the stages are ordered by whose events have it: `email`. Submissions then share ADDRESSES."""


ORDERED = ("distance", "store")
"""The stages whose events have the field `email`. Those of `email` are the address alone."""

ADDRESSES = 21
"""Addresses that the submissions of an ordered row share. The number has no factor in common with that of the places,
so that a mail is like no other.
"""


class Stack:
    """`async with Stack(folder, options) as stack`: every component is ready when the body begins."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder = folder
        self.options = options
        self.sent_emails = folder / "sent_emails"
        self.history = History(folder / "history")
        self.redis = options.redis(folder, options={"appendfsync": options.fsync})
        self.mongo = Mongo(folder)
        if options.power:
            self.power = Power(self.redis if options.power == "redis" else self.mongo, options.power, folder)
        self.stages = stage_values.read(ROOT)
        self.functions: dict[str, Function] = {}
        self.proxies: dict[str, StageProxy] = {}
        self.bridges: list[Module] = []
        self.asleep: set[Module] = set()
        """Bridges that clients know not to ask: no readiness probe of theirs succeeds."""
        self.extra_routes: list[dict[str, Any]] = []
        self.proxy = Proxy(self.redis.url if options.server_behind_proxy == "redis" else self.mongo.url)
        self.smtp = SmtpServer() if options.smtp else None
        self._exits = AsyncExitStack()
        self._ended: dict[Server, Operation] = {}
        self._frozen: dict[Server | Proxy, Operation] = {}

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def _start(self) -> None:
        replicas = self.options.bridge.get("REPLICAS", 0)
        self.settings = JournalSettings.read(redis_url=self.redis.url, replicas=replicas)
        self._exits.callback(self.redis.close)
        self._exits.callback(self.mongo.close)
        await asyncio.gather(up(self.redis), up(self.mongo))
        if self.options.server_behind_proxy:
            await self._exits.enter_async_context(self.proxy)
        if self.smtp:
            self._exits.enter_context(self.smtp)
        self.client = connect(self.settings)
        self.journal = Journal(self.client, self.settings)
        self._exits.push_async_callback(self.journal.close)
        if not isinstance(self.redis, Valkey):
            await self._exits.enter_async_context(self.journal.failover.running())
        for entry in self.stages:
            await self._add_function(entry.name, entry.consumes, next(iter(entry.emits), None))
        self.gateway = self._own(Module(self.folder, "gateway", env=self._environment()))
        for _ in range(self.options.bridges):
            self.add_bridge()
        await asyncio.gather(*map(up, [*self.functions.values(), self.gateway, *self.bridges]))

    async def _add_function(self, name: str, consumes: str, emits: str | None) -> None:
        env = {
            "MONGO_URL": f"mongodb://{HOST}:{self._port('mongo')}/milepost?directConnection=true",
            "SENT_EMAILS": str(self.sent_emails),
            "STAGE": name,
            "HISTORY": str(self.history.folder),
            **(QUICK_FUNCTION if self.options.quick else {}),
            **({"SMTP_URL": self.smtp.url} if self.smtp else {}),
        }
        function = self._own(Function(self.folder, name, env=env, source=RECORDED_STAGE))
        self.functions[name] = function
        if name in self.options.proxied:
            proxy = StageProxy(name, consumes, emits, function.url, self.history)
            self.proxies[name] = await self._exits.enter_async_context(proxy)

    def add_bridge(self) -> Module:
        """One more bridge, not started yet, with the routes as they are now."""
        env = {
            **self._environment(),
            "ROUTES": json.dumps(self.routes()),
            **(QUICK_BRIDGE if self.options.quick else {}),
        }
        bridge = self._own(Module(self.folder, "milepost.bridge", env=env))
        self.bridges.append(bridge)
        return bridge

    def is_ordered(self, stage: str) -> bool:
        return bool(self.options.order) and stage in ORDERED

    def routes(self) -> list[dict[str, Any]]:
        delivery = {**(QUICK_DELIVERY if self.options.quick else {}), **self.options.delivery}
        return [
            {
                "name": entry.name,
                "consumes": entry.consumes,
                "emits": entry.emits,
                "url": (self.proxies.get(entry.name) or self.functions[entry.name]).url,
                **entry.delivery,
                **delivery,
                **({"order": self.options.order} if self.is_ordered(entry.name) else {}),
            }
            for entry in self.stages
        ] + self.extra_routes

    def _environment(self) -> dict[str, str]:
        url = f"redis://{HOST}:{self.proxy.port}/0" if self.options.server_behind_proxy == "redis" else self.redis.url
        return {"REDIS_URL": url, **self.options.bridge}

    def _port(self, server: str) -> int:
        if self.options.server_behind_proxy == server:
            return self.proxy.port
        return self.redis.port if server == "redis" else self.mongo.port

    def _own(self, server: Some) -> Some:
        self._exits.callback(server.close)
        return server

    @property
    def bridge(self) -> Module:
        return self.bridges[0]

    def component(self, name: str) -> Server:
        """By its name in a row: a stage, gateway, bridge, mongo or redis."""
        fixed: dict[str, Server] = {"gateway": self.gateway, "mongo": self.mongo, "redis": self.redis}
        return self.functions.get(name) or fixed.get(name) or self.bridge

    async def down(self, server: Server, number: signal.Signals = signal.SIGTERM) -> None:
        """End a process. The history has the signal, and when the process was ready again."""
        self._ended[server] = Operation("end", time.monotonic(), answer=number, by=server.name)
        await down(server, number)

    async def up(self, server: Server) -> None:
        """Start a process, and wait until it is ready."""
        await up(server)
        if ended := self._ended.pop(server, None):
            self.history.add(replace(ended, end=time.monotonic()))

    def freeze(self, what: Server | Proxy) -> None:
        """Stop a process, or silence all connections through the proxy. The history has it, with when it went on."""
        by = what.name if isinstance(what, Server) else self._proxied
        self._frozen[what] = Operation("freeze", time.monotonic(), by=by)
        what.freeze()

    def thaw(self, what: Server | Proxy) -> None:
        what.thaw()
        if frozen := self._frozen.pop(what, None):
            self.history.add(replace(frozen, end=time.monotonic()))

    def stall(self) -> int:
        """Silence the present connections through the proxy for good. Returns how many there are."""
        now = time.monotonic()
        self.history.add(Operation("stall", now, now, by=self._proxied))
        return self.proxy.stall()

    @property
    def _proxied(self) -> str:
        return f"connections to {self.options.server_behind_proxy}"

    def note_unended(self) -> None:
        """Give the history the processes that the row ended, or stopped, for good."""
        for operation in [*self._ended.values(), *self._frozen.values()]:
            self.history.add(operation)

    async def cut_power(self, server: Server) -> None:
        """End a process before a sync of its log (power.py)."""
        await self.power.cut()
        self._ended[server] = Operation("end", time.monotonic(), answer=signal.SIGKILL, by=server.name)

    async def rest(self) -> None:
        """Stop the doors, the bridges and the functions, so that nothing happens any more; the servers stay."""
        working = [self.gateway, *self.bridges, *self.functions.values()]
        await asyncio.gather(*(down(server) for server in working if server.alive))


async def up(server: Server) -> None:
    """Start and wait until ready, without holding up the loop."""
    server.launch()
    await eventually(lambda: not server.alive or asyncio.to_thread(server.is_ready), WITHIN, f"ready: {server.name}")
    assert server.alive, f"{server.name} ended at its start:\n{server.log[-2000:]}"


async def down(server: Server, number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal and wait for the end; a process that does not end after SIGTERM is killed."""
    process = server.process
    assert process is not None
    process.send_signal(number)
    if number is not signal.SIGKILL:
        process.send_signal(signal.SIGCONT)
    try:
        await eventually(lambda: not server.alive, ENDED_WITHIN)
    except AssertionError:
        server.kill()
