"""Journals what foreign programs published, in batches, through a Redis that is away or full."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from milepost.bridge.metrics import Metrics
from milepost.errors import EventError, JournalUnavailable
from milepost.events.wrap import wrap
from milepost.journal import Foreign, Unreadable, Upkeep
from milepost.log import Fields

Item = TypeVar("Item")

log = logging.getLogger("milepost.bridge")

MOST_BUFFERED = 10_000
MOST_BUFFERED_BYTES = 32_000_000
"""What waits for adoption while Redis refuses, or for a leader; more is dropped, and counted."""

MOST_ADOPTED = 256
"""Messages adopted in one step."""

PAUSE = 0.25
"""Seconds between two tries while Redis is away or refuses."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message, and the token under which it is ours to adopt if it is plain."""

    channel: str
    message: bytes
    token: str | None


class Buffer:
    """Messages in order, no more than there is room for."""

    def __init__(self) -> None:
        self._messages: deque[Heard] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, heard: Heard) -> bool:
        """False if there is no room for it."""
        if len(self) >= MOST_BUFFERED or self._bytes + len(heard.message) > MOST_BUFFERED_BYTES:
            return False
        self._bytes += len(heard.message)
        self._messages.append(heard)
        return True

    def take(self, most: int) -> list[Heard]:
        """The oldest, up to `most`."""
        taken = [self._messages.popleft() for _ in range(min(most, len(self)))]
        self._bytes -= sum(len(heard.message) for heard in taken)
        return taken

    def clear(self) -> list[Heard]:
        """All there are."""
        return self.take(len(self))


class Adopter:
    """What is kept here is adopted as soon as Redis takes it."""

    def __init__(self, upkeep: Upkeep, metrics: Metrics) -> None:
        self.released: str | None = None
        """Our own token, once we are to free the lease: what was heard under it is ours still."""
        self.idle = asyncio.Event()
        """Set while nothing waits."""
        self._upkeep = upkeep
        self._metrics = metrics
        self._buffer = Buffer()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._buffer)

    def keep(self, heard: Heard) -> None:
        """Adopt this when its turn comes. Where there is no room it is dropped, and counted."""
        if not self._buffer.add(heard):
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
            foreign, unreadable = _read(self._buffer.take(MOST_ADOPTED))
            await _insist(partial(self._journal, unreadable), foreign)
            await _insist(self._put_away, unreadable)

    async def _journal(
        self, unreadable: list[Unreadable], found: Sequence[tuple[Heard, Foreign]]
    ) -> list[tuple[Heard, Foreign]]:
        """Returns what is to be tried again. What Redis will never take goes to the unreadable, as the leader's."""
        left = []
        answers = await self._upkeep.adopt([foreign for _, foreign in found])
        for (heard, foreign), answer in zip(found, answers, strict=True):
            outcome = answer.replace(" ", "-")
            if answer == "not leading" and foreign.token == self.released:
                # We held the lease until we freed it ourselves, so what came before that is ours still.
                left.append((heard, replace(foreign, token=None)))
                continue
            if answer.startswith("error "):
                outcome = "refused"
                if heard.token:
                    unreadable.append(Unreadable(heard.channel, heard.message, f"Redis: {answer[6:]}"))
            self._metrics.adopted.labels(foreign.event.type, outcome).inc()
        return left

    async def _put_away(self, unreadable: list[Unreadable]) -> list[Unreadable]:
        self._metrics.unreadable_dropped.inc(await self._upkeep.unreadable(unreadable))
        for message in unreadable:
            log.warning(Fields(channel=message.channel, outcome="unreadable"))  # the reason may quote the message
        return []


async def _insist(step: Callable[[list[Item]], Awaitable[list[Item]]], items: list[Item]) -> None:
    """Repeat a step with what it left over, through a Redis that is away or refuses."""
    while items:
        try:
            items = await step(items)
        except JournalUnavailable as fault:
            log.warning(Fields(outcome="unadopted", messages=len(items), reason=str(fault)))
            await asyncio.sleep(PAUSE)


def _read(batch: Iterable[Heard]) -> tuple[list[tuple[Heard, Foreign]], list[Unreadable]]:
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
            foreign.append((heard, Foreign(event, None)))
        elif heard.token:
            foreign.append((heard, Foreign(event, heard.token)))
    return foreign, unreadable
