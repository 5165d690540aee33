"""Count the parts of an event that a stage has split, and those that have ended.

A stage may give several answers to the event `7`. They are its parts `7/0`, `7/1` and so on, each with a status of its
own. A part has ended when no channel is to come for it, when a stage gave it up, when all of its own parts have ended,
or when its status has expired: the status of an unfinished event is kept. If two stages split the same event, a part of
the one and a part of the other have the same id, and so one status. Then only the stages downstream of the one that
made the part are looked at.

One look at a submission reads MOST_READ statuses of parts at most, however many parts there are. The gateway remembers
which parts have ended, and does not read these again, except to see whether a dead letter was replayed. The next look
begins where the last one ended. So after a few looks every part is counted.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from milepost.events.batch import part_id
from milepost.graph import Graph
from milepost.journal import ENDED_AT, GAVE_UP, PARTS, Journal, Note

MOST_READ = 1024
"""Most statuses of parts that one look at a submission reads."""

UNDER_WAY, ENDED, DEAD = range(3)
"""The state of a part. A dead part has ended unless its dead letter is replayed."""


@dataclass(frozen=True, slots=True)
class SplitProgress:
    """A stage has split an event: into how many parts, and how many of them have ended."""

    stage: str
    parts: int
    ended: int

    @property
    def is_over(self) -> bool:
        return self.ended == self.parts

    @property
    def name(self) -> str:
        """Its name among the channels that a reader of a live stream has. It differs when another part has ended."""
        return f"{PARTS}{self.stage}={self.ended}"


class PartsReader:
    """Reads the parts of one submission, look after look."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._states: dict[tuple[str, str], bytearray] = {}
        """Event and stage → the state of each part that the stage has made of the event."""
        self._first: dict[tuple[str, str], int] = {}
        """Where the next look begins."""
        self._made: dict[str, Note] = {}
        """The splits of the last look. An id may be used again once its status has expired."""
        self._left = 0
        self._looking = asyncio.Lock()

    async def read(self, event_id: str, notes: Mapping[str, Note], graph: Graph) -> list[SplitProgress]:
        """Return the splits of an event with these notes. Raises JournalUnavailable."""
        made = {name: note for name, note in notes.items() if name.startswith(PARTS)}
        counts = {name.removeprefix(PARTS): note.parts for name, note in made.items()}
        async with self._looking:
            if not self._made.items() <= made.items():
                self._states.clear()
            self._made = made
            self._left = MOST_READ
            return await self._splits(event_id, counts, graph)

    async def _splits(self, event_id: str, counts: Mapping[str, int], graph: Graph) -> list[SplitProgress]:
        return [
            SplitProgress(stage, parts, await self._count_ended(event_id, stage, parts, graph))
            for stage, parts in counts.items()
        ]

    async def _count_ended(self, event_id: str, stage: str, parts: int, graph: Graph) -> int:
        key = event_id, stage
        states = self._states.setdefault(key, bytearray(parts))
        first = self._first.get(key, 0)
        places = [place % parts for place in range(first, first + parts) if states[place % parts] != ENDED]
        looked_at = sorted(places, key=lambda place: states[place])[: self._left]  # dead ones if there is room
        self._left -= len(looked_at)
        ids = [part_id(event_id, place) for place in looked_at]
        others = set(graph.consumes).difference([stage], graph.downstream([stage] if stage in graph.emits else []))
        elsewhere = {f"{prefix}{other}" for prefix in (GAVE_UP, PARTS, ENDED_AT) for other in others}
        for place, one, reached in zip(looked_at, ids, await self._journal.reached(ids), strict=True):
            if self._left or len(looked_at) < len(places):
                self._first[key] = place + 1
            here = {name: made for name, made in reached.items() if name not in elsewhere}
            states[place] = await self._state(one, stage, here, graph)
        return parts - states.count(UNDER_WAY)

    async def _state(self, event_id: str, stage: str, reached: Mapping[str, int], graph: Graph) -> int:
        if any(name.startswith(GAVE_UP) for name in reached):
            return DEAD
        counts = {name.removeprefix(PARTS): parts for name, parts in reached.items() if name.startswith(PARTS)}
        ended = dict.fromkeys(stages_of(ENDED_AT, reached), True) | over(await self._splits(event_id, counts, graph))
        emits = [channel for channel in graph.emits.get(stage, ()) if channel in reached]
        if reached and not any(graph.is_finished(channel, reached, ended) for channel in emits):
            return UNDER_WAY
        if any(DEAD in self._states[event_id, again] for again in counts):
            return DEAD
        for again in counts:
            del self._states[event_id, again]
        return ENDED


def over(splits: Collection[SplitProgress]) -> dict[str, bool]:
    """Return stage → whether all parts that it made have ended."""
    return {split.stage: split.is_over for split in splits}


def stages_of(prefix: str, names: Iterable[str]) -> list[str]:
    """Return the stages that are named behind this prefix in a status."""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
