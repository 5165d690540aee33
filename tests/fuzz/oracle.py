"""An independent reading of the specifications, without Milepost's code. It checks every event that a door accepts."""

import base64
import json
import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NoReturn

from tests.fuzz.link import Reply

MOST = 1_000_000
OWN = b'{"journalid":"'
PROBLEM = "application/problem+json"
NOT_HTTP = b"Invalid HTTP request received."
"""The HTTP server's own response to bytes that are no request. Milepost's code never sees such bytes."""
TRACEBACK = "Traceback (most recent call last)"
"""How Python begins a traceback. Hypothesis tries short constants of the tests as input ("Traceback"), not this one."""

OFFICE = (32.080058, 34.864535)
EARTH = 3958.7613
"""Mean radius in miles."""

_DECIMAL = re.compile(r"[+-]?[0-9]*\.?[0-9]*")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _none(name: str) -> NoReturn:
    raise ValueError(name)


def _number(digits: str) -> float:
    if math.isinf(float(digits)):
        raise ValueError(digits)
    return float(digits)


def json_of(raw: bytes, levels: int = 200) -> Any:
    """The value of strict JSON in UTF-8, with or without a byte order mark, at most so many levels deep.

    Raises ValueError.
    """
    try:
        value = json.loads(raw.decode("utf-8").removeprefix("\ufeff"), parse_constant=_none, parse_float=_number)
    except RecursionError:
        raise ValueError("deep") from None
    _shallow(value, levels)
    return value


def _shallow(value: Any, levels: int) -> None:
    if isinstance(value, dict | list):
        if not levels:
            raise ValueError("deep")
        for child in value.values() if isinstance(value, dict) else value:
            _shallow(child, levels - 1)


def is_address(value: Any) -> bool:
    """Whether this is one mailbox and cannot break a header, a line or a log."""
    if not isinstance(value, str) or not 3 <= len(value) <= 254 or value.count("@") != 1:
        return False
    local, domain = value.split("@")
    spots = ".." in value or any(part.startswith(".") or part.endswith(".") for part in (local, domain))
    plain = value.isprintable() and not set(value) & set(' "\\()<>[],;:')
    return bool(local and plain and "." in domain and not spots)


