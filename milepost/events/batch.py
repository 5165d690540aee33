"""Several events in one request: CloudEvents' batched content mode (JSON Event Format 1.0.2, section 4)."""

from collections.abc import Iterable

from milepost.errors import EventError
from milepost.events.event import Event, media_type
from milepost.events.strict_json import DEEPEST, loads

BATCH_TYPE = "application/cloudevents-batch+json"


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
