"""The adaptive limit: how many events a stage is given at the same time.

1. The limit begins at 16 events and never exceeds the setting WINDOW.
2. Each success while at least half of the limit is in use raises it by one, as long as responses take at most twice the
   quickest one. Beyond that, events sent sooner only queue at the stage (as TCP Vegas finds it).
3. A response that does not come in time halves the limit. Of deliveries that were under way together one counts.
4. When the route is down nothing is sent until a delay has passed. Then the limit is one: one probe at a time. A probe
   that fails lengthens the delay. One that succeeds, or whose event is refused or deferred, ends the outage.
5. Each outage has a number, its epoch. What was sent before the outage does not count against the limit after it, so
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

MOST_OVER = 64
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

    `taken` counts entries read and not settled, `held` their bytes, `sent` those of them that are being POSTed.
    `probe_delay` gives the seconds until the next probe after so many failed ones.
    """

    def __init__(self, limits: Limits, *, probe_delay: Callable[[int], float]) -> None:
        self.most, self.most_bytes = limits
        self.size = min(FIRST, self.most)
        self.epoch = 0
        self.taken = 0
        self.held = 0
        self.sent = 0
        self.failed_probes = 0
        self._earlier = 0  # entries taken before the latest outage and not settled
        self._quickest = math.inf
        self._halved = -math.inf
        self._probe_delay = probe_delay
        self._reopening: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def down(self) -> bool:
        """Whether the route failed and no probe has succeeded since."""
        return self.failed_probes > 0

    @property
    def free(self) -> int:
        """How many more entries may be read now."""
        if self._reopening:
            return 0
        entries = min(self.size - self.taken, self.most - self.taken - self._earlier, MOST_READ)
        if self.held:
            # Assume average size. At least one is read while any room is left.
            left = (self.most_bytes - self.held) * (self.taken + self._earlier) / self.held
            entries = min(entries, math.ceil(left))
        return max(0, entries)

    @property
    def over(self) -> int:
        """How many redeliveries may be taken over beyond `free` in one step: none while the route is down.

        Only their bytes are bounded: the bridge that died had no more events than its own limit.
        """
        return 0 if self.down or self.held > 2 * self.most_bytes else MOST_OVER

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

    def take(self, events: int, size: int) -> int:
        """Count entries of `size` bytes together that were read. Returns the epoch, which `settled` needs."""
        self.taken += events
        self.held += size
        return self.epoch

    def settled(self, epoch: int, events: int, size: int) -> None:
        """Entries are settled or dropped."""
        self.held -= size
        if epoch == self.epoch:
            self.taken -= events
        else:
            self._earlier -= events
        self._changed.set()

    async def enter(self, events: int, *, redelivery: bool = False) -> int:
        """Wait until these events may be POSTed. Returns the epoch, which `leave` and the results need.

        A redelivery waits only while the route is down.
        """
        while self._reopening or (self.sent >= self.size and not (redelivery and not self.down)):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._admit()
                raise
        self.sent += events
        self._admit()
        return self.epoch

    def leave(self, epoch: int, events: int) -> None:
        """These events are answered, or given up."""
        if epoch == self.epoch:
            self.sent -= events
        self._admit()

    def answered(self, epoch: int) -> None:
        """The stage is there. A response to what was sent before it went down does not say so."""
        if self.failed_probes and epoch == self.epoch:
            self.failed_probes = 0
            self._reopen()

    def succeeded(self, seconds: float, epoch: int, events: int) -> None:
        """The stage did its work on these events within so many seconds."""
        if epoch != self.epoch:
            return
        self.answered(epoch)
        self._quickest = min(seconds, self._quickest * DRIFT)
        if seconds > max(QUICK, 2 * self._quickest):
            return
        # Half of the limit in use is enough, as Linux has it for TCP's slow start (RFC 7661 gives the reason): reads
        # come in steps, so a limit that is reached is still not full at each of its successes.
        if self.size < self.most and 2 * self.taken >= self.size:
            self.size = min(self.most, self.size + events)
            self._admit()
            self._changed.set()

    def timed_out(self, began: float, now: float) -> None:
        """A POST begun then has no response now, by one clock."""
        if began > self._halved:
            self._halved = now
            self.size = max(1, self.size // 2)

    def failed(self, epoch: int, retry_after: float | None) -> float:
        """The route is down: send nothing more, and return the seconds until its next probe.

        Of deliveries that were under way when it went down only the first to fail counts as a failed probe.
        """
        loop = asyncio.get_running_loop()
        if epoch == self.epoch:
            self.epoch += 1
            self._earlier += self.taken
            self.taken = self.sent = 0
            self.failed_probes += 1
            self.size = 1
            self._quickest = math.inf
            delay = self._probe_delay(self.failed_probes) if retry_after is None else retry_after
            self.close()
            self._reopening = loop.call_later(delay, self._reopen)
            return delay
        if self._reopening:
            return max(0.0, self._reopening.when() - loop.time())
        return self._probe_delay(1) if retry_after is None else retry_after

    def close(self) -> None:
        """Cancel the timer, if one runs."""
        if self._reopening:
            self._reopening.cancel()
            self._reopening = None

    def _reopen(self) -> None:
        self.close()
        self._admit()
        self._changed.set()

    def _admit(self) -> None:
        """Wake one waiter. It wakes the next when it enters or leaves."""
        while self._waiting and not self._reopening and self.sent < self.size:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
