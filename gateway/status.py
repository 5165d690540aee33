"""The status of a submission: the channels that it has reached, those that it may still reach, and its parts."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from functions.payloads import Submission
from gateway.parts import PartsReader, SplitProgress, over, stages_of
from milepost.errors import JournalUnavailable
from milepost.graph import Graph, nodes
from milepost.journal import BROKER, ENDED_AT, GAVE_UP, PARTS, History, Journal, Note
from milepost.observe.logs import Fields

KNOWN_FOR = 10.0
"""Seconds after which the stages table is read again."""

MOST_READERS = 1000
"""Most submissions of which the gateway remembers the parts that have ended."""

PAUSE = 1.0
"""Seconds between two tries while Redis is away."""

_WORDS = {
    "raw_input": ("gateway", "keeps the place you gave"),
    "calculated_distance": ("distance", "measures the miles to the office"),
    "user:email": ("store", "writes them down"),
    "email:sent": ("email", "sends you the answer"),
}
"""Channel → the stage that publishes on it, and its work. Other channels are shown by their name alone."""

log = logging.getLogger("gateway")


@dataclass(frozen=True, slots=True)
class Step:
    """A channel, reached `at` a time, `hop` milliseconds after the one before. Both are None until it is reached.

    `is_starting`: it is the next, and its stage is starting.
    """

    channel: str
    at: datetime | None
    hop: float | None
    is_next: bool
    is_starting: bool

    @property
    def stage(self) -> str:
        return _WORDS.get(self.channel, ("", ""))[0]

    @property
    def does(self) -> str:
        return _WORDS.get(self.channel, ("", ""))[1]


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a submission, or of a part of one.

    `notes`: the channels that it has reached, oldest first; also, with a prefix, each stage that gave it up, has made
    parts of it, or has taken it without an answer. `splits`: how many of these parts have ended. `starting`: the
    channels to come whose stage is starting.
    """

    id: str
    notes: Mapping[str, Note]
    graph: Graph
    splits: Sequence[SplitProgress] = ()
    starting: Collection[str] = ()

    @property
    def reached(self) -> dict[str, Note]:
        """The channels that it has reached, oldest first."""
        return {name: note for name, note in self.notes.items() if not name.startswith((GAVE_UP, PARTS, ENDED_AT))}

    @property
    def begins(self) -> list[str]:
        """The channels on which it begins: of a part the first of each stage that has made it."""
        return self.graph.begins(self.reached) if "/" in self.id else [Submission.channel]

    @property
    def ahead(self) -> tuple[str, ...]:
        """The channels that it may still reach, nearest first."""
        ended = [*stages_of(PARTS, self.notes), *self.ended_at]
        each = [self.graph.ahead(first, self.notes.keys(), ended) for first in self.begins]
        return tuple(dict.fromkeys(channel for ahead in each for channel in ahead))

    @property
    def gave_up(self) -> str:
        """The stage that gave it up, if one did."""
        return next((name.removeprefix(GAVE_UP) for name in self.notes if name.startswith(GAVE_UP)), "")

    @property
    def reason(self) -> str:
        """The reason for which that stage gave it up."""
        return str(_mapping(self.notes.get(f"{GAVE_UP}{self.gave_up}")).get("reason", ""))

    @property
    def ended_at(self) -> list[str]:
        """The stages that have taken it without an answer."""
        return stages_of(ENDED_AT, self.notes)

    @property
    def is_over(self) -> bool:
        """Whether it has reached an end of every branch, or a stage gave it up. Unknown stages make nothing over."""
        if self.gave_up:
            return True
        is_known = self.begins != [Submission.channel] or bool(self.graph.ends(Submission.channel))
        ended = dict.fromkeys(self.ended_at, True) | over(self.splits)
        finished = (self.graph.is_finished(first, self.notes.keys(), ended) for first in self.begins)
        return is_known and bool(self.begins) and all(finished)

    @property
    def state(self) -> str:
        """`underway`, `done`, `ended` (without an answer to show) or `dead`."""
        over = "ended" if self.ended_at and not self.answer else "done"
        return "dead" if self.gave_up else over if self.is_over else "underway"

    @property
    def steps(self) -> list[Step]:
        """Each channel that it has reached and then each that it may still reach."""
        reached = self.reached
        is_over = self.is_over
        before: datetime | None = None
        steps: list[Step] = []
        for index, name in enumerate([*reached, *self.ahead]):
            at = reached[name].at if name in reached else None
            hop = (at - before) / timedelta(milliseconds=1) if at and before else None
            is_next = index == len(reached) and not is_over
            steps.append(Step(name, at, hop, is_next=is_next, is_starting=is_next and name in self.starting))
            before = at
        return steps

    @property
    def seconds(self) -> float:
        """Seconds from the first channel to the last that was reached."""
        times = [note.at for note in self.reached.values()]
        return (times[-1] - times[0]).total_seconds() if times else 0

    @property
    def percent(self) -> int:
        """Per cent of the steps that were reached."""
        return round(100 * len(self.reached) / max(1, len(self.reached) + len(self.ahead)))

    @property
    def submitted(self) -> Mapping[str, Any]:
        """The fields that were submitted."""
        return _mapping(self.reached.get(Submission.channel))

    @property
    def answer(self) -> Mapping[str, Any]:
        """The data with the text of the answer; empty until it has been sent."""
        return next((data for data in map(_mapping, self.reached.values()) if isinstance(data.get("message"), str)), {})


