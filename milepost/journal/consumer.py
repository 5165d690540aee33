"""A bridge's consumer for one stage: reads entries, renews the claim on them, takes over those of others, settles.

A stage has a consumer group on the journal of its channel, and one on its stream of retries for that channel. The
Broker has the same for each channel. Each bridge is one consumer in these groups. An entry that was read is pending
until it is settled. Each settlement first checks that the entry is still pending. So the first settlement wins, and a
second delivery of the same entry publishes nothing twice.

A stage that is ordered by key reads with a script, lua/read_ordered.lua, which holds events of a key that has one in
hand. The step that finishes that one moves the next of its key to the retries (`settle` in lua/common.lua).
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from redis.exceptions import RedisError, ResponseError

from milepost.errors import EventError, JournalUnavailable, MilepostError
from milepost.events.event import Event
from milepost.journal import keys
from milepost.journal.admin import BROKER
from milepost.journal.models import Entry, milliseconds, note_of
from milepost.journal.refusals import code_of
from milepost.journal.scripts import (
    AnswerRow,
    BuryRow,
    CompleteRow,
    EntryRow,
    ParkRow,
    Scripts,
    StreamRow,
    Text,
    size_of,
    unavailable,
)
from milepost.journal.shared_connection import SharedConnection

MOST_PENDING = 100_000
"""Most entries that a consumer is asked for; it never has as many pending."""

FULL_PACE = 0.01
"""Seconds between two looks whether a full Redis lets an ordered stage read on."""

MOST_ROWS, MOST_BYTES = 256, 4_000_000
"""Most settlements in one run of a script, and most bytes of them together. One alone may have more."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a delivery failed. `status`: the HTTP status. `attempts` and `crashes`: the event's counts, with this one."""

    reason: str
    status: int | None
    attempts: int
    crashes: int


class Complete(NamedTuple):
    """Acknowledge the entry, and journal the reply in the same step. `id` is the event's."""

    entry: Entry
    id: str
    reply: Event | None


class Split(NamedTuple):
    """Acknowledge the entry, and journal all of its answers in the same step, or none. `id` is the event's."""

    entry: Entry
    id: str
    answers: Sequence[Event]


class Park(NamedTuple):
    """Park the event for `delay` seconds. If its deadline has passed, it becomes a dead letter instead."""

    entry: Entry
    id: str
    failure: Failure
    delay: float


class Delay(NamedTuple):
    """Park an event that was not tried until it is `delay` seconds old. Its deadline counts from that time."""

    entry: Entry
    id: str
    delay: float


class Bury(NamedTuple):
    """Make a dead letter of the event."""

    entry: Entry
    id: str
    failure: Failure


Settlement = Complete | Split | Park | Delay | Bury


class SettlementRefused(MilepostError):
    """Redis refuses this settlement alone: a key is of another type, or the user may not write it."""


class TakenOver(NamedTuple):
    """Entries that another consumer had. `destroyed`: how many more there were whose event an operator has deleted."""

    entries: list[Entry]
    destroyed: int


class GroupMissing(Exception):
    """A consumer group or its stream is missing: an operator deleted it, or Redis was emptied. `ensure` makes it."""


