"""Deliveries that go together: what a route posts in one turn of the event loop, up to its `batch` in a request."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from milepost.bridge.client import Client, Lost, NotSent, TooLarge
from milepost.bridge.ruling import is_of
from milepost.bridge.verdict import MULTI_STATUS, Delivered, RouteDown, Verdict, judge_batch
from milepost.events.batch import BATCH_TYPE, write_batch
from milepost.events.event import MAX_EVENT
from milepost.journal import Entry
from milepost.log import Fields

log = logging.getLogger("milepost.bridge")

AGAIN_ONE_MORE = 64
"""Batches that go well after which they may be one event larger again."""


@dataclass(frozen=True, slots=True)
class Alone:
    """No verdict: the event is to be delivered alone. `timed_out`: because the batch was not answered in time."""

    timed_out: bool = False


Waiting = tuple[Entry, asyncio.Future[Verdict | Alone | None]]


class Together:
    """POSTs in batched content mode. A batch is an attempt at nothing but speed: what its answer says of an event is
    that event's verdict, and an event of which it says nothing, or nothing that can be relied on, is delivered alone.
    """

    def __init__(self, client: Client, stage: str, *, most: int, timeout: float, emits: str | None) -> None:
        self._client = client
        self._stage = stage
        self._most = most
        self._now = float(most)
        self._timeout = timeout
        self._emits = emits
        self._waiting: list[Waiting] = []
        self._posts: set[asyncio.Task[None]] = set()

    async def deliver(self, entry: Entry) -> Verdict | Alone | None:
        """The verdict on an event that went with others, if there is one; None where there was nothing to go with."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._go)
        verdict: asyncio.Future[Verdict | Alone | None] = loop.create_future()
        self._waiting.append((entry, verdict))
        return await verdict

    def _go(self) -> None:
        waiting, self._waiting = [one for one in self._waiting if not one[1].done()], []
        for batch in self._batches(waiting):
            if len(batch) == 1:
                batch[0][1].set_result(None)
                continue
            post = asyncio.create_task(self._post(batch))
            self._posts.add(post)
            post.add_done_callback(self._posts.discard)

    def _batches(self, waiting: Sequence[Waiting]) -> Iterator[Sequence[Waiting]]:
        batch: list[Waiting] = []
        size = 0
        for one in waiting:
            size += len(one[0].event) + 1
            if batch and (len(batch) == int(self._now) or size >= MAX_EVENT):
                yield batch
                batch, size = [], len(one[0].event) + 1
            batch.append(one)
        if batch:
            yield batch

    async def close(self) -> None:
        """End what is on the wire. Nobody may wait for it any more."""
        for post in self._posts:
            post.cancel()
        if self._posts:
            await asyncio.wait(self._posts)

    async def _post(self, batch: Sequence[Waiting]) -> None:
        verdicts: Sequence[Verdict | Alone] = [Alone()] * len(batch)
        try:
            verdicts = await self._judged([entry for entry, _ in batch])
        except Exception:
            log.exception(Fields(stage=self._stage, outcome="batch-not-posted"))
        finally:
            for (_, waiter), verdict in zip(batch, verdicts, strict=True):
                if not waiter.done():
                    waiter.set_result(verdict)

    async def _judged(self, entries: Sequence[Entry]) -> Sequence[Verdict | Alone]:
        body = write_batch(entry.event for entry in entries)
        try:
            answer = await self._client.post(body, content_type=BATCH_TYPE, timeout=self._timeout)
        except NotSent as fault:
            return [RouteDown(None, str(fault))] * len(entries)
        except TooLarge as fault:
            if self._emits is None and 200 <= fault.status < 300 and fault.status != MULTI_STATUS:
                return [Delivered()] * len(entries)  # its body is nothing to us
            self._now = max(2.0, len(entries) // 2)  # what they are answered with is too large together
            return self._told([Alone()] * len(entries), str(fault))
        except Lost as fault:
            return self._told([Alone(fault.timed_out)] * len(entries), str(fault))
        self._now = min(float(self._most), self._now + 1 / AGAIN_ONE_MORE)
        named = [partial(is_of, entry) for entry in entries]
        verdicts = judge_batch(answer.status, answer.headers, answer.body, named, emits=self._emits)
        return self._told([verdict or Alone() for verdict in verdicts], f"HTTP {answer.status}")

    def _told(self, verdicts: Sequence[Verdict | Alone], reason: str) -> Sequence[Verdict | Alone]:
        if alone := sum(isinstance(verdict, Alone) for verdict in verdicts):
            log.info(Fields(stage=self._stage, outcome="batch-undone", events=alone, reason=reason))
        return verdicts