class GraphReader:
    """Reads the graph of the stages from Redis, and keeps it for KNOWN_FOR seconds."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._graph = Graph(())
        self._read_at = -KNOWN_FOR
        self._reading = asyncio.Lock()

    async def channels(self) -> tuple[str, ...]:
        """Return every channel that a submission may reach, nearest first."""
        return (await self.graph()).reached(Submission.channel)

    async def graph(self) -> Graph:
        """Return the graph. While Redis is away it is the last one that was read."""
        async with self._reading:
            if time.monotonic() - self._read_at >= KNOWN_FOR:
                await self._read()
        return self._graph

    async def _read(self) -> None:
        try:
            table = await self._journal.admin.table()
        except JournalUnavailable as fault:
            log.warning(Fields(outcome="stages-unknown", reason=str(fault)))
            self._read_at = time.monotonic() - KNOWN_FOR + PAUSE
        else:
            self._graph = Graph(nodes(table.items()))
            self._read_at = time.monotonic()


class StatusReader:
    """Reads the status of one submission, again and again."""

    def __init__(self, journal: Journal, graphs: GraphReader, event_id: str) -> None:
        self._journal = journal
        self._graphs = graphs
        self._id = event_id
        self._parts = PartsReader(journal)

    async def read(self) -> Status:
        """Return the status; without notes if there is no such submission. Raises JournalUnavailable."""
        found, histories = await self._journal.whole_status(self._id)
        graph = await self._graphs.graph()
        notes = with_ends(found, histories, graph)
        return Status(self._id, notes, graph, await self._parts.read(self._id, notes, graph))

    async def with_starting(self, status: Status) -> Status:
        """Return the status with the channels to come whose stage is starting; none while Redis is away."""
        emitters = {} if status.is_over else {channel: status.graph.emitters(channel) for channel in status.ahead}
        try:
            starting = await self._journal.wake_ups.starting(
                {stage for stages in emitters.values() for stage in stages}
            )
        except JournalUnavailable:
            starting = frozenset()
        channels = (channel for channel, stages in emitters.items() if not starting.isdisjoint(stages))
        return replace(status, starting=tuple(channels))


class StatusReaders:
    """The readers of the submissions that were asked for of late. They remember which parts have ended."""

    def __init__(self, journal: Journal, graphs: GraphReader) -> None:
        self._journal = journal
        self._graphs = graphs
        self._readers: OrderedDict[str, StatusReader] = OrderedDict()

    def of(self, event_id: str) -> StatusReader:
        """Return the reader of this submission, or part of one."""
        reader = self._readers.pop(event_id, None) or StatusReader(self._journal, self._graphs, event_id)
        self._readers[event_id] = reader
        if len(self._readers) > MOST_READERS:
            self._readers.popitem(last=False)
        return reader


def with_ends(notes: Mapping[str, Note], histories: Mapping[str, History], graph: Graph) -> dict[str, Note]:
    """Return the notes of a status, and one for each stage that has taken the event without an answer.

    Such a stage leaves nothing but its history. In broker mode only the Broker knows of it.
    """
    found = dict(notes)
    for stage, history in histories.items() if notes else ():
        emits = graph.emits.get(stage)
        if emits and history.is_delivered and stage != BROKER and notes.keys().isdisjoint({*emits, f"{PARTS}{stage}"}):
            found[f"{ENDED_AT}{stage}"] = Note(history.steps[-1].time, None)
    return dict(sorted(found.items(), key=lambda item: item[1].at))


def _mapping(note: Note | None) -> Mapping[str, Any]:
    return note.data if note and isinstance(note.data, dict) else {}
