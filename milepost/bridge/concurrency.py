"""The adaptive concurrency limit: how many events a route is given at the same time.

1. The limit begins at 16 events and never exceeds the setting WINDOW.
2. Each success raises it by one event, if at least half of the limit is in use and the response took at most 0.1 s, or
   twice the quickest one of late to about as many events. A slower response means that events queue at the stage, so
   sending more at once would not help (TCP Vegas uses the same sign).
3. A timeout halves the limit. Of requests that were under way together only the first timeout counts.
4. When the route is down, nothing is sent for a delay. Then the limit is one: one event is sent, or one batch that was
   waiting. It is the probe. After it each success while at least half of the limit is in use raises it, however slow,
   up to 16 or to the lower limit that a timeout has left (slow start in TCP). The response to a lone probe does not say
   how long more events take, and its timeout leaves no lower limit.
5. If the route is down for the probe too, the delay grows. If the event of the probe is at fault, because it alone
   finds the route down (rule 6 in retry.py), another event is the probe, at once. Any other outcome is about the event
   and ends the outage, also a failure that is counted against it.
6. A Retry-After holds back the event that it answers. The route is probed with another event: after 2 s at most, then
   4, 8 and so on, up to the Retry-After. So the Retry-After of one event does not stop the others.
7. Outages are numbered, and each request remembers the number at which it was sent. Requests that were sent before the
   latest outage do not count against the limit after it, so that the probe can be sent at once. Nor do their timeouts.
8. Redeliveries do not wait for the limit, because the bridge that died had counted them under its own. While the route
   is down they do: then they go before other events, one as the probe.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

FIRST = 16
"""Limit at the start, in events."""

MOST_READ = 128
"""Most entries read in one step. Their sizes are known only after the read."""

MOST_EXTRA, LEAST_EXTRA = 64, 4
"""Redeliveries taken over in one step beyond the limit; the second while those under way have too many bytes."""

QUICK = 0.1
"""A response within these seconds raises the limit, however quick the quickest one was."""

DRIFT = 1.001
"""Factor by which the quickest response time grows with each response, so that an old one is forgotten."""

FIRST_PROBE_AFTER = 2.0
"""Most seconds until the first probe of a route that named a Retry-After; each failed probe doubles that, up to it."""

MOMENT = 0.002
"""Seconds that a busy worker waits before it reads again, so that one read brings more entries."""


class Limits(NamedTuple):
    """The largest limit of a route in events, and the bytes of unsettled events at which no more are read."""

    events: int
    bytes: int


class ConcurrencyLimit:
    """The limit of one route. The worker reports to it each read, POST and settlement.

    `size` is the limit, in events. `unsettled` counts the entries that were read since the latest outage began and are
    not settled; `unsettled_bytes` counts the bytes of all entries that are not settled, earlier ones too. `in_flight`
    counts the events that are being POSTed. `found_down` counts the requests that found the route down: the one that
    began the outage, and its probes. `probe_delay(found_down)` returns the seconds until the next probe.
    """

    def __init__(self, limits: Limits, *, probe_delay: Callable[[int], float]) -> None:
        self.most, self.most_bytes = limits
        self.size = min(FIRST, self.most)
        self.outage = 0
        self.unsettled = 0
        self.unsettled_bytes = 0
        self.redelivered_bytes = 0
        self.in_flight = 0
        self.found_down = 0
        self._unsettled_before = 0  # entries read before the latest outage and not settled
        self._slow_start_until = self.size  # FIRST at most
        self._quickest: dict[int, float] = {}  # seconds, by the bits of the number of events in a request
        self._halved = -math.inf
        self._probe_delay = probe_delay
        self._probe_timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def down(self) -> bool:
        """Whether the route failed and no probe has ended the outage since."""
        return self.found_down > 0

    @property
    def free(self) -> int:
        """How many more entries may be read now; 0 while a probe is awaited."""
        if self._probe_timer:
            return 0
        entries = min(self.size - self.unsettled, self.most - self.unsettled - self._unsettled_before, MOST_READ)
        if self.unsettled_bytes:
            # Unread entries are taken to be of average size. One at least is read while there is any room.
            left = (
                (self.most_bytes - self.unsettled_bytes)
                * (self.unsettled + self._unsettled_before)
                / self.unsettled_bytes
            )
            entries = min(entries, math.ceil(left))
        return max(0, entries)

    @property
    def extra(self) -> int:
        """How many redeliveries may be taken over in one step beyond `free`: none while the route is down.

        Redelivered events have a bound of bytes of their own, so that other events which hang do not delay them. The
        bound is as much as two bridges hold. Beyond it, as when several have died, they come a few at a time.
        """
        if self.down:
            return 0
        return MOST_EXTRA if self.redelivered_bytes <= 2 * self.most_bytes else LEAST_EXTRA

    async def room(self, timeout: float) -> int:  # noqa: ASYNC109 - 0 is an answer, not an error
        """Wait until entries may be read, for `timeout` seconds at most, and return how many; 0 if none.

        While less than a quarter of the limit is free it waits a moment for more, because each read costs a round trip.
        """
        if self.free < max(1, self.size // 4):  # a timer costs more than all else here
            try:
                async with asyncio.timeout(timeout):
                    while not self.free:
                        self._changed.clear()
                        await self._changed.wait()
                    if self.free < self.size // 4:
                        await asyncio.sleep(MOMENT)
            except TimeoutError:
                pass  # it was time to look for redeliveries
        return self.free

    def count_read(self, events: int, size: int, *, redelivery: bool = False) -> int:
        """Count entries that were read, `size` bytes together.

        Returns the number of the latest outage, which `count_settled` needs.
        """
        self.unsettled += events
        self.unsettled_bytes += size
        self.redelivered_bytes += size * redelivery
        return self.outage

    def count_settled(self, outage: int, events: int, size: int, *, redelivery: bool = False) -> None:
        """Count entries that were settled, or are not delivered any more. `outage`: from `count_read`."""
        self.unsettled_bytes -= size
        self.redelivered_bytes -= size * redelivery
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
        """End a POST of these events: it was answered, failed, or was given up."""
        if outage == self.outage:
            self.in_flight -= events
        self._admit()

    def end_outage(self, outage: int) -> None:
        """End the outage, if there is one and the request that showed it was not sent before."""
        if self.found_down and outage == self.outage:
            self.found_down = 0
            self._start_probe()

    def succeeded(self, seconds: float, outage: int, events: int = 1) -> None:
        """Count a success for an event: raise the limit as rules 2 and 4 say.

        The response to its request, which had so many `events`, took so many seconds.
        """
        if outage != self.outage:
            return
        self.end_outage(outage)
        if self.size >= self._slow_start_until:
            about = events.bit_length()
            drift = DRIFT ** (1 / events)  # all successes of a response together make one DRIFT
            quickest = self._quickest[about] = min(seconds, self._quickest.get(about, math.inf) * drift)
            if seconds > max(QUICK, 2 * quickest):
                return
        # Half of the limit in use is enough, as in Linux's TCP slow start (reason: RFC 7661). Reads come in steps, so a
        # limit that holds events back is not full at each success.
        if self.size < self.most and 2 * self.unsettled >= self.size:
            self.size += 1
            self._slow_start_until = max(self._slow_start_until, min(FIRST, self.size))
            self._admit()
            self._changed.set()

    def timed_out(self, began: float, now: float, outage: int) -> None:
        """Halve the limit: a POST that was sent at `began` has timed out at `now`, in seconds of one clock."""
        if outage == self.outage and began > self._halved and self.size > 1:
            self._halved = now
            self.size //= 2
            self._slow_start_until = min(self._slow_start_until, self.size)

    def went_down(self, outage: int, retry_after: float | None) -> float:
        """Begin an outage, or prolong it after a probe. Returns the seconds until this event's next try.

        Of requests that were under way together only the first to fail begins an outage. The events of the others are
        tried again after the probe; if the probe is under way already, after the delay of a first failure.
        """
        loop = asyncio.get_running_loop()
        if outage == self.outage:
            self.outage += 1
            self._unsettled_before += self.unsettled
            self.unsettled = self.in_flight = 0
            self.found_down += 1
            self.size = 1
            self._quickest.clear()
            wait = seconds_to_probe(self.found_down, retry_after, self._probe_delay)
            self.close()
            self._probe_timer = loop.call_later(wait, self._start_probe)
            return max(wait, retry_after or 0.0)
        if self._probe_timer:
            return max(0.0, self._probe_timer.when() - loop.time(), retry_after or 0.0)
        return self._probe_delay(1) if retry_after is None else retry_after

    def close(self) -> None:
        """Cancel the timer of the next probe, if one runs."""
        if self._probe_timer:
            self._probe_timer.cancel()
            self._probe_timer = None

    def _start_probe(self) -> None:
        self.close()
        self._admit()
        self._changed.set()

    def _admit(self) -> None:
        """Let one waiter in `enter` go on. It lets the next go on when it enters or leaves."""
        while self._waiting and not self._probe_timer and self.in_flight < self.size:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


def seconds_to_probe(found_down: int, retry_after: float | None, probe_delay: Callable[[int], float]) -> float:
    """Return the seconds until the next probe. `retry_after`: of the latest request that found the route down."""
    if retry_after is None:
        return probe_delay(found_down)
    return min(retry_after, FIRST_PROBE_AFTER * 2.0 ** min(found_down - 1, 30))
