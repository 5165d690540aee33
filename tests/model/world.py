"""A world for the search: the shipped scripts on a real Valkey, and the part of the bridges that lies outside it.

A state is a dump of every key, with the claims of the bridges and the events that were truly published and finished. A
move is one step of a bridge, of its maintenance, of a producer or of an operator. Times and ids are no part of a state:
keys that expire keep whole minutes of their time, and the stages table only whether a stage is served.
"""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from redis.asyncio import Redis

from milepost.errors import JournalUnavailable
from milepost.journal import BEAT_FRESH, Journal, Maintenance, keys
from milepost.journal.connection import connect
from milepost.journal.refusals import WrongServer
from milepost.journal.subscription import subscribed
from milepost.settings import JournalSettings

MINUTE = 60_000
HOUR = 3_600_000

LOOKED = "model:looked"
"""The channel on which each look at Redis is announced. All messages before it are of earlier moves."""

Move = tuple[Any, ...]
"""The name of a method `do_…` of the world, and its arguments."""


class ViolationError(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Snapshot:
    """Every key: name, milliseconds until it expires or 0, and dump. The stages table: stage, wiring, served or not."""

    rows: tuple[tuple[bytes, int, bytes], ...]
    stages: tuple[tuple[bytes, bytes, bool], ...]


@dataclass(frozen=True)
class Group:
    """A consumer group: the last entry it was given, and the pending ones, each with its consumer.

    `times`: how often each pending entry was given out.
    """

    last: bytes
    pending: Sequence[tuple[bytes, bytes]]
    times: Sequence[int]


@dataclass
class View:
    """The content of Redis, by key. `announced`: channel and text of the messages since the last look, if the world
    subscribes.
    """

    snapshot: Snapshot
    ttl: dict[str, int] = field(default_factory=dict)
    streams: dict[str, list[tuple[bytes, dict[bytes, bytes]]]] = field(default_factory=dict)
    groups: dict[str, dict[str, Group]] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    announced: list[tuple[str, bytes]] = field(default_factory=list)

    def unread(self, stream: str, group: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        last = ordinal(self.groups[stream][group].last)
        return [row for row in self.streams[stream] if ordinal(row[0]) > last]

    @property
    def served(self) -> dict[str, bool]:
        return {stage.decode(): served for stage, _, served in self.snapshot.stages}


class Local(Protocol):
    """What lies outside Redis."""

    def copy(self) -> "Local": ...


L = TypeVar("L", bound=Local)


@dataclass(frozen=True)
class State(Generic[L]):
    snapshot: Snapshot
    local: L


class World(Generic[L]):
    """A kind of world gives the methods that raise here, and one method `do_…` for each move."""

    PROGRESS: frozenset[str]
    """Moves of a bridge without a fault. From every state they alone must lead to the end."""

    DOORS: frozenset[str] = frozenset()
    """Moves that a full server may refuse. It must do all others."""

    OUTSIDE: frozenset[str] = frozenset()
    """Moves that do not touch Redis."""

    SERVERS: Sequence[str] = ("read_only", "lost", "full", "silenced")
    """Servers that refuse: methods of this class."""

    refusals: bool = False
    """Whether each move is also made on servers that refuse."""

    def __init__(self, url: str, *, limit: int = 0) -> None:
        """`limit`: BACKLOG_LIMIT; 0: that of the settings, which is not reached."""
        self.settings = JournalSettings.read(redis_url=url, **{"backlog_limit": limit} if limit else {})
        self.journal = Journal(connect(self.settings), self.settings)
        self.scripts = self.journal.scripts
        self.connection = self.scripts.connection
        self.maintenance = Maintenance(self.scripts, dedup=self.settings.dedup, limit=self.settings.backlog_limit)
        self._current: Snapshot | None = None

    async def close(self) -> None:
        await self.journal.close()

    async def begin(self) -> L:
        """Fill an empty Redis. Returns the rest of the first state."""
        raise NotImplementedError

    def moves(self, local: L, view: View) -> Iterator[Move]:
        """Yield every move that may follow."""
        raise NotImplementedError

    def check(self, local: L, view: View) -> tuple[Any, bool]:
        """Return what tells a state from others, with symmetric ones as one, and whether everything has its effect.

        Raises ViolationError.
        """
        raise NotImplementedError

    def check_announced(self, move: Move, before: View, view: View) -> None:
        """Compare the events that a move journaled with its announcements. Raises ViolationError."""

    async def check_counts(self, local: L, view: View) -> None:
        """Look at invariants that need further commands. Raises ViolationError."""

    async def start(self) -> State[L]:
        await self.connection.call("FLUSHALL")
        local = await self.begin()
        return State((await self.view()).snapshot, local)

    async def apply(self, state: State[L], move: Move) -> L:
        """Make a move from a state. Returns the new part outside Redis."""
        await self.restore(state.snapshot)
        local: L = state.local.copy()  # type: ignore[assignment]
        self._current = None
        await getattr(self, f"do_{move[0]}")(local, *move[1:])
        return local

    async def restore(self, snapshot: Snapshot) -> None:
        if snapshot is self._current:
            return
        rows = [item for row in snapshot.rows for item in row]
        stages = [item for name, wiring, served in snapshot.stages for item in (name, wiring, int(served))]
        await self.connection.call("EVAL", RESTORE, 1, keys.STAGES, len(snapshot.rows), *rows, *stages)
        self._current = snapshot

    async def view(self) -> View:
        time, *found = await self.connection.call("EVAL", LOOK, 1, keys.BACKLOG, LOOKED)
        rows, stages, view = [], [], View(Snapshot((), ()))
        for name, ttl, dump, content, groups in sorted(found):
            key = name.decode()
            view.ttl[key] = ttl
            if key == keys.STAGES:
                for stage, text in sorted(content):
                    wiring, beat = re.fullmatch(rb'(.*),"beat":(\d+)\}', text).groups()  # type: ignore[union-attr]
                    stages.append((stage, wiring + b"}", time - int(beat) < BEAT_FRESH * 1000))
                continue
            rows.append((name, max(0, -(-ttl // MINUTE) * MINUTE), dump))
            if groups is None:
                view.others[key] = content
            else:
                view.streams[key] = [(entry, dict(zip(body[::2], body[1::2], strict=True))) for entry, body in content]
                view.groups[key] = {
                    group.decode(): Group(last, [(row[0], row[1]) for row in pending], [row[3] for row in pending])
                    for group, last, pending in groups
                }
        view.snapshot = Snapshot(tuple(rows), tuple(stages))
        return view

    # servers that refuse

    @asynccontextmanager
    async def read_only(self) -> AsyncIterator[None]:
        """The server becomes a replica of one that is not there."""
        await self.connection.call("REPLICAOF", "127.0.0.1", 1)
        try:
            yield
        finally:
            await self.connection.call("REPLICAOF", "NO", "ONE")

    @asynccontextmanager
    async def lost(self) -> AsyncIterator[None]:
        """The same, and it refuses reads too."""
        await self.connection.call("CONFIG", "SET", "replica-serve-stale-data", "no")
        try:
            async with self.read_only():
                yield
        finally:
            await self.connection.call("CONFIG", "SET", "replica-serve-stale-data", "yes")

    @asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        await self.connection.call("CONFIG", "SET", "maxmemory", 1)
        try:
            yield
        finally:
            await self.connection.call("CONFIG", "SET", "maxmemory", 0)

    @asynccontextmanager
    async def silenced(self) -> AsyncIterator[None]:
        """The user may not PUBLISH."""
        await self.connection.call("ACL", "SETUSER", "default", "-publish")
        try:
            yield
        finally:
            await self.connection.call("ACL", "SETUSER", "default", "+publish")

    async def check_refusals(self, state: State[L], move: Move, key: Any) -> int:
        """Make a move, which leads to the state `key`, on servers that refuse. Returns on how many.

        A replica must change nothing, and be named as one. A full server must do all of a hop, and may do nothing of a
        door. One where the user may not PUBLISH must do a move whole or not at all. A move that is refused has
        announced nothing.
        """
        if move[0] in self.OUTSIDE:
            return 0
        await self.restore(state.snapshot)
        restored = await self.view()  # a hash may be stored in another way than before its dump
        before, _ = self.check(state.local, restored)
        full = {before, key} if move[0] in self.DOORS else {key}
        for server in self.SERVERS:
            expected = full if server == "full" else {before, key}
            await self.restore(state.snapshot)
            self._current = None
            refused, local = "", state.local.copy()
            async with getattr(self, server)():
                try:
                    await getattr(self, f"do_{move[0]}")(local, *move[1:])
                except (JournalUnavailable, WrongServer) as fault:
                    refused, local = str(fault), state.local.copy()
            view = await self.view()
            found, _ = self.check(local, view)
            replica = server in {"read_only", "lost"}
            written = replica and view.snapshot != restored.snapshot
            unnamed = replica and refused and "replica" not in refused
            if found not in expected or (refused and found != before) or written or unnamed:
                raise ViolationError(f"{move!r} on a {server} server is half done: {refused or 'not refused'}")
            self.check_announced(move, restored, view)
        return len(self.SERVERS)


RESTORE = """
redis.call('FLUSHALL')
local count = tonumber(ARGV[1])
for i = 2, count * 3 + 1, 3 do redis.call('RESTORE', ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
local time = redis.call('TIME')[1] .. '000'
for i = count * 3 + 2, #ARGV, 3 do
  local beat = ARGV[i + 2] == '1' and time or '0'
  redis.call('HSET', KEYS[1], ARGV[i], string.sub(ARGV[i + 1], 1, -2) .. ',"beat":' .. beat .. '}')
end
"""
"""Lua: Redis holds these keys alone."""

LOOK = """
redis.call('PUBLISH', ARGV[1], '')
local time = redis.call('TIME')
local found = { time[1] * 1000 + math.floor(time[2] / 1000) }
local reads = { zset = { 'ZRANGE', 0, -1 }, set = { 'SMEMBERS' }, string = { 'GET' } }
for _, name in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', name).ok
  local content, groups = nil, false
  if kind == 'stream' then
    content, groups = redis.call('XRANGE', name, '-', '+'), {}
    for i, row in ipairs(redis.call('XINFO', 'GROUPS', name)) do
      local group = {}
      for j = 1, #row, 2 do group[row[j]] = row[j + 1] end
      groups[i] = { group.name, group['last-delivered-id'], redis.call('XPENDING', name, group.name, '-', '+', 1000) }
    end
  elseif kind == 'hash' then
    local flat = redis.call('HGETALL', name)
    content = {}
    for i = 1, #flat, 2 do content[#content + 1] = { flat[i], flat[i + 1] } end
  else
    content = redis.call(reads[kind][1], name, unpack(reads[kind], 2))
  end
  if name ~= KEYS[1] then
    found[#found + 1] = { name, redis.call('PTTL', name), redis.call('DUMP', name), content, groups }
  end
end
return found
"""
"""Lua: the time, then every key but the count of the backlog, which is kept for a tenth of a second."""


def ordinal(entry: bytes) -> tuple[int, int]:
    """Return an entry's id as numbers."""
    ms, _, number = entry.partition(b"-")
    return int(ms), int(number)


def event_id(event: bytes) -> str:
    """Return the id in the JSON of an event."""
    return str(json.loads(event)["id"])


async def messages_between(redis: Redis, marker: str, *channels: str) -> AsyncGenerator[list[tuple[str, bytes]]]:
    """Yield the messages of `channels`, in Redis's order, each time that one comes on `marker`: those since the last.

    The first list is empty: the subscription is confirmed.
    """
    async with subscribed(redis) as subscription:
        await subscription.subscribe(*channels, marker)
        found: list[tuple[str, bytes]] = []
        async for some in subscription.messages(silence=60):
            for message in some:
                if message.channel == marker.encode():
                    yield found
                    found = []
                elif message.kind == b"message":
                    found.append((message.channel.decode(), message.data))
