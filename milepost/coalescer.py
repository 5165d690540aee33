"""One round trip for many callers: items that are submitted while a batch is under way form the next batch."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalescer(Generic[Item, Result]):
    """Runs items in batches of at most `most_items`, which have at most `most_bytes` together by their `size`.

    A lone item runs at once. `run` returns one result for each item, in order. If it raises, every caller of that batch
    gets the exception. So does every caller that waits for the next batch: else they would wait for one time-out after
    another. A `run` whose fault is of its own batch alone returns the exception as a result. An item whose size cannot
    be computed fails alone.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        size: Callable[[Item], int] = lambda _: 0,
        *,
        most_items: int = 256,
        most_bytes: int = 4_000_000,
    ) -> None:
        self._run = run
        self._size = size
        self._most_items = most_items
        self._most_bytes = most_bytes
        self._waiting: list[tuple[Item, int, asyncio.Future[Result]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Run `item` in the next batch and return its own result. A caller that is cancelled changes nothing.

        Raises what its `size` raises.
        """
        size = self._size(item)  # before the item is queued: a fault is this caller's alone
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, size, future))
        if self._runner is None:
            self._runner = asyncio.create_task(self._drain())
        try:
            return await future
        finally:
            del future  # its exception refers to this frame

    async def _drain(self) -> None:
        batch: list[tuple[Item, int, asyncio.Future[Result]]] = []
        try:
            while self._waiting:
                batch = self._take()
                await self._run_one(batch)
        except asyncio.CancelledError:
            for _, _, future in batch + self._waiting:
                future.cancel()
            self._waiting = []
            raise
        finally:
            self._runner = None

    def _take(self) -> list[tuple[Item, int, asyncio.Future[Result]]]:
        total, count = 0, 0
        for _, size, _ in self._waiting[: self._most_items]:
            total += size
            if count and total > self._most_bytes:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def _run_one(self, batch: list[tuple[Item, int, asyncio.Future[Result]]]) -> None:
        try:
            results = list(zip(batch, await self._run([item for item, _, _ in batch]), strict=True))
        except Exception as fault:  # noqa: BLE001 - handed to every caller
            _fail(batch + self._waiting, fault)
            self._waiting = []
            batch.clear()  # the fault refers to this frame, and each future to the fault: they would keep each other
            return
        for (_, _, future), result in results:
            if not future.done():
                future.set_result(result)


def _fail(batch: list[tuple[Item, int, asyncio.Future[Result]]], fault: Exception) -> None:
    for _, _, future in batch:
        if not future.done():
            future.set_exception(fault)
