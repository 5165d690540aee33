"""The world of deliveries: two bridges, one or two stages that consume `in`, and `out` with a stage of its own.

If both stages emit, each has a channel of its own. Their answers to an event have the same ids.

With `keys` the stages are ordered by key. Then also, in every state:

- Of each key one event at most is in hand: pending in the journal, in the retries, or parked. The hash of keys in hand
  has the key exactly then.
- An event is held only while its key is in hand.
- The hash has the place of this event, and its order by place, and nothing else.
- An event is in hand only if all earlier ones of its key are completed, dead or replayed.

A stage may begin to consume another channel, `new`, on which nothing comes. It leaves its place on `in` behind. What
waits there stays, but for the retries and parked events, which become dead letters.

After every move the events that have entered a journal, and no others, were announced, each once.
"""

import contextlib
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

from milepost.errors import BacklogFull, JournalUnavailable, MilepostError
from milepost.events.event import Event
from milepost.journal import (
    BROKER,
    Bury,
    Complete,
    Consumer,
    Delay,
    Depth,
    Entry,
    Failure,
    Maintenance,
    Park,
    Scripts,
    SettlementRefused,
    Split,
    Wiring,
    keys,
)
from milepost.journal.admin import Admin, StageNotServed, StageServed
from milepost.journal.consumer import Settlement
from tests.model.world import HOUR, LOOKED, Move, View, ViolationError, World, event_id, messages_between

IN, OUT, OTHER, ASIDE = "in", "out", "other", "aside"
NEW = "new"
"""The channel that a stage consumes in place of IN once it has left that."""

DAY = 24 * HOUR
STAGES_AND_SETS = {keys.JOURNALS, keys.STAGES, keys.DEAD, keys.PAUSED}
"""Keys of a bounded size."""

FIELDS = (b"attempts", b"crashes", b"channel")
"""Of an entry, beside its event: what makes two states different."""

_BEATS = re.compile(rb',?"beat":\d+')
"""The times in a row of the Broker, at which a bridge served the stages behind it."""

Key = tuple[str, str, str]
"""Stage, stream and id of an entry."""


@dataclass(frozen=True)
class Bounds:
    """How many events there are, and how often each act may happen on one path."""

    events: int = 1
    crashes: int = 0
    parks: int = 0
    burials: int = 0
    lost_answers: int = 0
    duplicates: int = 0
    replays: int = 0
    pauses: int = 0
    drops: int = 0
    forgets: int = 0
    bridges: int = 2
    answers: int = 1
    """How many answers each stage that emits gives to an event. Several are journaled in one step."""
    channels: int = 1
    """Of how many channels a stage that emits chooses one for each answer."""
    delays: int = 0
    """How often an event is parked for a day before its first delivery."""
    failovers: int = 0
    """How often a replica falls behind. It may be promoted at any later moment."""
    deletions: int = 0
    """How often an operator deletes a parked event or an unread retry by hand."""
    reads: int = 1
    """Up to how many entries a read brings: 1, or 2."""
    moves: int = 0
    """How often a stage begins to consume another channel, or the old one again."""
    limit: int = 0
    """BACKLOG_LIMIT. With 0 it is not reached."""
    absences: int = 0
    """How often a stage that has nothing pending is not served for over a minute."""
    rollouts: int = 0
    """How often a bridge is replaced by one whose stages are ordered, or by one whose stages are not."""
    times: bool = False
    """Whether two states differ if an entry was given out once in one and more often in the other (see key_of)."""
    refusals: bool = False
    """Whether each move is also made on servers that refuse."""
    keys: Sequence[str] = ()
    """The key of each event, if the stages are ordered by key."""


OF_ENTRIES = {
    "complete_and_lose_the_answer": "lost_answers",
    "park": "parks",
    "delay": "parks",
    "delay_for_a_day": "delays",
    "bury": "burials",
    "park_after_the_deadline": "burials",
}
"""Moves with one entry that a bridge holds, and which bound counts each."""


HAPPENED = ("published", "done", "dropped", "forgotten", "replayed", "delayed", "away", "cleared")
"""Facts that a failover takes back: writes from after the replica fell behind have not happened."""


@dataclass(frozen=True)
class Replica:
    """A replica that is behind: the state of Redis when it fell behind, and the facts of that time."""

    view: View
    happened: "Deliveries"


@dataclass
class Deliveries:
    """What lies outside Redis.

    claimed    the entries that each bridge believes that it has claimed
    done       how often each stage has completed each event, truly; no bridge knows it
    paused     the stages that each bridge knows to be paused
    dropped    the dead letters and other events that an operator deleted, as stage and event
    forgotten  the stages that an operator deleted
    replayed   the dead letters that were replayed, as stage and event
    delayed    the events that are parked for a day, as stage and event
    away       the stages that consume NEW
    cleared    those of them whose events on IN an operator has deleted
    ordered    whether each bridge knows its stages as ordered
    """

    claimed: list[dict[Key, Entry]]
    names: list[str]
    published: set[str]
    used: Counter[str]
    done: Counter[tuple[str, str]]
    paused: list[frozenset[str]]
    dropped: set[tuple[str, str]] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    replayed: set[tuple[str, str]] = field(default_factory=set)
    delayed: set[tuple[str, str]] = field(default_factory=set)
    away: set[str] = field(default_factory=set)
    cleared: set[str] = field(default_factory=set)
    ordered: list[bool] = field(default_factory=list)
    replica: Replica | None = None

    def copy(self) -> "Deliveries":
        return Deliveries(
            [dict(claimed) for claimed in self.claimed],
            list(self.names),
            set(self.published),
            Counter(self.used),
            Counter(self.done),
            list(self.paused),
            set(self.dropped),
            set(self.forgotten),
            set(self.replayed),
            set(self.delayed),
            set(self.away),
            set(self.cleared),
            list(self.ordered),
            self.replica,
        )

    def taken_back(self, replica: Replica) -> "Deliveries":
        """Return the state outside Redis once this replica is promoted."""
        happened = replica.happened.copy()
        return replace(self, replica=None, **{name: getattr(happened, name) for name in HAPPENED})


class AtOnce(Scripts):
    """For these scripts each claim has expired, each consumer is idle, and each stage has not beaten for long."""

    async def take_over(self, **given: Any) -> Any:
        return await super().take_over(**{**given, "claim": 0})

    async def reap(self, **given: Any) -> Any:
        return await super().reap(**{**given, "idle": -1})

    async def forget(self, **given: Any) -> Any:
        return await super().forget(**{**given, "fresh": 0})

    async def trim(self, **given: Any) -> Any:
        return await super().trim(**{**given, "fresh": 0})


