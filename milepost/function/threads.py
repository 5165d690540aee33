"""Run sync functions in threads, so that a call that never returns holds up no other.

1. At most MOST calls that have begun less than COUNTED_FOR ago run at once; further ones wait, because threads that
   compute get in each other's way.
2. A call that lasts longer does not count any more: it waits for something, perhaps for ever.
3. A call that cannot begin in time is refused as Unavailable: with many calls that hang, others would wait for minutes.
4. The threads are daemons: the end of the process does not wait for them, as it does for those of an executor.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any
from weakref import WeakKeyDictionary

from milepost.errors import Unavailable

MOST = min(32, (os.cpu_count() or 1) + 4)
"""As many threads as asyncio's own executor has."""

COUNTED_FOR = 1.0
"""Seconds."""

_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


class _Slot:
    """The place of one call among those that count, until it ends or has lasted COUNTED_FOR."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(COUNTED_FOR, self.free)

    def free(self) -> None:
        """Let another call begin. Only the first time counts."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._slots.release()


async def run_in_thread(by: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a thread, with the caller's context. Returns its result, or raises its exception.

    Raises Unavailable if it cannot begin `by` that time of the event loop.
    """
    loop = asyncio.get_running_loop()
    if (slots := _slots.get(loop)) is None:
        slots = _slots[loop] = asyncio.Semaphore(MOST)
    try:
        async with asyncio.timeout_at(by):
            await slots.acquire()
    except TimeoutError:
        raise Unavailable("all threads were in use", retry_after=1) from None
    slot, context = _Slot(slots), copy_context()
    future: asyncio.Future[Any] = loop.create_future()

    def end(result: Any, fault: BaseException | None) -> None:
        slot.free()
        if future.done():  # the caller was cancelled
            return
        if fault is None:
            future.set_result(result)
        else:
            future.set_exception(fault)

    def call() -> None:
        result: Any = None
        fault: BaseException | None = RuntimeError("the function did not return")
        try:
            result, fault = context.run(function, *arguments), None
        except StopIteration as raised:  # no future can hold it
            fault = RuntimeError("the function raised StopIteration")
            fault.__cause__ = raised
        except (Exception, SystemExit) as raised:  # noqa: BLE001 - handed to the caller
            fault = raised
        finally:
            with suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(end, result, fault)

    try:
        threading.Thread(target=call, daemon=True).start()
    except RuntimeError:  # the system has no more threads
        slot.free()
        raise
    return await future
