"""Wake-ups: start the functions that an event will reach while the first of them starts.

Without them an event would pay for the starts of functions at zero one after the other.

1. A worker sends an event to a stage that has not answered for `wakeAfter`: the stage may be at zero. A retry or a
   replay does not count, nor any event while the route is down.
2. The functions downstream of the stage each get a `GET /`, `wakeDelay` later. Nothing waits for it, and its result
   changes nothing. The stage itself gets none: its event wakes it.
3. Left out are a stage that is someone else's, that has wake-ups off, or that has answered or was woken within its
   `wakeAfter`; and paused and delayed stages with all that only they lead to, because the event stops there.
4. When a visitor opens the form, a gateway asks for the stages with `wake: page` (milepost/journal/wake_ups.py).
5. A stage that does not answer at once is shown as starting, in Redis, until its request ends.

Each bridge keeps these times by itself, so several bridges send at most one request each per `wakeAfter`.
"""

import asyncio
import logging
import math
import time
from collections.abc import Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any

from prometheus_client import Counter

from milepost.bridge.http.client import Client, Lost, NotSent, ResponseTooLarge
from milepost.bridge.settings import Stage
from milepost.errors import JournalUnavailable
from milepost.graph import Graph
from milepost.journal import WakeUps
from milepost.journal.connection import end_tasks
from milepost.observe.logs import Fields

log = logging.getLogger("milepost.bridge")

WITHIN = 30.0
"""Seconds for the response to a wake-up. They are also the longest time that a stage is shown as starting."""

SHOW_AFTER = 0.1
"""Seconds without a response after which a stage is shown as starting: a warm one answers sooner."""

HIDE_WITHIN = 0.5
"""Seconds that a stop waits for Redis to show no stage as starting any more."""


class Silence:
    """When the stages of one worker may be at zero: from `at` on, unless one answers before.

    `at` is in seconds of time.perf_counter. The worker compares it with the time at each delivery.
    """

    def __init__(self, waker: "Waker", stages: Sequence[str], after: float) -> None:
        self.at = -math.inf
        self._waker = waker
        self._stages = stages
        self._after = after

    def event_sent(self) -> None:
        """An event is sent after `at`: wake the stages downstream."""
        self.at = time.perf_counter() + self._after
        self._waker.wake_after(self._stages)

    def request_ended(self, now: float, *, answered: bool) -> None:
        """A request with events has ended, with a response of the stage or without one."""
        if answered:
            self.at = now + self._after
        if self._waker.starting:
            self._waker.end_start(self._stages)


class _Function:
    """A function that can be woken."""

    def __init__(self, stage: Stage, silence: Silence) -> None:
        self.name = stage.name
        self.client = Client(stage.url or "")
        self.after = stage.wake_after.total_seconds()
        self.delay = stage.wake_delay.total_seconds()
        self.for_page = stage.wake == "page"
        self.silence = silence
        self.woken = -math.inf
        self.warm_until = -math.inf
        """Until when its answer to a wake-up shows that it is not at zero. It is no event, so its silence goes on."""
        self.wake_up: asyncio.Task[None] | None = None


