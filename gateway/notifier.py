"""One Redis subscription for all who watch submissions in this process.

1. A watcher of a submission gets an asyncio.Event. It is set when an event of that submission, or of a
   part of it, was published.
2. The watcher then reads the submission's status from Redis. So nothing is queued for a slow watcher, and a message
   that a stranger publishes on a channel is never shown as it is.
3. The process is subscribed only while somebody watches.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.refusal import Refusal
from milepost.journal.subscription import Subscription, subscribed
from milepost.observe.logs import Fields

QUIET = 5.0
"""Seconds without a message after which the connection must answer a PING, within as many again."""

PAUSE = 1.0
"""Seconds between two tries to subscribe while Redis is away."""

MOST_WATCHERS = 1000
"""Watchers in this process."""

MOST_OF_ONE = 10
"""Watchers of one submission."""

OTHERWISE = "GET /submissions/{id} returns the same at any time, and the submission goes on."
"""The end of the text for a refused watcher."""

RETRY_AFTER = 10
"""Seconds that a refused watcher is asked to wait."""

_OWN_MESSAGE = re.compile(
    rb'\{(?:"journalid":"[0-9]+-[0-9]+",)?"specversion":"1\.0","id":"([0-9a-f-]{36}(?:/[0-9]+)*)"'
)
"""How our own messages begin. A message written otherwise is seen when the status is next read."""

log = logging.getLogger("gateway")

OnMessage = Callable[[str, bytes], None]
"""Called with the channel and the text of each message, also of other programs. It must not wait."""


def too_many_of_client(most: int) -> Refusal:
    return Refusal(429, f"At most {most} live streams for one address at a time. {OTHERWISE}", retry_after=RETRY_AFTER)


def too_many_watchers() -> Refusal:
    return Refusal(503, f"Too many are watching just now. {OTHERWISE}", retry_after=RETRY_AFTER)


class Notifier:
    """The subscription and its watchers, at most `most_of_client` of one client. `channels` returns the channels to
    subscribe to; `redis` must not retry by itself.
    """

    def __init__(self, redis: Redis, channels: Callable[[], Awaitable[Sequence[str]]], *, most_of_client: int) -> None:
        self._redis = redis
        self._channels = channels
        self._most_of_client = most_of_client
        self._watched: dict[str, list[asyncio.Event]] = {}
        self._callbacks: list[OnMessage] = []
        self._watchers: Counter[str] = Counter()
        self._wanted = asyncio.Event()
        self.closed = False

    @contextmanager
    def watch(self, event_id: str, client: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the submission may have a new status. Raises Refusal: too many watch."""
        watching = self._watched.get(event_id, [])
        if self._watchers[client] >= self._most_of_client:
            raise too_many_of_client(self._most_of_client)
        if self._watchers.total() >= MOST_WATCHERS or len(watching) >= MOST_OF_ONE or self.closed:
            raise too_many_watchers()
        changed = asyncio.Event()
        self._watched[event_id] = [*watching, changed]
        self._watchers[client] += 1
        self._wanted.set()
        try:
            yield changed
        finally:
            self._watchers -= Counter((client,))  # a client at 0 is removed
            self._watched[event_id].remove(changed)
            if not self._watched[event_id]:
                del self._watched[event_id]

    @contextmanager
    def messages(self, callback: OnMessage) -> Iterator[None]:
        """Call `callback` with every message until the context ends."""
        self._callbacks.append(callback)
        self._wanted.set()
        try:
            yield
        finally:
            self._callbacks.remove(callback)

    def close(self) -> None:
        """Set `closed` and notify every watcher, which then ends its stream."""
        self.closed = True
        self._notify_all()

    async def run(self) -> None:
        """Stay subscribed while anyone watches, until cancelled."""
        while True:
            await self._wanted.wait()
            try:
                async with subscribed(self._redis) as subscription:
                    await self._receive(subscription)
            except (RedisError, OSError) as fault:
                log.warning(Fields(outcome="unsubscribed", reason=str(fault)))
                await asyncio.sleep(PAUSE)

    async def _receive(self, subscription: Subscription) -> None:
        known = frozenset(await self._channels())
        await subscription.subscribe(*sorted(known))
        async for messages in subscription.messages(silence=QUIET):
            for message in messages:
                if message.kind == b"subscribe":
                    self._notify_all()  # messages before this one were not received
                elif message.kind == b"message":
                    self._notify(message.data)
                    for callback in self._callbacks:
                        callback(message.channel.decode(errors="replace"), message.data)
            if not (self._watched or self._callbacks):
                break
            if missing := frozenset(await self._channels()) - known:
                await subscription.subscribe(*sorted(missing))
                known |= missing
        self._wanted.clear()

    def _notify(self, message: bytes) -> None:
        named = _OWN_MESSAGE.match(message)
        event_id = named[1].decode() if named else ""
        while event_id:  # of the event, then of those that it is a part of
            for changed in self._watched.get(event_id, ()):
                changed.set()
            event_id = event_id.rpartition("/")[0]

    def _notify_all(self) -> None:
        for watching in self._watched.values():
            for changed in watching:
                changed.set()
