"""The event: one CloudEvent 1.0 whose data is JSON.

The codec checks every attribute and passes its text on unchanged:

- names and types of attributes: CloudEvents 1.0.2, sections "Naming Conventions" and "Type System";
- id, source, type, specversion, time: section "Context Attributes";
- JSON: CloudEvents JSON Event Format 1.0.2, sections 2 and 3; strict JSON (RFC 8259), in UTF-8 with or without a BOM;
- HTTP: CloudEvents HTTP Protocol Binding 1.0.2, sections 3.1 (binary mode) and 3.2 (structured mode).
"""

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import quote, unquote

from milepost.errors import EventError, TooLarge
from milepost.events.strict_json import DEEPEST, dumps, loads

MAX_EVENT = 1_000_000
"""Largest event in bytes, as `Event.to_json` writes it."""

JOURNAL_MARK = b'{"journalid":"'
"""How a message that the journal published begins."""

JSON_TYPE = "application/json"
STRUCTURED_TYPE = "application/cloudevents+json"

_RESERVED = "{milepost}"
_LONGEST = {"id": 256, "source": 1024, "type": 256}
_NONCHARACTERS = "".join(chr(plane + last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF))
_FORBIDDEN = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")
_URI_REFERENCE = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_NAME = re.compile("[a-z0-9]+")
_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_HEADER_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')
_HEADER_PLAIN = re.compile(f"[{re.escape(_HEADER_SAFE)}]+")  # most values: quoting them costs ten times the look
_KNOWN = frozenset({"specversion", "id", "source", "type", "time", "subject", "dataschema", "datacontenttype"})
_DATA = frozenset({"data", "data_base64"})
_OURS = "journalid"
"""The attribute that the journal adds to its own messages. It is dropped on the way in."""


def now() -> str:
    """The current time as RFC 3339 UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


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

    def __post_init__(self) -> None:
        for name, longest in _LONGEST.items():
            _check_required(name, getattr(self, name), longest)
        if self.type.startswith(_RESERVED):
            raise EventError(f"type: names that begin with {_RESERVED} are Milepost's own")
        if not _URI_REFERENCE.fullmatch(self.source):
            raise EventError("source: not a URI reference")
        if self.time is not None:
            _check_time(self.time)
        for name in ("subject", "dataschema"):
            value = getattr(self, name)
            if value is not None:
                _check_string(name, value)
        for name, value in self.extensions.items():
            _check_extension(name, value)

    @classmethod
    def from_json(cls, text: bytes | str) -> Self:
        """Read the JSON event format. Raises EventError."""
        try:
            fields = loads(text, deepest=DEEPEST + 2)
        except ValueError as fault:
            raise EventError(f"not JSON: {_brief(fault)}") from None
        return cls.from_fields(fields)

    @classmethod
    def from_fields(cls, fields: Any) -> Self:
        """Read an already parsed JSON event. Raises EventError."""
        if not isinstance(fields, dict):
            raise EventError("a CloudEvent is a JSON object")
        # JSON format, section 2.1: an attribute that is null is one that is absent.
        attributes = {name: value for name, value in fields.items() if value is not None and name not in _DATA}
        return cls._from_attributes(attributes, _data(fields))

    @classmethod
    def from_http(cls, headers: Mapping[str, str], body: bytes) -> Self:
        """Read either content mode. `headers` as an ASGI server gives them: bytes decoded as latin-1.

        Raises EventError.
        """
        content_type = headers.get("content-type", "")
        media_type = _media_type(content_type)
        if media_type == STRUCTURED_TYPE:
            return cls.from_json(body)
        if media_type.startswith("application/cloudevents"):
            raise EventError(f"content-type: one event a request, as {STRUCTURED_TYPE}")
        attributes = _attributes_of(headers)
        if not attributes:
            raise EventError(f"neither ce- headers nor content-type {STRUCTURED_TYPE}")
        if content_type:
            attributes["datacontenttype"] = content_type
        if not body:
            return cls._from_attributes(attributes, None)
        try:
            data = loads(body)
        except ValueError as fault:
            raise EventError(f"data: not JSON: {_brief(fault)}") from None
        return cls._from_attributes(attributes, data)

    @classmethod
    def _from_attributes(cls, attributes: dict[str, Any], data: Any) -> Self:
        if attributes.get("specversion") != "1.0":
            raise EventError("specversion: must be 1.0")
        content_type = attributes.get("datacontenttype", JSON_TYPE)
        if not isinstance(content_type, str) or not _is_json(content_type):
            raise EventError(f"datacontenttype: Milepost carries JSON, not {ascii(content_type)[:80]}")
        missing = [name for name in _LONGEST if name not in attributes]
        if missing:
            raise EventError(f"{', '.join(missing)}: missing")
        return cls(
            data=data,
            extensions={name: value for name, value in attributes.items() if name not in _KNOWN and name != _OURS},
            **{
                name: attributes[name]
                for name in ("id", "source", "type", "time", "subject", "dataschema")
                if name in attributes
            },
        )

    @property
    def timestamp(self) -> datetime | None:
        """The event's time, in UTC, as `read_time` reads it."""
        return read_time(self.time) if self.time else None

    def attributes(self) -> Iterable[tuple[str, str | int | bool]]:
        """Each context attribute that is present, without its data content type."""
        yield "specversion", "1.0"
        yield "id", self.id
        yield "source", self.source
        yield "type", self.type
        for name in ("time", "subject", "dataschema"):
            value = getattr(self, name)
            if value is not None:
                yield name, value
        yield from self.extensions.items()

    def to_json(self) -> str:
        """The JSON event format, in ASCII, beginning with `{"specversion"`.

        Raises TooLarge: what came in may be smaller than it is when written with envelope and escapes.
        """
        if not self._text:
            fields = dict(self.attributes())
            text = dumps({**fields, "datacontenttype": JSON_TYPE, "data": self.data})
            if len(text) > MAX_EVENT:
                raise TooLarge(f"larger than {MAX_EVENT} bytes, written as ASCII with its envelope")
            object.__setattr__(self, "_text", text)  # an event does not change; one is weighed, then written
        return self._text

    def to_http(self) -> tuple[dict[str, str], bytes]:
        """Headers and body in binary mode."""
        headers = {f"ce-{name}": _header_text(value) for name, value in self.attributes()}
        headers["content-type"] = JSON_TYPE
        return headers, dumps(self.data).encode()


