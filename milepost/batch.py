"""Many callers, one round trip: what is submitted while a batch is under way makes the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batch(Generic[Item, Result]):
    """Collects items and runs them together: `most_items` at most, and of `most_bytes` by their `size`. A lone item
    goes at once; `pace` is how many seconds apart two batches begin when items come faster than that, so that each
    carries more.

    `run` answers one result per item, in order; what it raises, every submitter of that batch gets, and everyone who
    waits behind it: were each of their batches to find out for itself, the last would wait for all the time-outs.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        size: Callable[[Item], int] = lambda _: 0,
        *,
        most_items: int = 256,
        most_bytes: int = 4_000_000,
        pace: float = 0.0,
    ) -> None:
        self._run = run
        self._size = size
        self._most_items = most_items
        self._most_bytes = most_bytes
        self._pace = pace
        self._next = 0.0
        self._pending: list[tuple[Item, asyncio.Future[Result]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Run `item` in the next batch and return its own result. A caller that goes away changes nothing."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending.append((item, future))
        if self._runner is None:
            self._runner = asyncio.create_task(self._drain())
        try:
            return await future
        finally:
            del future  # what it raises refers to this frame

    async def _drain(self) -> None:
        now = asyncio.get_running_loop().time
        try:
            while self._pending:
                if (early := self._next - now()) > 0:
                    await asyncio.sleep(early)
                self._next = now() + self._pace
                await self._run_one(self._take())
        except asyncio.CancelledError:
            for _, future in self._pending:
                future.cancel()
            self._pending = []
            raise
        finally:
            self._runner = None

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        weight, count = 0, 0
        for item, _ in self._pending[: self._most_items]:
            weight += self._size(item)
            if count and weight > self._most_bytes:
                break
            count += 1
        taken, self._pending = self._pending[:count], self._pending[count:]
        return taken

    async def _run_one(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = list(zip(batch, await self._run([item for item, _ in batch]), strict=True))
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as fault:  # noqa: BLE001 - handed to every submitter
            _fail(batch + self._pending, fault)
            self._pending = []
            batch.clear()  # the fault refers to this frame, and each future to the fault: they would keep each other
            return
        for (_, future), result in results:
            if not future.done():
                future.set_result(result)


def _fail(batch: list[tuple[Item, asyncio.Future[Result]]], fault: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(fault)
