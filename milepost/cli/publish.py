"""`milepost publish`: events into the journal, durably."""

import asyncio
import queue
import threading
from dataclasses import dataclass, replace
from typing import BinaryIO

from milepost.cli import reach
from milepost.cli.exits import Exit
from milepost.cli.text import say
from milepost.errors import ConfigurationError, EventError
from milepost.event import Event
from milepost.journal import Journal
from milepost.settings import JournalSettings
from milepost.wrap import wrap

AT_ONCE = 200
"""Events journaled together from a stream of lines."""

READ_AHEAD = 2 * AT_ONCE

Line = tuple[int, bytes]
"""A line's number, from 1, and its text."""


@dataclass(frozen=True)
class Naming:
    """Where a plain message goes, and what it is to be called."""

    channel: str
    id: str | None = None
    source: str | None = None

    def event(self, message: bytes) -> Event:
        """The event this message is. Raises EventError, or ConfigurationError if it has a name of its own already."""
        event, names_itself = wrap(self.channel, message)
        if names_itself and (self.id or self.source):
            raise ConfigurationError("--id and --source are for plain messages: a CloudEvent has its own")
        return replace(event, id=self.id or event.id, source=self.source or event.source)


async def one(settings: JournalSettings, naming: Naming, message: bytes) -> Exit:
    """Publish one message and print its id."""
    event = naming.event(message)
    async with reach.journal(settings) as journal:
        _print(event, new=await journal.publish(event))
    return Exit.DONE


async def lines(settings: JournalSettings, naming: Naming, stream: BinaryIO) -> Exit:
    """Publish one message a line and print the ids. A line that is no event is told, and the others go on."""
    if naming.id:
        raise ConfigurationError("--id names one event; it cannot name every line")
    refused = 0
    read: queue.Queue[Line | None] = queue.Queue(READ_AHEAD)
    threading.Thread(target=_read, args=(stream, read), daemon=True).start()
    async with reach.journal(settings) as journal:
        while batch := await asyncio.to_thread(_next, read):
            refused += await _publish(journal, naming, batch)
    return Exit.FAILED if refused else Exit.DONE


def _read(stream: BinaryIO, read: "queue.Queue[Line | None]") -> None:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            read.put((number, line.rstrip(b"\r\n")))
    read.put(None)


def _next(read: "queue.Queue[Line | None]") -> list[Line]:
    """The lines there are, waiting for one; none at the end. A producer that dribbles is not kept waiting."""
    batch = []
    line = read.get()
    while line is not None:
        batch.append(line)
        if len(batch) == AT_ONCE or read.empty():
            return batch
        line = read.get()
    if batch:
        read.put(None)
    return batch


async def _publish(journal: Journal, naming: Naming, batch: list[Line]) -> int:
    """Publish these and return how many of them are no events. Raises MilepostError, saying which were not taken."""
    events: list[tuple[int, Event]] = []
    for number, line in batch:
        try:
            events.append((number, naming.event(line)))
        except EventError as fault:
            say(f"line {number}: {fault}")
    answers = await asyncio.gather(*(journal.publish(event) for _, event in events), return_exceptions=True)
    faults: list[tuple[int, BaseException]] = []
    for (number, event), answer in zip(events, answers, strict=True):
        if isinstance(answer, BaseException):
            faults.append((number, answer))
        else:
            _print(event, new=answer)
    if faults:
        say(f"line {faults[0][0]} and, of the {len(events)} tried with it, {len(faults) - 1} more: not published")
        raise faults[0][1]
    return len(batch) - len(events)


def _print(event: Event, *, new: bool) -> None:
    print(event.id, flush=True)
    if not new:
        say(f"{event.id}: published before, so nothing was done")