class DeliveryWorld(World[Deliveries]):
    """`stages`: name → the channel that it emits, or None."""

    PROGRESS = frozenset(
        {
            "read",
            "read_two",
            "read_unread",
            "wait",
            "reread",
            "take_over",
            "complete",
            "complete_all",
            "renew",
            "retry_due",
            "trim",
            "trim_later",
            "serve",
            "publish",
            "publish_to_a_wait",
            "resume",
            "look_for_pauses",
            "come_due",
            "unblock_lost",
        }
    )
    DOORS = frozenset({"publish", "publish_again", "publish_to_a_wait", "pause"})
    OUTSIDE = frozenset({"stop_serving", "crash", "come_due", "delete", "fall_behind", "fail_over"})

    OTHERS: Sequence[str] = ()
    """Stages without a group here that have dead letters."""

    def __init__(self, url: str, bounds: Bounds, stages: Mapping[str, str | None]) -> None:
        super().__init__(url, limit=bounds.limit)
        self.bounds = bounds
        self.refusals = bounds.refusals
        self.stages = stages
        self.consumed = (OUT, OTHER)[: bounds.channels]
        self.at_once = AtOnce(self.journal.redis, self.connection)
        self.later = Maintenance(self.at_once, dedup=self.settings.dedup, limit=self.settings.backlog_limit)
        self._heard: AsyncGenerator[list[tuple[str, bytes]]] | None = None
        self._earlier: list[tuple[str, bytes]] = []
        """Announcements that a look within the present move has found."""
        if bounds.keys:  # a full server holds no event, so the first that would be stays unread
            self.DOORS |= {"read", "read_two", "read_unread", "wait", "read_and_lose_the_answer"}
        if bounds.channels > 1:
            self.SERVERS = (*self.SERVERS, "silenced_but_one")
        self.events = [
            Event(id=f"e{number}", source="/model", type=IN, data={"key": (*bounds.keys, *[number] * 9)[number]})
            for number in range(bounds.events)
        ]

    def __repr__(self) -> str:
        return f"DeliveryWorld(url, {self.bounds!r}, {dict(self.stages)!r})"

    def consumer(self, stage: str, name: str, *, ordered: bool = False) -> Consumer:
        order = "key" if ordered else False
        deadline = self.settings.deadline
        consumer = Consumer(
            stage, IN, name, reader=self.connection, scripts=self.at_once, deadline=deadline, order=order
        )
        consumer._takes = self.at_once
        return consumer

    async def close(self) -> None:
        if self._heard is not None:
            await self._heard.aclose()
        await super().close()

    async def view(self) -> View:
        if self._heard is None:
            self._heard = messages_between(self.journal.redis, LOOKED, IN, OUT, OTHER, ASIDE)
            await anext(self._heard)
        view = await super().view()
        view.announced, self._earlier = self._earlier + await anext(self._heard), []
        return view

    async def look(self) -> View:
        """Look at Redis within a move."""
        view = await self.view()
        self._earlier = view.announced
        return view

    @contextlib.asynccontextmanager
    async def silenced_but_one(self) -> AsyncIterator[None]:
        """The user may PUBLISH on OUT alone."""
        await self.connection.call("ACL", "SETUSER", "default", "-publish", f"+publish|{OUT}")
        try:
            yield
        finally:
            await self.connection.call("ACL", "SETUSER", "default", "+publish")

    def check_announced(self, move: Move, before: View, view: View) -> None:
        entered = [] if move[0] in self.OUTSIDE else self.entered(before, view)
        if sorted(entered) != sorted(view.announced):
            raise ViolationError(f"{move!r}: {entered} were to be announced, and {view.announced} were")

    def entered(self, before: View, view: View) -> list[tuple[str, bytes]]:
        """Return the announcements of the events that are in a journal and were not: channel and text."""
        found = []
        for channel in (IN, OUT, OTHER, ASIDE):
            known = {entry for entry, _ in before.streams.get(keys.journal(channel), ())}
            found += [
                (channel, b'{"journalid":"%b",%b' % (entry, body[b"event"][1:]))
                for entry, body in view.streams.get(keys.journal(channel), ())
                if entry not in known
            ]
        return found

    async def begin(self) -> Deliveries:
        await self.beat()
        for out in self.consumed:
            await self.scripts.ensure(stage="last", broker=BROKER, channel=out)
        for stage in self.stages:
            await self.consumer(stage, "b0").ensure()
        bridges = range(self.bounds.bridges)
        names = [f"b{bridge}" for bridge in bridges]
        ordered = [bool(self.bounds.keys)] * len(names)
        paused = [frozenset[str]()] * len(names)
        return Deliveries([{} for _ in bridges], names, set(), Counter(), Counter(), paused, ordered=ordered)

    async def beat(self) -> None:
        table = {name: Wiring([IN], self.outs(name), "") for name in self.stages}
        await self.maintenance.beat({**table, "last": Wiring(self.consumed, [], "")})

    def outs(self, stage: str) -> Sequence[str]:
        """Return the channels on one of which a stage gives each answer."""
        emits = self.stages.get(stage)
        return (emits, OTHER)[: self.bounds.channels] if emits else ()

    def left(self, local: Deliveries, act: str) -> bool:
        return bool(local.used[act] < getattr(self.bounds, act))

    def moves(self, local: Deliveries, view: View) -> Iterator[Move]:
        """Yield every move. A number names one of the entries that a bridge holds, in their order."""
        yield from self._publishes(local)
        for bridge in range(self.bounds.bridges):
            yield from self._of_bridge(local, bridge)
            yield from self._reads(local, view, bridge)
        yield ("retry_due",)
        yield from [("unblock_lost",)] if self.bounds.keys else []
        yield from [("come_due",)] if local.delayed else []
        yield from (("trim", channel) for channel in (IN, *self.consumed))
        for act, bound in {"replay": "replays", "drop": "drops", "forget": "forgets"}.items():
            if self.left(local, bound):
                yield from ((act, stage) for stage in self.living(local))
        if self.bounds.forgets and not self.bounds.refusals:
            yield ("forget_journal",)
        if self.bounds.absences:
            yield from self._absences(local, view)
        if self.bounds.moves:
            yield from self._moves_of_stages(local)
        if self.left(local, "deletions"):
            yield from (("delete", stage) for stage in self.living(local))
        if self.bounds.pauses:
            yield from self._pauses(local, {stage.decode() for stage in view.others.get(keys.PAUSED, ())})
        yield from self._failovers(local)

    def _failovers(self, local: Deliveries) -> Iterator[Move]:
        if local.replica:
            yield ("fail_over",)
        elif self.left(local, "failovers"):
            yield ("fall_behind",)

    def _of_bridge(self, local: Deliveries, bridge: int) -> Iterator[Move]:
        claimed = local.claimed[bridge]
        for stage in self.living(local):
            if self.bounds.refusals or local.used["crashes"]:
                yield "reap", bridge, stage
            if self.bounds.refusals:
                yield "start", bridge, stage
        for stage in sorted({key[0] for key in claimed}):
            yield "renew", bridge, stage
            if sum(key[0] == stage for key in claimed) > 1:
                yield "complete_all", bridge, stage
        yield from self._settlements(local, bridge)
        yield "hand_back", bridge
        if claimed and self.left(local, "crashes"):
            yield "crash", bridge
        if self.left(local, "rollouts"):
            yield "roll_out", bridge

    def _reads(self, local: Deliveries, view: View, bridge: int) -> Iterator[Move]:
        for stage in self.living(local):
            if stage in local.paused[bridge] or stage in local.away or not view.served[stage]:
                continue
            for act in ("read", "take_over"):
                yield act, bridge, stage
                if self.left(local, "lost_answers"):
                    yield f"{act}_and_lose_the_answer", bridge, stage
            if local.used["lost_answers"]:
                yield "reread", bridge, stage
            unread = [name for name in (keys.retries(stage, IN), keys.journal(IN)) if view.unread(name, stage)]
            if self.bounds.reads > 1 and unread:
                yield from ((act, bridge, stage) for act in ("read_two", "read_unread", "wait"))
            if self.bounds.reads > 1 and local.ordered[bridge] and not unread and self.unpublished(local):
                yield "publish_to_a_wait", bridge, stage

    def _absences(self, local: Deliveries, view: View) -> Iterator[Move]:
        for stage in self.living(local):
            if not view.served[stage]:
                yield "serve", stage
            elif self.left(local, "absences") and not view.groups[keys.journal(IN)][stage].pending:
                yield "stop_serving", stage

    def _moves_of_stages(self, local: Deliveries) -> Iterator[Move]:
        for stage in self.living(local):
            if self.left(local, "moves") and stage not in local.cleared:
                yield ("come_back" if stage in local.away else "move_away"), stage
            if stage in local.away - local.cleared and self.left(local, "forgets"):
                yield "forget_left", stage
        if local.away:
            yield "trim_later", IN

    def unpublished(self, local: Deliveries) -> list[int]:
        return [number for number, event in enumerate(self.events) if event.id not in local.published]

    def consuming(self, local: Deliveries) -> list[str]:
        """Return the stages that have a group on IN."""
        return [stage for stage in self.living(local) if stage not in local.cleared]

    def living(self, local: Deliveries) -> list[str]:
        """Return the stages that no operator has forgotten."""
        return [stage for stage in self.stages if stage not in local.forgotten]

    def _pauses(self, local: Deliveries, paused: set[str]) -> Iterator[Move]:
        for stage in self.living(local):
            if stage in paused:
                yield "resume", stage
            elif self.left(local, "pauses"):
                yield "pause", stage
        for bridge, known in enumerate(local.paused):
            if known != paused:
                yield "look_for_pauses", bridge

    def _publishes(self, local: Deliveries) -> Iterator[Move]:
        for number, event in enumerate(self.events):
            if event.id not in local.published:
                yield "publish", number
                break
            if self.left(local, "duplicates"):
                yield "publish_again", number

    def _settlements(self, local: Deliveries, bridge: int) -> Iterator[Move]:
        for number in range(len(local.claimed[bridge])):
            yield "complete", bridge, number
            if self.bounds.channels > 1:
                yield "complete", bridge, number, 1
            for move, act in OF_ENTRIES.items():
                if self.left(local, act) and not (move == "delay" and self.bounds.delays):  # no event waits twice
                    yield move, bridge, number

    async def do_publish(self, local: Deliveries, number: int) -> None:
        before = await self.look() if self.bounds.limit else None
        full = before is not None and self.is_full(local, before)
        try:
            if not await self.journal.publish(self.events[number]):
                raise ViolationError("a new event was taken for a duplicate")
        except BacklogFull:
            if not full or before is None or (await self.look()).snapshot != before.snapshot:
                raise ViolationError("an event was refused below the limit, or in part") from None
            return
        if full:
            raise ViolationError("an event was accepted at the limit")
        local.published.add(self.events[number].id)
        local.dropped |= {(stage, self.events[number].id) for stage in local.cleared}

    def is_full(self, local: Deliveries, view: View) -> bool:
        """Whether the events that served stages need, or those that wait for unserved ones alone, are at the limit."""
        group = {stage: view.groups[keys.journal(IN)][stage] for stage in self.consuming(local)}
        waiting = {stage: len(view.unread(keys.journal(IN), stage)) + len(group[stage].pending) for stage in group}
        served = [stage for stage in waiting if view.served[stage]]
        counted = max((waiting[stage] for stage in served), default=0)
        for stage in served:
            counted += sum(place != "journal" for of in self.events for place in places_of(view, stage, of.id))
        return counted >= self.bounds.limit or (not served and max(waiting.values()) >= self.bounds.limit)

    async def do_publish_to_a_wait(self, local: Deliveries, bridge: int, stage: str) -> None:
        """A bridge has read everything, and waits. The next event that is published wakes it."""
        consumer = self.consumer(stage, local.names[bridge], ordered=True)
        if await consumer.take(1):
            raise ViolationError("an entry was read, and none was unread")
        await self.do_publish(local, self.unpublished(local)[0])
        claim(local.claimed[bridge], stage, await consumer.wait(1, block=0.001), fresh=False)
        if unread := (await self.look()).unread(keys.journal(IN), stage):
            raise ViolationError(f"a bridge waits while {unread} can be read")

    async def do_publish_again(self, local: Deliveries, number: int) -> None:
        if await self.journal.publish(self.events[number]):
            raise ViolationError("a duplicate was accepted")
        local.used["duplicates"] += 1

    async def do_start(self, local: Deliveries, bridge: int, stage: str) -> None:
        """A bridge starts, and its maintenance runs for the first time."""
        await self.beat()
        await self.consumer(stage, local.names[bridge]).ensure()
        await self.maintenance.keep_statuses(IN)

    async def do_read(self, local: Deliveries, bridge: int, stage: str) -> None:
        self.claim_read(local, bridge, stage, await self.reader(local, bridge, stage).take(1))

    async def do_read_two(self, local: Deliveries, bridge: int, stage: str) -> None:
        self.claim_read(local, bridge, stage, await self.reader(local, bridge, stage).take(2))

    async def do_read_unread(self, local: Deliveries, bridge: int, stage: str) -> None:
        self.claim_read(local, bridge, stage, await self.reader(local, bridge, stage).take_unread(2))

    async def do_wait(self, local: Deliveries, bridge: int, stage: str) -> None:
        self.claim_read(local, bridge, stage, await self.reader(local, bridge, stage).wait(2, block=0.001))

    def reader(self, local: Deliveries, bridge: int, stage: str) -> Consumer:
        return self.consumer(stage, local.names[bridge], ordered=local.ordered[bridge])

    def claim_read(self, local: Deliveries, bridge: int, stage: str, entries: list[Entry]) -> None:
        fresh = not local.used["failovers"]  # a failover may take back that it was read
        claim(local.claimed[bridge], stage, entries, fresh=fresh)

    async def do_read_and_lose_the_answer(self, local: Deliveries, bridge: int, stage: str) -> None:
        local.used["lost_answers"] += 1
        await self.reader(local, bridge, stage).take(self.bounds.reads)

    async def do_reread(self, local: Deliveries, bridge: int, stage: str) -> None:
        claim(local.claimed[bridge], stage, await self.reader(local, bridge, stage).reread(), fresh=False)

    async def do_take_over(self, local: Deliveries, bridge: int, stage: str) -> None:
        taken = await self.consumer(stage, local.names[bridge]).take_over(8, claim=0)
        if taken.destroyed:
            raise ViolationError("an entry was pending without a body")
        claim(local.claimed[bridge], stage, taken.entries, fresh=False)

    async def do_take_over_and_lose_the_answer(self, local: Deliveries, bridge: int, stage: str) -> None:
        local.used["lost_answers"] += 1
        await self.consumer(stage, local.names[bridge]).take_over(8, claim=0)

    async def do_complete(self, local: Deliveries, bridge: int, number: int, choice: int = 0) -> None:
        """`choice`: on which channel the first answer goes."""
        await self.settle(local, bridge, number, lambda stage, entry: self.completion(stage, entry, choice))

    async def do_complete_all(self, local: Deliveries, bridge: int, stage: str) -> None:
        """In one step: everything that the bridge holds for a stage."""
        claimed = {key: entry for key, entry in local.claimed[bridge].items() if key[0] == stage}
        settlements = [self.completion(stage, entry) for entry in claimed.values()]
        answers = await self.consumer(stage, local.names[bridge]).settle(settlements)
        for key, settlement, answer in zip(claimed, settlements, answers, strict=True):
            self.write_status(local, stage, settlement, answer)
            del local.claimed[bridge][key]

    async def do_complete_and_lose_the_answer(self, local: Deliveries, bridge: int, number: int) -> None:
        local.used["lost_answers"] += 1
        await self.settle(local, bridge, number, self.completion, lose=True)

    async def do_park(self, local: Deliveries, bridge: int, number: int) -> None:
        local.used["parks"] += 1
        await self.settle(
            local,
            bridge,
            number,
            lambda _, entry: Park(
                entry, event_id(entry.event), Failure("HTTP 500", 500, entry.attempts + 1, entry.crashes), 0
            ),
        )

    async def do_delay(self, local: Deliveries, bridge: int, number: int) -> None:
        local.used["parks"] += 1
        await self.settle(local, bridge, number, lambda _, entry: Delay(entry, event_id(entry.event), 0))

    async def do_delay_for_a_day(self, local: Deliveries, bridge: int, number: int) -> None:
        local.used["delays"] += 1
        stage, entry = self.held_as(local, bridge, number)
        of = event_id(entry.event)
        if await self.settle(local, bridge, number, lambda _, entry: Delay(entry, of, DAY / 1000)) == "done":
            local.delayed.add((stage, of))

    async def do_come_due(self, local: Deliveries) -> None:
        """A day passes."""
        for name, ttl in (await self.view()).ttl.items():
            if ttl > HOUR:
                await self.connection.call("PEXPIRE", name, HOUR)
        for stage in self.stages:
            for member in await self.connection.call("ZRANGE", keys.parked(stage), 0, -1):
                await self.connection.call("ZADD", keys.parked(stage), "XX", 0, member)
        local.delayed.clear()

    async def do_fall_behind(self, local: Deliveries) -> None:
        """A replica gets no further writes."""
        local.used["failovers"] += 1
        local.replica = Replica(await self.view(), local.copy())

    async def do_fail_over(self, local: Deliveries) -> None:
        """The replica is promoted. The bridges still have the entries that the lost primary gave them.

        Doors wait for replicas if they are told to, and so promise nothing that this takes back: an event that the
        replica does not have is published again.
        """
        replica = local.replica
        assert replica is not None
        await self.restore(replica.view.snapshot)
        vars(local).update(vars(local.taken_back(replica)))

    async def do_roll_out(self, local: Deliveries, bridge: int) -> None:
        """A bridge stops, and one takes its place whose stages are ordered if they were not, or no longer."""
        local.used["rollouts"] += 1
        await self.do_hand_back(local, bridge)
        local.paused[bridge] = frozenset()
        local.ordered[bridge] = not local.ordered[bridge]

    async def do_park_after_the_deadline(self, local: Deliveries, bridge: int, number: int) -> None:
        local.used["burials"] += 1
        await self.settle(
            local,
            bridge,
            number,
            lambda _, entry: Park(
                replace(entry, since=0), event_id(entry.event), Failure("HTTP 500", 500, 1, entry.crashes), 0
            ),
        )

    async def do_bury(self, local: Deliveries, bridge: int, number: int) -> None:
        local.used["burials"] += 1
        await self.settle(
            local,
            bridge,
            number,
            lambda _, entry: Bury(
                entry, event_id(entry.event), Failure("HTTP 422", 422, entry.attempts, entry.crashes)
            ),
        )

    async def do_renew(self, local: Deliveries, bridge: int, stage: str) -> None:
        claimed = local.claimed[bridge]
        mine = [entry for key, entry in claimed.items() if key[0] == stage]
        for lost in await self.consumer(stage, local.names[bridge]).renew(mine):
            del claimed[stage, lost.stream, lost.id]

    async def do_hand_back(self, local: Deliveries, bridge: int) -> None:
        for stage in self.stages:
            await self.consumer(stage, local.names[bridge]).hand_back(claim=0.001)
        local.claimed[bridge] = {}

    async def do_reap(self, local: Deliveries, bridge: int, stage: str) -> None:
        await self.consumer(stage, local.names[bridge]).reap(idle=0)

    async def do_crash(self, local: Deliveries, bridge: int) -> None:
        """A bridge dies, and another takes its place."""
        local.used["crashes"] += 1
        local.claimed[bridge] = {}
        local.paused[bridge] = frozenset()
        local.names[bridge] = f"b{bridge}{'+' * local.used['crashes']}"

    async def do_pause(self, local: Deliveries, stage: str) -> None:
        local.used["pauses"] += 1
        await self.journal.admin.pause(stage)

    async def do_resume(self, _: Deliveries, stage: str) -> None:
        await self.journal.admin.resume(stage)

    async def do_look_for_pauses(self, local: Deliveries, bridge: int) -> None:
        """A bridge does so each second, and before it reads for the first time."""
        local.paused[bridge] = await self.journal.admin.paused()

    async def do_retry_due(self, local: Deliveries) -> None:
        before = await self.look() if local.away else None
        _, _, refused = await self.maintenance.retry_due([*self.stages], most=8)
        if refused:
            raise JournalUnavailable(str(refused))
        if before is None:
            return
        after = await self.look()
        for stage in local.away:
            for event in self.events:
                places = places_of(before, stage, event.id), places_of(after, stage, event.id)
                if places == (["parked"], ["retries"]):
                    raise ViolationError(f"{event.id} of {stage} is among retries that no bridge reads")

    async def do_unblock_lost(self, local: Deliveries) -> None:
        unblocked = await self.maintenance.unblock_lost(
            {stage: Wiring([IN], [], "") for stage in self.stages if stage not in local.away}
        )
        if unblocked and not local.used["deletions"]:
            raise ViolationError("a key was unblocked whose event in hand is there")

    async def do_trim(self, local: Deliveries, channel: str) -> None:
        before = await self.look() if self.bounds.limit and channel == IN else None
        happened, _, dropped = await self.maintenance.trim(channel)
        self.check_trimmed(local, channel, happened)
        if before is not None:
            self.check_dropped(local, before, await self.look(), dropped)

    async def do_trim_later(self, local: Deliveries, channel: str) -> None:
        """After a minute in which no bridge has read this channel for a stage that is away."""
        happened, *_ = await self.later.trim(channel)
        self.check_trimmed(local, channel, happened)

    def check_dropped(self, local: Deliveries, before: View, view: View, dropped: int) -> None:
        """A trim beyond the limit drops the oldest events that only unserved stages wait for, and no others."""
        lost = {
            (stage, event.id)
            for stage in self.consuming(local)
            for event in self.events
            if "journal" in {*places_of(before, stage, event.id)} - {*places_of(view, stage, event.id)}
        }
        if served := {stage for stage, _ in lost if view.served[stage]}:
            raise ViolationError(f"{lost} were dropped, and {served} are served")
        if len({of for _, of in lost}) != dropped:
            raise ViolationError(f"{lost} were dropped, and {dropped} were counted")
        journal, rows = keys.journal(IN), view.streams[keys.journal(IN)]
        needed = {
            entry
            for stage in self.consuming(local)
            if view.served[stage]
            for entry, *_ in (*view.unread(journal, stage), *view.groups[journal][stage].pending)
        }
        if len(rows) > self.bounds.limit and rows[0][0] not in needed:
            raise ViolationError(f"{len(rows)} events are left, and no served stage needs the oldest")
        local.dropped |= lost

    async def do_stop_serving(self, local: Deliveries, stage: str) -> None:
        local.used["absences"] += 1
        text = await self.connection.call("HGET", keys.STAGES, stage)
        await self.connection.call("HSET", keys.STAGES, stage, text.rpartition(b":")[0] + b":0}")

    async def do_serve(self, _: Deliveries, stage: str) -> None:
        await self.maintenance.beat({stage: Wiring([IN], self.outs(stage), "")})

    def check_trimmed(self, local: Deliveries, channel: str, happened: str) -> None:
        expected = {"trimmed"} if channel != IN or self.consuming(local) else {"unconsumed"}
        if channel == IN and self.bounds.forgets and not self.consuming(local):
            expected |= {"absent"}
        if happened not in expected:
            raise ViolationError(f"trim: {happened}")

    async def do_move_away(self, local: Deliveries, stage: str) -> None:
        """A rollout: all bridges of a stage end, perhaps some only seem to, and new ones consume NEW for it."""
        local.used["moves"] += 1
        await self.maintenance.beat({stage: Wiring([NEW], self.outs(stage), "")})
        local.away.add(stage)

    async def do_come_back(self, local: Deliveries, stage: str) -> None:
        local.used["moves"] += 1
        await self.maintenance.beat({stage: Wiring([IN], self.outs(stage), "")})
        await self.consumer(stage, "b0").ensure()
        local.away.remove(stage)

    async def do_forget_left(self, local: Deliveries, stage: str) -> None:
        """An operator forgets what a stage has left behind."""
        view = await self.look()
        local.used["forgets"] += 1
        await self.journal.admin.forget(f"{stage}:{IN}")
        local.cleared.add(stage)
        for event in self.events:
            if {"journal", "retries", "held"} & {*places_of(view, stage, event.id)}:
                local.dropped.add((stage, event.id))

    async def do_replay(self, local: Deliveries, stage: str) -> None:
        if letters := await self.journal.admin.dead_letters(stage):
            try:
                await self.journal.admin.replay(stage, [letter.entry for letter in letters])
            except StageNotServed:
                if stage in local.away:
                    return
                raise
            if stage in local.away:
                raise ViolationError(f"{stage} was given events that no bridge would deliver")
            local.used["replays"] += 1
            local.replayed |= {(stage, event_id(letter.event)) for letter in letters}

    async def do_drop(self, local: Deliveries, stage: str) -> None:
        if letters := await self.journal.admin.dead_letters(stage):
            await self.journal.admin.drop(stage, [letter.entry for letter in letters])
            local.used["drops"] += 1
            local.dropped |= {(stage, letter.id) for letter in letters}

    async def do_delete(self, local: Deliveries, stage: str) -> None:
        parked, retries = keys.parked(stage), keys.retries(stage, IN)
        view = await self.view()
        if members := view.others.get(parked):
            await self.connection.call("ZREM", parked, members[0])
            of = parked_id(members[0])
        elif unread := view.unread(retries, stage):
            await self.connection.call("XDEL", retries, unread[0][0])
            of = event_id(unread[0][1][b"event"])
        else:
            return
        local.used["deletions"] += 1
        local.dropped.add((stage, of))

    async def do_forget(self, local: Deliveries, stage: str) -> None:
        """An operator forgets a stage whose bridges have frozen for over a minute. They may wake up later."""
        with contextlib.suppress(StageServed):
            await self.journal.admin.forget(stage)
            raise ViolationError("a stage was forgotten that is served")
        await Admin(self.at_once, self.at_once).forget(stage)
        local.used["forgets"] += 1
        local.forgotten.add(stage)

    async def do_forget_journal(self, local: Deliveries) -> None:
        try:
            await self.journal.admin.forget_journal(IN)
        except StageServed:
            if not self.consuming(local):
                raise
        else:
            if self.consuming(local):
                raise ViolationError("a journal was deleted that a stage consumes")

    def completion(self, stage: str, entry: Entry, choice: int = 0) -> Complete | Split:
        of = event_id(entry.event)
        outs = self.outs(stage)
        if not outs:
            return Complete(entry, of, None)
        several = self.bounds.answers > 1
        answers = [
            Event(
                id=f"{of}/{number}" if several else of,
                source=f"/model/{stage}",
                type=outs[(number + choice) % len(outs)],
                data=of,
            )
            for number in range(self.bounds.answers)
        ]
        return Split(entry, of, answers) if several else Complete(entry, of, answers[0])

    def held_as(self, local: Deliveries, bridge: int, number: int) -> tuple[str, Entry]:
        """Return the stage and the entry that a move names."""
        key = sorted(local.claimed[bridge])[number]
        return key[0], local.claimed[bridge][key]

    async def settle(
        self, local: Deliveries, bridge: int, number: int, settlement: Any, *, lose: bool = False
    ) -> str | MilepostError:
        stage, entry = self.held_as(local, bridge, number)
        made: Settlement = settlement(stage, entry)
        (answer,) = await self.consumer(stage, local.names[bridge]).settle([made])
        self.write_status(local, stage, made, answer)
        if not lose:
            del local.claimed[bridge][stage, entry.stream, entry.id]
        return answer

    def write_status(self, local: Deliveries, stage: str, settlement: Settlement, answer: object) -> None:
        if isinstance(answer, JournalUnavailable):
            raise answer
        if isinstance(answer, SettlementRefused):
            raise JournalUnavailable(str(answer))
        if answer not in {"done", "buried", "stale"}:
            raise ViolationError(f"not settled: {answer!r}")
        if stage in local.forgotten and answer != "stale":
            raise ViolationError(f"{stage} is forgotten, and a settlement was {answer}")
        if isinstance(settlement, Complete | Split) and answer == "done":
            local.done[stage, settlement.id] += 1

    # the parts of a state

    def check(self, local: Deliveries, view: View) -> tuple[Any, bool]:
        finished = len(local.published) == len(self.events)
        for stage, emits in self.stages.items():
            rows = [body for out in self.outs(stage) for _, body in view.streams.get(keys.journal(out), [])]
            replies = Counter(event_id(body[b"event"]) for body in rows)
            for event in self.events:
                places = places_of(view, stage, event.id)
                count = local.done[stage, event.id]
                if event.id not in local.published:
                    if places or count:
                        raise ViolationError(f"{event.id} was refused, and is {places}")
                    continue
                several = self.bounds.answers > 1
                ids = [f"{event.id}/{number}" for number in range(self.bounds.answers)] if several else [event.id]
                if emits and any(replies[id] != count for id in ids):
                    raise ViolationError(
                        f"{stage} has completed {event.id} {count} times, and of {ids} {dict(replies)} replies exist"
                    )
                if count > 1:
                    raise ViolationError(f"{stage} has completed {event.id} {count} times")
                if stage in local.forgotten:
                    if places:
                        raise ViolationError(f"{stage} is forgotten, and has {event.id} in {places}")
                    continue
                places += ["dropped"] * ((stage, event.id) in local.dropped)
                if (stage, event.id) in local.delayed and places != ["parked"]:
                    raise ViolationError(f"{event.id} waits a day for {stage}, and is in {places}")
                if len(places) + count != 1:
                    raise ViolationError(
                        f"{event.id} of {stage}: completed {count} times, and in {places or 'no place'}"
                    )
                ended = places in ([], ["dead"], ["dropped"])
                finished = finished and (ended or (stage in local.away and places in (["journal"], ["held"])))
            finished = finished and not (
                stage in local.away and any(key[0] == stage for one in local.claimed for key in one)
            )
            if self.bounds.keys and stage not in local.forgotten | local.cleared:
                self.check_order(local, view, stage)
        unconsumed = set() if self.consuming(local) else {keys.journal(IN)}
        check_bounded(view, but=unconsumed, longest=HOUR + DAY * bool(local.delayed))
        check_forgotten(view, local.forgotten)
        finished = finished and all(view.ttl.get(name, 0) >= 0 for name in unconsumed)
        return self.key(local, view), finished

    def check_order(self, local: Deliveries, view: View, stage: str) -> None:
        """Look at the invariants of a stage that is ordered by key."""
        if local.used["rollouts"]:  # some bridges read without order
            check_in_hand(view, stage)
            return
        bodies = dict(view.streams[keys.journal(IN)])
        pending = {entry: bodies[entry] for entry, _ in view.groups[keys.journal(IN)][stage].pending}
        begun = {event_id(body[b"event"]) for body in pending.values()}
        there = {b"j%b" % entry for entry in pending}
        there |= {b"r%b" % entry for entry, _ in view.streams.get(keys.retries(stage, IN), [])}
        known, orders = in_hand_of(view.others.get(keys.in_hand(stage, IN), []))
        lost = local.used["deletions"]  # then unblock_lost has yet to release the key
        said = {place for place in known.values() if not place.startswith(b"parked ")}
        if not lost and not there == {*orders} == said:
            raise ViolationError(f"{known} and {orders} are said to be in hand, and {there} are there")
        of_keys: dict[str, list[str]] = {}
        for event, key in zip(self.events, self.bounds.keys, strict=True):
            of_keys.setdefault(key, []).append(event.id)
        in_hand = 0
        for key, ids in of_keys.items():
            places = {of: places_of(view, stage, of) for of in ids}
            mine = [of for of in ids if of in begun or {"retries", "parked"} & {*places[of]}]
            in_hand += len(mine)
            if len(mine) > 1:
                raise ViolationError(f"{mine} of key {key} are in hand together")
            if not mine and not lost and any("held" in places[of] for of in ids):
                raise ViolationError(f"events of key {key} are held, and none is in hand: {places}")
            for of in ids[: ids.index(mine[0])] if mine else ():
                excused = local.done[stage, of] or (stage, of) in local.replayed | local.dropped
                excused = excused or places[of] == ["dead"]
                if not excused:
                    raise ViolationError(f"{mine[0]} is in hand before {of}, which is in {places[of]}")
        if in_hand != len(known) and not lost:
            raise ViolationError(f"{in_hand} events are in hand, and {len(known)} keys are said to be")

    async def check_counts(self, local: Deliveries, view: View) -> None:
        """The backlog and the depths of the stages count each event that is not finished once."""
        living = self.living(local)
        waiting = {stage: [places_of(view, stage, event.id) for event in self.events] for stage in living}
        left = {stage: [] if stage in local.away else [IN] for stage in living}
        for depth in await self.journal.admin.depths(left):
            places = [place for of in waiting[depth.stage] for place in of]
            if depth.stage in local.away:
                places = [place for place in places if place in {"parked", "dead"}]
            counted = Counter(place if place in {"parked", "dead"} else "journaled" for place in places)
            if depth.held != places.count("held"):
                raise ViolationError(f"{depth} where {places} are")
            found = {"journaled": depth.journaled, "parked": depth.parked, "dead": depth.dead}
            if found != {name: counted[name] for name in found}:
                raise ViolationError(f"{depth} where {dict(counted)} wait")
            lost = depth.held and local.used["deletions"]  # the oldest may have been deleted
            if not lost and (depth.oldest is None) != (not counted["journaled"] and not counted["parked"]):
                raise ViolationError(f"{depth}: the oldest")
        self.check_left_behind(local, waiting, await self.journal.admin.left_behind())
        journal, out = keys.journal(IN), sum(len(view.unread(keys.journal(out), "last")) for out in self.consumed)
        consuming = self.consuming(local)
        unfinished = [len(view.unread(journal, name)) + len(view.groups[journal][name].pending) for name in consuming]
        if not consuming and journal in view.streams and view.ttl[journal] < 0:  # no trim has made it expire yet
            unfinished = [len(view.streams[journal])]
        expected = out + max(unfinished, default=0)
        for stage, of_events in waiting.items():
            uncounted = {"journal", "retries", "held"} if stage in local.away else {"journal"}
            expected += sum(place not in uncounted for of in of_events for place in of)
        expected += sum(len(view.streams.get(keys.dead(name), ())) for name in self.OTHERS)
        if (backlog := await self.journal.backlog()) != expected:
            raise ViolationError(f"the backlog is {backlog}, and {expected} events wait")

    def check_left_behind(
        self, local: Deliveries, waiting: Mapping[str, Sequence[Sequence[str]]], found: Sequence[Depth]
    ) -> None:
        """An operator sees what a stage has left behind on a channel, and nothing else."""
        expected = {}
        for stage in local.away.intersection(waiting) - local.cleared:
            places = [place for of in waiting[stage] for place in of]
            expected[f"{stage}:{IN}"] = sum(place not in {"parked", "dead"} for place in places)
        if expected != {depth.stage: depth.journaled for depth in found}:
            raise ViolationError(f"{expected} were left behind, and {found} are said to be")

    def key(self, local: Deliveries, view: View) -> Any:
        """Return the same for states that differ in which bridge is which."""
        orders = permutations(range(self.bounds.bridges))
        return min((self._whole_key(local, view, order) for order in orders), key=repr)

    def _whole_key(self, local: Deliveries, view: View, order: Sequence[int]) -> Any:
        now = self._key(local, view, order)
        if not local.replica:
            return now
        return now, self._key(local.taken_back(local.replica), local.replica.view, order)

    def _key(self, local: Deliveries, view: View, order: Sequence[int]) -> Any:
        names = {local.names[bridge].encode(): number for number, bridge in enumerate(order)}
        place = {(stream, row[0].decode()): at for stream, rows in view.streams.items() for at, row in enumerate(rows)}
        claimed = [
            sorted(
                (stage, place.get((stream, entry), -1), event_id(local.claimed[bridge][stage, stream, entry].event))
                for stage, stream, entry in local.claimed[bridge]
            )
            for bridge in order
        ]
        return (
            *key_of(view, names, times=self.bounds.times),
            repr(claimed),
            tuple(tuple(sorted(local.paused[bridge])) for bridge in order),
            tuple(sorted(local.used.items())),
            tuple(sorted(local.done.items())),
            tuple(sorted(local.published)),
            tuple(sorted(local.dropped)),
            tuple(sorted(local.forgotten)),
            tuple(sorted(local.replayed)),
            tuple(sorted(local.delayed)),
            tuple(sorted(local.away)),
            tuple(sorted(local.cleared)),
            tuple(local.ordered[bridge] for bridge in order),
        )


