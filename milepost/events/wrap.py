"""Make an event of a message that a program PUBLISHes to Redis."""

from urllib.parse import quote

from milepost.errors import EventError, TooLarge
from milepost.events.event import MAX_EVENT, Event, now
from milepost.events.ids import new_id
from milepost.events.strict_json import decode, loads


def wrap(channel: str, message: bytes) -> tuple[Event, bool]:
    """Return the event that a message on `channel` stands for, and whether it is a CloudEvent with an id of its own.

    A JSON object with `specversion` is a CloudEvent. Other JSON is the data of a new event. So is other text, as a JSON
    string without the blanks and line ends around it; but text that begins like JSON, with `{`, `[` or `"`, is broken
    JSON. A byte order mark is ignored. Raises EventError for broken JSON, for a CloudEvent that is broken or of another
    type, and for a message that is not UTF-8 or is too large.
    """
    if len(message) > MAX_EVENT:
        raise TooLarge(f"larger than {MAX_EVENT} bytes")
    try:
        text = decode(message).strip()
    except ValueError as fault:
        raise EventError(str(fault)) from None
    try:
        value = loads(text)
    except ValueError as fault:
        if text.startswith(("{", "[", '"')):
            raise EventError(f"begins like JSON and is not JSON: {fault}") from None
        value = text
    named = isinstance(value, dict) and "specversion" in value
    if named:
        event = Event.from_fields(value)
        if event.type != channel:
            raise EventError(f"type: {event.type} on the channel {channel}")
    else:
        event = Event(
            id=new_id(), source=f"/redis/{quote(channel, errors='replace')}", type=channel, time=now(), data=value
        )
    event.to_json()  # raises TooLarge: an event is larger when written than its message was
    return event, named
