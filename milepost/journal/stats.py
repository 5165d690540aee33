"""Statistics of stages in the last minute: each bridge writes its own to Redis, and readers add them up."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

from redis.exceptions import RedisError

from milepost.events.strict_json import dumps, loads
from milepost.journal import keys
from milepost.journal.scripts import Scripts, StatsRow, unavailable

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of a histogram of deliveries, in seconds; one more bucket is above them."""

EVERY = 5.0
"""Seconds that a slot spans."""

KEPT = 60.0
"""Seconds that stats are kept: as long as their oldest slot is looked at."""

SLOTS = round(KEPT / EVERY)


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of events of one stage in some time. `seconds` is a histogram of delivery times: a count for each bound of
    SECONDS and one above.
    """

    delivered: int = 0
    undelivered: int = 0
    dead: int = 0
    cold_starts: int = 0
    seconds: tuple[int, ...] = (0,) * (len(SECONDS) + 1)

    def __add__(self, other: "Counts") -> "Counts":
        return self._with(other, 1)

    def __sub__(self, other: "Counts") -> "Counts":
        return self._with(other, -1)

    def __bool__(self) -> bool:
        return self != Counts()

    def _with(self, other: "Counts", sign: int) -> "Counts":
        whole = {name: getattr(self, name) + sign * getattr(other, name) for name in _WHOLE}
        seconds = tuple(a + sign * b for a, b in zip(self.seconds, other.seconds, strict=True))
        return Counts(**whole, seconds=seconds)

    def quantile(self, share: float) -> float | None:
        """Return the seconds within which this share (0 to 1) of deliveries ended, or None if there was none. It
        interpolates within a bucket as Prometheus does. A delivery above the last bound counts as the last bound.
        """
        rank = share * sum(self.seconds)
        if rank <= 0:
            return None
        below = 0
        for index, reached in enumerate(accumulate(self.seconds)):
            if reached >= rank and index < len(SECONDS):
                low = SECONDS[index - 1] if index else 0.0
                return low + (SECONDS[index] - low) * (rank - below) / (reached - below)
            below = reached
        return SECONDS[-1]


_WHOLE = tuple(field.name for field in fields(Counts) if field.name != "seconds")


@dataclass(frozen=True, slots=True)
class Slot:
    """The counts of up to EVERY seconds, which ended `age` seconds ago."""

    age: float
    counts: Counts


async def write(scripts: Scripts, bridge: str, stages: Mapping[str, Sequence[Slot]]) -> None:
    """Write the slots of these stages, in place of those that this bridge wrote before. Raises JournalUnavailable."""
    rows = []
    for stage, slots in stages.items():
        counts = [
            [round(slot.age * 1000), *(getattr(slot.counts, name) for name in _WHOLE), slot.counts.seconds]
            for slot in slots
        ]
        rows.append(StatsRow(keys.stats(stage, bridge), stage, dumps(counts)))
    await scripts.stats(kept=round(KEPT * 1000), stages=rows)


async def read(scripts: Scripts) -> dict[str, list[Slot]]:
    """Return stage → slots of the last minute, of all bridges. Those of another form (a newer bridge's) are left out.

    Raises JournalUnavailable.
    """
    found: dict[str, list[Slot]] = {}
    try:
        seconds, microseconds = await scripts.redis.time()
        now = seconds * 1000 + microseconds // 1000
        names: Any = await scripts.redis.zrangebyscore(keys.STATS, now, "+inf")
        texts: Any = await scripts.redis.mget(names) if names else []
    except (RedisError, OSError) as fault:
        raise unavailable(fault) from fault
    for text in filter(None, texts):
        try:
            left = loads(text)
            stage, slots = str(left["stage"]), list(_slots(left["slots"], now - left["at"]))
        except (ValueError, KeyError, TypeError):
            continue
        found.setdefault(stage, []).extend(slots)
    return found


def _slots(rows: Iterable[Sequence[Any]], since: float) -> Iterable[Slot]:
    for row in rows:
        if len(row) != len(_WHOLE) + 2 or len(row[-1]) != len(SECONDS) + 1:
            continue
        if not all(isinstance(count, int) for count in (*row[:-1], *row[-1])):
            continue
        age = (row[0] + since) / 1000
        if age < KEPT:
            yield Slot(age, Counts(**dict(zip(_WHOLE, row[1:-1], strict=True)), seconds=tuple(row[-1])))
