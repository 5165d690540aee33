"""A bridge, assembled: its routes, its listener, and what must be done from time to time."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from uuid import uuid4

from redis.exceptions import RedisError, ResponseError

from milepost.bridge.client import Client
from milepost.bridge.listener import Listener
from milepost.bridge.metrics import Metrics, RouteMetrics
from milepost.bridge.route import BLOCK, Route
from milepost.bridge.settings import BROKER, BridgeSettings, Delivery
from milepost.bridge.stats import Stats
from milepost.bridge.window import Limits
from milepost.connection import ANSWER_WITHIN, LEAST_VERSION, connect
from milepost.errors import JournalUnavailable
from milepost.journal import Group, Journal, Scripts, Upkeep, Wiring, depths
from milepost.journal.stats import EVERY as STATS_EVERY
from milepost.line import Line
from milepost.log import Fields

log = logging.getLogger("milepost.bridge")

BEAT = 10.0
"""Seconds between two beats in the stages table."""

LOOK = 2.0
"""Seconds after which parked events are looked at, for those that another bridge parked and left."""

TRIM, TRIM_ALL = 1.0, 10.0
"""Seconds between two trims of journals where something was settled, and of all."""

MOST_WOKEN = 256
"""Parked events of one route that are woken in one step."""


CANCEL_AGAIN = 0.1
"""Seconds after which a task that was cancelled and has not ended is cancelled again."""


class Bridge:
    """Serves the routes of its settings. `journal` is its HTTP door's, `metrics` what it counts."""

    def __init__(self, settings: BridgeSettings) -> None:
        self.metrics = Metrics()
        self.journal = Journal(connect(settings), settings)
        self.ready = False
        self._settings = settings
        self._scripts = Scripts(connect(settings))  # apart: the lease must not wait behind large settlements
        self._upkeep = Upkeep(self._scripts, self.journal.keeping)
        self._consumer = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._reader = connect(settings, answer_within=BLOCK + ANSWER_WITHIN, retries=0)
        self._lines: list[Line] = []
        self._ear = connect(settings, retries=0)
        self.journal.watch.add(self._scripts.redis, self._reader, self._ear)
        self._parked = asyncio.Event()
        self._wirings = dict(_wirings(settings))
        self._counted = {name: RouteMetrics(self.metrics, name) for name in self._wirings}
        self._stats = Stats(self.journal.scripts, self._consumer, [*self._counted.values()], time.monotonic)
        self._routes = [self._route(name, wiring) for name, wiring in self._wirings.items()]
        self._channels = sorted({channel for wiring in self._wirings.values() for channel in wiring.consumes})
        self._listener = Listener(
            self._ear,
            self._channels,
            self._upkeep,
            self.metrics,
            lease=settings.lease.total_seconds(),
            beat=self._beat,
        )
        self._tasks: list[asyncio.Task[None]] = []

    def _route(self, name: str, wiring: Wiring) -> Route:
        stage = None if name == BROKER else next(stage for stage in self._settings.routes if stage.name == name)
        delivery = stage or Delivery(timeout=self._settings.broker_timeout)
        headers = stage.headers_from if stage else {}
        line = Line(self._reader, again=False)  # whose lost reply would orphan what it carried
        self._lines.append(line)
        return Route(
            [
                Group(
                    channel,
                    name,
                    self._consumer,
                    reader=line,
                    scripts=self.journal.scripts,
                    keeping=self.journal.keeping,
                    deadline=delivery.deadline or self._settings.deadline,
                )
                for channel in wiring.consumes
            ],
            client=Client(wiring.url, headers={name: value.get_secret_value() for name, value in headers.items()}),
            emits=None if name == BROKER else next(iter(wiring.emits), None),
            delivery=delivery,
            limits=Limits(self._settings.window, self._settings.window_bytes),
            metrics=self._counted[name],
            parked=self._parked,
            beat=self._beat,
        )

    @property
    def direct(self) -> bool:
        """Whether events go to the functions themselves."""
        return self._settings.delivery == "direct"

    @property
    def stages(self) -> frozenset[str]:
        """Names of the stages it serves, whichever way."""
        return frozenset(stage.name for stage in self._settings.routes)

    @property
    def needs_data(self) -> frozenset[str]:
        """Channels whose events must have data."""
        return self._settings.needs_data

    @property
    def upkeep(self) -> Upkeep:
        """For the doors that broker mode needs."""
        return self._upkeep

    def start(self, *, failed: Callable[[], None]) -> None:
        """Begin to serve, in the background; a Redis that is away is waited for.

        `failed` is called should that end by a fault of our own: a bridge that serves nothing must not look alive.
        """
        if self._settings.delivery == "broker" and not self._settings.k_sink:
            reason = "K_SINK is not set: no SinkBinding has told this bridge its Broker yet"
            log.error(Fields(outcome="waiting", reason=reason))
            return
        serving = asyncio.create_task(self._serve())
        serving.add_done_callback(lambda task: self._ended(task, failed))
        self._tasks = [serving]

    def _ended(self, task: asyncio.Task[None], failed: Callable[[], None]) -> None:
        self.ready = False
        if not task.cancelled() and (fault := task.exception()):
            log.critical(Fields(outcome="failed"), exc_info=fault)
            failed()

    async def _serve(self) -> None:
        await self._open()
        claim = self._settings.claim.total_seconds()
        async with asyncio.TaskGroup() as tasks:
            parts = [
                *chain.from_iterable(route.parts() for route in self._routes),
                *self._listener.parts(),
                self.journal.watch.run(),
                self._wake(),
                self._trim(),
                _every(BEAT, self._beat, "beat"),
                _every(STATS_EVERY, self._stats.leave, "stats"),
                _every(STATS_EVERY, self._look, "depths"),
                *(_every(claim / 10, partial(route.keep, claim=claim), "keep") for route in self._routes),
            ]
            self._tasks += [tasks.create_task(part) for part in parts]
            await self._listener.placed.wait()
            self.ready = True
            log.info(Fields(outcome="ready", routes=",".join(self._wirings)))

    async def _beat(self) -> None:
        """Show our routes. Raises JournalUnavailable."""
        await self._upkeep.beat(self._wirings)

    async def _look(self) -> None:
        """Show in the metrics what lies before the stages. Raises JournalUnavailable: then nothing is shown."""
        letters: dict[str, Sequence[str]] = dict.fromkeys([*sorted(self.stages), "bridge"], ())
        routes = {name: wiring.consumes for name, wiring in self._wirings.items()}
        try:
            self.metrics.show(await depths(self.journal.scripts, letters | routes))
        except JournalUnavailable:
            self.metrics.show([])
            raise

    async def _open(self) -> None:
        """Show our routes before anything is trimmed, then make the groups."""
        while True:
            try:
                await self._beat()
                for route in self._routes:
                    for group in route.groups:
                        await group.ensure()
                await self._warn_of_server()
            except JournalUnavailable as fault:
                log.warning(Fields(outcome="waiting", reason=str(fault)))
                await asyncio.sleep(1)
                continue
            return

    async def _warn_of_server(self) -> None:
        """Log which version or setting of the server breaks a promise. Managed servers forbid CONFIG, not INFO."""
        try:
            info = await self.journal.redis.info()
        except ResponseError as fault:
            log.warning(Fields(outcome="unsafe", reason=f"Redis does not say how it keeps events: {fault}"))
            return
        except (RedisError, OSError) as fault:
            raise JournalUnavailable(str(fault)) from fault
        version = str(info.get("redis_version", ""))
        if version and tuple(map(int, version.split(".")[:2])) < LEAST_VERSION:
            least = ".".join(map(str, LEAST_VERSION))
            log.warning(Fields(outcome="unsafe", reason=f"Redis is {version}: Milepost needs {least} or newer"))
        policy, aof = info.get("maxmemory_policy"), info.get("aof_enabled")
        if policy != "noeviction":
            reason = f"Redis maxmemory-policy is {policy}, not noeviction: events can be evicted"
            log.warning(Fields(outcome="unsafe", reason=reason))
        if not aof:
            log.warning(Fields(outcome="unsafe", reason="Redis has AOF off or does not say: its death loses events"))

    async def _wake(self) -> None:
        names = [route.name for route in self._routes]
        while True:
            pause = LOOK
            self._parked.clear()
            try:
                _, due = await self._upkeep.wake(names, most=MOST_WOKEN)
            except JournalUnavailable as fault:
                log.warning(Fields(outcome="not-woken", reason=str(fault)))
            else:
                pause = LOOK if due is None else min(LOOK, due)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._parked.wait()

    async def _trim(self) -> None:
        since_all = 0.0
        while True:
            await asyncio.sleep(TRIM)
            since_all += TRIM
            dirty = set().union(*(route.dirty for route in self._routes))
            if since_all >= TRIM_ALL:
                since_all, dirty = 0.0, set(self._channels)
            for route in self._routes:
                route.dirty.clear()
            try:
                for channel in dirty:
                    happened, left = await self._upkeep.trim(channel)
                    if happened not in {"trimmed", "absent"}:
                        log.warning(Fields(channel=channel, outcome="untrimmed", reason=happened, entries=left))
            except JournalUnavailable as fault:
                log.warning(Fields(outcome="untrimmed", reason=str(fault)))

    async def stop(self) -> None:
        """Read no more, let what is on the wire finish within the grace or hand it back, give up the lease."""
        self.ready = False
        grace = self._settings.grace.total_seconds()
        claim = self._settings.claim.total_seconds()
        if self._listener.placed.is_set():
            await self._listener.stop(within=grace / 2)
        await _end(self._tasks)
        await asyncio.gather(*(line.close() for line in self._lines))
        await asyncio.gather(*(route.finish(grace=grace, claim=claim) for route in self._routes))
        await self._ear.aclose()
        await self._scripts.close()
        await self.journal.close()
        log.info(Fields(outcome="stopped"))


def _wirings(settings: BridgeSettings) -> Sequence[tuple[str, Wiring]]:
    if settings.delivery == "direct":
        return [
            (stage.name, Wiring([stage.consumes], [stage.emits] if stage.emits else [], stage.url or ""))
            for stage in settings.routes
        ]
    consumed = sorted({stage.consumes for stage in settings.routes})
    emitted = sorted({stage.emits for stage in settings.routes if stage.emits})
    return [(BROKER, Wiring(consumed, emitted, settings.k_sink))] if settings.k_sink else []


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel, and again: before Python 3.12 the `wait_for` in redis-py's send can swallow a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN)


async def _every(seconds: float, step: Callable[[], Awaitable[None]], name: str) -> None:
    while True:
        try:
            await step()
        except JournalUnavailable as fault:
            log.warning(Fields(outcome=f"no-{name}", reason=str(fault)))
        await asyncio.sleep(seconds)