class Consumer:
    """The consumer `name` of `stage`, on one channel.

    `order`: the field of the data by which the stage is ordered, True for `partitionkey`, False for no order.
    `reader` is a connection for blocking reads alone, which never sends a command twice. `emits`: whether the stage may
    give replies. Methods raise JournalUnavailable if Redis cannot be reached or refuses. The call may be repeated. If
    only Redis's reply was lost, the command has run; a repeated settlement is then `stale`.
    """

    def __init__(
        self,
        stage: str,
        channel: str,
        name: str,
        *,
        reader: SharedConnection,
        scripts: Scripts,
        deadline: timedelta,
        emits: bool = True,
        order: str | bool = False,
    ) -> None:
        self.stage = stage
        self.channel = channel
        self.name = name
        self.ordered = bool(order)
        self._field = order if isinstance(order, str) else ""
        self._read_up_to: Sequence[bytes] = ()
        """Of an ordered stage: the last entry that its group had read of each stream. Empty if there may be more."""
        self._full = False
        """Of an ordered stage: whether the next unread event would be held, for which a full Redis has no room."""
        self._retries = keys.retries(stage, channel)
        self._journal = keys.journal(channel)
        self._streams = [StreamRow(self._retries), StreamRow(self._journal)]
        self._reader = reader
        self._scripts = scripts
        self._takes = Scripts(scripts.redis, reader)
        self._deadline = milliseconds(deadline)
        self._emits = emits

    async def ensure(self) -> bool:
        """Make missing groups, at the beginning of the journal. True if the journal's was missing."""
        return bool(await self._scripts.ensure(stage=self.stage, broker=BROKER, channel=self.channel))

    async def take_over(self, most: int, *, claim: float) -> TakenOver:
        """Take over up to `most` entries that another consumer has not renewed for `claim` seconds.

        Raises GroupMissing. If it raises JournalUnavailable, entries may be pending whose reply was lost: `reread`
        returns them.
        """
        if not most:
            return TakenOver([], 0)
        with _missing_groups():
            taken, destroyed = await self._takes.take_over(
                stage=self.stage, consumer=self.name, most=most, claim=milliseconds(claim), streams=self._streams
            )
        entries: list[Entry] = []
        for stream, *row in taken:
            entries += self._entries(stream.decode(), [row])
        return TakenOver(entries, int(destroyed))

    async def take(self, most: int) -> list[Entry]:
        """Read without waiting: up to `most` entries (at least 1), retries first, then unread events.

        Raises as `take_over` does.
        """
        if self.ordered:
            return await self._read_ordered(most)
        entries = await self._read([self._retries], ">", most)
        if most > len(entries):
            entries += await self._read([self._journal], ">", most - len(entries))
        return entries

    async def take_unread(self, most: int) -> list[Entry]:
        """Read without waiting: up to `most` unread events. In an ordered stage up to as many retries come as well.

        Raises as `take_over` does.
        """
        if self.ordered:
            return await self._read_ordered(most, least=most)
        return await self._read([self._journal], ">", most)

    async def _read_ordered(self, most: int, *, least: int = 0) -> list[Entry]:
        with _missing_groups():
            retried, others, plain, *last = await self._takes.read_ordered(
                stage=self.stage, consumer=self.name, channel=self.channel, field=self._field, most=most, least=least
            )
        self._full = last[1] == b"full"
        self._read_up_to = last if last[0] else ()
        entries = [*self._entries(self._retries, retried), *self._entries(self._journal, others)]
        for name, event in zip(plain[::2], plain[1::2], strict=True):
            entries.append(Entry.journaled(self._journal, self.channel, name, event))
        return entries

    async def _wait_ordered(self, count: int, block: float) -> list[Entry]:
        """Wait for an entry that the group has not read, without reading it. Then read in order."""
        if self._full:
            await asyncio.sleep(FULL_PACE)
        elif self._read_up_to:
            waiting = max(1, round(block * 1000))
            streams = self._retries, self._journal
            try:
                found = await self._reader.call(
                    "XREAD", "COUNT", 1, "BLOCK", waiting, "STREAMS", *streams, *self._read_up_to
                )
            except (RedisError, OSError) as fault:
                raise unavailable(fault) from fault
            if not found:
                return []
        return await self._read_ordered(count, least=count)

    async def wait(self, count: int, *, block: float) -> list[Entry]:
        """Wait up to `block` seconds for an entry. Return up to `count` retries, then up to `count` unread events.

        Raises as `take_over` does.
        """
        if self.ordered:
            return await self._wait_ordered(count, block)
        return await self._read([self._retries, self._journal], ">", count, block=round(block * 1000))

    async def reread(self) -> list[Entry]:
        """Return all entries that this consumer has pending, also those that its worker has. Raises GroupMissing."""
        return await self._read([self._retries, self._journal], "0", MOST_PENDING)

    async def _read(self, streams: Sequence[str], start: str, count: int, *, block: int | None = None) -> list[Entry]:
        waiting: Sequence[Text] = () if block is None else ("BLOCK", max(1, block))  # 0 would be for ever
        try:
            answer: Any = await self._reader.call(
                "XREADGROUP",
                *("GROUP", self.stage, self.name, "COUNT", count, *waiting),
                *("STREAMS", *streams, *[start] * len(streams)),
            )
        except ResponseError as fault:
            if code_of(fault) in {"NOGROUP", "UNBLOCKED"}:
                raise GroupMissing(str(fault)) from None
            raise unavailable(fault) from fault
        except (RedisError, OSError) as fault:
            raise unavailable(fault) from fault
        entries: list[Entry] = []
        for stream, rows in answer.items() if isinstance(answer, dict) else answer or []:  # a dict in RESP3
            entries += self._entries(stream.decode(), rows)
        return entries

    def _entries(self, stream: str, rows: Iterable[Sequence[Any]]) -> list[Entry]:
        """Read rows of one stream: entry id, fields, and perhaps how often Redis has given it out.

        An entry that was deleted while it was pending has no fields, and is left out.
        """
        retried = stream == self._retries
        return [
            Entry.read(stream, self.channel, row[0], row[1], deliveries=row[2] if len(row) > 2 else 1, retried=retried)
            for row in rows
            if row[1]
        ]

    async def settle(self, settlements: Sequence[Settlement]) -> list[str | MilepostError]:
        """Settle entries, with as few runs of scripts as their kinds and sizes allow.

        Returns for each `done`, `buried`, or `stale` if another settlement came first. For an entry that was not
        settled it returns the exception: JournalUnavailable (it may be tried again), SettlementRefused, or EventError
        if the settlement cannot be written.
        """
        answers: dict[int, str | MilepostError] = {}
        runs: list[_Run] = []
        latest: dict[type[_Row], _Run] = {}
        for place, settlement in enumerate(settlements):
            try:
                row = _row(settlement)
                size = _size(row)
            except (MilepostError, ValueError) as fault:
                answers[place] = EventError(str(fault))
                continue
            run = latest.get(type(row))
            if run is None or not run.has_room(size):
                run = latest[type(row)] = _Run()
                runs.append(run)
            run.add(place, row, size)
        results = [await self._settle(runs[0])] if len(runs) == 1 else await asyncio.gather(*map(self._settle, runs))
        for run, some in zip(runs, results, strict=True):
            answers.update(zip(run.places, map(_answer, some), strict=True))
        return [answers[place] for place in range(len(settlements))]

    async def _settle(self, run: "_Run") -> list[bytes | JournalUnavailable]:
        rows: Any = run.rows
        try:
            if isinstance(rows[0], CompleteRow):
                answers = await self._scripts.complete(stage=self.stage, emits=int(self._emits), completions=rows)
            elif isinstance(rows[0], ParkRow):
                answers = await self._scripts.park(stage=self.stage, deadline=self._deadline, deliveries=rows)
            elif isinstance(rows[0], BuryRow):
                answers = await self._scripts.bury(stage=self.stage, deliveries=rows)
            else:
                answers = [await self._scripts.split(stage=self.stage, **rows[0]._asdict())]
        except JournalUnavailable as fault:
            return [fault] * len(rows)
        return list(answers)

    async def renew(self, entries: Iterable[Entry]) -> list[Entry]:
        """Renew the claim on these entries. Returns those that are no longer this consumer's."""
        claimed = list(entries)
        lost = await self._scripts.renew(
            stage=self.stage, consumer=self.name, entries=[EntryRow(entry.stream, entry.id) for entry in claimed]
        )
        return [claimed[index] for index in lost]

    async def hand_back(self, *, claim: float) -> int:
        """Let other consumers take over all entries that this one has pending, at once. Returns how many.

        `claim`: the claim time in seconds; the entries are marked as not renewed for so long.
        """
        return int(
            await self._scripts.hand_back(
                stage=self.stage,
                consumer=self.name,
                claim=milliseconds(claim),
                most=MOST_PENDING,
                streams=self._streams,
            )
        )

    async def reap(self, *, idle: float) -> int:
        """Delete consumers that have nothing pending and have read nothing for `idle` seconds. Returns how many."""
        return int(
            await self._scripts.reap(
                stage=self.stage, consumer=self.name, idle=milliseconds(idle), streams=self._streams
            )
        )


