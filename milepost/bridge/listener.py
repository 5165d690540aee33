"""Hears what foreign programs PUBLISH, and adopts it; knows on which side of every change of leader a message lies.

Redis gives all subscribers one order of messages. The lease is announced on a channel of its own, so each bridge sees
at which point in that order leadership changed. A plain message belongs to the bridge whose token came last before
it. Between a clean stop and the next leader's token it belongs to the latter.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar
from uuid import uuid4

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from milepost import keys
from milepost.bridge.metrics import Metrics
from milepost.errors import EventError, JournalUnavailable
from milepost.event import JOURNAL_MARK
from milepost.journal import Foreign, Unreadable, Upkeep
from milepost.wrap import wrap

Found = TypeVar("Found")

log = logging.getLogger("milepost.bridge")

QUIET = 5.0
"""Seconds of silence after which the connection must answer a PING, within as many again."""

MOST_BUFFERED = 10_000
MOST_BUFFERED_BYTES = 32_000_000
"""What waits for adoption while Redis refuses; more is dropped, and counted."""

MOST_ADOPTED = 256
"""Messages adopted in one step."""

PAUSE = 0.25
"""Seconds between two tries while Redis is away or refuses."""

RENEWED = 0.3
"""Of the lease's time: how often it is renewed, or tried for."""

TOKEN = re.compile(rb"([0-9a-f]{32})?")
"""What the lease's channel says: who leads, or nothing."""

FREED = ""
"""What the lease's channel says when a leader stopped cleanly."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message, and the token under which it is ours to adopt if it is plain."""

    channel: str
    message: bytes
    token: str | None


