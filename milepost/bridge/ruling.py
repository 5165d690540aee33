"""What becomes of an event that was not delivered: when it is tried again, and when no more."""

import logging
import random
from collections import deque
from typing import Any

from milepost.bridge.settings import Delivery
from milepost.bridge.verdict import Crashed, Deferred, Failed, Refused, RouteDown
from milepost.bridge.window import Window
from milepost.errors import EventError
from milepost.events.event import Event
from milepost.events.strict_json import dumps
from milepost.journal import Bury, Entry, Letter, Park
from milepost.log import Fields

log = logging.getLogger("milepost.bridge")

LONGEST_BACKOFF = 60.0
"""Seconds between two deliveries of one event, at most."""

LONGEST_PROBE = 2.0
"""Seconds between two probes of a route that is down, unless its Retry-After says otherwise."""

BROKEN_AFTER = 20
BROKEN_EVENTS = 10
"""When this many deliveries in a row, of at least so many different events, failed, the stage is broken."""

SUSPECT_AFTER = 2
"""Failures after which an event says nothing of its stage any more. Without this a few poison events that are left
alone would look like a broken stage, and never be buried.
"""

Undelivered = Refused | Deferred | Failed | Crashed | RouteDown


class Ruling:
    """Rules by a route's delivery settings and its latest failures, and narrows its window."""

    def __init__(self, name: str, delivery: Delivery) -> None:
        self._name = name
        self._delivery = delivery
        self._failures: deque[str] = deque(maxlen=BROKEN_AFTER)

    def succeeded(self) -> None:
        """The stage is not broken."""
        self._failures.clear()

    def act(self, entry: Entry, verdict: Undelivered, window: Window, epoch: int) -> Park | Bury:
        """Park it or bury it. `epoch` is the window's at the time of the POST.

        A burial is logged when it is done. What a stage says of an event may quote it: in full it is in the dead
        letter alone.
        """
        act = self._act(entry, verdict, window, epoch)
        if isinstance(act, Park):
            log.info(
                Fields(
                    stage=self._name,
                    channel=entry.channel,
                    id=act.letter.id,
                    outcome=type(verdict).__name__.lower(),
                    status=verdict.status,
                )
            )
        return act

    def _act(self, entry: Entry, verdict: Undelivered, window: Window, epoch: int) -> Park | Bury:
        of = event_id(entry)

        def letter(attempts: int = 0, crashes: int = 0) -> Letter:
            reason = verdict.reason.encode(errors="replace").decode()
            return Letter(of, reason, verdict.status, entry.attempts + attempts, entry.crashes + crashes)

        match verdict:
            case Refused():
                self._failures.clear()
                window.answered(epoch)
                return Bury(entry, letter())
            case Deferred():
                self._failures.clear()
                return Park(entry, letter(), verdict.retry_after)
            case RouteDown() as down:
                return Park(entry, letter(), window.failed(epoch, down.retry_after))
        if entry.attempts + entry.crashes < SUSPECT_AFTER:
            self._failures.append(of)
        if self._broken():
            return Park(entry, letter(), window.failed(epoch, verdict.retry_after))
        counted = letter(attempts=1) if isinstance(verdict, Failed) else letter(crashes=1)
        if counted.attempts > self._delivery.retry or counted.crashes > self._delivery.crash_retry:
            return Bury(entry, counted)
        wait = self._backoff(counted.attempts + counted.crashes) if verdict.retry_after is None else verdict.retry_after
        return Park(entry, counted, wait)

    def _broken(self) -> bool:
        return len(self._failures) == BROKEN_AFTER and len(set(self._failures)) >= BROKEN_EVENTS

    def _backoff(self, failures: int, longest: float = LONGEST_BACKOFF) -> float:
        """Seconds until delivery number `failures` + 1: Knative's backoffPolicy, capped, with equal jitter."""
        delay = self._delivery.backoff_delay.total_seconds()
        if self._delivery.backoff_policy == "linear":
            delay *= failures
        else:
            delay *= 2.0 ** min(failures - 1, 30)
        delay = min(delay, longest)
        return random.uniform(delay / 2, delay)  # noqa: S311 - jitter

    def probe_delay(self, strikes: int) -> float:
        """Seconds until a route that went down so many times in a row is probed."""
        return self._backoff(strikes, LONGEST_PROBE)


def event_id(entry: Entry) -> str:
    """The id of its event; empty if it is none."""
    try:
        return Event.from_json(entry.event).id
    except EventError:
        return ""


def is_of(entry: Entry, of: Any) -> bool:
    """Whether this is the id of its event. What was written here says so in its first bytes; else it is read."""
    if not isinstance(of, str):
        return False
    return entry.event.startswith(b'{"specversion":"1.0","id":%b,' % dumps(of).encode()) or event_id(entry) == of
