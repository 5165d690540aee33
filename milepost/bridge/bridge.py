"""A bridge: one worker for each route and channel, the adoption of plain messages, the periodic tasks, the stop.

Order of a stop:

1. The HTTP server stops taking requests.
2. The lease is released, and the messages that were received before are adopted, within half of GRACE. Workers go on.
3. Reads, adoption, wake-ups and the periodic tasks end. The connections for reading close.
4. Deliveries get GRACE to end, and settlements the rest of it, at least half a second. Entries that are still pending
   are handed back, within one second. GRACE may be longer than CLAIM, and than a beat counts. So claims are renewed and
   beats written until then, and a failover of Redis is followed.
5. The other connections close.
"""

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from uuid import uuid4

from redis.exceptions import RedisError, ResponseError

from milepost.bridge.concurrency import ConcurrencyLimit, Limits
from milepost.bridge.delivery import Deliverer
from milepost.bridge.failure_log import FailureLog
from milepost.bridge.http.client import Client
from milepost.bridge.ingest.subscriber import Subscriber
from milepost.bridge.metrics import BridgeMetrics
from milepost.bridge.retry import RetryPolicy, probe_delay
from milepost.bridge.settings import BridgeSettings, DeliverySpec
from milepost.bridge.stats import Stats
from milepost.bridge.wake import Waker
from milepost.bridge.worker import BLOCK, Worker
from milepost.errors import JournalUnavailable
from milepost.journal import BROKER, Consumer, Journal, Maintenance, Scripts, WakeUps, Wiring
from milepost.journal.connection import ANSWER_WITHIN, LEAST_VERSION, connect, end_tasks
from milepost.journal.scripts import unavailable
from milepost.journal.shared_connection import SharedConnection
from milepost.journal.stats import EVERY as STATS_EVERY
from milepost.observe.logs import Fields

log = logging.getLogger("milepost.bridge")

BEAT = 10.0
"""Seconds between two beats in the stages table."""

PAGE_LOOK = 1.0
"""Seconds between two looks whether a visitor has opened the form."""

PAUSE_LOOK = 1.0
"""Seconds between two looks for stages that are paused or resumed."""

LOOK = 2.0
"""Longest wait between two looks for due parked events; another bridge may have parked some."""

TRIM, TRIM_ALL = 1.0, 10.0
"""Seconds between two trims of journals where something was settled, and of all."""

KEEP_STATUSES = 600.0
"""Seconds between two looks for submissions whose events wait for long."""

UNBLOCK_LOST = 60.0
"""Seconds between two looks for keys of ordered stages whose event in hand was deleted."""

SWITCH_LOOK = 1.0
"""Seconds between two looks whether the other delivery mode has ended."""

MOST_RETRIED = 256
"""Parked events of one stage that one step moves to its retries."""


