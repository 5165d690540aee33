"""One subscription for the whole process. It tells a submission's watchers that there is news; what the news is they
read from progress. So nothing is queued for anyone, and nobody is shown what is merely said on a channel.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from gateway.refusal import Refusal
from milepost.observe.logs import Fields

QUIET = 5.0
"""Seconds of silence after which the connection must answer a PING, within as many again."""

PAUSE = 1.0
"""Seconds between two tries while Redis is away."""

MOST_WATCHERS = 1000
MOST_OF_ONE = 10
"""Watchers in this process, and of one submission."""

OTHERWISE = "GET /submissions/{id} tells the same whenever it is asked, and the submission goes on all the same."
RETRY_AFTER = 10
"""What a refused watcher is told, and the seconds to wait."""

_NAMES = re.compile(rb'\{(?:"journalid":"[0-9]+-[0-9]+",)?"specversion":"1\.0","id":"([0-9a-f-]{36})"')
"""How our own messages begin, and so which submission they are of. Anyone else's shows when progress is next read."""

log = logging.getLogger("gateway")


Ear = Callable[[str, bytes], None]
"""Is told a channel, and what was said on it, whoever said it. Must not wait."""


class Notifier:
    """Subscribed while anyone watches, `most_of_client` of one client at a time. `channels` says which there are;
    `redis` must not retry by itself.
    """

    def __init__(self, redis: Redis, channels: Callable[[], Awaitable[Sequence[str]]], *, most_of_client: int) -> None:
        self._redis = redis
        self._channels = channels
        self._most_of_client = most_of_client
        self._bells: dict[str, list[asyncio.Event]] = {}
        self._ears: list[Ear] = []
        self._watchers: Counter[str] = Counter()
        self._wanted = asyncio.Event()
        self.closed = False

    @contextmanager
    def watch(self, event_id: str, client: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever there may be news of this submission. Raises Refusal: too many watch."""
        bells = self._bells.get(event_id, [])
        if self._watchers[client] >= self._most_of_client:
            most = f"At most {self._most_of_client} live streams for one address at a time."
            raise Refusal(429, f"{most} {OTHERWISE}", retry_after=RETRY_AFTER)
        if self._watchers.total() >= MOST_WATCHERS or len(bells) >= MOST_OF_ONE or self.closed:
            raise Refusal(503, f"Too many are watching just now. {OTHERWISE}", retry_after=RETRY_AFTER)
        bell = asyncio.Event()
        self._bells[event_id] = [*bells, bell]
        self._watchers[client] += 1
        self._wanted.set()
        try:
            yield bell
        finally:
            self._watchers -= Counter((client,))  # who is at 0 is forgotten
            self._bells[event_id].remove(bell)
            if not self._bells[event_id]:
                del self._bells[event_id]

    @contextmanager
    def overhear(self, ear: Ear) -> Iterator[None]:
        """Tell `ear` everything that is said meanwhile."""
        self._ears.append(ear)
        self._wanted.set()
        try:
            yield
        finally:
            self._ears.remove(ear)

    def close(self) -> None:
        """Tell every watcher to end: see `closed`."""
        self.closed = True
        self._ring_all()

    async def run(self) -> None:
        """Listen whenever someone watches, until cancelled."""
        while True:
            await self._wanted.wait()
            try:
                async with self._redis.pubsub() as subscription:
                    await self._hear(subscription)
            except (RedisError, OSError) as fault:
                log.warning(Fields(outcome="unsubscribed", reason=str(fault)))
                await asyncio.sleep(PAUSE)

    async def _hear(self, subscription: PubSub) -> None:
        pinged, subscribed = False, frozenset[str]()
        while self._bells or self._ears:
            missing = frozenset(await self._channels()) - subscribed
            if missing:
                await subscription.subscribe(*sorted(missing))
                subscribed |= missing
            message = await subscription.get_message(timeout=QUIET)
            if message is None and pinged:
                raise OSError("no answer to PING")
            pinged = message is None
            if message is None:
                await subscription.ping()
            elif message["type"] == "subscribe":
                self._ring_all()  # what was said before this was not heard
            elif message["type"] == "message":
                self._ring(message["data"])
                for ear in self._ears:
                    ear(message["channel"].decode(errors="replace"), message["data"])
        self._wanted.clear()

    def _ring(self, message: bytes) -> None:
        named = _NAMES.match(message)
        for bell in self._bells.get(named[1].decode(), ()) if named else ():
            bell.set()

    def _ring_all(self) -> None:
        for bells in self._bells.values():
            for bell in bells:
                bell.set()
