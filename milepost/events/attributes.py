"""Rules for the attributes of a CloudEvent, and their form in HTTP headers.

- Names: CloudEvents 1.0.2, section "Naming Conventions".
- Values: section "Type System"; `time` as RFC 3339 has it.
- Headers: HTTP Protocol Binding 1.0.2, section 3.1.3.2.

Every fault is an EventError that names the attribute.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote

from milepost.errors import EventError

LONGEST = {"id": 256, "source": 1024, "type": 256}
"""The required attributes, and the most characters that each may have."""

RESERVED = ("{milepost}", "dead:", "parts:", "ended:")
"""Beginnings that no channel's name may have. Keys in Redis begin with the first. In a status the others stand before
the name of a stage that gave an event up, made parts of it, or gave no answer.
"""

SHOWN = 80
"""Characters of a name that a message shows."""

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
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_PLAIN = re.compile(f"[{re.escape(_SAFE)}]+")  # most values are plain, and a match is ten times cheaper than quoting


def check_string(name: str, value: Any) -> None:
    """Refuse control characters, surrogates and noncharacters."""
    if not isinstance(value, str):
        raise EventError(f"{name}: must be a string")
    if not value.isprintable() and (found := _FORBIDDEN.search(value)):  # a printable string holds none of these
        raise EventError(f"{name}: must not hold control characters or noncharacters, as U+{ord(found[0]):04X}")


def check_required(name: str, value: Any) -> None:
    """Check an id, a source or a type."""
    check_string(name, value)
    if not value:
        raise EventError(f"{name}: must not be empty")
    if len(value) > LONGEST[name]:
        raise EventError(f"{name}: longer than {LONGEST[name]} characters")
    if name == "type" and value.startswith(RESERVED):
        raise EventError(f"type: names that begin with {' or '.join(RESERVED)} are Milepost's own")
    if name == "source" and not _URI_REFERENCE.fullmatch(value):
        raise EventError("source: not a URI reference")


def check_extension(name: str, value: Any) -> None:
    """Check an extension. Names of more than 20 letters are legal: the specification only advises senders against."""
    if not _NAME.fullmatch(name):
        raise EventError(f"{ascii(name)[:SHOWN]}: names of attributes consist of a-z and 0-9")
    if isinstance(value, str):
        check_string(name[:SHOWN], value)
    elif not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise EventError(f"{name[:SHOWN]}: an extension is a string, a boolean or a 32-bit integer")


def check_time(value: Any) -> None:
    """Check a time."""
    if not isinstance(value, str):
        raise EventError("time: not an RFC 3339 timestamp")
    try:
        read_time(value)
    except ValueError as fault:
        raise EventError(f"time: {fault}") from None


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


def from_header(name: str, value: str) -> str:
    """Decode the header of an attribute, given as latin-1.

    1. Blanks around the value are not part of it.
    2. Bytes beyond ASCII, which the specification forbids and the Go SDK sends, are UTF-8.
    3. If the whole value is a quoted string, it is unquoted, and its backslash escapes with it.
    4. Percent-encoded characters are decoded, once. A percent sign without two digits stays as it is.
    """
    value = value.strip(" \t")
    if _PLAIN.fullmatch(value):
        return value
    try:
        value = value.encode("latin-1").decode()
    except UnicodeError:
        raise EventError(f"ce-{name[:SHOWN]}: not UTF-8; percent-encode it") from None
    if quoted := _QUOTED.fullmatch(value):
        value = _ESCAPE.sub(r"\1", quoted[1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise EventError(f"ce-{name[:SHOWN]}: not UTF-8 after percent-decoding") from None


def to_header(value: str | int | bool) -> str:  # noqa: FBT001
    """Encode an attribute for its header: everything but visible ASCII, and `"` and `%`, is percent-encoded."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return quote(str(value), safe=_SAFE)
