"""`milepost publish`: publish events durably, from an argument or from the lines of stdin."""

import asyncio
import os
import sys
from codecs import BOM_UTF8
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Annotated, BinaryIO

import typer

from milepost.cli.exits import CommandFailed, Exit
from milepost.cli.local import data_folder
from milepost.cli.loop import run_on_journal
from milepost.cli.options import Data, RedisUrl
from milepost.cli.text import say
from milepost.errors import ConfigurationError, EventError
from milepost.events.event import MAX_EVENT, Event
from milepost.events.wrap import wrap
from milepost.journal import Journal
from milepost.journal.models import check_data

AT_ONCE = 200
"""Lines that are published together."""

CHUNK = 64 * 1024
"""Bytes read from stdin together."""

Line = tuple[int, bytes]
"""A line's number, from 1, and its text."""


@dataclass(frozen=True)
class Naming:
    """The channel of a message, and the id and source that a plain one gets."""

    channel: str
    id: str | None = None
    source: str | None = None

    def event(self, message: bytes) -> Event:
        """Read a message. Raises EventError, or ConfigurationError if a CloudEvent should get another id or source."""
        event, names_itself = wrap(self.channel, message)
        if names_itself and (self.id, self.source) != (None, None):
            raise ConfigurationError("--id and --source are for plain messages: a CloudEvent has its own")
        return replace(
            event,
            id=event.id if self.id is None else self.id,
            source=event.source if self.source is None else self.source,
        )


def publish(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="The channel, such as raw_input.")],
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="JSON or text; `-`: one message a line of stdin.")],
    *,
    event_id: Annotated[
        str | None, typer.Option("--id", help="The event's id; publishing it again does nothing.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="The event's source.", show_default="/redis/CHANNEL")] = None,
    redis_url: RedisUrl = None,
    data: Data = data_folder.DEFAULT,
) -> None:
    """Publish a message durably, and print its event's id.

    An object with `specversion` is a CloudEvent, whose type must be CHANNEL; other JSON is an event's data; any
    other text is its data as a JSON string, without the blanks around it. A message that begins with `{`, `[` or
    `"` must be JSON.

    `milepost publish raw_input '{"email":"a@b.co","lat":40.7,"long":-74}'` publishes one message;
    `milepost publish user:email - < addresses` publishes one for each line.
    """
    naming = Naming(channel, event_id, source)
    if not message.strip():
        raise ConfigurationError("MESSAGE: is empty, as of a variable that is not set; an empty text is '\"\"'")
    if message != "-":
        event = naming.event(os.fsencode(message))  # refused before Redis is looked for
        run_on_journal(redis_url, data, lambda journal: _one(journal, event))
    if event_id is not None:
        raise ConfigurationError("--id names one event; it cannot name every line")
    run_on_journal(redis_url, data, lambda journal: _lines(journal, naming, sys.stdin.buffer))


async def _one(journal: Journal, event: Event) -> Exit:
    await _check_data(journal, event)
    _print(event, new=await journal.publish(event))
    return Exit.DONE


async def _check_data(journal: Journal, event: Event) -> None:
    """Raise EventError for an event without data, if a function would refuse it. Raises JournalUnavailable."""
    if event.data is None:
        check_data(event, await journal.admin.needs_data())


async def _lines(journal: Journal, naming: Naming, stream: BinaryIO) -> Exit:
    """Publish each line as one message. A line that is no event is reported and not published; the others are."""
    refused = 0
    async for batch in _batches(stream):
        refused += await _publish(journal, naming, batch)
    return Exit.FAILED if refused else Exit.DONE


async def _batches(stream: BinaryIO) -> AsyncIterator[list[Line]]:
    """Yield the lines that are not blank, at most AT_ONCE together, as soon as they arrive."""
    number, rest, chunk = 0, b"", b"\n"
    while chunk:
        try:
            chunk = await asyncio.to_thread(stream.read1, CHUNK)  # type: ignore[attr-defined]
        except OSError as fault:
            raise CommandFailed(f"standard input: {fault.strerror}") from None
        *complete, rest = (rest + chunk).split(b"\n") if chunk else (rest, b"")
        rest = rest[: MAX_EVENT + 1]  # enough for a line to be refused
        lines = [(number + nth, line) for nth, line in enumerate(complete, 1)]
        number += len(complete)
        lines = [(nth, line.rstrip(b"\r")) for nth, line in lines if line.strip().removeprefix(BOM_UTF8)]
        for begin in range(0, len(lines), AT_ONCE):
            yield lines[begin : begin + AT_ONCE]


async def _publish(journal: Journal, naming: Naming, batch: list[Line]) -> int:
    """Publish lines and return how many of them are no events. Raises MilepostError after naming unpublished lines."""
    events: list[tuple[int, Event]] = []
    for number, line in batch:
        try:
            event = naming.event(line)
            await _check_data(journal, event)
            events.append((number, event))
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
