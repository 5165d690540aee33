"""Receives messages that other programs PUBLISH, and decides which bridge adopts each: the leader change.

1. Redis sends the same messages in the same order to all subscribers. Every bridge subscribes to all consumed channels,
   to the channel of the lease and to the channel of the stages table.
2. A bridge that takes the lease publishes its token on the channel of the lease, in the same step. So every bridge sees
   between which messages the leader changed.
3. A plain message belongs to the bridge whose token came last before it. That bridge adopts it under its token. Redis
   refuses that if another bridge holds the lease by then.
4. A leader that stops publishes an empty token: the release. Messages after it belong to the next leader. For a second
   only bridges that received the release may take the lease, so the next leader has received all of these messages.
5. A message that is a CloudEvent has an id. Every bridge tries to adopt it, and the dedup mark lets one succeed.
6. A message that begins with `journalid` is Milepost's own, and is in its journal already. It is ignored.
7. After a reconnect a bridge knows no leader until a token comes, because it may have missed one. When it tries to take
   the lease, Redis publishes the token that holds it again.
8. A leader that dies publishes no release. Plain messages from its death until the next token are lost, because Redis
   refuses its token once the lease is another's, and no other bridge took them. A token that follows another one
   without a release shows that. The loss began up to 1.3 times the lease's duration before that token: the lease
   expires one duration after its last renewal, and the other bridges try for it each 0.3 of one.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from milepost.bridge.failure_log import FailureLog
from milepost.bridge.ingest.adopter import TRY_AGAIN_AFTER, Adopter, Buffer, ReceivedMessage
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
"""Fraction of the lease's time after which it is renewed, or tried for again."""

TOKEN = re.compile(rb"([0-9a-f]{32})?")
"""A message on the channel of the lease: the leader's token, or an empty text for a release."""

RELEASED = ""
"""The token after a clean stop of the leader. `Subscriber._leader` is this, the leader's token, or None: unknown."""

STAGES = keys.STAGES.encode()
CONSUMED = TypeAdapter(frozenset[str])
"""A message on the channel of the stages table: the channels that served stages consume."""


