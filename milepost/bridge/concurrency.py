"""The adaptive limit: how many events a stage is given at the same time.

1. The limit begins at 16 events and never exceeds the setting WINDOW.
2. Each success while at least half of the limit is in use raises it by one, as long as responses take at most twice the
   quickest one. Beyond that, events sent sooner only queue at the stage (as TCP Vegas finds it).
3. A response that does not come in time halves the limit. Of deliveries that were under way together one counts.
4. When the route is down nothing is sent until a delay has passed. Then the limit is one: one probe at a time. A probe
   that fails lengthens the delay. One that succeeds, or whose event is refused or deferred, ends the outage.
5. Outages are numbered. What was sent before the outage does not count against the limit after it, so
   the probe can be sent at once.
6. Redeliveries do not wait for the limit unless the route is down: the dead bridge had already counted them.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

FIRST = 16
"""Limit at the start, in events."""

MOST_READ = 128
"""Entries read in one step, at most. Their sizes are known only afterwards."""

MOST_EXTRA = 64
"""Redeliveries taken over in one step beyond the limit."""

QUICK = 0.1
"""Seconds: a stage that answers within them is given more at once, whatever its quickest response took."""

DRIFT = 1.001
"""How the quickest response is forgotten: by so much with each success."""

MOMENT = 0.002
"""Seconds that a busy worker waits before it reads again, so that a read carries more."""


class Limits(NamedTuple):
    """The largest limit of a stage, in events, and how many bytes it holds before no more are read for it."""

    events: int
    bytes: int


class ConcurrencyLimit:
    """The limit of one stage, in events, and what counts against it.

    `unsettled` counts entries read and not settled, `unsettled_bytes` their bytes, `in_flight` those being POSTed.
    `probe_delay` gives the seconds until the next probe after so many failed ones.
    """

    def __init__(self, limits: Limits, *, probe_delay: Callable[[int], float]) -> None:
        self.most, self.most_bytes = limits
        self.size = min(FIRST, self.most)
        self.outage = 0
        self.unsettled = 0
        self.unsettled_bytes = 0
        self.in_flight = 0
        self.failed_probes = 0
        self._unsettled_before = 0  # entries read before the latest outage and not settled
        self._quickest = math.inf
        self._halved = -math.inf
        self._probe_delay = probe_delay
        self._probe_timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def down(self) -> bool:
        """Whether the route failed and no probe has succeeded since."""
        return self.failed_probes > 0

    @property
    def free(self) -> int:
        """How many more entries may be read now."""
        if self._probe_timer:
            return 0
        entries = min(self.size - self.unsettled, self.most - self.unsettled - self._unsettled_before, MOST_READ)
        if self.unsettled_bytes:
            # Assume average size. At least one is read while any room is left.
            left = (
                (self.most_bytes - self.unsettled_bytes)
                * (self.unsettled + self._unsettled_before)
                / self.unsettled_bytes
            )
            entries = min(entries, math.ceil(left))
        return max(0, entries)

    @property
    def extra(self) -> int:
        """How many redeliveries may be taken over beyond `free` in one step: none while the route is down.

        Only their bytes are bounded: the bridge that died had no more events than its own limit.
        """
        return 0 if self.down or self.unsettled_bytes > 2 * self.most_bytes else MOST_EXTRA

    async def room(self, timeout: float) -> int:  # noqa: ASYNC109 - 0 is an answer, not an error
        """Return how many entries may be read, as soon as there is room; 0 when there is none within `timeout` seconds.

        While less than a quarter of the limit is free, wait a moment for more: a read costs a round trip.
        """
        try:
            async with asyncio.timeout(max(0.0, timeout)):
                while not self.free:
                    self._changed.clear()
                    await self._changed.wait()
                if self.free < self.size // 4:
                    await asyncio.sleep(MOMENT)
        except TimeoutError:
            pass  # it was time to look for redeliveries
        return self.free

    def count_read(self, events: int, size: int) -> int:
        """Count entries that were read, `size` bytes together.

        Returns the number of the latest outage, which `count_settled` needs.
        """
        self.unsettled += events
        self.unsettled_bytes += size
        return self.outage

    def count_settled(self, outage: int, events: int, size: int) -> None:
        """Entries are settled or dropped."""
        self.unsettled_bytes -= size
        if outage == self.outage:
            self.unsettled -= events
        else:
            self._unsettled_before -= events
        self._changed.set()

    async def enter(self, events: int, *, redelivery: bool = False) -> int:
        """Wait until these events may be POSTed; a redelivery waits only while the route is down.

        Returns the number of the latest outage, which `leave` and the results need.
        """
        while self._probe_timer or (self.in_flight >= self.size and not (redelivery and not self.down)):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._admit()
                raise
        self.in_flight += events
        self._admit()
        return self.outage

    def leave(self, outage: int, events: int) -> None:
        """These events are answered, or given up."""
        if outage == self.outage:
            self.in_flight -= events
        self._admit()

    def answered(self, outage: int) -> None:
        """The stage is there. A response to what was sent before it went down does not say so."""
        if self.failed_probes and outage == self.outage:
            self.failed_probes = 0
            self._start_probe()

    def succeeded(self, seconds: float, outage: int, events: int) -> None:
        """The stage did its work on these events within so many seconds."""
        if outage != self.outage:
            return
        self.answered(outage)
        self._quickest = min(seconds, self._quickest * DRIFT)
        if seconds > max(QUICK, 2 * self._quickest):
            return
        # Half of the limit in use is enough, as Linux has it for TCP's slow start (RFC 7661 gives the reason): reads
        # come in steps, so a limit that is reached is still not full at each of its successes.
        if self.size < self.most and 2 * self.unsettled >= self.size:
            self.size = min(self.most, self.size + events)
            self._admit()
            self._changed.set()

    def timed_out(self, began: float, now: float) -> None:
        """A POST begun then has no response now, by one clock."""
        if began > self._halved:
            self._halved = now
            self.size = max(1, self.size // 2)

    def went_down(self, outage: int, retry_after: float | None) -> float:
        """The route is down: send nothing more, and return the seconds until its next probe.

        Of deliveries that were under way when it went down only the first to fail counts as a failed probe.
        """
        loop = asyncio.get_running_loop()
        if outage == self.outage:
            self.outage += 1
            self._unsettled_before += self.unsettled
            self.unsettled = self.in_flight = 0
            self.failed_probes += 1
            self.size = 1
            self._quickest = math.inf
            delay = self._probe_delay(self.failed_probes) if retry_after is None else retry_after
            self.close()
            self._probe_timer = loop.call_later(delay, self._start_probe)
            return delay
        if self._probe_timer:
            return max(0.0, self._probe_timer.when() - loop.time())
        return self._probe_delay(1) if retry_after is None else retry_after

    def close(self) -> None:
        """Cancel the timer, if one runs."""
        if self._probe_timer:
            self._probe_timer.cancel()
            self._probe_timer = None

    def _start_probe(self) -> None:
        self.close()
        self._admit()
        self._changed.set()

    def _admit(self) -> None:
        """Wake one waiter. It wakes the next when it enters or leaves."""
        while self._waiting and not self._probe_timer and self.in_flight < self.size:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