class Listener:
    """One subscription to the consumed channels and to the lease. `redis` must not retry by itself."""

    def __init__(
        self, redis: Redis, channels: Iterable[str], upkeep: Upkeep, metrics: Metrics, *, lease: float
    ) -> None:
        self._redis = redis
        self._channels = [*channels, keys.LEASE]
        self._upkeep = upkeep
        self._metrics = metrics
        self._lease = lease
        self._token = uuid4().hex
        self._leader: str | None = None
        self._released: str | None = None
        self._buffer: deque[Heard] = deque()
        self._buffered = 0
        self._unclaimed: deque[tuple[str, bytes]] = deque(maxlen=MOST_BUFFERED)
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._try_lease = asyncio.Event()
        self._leasing = asyncio.Lock()
        self._subscribed = asyncio.Event()
        self._followed = asyncio.Event()
        self.placed = asyncio.Event()
        """Set once it hears every message and knows whether it leads: nothing published from then on is missed."""

    @property
    def leading(self) -> bool:
        """Whether the last token this connection heard is our own."""
        return self._leader == self._token

    def parts(self) -> Iterable[Coroutine[None, None, None]]:
        """What listens, leads when possible and adopts, until cancelled."""
        return [self._listen(), self._seek_lease(), self._adopt()]

    async def stop(self, *, within: float) -> None:
        """Give the lease up and adopt all that was heard before; the parts are cancelled after that."""
        try:
            async with asyncio.timeout(within):
                self._released = self._token
                async with self._leasing:  # what asks for the lease now has its answer before it is freed
                    freed = self.leading and await self._upkeep.release(self._token)
                if freed:
                    await self._followed.wait()
                await self._idle.wait()
        except (JournalUnavailable, TimeoutError) as fault:
            log.warning("outcome=left-unadopted messages=%d reason=%r", len(self._buffer), str(fault))

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(*self._channels)
                    self._subscribed.set()
                    self._try_lease.set()
                    await self._hear(subscription)
            except (RedisError, OSError) as fault:
                log.warning("outcome=unsubscribed reason=%r", str(fault))
            finally:
                # What was heard on this connection says nothing of what the next one will hear.
                self._subscribed.clear()
                self._follow(None)
            await asyncio.sleep(PAUSE)

    async def _hear(self, subscription: PubSub) -> None:
        pinged = False
        while True:
            message = await subscription.get_message(timeout=QUIET)
            if message is not None:
                pinged = False
                if message["type"] == "message":
                    self._sort(message["channel"].decode(), message["data"])
            elif pinged:
                raise OSError("no answer to PING")
            else:
                await subscription.ping()
                pinged = True

    def _sort(self, channel: str, message: bytes) -> None:
        """Only looks whose a message is and puts it by: a slow subscriber is cut off."""
        if channel == keys.LEASE:
            if TOKEN.fullmatch(message):  # else a stranger's
                self._follow(message.decode())
        elif not message.startswith(JOURNAL_MARK):
            if self._leader == FREED:
                self._unclaimed.append((channel, message))
            self._keep(channel, message)

    def _follow(self, leader: str | None) -> None:
        if leader == self._token and not self.leading:
            log.info("outcome=leading")
        self._leader = leader
        self._metrics.leading.set(self.leading)
        if self.leading:
            self._followed.clear()
            for channel, message in self._unclaimed:
                self._keep(channel, message)
        else:
            self._followed.set()
        self._unclaimed.clear()
        if leader == FREED:
            self._try_lease.set()

    def _keep(self, channel: str, message: bytes) -> None:
        if len(self._buffer) >= MOST_BUFFERED or self._buffered + len(message) > MOST_BUFFERED_BYTES:
            self._metrics.adoption_overflow.inc()
            return
        self._buffered += len(message)
        self._buffer.append(Heard(channel, message, self._token if self.leading else None))
        self._idle.clear()
        self._filled.set()

    async def _seek_lease(self) -> None:
        while True:
            await self._subscribed.wait()
            async with self._leasing:
                if self._released is None:
                    await self._hold_lease()
            self._try_lease.clear()
            try:
                async with asyncio.timeout(self._lease * RENEWED):
                    await self._try_lease.wait()
            except TimeoutError:
                continue

    async def _hold_lease(self) -> None:
        token = self._token
        try:
            holder = await self._upkeep.lease(token, ttl=self._lease, tell=not self.leading)
        except JournalUnavailable as fault:
            log.warning("outcome=lease-unknown reason=%r", str(fault))
            return
        self.placed.set()
        if holder != token:
            if self.leading:
                log.warning("outcome=lease-lost")
            self._token = uuid4().hex

    async def _adopt(self) -> None:
        while True:
            while not self._buffer:
                self._idle.set()
                self._filled.clear()
                await self._filled.wait()
            batch = [self._buffer.popleft() for _ in range(min(MOST_ADOPTED, len(self._buffer)))]
            self._buffered -= sum(len(heard.message) for heard in batch)
            foreign, unreadable = _read(batch)
            await self._insist(self._journal, foreign)
            await self._insist(self._put_away, unreadable)

    async def _insist(self, step: Callable[[list[Found]], Awaitable[list[Found]]], items: list[Found]) -> None:
        """Repeat a step with what it left over, through a Redis that is away or refuses."""
        while items:
            try:
                items = await step(items)
            except JournalUnavailable as fault:
                log.warning("outcome=unadopted messages=%d reason=%r", len(items), str(fault))
                await asyncio.sleep(PAUSE)

    async def _journal(self, foreign: list[Foreign]) -> list[Foreign]:
        left = []
        for item, answer in zip(foreign, await self._upkeep.adopt(foreign), strict=True):
            if answer == "not leading" and item.token == self._released:
                # We held the lease until we freed it ourselves, so what came before that is ours still.
                left.append(replace(item, token=None))
            else:
                self._metrics.adopted.labels(item.event.type, answer.replace(" ", "-")).inc()
        return left

    async def _put_away(self, unreadable: list[Unreadable]) -> list[Unreadable]:
        self._metrics.unreadable_dropped.inc(await self._upkeep.unreadable(unreadable))
        for message in unreadable:
            log.warning("channel=%s outcome=unreadable reason=%r", message.channel, message.reason)
        return []


def _read(batch: Iterable[Heard]) -> tuple[list[Foreign], list[Unreadable]]:
    """What of these messages is to be adopted, and what nobody can read. The leader alone speaks for plain ones."""
    foreign, unreadable = [], []
    for heard in batch:
        try:
            event, named = wrap(heard.channel, heard.message)
        except EventError as fault:
            if heard.token:
                unreadable.append(Unreadable(heard.channel, heard.message, str(fault)))
            continue
        if named:
            foreign.append(Foreign(event, None))
        elif heard.token:
            foreign.append(Foreign(event, heard.token))
    return foreign, unreadable
