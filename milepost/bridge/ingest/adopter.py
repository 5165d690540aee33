"""Journals messages that other programs published, in batches.

1. Subscriber says for each message whether this bridge led when it came: then the message has the bridge's token.
2. A message with an id of its own, a CloudEvent, is adopted by any bridge. The dedup mark lets one succeed.
3. A plain message is adopted only with a token, and Redis refuses it if another bridge leads by then (lua/adopt.lua).
4. While Redis is away or full the batch is tried again, and messages wait in a bounded queue.
5. A message that is no event becomes a dead letter of `bridge`, if it has a token. So does one that Redis refuses.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from milepost.bridge.failure_log import FailureLog
from milepost.bridge.metrics import BridgeMetrics
from milepost.errors import EventError, JournalUnavailable
from milepost.events.wrap import wrap
from milepost.journal import Adoption, Maintenance, Unreadable
from milepost.journal.refusals import OF_KEYS
from milepost.observe.logs import Fields

Result = TypeVar("Result")

log = logging.getLogger("milepost.bridge")

MOST_BUFFERED = 10_000
MOST_BUFFERED_BYTES = 32_000_000
"""Most messages, and bytes, that wait for adoption or for a leader. Further ones are dropped, and counted."""

MOST_ADOPTED, MOST_ADOPTED_BYTES = 256, 4_000_000
"""Most messages, and bytes, that are adopted in one step: Redis must have them all within its time-out."""

TRY_AGAIN_AFTER = 0.25
"""Seconds between two tries while Redis is away or refuses."""


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message, and our token if we led when it came: then a plain message is ours to adopt."""

    channel: str
    message: bytes
    token: str | None


class Buffer:
    """A bounded queue of messages."""

    def __init__(self) -> None:
        self._messages: deque[ReceivedMessage] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, received: ReceivedMessage) -> bool:
        """Append a message. False if there is no room for it."""
        if len(self) >= MOST_BUFFERED or self._bytes + len(received.message) > MOST_BUFFERED_BYTES:
            return False
        self._bytes += len(received.message)
        self._messages.append(received)
        return True

    def take(self, most: int, most_bytes: int) -> list[ReceivedMessage]:
        """Remove and return the oldest, up to `most`, and so many bytes; at least one if there is one."""
        taken: list[ReceivedMessage] = []
        room = most_bytes
        while len(taken) < most and self._messages and (not taken or len(self._messages[0].message) <= room):
            taken.append(self._messages.popleft())
            room -= len(taken[-1].message)
        self._bytes -= most_bytes - room
        return taken

    def clear(self) -> list[ReceivedMessage]:
        """Remove and return all."""
        return self.take(len(self), self._bytes)


class Adopter:
    """Adopts queued messages as soon as Redis takes them."""

    def __init__(self, maintenance: Maintenance, metrics: BridgeMetrics) -> None:
        self.released: str | None = None
        """The token that this bridge released when it stopped, which Subscriber sets: messages that it received under
        this token are still its own. None before that.
        """
        self.idle = asyncio.Event()
        """Set while no message is queued."""
        self._maintenance = maintenance
        self._metrics = metrics
        self._buffer = Buffer()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._buffer)

    def add(self, received: ReceivedMessage) -> None:
        """Queue a message. When the queue is full it is dropped, and counted."""
        if not self._buffer.add(received):
            self._metrics.adoption_overflow.inc()
            return
        self.idle.clear()
        self._filled.set()

    async def run(self) -> None:
        """Adopt, until cancelled."""
        while True:
            while not self._buffer:
                self.idle.set()
                self._filled.clear()
                await self._filled.wait()
            adoptions, unreadable = _read(self._buffer.take(MOST_ADOPTED, MOST_ADOPTED_BYTES))
            unreadable += await self._adopt(adoptions)
            await self._keep(unreadable)

    async def _adopt(self, adoptions: Sequence[tuple[ReceivedMessage, Adoption]]) -> list[Unreadable]:
        """Journal these messages. Return those that Redis refuses for good, if we led when they came."""
        refused = []
        while adoptions:
            step = partial(self._maintenance.adopt, [adoption for _, adoption in adoptions])
            answers = await _persist(step, len(adoptions))
            again = []
            for (received, adoption), answer in zip(adoptions, answers, strict=True):
                if answer == "not leading" and adoption.token == self.released:
                    # We led until we released the lease, so messages from before the release are still ours.
                    again.append((received, replace(adoption, token=None)))
                    continue
                outcome = answer.replace(" ", "-")
                if answer.startswith("error "):
                    outcome = "refused"
                    if received.token:
                        refused.append(Unreadable(received.channel, received.message, f"Redis: {answer[6:]}"))
                self._metrics.adopted.labels(adoption.event.type, outcome).inc()
            adoptions = again
        return refused

    async def _keep(self, unreadable: Sequence[Unreadable]) -> None:
        """Keep these messages as dead letters. If Redis refuses the key of the dead letters, they are dropped."""
        if not unreadable:
            return
        outcome, refusal = "unreadable", {}
        try:
            step = partial(self._maintenance.unreadable, unreadable)
            dropped = await _persist(step, len(unreadable), give_up_on=OF_KEYS)
        except JournalUnavailable as fault:
            dropped, outcome, refusal = len(unreadable), "unreadable-dropped", {"reason": str(fault)}
        self._metrics.unreadable_dropped.inc(dropped)
        for message in unreadable:
            log.warning(Fields(channel=message.channel, outcome=outcome, **refusal))  # the reason may quote the message


async def _persist(
    step: Callable[[], Awaitable[Result]], messages: int, *, give_up_on: frozenset[str] = frozenset()
) -> Result:
    """Return the result of a step. While Redis is away, try again. Raises JournalUnavailable for the codes given."""
    failures = FailureLog(outcome="unadopted", messages=messages)
    while True:
        try:
            return await step()
        except JournalUnavailable as fault:
            if fault.code in give_up_on:
                raise
            failures.failed(fault)
        await asyncio.sleep(TRY_AGAIN_AFTER)


def _read(batch: Iterable[ReceivedMessage]) -> tuple[list[tuple[ReceivedMessage, Adoption]], list[Unreadable]]:
    """Return the messages to adopt, and those that are no events. Only the leader keeps plain and unreadable ones."""
    adoptions, unreadable = [], []
    for received in batch:
        try:
            event, named = wrap(received.channel, received.message)
        except EventError as fault:
            if received.token:
                unreadable.append(Unreadable(received.channel, received.message, str(fault)))
            continue
        if named:
            adoptions.append((received, Adoption(event, None)))
        elif received.token:
            adoptions.append((received, Adoption(event, received.token)))
    return adoptions, unreadable
