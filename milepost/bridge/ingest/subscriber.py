"""Receives what foreign programs PUBLISH, and decides which bridge adopts a message.

1. Redis gives all subscribers the same messages in the same order. Every bridge subscribes to all consumed channels, to
   the channel of the lease and to that of the stages table.
2. The bridge that takes the lease announces its token on the channel of the lease, in the same step. So each bridge
   sees at which point in the order of messages the leader changed.
3. A plain message belongs to the bridge whose token came last before it. That bridge adopts it under that token, and
   Redis refuses when another bridge holds the lease by then.
4. A leader that stops cleanly announces an empty token. Messages published after that belong to the next leader. For
   one second only bridges that received the release may take the lease, so the next leader has received all of them.
5. A message that is a CloudEvent is adopted by any bridge: the dedup mark makes that happen once.
6. A message that begins with a journalid is Milepost's own. It is in its journal already.
7. What was received on one connection says nothing of the next one: after a reconnect a bridge knows no leader until a
   token comes.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from milepost.bridge.ingest.adopter import PAUSE, Adopter, Buffer, ReceivedMessage
from milepost.bridge.metrics import BridgeMetrics
from milepost.errors import JournalUnavailable
from milepost.events.event import JOURNAL_MARK
from milepost.journal import Maintenance, keys
from milepost.journal.subscription import Message, Subscription, subscribed
from milepost.observe.logs import Fields

log = logging.getLogger("milepost.bridge")

QUIET = 5.0
"""Seconds of silence after which the connection must answer a PING, within as many again."""

RENEWED = 0.3
"""Of the lease's time: how often it is renewed, or tried for."""

TOKEN = re.compile(rb"([0-9a-f]{32})?")
"""A message on the channel of the lease: the leader's token, or nothing after a release."""

RELEASED = ""
"""The token after a clean stop of the leader."""

STAGES = keys.STAGES.encode()
CONSUMED = TypeAdapter(frozenset[str])
"""A message on the channel of the stages table: which channels are consumed."""


