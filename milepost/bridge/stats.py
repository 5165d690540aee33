"""Leaves in Redis how each stage of a bridge did in the last minute: the one place where /ops learns of it."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from milepost.bridge.metrics import RouteMetrics
from milepost.bridge.verdict import Delivered
from milepost.journal import Scripts
from milepost.journal.stats import SLOTS, Counts, Slot, write


@dataclass
class _Past:
    """What one route had counted when it was last looked at, and its latest slots, by when they ended."""

    before: Counts
    slots: deque[tuple[float, Counts]] = field(default_factory=lambda: deque(maxlen=SLOTS))
    unwritten: bool = False


class Stats:
    """Of the routes that count in `metrics`. `clock` in seconds, of any beginning."""

    def __init__(
        self, scripts: Scripts, bridge: str, metrics: Sequence[RouteMetrics], clock: Callable[[], float]
    ) -> None:
        self._scripts = scripts
        self._bridge = bridge
        self._clock = clock
        self._pasts = {counted: _Past(_counts(counted)) for counted in metrics}

    async def leave(self) -> None:
        """Write the stats of the stages where something happened since they were last written.

        Raises JournalUnavailable: they are written the next time, with what has happened by then.
        """
        now = self._clock()
        for counted, past in self._pasts.items():
            counts = _counts(counted)
            if happened := counts - past.before:
                past.slots.append((now, happened))
                past.before, past.unwritten = counts, True
        changed = {counted: past for counted, past in self._pasts.items() if past.unwritten}
        if not changed:
            return
        stages = {
            counted.stage: [Slot(now - ended, counts) for ended, counts in past.slots]
            for counted, past in changed.items()
        }
        await write(self._scripts, self._bridge, stages)
        for past in changed.values():
            past.unwritten = False


def _counts(counted: RouteMetrics) -> Counts:
    outcomes = {kind: int(outcome.value) for kind, outcome in counted.outcomes.items()}
    delivered = outcomes.pop(Delivered)
    return Counts(
        attempts=int(counted.attempts.value),
        delivered=delivered,
        undelivered=sum(outcomes.values()),
        dead=int(counted.dead.value),
        cold_starts=int(counted.cold_starts.value),
        seconds=tuple(counted.seconds.counts),
    )