def places_of(view: View, stage: str, of: str) -> list[str]:
    """Return every place where a stage has an event: journal, retries, parked, held, dead."""
    places = []
    for kind, stream in (("journal", keys.journal(IN)), ("retries", keys.retries(stage, IN))):
        if stream not in view.groups or stage not in view.groups[stream]:
            if kind == "retries":  # a late settlement added to the retries of a stage that was moved away
                places += [kind for _, body in view.streams.get(stream, ()) if event_id(body[b"event"]) == of]
            continue
        rows = dict(view.streams[stream])
        waiting = [entry for entry, _ in view.unread(stream, stage)]
        for entry, _ in view.groups[stream][stage].pending:
            if entry not in rows:
                raise ViolationError(f"{entry!r} is pending in {stream} without a body")
            waiting.append(entry)
        places += [kind for entry in waiting if event_id(rows[entry][b"event"]) == of]
    places += ["parked" for member in view.others.get(keys.parked(stage), []) if parked_id(member) == of]
    places += ["held" for member in view.others.get(keys.held(stage, IN), []) if parked_id(member) == of]
    letters = view.streams.get(keys.dead(stage), [])
    return places + ["dead" for _, body in letters if event_id(body[b"event"]) == of]


def check_in_hand(view: View, stage: str) -> None:
    """Look at the hash of keys in hand where some bridges read without order. Their entries have no place in it.

    Each other event that was taken in order has its place, and nothing else has one. Events are held only behind one.
    """
    known, orders = in_hand_of(view.others.get(keys.in_hand(stage, IN), []))
    pending = {b"j%b" % entry for entry, _ in view.groups[keys.journal(IN)][stage].pending}
    retries = {b"r%b" % entry for entry, body in view.streams.get(keys.retries(stage, IN), []) if b"order" in body}
    said = {place for place in known.values() if not place.startswith(b"parked ")}
    if said != {*orders} or not retries <= said <= retries | pending:
        raise ViolationError(f"{known} and {orders} are said to be in hand, and {retries} and {pending} are there")
    heads = [member.partition(b"\n")[0].split(b" ") for member in view.others.get(keys.parked(stage), [])]
    parked = {head[5].partition(b"/")[0] for head in heads if len(head) > 5 and head[5]}
    if parked != {key for key, place in known.items() if place.startswith(b"parked ")}:
        raise ViolationError(f"{known} are said to be in hand, and {parked} are parked")
    held = {member.partition(b"/")[0] for member in view.others.get(keys.held(stage, IN), [])}
    if not held <= {*known}:
        raise ViolationError(f"events of {held - {*known}} are held, and none of their keys is in hand")