class Subscriber:
    """One subscription to the consumed channels, to the lease and to the stages table.

    `channels` are those that this bridge itself consumes; `beat` announces to all bridges what each of them consumes.
    `redis` must not retry by itself.
    """

    def __init__(
        self,
        redis: Redis,
        channels: Iterable[str],
        maintenance: Maintenance,
        metrics: BridgeMetrics,
        *,
        lease: float,
        beat: Callable[[], Awaitable[None]],
    ) -> None:
        self._redis = redis
        self._own = frozenset([keys.STAGES, keys.LEASE, *channels])
        self._wanted = self._own
        self._confirmed: set[str] = set()
        self._maintenance = maintenance
        self._metrics = metrics
        self._lease = lease
        self._beat = beat
        self._token = uuid4().hex
        self._leader: str | None = None
        self._adopter = Adopter(maintenance, metrics)
        self._unclaimed = Buffer()
        self._try_lease = asyncio.Event()
        self._leasing = asyncio.Lock()
        self._subscribed = asyncio.Event()
        self._channels_known = asyncio.Event()
        self._not_leading = asyncio.Event()
        self.placed = asyncio.Event()
        """Set when this bridge is subscribed to everything and knows who leads. A message on a channel that is new with
        this bridge can still be missed until the leader has subscribed to it.
        """

    @property
    def leading(self) -> bool:
        """Whether the last token that came on this connection is our own."""
        return self._leader == self._token

    def parts(self) -> Iterable[Coroutine[None, None, None]]:
        """Return what receives, leads when possible and adopts, until cancelled."""
        return [self._receive(), self._seek_lease(), self._adopter.run()]

    async def stop(self, *, within: float) -> None:
        """Release the lease and adopt everything received before; the parts are cancelled after that."""
        try:
            async with asyncio.timeout(within):
                self._adopter.released = self._token
                async with self._leasing:  # a request for the lease that is under way has its answer first
                    released = self.leading and await self._maintenance.release(self._token)
                if released:
                    await self._not_leading.wait()
                await self._adopter.idle.wait()
        except (JournalUnavailable, TimeoutError) as fault:
            log.warning(Fields(outcome="left-unadopted", messages=len(self._adopter), reason=str(fault)))

    async def _receive(self) -> None:
        while True:
            try:
                async with subscribed(self._redis) as subscription:
                    await subscription.subscribe(*self._wanted)
                    await self._receive_from(subscription)
            except (RedisError, OSError) as fault:
                log.warning(Fields(outcome="unsubscribed", reason=str(fault)))
            finally:
                self._confirmed.clear()
                self._subscribed.clear()
                self._channels_known.clear()
                self._follow(None)
            await asyncio.sleep(PAUSE)

    async def _receive_from(self, subscription: Subscription) -> None:
        async for messages in subscription.messages(silence=QUIET):
            for message in messages:
                await self._handle(subscription, message)

    async def _handle(self, subscription: Subscription, message: Message) -> None:
        match message.kind:
            case b"message" if message.channel == STAGES:
                await self._subscribe_to_consumed(subscription, message.data)
            case b"message" if not message.data.startswith(JOURNAL_MARK):
                self._sort(message.channel.decode(), message.data)
            case b"subscribe":
                self._confirmed.add(message.channel.decode())
                self._check_subscribed()
            case b"unsubscribe":
                self._confirmed.discard(message.channel.decode())
            case b"refused":
                self._give_up(message.channel.decode(), message.data.decode())

    async def _subscribe_to_consumed(self, subscription: Subscription, message: bytes) -> None:
        """Follow a message of the stages table: subscribe to the channels that are consumed now, and to no others."""
        try:
            wanted = self._own | CONSUMED.validate_json(message)
        except ValidationError:  # of a foreign program
            return
        if new := wanted - self._wanted:
            self._subscribed.clear()
            await subscription.subscribe(*new)
        if gone := self._wanted - wanted:
            await subscription.unsubscribe(*gone)
        self._wanted = wanted
        self._channels_known.set()
        self._check_subscribed()

    def _give_up(self, channel: str, reason: str) -> None:
        """Redis refuses a channel. This bridge needs its own; it goes on without another bridge's until a beat."""
        if channel in self._own:
            raise RedisError(f"{channel}: {reason}")
        log.warning(Fields(channel=channel, outcome="not-subscribed", reason=reason))
        self._wanted -= {channel}
        self._check_subscribed()

    def _check_subscribed(self) -> None:
        """Once all subscriptions are confirmed, every message published from then on is received."""
        if not self._subscribed.is_set() and self._wanted <= self._confirmed:
            self._subscribed.set()
            self._try_lease.set()

    def _sort(self, channel: str, message: bytes) -> None:
        """Decide whose a message is, and queue it. Nothing else: Redis cuts off a slow subscriber."""
        if channel == keys.LEASE:
            if TOKEN.fullmatch(message):  # else it is of a foreign program
                self._follow(message.decode())
        else:
            received = ReceivedMessage(channel, message, self._token if self.leading else None)
            if self._leader == RELEASED and not self._unclaimed.add(received):
                self._metrics.adoption_overflow.inc()
            self._adopter.add(received)

    def _follow(self, leader: str | None) -> None:
        """A new leader was announced; None: no leader is known on this connection."""
        if leader == self._token and not self.leading:
            log.info(Fields(outcome="leading"))
        self._leader = leader
        self._metrics.leading.set(self.leading)
        unclaimed = self._unclaimed.clear()
        if self.leading:
            self._not_leading.clear()
            for received in unclaimed:
                self._adopter.add(ReceivedMessage(received.channel, received.message, self._token))
        else:
            self._not_leading.set()
        if leader == RELEASED:
            self._try_lease.set()

    async def _seek_lease(self) -> None:
        while True:
            await self._subscribed.wait()
            self._try_lease.clear()
            pause = self._lease * RENEWED
            try:
                if not self._channels_known.is_set():
                    # A beat that this connection receives: no change of the table is missed from then on.
                    await self._beat()
                    async with asyncio.timeout(pause):
                        await self._channels_known.wait()
                    continue
                async with self._leasing:
                    if self._adopter.released is None and await self._hold_lease() == RELEASED:
                        pause = PAUSE
                async with asyncio.timeout(pause):
                    await self._try_lease.wait()
            except TimeoutError:
                continue
            except JournalUnavailable as fault:
                log.warning(Fields(outcome="lease-unknown", reason=str(fault)))
                await asyncio.sleep(PAUSE)

    async def _hold_lease(self) -> str:
        """Take the lease, or renew it; return the token that holds it."""
        token = self._token
        received = self._leader == RELEASED
        holder = await self._maintenance.lease(token, ttl=self._lease, announce=not self.leading, received=received)
        if holder != RELEASED:
            self.placed.set()
        if holder != token:
            if self.leading:
                log.warning(Fields(outcome="lease-lost"))
            self._token = uuid4().hex
        return holder