@contextmanager
def _missing_groups() -> Iterator[None]:
    """Raise GroupMissing if a script says so."""
    try:
        yield
    except JournalUnavailable as fault:
        if fault.code == "NOGROUP":
            raise GroupMissing(str(fault)) from None
        raise


class _SplitRow(NamedTuple):
    """An entry that was delivered, and its several answers. The script takes one."""

    stream: str
    entry: str
    id: str
    answers: Sequence[AnswerRow]


_Row = CompleteRow | ParkRow | BuryRow | _SplitRow


@dataclass(slots=True)
class _Run:
    """The rows of one run of a script, with the places of their settlements."""

    rows: list[_Row] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    bytes: int = 0

    def has_room(self, size: int) -> bool:
        """Whether a row of so many bytes may be added."""
        return (
            len(self.rows) < MOST_ROWS and self.bytes + size <= MOST_BYTES and not isinstance(self.rows[0], _SplitRow)
        )

    def add(self, place: int, row: _Row, size: int) -> None:
        self.rows.append(row)
        self.places.append(place)
        self.bytes += size


def _row(settlement: Settlement) -> _Row:
    """Return a settlement as its script takes it. Raises MilepostError or ValueError if it cannot be written."""
    match settlement:
        case Complete(entry, event_id, None):
            return CompleteRow(entry.stream, entry.id, event_id, "", "", "")
        case Complete(entry, _, Event() as reply):
            return CompleteRow(entry.stream, entry.id, reply.id, reply.type, reply.to_json(), note_of(reply))
        case Split(entry, event_id, answers):
            rows = [AnswerRow(one.type, one.id, one.to_json(), note_of(one)) for one in answers]
            return _SplitRow(entry.stream, entry.id, event_id, rows)
        case Bury(entry, event_id, failure):
            return BuryRow(entry.stream, entry.id, entry.channel, entry.event, event_id, *_failure_fields(failure))
        case Park(entry, event_id, failure, delay):
            return _park_row(entry, event_id, failure, delay)
        case Delay(entry, event_id, delay):
            return _park_row(entry, event_id, Failure("", None, entry.attempts, entry.crashes), delay)
        case _:
            raise TypeError(settlement)


def _size(row: _Row) -> int:
    """Return about how many bytes a row has. Raises UnicodeEncodeError for a text that UTF-8 cannot hold."""
    if isinstance(row, CompleteRow):  # most rows
        return size_of(row)
    if isinstance(row, _SplitRow):
        return sum(map(size_of, row.answers))
    return sum(len(field if isinstance(field, bytes) else str(field).encode()) for field in row)


def _park_row(entry: Entry, event_id: str, failure: Failure, delay: float) -> ParkRow:
    return ParkRow(
        *(entry.stream, entry.id, entry.channel, entry.event, event_id, entry.since, round(delay * 1000)),
        *_failure_fields(failure),
    )


def _failure_fields(failure: Failure) -> tuple[int, int, str, str]:
    reason = failure.reason.encode(errors="replace").decode()
    return failure.attempts, failure.crashes, reason, "" if failure.status is None else str(failure.status)


def _answer(answer: bytes | MilepostError) -> str | MilepostError:
    if answer == b"done":  # most answers
        return "done"
    if isinstance(answer, MilepostError):
        return answer
    text = answer.decode()
    if not text.startswith("error "):
        return text
    return SettlementRefused(f"Redis: {text.removeprefix('error ')}")