def parked_id(member: bytes) -> str:
    return event_id(member.partition(b"\n")[2])


def check_forgotten(view: View, stages: set[str]) -> None:
    """No key has anything of a stage that was forgotten."""
    for stage in stages:
        of_channel = (keys.retries, keys.held, keys.in_hand)
        own = [keys.parked(stage), keys.dead(stage), *(key(stage, on) for key in of_channel for on in (IN, OUT))]
        listed = [name for name in (keys.DEAD, keys.PAUSED) if stage.encode() in view.others.get(name, ())]
        if left := listed + [name for name in own if name in view.ttl]:
            raise ViolationError(f"{stage} is forgotten, and {left} have it")
        if stage in view.served:
            raise ViolationError(f"{stage} is forgotten, and in the stages table")


def check_bounded(view: View, *, but: Collection[str] = (), longest: int = HOUR) -> None:
    """Every key is of a bounded size, counts in the backlog, or expires in `longest` milliseconds.

    `but`: keys that the next trim bounds.
    """
    for name, ttl in view.ttl.items():
        bounded = name in STAGES_AND_SETS or name in but or 0 <= ttl <= longest
        counted = name.startswith((keys.RETRIES, keys.HELD, keys.in_hand("", "")[:-1], keys.parked(""), keys.dead("")))
        counted = counted or bool(view.groups.get(name))
        if not bounded and not counted:
            raise ViolationError(f"{name} neither counts nor expires")
        if counted and ttl >= 0:
            raise ViolationError(f"{name} counts, and would expire")