def _check_string(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise EventError(f"{name}: must be a string")
    if not value.isprintable() and (found := _FORBIDDEN.search(value)):  # a printable string holds none of these
        raise EventError(f"{name}: must not hold control characters or noncharacters, as U+{ord(found[0]):04X}")


def _check_required(name: str, value: Any, longest: int) -> None:
    _check_string(name, value)
    if not value:
        raise EventError(f"{name}: must not be empty")
    if len(value) > longest:
        raise EventError(f"{name}: longer than {longest} characters")


def _check_extension(name: str, value: Any) -> None:
    if not _NAME.fullmatch(name):
        raise EventError(f"{ascii(name)[:80]}: names of attributes consist of a-z and 0-9")
    if name in _KNOWN or name in _DATA or name == _OURS:
        raise EventError(f"{name}: cannot be the name of an extension")
    if isinstance(value, str):
        _check_string(name[:80], value)
    elif not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise EventError(f"{name[:80]}: an extension is a string, a boolean or a 32-bit integer")


def read_time(text: str) -> datetime:
    """Parse an RFC 3339 timestamp. A leap second, which a datetime cannot hold, becomes the second after it.

    Raises ValueError.
    """
    found = _RFC3339.fullmatch(text)
    if not found:
        raise ValueError("not an RFC 3339 timestamp")
    is_leap = found[1] == "60"
    try:
        if not is_leap:
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
        before = text[: found.start(1)] + "59" + text[found.end(1) :]
        time = datetime.fromisoformat(before.upper()).astimezone(UTC) + timedelta(seconds=1)
    except (ValueError, OverflowError):
        raise ValueError("no such time") from None
    if (time.day, time.hour, time.minute, time.second) != (1, 0, 0, 0):  # RFC 3339, section 5.7
        raise ValueError("no such time: a leap second ends a month, in UTC")
    return time


def _check_time(value: Any) -> None:
    if not isinstance(value, str):
        raise EventError("time: not an RFC 3339 timestamp")
    try:
        read_time(value)
    except ValueError as fault:
        raise EventError(f"time: {fault}") from None


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_json(content_type: str) -> bool:
    media_type = _media_type(content_type)
    return media_type in {JSON_TYPE, "text/json"} or media_type.endswith("+json")


def _data(fields: Mapping[str, Any]) -> Any:
    """The data of a JSON event. Binary data is taken if it is JSON: SDKs write JSON that they hold as bytes so (JSON
    format, section 3.1). Raises EventError.
    """
    data, encoded = fields.get("data"), fields.get("data_base64")
    if encoded is None:
        return data
    if data is not None:
        raise EventError("data_base64: must not stand beside data")
    try:
        body = b64decode(encoded, validate=True)
        return loads(body) if body else None
    except (TypeError, ValueError) as fault:
        raise EventError(f"data_base64: not JSON in base64: {_brief(fault)}") from None


def _attributes_of(headers: Mapping[str, str]) -> dict[str, Any]:
    """The attributes in the ce- headers of a message (HTTP binding, section 3.1.3). Raises EventError."""
    attributes: dict[str, Any] = {}
    for header, value in headers.items():
        header_name = header.lower()
        if header_name.startswith("ce-"):
            name = header_name[3:]
            if name in attributes:
                raise EventError(f"ce-{name[:80]}: given twice")
            attributes[name] = _header_value(name, value)
    return attributes


def _header_value(name: str, value: str) -> str:
    """Decode a header value (HTTP binding, section 3.1.3.2): unquote it if the whole of it is a quoted string, then
    percent-decode it once. Raw UTF-8, which the specification forbids and Go sends, is read as UTF-8.

    Raises EventError.
    """
    value = value.strip(" \t")
    if _HEADER_PLAIN.fullmatch(value):
        return value
    try:
        value = value.encode("latin-1").decode()
    except UnicodeError:
        raise EventError(f"ce-{name[:80]}: not UTF-8; percent-encode it") from None
    if quoted := _QUOTED.fullmatch(value):
        value = _ESCAPE.sub(r"\1", quoted[1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise EventError(f"ce-{name[:80]}: not UTF-8 after percent-decoding") from None


def _header_text(value: str | int | bool) -> str:  # noqa: FBT001
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and _HEADER_PLAIN.fullmatch(value):
        return value
    return quote(str(value), safe=_HEADER_SAFE)


def _brief(fault: Exception) -> str:
    return str(fault)[:120]
