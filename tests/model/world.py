"""A world for the search: the shipped scripts on a real Valkey, what two bridges hold, and what has truly happened.

A state is a dump of every key, the entries that each bridge believes it holds, and the truth: which stage has completed
which event. A move is one step of a bridge, of its maintenance, of a producer or of an operator. A state that breaks an
invariant raises ViolationError.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from milepost.errors import JournalUnavailable
from milepost.events.event import Event
from milepost.journal import Bury, Complete, Consumer, Entry, Failure, Journal, Maintenance, Park, Wiring, keys
from milepost.journal.connection import connect
from milepost.journal.consumer import Settlement
from milepost.journal.scripts import StreamRow
from milepost.settings import JournalSettings

IN, OUT = "in", "out"
HOUR = 3_600_000
VOLATILE = {keys.BACKLOG.encode()}
"""Keys that are no part of a state: they end by themselves within a tenth of a second."""

CONSTANT = {keys.JOURNALS, keys.STAGES, keys.DEAD}


class ViolationError(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Bounds:
    """How often each fault may happen on one path, and how many events there are."""

    events: int = 1
    crashes: int = 1
    parks: int = 1
    burials: int = 1
    lost_answers: int = 1
    duplicates: int = 1
    refusals: int = 1
    replays: int = 1


Move = tuple[Any, ...]
Key = tuple[str, str, str]
"""Stage, stream and id of an entry."""

OF_ENTRIES = {
    "complete_and_lose_the_answer": "lost_answers",
    "park": "parks",
    "bury": "burials",
    "complete_while_redis_is_full": "refusals",
    "complete_while_redis_refuses": "refusals",
}
"""Moves with one entry that a bridge holds, and which bound counts each."""


@dataclass(frozen=True)
class State:
    """Where the world is. `done`: (stage, event) → how often it was completed; `buried`: how often buried."""

    dump: tuple[tuple[bytes, bytes, int], ...]
    held: tuple[Mapping[Key, Entry], ...]
    names: tuple[str, ...]
    used: Mapping[str, int]
    done: Mapping[tuple[str, str], int]


@dataclass
class Draft:
    """A state in the making."""

    held: list[dict[Key, Entry]]
    names: list[str]
    used: Counter[str]
    done: Counter[tuple[str, str]]


class World:
    """Stages `wirings` (name → what it emits, or None) all consume `in`; `out` is consumed by a stage of its own."""

    def __init__(self, url: str, bounds: Bounds, wirings: Mapping[str, str | None]) -> None:
        self.bounds = bounds
        self.wirings = wirings
        self.settings = JournalSettings.read(redis_url=url)
        self.journal = Journal(connect(self.settings), self.settings)
        self.line = self.journal.scripts.connection
        self.maintenance = Maintenance(self.journal.scripts, dedup=self.settings.dedup, limit=1000)
        self.events = [Event(id=f"e{number}", source="/model", type=IN, data=number) for number in range(bounds.events)]

    async def close(self) -> None:
        await self.journal.close()

    def consumer(self, stage: str, name: str) -> Consumer:
        return Consumer(
            stage, [IN], name, reader=self.line, scripts=self.journal.scripts, deadline=self.settings.deadline
        )

    async def start(self) -> State:
        await self.line.call("FLUSHALL")
        table = {name: Wiring([IN], [emits] if emits else [], "") for name, emits in self.wirings.items()}
        await self.maintenance.beat({**table, "last": Wiring([OUT], [], "")})
        await self.journal.scripts.ensure(stage="last", channels=[(OUT,)])
        for stage in self.wirings:
            await self.consumer(stage, "b0").ensure()
        for event in self.events:
            await self.journal.publish(event)
        return State(await self.dump(), ({}, {}), ("b0", "b1"), Counter(), Counter())

    async def dump(self) -> tuple[tuple[bytes, bytes, int], ...]:
        names = sorted(name for name in await self.line.call("KEYS", "*") if name not in VOLATILE)
        rows = await asyncio.gather(
            *(self.line.call("DUMP", name) for name in names), *(self.line.call("PTTL", name) for name in names)
        )
        return tuple(zip(names, rows[: len(names)], rows[len(names) :], strict=True))

    async def restore(self, state: State) -> None:
        await asyncio.gather(
            self.line.call("FLUSHALL"),
            *(self.line.call("RESTORE", name, max(0, ttl), data) for name, data, ttl in state.dump),
        )

    # moves

    def moves(self, state: State) -> Iterator[Move]:
        """Yield every move that may follow: the name of one of the methods `do_…`, and its arguments.

        A number names one of the entries that a bridge holds, in their order.
        """

        def left(fault: str) -> bool:
            return bool(state.used.get(fault, 0) < getattr(self.bounds, fault))

        for bridge, held in enumerate(state.held):
            for stage in self.wirings:
                yield "read", bridge, stage
                yield "take_over", bridge, stage
            for stage in {key[0] for key in held}:
                yield "renew", bridge, stage
            for number in range(len(held)):
                yield "complete", bridge, number
                for move, fault in OF_ENTRIES.items():
                    if left(fault):
                        yield move, bridge, number
            if held:
                yield "hand_back", bridge
                if left("crashes"):
                    yield "crash", bridge
        yield ("wake",)
        yield "trim", IN
        yield "trim", OUT
        if left("replays"):
            yield from (("replay", stage) for stage in self.wirings)
        if left("duplicates"):
            yield ("publish_again",)

    async def apply(self, state: State, move: Move) -> State:
        """Make a move from the state that Redis was restored to."""
        draft = Draft([dict(one) for one in state.held], list(state.names), Counter(state.used), Counter(state.done))
        await getattr(self, f"do_{move[0]}")(draft, *move[1:])
        return State((), tuple(draft.held), tuple(draft.names), draft.used, draft.done)

    async def do_read(self, draft: "Draft", bridge: int, stage: str) -> None:
        consumer = self.consumer(stage, draft.names[bridge])
        hold(draft.held[bridge], stage, (await consumer.take(1)).entries, fresh=True)

    async def do_take_over(self, draft: "Draft", bridge: int, stage: str) -> None:
        name = draft.names[bridge]
        streams = [StreamRow(keys.retries(stage, IN)), StreamRow(keys.journal(IN))]
        taken, destroyed = await self.journal.scripts.take_over(
            stage=stage, consumer=name, most=8, claim=0, streams=streams
        )
        if destroyed:
            raise ViolationError("an entry was pending without a body")
        consumer = self.consumer(stage, name)
        entries = [consumer._entry(stream.decode(), *row) for stream, *row in taken]
        hold(draft.held[bridge], stage, entries, fresh=False)

    async def do_complete(self, draft: "Draft", bridge: int, number: int) -> None:
        key = sorted(draft.held[bridge])[number]
        entry = draft.held[bridge].pop(key)
        await self.settle(draft, bridge, key[0], self.completion(key[0], entry))

    async def do_complete_and_lose_the_answer(self, draft: "Draft", bridge: int, number: int) -> None:
        draft.used["lost_answers"] += 1
        key = sorted(draft.held[bridge])[number]
        await self.settle(draft, bridge, key[0], self.completion(key[0], draft.held[bridge][key]))

    async def do_park(self, draft: "Draft", bridge: int, number: int) -> None:
        draft.used["parks"] += 1
        key = sorted(draft.held[bridge])[number]
        entry = draft.held[bridge].pop(key)
        failure = Failure("HTTP 500", 500, entry.attempts + 1, entry.crashes)
        await self.settle(draft, bridge, key[0], Park(entry, event_of(entry), failure, 0))

    async def do_bury(self, draft: "Draft", bridge: int, number: int) -> None:
        draft.used["burials"] += 1
        key = sorted(draft.held[bridge])[number]
        entry = draft.held[bridge].pop(key)
        failure = Failure("HTTP 422", 422, entry.attempts, entry.crashes)
        await self.settle(draft, bridge, key[0], Bury(entry, event_of(entry), failure))

    async def do_complete_while_redis_is_full(self, draft: "Draft", bridge: int, number: int) -> None:
        draft.used["refusals"] += 1
        await self.line.call("CONFIG", "SET", "maxmemory", 1)
        try:
            await self.do_complete(draft, bridge, number)
        finally:
            await self.line.call("CONFIG", "SET", "maxmemory", 0)

    async def do_complete_while_redis_refuses(self, draft: "Draft", bridge: int, number: int) -> None:
        """A server that refuses every write is left as it was."""
        draft.used["refusals"] += 1
        key = sorted(draft.held[bridge])[number]
        before = await self.dump()
        await self.line.call("CONFIG", "SET", "min-replicas-to-write", 1)
        try:
            consumer = self.consumer(key[0], draft.names[bridge])
            (answer,) = await consumer.settle([self.completion(key[0], draft.held[bridge][key])])
        finally:
            await self.line.call("CONFIG", "SET", "min-replicas-to-write", 0)
        if not isinstance(answer, JournalUnavailable):
            raise ViolationError(f"a server that refuses writes answered {answer!r}")
        if [row[:2] for row in await self.dump()] != [row[:2] for row in before]:
            raise ViolationError("a refused settlement changed something")

    async def do_renew(self, draft: "Draft", bridge: int, stage: str) -> None:
        held = draft.held[bridge]
        mine = [entry for key, entry in held.items() if key[0] == stage]
        for lost in await self.consumer(stage, draft.names[bridge]).renew(mine):
            del held[stage, lost.stream, lost.id]

    async def do_hand_back(self, draft: "Draft", bridge: int) -> None:
        for stage in self.wirings:
            await self.consumer(stage, draft.names[bridge]).hand_back(claim=0.001)
        draft.held[bridge] = {}

    async def do_crash(self, draft: "Draft", bridge: int) -> None:
        draft.used["crashes"] += 1
        draft.held[bridge] = {}
        draft.names[bridge] = f"b{bridge}{'+' * draft.used['crashes']}"

    async def do_wake(self, _: "Draft") -> None:
        _, _, refused = await self.maintenance.wake([*self.wirings], most=8)
        if refused:
            raise ViolationError(f"not woken: {refused}")

    async def do_trim(self, _: "Draft", channel: str) -> None:
        await self.maintenance.trim(channel)

    async def do_replay(self, draft: "Draft", stage: str) -> None:
        if letters := await self.journal.admin.dead_letters(stage):
            draft.used["replays"] += 1
            await self.journal.admin.replay(stage, [letter.entry for letter in letters])

    async def do_publish_again(self, draft: "Draft") -> None:
        draft.used["duplicates"] += 1
        if await self.journal.publish(self.events[0]):
            raise ViolationError("a duplicate was accepted")

    def completion(self, stage: str, entry: Entry) -> Complete:
        of = event_of(entry)
        emits = self.wirings[stage]
        reply = Event(id=of, source=f"/model/{stage}", type=emits, data=of) if emits else None
        return Complete(entry, of, reply)

    async def settle(self, draft: "Draft", bridge: int, stage: str, settlement: Settlement) -> None:
        (answer,) = await self.consumer(stage, draft.names[bridge]).settle([settlement])
        if answer not in {"done", "buried", "stale"}:
            raise ViolationError(f"not settled: {answer!r}")
        if isinstance(settlement, Complete) and answer == "done":
            draft.done[stage, settlement.id] += 1

    # what a state is

    async def look(self, state: State) -> tuple[Any, bool]:
        """Return what tells a state from others, with symmetric ones as one, and whether everything has its effect.

        Raises ViolationError.
        """
        seen = View(await self.read_all(), state)
        out = Counter(event_id(row) for row in seen.streams.get(keys.journal(OUT), []))
        finished = True
        for stage, emits in self.wirings.items():
            for event in self.events:
                places = seen.places(stage, event.id)
                count = state.done.get((stage, event.id), 0)
                if emits and out[event.id] != count:
                    raise ViolationError(
                        f"{stage} has completed {event.id} {count} times, and {out[event.id]} replies exist"
                    )
                if count > 1:
                    raise ViolationError(f"{stage} has completed {event.id} {count} times")
                if len(places) + count != 1:
                    raise ViolationError(
                        f"{event.id} of {stage}: completed {count} times, and in {places or 'no place'}"
                    )
                finished = finished and places in ([], ["dead"])
        seen.check_bounded()
        return seen.key(), finished

    async def read_all(self) -> dict[str, Any]:
        names = sorted(name.decode() for name in await self.line.call("KEYS", "*") if name not in VOLATILE)
        streams = [name for name in names if name.startswith((keys.journal(""), keys.RETRIES, keys.dead("")))]
        parked = [name for name in names if name.startswith(keys.parked(""))]
        calls: list[Any] = [self.line.call("XRANGE", name, "-", "+") for name in streams]
        calls += [self.line.call("ZRANGE", name, 0, -1) for name in parked]
        calls += [self.line.call("PTTL", name) for name in names]
        groups = [(name, row) for name in streams if not name.startswith(keys.dead("")) for row in self.readers(name)]
        calls += [self.line.call("XPENDING", name, group, "-", "+", 100) for name, group in groups]
        calls += [self.line.call("XINFO", "GROUPS", name) for name in streams if not name.startswith(keys.dead(""))]
        rows = iter(await asyncio.gather(*calls))
        found: dict[str, Any] = {"streams": {name: next(rows) for name in streams}}
        found["parked"] = {name: next(rows) for name in parked}
        found["ttl"] = {name: next(rows) for name in names}
        found["pending"] = {pair: next(rows) for pair in groups}
        found["groups"] = {name: next(rows) for name in streams if not name.startswith(keys.dead(""))}
        return found

    def readers(self, stream: str) -> list[str]:
        if stream == keys.journal(OUT):
            return ["last"]
        return [stage for stage in self.wirings if stream in (keys.journal(IN), keys.retries(stage, IN))]


class View:
    """What lies in Redis, with ids told as ordinals."""

    def __init__(self, found: dict[str, Any], state: State) -> None:
        self.streams: dict[str, list[Any]] = found["streams"]
        self.parked: dict[str, list[bytes]] = found["parked"]
        self.ttl: dict[str, int] = found["ttl"]
        self.pending: dict[tuple[str, str], list[Any]] = found["pending"]
        self.groups: dict[str, dict[str, Any]] = {}
        for stream, rows in found["groups"].items():
            fields = [row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True)) for row in rows]
            self.groups[stream] = {row[b"name"].decode(): row for row in fields}
        self.state = state

    def unread(self, stream: str, group: str) -> list[Any]:
        last = ordinal(self.groups[stream][group][b"last-delivered-id"])
        return [row for row in self.streams.get(stream, []) if ordinal(row[0]) > last]

    def places(self, stage: str, of: str) -> list[str]:
        """Return every place where this stage has this event."""
        places = []
        for stream in (keys.journal(IN), keys.retries(stage, IN)):
            rows = {row[0]: row for row in self.streams.get(stream, [])}
            if stream not in self.groups or stage not in self.groups[stream]:
                raise ViolationError(f"{stream} has no group {stage}")
            places += ["unread in " + stream for row in self.unread(stream, stage) if event_id(row) == of]
            for entry, *_ in self.pending[stream, stage]:
                if entry not in rows:
                    raise ViolationError(f"{entry!r} is pending in {stream} without a body")
                places += ["pending in " + stream] * (event_id(rows[entry]) == of)
        members = self.parked.get(keys.parked(stage), [])
        places += ["parked" for member in members if json.loads(member.partition(b"\n")[2])["id"] == of]
        places += ["dead" for row in self.streams.get(keys.dead(stage), []) if event_id(row) == of]
        return places

    def check_bounded(self) -> None:
        for name, ttl in self.ttl.items():
            bounded = name in CONSTANT or 0 <= ttl <= HOUR
            counted = name.startswith((keys.RETRIES, keys.parked(""), keys.dead(""))) or name in self.groups
            if not bounded and not counted:
                raise ViolationError(f"{name} neither counts nor ends")
            if name in self.groups and self.groups[name] and ttl >= 0:
                raise ViolationError(f"{name} has a group and would end")

    def key(self) -> Any:
        """The same for states that differ in ids, times and in which bridge is which."""
        return min((self._key(order) for order in ((0, 1), (1, 0))), key=repr)

    def _key(self, order: tuple[int, int]) -> Any:
        names = {self.state.names[bridge]: number for number, bridge in enumerate(order)}
        place = {(stream, row[0]): number for stream, rows in self.streams.items() for number, row in enumerate(rows)}
        return (
            tuple((stream, tuple(map(essence, rows))) for stream, rows in self.streams.items()),
            tuple(
                (stream, group, len(self.unread(stream, group)))
                for stream, groups in self.groups.items()
                for group in sorted(groups)
            ),
            tuple(
                (stream, group, tuple((place[stream, row[0]], names.get(row[1].decode(), 9)) for row in rows))
                for (stream, group), rows in self.pending.items()
            ),
            tuple((name, tuple(sorted(map(essence_of_parked, rows)))) for name, rows in self.parked.items()),
            tuple(
                tuple(
                    sorted(
                        (stage, place.get((stream, of.encode()), -1), event_of(entry))
                        for (stage, stream, of), entry in self.state.held[bridge].items()
                    )
                )
                for bridge in order
            ),
            tuple(sorted(self.state.used.items())),
            tuple(sorted(self.state.done.items())),
        )


def ordinal(entry: bytes) -> tuple[int, int]:
    ms, _, number = entry.partition(b"-")
    return int(ms), int(number)


def fields_of(row: Any) -> dict[bytes, bytes]:
    return row[1] if isinstance(row[1], dict) else dict(zip(row[1][::2], row[1][1::2], strict=True))


def event_id(row: Any) -> str:
    return str(json.loads(fields_of(row)[b"event"])["id"])


def essence(row: Any) -> tuple[str, bytes, bytes]:
    fields = fields_of(row)
    return event_id(row), fields.get(b"attempts", b"0"), fields.get(b"crashes", b"0")


def essence_of_parked(member: bytes) -> tuple[str, bytes]:
    head, _, event = member.partition(b"\n")
    return json.loads(event)["id"], head.split(b" ", 2)[2]


def event_of(entry: Entry) -> str:
    return str(json.loads(entry.event)["id"])


def hold(held: dict[Key, Entry], stage: str, entries: list[Entry], *, fresh: bool) -> None:
    for entry in entries:
        key = stage, entry.stream, entry.id
        if fresh and key in held:
            raise ViolationError(f"an entry was read twice: {key}")
        held.setdefault(key, entry)
