"""Read the state of every stage from Redis: what its bridges counted, and how many events wait for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from milepost.graph import Graph
from milepost.journal import DeadLetter, Journal, StageState, keys, stats
from milepost.journal.stats import EVERY, KEPT, SLOTS, Counts, Slot
from milepost.observe.logs import masked

SHOWN_LETTERS = 10
"""The oldest dead letters of one stage that are shown."""

LONGEST_REASON = 300

MOST_LETTERS = 500
"""The oldest dead letters of one stage that one click replays or drops."""

WIDTH, HEIGHT = 120, 28
"""Size of a sparkline, in its own units."""


@dataclass(frozen=True, slots=True)
class Row:
    """One stage. `recent` has the deliveries of each EVERY seconds in the last KEPT seconds, the latest last."""

    stage: StageState
    counts: Counts
    recent: Sequence[int]

    @property
    def rate(self) -> float:
        """Deliveries per second, over the last minute."""
        return self.counts.delivered / KEPT

    @property
    def state(self) -> str:
        """The state in one word."""
        if not self.stage.served:
            return "not served"
        if self.stage.paused:
            return "paused"
        return "failing" if self.counts.undelivered > self.counts.delivered else "served"

    @property
    def line(self) -> str:
        """The points of the sparkline, for SVG."""
        most = max(*self.recent, 1)
        step = WIDTH / (len(self.recent) - 1)
        return " ".join(
            f"{index * step:.1f},{HEIGHT - 1 - count / most * (HEIGHT - 3):.1f}"
            for index, count in enumerate(self.recent)
        )

    def as_json(self) -> dict[str, Any]:
        """The row for /ops.json: times in seconds, counts of the last minute."""
        return {
            "stage": self.stage.name,
            "consumes": list(self.stage.consumes),
            "emits": list(self.stage.emits),
            "order": self.stage.ordered_by or None,
            "state": self.state,
            "rate": round(self.rate, 3),
            "journaled": self.stage.journaled,
            "held": self.stage.held,
            "parked": self.stage.parked,
            "dead": self.stage.dead,
            "oldest_event_seconds": self.stage.oldest,
            "delivered": self.counts.delivered,
            "undelivered": self.counts.undelivered,
            "cold_starts": self.counts.cold_starts,
            "p50_seconds": self.counts.quantile(0.5),
            "p99_seconds": self.counts.quantile(0.99),
            "recent": list(self.recent),
        }


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything that /ops shows. `dead`: stage → how many dead letters, if any; `letters`: the oldest of them."""

    rows: Sequence[Row]
    letters: dict[str, Sequence[DeadLetter]]
    dead: dict[str, int]
    leading: bool
    backlog: int


async def overview(journal: Journal, *, letters: bool = True) -> Overview:
    """Read the overview from Redis. Raises JournalUnavailable."""
    stages = {stage.name: stage for stage in await journal.admin.stages() if not stage.left_behind}
    others = set(await journal.admin.dead_stages()) - stages.keys()
    dead = {stage.name: stage.dead for stage in stages.values()}
    dead |= {depth.stage: depth.dead for depth in await journal.admin.depths(dict.fromkeys(others, ()))}
    dead = {name: count for name, count in dead.items() if count}
    left = await stats.read(journal.scripts)
    return Overview(
        rows=[
            Row(
                stage=stages[name],
                counts=sum((slot.counts for slot in left.get(name, ())), Counts()),
                recent=_recent(left.get(name, ())),
            )
            for name in Graph(stages.values()).in_order
        ],
        letters={name: await _letters(journal, name) for name in sorted(dead)} if letters else {},
        dead=dead,
        leading=bool(await journal.ask(journal.redis.exists(keys.LEASE))),
        backlog=await journal.backlog(),
    )


def _recent(slots: Sequence[Slot]) -> Sequence[int]:
    counted = [0] * SLOTS
    for slot in slots:
        counted[SLOTS - 1 - min(SLOTS - 1, int(slot.age / EVERY))] += slot.counts.delivered
    return counted


async def _letters(journal: Journal, stage: str) -> Sequence[DeadLetter]:
    """Return dead letters of a stage, with addresses masked in their reasons."""
    letters = await journal.admin.dead_letters(stage, count=SHOWN_LETTERS)
    return [replace(letter, reason=masked(letter.reason)[:LONGEST_REASON]) for letter in letters]
