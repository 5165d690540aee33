"""How a message of a plain Redis program becomes an event."""

from urllib.parse import quote

from milepost.errors import EventError, TooLarge
from milepost.event import MAX_EVENT, Event, loads, now
from milepost.ids import new_id


def wrap(channel: str, message: bytes) -> tuple[Event, bool]:
    """The event a message on `channel` is, and whether it named itself: a CloudEvent did, anything else is plain.

    An object with `specversion` is a CloudEvent; any other JSON is the data; any other UTF-8 text is the data, as a
    JSON string. Raises EventError for what is too large, not UTF-8, a broken CloudEvent, or one of another type.
    """
    if len(message) > MAX_EVENT:
        raise TooLarge(f"larger than {MAX_EVENT} bytes")
    try:
        text = message.decode()
    except UnicodeDecodeError:
        raise EventError("not UTF-8") from None
    try:
        value = loads(text)
    except ValueError:
        value = text
    named = isinstance(value, dict) and "specversion" in value
    if named:
        event = Event.from_fields(value)
        if event.type != channel:
            raise EventError(f"type: {event.type} on the channel {channel}")
    else:
        event = Event(id=new_id(), source=f"/redis/{quote(channel)}", type=channel, time=now(), data=value)
    event.to_json()  # may be too large, though the message was not
    return event, named
