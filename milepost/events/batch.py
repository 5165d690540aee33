"""Several events in one request: CloudEvents' batched content mode (JSON Event Format 1.0.2, section 4)."""

from collections.abc import Iterable, Sequence

from milepost.errors import EventError, TooLarge
from milepost.events.event import MAX_EVENT, Event, media_type
from milepost.events.strict_json import DEEPEST, loads

BATCH_TYPE = "application/cloudevents-batch+json"

MOST_ANSWERS = 256
"""Most answers of a stage to one event. As a batch they have at most MAX_EVENT bytes."""


class TooManyAnswers(EventError):
    """A stage gave more answers to one event, or larger ones, than can be journaled in one step."""


def is_batch(content_type: str) -> bool:
    return media_type(content_type) == BATCH_TYPE


def read_batch(text: bytes) -> list[Event]:
    """Read the events of a batch, in its order. Raises EventError, naming the first broken one by its place, from 0."""
    if text.isascii() and (written := _read_written(text.decode())):
        return written
    try:
        items = loads(text, deepest=DEEPEST + 3)
    except ValueError as fault:
        raise EventError(f"not JSON: {fault}") from None
    if not isinstance(items, list) or not items:
        raise EventError("a batch is a JSON array of one CloudEvent or more")
    events = []
    for place, item in enumerate(items):
        try:
            events.append(Event.from_fields(item))
        except EventError as fault:
            raise EventError(f"event {place}: {fault}") from None
    return events


def _read_written(text: str) -> list[Event]:
    """Read a batch that `write_batch` wrote of events that `to_json` wrote; empty if it is none."""
    events, at, between = [], 0, "["
    while text[at : at + 1] == between:
        found = Event.read_written(text, at + 1)
        if found is None:
            return []
        event, at = found
        events.append(event)
        between = ","
    return events if text[at:] == "]" else []


def write_batch(events: Iterable[bytes]) -> bytes:
    """Write a batch of events, each of them JSON already."""
    return b"[%b]" % b",".join(events)


def part_id(event_id: str, place: int) -> str:
    """Return the id of one of several answers to an event, by its place from 0. It is the same after a redelivery."""
    return f"{event_id}/{place}"


def check_answers(answers: Sequence[Event]) -> None:
    """Raise TooManyAnswers if they are too many, or as a batch larger than one event may be."""
    check_count(len(answers))
    size = 1 + len(answers)
    for answer in answers:
        try:
            size += len(answer.to_json())
        except TooLarge:
            raise TooManyAnswers(f"an answer of more than {MAX_EVENT} bytes") from None
    if size > MAX_EVENT:
        raise TooManyAnswers(f"{len(answers)} answers of {size} bytes together; the limit is {MAX_EVENT} bytes")


def check_count(answers: int, *, more: bool = False) -> None:
    """Raise TooManyAnswers for more than MOST_ANSWERS. `more`: there are even more, which were not counted."""
    if answers > MOST_ANSWERS:
        counted = f"more than {MOST_ANSWERS}" if more else answers
        raise TooManyAnswers(f"{counted} answers to one event; the limit is {MOST_ANSWERS}")
