"""Hears what foreign programs PUBLISH, and knows on which side of every change of leader a message lies.

Redis gives all subscribers one order of messages. The lease is announced on a channel of its own, so each bridge sees
at which point in that order leadership changed. A plain message belongs to the bridge whose token came last before
it. Between a clean stop and the next leader's token it belongs to the latter, who is one that heard of the stop.

It hears the channels of all stages that any bridge serves: each beat says which these are, on the channel of the
stages table.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from milepost import keys
from milepost.bridge.adopter import PAUSE, Adopter, Buffer, Heard
from milepost.bridge.metrics import Metrics
from milepost.bridge.subscription import Message, Subscription, subscribed
from milepost.errors import JournalUnavailable
from milepost.events.event import JOURNAL_MARK
from milepost.journal import Upkeep
from milepost.log import Fields

log = logging.getLogger("milepost.bridge")

QUIET = 5.0
"""Seconds of silence after which the connection must answer a PING, within as many again."""

RENEWED = 0.3
"""Of the lease's time: how often it is renewed, or tried for."""

TOKEN = re.compile(rb"([0-9a-f]{32})?")
"""What the lease's channel says: who leads, or nothing."""

FREED = ""
"""What the lease's channel says when a leader stopped cleanly."""

STAGES = keys.STAGES.encode()
CONSUMED = TypeAdapter(frozenset[str])
"""The channel of the stages table, and what it says: which channels are consumed."""