def key_of(view: View, names: Mapping[bytes, int], *, times: bool) -> tuple[Any, ...]:
    """Return the content of Redis, without ids and times. `names`: the number of each bridge that lives.

    With `times` they differ in whether an entry was given out more than once, too. The scripts ask for that alone, and
    only to add a step to the history in its status, on which no settlement depends. So to leave it out hides no
    violation; with it there are a third more states. An entry that a bridge has claimed has the attempts and crashes of
    its body, which are here. If its body is gone the entry is settled, and its counts are not used any more.
    """
    found: list[Any] = [tuple((stage, _BEATS.sub(b"", row), served) for stage, row, served in view.snapshot.stages)]
    for name, rows in view.streams.items():
        place = {row[0]: number for number, row in enumerate(rows)}
        essence = [
            (event_id(body[b"event"]), *(body.get(field, b"0") for field in FIELDS), b"order" in body)
            for _, body in rows
        ]
        groups = [
            (
                group,
                len(view.unread(name, group)),
                [
                    (place.get(entry, -1), names.get(consumer, 9), min(given, 2) if times else 0)
                    for (entry, consumer), given in zip(found.pending, found.times, strict=True)
                ],
            )
            for group, found in sorted(view.groups[name].items())
        ]
        found.append((name, view.ttl[name] >= 0, repr(essence), repr(groups)))
    found += [(name, view.ttl[name] >= 0, repr(content_of(name, content))) for name, content in view.others.items()]
    return tuple(found)


