"""The outcome of a delivery: reads a stage's response, and says whose fault a failure is. No I/O and no state.

docs/architecture.md has the same table for users.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from milepost.errors import EventError, MilepostError, TooLarge
from milepost.events.batch import BATCH_TYPE, TooManyAnswers, check_answers, is_batch, part_id, read_batch
from milepost.events.event import Event
from milepost.events.strict_json import DEEPEST, loads

SHORTEST_RETRY_AFTER = 0.1
LONGEST_RETRY_AFTER = 300.0
"""Seconds between which a receiver's Retry-After is honoured."""

ROUTE_STATUSES = frozenset({401, 403, 404, 405, 407, 408, 425, 429, 502, 503, 504})
"""With every 3xx: the route's fault, not the event's. The URL or a credential is wrong, or the stage is away. The stage
may have answered itself, or a proxy in front of it.
"""

MULTI_STATUS = 207
"""The HTTP status of a response to a batch in which each event has its own (milepost/function/responses.py)."""

AWAY_STATUSES = frozenset({429, 502, 503, 504})
"""Those of ROUTE_STATUSES that are about the whole stage, whether one event was sent or a batch."""

_WHOLE = re.compile(r"\d+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@dataclass(frozen=True, slots=True)
class Delivered:
    """The stage took the event. `reply` is to be journaled; None: there is none.

    `answers`: the answers of a stage that splits, perhaps none; None for every other stage.
    """

    reply: Event | None = None
    answers: Sequence[Event] | None = None


NO_REPLY = Delivered()
"""The outcome of most events of a stage that emits nothing."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The event is at fault, and no retry can help: it becomes a dead letter at once."""

    status: int
    reason: str
    retry_after: None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """409 with Retry-After: this event has to wait, as for a full mailbox. It is parked, uncounted."""

    status: int
    reason: str
    retry_after: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The event may be at fault: the failure is counted, and the event is parked."""

    status: int | None
    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Crashed:
    """The request was sent and no response came. The event may have caused it or not: this is counted apart."""

    reason: str
    status: None = None
    retry_after: None = None
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class RouteDown:
    """The route is at fault: the event is parked, uncounted, and the route is probed until it answers."""

    status: int | None
    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Undecided:
    """A batch left the outcome of this event open: it is to be delivered alone.

    `timed_out`: there was no response in time.
    """

    reason: str
    timed_out: bool = False


Undelivered = Refused | Deferred | Failed | Crashed | RouteDown
Outcome = Delivered | Undelivered
"""Of one event in one delivery."""


def outcome_of(
    status: int, headers: Mapping[str, str], body: bytes, *, emits: Collection[str], splits: str | None = None
) -> Outcome:
    """Return the outcome of a complete response of a stage that emits one of `emits`, or nothing if that is empty.

    `splits`: for a stage that splits, the id of the event that it got.
    """
    if 200 <= status < 300:
        if splits is not None and emits:
            return _split(status, headers, body, emits, splits)
        return _accepted(status, headers, body, emits)
    wait = None if list(headers).count("retry-after") > 1 else retry_after(headers.get("retry-after"))
    return _undelivered(status, wait, _reason(status, _detail(headers, body)))


def _undelivered(status: int, wait: float | None, reason: str) -> Undelivered:
    if status == 409 and wait is not None:
        return Deferred(status, reason, wait)
    if 300 <= status < 400 or status in ROUTE_STATUSES:
        return RouteDown(status, reason, wait)
    if 400 <= status < 500:
        return Refused(status, reason)
    return Failed(status, reason, wait)


def _accepted(status: int, headers: Mapping[str, str], body: bytes, emits: Collection[str]) -> Outcome:
    if not emits or (status == 204 and not body):
        return NO_REPLY
    try:
        if status != 200:
            raise EventError(f"{status} where 200 or 204 was due")
        if is_batch(headers.get("content-type", "")):
            raise EventError("several answers; its row under `stages:` in the values needs split: true")
        reply = Event.from_http(headers, body)
        if reply.type not in emits:
            raise EventError(f"type: {reply.type}, not {' or '.join(emits)}")
        reply.to_json()  # may be too large, though the body was not
    except (MilepostError, ValueError) as fault:
        return Failed(status, f"unusable reply: {fault}")
    return Delivered(reply)


def _split(status: int, headers: Mapping[str, str], body: bytes, emits: Collection[str], of: str) -> Outcome:
    """Return the outcome of a successful response of a stage that splits: 204, or 200 with a batch of answers."""
    if status == 204 and not body:
        return Delivered(answers=())
    try:
        if status != 200:
            raise EventError(f"{status} where 200 or 204 was due")
        if list(headers).count("content-type") > 1:
            raise EventError("content-type: given twice")
        if not is_batch(headers.get("content-type", "")):
            raise EventError(f"its stage splits, so {BATCH_TYPE} was due")
        return Delivered(answers=_answers([] if body.strip() == b"[]" else read_batch(body), emits, of))
    except TooManyAnswers as fault:
        return Refused(status, f"unusable reply: {fault}")
    except (MilepostError, ValueError) as fault:
        return Failed(status, f"unusable reply: {fault}")


def _answers(answers: Sequence[Event], emits: Collection[str], of: str) -> Sequence[Event]:
    """Return the answers to the event `of`. Raises EventError, or TooManyAnswers, if they cannot be journaled."""
    check_answers(answers)
    for place, answer in enumerate(answers):
        if answer.type not in emits:
            raise EventError(f"event {place}: type: {answer.type}, not {' or '.join(emits)}")
        if answer.id != part_id(of, place):
            raise EventError(
                f"event {place}: id: {answer.id}, not {part_id(of, place)}, the id of answer {place} to {of}"
            )
    return answers


def outcomes_of_batch(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    ids: Sequence[str],
    *,
    emits: Collection[str],
    split: bool = False,
) -> Sequence[Outcome | Undecided]:
    """Return an outcome for each event of a batch, in the order of `ids`, from the response to the batch.

    - 2xx of a stage that emits nothing, 204, or 200 with a reply of the same id for each: all were delivered.
    - 207 with a list: each event has its own HTTP status.
    - 429, 502, 503, 504: the stage is away.
    - Any other response: undecided. So is 200 with a batch from a stage that splits: it does not say whose each is.
    """
    undecided = [Undecided(f"HTTP {status}")] * len(ids)
    if status in AWAY_STATUSES:
        return [outcome_of(status, headers, body, emits=emits)] * len(ids)
    if status == MULTI_STATUS and (items := _items(body)) is not None:
        if len(items) != len(ids):
            return undecided
        return [_of_item(item, of, emits, split=split) for item, of in zip(items, ids, strict=True)]
    if 200 <= status < 300 and (not emits or (status == 204 and not body)):
        return [Delivered(answers=() if split and emits else None)] * len(ids)
    if split or status != 200 or not is_batch(headers.get("content-type", "")):
        return undecided
    try:
        replies = read_batch(body)
    except MilepostError:
        return undecided
    if len(replies) != len(ids):
        return undecided
    return [_of_reply(reply, of, emits) for reply, of in zip(replies, ids, strict=True)]


def _items(body: bytes) -> Sequence[Any] | None:
    """Return the list in the body of a 207, or None."""
    try:
        items = loads(body, deepest=DEEPEST + 4)
    except ValueError:
        return None
    return items if isinstance(items, list) else None


def _of_item(item: Any, of: str, emits: Collection[str], *, split: bool) -> Outcome | Undecided:
    """Return the outcome that a 207 gives for one event."""
    if not isinstance(item, dict) or type(item.get("status")) is not int or item.get("id") != of:
        return Undecided("an item of the 207 names no event")
    status, seconds = item["status"], item.get("retryAfter")
    if 200 <= status < 300:
        if not emits or status == 204:
            return Delivered(answers=() if split and emits else None)
        if split:
            return _of_answers(item.get("events"), of, emits)
        try:
            return _of_reply(Event.from_fields(item.get("event")), of, emits)
        except EventError as fault:
            return Undecided(str(fault))
    if not 300 <= status < 600:
        return Undecided(f"an item of the 207 has the status {status}")
    wait = _bounded(seconds) if type(seconds) is int and seconds >= 0 else None
    return _undelivered(status, wait, _reason(status, item.get("detail")))


def _of_answers(events: Any, of: str, emits: Collection[str]) -> Outcome | Undecided:
    """Return the outcome for one event of a batch, of which the 207 gives several answers."""
    if not isinstance(events, list):
        return Undecided("an item of the 207 has no events")
    try:
        return Delivered(answers=_answers([Event.from_fields(event) for event in events], emits, of))
    except TooManyAnswers as fault:
        return Refused(MULTI_STATUS, f"unusable reply: {fault}")
    except MilepostError as fault:
        return Undecided(str(fault))


def _of_reply(reply: Event, of: str, emits: Collection[str]) -> Outcome | Undecided:
    try:
        reply.to_json()  # may be too large, though the body was not
    except TooLarge as fault:
        return Undecided(str(fault))
    if reply.type not in emits or reply.id != of:
        return Undecided("a reply is of another event")
    return Delivered(reply)


def retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, 0.1 to 300; None if it is absent or malformed.

    RFC 9110, section 10.2.3: digits, or a date.
    """
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
    """Return the detail of a problem (RFC 9457), or None."""
    if not headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        problem = loads(body)
    except ValueError:
        return None
    return problem.get("detail") if isinstance(problem, dict) else None


def _reason(status: int, detail: Any) -> str:
    text = _CONTROL.sub(" ", detail)[:500] if isinstance(detail, str) else ""
    return f"HTTP {status}: {text}" if text else f"HTTP {status}"
