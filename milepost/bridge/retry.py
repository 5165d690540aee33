"""The retry rule: whether an event that was not delivered is tried again, and when.

1. Refused: the event becomes a dead letter at once.
2. RouteDown: the stage is away, which is not the event's fault. It is parked, uncounted, and the route is probed.
3. Deferred: the event has to wait. It is parked, uncounted, for the time that the stage names, and for one second at
   least, so that `Retry-After: 0` does not bring it back at once.
4. Failed and Crashed are counted: `attempts` if there was a response, `crashes` if not. After `retry` repeats
   (`crash_retry` for crashes) the event becomes a dead letter. Until then it is parked, with Knative's backoff.
5. If the last 20 deliveries failed, of at least 10 different events, the stage is broken and not the events: rule 2
   applies. Events that have failed twice before do not count here.
6. If RouteDown with an HTTP status comes for one event three times, and another event has succeeded between each two,
   rule 4's backoff applies to the event alone: it is parked, uncounted, and begins no outage. It may end the stage's
   process each time, and the proxy in front answers for the process.
7. An event that is to be parked after its deadline becomes a dead letter instead (journal/lua/park.lua).
8. An event that Redis refuses to park stays pending and is redelivered after the claim time. Its counts are not kept,
   so if rule 4 counts the latest delivery, each earlier read or takeover of the entry counts as a failure of the same
   kind. If Redis refuses its dead letter, it is parked for 60 s.
"""

import random
from collections import deque
from dataclasses import dataclass, replace

from milepost.bridge.outcome import Crashed, Deferred, Failed, Refused, RouteDown, Undelivered
from milepost.bridge.settings import DeliverySpec
from milepost.journal import Entry, Failure

SHORTEST_DEFERRAL = 1.0
"""Least seconds that an event waits whose stage has deferred it."""

LONGEST_BACKOFF = 60.0
"""Most seconds between two deliveries of one event, unless its Retry-After says otherwise."""

LONGEST_PROBE = 2.0
"""Most seconds between two probes of a route that is down, unless its Retry-After says otherwise."""

BROKEN_AFTER = 20
BROKEN_EVENTS = 10
"""When BROKEN_AFTER deliveries in a row failed, of at least BROKEN_EVENTS different events, the stage is broken."""

SUSPECT_AFTER = 2
"""After so many failures an event says nothing about the stage any more (rules 5 and 6). Else the last poison events of
a backlog would look like a broken stage, and would never become dead letters.
"""

MOST_AWAY = 1000
"""Most events remembered for rule 6."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try the event again after `delay` seconds."""

    failure: Failure
    delay: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Make a dead letter of the event."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class RetryWhenUp:
    """Try the event again when the route may be up; `retry_after` in seconds, or None if the stage named no time."""

    failure: Failure
    retry_after: float | None


Decision = Retry | GiveUp | RetryWhenUp


class RetryPolicy:
    """Decides by a route's settings and its latest outcomes, which it remembers."""

    def __init__(self, spec: DeliverySpec) -> None:
        self._spec = spec
        self._failures: deque[int] = deque(maxlen=BROKEN_AFTER)
        """Hashes of the events that failed. Ids would not do: another source may have the same ones."""
        self._successes = 0
        self._away: dict[int, tuple[int, int]] = {}
        """Hash of an event → in how many outages the route was down for it, and `_successes` at the latest time."""

    def succeeded(self) -> None:
        """Count a success: the stage is not broken."""
        self._successes += 1
        self._failures.clear()

    def decide(self, entry: Entry, outcome: Undelivered) -> Decision:
        """Count this outcome of the latest delivery of an event, and decide about the event."""
        match outcome:
            case Refused():
                self._failures.clear()
                return GiveUp(_failure(entry, outcome))
            case Deferred():
                self._failures.clear()
                return Retry(_failure(entry, outcome), max(outcome.retry_after, SHORTEST_DEFERRAL))
            case RouteDown():
                times = self._times_away(hash(entry.event)) if outcome.status else 0
                if times > SUSPECT_AFTER:
                    delay = max(outcome.retry_after or 0.0, backoff(self._spec, times))
                    return Retry(_failure(entry, outcome), delay)
                return RetryWhenUp(_failure(entry, outcome), outcome.retry_after)
            case Failed() | Crashed():
                return self._decide_failure(entry, outcome)

    def _times_away(self, event: int) -> int:
        """Count how often the route was down for this event. Until another event succeeds it is the same outage."""
        times, successes = self._away.pop(event, (0, -1))
        times += successes != self._successes
        self._away[event] = times, self._successes
        if len(self._away) > MOST_AWAY:
            del self._away[next(iter(self._away))]
        return times

    def _decide_failure(self, entry: Entry, outcome: Failed | Crashed) -> Decision:
        if entry.failures < SUSPECT_AFTER:
            self._failures.append(hash(entry.event))
        if len(self._failures) == BROKEN_AFTER and len(set(self._failures)) >= BROKEN_EVENTS:
            return RetryWhenUp(_failure(entry, outcome), outcome.retry_after)
        crashed = isinstance(outcome, Crashed)
        failure = _failure(entry, outcome, attempts=int(not crashed), crashes=int(crashed))
        if failure.attempts > self._spec.retry or failure.crashes > self._spec.crash_retry:
            return GiveUp(failure)
        if outcome.retry_after is not None:
            return Retry(failure, outcome.retry_after)
        return Retry(failure, backoff(self._spec, failure.attempts + failure.crashes))

    def decide_refusal(self, entry: Entry, decided: Retry | GiveUp, reason: str) -> Retry | GiveUp | None:
        """Decide about the event if Redis refuses `decided`. None: it stays pending."""
        failure = decided.failure
        if isinstance(decided, GiveUp):
            return Retry(failure, LONGEST_BACKOFF)
        earlier = entry.deliveries - 1
        attempted, crashed = failure.attempts > entry.attempts, failure.crashes > entry.crashes
        failure = replace(
            failure,
            reason=f"{failure.reason}; and it cannot be parked: {reason}",
            attempts=failure.attempts + earlier * attempted,
            crashes=failure.crashes + earlier * crashed,
        )
        over = failure.attempts > self._spec.retry or failure.crashes > self._spec.crash_retry
        return GiveUp(failure) if over and (attempted or crashed) else None


def _failure(entry: Entry, outcome: Undelivered, attempts: int = 0, crashes: int = 0) -> Failure:
    return Failure(outcome.reason, outcome.status, entry.attempts + attempts, entry.crashes + crashes)


def backoff(spec: DeliverySpec, failures: int, longest: float = LONGEST_BACKOFF) -> float:
    """Return the seconds until the next try, after so many failures: Knative's backoffPolicy, capped, with jitter."""
    delay = spec.backoff_delay.total_seconds()
    if spec.backoff_policy == "linear":
        delay *= failures
    else:
        delay *= 2.0 ** min(failures - 1, 30)
    delay = min(delay, longest)
    return random.uniform(delay / 2, delay)  # noqa: S311 - jitter


def probe_delay(spec: DeliverySpec, found_down: int) -> float:
    """Return the seconds until the next probe of a route that so many requests in a row found down."""
    return backoff(spec, found_down, LONGEST_PROBE)