def content_of(name: str, content: Any) -> Any:
    """Return the content of a key that is no stream, without ids and times."""
    if name.startswith(keys.parked("")):
        return sorted((parked_id(member), *member.partition(b"\n")[0].split(b" ")[2:5]) for member in content)
    if name.startswith(keys.HELD):
        return sorted((parked_id(member), *member.partition(b"\n")[0].split(b" ")[2:]) for member in content)
    if name.startswith(keys.in_hand("", "")[:-1]):
        known, orders = in_hand_of(content)
        return sorted((key, place[:1]) for key, place in known.items()), sorted(orders.values())
    if name.startswith(keys.status("")):
        return sorted(field for field, _ in content)
    return sorted(content) if isinstance(content, list) else content


def in_hand_of(content: Iterable[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Divide the hash of keys in hand: the place of each key, and the order of the event in each place."""
    orders = {field: value for field, value in content if field[:1] in {b"j", b"r"}}
    return {field: value for field, value in content if field not in orders}, orders


def claim(claimed: dict[Key, Entry], stage: str, entries: list[Entry], *, fresh: bool) -> None:
    for entry in entries:
        key = stage, entry.stream, entry.id
        if fresh and key in claimed:
            raise ViolationError(f"an entry was read twice: {key}")
        claimed.setdefault(key, entry)
