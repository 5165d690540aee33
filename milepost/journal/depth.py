"""What lies before each stage, all seen in one step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from milepost import keys
from milepost.journal.scripts import Scripts, Text


@dataclass(frozen=True, slots=True)
class Depth:
    """Counts are events. `backlog` is what is journaled for the stage and not settled; where Redis does not know how
    much is unread, the journal's length stands in. `oldest`: seconds since the oldest of these was journaled; of
    those that are parked, the one due next is looked at.
    """

    stage: str
    backlog: int
    parked: int
    dead: int
    oldest: float | None


async def depths(scripts: Scripts, stages: Mapping[str, Sequence[str]]) -> list[Depth]:
    """For each of these stages, given with the channels it consumes. Raises JournalUnavailable."""
    arguments: list[Text] = [keys.journal(""), keys.waiting(""), keys.dead("")]
    for stage, channels in stages.items():
        arguments += stage, len(channels), *channels
    rows = await scripts.run("depth", [keys.STAGES], arguments)
    return [
        Depth(stage, backlog, parked, dead, None if oldest < 0 else oldest / 1000)
        for stage, (backlog, parked, dead, oldest) in zip(stages, rows, strict=True)
    ]
