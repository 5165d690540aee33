"""The event: one CloudEvent 1.0 whose data is JSON.

It is read from JSON (JSON Event Format 1.0.2, sections 2 and 3) and from HTTP in binary and in structured mode (HTTP
Protocol Binding 1.0.2, sections 3.1 and 3.2). The codec checks each attribute by the rules of attributes.py, and writes
it as it was read. It invents nothing: a missing attribute is an error if it is required, and else stays missing.
"""

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any, Self

from milepost.errors import EventError, TooLarge
from milepost.events.attributes import (
    LONGEST,
    RESERVED,
    SHOWN,
    check_extension,
    check_required,
    check_string,
    check_time,
    from_header,
    read_time,
    to_header,
)
from milepost.events.strict_json import DEEPEST, dumps, is_plain, loads, scan

if TYPE_CHECKING:
    from cloudevents.http import CloudEvent

MAX_EVENT = 1_000_000
"""Largest event in bytes, as `Event.to_json` writes it."""

JOURNAL_MARK = b'{"journalid":"'
"""How a message that the journal published begins."""

JSON_TYPE = "application/json"
STRUCTURED_TYPE = "application/cloudevents+json"

_FIELDS = ("id", "source", "type", "time", "subject", "dataschema")
_DATA = ("data", "data_base64")
_WRITTEN = re.compile(
    r'\{"specversion":"1\.0","id":"([ !#-\[\]-~]{1,256})","source":"([A-Za-z0-9._~:/?#\[\]@!$&\'()*+,;=%-]{1,1024})"'
    rf',"type":"((?!{"|".join(map(re.escape, RESERVED))})[ !#-\[\]-~]{{1,256}})"'
    r'(?:,"time":"([0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?Z)")?'
    r',"datacontenttype":"application/json","data":'
)
"""How `to_json` begins for nearly every event: without other attributes. It checks every value but the date, which may
be a 31st of February.
"""

_NO_EXTENSIONS = frozenset({*_FIELDS, *_DATA, "specversion", "datacontenttype", "journalid"})


