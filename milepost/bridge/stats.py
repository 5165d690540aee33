"""Statistics of a bridge: writes the counts of its metrics in the last minute to Redis, for /ops."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from milepost.bridge.metrics import StageMetrics
from milepost.journal import Scripts
from milepost.journal.stats import SLOTS, Counts, Slot, write


@dataclass
class _Past:
    """The counts of one stage at the latest look, and its latest slots, each with the time when it ended."""

    before: Counts
    slots: deque[tuple[float, Counts]] = field(default_factory=lambda: deque(maxlen=SLOTS))
    unwritten: bool = False


class Stats:
    """The statistics of these stages under one bridge. `clock` returns seconds, from any beginning."""

    def __init__(
        self, scripts: Scripts, bridge: str, stages: Mapping[str, StageMetrics], clock: Callable[[], float]
    ) -> None:
        self._scripts = scripts
        self._bridge = bridge
        self._stages = stages
        self._clock = clock
        self._pasts = {stage: _Past(metrics.counts()) for stage, metrics in stages.items()}

    async def write(self) -> None:
        """Write the statistics of the stages whose counts have changed since they were last written.

        Raises JournalUnavailable: the next call then writes them.
        """
        now = self._clock()
        for stage, metrics in self._stages.items():
            past, counted = self._pasts[stage], metrics.counts()
            if happened := counted - past.before:
                past.slots.append((now, happened))
                past.before, past.unwritten = counted, True
        changed = {stage: past for stage, past in self._pasts.items() if past.unwritten}
        if not changed:
            return
        await write(
            self._scripts,
            self._bridge,
            {stage: [Slot(now - ended, counted) for ended, counted in past.slots] for stage, past in changed.items()},
        )
        for past in changed.values():
            past.unwritten = False
