"""What an answer means, and whose fault it is. No input, no output: a table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from milepost.batched import is_batch, read_batch
from milepost.errors import EventError, MilepostError
from milepost.event import Event, loads

SHORTEST_RETRY_AFTER = 0.1
LONGEST_RETRY_AFTER = 300.0
"""Seconds between which a receiver's Retry-After is honoured."""

ROUTE_STATUSES = frozenset({401, 403, 404, 405, 407, 408, 425, 429, 502, 503, 504})
"""With every 3xx: not the event's fault, but the wiring's, or the stage is not there to judge it."""

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


Verdict = Delivered | Refused | Deferred | Failed | Crashed | RouteDown


def judge(status: int, headers: Mapping[str, str], body: bytes, *, emits: str | None) -> Verdict:
    """The verdict on a complete answer of a stage that emits on `emits`, or nothing if None."""
    if 200 <= status < 300:
        return _accepted(status, headers, body, emits)
    wait = retry_after(headers.get("retry-after"))
    reason = _reason(status, headers, body)
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
    status: int, headers: Mapping[str, str], body: bytes, ids: Sequence[str], *, emits: str | None
) -> Sequence[Verdict] | None:
    """The verdicts on the answer to a batch of the events `ids`, in their order. None unless it says that all went
    well, by 2xx of a stage that emits nothing, 204, or 200 with a reply of the same id for each; or that the stage is
    not there.
    """
    if 200 <= status < 300 and (emits is None or (status == 204 and not body)):
        return [Delivered()] * len(ids)
    if status in AWAY_STATUSES:
        return [judge(status, headers, body, emits=emits)] * len(ids)
    if status != 200 or not is_batch(headers.get("content-type", "")):
        return None
    try:
        replies = read_batch(body)
        for reply in replies:
            reply.to_json()  # may be too large, though the body was not
    except MilepostError:
        return None
    if [reply.id for reply in replies] != list(ids) or any(reply.type != emits for reply in replies):
        return None
    return [Delivered(reply) for reply in replies]


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
    return min(max(seconds, SHORTEST_RETRY_AFTER), LONGEST_RETRY_AFTER)


def _reason(status: int, headers: Mapping[str, str], body: bytes) -> str:
    detail = ""
    if headers.get("content-type", "").startswith("application/problem+json"):
        try:
            problem = loads(body)
        except ValueError:
            problem = None
        if isinstance(problem, dict) and isinstance(problem.get("detail"), str):
            detail = _CONTROL.sub(" ", problem["detail"])[:500]
    return f"HTTP {status}: {detail}" if detail else f"HTTP {status}"
