"""Read the history of one event by its id: the channels that it has reached, and its history at each stage.

1. The status of the event has the channels and the failed deliveries.
2. It also says when each of these was written. So the event is looked up in the journals, parked events, retries and
   dead letters near that time, and not by reading all of them.
3. A first delivery that succeeds without a reply is not written. The stage has read beyond the event, and the event is
   in none of these places: so it was delivered, or the stage was added later.
4. A status ends an hour after the last activity. Without one, every event that waits is read, up to MOST_READ.

Only reading commands are used.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel

from milepost.check.waiting import Place, Waiting, WaitingEvent, entry_order
from milepost.events.strict_json import dumps
from milepost.journal import BEAT_FRESH, BROKER, GAVE_UP, PARTS, History, HistoryStep, Journal, Note, keys
from milepost.journal.models import name_text, time_of_entry
from milepost.journal.scripts import ask_list
from milepost.observe.logs import masked

MOST_READ = 100_000
"""Most events that are read for an id without a status."""

_PART = re.compile(r".+/[0-9]+", re.DOTALL)
"""The id of a part: the first channel that it reaches is one on which a stage emits."""

EPOCH = datetime.fromtimestamp(0, UTC)

MOST_LOOKS = 3
"""How often an event that moves meanwhile is looked up."""

PAGE, PAGES = 250, 40
"""Entries that are read together near a time, and how often at most."""

EARLIER = timedelta(milliseconds=5)
"""How much earlier than the time in its status an entry may be: Redis takes the two times one after the other."""

State = Literal[
    "waiting",
    "in delivery",
    "parked",
    "held",
    "to be retried",
    "dead letter",
    "dropped",
    "delivered",
    "at the Broker",
    "not to be found",
]
"""`held`: an earlier event of its key is not finished. `to be retried`: due or replayed. `dropped`: its
dead letter is gone. `not to be found`: it was deleted unread.
"""

PLACES: Mapping[Place, State] = {
    "journal": "waiting",
    "parked": "parked",
    "held": "held",
    "retries": "to be retried",
    "dead": "dead letter",
}

ENDED = frozenset({"delivered", "dropped", "not to be found"})


class StageHistory(BaseModel):
    """An event at one stage. A field that does not apply is None."""

    stage: str
    channel: str
    state: State
    steps: Sequence[HistoryStep] = ()
    steps_left_out: int = 0
    """How many steps after the first one were not kept."""
    entry: str | None = None
    """Of its journal, retries or dead letters."""
    bridge: str | None = None
    """The bridge that delivers it."""
    given_out: int | None = None
    """How often Redis gave out this entry."""
    due: datetime | None = None
    paused: bool = False
    served: bool = True
    parts: int | None = None
    """How many parts the stage has made of it, if it gave several answers."""


class ChannelHistory(BaseModel):
    """A channel that the event has reached, the stage that emitted it there (None: a door), and its consumers."""

    channel: str
    time: datetime
    emitted_by: str | None
    stages: Sequence[StageHistory]


class EventHistory(BaseModel):
    """The history of an event. `elsewhere`: at stages that consume no channel it has reached, or no channel any more.

    Without a status `elsewhere` has every place where it waits, and `events_searched` says how many events were read.
    """

    id: str
    state: str = "unknown"
    status_known: bool
    channels: Sequence[ChannelHistory] = ()
    elsewhere: Sequence[StageHistory] = ()
    events_searched: int = 0

    @property
    def stages(self) -> list[StageHistory]:
        """The event at every stage."""
        return [*(stage for channel in self.channels for stage in channel.stages), *self.elsewhere]

    def model_post_init(self, _: Any) -> None:
        """Tell the state of the whole from the stages."""
        states = {stage.state for stage in self.stages}
        if "dead letter" in states:
            self.state = "dead letter"
        elif self.channels or states:
            self.state = "finished" if states <= ENDED else "under way"


async def read_history(journal: Journal, event_id: str) -> EventHistory:
    """Read the history of an event from Redis. Raises JournalUnavailable."""
    reader = _Reader(journal, event_id, await journal.admin.table())
    notes, histories = await journal.whole_status(event_id)
    if not notes and not histories:
        return await reader.search()
    for _ in range(MOST_LOOKS):
        history = await reader.follow(notes, histories)
        before, (notes, histories) = (notes, histories), await journal.whole_status(event_id)
        if before == (notes, histories):
            break  # else it has moved while it was looked up
    return history


class _Reader:
    """Looks for one event in Redis. `table`: the stages table."""

    def __init__(self, journal: Journal, event_id: str, table: Mapping[str, Any]) -> None:
        self._journal = journal
        self._redis = journal.redis
        self._id = event_id
        self._table = table
        self._begin = b'{"specversion":"1.0","id":' + dumps(event_id).encode()
        """The beginning of the event, as Milepost writes it."""

    async def search(self) -> EventHistory:
        """Look for the event among all that wait."""
        found: list[StageHistory] = []
        read = 0
        async for event in Waiting(self._redis, self._table, {}).events():
            read += 1
            if event.event.startswith(self._begin):
                found += _waits(event)
            if read == MOST_READ:
                break
        return EventHistory(id=self._id, status_known=False, elsewhere=found, events_searched=read)

    async def follow(self, notes: Mapping[str, Note], histories: Mapping[str, History]) -> EventHistory:
        """Follow the event from channel to channel."""
        paused = await self._journal.admin.paused()
        seconds, _ = await self._journal.ask(self._redis.time())
        reached = {name: note for name, note in notes.items() if not name.startswith((GAVE_UP, PARTS))}
        dead = {name.removeprefix(GAVE_UP): note.at for name, note in notes.items() if name.startswith(GAVE_UP)}
        behind: Mapping[str, Any] = self._table.get(BROKER, {}).get("behind", {})
        rows = {**self._table, **{name: {**row, "emits": row.get("emits", "").split()} for name, row in behind.items()}}
        channels: list[ChannelHistory] = []
        shown: set[str] = set()
        for channel, note in reached.items():
            stages: list[StageHistory] = []
            for name, row in rows.items():
                if channel not in row["consumes"] or (name == BROKER and channels):
                    continue  # a Broker delivers the replies by itself
                shown.add(name)
                history = histories.get(name, History())
                emitted = [(at, reached[at].at) for at in row["emits"] if at in reached and name != BROKER]
                split = notes.get(f"{PARTS}{name}")
                parts = split.parts if split else None
                if split:
                    emitted.append((f"{', '.join(row['emits'])} in {parts} parts", split.at))
                at = await self._at(name, channel, note.at, history, emitted, dead.get(name))
                if name not in self._table and at.state == "not to be found":
                    at = _with(at, state="at the Broker")
                served = seconds * 1000 - row["beat"] < BEAT_FRESH * 1000
                stages.append(_with(_masked(at), paused=name in paused, served=served, parts=parts))
            follows = channels or _PART.fullmatch(self._id)
            emitters = [name for name, row in rows.items() if channel in row["emits"] and follows and name != BROKER]
            emitter = next(iter(emitters), None)
            channels.append(ChannelHistory(channel=channel, time=note.at, emitted_by=emitter, stages=stages))
        elsewhere = [
            _masked(await self._at(name, "", None, histories.get(name, History()), (), dead.get(name)))
            for name in sorted((histories.keys() | dead.keys()) - shown)
        ]
        return EventHistory(id=self._id, status_known=True, channels=channels, elsewhere=elsewhere)

    async def _at(
        self,
        stage: str,
        channel: str,
        since: datetime | None,
        history: History,
        emitted: Sequence[tuple[str, datetime]],
        died: datetime | None,
    ) -> StageHistory:
        """Tell where the event is at a stage. `since`: when it reached the channel. `emitted`: the stage's replies."""
        steps = list(history.steps)
        last = steps[-1] if steps else None
        if last is None and died:  # the status is of an older version
            last = HistoryStep(died, "buried")
            steps = [last]
        left_out = max(0, history.count - len(history.steps))
        at = StageHistory(stage=stage, channel=channel, state="not to be found", steps=steps, steps_left_out=left_out)
        begun = max(moment for moment in (since, last and last.time, EPOCH) if moment)
        replies = [(name, when) for name, when in emitted if when >= begun]
        if last and last.did == "delivered" and (since is None or last.time >= since):
            reply = f"2xx, reply on {', '.join(name for name, _ in replies)}" if replies else "2xx, no reply"
            return _with(at, state="delivered", steps=[*steps[:-1], replace(last, answer=reply)])
        if replies:
            delivered = [HistoryStep(when, "delivered", f"2xx, reply on {name}") for name, when in replies]
            return _with(at, state="delivered", steps=[*steps, *delivered])
        if last and last.did == "buried":
            if entry := await self._seek(keys.dead(stage), last.time):
                return _with(at, state="dead letter", entry=entry)
            return _with(at, state="dropped")
        return await self._where_it_waits(at, last, since)

    async def _where_it_waits(self, at: StageHistory, last: HistoryStep | None, since: datetime | None) -> StageHistory:
        """Tell where the stage has an event that is not finished. `last`: the latest step there."""
        stage, channel = at.stage, at.channel
        if last and last.due and await self._is_parked(stage, last.due):
            return _with(at, state="parked", due=last.due)
        if last:
            for name in [channel] if channel else self._table.get(stage, {"consumes": ()})["consumes"]:
                if last.order and await self._is_held(stage, name, last.order):
                    return _with(at, state="held")
                retries = keys.retries(stage, name)
                if entry := await self._seek(retries, last.time):
                    return await self._in_stream(at, retries, entry, "to be retried")
        if not since or stage not in self._table or (last and last.time >= since):
            return at
        journal = keys.journal(channel)
        if entry := await self._seek(journal, since):
            return await self._in_stream(at, journal, entry, "waiting")
        read = await self._last_read(journal, stage)
        return _with(at, state="delivered") if read and time_of_entry(entry_order(read)[0]) >= since - EARLIER else at

    async def _last_read(self, stream: str, stage: str) -> str:
        """Return the last entry that the group of a stage has read; empty if it has no group."""
        groups = await ask_list(self._redis.xinfo_groups(stream))
        return next((name_text(row["last-delivered-id"]) for row in groups if name_text(row["name"]) == stage), "")

    async def _in_stream(self, at: StageHistory, stream: str, entry: str, unread: State) -> StageHistory:
        """Tell whether an entry is unread, pending or finished."""
        read = await self._last_read(stream, at.stage)
        if not read or entry_order(entry) > entry_order(read):
            return _with(at, state=unread, entry=entry)
        pending = await ask_list(self._redis.xpending_range(stream, at.stage, entry, entry, 1))
        if not pending:
            return _with(at, state="delivered")
        bridge = name_text(pending[0]["consumer"])
        return _with(at, state="in delivery", entry=entry, bridge=bridge, given_out=int(pending[0]["times_delivered"]))

    async def _is_parked(self, stage: str, due: datetime) -> bool:
        score = round(due.timestamp() * 1000)
        found = await ask_list(self._redis.zrangebyscore(keys.parked(stage), score, score))
        return any(member.partition(b"\n")[2].startswith(self._begin) for member in found)

    async def _is_held(self, stage: str, channel: str, order: str) -> bool:
        """Tell whether an ordered stage holds the event. `order`: the begin of its member among the held events."""
        key = keys.held(stage, channel)
        found = await ask_list(self._redis.zrangebylex(key, f"[{order} ", f"({order}!", 0, 1))
        return any(member.partition(b"\n")[2].startswith(self._begin) for member in found)

    async def _seek(self, stream: str, since: datetime) -> str:
        """Return the first entry of a stream from this time on that has the event; empty if there is none."""
        async for entry, event in self._entries(stream, since - EARLIER):
            if event.startswith(self._begin):
                return entry
        return ""

    async def _entries(self, stream: str, since: datetime) -> AsyncIterator[tuple[str, bytes]]:
        start = str(round(since.timestamp() * 1000))
        for _ in range(PAGES):
            page = await ask_list(self._redis.xrange(stream, start, "+", PAGE))
            for name, fields in page:
                yield name.decode(), fields.get(b"event", b"")
            if len(page) < PAGE:
                return
            start = f"({page[-1][0].decode()}"


def _waits(event: WaitingEvent) -> list[StageHistory]:
    steps = []
    if event.place == "dead":
        steps.append(HistoryStep(time_of_entry(entry_order(event.entry)[0]), "buried", event.reason))
    state = PLACES[event.place]
    return [
        _masked(StageHistory(stage=name, channel=event.channel, state=state, steps=steps, entry=event.entry))
        for name in event.stages
    ]


def _with(at: StageHistory, **fields: Any) -> StageHistory:
    """Return a copy with these fields."""
    return at.model_copy(update=fields)


def _masked(at: StageHistory) -> StageHistory:
    """Mask e-mail addresses in the answers: they may quote the event."""
    return _with(at, steps=[replace(step, answer=masked(step.answer)) for step in at.steps])
