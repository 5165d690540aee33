"""What an answer means, and whose fault it is. No input, no output: a table."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from milepost.errors import EventError, MilepostError, TooLarge
from milepost.events.batch import is_batch, read_batch
from milepost.events.event import Event
from milepost.events.strict_json import DEEPEST, loads

SHORTEST_RETRY_AFTER = 0.1
LONGEST_RETRY_AFTER = 300.0
"""Seconds between which a receiver's Retry-After is honoured."""

ROUTE_STATUSES = frozenset({401, 403, 404, 405, 407, 408, 425, 429, 502, 503, 504})
"""With every 3xx: not the event's fault, but the wiring's, or the stage is not there to judge it."""

MULTI_STATUS = 207
"""The answer to a batch whose events did not all fare alike (milepost/function/responses.py)."""

AWAY_STATUSES = frozenset({429, 502, 503, 504})
"""Those of them that say nothing of what was sent, be it one event or many."""

_WHOLE = re.compile(r"-?\d+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@dataclass(frozen=True, slots=True)
class Delivered:
    """The stage took the event; its reply goes on."""

    reply: Event | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The event's fault, for good: buried at once."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Deferred:
    """Nobody's fault: this very event is in hand elsewhere. Parked, uncounted."""

    status: int
    reason: str
    retry_after: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The event's fault, perhaps not for good: counted, parked."""

    status: int | None
    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Crashed:
    """No answer came to a request that was sent. Counted apart: the event may have caused it, or not."""

    reason: str
    status: int | None = None
    retry_after: float | None = None
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class RouteDown:
    """The route's fault: parked uncounted, and the route is probed until it answers."""

    status: int | None
    reason: str
    retry_after: float | None = None


Named = Callable[[Any], bool]
"""Whether this is the id of an event."""

Verdict = Delivered | Refused | Deferred | Failed | Crashed | RouteDown


def judge(status: int, headers: Mapping[str, str], body: bytes, *, emits: str | None) -> Verdict:
    """The verdict on a complete answer of a stage that emits on `emits`, or nothing if None."""
    if 200 <= status < 300:
        return _accepted(status, headers, body, emits)
    return _undelivered(status, retry_after(headers.get("retry-after")), _reason(status, _detail(headers, body)))


def _undelivered(status: int, wait: float | None, reason: str) -> Verdict:
    if status == 409 and wait is not None:
        return Deferred(status, reason, wait)
    if 300 <= status < 400 or status in ROUTE_STATUSES:
        return RouteDown(status, reason, wait)
    if 400 <= status < 500:
        return Refused(status, reason)
    return Failed(status, reason, wait)


def _accepted(status: int, headers: Mapping[str, str], body: bytes, emits: str | None) -> Verdict:
    if emits is None or (status == 204 and not body):
        return Delivered()
    try:
        if status != 200:
            raise EventError(f"{status} where 200 or 204 was due")
        reply = Event.from_http(headers, body)
        if reply.type != emits:
            raise EventError(f"type: {reply.type}, not {emits}")
        reply.to_json()  # may be too large, though the body was not
    except (MilepostError, ValueError) as fault:
        return Failed(status, f"unusable reply: {fault}")
    return Delivered(reply)


def judge_batch(
    status: int, headers: Mapping[str, str], body: bytes, events: Sequence[Named], *, emits: str | None
) -> Sequence[Verdict | None]:
    """The verdicts on the answer to a batch of `events`, in their order; None on those of which it says nothing that
    can be relied on. By 2xx of a stage that emits nothing, 204, or 200 with a reply of the same id for each all went
    well; by 207 each has its own; or the stage is not there.
    """
    unsaid = [None] * len(events)
    if status in AWAY_STATUSES:
        return [judge(status, headers, body, emits=emits)] * len(events)
    if status == MULTI_STATUS and len(said := _said(body)) == len(events):
        return [_one_of_many(one, named, emits) for one, named in zip(said, events, strict=True)]
    if 200 <= status < 300 and (emits is None or (status == 204 and not body)):
        return [Delivered()] * len(events)
    if status != 200 or not is_batch(headers.get("content-type", "")):
        return unsaid
    try:
        replies = read_batch(body)
    except MilepostError:
        return unsaid
    if len(replies) != len(events):
        return unsaid
    return [_replied(reply, named, emits) for reply, named in zip(replies, events, strict=True)]


def _said(body: bytes) -> Sequence[Any]:
    try:
        said = loads(body, deepest=DEEPEST + 4)
    except ValueError:
        return []
    return said if isinstance(said, list) else []


def _one_of_many(said: Any, named: Named, emits: str | None) -> Verdict | None:
    """What milepost/function/responses.py wrote of one event."""
    if not isinstance(said, dict) or type(said.get("status")) is not int or not named(said.get("id")):
        return None
    status, wait = said["status"], said.get("retryAfter")
    if 200 <= status < 300:
        if emits is None or status == 204:
            return Delivered()
        try:
            return _replied(Event.from_fields(said.get("event")), named, emits)
        except EventError:
            return None
    if not 300 <= status < 600:
        return None
    return _undelivered(status, _bounded(wait) if type(wait) is int else None, _reason(status, said.get("detail")))


def _replied(reply: Event, named: Named, emits: str | None) -> Delivered | None:
    try:
        reply.to_json()  # may be too large, though the body was not
    except TooLarge:
        return None
    return Delivered(reply) if reply.type == emits and named(reply.id) else None


def retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds asked for by a Retry-After header (RFC 9110, section 10.2.3), 0.1 to 300; None if it says nothing."""
    if value is None:
        return None
    if _WHOLE.fullmatch(value):
        seconds = float(value)  # infinite if it has more than 308 digits
    else:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return _bounded(seconds)


def _bounded(seconds: float) -> float:
    return min(max(seconds, SHORTEST_RETRY_AFTER), LONGEST_RETRY_AFTER)


def _detail(headers: Mapping[str, str], body: bytes) -> Any:
    """What a problem says (RFC 9457)."""
    if not headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        problem = loads(body)
    except ValueError:
        return None
    return problem.get("detail") if isinstance(problem, dict) else None


def _reason(status: int, detail: Any) -> str:
    said = _CONTROL.sub(" ", detail)[:500] if isinstance(detail, str) else ""
    return f"HTTP {status}: {said}" if said else f"HTTP {status}"