class Waker:
    """Wakes the functions among these stages. `paused` names the stages that are paused; the bridge sets it."""

    def __init__(self, stages: Iterable[Stage], redis: WakeUps, counter: Counter) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._graph = Graph(self._stages.values())
        self._delayed = frozenset(name for name, stage in self._stages.items() if stage.delay)
        self._silences = {name: self._silence([name]) for name in self._stages}
        self._functions = {
            name: _Function(stage, self._silences[name]) for name, stage in self._stages.items() if stage.can_be_woken
        }
        self._redis = redis
        self._counter = counter
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.paused: Collection[str] = frozenset()
        self.starting: dict[str, asyncio.Event] = {}
        """Stages that have a request which may start them; the event ends that."""
        self._shown: set[str] = set()

    def of_stage(self, stage: str) -> Silence:
        """Return the silence of a stage that gets its events from this bridge."""
        return self._silences[stage]

    def of_channel(self, channel: str) -> Silence:
        """Return the silence of a channel's consumers, which get its events from a Broker."""
        return self._silence(self._graph.consumers(channel))

    def _silence(self, stages: Sequence[str]) -> Silence:
        after = [self._stages[name].wake_after.total_seconds() for name in stages]
        return Silence(self, stages, min(after, default=math.inf))

    @property
    def for_page(self) -> bool:
        """Whether any function is woken when a visitor opens the form."""
        return any(function.for_page for function in self._functions.values())

    def wake_after(self, stages: Sequence[str]) -> None:
        """Wake the stages downstream of those that an event was sent to."""
        for name in stages:
            self._begin_start(name)
        for function in self._downstream(stages):
            self._wake(function, function.delay)

    async def wake_for_page(self) -> None:
        """Wake the functions that a gateway asks for. Raises JournalUnavailable."""
        channel = await self._redis.asked()
        if channel is None:
            return
        first = [name for name in self._graph.consumers(channel) if name not in self._stops]
        functions = [self._functions[name] for name in first if name in self._functions]
        for function in [*functions, *self._downstream(first)]:
            if function.for_page:
                self._wake(function, 0)

    @property
    def _stops(self) -> frozenset[str]:
        """Stages at which an event stops for a time."""
        return self._delayed.union(self.paused)

    def _downstream(self, stages: Sequence[str]) -> list[_Function]:
        reached = self._graph.downstream(stages, stops=self._stops)
        return [self._functions[name] for name in reached if name in self._functions]

    def _wake(self, function: _Function, delay: float) -> None:
        if self._closed or function.wake_up:
            return
        now = time.perf_counter()
        if now < max(function.silence.at, function.warm_until, function.woken + function.after):
            return
        function.woken = now
        function.wake_up = self._start(self._get(function, delay))

    async def _get(self, function: _Function, delay: float) -> None:
        try:
            await asyncio.sleep(delay)
            if time.perf_counter() < function.silence.at or function.name in self.paused:
                return
            self._counter.labels(function.name).inc()
            self._begin_start(function.name)
            status = await function.client.get(timeout=WITHIN)
            if status < 500:
                function.warm_until = time.perf_counter() + function.after
        except (NotSent, Lost, ResponseTooLarge) as fault:
            log.info(Fields(stage=function.name, outcome="wake-up-failed", reason=str(fault)))
        finally:
            function.wake_up = None
            self.end_start([function.name])

    # For the gateway

    def _begin_start(self, name: str) -> None:
        function = self._functions.get(name)
        if self._closed or function is None or name in self.starting or time.perf_counter() < function.warm_until:
            return
        self.starting[name] = asyncio.Event()
        self._start(self._show(name, self.starting[name]))

    def end_start(self, stages: Iterable[str]) -> None:
        """A request to these stages has ended: they do not start any more."""
        for name in stages:
            if ended := self.starting.pop(name, None):
                ended.set()

    async def _show(self, name: str, ended: asyncio.Event) -> None:
        """Show in Redis that a stage is starting, until it has ended."""
        if await _is_set(ended, within=SHOW_AFTER):
            return
        self._shown.add(name)
        try:
            await self._redis.show_starting(name, within=WITHIN)
            await _is_set(ended, within=WITHIN)
            await self._redis.show_started(name)
            self._shown.discard(name)
        except JournalUnavailable as fault:
            log.info(Fields(stage=name, outcome="start-not-shown", reason=str(fault)))
        finally:
            if self.starting.get(name) is ended:
                del self.starting[name]

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End all wake-ups, and show no stage as starting. Events that are delivered later wake nothing."""
        self._closed = True
        await end_tasks(self._tasks)
        if self._shown:
            with suppress(JournalUnavailable, TimeoutError):
                async with asyncio.timeout(HIDE_WITHIN):
                    await self._redis.show_started(*self._shown)
        for function in self._functions.values():
            await function.client.close()


async def _is_set(event: asyncio.Event, *, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            return await event.wait()
    except TimeoutError:
        return False
