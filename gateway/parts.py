"""Count the parts of an event that a stage has split, and those that have ended.

A stage may give several answers to the event `7`. They are its parts `7/0`, `7/1` and so on, each with a status of its
own. A part has ended when no channel is to come for it, when a stage gave it up, when all of its own parts have ended,
or when its status has expired: the status of an unfinished event is kept.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from milepost.events.batch import MOST_ANSWERS, part_id
from milepost.graph import Graph
from milepost.journal import GAVE_UP, PARTS, Journal, Note

MOST_READ = 4096
"""Most statuses of parts that are read for one look at a submission. Further parts count as not ended."""


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
    """Reads the parts of one submission, again and again. Parts that have ended are not read again."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._ended: set[tuple[str, str]] = set()
        self._left = 0

    async def read(self, event_id: str, notes: Mapping[str, Note], graph: Graph) -> list[SplitProgress]:
        """Return the splits of an event with these notes. Raises JournalUnavailable."""
        self._left = MOST_READ
        counts = {name.removeprefix(PARTS): count_of(note) for name, note in notes.items() if name.startswith(PARTS)}
        return await self._splits(event_id, counts, graph)

    async def _splits(self, event_id: str, counts: Mapping[str, int], graph: Graph) -> list[SplitProgress]:
        return [
            SplitProgress(stage, parts, await self._count_ended(event_id, stage, parts, graph))
            for stage, parts in counts.items()
        ]

    async def _count_ended(self, event_id: str, stage: str, parts: int, graph: Graph) -> int:
        ids = [part_id(event_id, place) for place in range(parts)]
        waiting = [one for one in ids if (one, stage) not in self._ended][: max(0, self._left)]
        self._left -= len(waiting)
        for one, reached in zip(waiting, await self._journal.reached(waiting), strict=True):
            if await self._has_ended(one, stage, reached, graph):
                self._ended.add((one, stage))
        return sum((one, stage) in self._ended for one in ids)

    async def _has_ended(self, event_id: str, stage: str, reached: Mapping[str, int], graph: Graph) -> bool:
        if not reached or any(name.startswith(GAVE_UP) for name in reached):
            return True
        counts = {name.removeprefix(PARTS): parts for name, parts in reached.items() if name.startswith(PARTS)}
        splits = await self._splits(event_id, counts, graph)
        return any(
            channel in reached and graph.is_finished(channel, reached, over(splits))
            for channel in graph.emits.get(stage, ())
        )


def over(splits: Collection[SplitProgress]) -> dict[str, bool]:
    """Return stage → whether all parts that it made have ended."""
    return {split.stage: split.is_over for split in splits}


def count_of(note: Note) -> int:
    """Return the number of parts in a note of the status; 0 for a note that says none."""
    parts = note.data.get("parts") if isinstance(note.data, dict) else None
    return parts if type(parts) is int and 0 <= parts <= MOST_ANSWERS else 0