def number(value: Any, low: float, high: float) -> float | None:
    """Read a JSON number, or plain decimal digits in a string. None if it is neither, or out of bounds."""
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value) or not any(map(str.isdigit, value)):
            return None
        value = float(Decimal(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def payload(channel: str, data: Any) -> dict[str, Any] | str | None:
    """The payload that a stage of this channel must read from the data, None if it must refuse the data."""
    if channel == "user:email":
        return data if is_address(data) else None
    if not isinstance(data, dict) or not is_address(data.get("email")):
        return None
    bounds = (
        {"lat": (-90, 90), "long": (-180, 180)} if channel == "raw_input" else {"distance_from_velocity": (0, math.inf)}
    )
    found = {name: number(data.get(name), *limits) for name, limits in bounds.items()}
    if None in found.values():
        return None
    return {"email": data["email"], **found}


def miles(lat: float, long: float) -> float:
    """Distance to the office on a sphere (haversine), within 0.6 % of the ellipsoid."""
    a, b, c, d = map(math.radians, (lat, long, *OFFICE))
    half = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * EARTH * math.asin(math.sqrt(min(1.0, half)))


def event(fields: Any) -> dict[str, Any] | None:
    """Read an event from JSON (CloudEvents 1.0, JSON format). None if it must be refused."""
    if not isinstance(fields, dict):
        return None
    made = {name: value for name, value in fields.items() if value is not None or name == "data"}
    made.pop("journalid", None)
    if "data_base64" in made:
        if made.get("data") is not None:
            return None
        try:
            body = base64.b64decode(made.pop("data_base64"), validate=True)
            made["data"] = json_of(body) if body else None
        except (TypeError, ValueError):
            return None
    words = [made.get(name) for name in ("id", "source", "type")]
    if made.get("specversion") != "1.0" or not all(isinstance(word, str) and word for word in words):
        return None
    if re.search(r"\s", made["source"]) or made["type"].startswith("{milepost}"):
        return None
    for name, value in made.items():
        if name != "data" and not _attribute(name, value):
            return None
    return made


def _attribute(name: str, value: Any) -> bool:
    if not re.fullmatch("[a-z0-9]+", name):
        return False
    if isinstance(value, str):
        if any(map(_is_forbidden, map(ord, value))):
            return False
        return name != "time" or _is_time(value)
    return name not in {"time", "subject", "dataschema", "datacontenttype"} and isinstance(value, int | bool)


def _is_forbidden(code: int) -> bool:
    """Whether a character is a control character, a surrogate or a noncharacter."""
    control = code < 32 or 127 <= code < 160
    return control or 0xD800 <= code < 0xE000 or 0xFDD0 <= code < 0xFDF0 or code & 0xFFFE == 0xFFFE


def _is_time(value: str) -> bool:
    """Whether this is an RFC 3339 timestamp. A 61st second exists at 23:59 UTC alone."""
    try:
        moment = datetime.fromisoformat(value.upper().replace(":60", ":59")).astimezone(UTC)
    except (ValueError, OverflowError):
        return False
    return _TIME.fullmatch(value) is not None and (":60" not in value or (moment.hour, moment.minute) == (23, 59))


def header_value(raw: bytes) -> str:
    """Decode a header value (HTTP binding, 3.1.3.2): unquote a quoted string, then percent-decode.

    Raises ValueError for bytes that are not UTF-8.
    """
    text = raw.strip(b" \t").decode("utf-8")
    if len(text) > 1 and text[0] == text[-1] == '"':
        inner, escaped = "", False
        for letter in text[1:-1]:
            if letter == '"' and not escaped:
                break
            escaped = letter == "\\" and not escaped
            inner += "" if escaped else letter
        else:
            text = text if escaped else inner
    return re.sub("(%[0-9A-Fa-f]{2})+", lambda run: bytes.fromhex(run[0].replace("%", "")).decode("utf-8"), text)


def binary(headers: list[tuple[bytes, bytes]], body: bytes) -> dict[str, Any] | None:
    """Read an event in binary mode. None if it must be refused."""
    fields: dict[str, Any] = {}
    try:
        for name, value in headers:
            attribute = name.lower().removeprefix(b"ce-").decode("latin-1")
            if name.lower().startswith(b"ce-"):
                if attribute in fields:
                    return None
                fields[attribute] = header_value(value)
        if "data" in fields:
            return None
        fields.pop("datacontenttype", None)  # the header Content-Type is that attribute; one of its own says nothing
        fields["data"] = json_of(body) if body else None
    except ValueError:
        return None
    return event(fields)


def structured(body: bytes) -> dict[str, Any] | None:
    """Read an event in structured mode. None if it must be refused."""
    try:
        return event(json_of(body, 202))
    except ValueError:
        return None


def is_of_the_server(reply: Reply) -> bool:
    """Whether the HTTP server refused the bytes itself, as uvicorn or as milepost.server does."""
    return reply.status in {408, 431} or (reply.status == 400 and NOT_HTTP in reply.body)


def refused(reply: Reply) -> None:
    """Check that a refusal gives its reason and no internals."""
    assert 400 <= reply.status < 500, (reply.status, reply.body[:2000])
    if reply.media == "text/plain":
        assert is_of_the_server(reply), reply.body[:200]
        return
    assert TRACEBACK.encode() not in reply.body
    assert b'File "' not in reply.body
    if reply.media == "text/html":
        assert b"<script>" not in reply.body.lower()
        assert b'class="fault"' in reply.body or b"<h1" in reply.body
        return
    assert reply.media == PROBLEM, (reply.status, reply.headers, reply.body[:200])
    assert len(reply.body) < 12_000, len(reply.body)
    problem = json_of(reply.body)
    assert problem["status"] == reply.status
    assert problem["type"]
    assert problem["title"]
    assert problem["detail"]
    assert problem.get("errors", [{}]), problem
    assert all(error["field"] and error["fault"] for error in problem.get("errors", ())), problem