class Bridge:
    """Serves the routes of its settings. Its HTTP endpoints use `journal`, `broker_doors` and `metrics`.

    `broker_doors` has the steps of broker mode's two doors: like `journal.publish`, they wait for REPLICAS.
    """

    def __init__(self, settings: BridgeSettings) -> None:
        self.metrics = BridgeMetrics()
        self.journal = Journal(connect(settings), settings)
        self.ready = False
        self._settings = settings
        self._scripts = Scripts(connect(settings))  # of its own: the lease must not wait behind large settlements
        self.maintenance = Maintenance(self._scripts, dedup=settings.dedup, limit=settings.backlog_limit)
        self.broker_doors = Maintenance(self.journal.doors, dedup=settings.dedup, limit=settings.backlog_limit)
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._reader_redis = connect(settings, answer_within=BLOCK + ANSWER_WITHIN, retries=0)
        self._readers: list[SharedConnection] = []
        self._subscriber_redis = connect(settings, retries=0)
        self.journal.failover.add(self._scripts.redis, self._reader_redis, self._subscriber_redis)
        self._newly_parked = asyncio.Event()
        self._waker = Waker(settings.routes, WakeUps(self._scripts.redis), self.metrics.wakeups)
        self._wirings = dict(_wirings(settings))
        self._stats = Stats(
            self.journal.scripts,
            self._name,
            {name: self.metrics.of_stage(name) for name in self._wirings},
            time.monotonic,
        )
        self.workers = [
            self._worker(name, channel, wiring)
            for name, wiring in self._wirings.items()
            for channel in wiring.consumes  # in broker mode one channel that hangs must not stop the others
        ]
        self._subscriber = Subscriber(
            self._subscriber_redis,
            sorted({channel for wiring in self._wirings.values() for channel in wiring.consumes}),
            self.maintenance,
            self.metrics,
            lease=settings.lease.total_seconds(),
            beat=self._beat,
        )
        self._registered = False
        self._trim_failures: dict[str, FailureLog] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def _worker(self, name: str, channel: str, wiring: Wiring) -> Worker:
        stage = None if name == BROKER else next(stage for stage in self._settings.routes if stage.name == name)
        spec = stage or DeliverySpec(timeout=self._settings.broker_timeout)
        headers = stage.headers_from if stage else {}
        reader = SharedConnection(self._reader_redis, again=False)  # a second read would not bring the same entries
        self._readers.append(reader)
        client = Client(wiring.url, headers={header: value.get_secret_value() for header, value in headers.items()})
        return Worker(
            Consumer(
                name,
                channel,
                self._name,
                reader=reader,
                scripts=self.journal.scripts,
                deadline=spec.deadline or self._settings.deadline,
                emits=name != BROKER and bool(wiring.emits),
                order=stage.order if stage else False,
            ),
            deliverer=Deliverer(
                client, name, spec=spec, emits=() if name == BROKER else wiring.emits, split=wiring.split
            ),
            policy=RetryPolicy(spec),
            limit=ConcurrencyLimit(
                Limits(self._settings.window, self._settings.window_bytes), probe_delay=partial(probe_delay, spec)
            ),
            spec=spec,
            claim=self._settings.claim.total_seconds(),
            metrics=self.metrics.of_stage(name),
            silence=self._waker.of_stage(name) if stage else self._waker.of_channel(channel),
            newly_parked=self._newly_parked,
            register=self._register,
        )

    @property
    def direct(self) -> bool:
        """Whether events go to the functions themselves."""
        return self._settings.delivery == "direct"

    @property
    def stages(self) -> frozenset[str]:
        """Names of the stages it serves, directly or through a Broker."""
        return frozenset(stage.name for stage in self._settings.routes)

    @property
    def needs_data(self) -> frozenset[str]:
        """Channels whose events must have data."""
        return self._settings.needs_data

    def start(self, *, failed: Callable[[], None]) -> None:
        """Begin to serve in the background. If Redis is away, wait for it.

        `failed` is called if serving ends with an exception: a bridge that serves nothing must not look alive.
        """
        if self._settings.delivery == "broker" and not self._settings.k_sink:
            reason = "K_SINK is not set: no SinkBinding has named the Broker yet"
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
        parts = [
            self._become_ready(),
            *(worker.run() for worker in self.workers),
            *self._subscriber.coroutines(),
            self._retry_due(),
            self._trim(),
            _every(PAUSE_LOOK, self._pause, "pauses"),
            _every(STATS_EVERY, self._stats.write, "stats"),
            _every(STATS_EVERY, self._show_depths, "depths"),
            _every(KEEP_STATUSES, self._keep_statuses, "statuses"),
            _every(UNBLOCK_LOST, self._unblock_lost, "unblocking"),
            *([_every(PAGE_LOOK, self._waker.wake_for_page, "wake-ups")] if self._waker.for_page else []),
            *self._needed_until_ended(),
            *(_every(claim, worker.reap, "reaping", worker) for worker in self.workers),
        ]
        tasks = [asyncio.create_task(part) for part in parts]
        self._tasks += tasks  # `stop` ends them too: if it cancels this task twice, the `finally` below is interrupted
        try:
            await asyncio.gather(*tasks)
        finally:
            await end_tasks(tasks)  # a TaskGroup would cancel each once, and one that swallows that would run on

    async def _become_ready(self) -> None:
        await self._subscriber.placed.wait()
        self.ready = True
        log.info(Fields(outcome="ready", routes=",".join(self._wirings)))

    def _needed_until_ended(self) -> list[Coroutine[None, None, None]]:
        """Renew claims, write beats and follow a failover, also during a stop."""
        every = self._settings.claim.total_seconds() / 10
        return [
            *(_every(every, worker.renew, "renewal", worker) for worker in self.workers),
            _every(BEAT, self._beat, "beat"),
            self.journal.failover.run(),
        ]

    async def _open(self) -> None:
        """Register the routes, before any journal is trimmed, then make the groups. Repeat while Redis is away."""
        failures = FailureLog(outcome="waiting")
        while True:
            try:
                await self._register()
                await self._pause()
                for worker in self.workers:
                    await worker.open()
                await self._warn_of_server()
            except JournalUnavailable as fault:
                failures.failed(fault)
                await asyncio.sleep(1)
                continue
            return

    async def _register(self) -> None:
        """Write our routes into the stages table; if the other delivery mode was served, first take over its groups.

        While a bridge of the other mode still runs, this bridge waits, and `ready` is true: its HTTP doors publish
        events, and Kubernetes ends the old pods once the new ones are ready. While bridges of the other mode have to
        finish events first, `ready` is false, so that these pods stay. Raises JournalUnavailable.
        """
        ready, failures = self.ready, FailureLog(outcome="waiting")
        while True:
            while blocked := await self.maintenance.switch(self._wirings):
                self.ready = not blocked.unfinished
                failures.failed(blocked.reason, **({"events": blocked.events} if blocked.events else {}))
                await asyncio.sleep(SWITCH_LOOK)
            self.ready = self.ready or ready
            if await self.maintenance.beat(self._wirings):
                self._registered = True
                return  # else a bridge of the other mode has begun to serve meanwhile

    async def _beat(self) -> None:
        """Write a beat for our routes into the stages table, once they are registered. Raises JournalUnavailable."""
        if self._registered:
            await self.maintenance.beat(self._wirings)

    async def _pause(self) -> None:
        """Pause the workers of paused stages, and resume the others. Raises JournalUnavailable."""
        paused = await self.journal.admin.paused()
        self._waker.paused = paused
        for worker in self.workers:
            worker.pause(paused=worker.stage in paused)

    async def _show_depths(self) -> None:
        """Show in the metrics how many events wait for each stage, also for stages that no bridge serves.

        Raises JournalUnavailable: then the metrics are absent.
        """
        stages: dict[str, Sequence[str]] = dict.fromkeys([*sorted(self.stages), "bridge"], ())
        try:
            stages |= {name: wired["consumes"] for name, wired in (await self.journal.admin.table()).items()}
            left_behind = await self.journal.admin.left_behind()
            self.metrics.show([*await self.journal.admin.depths(stages), *left_behind])
        except JournalUnavailable:
            self.metrics.show([])
            raise

    async def _warn_of_server(self) -> None:
        """Log if the version or a setting of Redis breaks a promise. It asks INFO: managed servers forbid CONFIG."""
        try:
            info = await self.journal.redis.info()
        except ResponseError as fault:
            log.warning(Fields(outcome="unsafe", reason=f"Redis does not say how it keeps events: {fault}"))
            return
        except (RedisError, OSError) as fault:
            raise unavailable(fault) from fault
        version = str(info.get("redis_version", ""))
        if is_too_old(version):
            least = ".".join(map(str, LEAST_VERSION))
            log.warning(Fields(outcome="unsafe", reason=f"Redis is {version}: Milepost needs {least} or newer"))
        if (connected := int(info.get("connected_slaves", 0))) < self._settings.replicas:
            wanted = f"REPLICAS is {self._settings.replicas}"
            log.warning(Fields(outcome="unsafe", reason=f"Redis has {connected} replicas, {wanted}: doors answer 503"))
        policy, aof = info.get("maxmemory_policy"), info.get("aof_enabled")
        if policy != "noeviction":
            reason = f"Redis maxmemory-policy is {policy}, not noeviction: events can be evicted"
            log.warning(Fields(outcome="unsafe", reason=reason))
        if not aof:
            log.warning(Fields(outcome="unsafe", reason="Redis has AOF off or does not say: its crash loses events"))

    async def _retry_due(self) -> None:
        """Move parked events to the retries of their stages when they come due."""
        names = list(self._wirings)
        failures = FailureLog(outcome="not-retried")
        failures_of = {name: FailureLog(stage=name, outcome="not-retried") for name in names}
        while True:
            pause = LOOK
            self._newly_parked.clear()
            try:
                _, due, refused = await self.maintenance.retry_due(names, most=MOST_RETRIED)
            except JournalUnavailable as fault:
                failures.failed(fault)
            else:
                failures.succeeded()
                for stage in names:
                    if reason := refused.get(stage):
                        failures_of[stage].failed(reason)
                    else:
                        failures_of[stage].succeeded()
                if due is not None and not refused:
                    pause = min(LOOK, due)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._newly_parked.wait()

    async def _trim(self) -> None:
        """Trim journals: each second those where entries were settled, every ten seconds all of them."""
        since_all, failures = 0.0, FailureLog(outcome="untrimmed")
        while True:
            await asyncio.sleep(TRIM)
            since_all += TRIM
            channels = {channel for worker in self.workers for channel in worker.channels_to_trim()}
            if since_all >= TRIM_ALL:
                since_all = 0.0
                try:
                    channels |= set(await self.maintenance.journals())
                    failures.succeeded()
                except JournalUnavailable as fault:
                    failures.failed(fault)
            for channel in sorted(channels):
                await self._trim_one(channel)

    async def _trim_one(self, channel: str) -> None:
        """Trim one journal. If that fails it is logged, so that the other journals are trimmed all the same."""
        failures = self._trim_failures.setdefault(channel, FailureLog(channel=channel, outcome="untrimmed"))
        try:
            happened, left, dropped = await self.maintenance.trim(channel)
        except JournalUnavailable as fault:
            failures.failed(fault)
            return
        if happened in {"trimmed", "absent", "unconsumed"}:
            del self._trim_failures[channel]
        else:
            failures.failed(happened, entries=left)
        if dropped:
            self.metrics.unserved_dropped.labels(channel).inc(dropped)
            log.error(Fields(channel=channel, outcome="unserved-dropped", entries=dropped))

    async def _keep_statuses(self) -> None:
        """Keep the statuses of submissions whose events wait for long. A journal that cannot be read is left out."""
        for channel in await self.maintenance.journals():
            try:
                await self.maintenance.keep_statuses(channel)
            except JournalUnavailable as fault:
                log.warning(Fields(channel=channel, outcome="no-statuses", reason=str(fault)))

    async def _unblock_lost(self) -> None:
        """Unblock keys of ordered stages whose event in hand an operator has deleted. Raises JournalUnavailable."""
        if unblocked := await self.maintenance.unblock_lost(self._wirings):
            log.warning(Fields(outcome="unblocked", keys=unblocked))

    async def stop(self) -> None:
        """Stop in the order that the module's docstring gives."""
        grace = self._settings.grace.total_seconds()
        if self._subscriber.placed.is_set():
            await self._subscriber.stop(within=grace / 2)
        await end_tasks(self._tasks)
        await self._waker.close()
        await asyncio.gather(*(reader.close() for reader in self._readers))
        still_needed = [asyncio.create_task(part) for part in self._needed_until_ended()]
        ends = await asyncio.gather(*(worker.finish(grace=grace) for worker in self.workers), return_exceptions=True)
        for worker, fault in zip(self.workers, ends, strict=True):
            if fault:
                log.error(Fields(stage=worker.stage, outcome="failed"), exc_info=fault)
        await end_tasks(still_needed)
        await self._scripts.close()
        await self.journal.close()
        log.info(Fields(outcome="stopped"))


