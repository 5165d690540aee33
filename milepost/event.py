"""The event: one CloudEvent 1.0 whose data is JSON.

Attribute rules: CloudEvents 1.0.2 specification, sections "Type System" and "REQUIRED Attributes".
HTTP forms: CloudEvents 1.0.2 HTTP Protocol Binding, sections 3.1 (binary) and 3.2 (structured).
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn, Self
from urllib.parse import quote, unquote_to_bytes

from milepost.errors import EventError, TooLarge

MAX_EVENT = 1_000_000
"""Largest event in bytes, as `Event.to_json` writes it."""

JOURNAL_MARK = b'{"journalid":"'
"""How a message that the journal published begins."""

JSON_TYPE = "application/json"
STRUCTURED_TYPE = "application/cloudevents+json"

_RESERVED = "{milepost}"
_LONGEST = {"id": 256, "source": 1024, "type": 256}
DEEPEST = 200
"""Levels that data may be nested; what wraps data in turn may have a few more."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_URI_REFERENCE = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_EXTENSION = re.compile(r"[a-z0-9]{1,20}")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_HEADER_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')
_HEADER_PLAIN = re.compile(f"[{re.escape(_HEADER_SAFE)}]+")  # most values: quoting them costs ten times the look
_KNOWN = frozenset({"specversion", "id", "source", "type", "time", "subject", "dataschema", "datacontenttype"})
_DROPPED = frozenset({"journalid", "data", "data_base64"})


def now() -> str:
    """The current time as RFC 3339 UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def loads(text: bytes | str, *, deepest: int = DEEPEST) -> Any:
    """Parse strict JSON: UTF-8, no NaN, no Infinity nor a number that becomes one, at most `deepest` levels. So what
    was read can be written again.

    Raises ValueError.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value = _decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > deepest and _is_deep(value, deepest):
        raise ValueError("nested too deeply")
    return value


def dumps(value: Any) -> str:
    """Write JSON compactly, in ASCII, floats at full precision.

    Raises ValueError for NaN, infinities and what nests too deeply.
    """
    try:
        return _encode(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None


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
        if "data_base64" in fields:
            raise EventError("data_base64: Milepost carries JSON, in `data`")
        # CloudEvents JSON format 1.0.2, section 2: an attribute that is null is one that is absent.
        return cls._from_attributes(
            {name: value for name, value in fields.items() if value is not None and name not in _DROPPED},
            fields.get("data"),
        )

    @classmethod
    def from_http(cls, headers: Mapping[str, str], body: bytes) -> Self:
        """Read either content mode; `headers` must find names in lower case. Raises EventError."""
        content_type = headers.get("content-type", "")
        if content_type.lower().startswith("application/cloudevents"):
            if not content_type.lower().startswith(STRUCTURED_TYPE):
                raise EventError(f"content-type: one event a request, as {STRUCTURED_TYPE}")
            return cls.from_json(body)
        attributes: dict[str, Any] = {
            name[3:]: _header_value(name, value)
            for name, value in headers.items()
            if name.startswith("ce-") and name[3:] not in _DROPPED
        }
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
            raise EventError("datacontenttype: Milepost carries JSON")
        missing = [name for name in _LONGEST if name not in attributes]
        if missing:
            raise EventError(f"{', '.join(missing)}: missing")
        return cls(
            data=data,
            extensions={name: value for name, value in attributes.items() if name not in _KNOWN},
            **{
                name: attributes[name]
                for name in ("id", "source", "type", "time", "subject", "dataschema")
                if name in attributes
            },
        )

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
    if _CONTROL.search(value):
        raise EventError(f"{name}: must not hold control characters")


def _check_required(name: str, value: Any, longest: int) -> None:
    _check_string(name, value)
    if not value:
        raise EventError(f"{name}: must not be empty")
    if len(value) > longest:
        raise EventError(f"{name}: longer than {longest} characters")


def _check_extension(name: str, value: Any) -> None:
    if not _EXTENSION.fullmatch(name):
        raise EventError("extension names are 1 to 20 of a-z and 0-9")
    if name in _KNOWN or name in _DROPPED:
        raise EventError(f"{name}: cannot be the name of an extension")
    if isinstance(value, str):
        _check_string(name, value)
    elif not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise EventError(f"{name}: an extension is a string, a boolean or a 32-bit integer")


def _check_time(value: Any) -> None:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise EventError("time: not an RFC 3339 timestamp")
    try:
        datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise EventError("time: no such time") from None


def _is_json(content_type: str) -> bool:
    media, _, _ = content_type.partition(";")
    media = media.strip().lower()
    return media in {JSON_TYPE, "text/json"} or media.endswith("+json")


def _header_value(name: str, value: str) -> str:
    """Percent-decode a header value (HTTP Protocol Binding, section 3.1.3.2)."""
    value = value.strip().strip('"')
    if "%" not in value and value.isascii():
        return value
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise EventError(f"{name}: not UTF-8 after percent-decoding") from None


def _header_text(value: str | int | bool) -> str:  # noqa: FBT001
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and _HEADER_PLAIN.fullmatch(value):
        return value
    return quote(str(value), safe=_HEADER_SAFE)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _is_deep(value: Any, deepest: int) -> bool:
    level = [value]
    for _ in range(deepest):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list) for item in level)


# Made once: json.loads and json.dumps with options make one each time.
_decode = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite).decode
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _brief(fault: ValueError) -> str:
    return str(fault)[:120]
