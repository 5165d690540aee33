"""Read every event that waits in Redis: journaled, parked, to be retried, dead. Only reading commands are used.

Nothing is locked. An event that moves while it is read may be read twice or not at all; journals are read first, so an
event that only goes on its way is not missed.
"""

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import RedisError

from milepost.journal import keys
from milepost.journal.admin import BROKER
from milepost.journal.models import name_text
from milepost.journal.scripts import ask_list, unavailable

FIRST_PAGE, LARGEST_PAGE = 10, 250
"""Entries read together: few at first, then as many as make about PAGE_BYTES."""

PAGE_BYTES = 2_000_000

PENDING_PAGE = 1000
PARKED_PAGE = 50

_PARKED = re.compile(rb"(\S+) \d+ \d+ \d+ (\S+)(?: \S+)?\n(.*)", re.DOTALL)
_HELD = re.compile(rb"[^/\s]+/0*(\d+)-0*(\d+) \S+ \S+ \S+\n(.*)", re.DOTALL)

Place = Literal["journal", "parked", "held", "retries", "dead"]


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """An event, where it waits, and the stages that it waits for. `reason`: why a dead letter is one."""

    place: Place
    stages: tuple[str, ...]
    channel: str
    entry: str
    event: bytes
    reason: str = ""


class Waiting:
    """Reads one Redis. `table`: the stages table there. `to_come`: stage → the channel that it will consume."""

    def __init__(self, redis: Redis, table: Mapping[str, Any], to_come: Mapping[str, str]) -> None:
        self._redis = redis
        self._table = table
        self._to_come = to_come

    async def events(self) -> AsyncIterator[WaitingEvent]:
        """Every event that waits. Raises JournalUnavailable."""
        try:
            for channel in sorted(await self._members(keys.JOURNALS)):
                async for event in self._journal(channel):
                    yield event
            names = sorted({*self._table, *await self._members(keys.DEAD)} - {"bridge"})
            for stage in names:
                async for event in self._parked(stage):
                    yield event
            for stage in names:
                for channel in self._table.get(stage, {"consumes": ()})["consumes"]:
                    async for event in self._held(stage, channel):
                        yield event
                    async for entry, fields in self._stream(keys.retries(stage, channel)):
                        yield WaitingEvent("retries", (stage,), channel, entry, fields.get(b"event", b""))
            for stage in names:
                async for entry, fields in self._stream(keys.dead(stage)):
                    channel = fields.get(b"channel", b"").decode(errors="replace")
                    reason = fields.get(b"reason", b"").decode(errors="replace")
                    yield WaitingEvent("dead", (stage,), channel, entry, fields.get(b"event", b""), reason)
        except (RedisError, OSError) as fault:
            raise unavailable(fault) from fault

    async def _journal(self, channel: str) -> AsyncIterator[WaitingEvent]:
        """The entries of a journal that a stage has not finished."""
        journal = keys.journal(channel)
        groups = [
            _Group(
                name_text(row["name"]), entry_order(row["last-delivered-id"]), await self._pending(journal, row["name"])
            )
            for row in await ask_list(self._redis.xinfo_groups(journal))
        ]
        if all(group.stage != BROKER for group in groups):  # a new group begins with the oldest entry
            begun = {group.stage for group in groups}
            coming = [stage for stage, consumed in self._to_come.items() if consumed == channel]
            groups += [_Group(stage, (0, 0), frozenset()) for stage in coming if stage not in begun]
        if not groups and await self._redis.pttl(journal) != -1:
            return  # no stage has to consume this channel: its journal expires
        first = min((group.first for group in groups), default=(0, 0))
        async for entry, fields in self._stream(journal, f"{first[0]}-{first[1]}"):
            order = entry_order(entry)
            stages = tuple(group.stage for group in groups if group.has_left(order))
            if stages or not groups:
                yield WaitingEvent("journal", stages, channel, entry, fields.get(b"event", b""))

    async def _pending(self, journal: str, group: bytes) -> frozenset[tuple[int, int]]:
        found: set[tuple[int, int]] = set()
        start = "-"
        while start:
            rows: Any = await self._redis.xpending_range(journal, group, start, "+", PENDING_PAGE)
            found |= {entry_order(row["message_id"]) for row in rows}
            start = f"({rows[-1]['message_id'].decode()}" if rows else ""
        return frozenset(found)

    async def _parked(self, stage: str) -> AsyncIterator[WaitingEvent]:
        """The parked events of a stage."""
        async for member in self._scan(keys.parked(stage)):
            if found := _PARKED.fullmatch(member):
                entry, channel, event = found.groups()
                yield WaitingEvent("parked", (stage,), name_text(channel), entry.decode(errors="replace"), event)

    async def _held(self, stage: str, channel: str) -> AsyncIterator[WaitingEvent]:
        """The held events of a stage that is ordered by key. `entry`: the one that it had in the journal."""
        async for member in self._scan(keys.held(stage, channel)):
            if found := _HELD.fullmatch(member):
                milliseconds, number, event = found.groups()
                yield WaitingEvent("held", (stage,), channel, f"{milliseconds.decode()}-{number.decode()}", event)

    async def _scan(self, key: str) -> AsyncIterator[bytes]:
        """The members of a sorted set. A cursor finds each that stays, also while others come and go."""
        cursor: int | None = None
        rows: Any
        while cursor != 0:
            cursor, rows = await ask_list(self._redis.zscan(key, cursor or 0, count=PARKED_PAGE)) or (0, ())
            for member, _ in rows:
                yield member

    async def _stream(self, key: str, start: str = "-") -> AsyncIterator[tuple[str, Mapping[bytes, bytes]]]:
        count = FIRST_PAGE
        while page := await ask_list(self._redis.xrange(key, start, "+", count)):
            for name, fields in page:
                yield name.decode(), fields
            start = f"({page[-1][0].decode()}"
            size = sum(len(value) for _, fields in page for value in fields.values())
            count = max(1, min(LARGEST_PAGE, PAGE_BYTES * len(page) // max(1, size)))

    async def _members(self, key: str) -> Iterable[str]:
        return [name_text(name) for name in await ask_list(self._redis.smembers(key))]


@dataclass(frozen=True, slots=True)
class _Group:
    """A consumer group: the entries after `delivered` are unread, and those of `pending` are not finished."""

    stage: str
    delivered: tuple[int, int]
    pending: frozenset[tuple[int, int]]

    @property
    def first(self) -> tuple[int, int]:
        return min(self.pending, default=self.delivered)

    def has_left(self, entry: tuple[int, int]) -> bool:
        return entry > self.delivered or entry in self.pending


def entry_order(entry: bytes | str) -> tuple[int, int]:
    """Return the two numbers of an entry's name, by which entries are ordered."""
    text = entry.decode() if isinstance(entry, bytes) else entry
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number)