def now() -> str:
    """Return the current time as RFC 3339 UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def media_type(content_type: str) -> str:
    """Return the media type of a Content-Type, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A CloudEvent. `type` is the name of its channel; `data` is any JSON value, None where there is none.

    Raises EventError, naming the attribute, when one breaks the specification.
    """

    id: str
    source: str
    type: str
    data: Any = None
    time: str | None = None
    subject: str | None = None
    dataschema: str | None = None
    extensions: Mapping[str, str | int | bool] = field(default_factory=dict)
    _text: str = field(default="", init=False, repr=False, compare=False)
    _data: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in LONGEST:
            check_required(name, getattr(self, name))
        if self.time is not None:
            check_time(self.time)
        for name in ("subject", "dataschema"):
            if getattr(self, name) is not None:
                check_string(name, getattr(self, name))
        for name, value in self.extensions.items():
            if name in _NO_EXTENSIONS:
                raise EventError(f"{name}: cannot be the name of an extension")
            check_extension(name, value)

    @classmethod
    def from_json(cls, text: bytes | str) -> Self:
        """Read the JSON event format. Raises EventError."""
        try:
            fields = loads(text, deepest=DEEPEST + 2)
        except ValueError as fault:
            raise EventError(f"not JSON: {fault}") from None
        return cls.from_fields(fields)

    @classmethod
    def read_written(cls, text: str, start: int) -> tuple[Self, int] | None:
        """Read an event that begins at `start` if it is in the form of `to_json`. Return it, and where it ends.

        `to_json` will return this part of `text`, and not write it anew. None: the event is in another form, or at
        fault; `from_json` can tell.
        """
        head = _WRITTEN.match(text, start)
        if head is None:
            return None
        of, source, channel, time = head.groups()
        at = head.end()
        try:
            if time is not None:
                datetime.fromisoformat(time)
            data, end = scan(text, at)
        except ValueError:
            return None
        written = text[at:end]
        if text[end : end + 1] != "}" or end - start >= MAX_EVENT or not is_plain(written, data):
            return None
        event = cls.__new__(cls)  # without the checks that the pattern has made
        values: tuple[Any, ...] = (of, source, channel, data, time, None, None, {}, text[start : end + 1], written)
        for name, value in zip(cls.__slots__, values, strict=True):
            object.__setattr__(event, name, value)
        return event, end + 1

    @classmethod
    def from_fields(cls, fields: Any) -> Self:
        """Read an already parsed JSON event. Raises EventError."""
        if not isinstance(fields, dict):
            raise EventError("a CloudEvent is a JSON object")
        # JSON format, section 2.1: an attribute that is null is one that is absent.
        attributes = {name: value for name, value in fields.items() if value is not None and name not in _DATA}
        return cls._from_attributes(attributes, _data_of(fields))

    @classmethod
    def from_http(cls, headers: Mapping[str, str], body: bytes) -> Self:
        """Read binary or structured mode. `headers` as an ASGI server gives them: bytes decoded as latin-1.

        Raises EventError.
        """
        content_type = headers.get("content-type", "")
        if list(headers).count("content-type") > 1:
            raise EventError("content-type: given twice")
        if media_type(content_type) == STRUCTURED_TYPE:
            written = cls.read_written(body.decode(), 0) if body.isascii() else None
            return written[0] if written and written[1] == len(body) else cls.from_json(body)
        if media_type(content_type).startswith("application/cloudevents"):
            raise EventError(f"content-type: one event a request, as {STRUCTURED_TYPE}")
        attributes = _attributes_of(headers)
        if not attributes:
            raise EventError(f"neither ce- headers nor content-type {STRUCTURED_TYPE}")
        if content_type:
            attributes["datacontenttype"] = content_type
        try:
            data = loads(body) if body else None
        except ValueError as fault:
            raise EventError(f"data: not JSON: {fault}") from None
        event = cls._from_attributes(attributes, data)
        if body.isascii() and is_plain(text := body.decode(), data):
            object.__setattr__(event, "_data", text)  # so that it is not written anew
        return event

    @classmethod
    def _from_attributes(cls, attributes: dict[str, Any], data: Any) -> Self:
        if attributes.pop("specversion", None) != "1.0":
            raise EventError("specversion: must be 1.0")
        content_type = attributes.pop("datacontenttype", JSON_TYPE)
        if not isinstance(content_type, str) or not _is_json(media_type(content_type)):
            raise EventError(f"datacontenttype: Milepost carries JSON, not {ascii(content_type)[:SHOWN]}")
        if missing := [name for name in LONGEST if name not in attributes]:
            raise EventError(f"{', '.join(missing)}: missing")
        attributes.pop("journalid", None)  # the journal's own: no event from outside has it
        fields = {name: attributes.pop(name) for name in _FIELDS if name in attributes}
        return cls(data=data, extensions=attributes, **fields)

    @property
    def timestamp(self) -> datetime | None:
        """The event's time, in UTC, as `read_time` reads it."""
        return read_time(self.time) if self.time else None

    def attributes(self) -> Iterable[tuple[str, str | int | bool]]:
        """Yield each context attribute that is present, except datacontenttype."""
        yield "specversion", "1.0"
        for name in _FIELDS:
            if (value := getattr(self, name)) is not None:
                yield name, value
        yield from self.extensions.items()

    def to_json(self) -> str:
        """Write the JSON event format, in ASCII, beginning with `{"specversion"`.

        Raises TooLarge: envelope and escapes can make the text larger than the message that was read.
        """
        if not self._text:
            text = f'{{"specversion":"1.0","id":{quoted(self.id)},"source":{quoted(self.source)}'
            for name in _FIELDS[2:]:
                if (value := getattr(self, name)) is not None:
                    text += f',"{name}":{quoted(value)}'
            for name, value in self.extensions.items():
                text += f',"{name}":{dumps(value)}'
            text += f',"datacontenttype":"{JSON_TYPE}","data":{self.data_json()}}}'
            if len(text) > MAX_EVENT:
                raise TooLarge(f"larger than {MAX_EVENT} bytes, written as ASCII with its envelope")
            object.__setattr__(self, "_text", text)  # an event does not change; one is weighed, then written
        return self._text

    def data_json(self) -> str:
        """Write the data as JSON, in ASCII."""
        if not self._data:
            object.__setattr__(self, "_data", dumps(self.data))
        return self._data

    def to_sdk(self) -> "CloudEvent":
        """Convert to the event class of the CloudEvents SDK (package cloudevents 1.x)."""
        from cloudevents.http import CloudEvent

        attributes: dict[str, Any] = dict(self.attributes())
        event = CloudEvent({**attributes, "datacontenttype": JSON_TYPE}, self.data)
        if self.time is None:
            del event["time"]  # the SDK makes one up
        return event

    @classmethod
    def from_sdk(cls, event: "CloudEvent") -> Self:
        """Read the SDK's event. Data in bytes is JSON. Raises EventError."""
        data = event.get_data()
        try:
            data = loads(data or b"null") if isinstance(data, bytes) else loads(dumps(data))
        except (TypeError, ValueError) as fault:
            raise EventError(f"data: not JSON: {str(fault)[:120]}") from None
        return cls.from_fields({**event.get_attributes(), "data": data})

    def to_http(self) -> tuple[dict[str, str], bytes]:
        """Write headers and body in binary mode."""
        headers = {f"ce-{name}": to_header(value) for name, value in self.attributes()}
        return headers | {"content-type": JSON_TYPE}, self.data_json().encode()


def _is_json(media: str) -> bool:
    return media in {JSON_TYPE, "text/json"} or media.endswith("+json")


def _data_of(fields: Mapping[str, Any]) -> Any:
    """Return the data of a JSON event. SDKs write JSON that they hold as bytes as `data_base64` (section 3.1)."""
    data, encoded = fields.get("data"), fields.get("data_base64")
    if encoded is None:
        return data
    if data is not None:
        raise EventError("data_base64: must not stand beside data")
    try:
        body = b64decode(encoded, validate=True)
        return loads(body) if body else None
    except (TypeError, ValueError) as fault:
        raise EventError(f"data_base64: not JSON in base64: {fault}") from None


def _attributes_of(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the attributes in the ce- headers of a message."""
    attributes: dict[str, Any] = {}
    for header, value in headers.items():
        prefix, name = header[:3].lower(), header[3:].lower()
        if prefix != "ce-":
            continue
        if name in attributes:
            raise EventError(f"ce-{name[:SHOWN]}: given twice")
        attributes[name] = from_header(name, value)
    return attributes
