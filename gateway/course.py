"""Read from the stages table in Redis which channels a submission will reach: its course."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from functions.payloads import Submission
from milepost.errors import JournalUnavailable
from milepost.graph import Graph, nodes
from milepost.journal import GAVE_UP, PARTS, Journal
from milepost.observe.logs import Fields

KNOWN_FOR = 10.0
"""Seconds after which the table is read again."""

PAUSE = 1.0
"""Seconds between two tries while Redis is away."""

log = logging.getLogger("gateway")


@dataclass(frozen=True, slots=True)
class Course:
    """The channels that a submission may reach, in order, and those of them on which it may end."""

    channels: tuple[str, ...] = (Submission.channel,)
    ends: frozenset[str] = frozenset()
    graph: Graph = field(default_factory=lambda: Graph(()), repr=False, compare=False)
    first: str = Submission.channel

    @classmethod
    def of(cls, stages: Iterable[Mapping[str, Any]]) -> "Course":
        """Make the course from the rows of the table, each with `name`, `consumes` and `emits`."""
        graph = Graph(nodes((str(row.get("name", number)), row) for number, row in enumerate(stages)))
        return cls().beginning(Submission.channel, graph)

    def beginning(self, first: str, graph: Graph | None = None) -> "Course":
        """Return the course of an event that begins on another channel, as a part of a submission does."""
        graph = graph or self.graph
        return Course(graph.reached(first), graph.ends(first), graph, first)

    def ahead(self, reached: Iterable[str]) -> tuple[str, ...]:
        """Return the channels that a submission which has reached these may still reach, in order."""
        names = set(reached)
        return self.graph.ahead(self.first, names, [one.removeprefix(PARTS) for one in names if one.startswith(PARTS)])

    def is_over(self, reached: Iterable[str], splits: Mapping[str, bool] | None = None) -> bool:
        """Whether the submission is finished: it has reached an end of every branch, or a stage gave it up.

        `splits`: the stages that have made parts of it, and whether all of these have ended.
        """
        names = set(reached)
        if any(name.startswith(GAVE_UP) for name in names):
            return True
        is_known = bool(self.ends) or self.first != Submission.channel
        return is_known and self.graph.is_finished(self.first, names, splits)


class CourseReader:
    """Reads the course from Redis, and keeps it for KNOWN_FOR seconds."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._course = Course()
        self._read_at = -KNOWN_FOR
        self._reading = asyncio.Lock()

    async def channels(self) -> tuple[str, ...]:
        """Return every channel of the course, in order."""
        return (await self.course()).channels

    async def course(self) -> Course:
        """Return the course. While Redis is away it is the last one that was read."""
        async with self._reading:
            if time.monotonic() - self._read_at >= KNOWN_FOR:
                await self._read()
        return self._course

    async def _read(self) -> None:
        try:
            table = await self._journal.admin.table()
        except JournalUnavailable as fault:
            log.warning(Fields(outcome="course-unknown", reason=str(fault)))
            self._read_at = time.monotonic() - KNOWN_FOR + PAUSE
        else:
            self._course = Course.of([{**row, "name": name} for name, row in table.items()])
            self._read_at = time.monotonic()