def is_too_old(version: str) -> bool:
    """Whether this version of Redis is before LEAST_VERSION. One that does not begin with two numbers is not."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and tuple(map(int, numbers.groups())) < LEAST_VERSION


def _wirings(settings: BridgeSettings) -> Sequence[tuple[str, Wiring]]:
    """Return the routes by name: each stage in direct mode, or in broker mode the Broker alone."""
    if settings.delivery == "direct":
        return [
            (
                stage.name,
                Wiring(
                    [stage.consumes],
                    stage.emits,
                    stage.url or "",
                    needs_data=sorted({stage.consumes} & settings.needs_data),
                    split=stage.split,
                    order=stage.order,
                ),
            )
            for stage in settings.routes
        ]
    consumed = sorted({stage.consumes for stage in settings.routes})
    emitted = sorted({channel for stage in settings.routes for channel in stage.emits})
    behind = {stage.name: Wiring([stage.consumes], stage.emits, "") for stage in settings.routes}
    if not settings.k_sink:
        return []
    return [(BROKER, Wiring(consumed, emitted, settings.k_sink, behind, sorted(settings.needs_data)))]


async def _every(seconds: float, step: Callable[[], Awaitable[None]], name: str, worker: Worker | None = None) -> None:
    """Take a step again and again, also while Redis is not available. `worker`: the one whose step it is."""
    of = {"stage": worker.stage, "channel": worker.consumer.channel} if worker else {}
    failures = FailureLog(**of, outcome=f"no-{name}")
    while True:
        try:
            await step()
            failures.succeeded()
        except JournalUnavailable as fault:
            failures.failed(fault)
        await asyncio.sleep(seconds)