class Listener:
    """One subscription to the consumed channels, to the lease and to the stages table.

    `channels` are those that this bridge itself consumes; `beat` tells all bridges what each of them does. `redis`
    must not retry by itself.
    """

    def __init__(
        self,
        redis: Redis,
        channels: Iterable[str],
        upkeep: Upkeep,
        metrics: Metrics,
        *,
        lease: float,
        beat: Callable[[], Awaitable[None]],
    ) -> None:
        self._redis = redis
        self._own = frozenset([keys.STAGES, keys.LEASE, *channels])
        self._wanted = self._own
        self._confirmed: set[str] = set()
        self._upkeep = upkeep
        self._metrics = metrics
        self._lease = lease
        self._beat = beat
        self._token = uuid4().hex
        self._leader: str | None = None
        self._adopter = Adopter(upkeep, metrics)
        self._unclaimed = Buffer()
        self._try_lease = asyncio.Event()
        self._leasing = asyncio.Lock()
        self._subscribed = asyncio.Event()
        self._tuned = asyncio.Event()
        self._followed = asyncio.Event()
        self.placed = asyncio.Event()
        """Set once it hears every message and knows whether it leads. Nothing published from then on is missed, if the
        leader too has heard by then of the channels that came with this bridge.
        """

    @property
    def leading(self) -> bool:
        """Whether the last token this connection heard is our own."""
        return self._leader == self._token

    def parts(self) -> Iterable[Coroutine[None, None, None]]:
        """What listens, leads when possible and adopts, until cancelled."""
        return [self._listen(), self._seek_lease(), self._adopter.run()]

    async def stop(self, *, within: float) -> None:
        """Give the lease up and adopt all that was heard before; the parts are cancelled after that."""
        try:
            async with asyncio.timeout(within):
                self._adopter.released = self._token
                async with self._leasing:  # what asks for the lease now has its answer before it is freed
                    freed = self.leading and await self._upkeep.release(self._token)
                if freed:
                    await self._followed.wait()
                await self._adopter.idle.wait()
        except (JournalUnavailable, TimeoutError) as fault:
            log.warning(Fields(outcome="left-unadopted", messages=len(self._adopter), reason=str(fault)))

    async def _listen(self) -> None:
        while True:
            try:
                async with subscribed(self._redis) as subscription:
                    await subscription.subscribe(*self._wanted)
                    await self._hear(subscription)
            except (RedisError, OSError) as fault:
                log.warning(Fields(outcome="unsubscribed", reason=str(fault)))
            finally:
                # What was heard on this connection says nothing of what the next one will hear.
                self._confirmed.clear()
                self._subscribed.clear()
                self._tuned.clear()
                self._follow(None)
            await asyncio.sleep(PAUSE)

    async def _hear(self, subscription: Subscription) -> None:
        pinged = False
        while True:
            messages = await subscription.messages(within=QUIET)
            if messages is not None:
                pinged = False
                for message in messages:
                    await self._take(subscription, message)
            elif pinged:
                raise OSError("no answer to PING")
            else:
                await subscription.ping()
                pinged = True

    async def _take(self, subscription: Subscription, message: Message) -> None:
        match message.kind:
            case b"message" if message.channel == STAGES:
                await self._tune(subscription, message.data)
            case b"message" if not message.data.startswith(JOURNAL_MARK):
                self._sort(message.channel.decode(), message.data)
            case b"subscribe":
                self._confirmed.add(message.channel.decode())
                self._look_round()
            case b"unsubscribe":
                self._confirmed.discard(message.channel.decode())
            case b"refused":
                self._give_up(message.channel.decode(), message.data.decode())

    async def _tune(self, subscription: Subscription, message: bytes) -> None:
        """Hear what is consumed by now, and no more."""
        try:
            wanted = self._own | CONSUMED.validate_json(message)
        except ValidationError:  # a stranger's
            return
        if new := wanted - self._wanted:
            self._subscribed.clear()
            await subscription.subscribe(*new)
        if gone := self._wanted - wanted:
            await subscription.unsubscribe(*gone)
        self._wanted = wanted
        self._tuned.set()
        self._look_round()

    def _give_up(self, channel: str, reason: str) -> None:
        """Do without a channel of another bridge that ours may not hear, until the next beat. Its own it must have."""
        if channel in self._own:
            raise RedisError(f"{channel}: {reason}")
        log.warning(Fields(channel=channel, outcome="unheard", reason=reason))
        self._wanted -= {channel}
        self._look_round()

    def _look_round(self) -> None:
        """See whether all subscriptions are confirmed; what is published from then on is heard."""
        if not self._subscribed.is_set() and self._wanted <= self._confirmed:
            self._subscribed.set()
            self._try_lease.set()

    def _sort(self, channel: str, message: bytes) -> None:
        """Only looks whose a message is and puts it by: a slow subscriber is cut off."""
        if channel == keys.LEASE:
            if TOKEN.fullmatch(message):  # else a stranger's
                self._follow(message.decode())
        else:
            heard = Heard(channel, message, self._token if self.leading else None)
            if self._leader == FREED and not self._unclaimed.add(heard):
                self._metrics.adoption_overflow.inc()
            self._adopter.keep(heard)

    def _follow(self, leader: str | None) -> None:
        if leader == self._token and not self.leading:
            log.info(Fields(outcome="leading"))
        self._leader = leader
        self._metrics.leading.set(self.leading)
        unclaimed = self._unclaimed.clear()
        if self.leading:
            self._followed.clear()
            for heard in unclaimed:
                self._adopter.keep(Heard(heard.channel, heard.message, self._token))
        else:
            self._followed.set()
        if leader == FREED:
            self._try_lease.set()

    async def _seek_lease(self) -> None:
        while True:
            await self._subscribed.wait()
            self._try_lease.clear()
            pause = self._lease * RENEWED
            try:
                if not self._tuned.is_set():
                    # Told on a connection that hears it, so no change of the table is missed.
                    await self._beat()
                    async with asyncio.timeout(pause):
                        await self._tuned.wait()
                    continue
                async with self._leasing:
                    if self._adopter.released is None and await self._hold_lease() == FREED:
                        pause = PAUSE
                async with asyncio.timeout(pause):
                    await self._try_lease.wait()
            except TimeoutError:
                continue
            except JournalUnavailable as fault:
                log.warning(Fields(outcome="lease-unknown", reason=str(fault)))
                await asyncio.sleep(PAUSE)

    async def _hold_lease(self) -> str:
        """Take the lease, or renew it; the token that holds it."""
        token = self._token
        heard = self._leader == FREED
        holder = await self._upkeep.lease(token, ttl=self._lease, tell=not self.leading, heard=heard)
        if holder != FREED:
            self.placed.set()
        if holder != token:
            if self.leading:
                log.warning(Fields(outcome="lease-lost"))
            self._token = uuid4().hex
        return holder