class Subscriber:
    """One subscription: to the consumed channels, to the lease and to the stages table.

    `channels`: those that this bridge consumes. `beat` makes Redis publish the channels that all bridges consume.
    `redis` must not repeat commands by itself.
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
        self._leaderless_since: float | None = None
        self._adopter = Adopter(maintenance, metrics)
        self._unclaimed = Buffer()
        self._try_lease = asyncio.Event()
        self._leasing = asyncio.Lock()
        self._subscribed = asyncio.Event()
        self._channels_known = asyncio.Event()
        self._lead_ended = asyncio.Event()
        self._superseded = False
        self.placed = asyncio.Event()
        """Set once this bridge is subscribed to all channels and knows the leader. A message on a channel that only it
        consumes can still be missed until the leader has subscribed to the channel too.
        """

    @property
    def leading(self) -> bool:
        """Whether the last token that came on this connection is our own."""
        return self._leader == self._token

    def coroutines(self) -> Iterable[Coroutine[None, None, None]]:
        """Return the coroutines that receive, seek the lease and adopt, until they are cancelled."""
        return [self._receive(), self._seek_lease(), self._adopter.run()]

    async def stop(self, *, within: float) -> None:
        """Release the lease and adopt the messages received before, for `within` seconds. Then cancel `coroutines`."""
        try:
            async with asyncio.timeout(within):
                self._adopter.released = self._token
                async with self._leasing:  # wait for the answer of a request for the lease
                    await self.release_lease()
                await self._lead_ended.wait()
                await self._adopter.idle.wait()
        except (JournalUnavailable, TimeoutError) as fault:
            log.warning(Fields(outcome="left-unadopted", messages=len(self._adopter), reason=str(fault)))

    async def release_lease(self) -> None:
        """Release the lease. `_lead_ended` is set once no message of this bridge can arrive any more: when the release
        arrives on this connection, or the connection is lost. If the lease was another's by then (`_superseded`), the
        other's token ends the lead. It may have come before.
        """
        self._lead_ended.clear()
        self._superseded = not await self._maintenance.release(self._token)
        if self._superseded and not self.leading:
            self._lead_ended.set()

    async def _receive(self) -> None:
        """Stay subscribed."""
        failures = FailureLog(outcome="unsubscribed")
        while True:
            try:
                async with subscribed(self._redis) as subscription:
                    await subscription.subscribe(*sorted(self._wanted))
                    await self._receive_from(subscription)
            except (RedisError, OSError) as fault:
                if self._subscribed.is_set():
                    failures.succeeded()
                failures.failed(fault)
            finally:
                self._confirmed.clear()
                self._subscribed.clear()
                self._channels_known.clear()
                self._follow(None)
            await asyncio.sleep(TRY_AGAIN_AFTER)

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
                self._go_on_without(message.channel.decode(), message.data.decode())

    async def _subscribe_to_consumed(self, subscription: Subscription, message: bytes) -> None:
        """Subscribe to the channels that are consumed now, and to no others, as the stages table says."""
        try:
            wanted = self._own | CONSUMED.validate_json(message)
        except ValidationError:  # another program published it
            return
        if new := wanted - self._wanted:
            self._subscribed.clear()
            await subscription.subscribe(*sorted(new))
        if gone := self._wanted - wanted:
            await subscription.unsubscribe(*sorted(gone))
        self._wanted = wanted
        self._channels_known.set()

    def _go_on_without(self, channel: str, reason: str) -> None:
        """Redis refuses this channel. Raises RedisError if this bridge needs it, else goes on without until a beat."""
        if channel in self._own:
            raise RedisError(f"{channel}: {reason}")
        log.warning(Fields(channel=channel, outcome="not-subscribed", reason=reason))
        self._wanted -= {channel}
        self._check_subscribed()

    def _check_subscribed(self) -> None:
        """See whether all subscriptions are confirmed: from then on every message is received."""
        if not self._subscribed.is_set() and self._wanted <= self._confirmed:
            self._subscribed.set()
            self._try_lease.set()

    def _sort(self, channel: str, message: bytes) -> None:
        """Decide which bridge a message belongs to, and queue it. No more, because Redis cuts off a slow subscriber.

        After a release a message is queued twice. The adopter can adopt a CloudEvent at once. A plain message stays
        unclaimed until a token says which bridge leads.
        """
        if channel == keys.LEASE:
            if TOKEN.fullmatch(message):  # else another program published it
                self._follow(message.decode())
        else:
            received = ReceivedMessage(channel, message, self._token if self.leading else None)
            if self._leader == RELEASED and not self._unclaimed.add(received):
                self._metrics.adoption_overflow.inc()
            self._adopter.add(received)

    def _follow(self, leader: str | None) -> None:
        """Take note of a new leader; None: no leader is known on this connection."""
        if leader == self._token and not self.leading:
            log.info(Fields(outcome="leading"))
        if (
            leader is None
            or (leader == RELEASED and (self.leading or self._leader is None))
            or (self.leading and leader != self._token and self._superseded)
        ):
            self._lead_ended.set()
        now = time.monotonic()
        if leader is None and self._leader is not None:
            self._leaderless_since = now
        elif leader and self._leader and leader != self._leader:  # the lease has run out, see rule 8
            self._leaderless_since = now - self._lease * (1 + RENEWED)
        if leader is not None and self._leaderless_since is not None:
            seconds = now - self._leaderless_since
            self._leaderless_since = None
            self._metrics.leaderless.inc(seconds)
            log.warning(Fields(outcome="leader-known-again", seconds=round(seconds, 3)))
        self._leader = leader
        self._metrics.leading.set(self.leading)
        unclaimed = self._unclaimed.clear()
        if self.leading:
            for received in unclaimed:
                self._adopter.add(ReceivedMessage(received.channel, received.message, self._token))
        if leader == RELEASED:
            self._try_lease.set()

    async def _seek_lease(self) -> None:
        failures = FailureLog(outcome="lease-unknown")
        while True:
            await self._subscribed.wait()
            self._try_lease.clear()
            pause = self._lease * RENEWED
            try:
                if not self._channels_known.is_set():
                    # This connection receives the beat, and from then on every change of the table.
                    await self._beat()
                    async with asyncio.timeout(pause):
                        await self._channels_known.wait()
                    continue
                async with self._leasing:
                    if self._adopter.released is None and await self._take_lease() == RELEASED:
                        pause = TRY_AGAIN_AFTER
                failures.succeeded()
                async with asyncio.timeout(pause):
                    await self._try_lease.wait()
            except TimeoutError:
                continue
            except JournalUnavailable as fault:
                failures.failed(fault)
                await asyncio.sleep(TRY_AGAIN_AFTER)

    async def _take_lease(self) -> str:
        """Take the lease, or renew it. Return the token that holds it, or RELEASED."""
        token = self._token
        holder = await self._maintenance.lease(token, ttl=self._lease, known=self._leader)
        if holder != RELEASED:
            self.placed.set()
        if holder != token:
            if self.leading:
                log.warning(Fields(outcome="lease-lost"))
            self._token = uuid4().hex
        return holder
