"""Run a stage's own start and stop: an async context manager, as FastAPI has it.

1. The first request enters it: the first valid event, or the `GET /` by which the bridge wakes the stage.
2. Other requests wait until it is entered. After START_WITHIN they are answered 503, and the start goes on. If the
   start fails they are answered 503, and the next request enters it again; also if the context manager ends by itself,
   because a task of its own has failed.
3. When the server has answered everything and stops, milepost/function/app.py leaves it. Without that module it is left
   when the event loop closes. A stop that takes longer than STOP_WITHIN is cancelled.

One task enters and leaves it, because some libraries demand that. Each event loop has its own, as tests need it.
"""

import asyncio
import inspect
import logging
import os
from asyncio import AbstractEventLoop, Event, Future, Task
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from milepost.errors import ConfigurationError, Unavailable
from milepost.function.environment import request_timeout
from milepost.observe.logs import Fields

log = logging.getLogger("milepost.stage")

MakeLifespan = Callable[..., AbstractAsyncContextManager[Any]]
"""Makes the context manager. It is given the stage's description if it takes an argument."""

START_WITHIN = 30.0
"""Most seconds that a request waits for the start; less where the bridge's `timeout` is short. It counts a timeout
against the event.
"""

STOP_WITHIN = 20.0
"""Most seconds that a process waits for its lifespan to end. Kubernetes kills a container 30 s after SIGTERM, unless
its pod says otherwise, and the requests under way end before the stop begins.
"""

CLEAN_UP_WITHIN = 1.0
"""Most seconds that a cancelled stop has for its own `finally`."""

_lifespans: "WeakSet[Lifespan]" = WeakSet()


class Lifespan:
    """The start and the stop of one stage."""

    def __init__(self, make: MakeLifespan, description: Any) -> None:
        parameters = len(inspect.signature(make).parameters)
        if parameters > 1:
            raise ConfigurationError(f"stage {description.name}: lifespan takes the stage's description, or nothing")
        self._make = make
        self._arguments = [description][:parameters]
        self._within = min(START_WITHIN, request_timeout(os.environ) / 2)
        self._started: WeakKeyDictionary[AbstractEventLoop, _Started] = WeakKeyDictionary()
        _lifespans.add(self)

    async def enter(self) -> None:
        """Wait until it is entered in this event loop. Raises Unavailable if that fails, or takes too long."""
        loop = asyncio.get_running_loop()
        started = self._started.get(loop)
        if started is None or started.ended:
            started = self._started[loop] = _Started(partial(self._make, *self._arguments))
        if not started.ready.done():
            await asyncio.wait([started.ready], timeout=self._within)
        if not started.ready.done():
            raise Unavailable(f"the stage has been starting for {self._within:g} s and more")
        try:
            started.ready.result()
        except Unavailable:
            self._forget(loop, started)
            raise
        except Exception as fault:
            if self._forget(loop, started):
                log.exception(Fields(outcome="not-started"))
            raise Unavailable("the stage could not start; its log says why") from fault

    def _forget(self, loop: AbstractEventLoop, started: "_Started") -> bool:
        """Let the next request try again. False if another request has done so."""
        if self._started.get(loop) is not started:
            return False
        del self._started[loop]
        return True

    async def leave(self) -> None:
        """Leave it, if it was entered in this event loop."""
        started = self._started.pop(asyncio.get_running_loop(), None)
        if started is not None:
            await started.end()


class _Started:
    """One entered context manager. `ready` is done when it is entered."""

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self.ready: Future[None] = asyncio.get_running_loop().create_future()
        self._stop = Event()
        self._task: Task[None] = asyncio.create_task(self._run(make))
        self._task.add_done_callback(self._ended)

    @property
    def ended(self) -> bool:
        """Whether it was left, or could not be entered."""
        return self._task.done()

    async def end(self) -> None:
        """Leave it. A start that is under way is cancelled, and so is a stop that takes longer than STOP_WITHIN: one
        that hangs would keep the process.
        """
        self._stop.set()
        if not self.ready.done():
            self._task.cancel()
        _, late = await asyncio.wait([self._task], timeout=STOP_WITHIN)
        if late:
            reason = f"the lifespan did not end within {STOP_WITHIN:g} s; it was cancelled"
            log.error(Fields(outcome="not-stopped", reason=reason))
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLEAN_UP_WITHIN)

    async def _run(self, make: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        try:
            async with make():
                self.ready.set_result(None)
                await self._stop.wait()
        except Exception as fault:
            if self.ready.done():
                log.exception(Fields(outcome="not-stopped"))
            else:
                self.ready.set_exception(fault)

    def _ended(self, _task: "Task[None]") -> None:
        """Tell the waiting requests that the start was cancelled, perhaps before it began."""
        if not self.ready.done():
            self.ready.set_exception(Unavailable("the stage's start was cancelled"))
            self.ready.exception()  # no request may wait for it any more


async def leave_all() -> None:
    """Leave the lifespans that were entered in this event loop."""
    for lifespan in list(_lifespans):
        await lifespan.leave()
