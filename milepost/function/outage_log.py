"""Log why a stage answers 503: the first response of an outage, then one line now and then."""

import logging
import time
from collections import deque
from collections.abc import Callable

from milepost.function.responses import StageResponse
from milepost.observe.logs import Fields

log = logging.getLogger("milepost.stage")

REPEAT_AFTER = 60.0
"""Seconds between two lines with the same reason."""

MOST_LINES = 30
"""Most lines within REPEAT_AFTER seconds, counted over all reasons: a reason may quote the event."""

OUTAGE_STATUSES = frozenset({408, 503})
"""The HTTP statuses after which the bridge holds back the whole stage."""


class OutageLog:
    """Reads each response of one stage. A success ends an outage, so the next failure is a first one again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: deque[float] = deque(maxlen=MOST_LINES)
        self._reason: str | None = None
        self._unlogged = 0

    def note(self, response: StageResponse) -> StageResponse:
        """Log the response if it belongs to an outage and a line is due. Returns it unchanged."""
        if response.problem is None:
            self._reason = None
        elif response.status in OUTAGE_STATUSES:
            self._note_outage(response.status, response.problem["detail"])
        return response

    def _note_outage(self, status: int, reason: str) -> None:
        now = self._clock()
        recent = [at for at in self._lines if now - at < REPEAT_AFTER]
        repeated = reason == self._reason and bool(recent) and now - recent[-1] < REPEAT_AFTER
        if repeated or len(recent) == MOST_LINES:
            self._unlogged += 1
            return
        fields = Fields(outcome="unavailable", status=status, reason=reason)
        if self._unlogged:
            fields["unlogged"] = self._unlogged
        log.warning(fields)
        self._lines.append(now)
        self._reason = reason
        self._unlogged = 0
