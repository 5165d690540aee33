"""How many events a route may have on the wire: grows while the stage keeps up, shrinks to one when it is away."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

FIRST = 16
"""Size at the start, in events."""

MOST_READ = 128
"""Entries read in one step, at most. Their sizes are known only afterwards."""


QUICK = 0.1
"""Seconds: a stage that answers within them is given more at once, whatever its quickest answer took."""

DRIFT = 1.001
"""How the quickest answer is forgotten: by so much with each success."""

MOMENT = 0.002
"""Seconds a route that is busy waits before it reads again."""


class Limits(NamedTuple):
    """The most there may be of one route: events on the wire, and bytes of those held before no more are read."""

    events: int
    bytes: int


class Window:
    """Each success of a window that is at least half full widens it by one, up to `most`, while answers take no more
    than twice the quickest: from there on what is sent sooner only waits at the stage (as TCP Vegas finds it). What
    the stage does not answer in time halves it.

    When the route is down nothing passes until a delay is over, then one probe at a time; a probe that fails
    lengthens the delay. `taken` counts entries read and unsettled, `held` their bytes, `on_wire` those of them being
    POSTed; each outage begins an epoch of its own, whose probe does not wait for what an earlier one still has on the
    wire.
    """

    def __init__(self, limits: Limits, *, backoff: Callable[[int], float]) -> None:
        self.most, self.most_bytes = limits
        self.held = 0
        self.size = min(FIRST, self.most)
        self.epoch = 0
        self.taken = 0
        self.on_wire = 0
        self._left_over = 0
        self.strikes = 0
        self._quickest = math.inf
        self._halved = -math.inf
        self._backoff = backoff
        self._reopening: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def down(self) -> bool:
        """Whether the route failed and no probe has succeeded since."""
        return self.strikes > 0

    @property
    def free(self) -> int:
        """How many more entries may be read now."""
        if self._reopening:
            return 0
        entries = min(self.size - self.taken, self.most - self.taken - self._left_over, MOST_READ)
        if self.held:
            # The next are taken to be as large as those held are on average; one may be read even if it is not to fit.
            left = (self.most_bytes - self.held) * (self.taken + self._left_over) / self.held
            entries = min(entries, math.ceil(left))
        return max(0, entries)

    async def room(self) -> int:
        """Wait until something may be read; how many. When less than a quarter of the window is free, what comes free
        in a moment is waited for: a read costs a round trip.
        """
        while not (free := self.free):
            self._changed.clear()
            await self._changed.wait()
        if free < self.size // 4:
            await asyncio.sleep(MOMENT)
        return self.free or await self.room()

    def take(self, size: int) -> int:
        """Count an entry of `size` bytes that was read. Returns the epoch, to be given back when it is settled."""
        self.taken += 1
        self.held += size
        return self.epoch

    async def enter(self) -> int:
        """Wait for a place on the wire. Returns the epoch, to be given back when leaving it or when it failed."""
        while self._reopening or self.on_wire >= self.size:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                self._admit()
                raise
        self.on_wire += 1
        return self.epoch

    def leave(self, epoch: int) -> None:
        """Give the place on the wire back."""
        if epoch == self.epoch:
            self.on_wire -= 1
        self._admit()

    def settled(self, epoch: int, size: int) -> None:
        """One of the entries taken is settled or dropped."""
        self.held -= size
        if epoch == self.epoch:
            self.taken -= 1
        else:
            self._left_over -= 1
        self._changed.set()

    def answered(self, epoch: int) -> None:
        """The stage is there. What was sent before it went down does not say so."""
        if self.strikes and epoch == self.epoch:
            self.strikes = 0
            self._reopen()

    def succeeded(self, seconds: float, epoch: int) -> None:
        """The stage did its work, within so many seconds."""
        if epoch != self.epoch:
            return
        self.answered(epoch)
        self._quickest = min(seconds, self._quickest * DRIFT)
        if seconds > max(QUICK, 2 * self._quickest):
            return
        # Half of it in use is enough, as Linux has it for TCP's slow start (RFC 7661 gives the reason): reads come in
        # steps, so that a window which is the limit is still not full at each of its successes.
        if self.size < self.most and 2 * self.taken >= self.size:
            self.size += 1
            self._admit()
            self._changed.set()

    def timed_out(self, began: float, now: float) -> None:
        """A POST of then has no answer now, by one clock. Of those that were on the wire together one counts."""
        if began > self._halved:
            self._halved = now
            self.size = max(1, self.size // 2)

    def failed(self, epoch: int, retry_after: float | None) -> float:
        """The route is down: close it, and return the seconds until its next probe.

        Of what was on the wire when it went down only the first to fail counts as a strike.
        """
        loop = asyncio.get_running_loop()
        if epoch == self.epoch:
            self.epoch += 1
            self._left_over += self.taken
            self.taken = self.on_wire = 0
            self.strikes += 1
            self.size = 1
            self._quickest = math.inf
            delay = self._backoff(self.strikes) if retry_after is None else retry_after
            self.close()
            self._reopening = loop.call_later(delay, self._reopen)
            return delay
        if self._reopening:
            return max(0.0, self._reopening.when() - loop.time())
        return self._backoff(1) if retry_after is None else retry_after

    def close(self) -> None:
        """Drop the timer, if one runs."""
        if self._reopening:
            self._reopening.cancel()
            self._reopening = None

    def _reopen(self) -> None:
        self.close()
        self._admit()
        self._changed.set()

    def _admit(self) -> None:
        """Let one waiter look again; each that enters or leaves lets the next one."""
        while self._waiting and not self._reopening and self.on_wire < self.size:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
