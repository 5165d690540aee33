"""Hypothesis strategies for all input from outside: payloads, events, requests and plain bytes.

Most inputs begin as something good and are spoilt in one place or two, so that they get past the first check.
"""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_from_bytes, urlencode

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

ADDRESS = "fuzz@example.org"
PLACE = {"email": ADDRESS, "lat": 51.5074, "long": -0.1278}
GOOD: dict[str, Any] = {
    "raw_input": PLACE,
    "calculated_distance": {"email": ADDRESS, "distance_from_velocity": 2216.0742916592476},
    "user:email": ADDRESS,
}
"""A payload of each channel that some stage consumes."""

NASTY = [
    "",
    " ",
    "\x00",
    "\ud800",
    "\u202e",
    "\r\nbcc: eve@example.org",
    "ada@example.org\r\nce-evil: 1",
    "ada@example.org, eve@example.org",
    '"ada eve"@example.org',
    "<script>alert(1)</script>@example.org",
    "ada@[127.0.0.1]",
    "ada@localhost",
    "a@b..co",
    "a" * 300 + "@example.org",
    "ада@пример.рф",
    "{{7*7}}",
    "%00%0d%0a",
    "$where",
    "__proto__",
    "../../etc/passwd",
    "http://169.254.169.254/latest",
    "{milepost}:lease",
    "NaN",
    "-Infinity",
    "1e400",
    "1_0",
    "٤٥",
    "0x10",
    "9" * 400,
    "true",
    "2026-02-30T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-23:59",
    "2016-12-31T23:59:60Z",
    "2026-05-04T03:02:60Z",
    'order "5"',
    '"5"',
    '5"',
    '"a\\"b"',
    "100%",
    "\ufeff",
    "\ufffe",
    "\u00a0ada@example.org\u00a0",
]

text = st.one_of(st.sampled_from(NASTY), st.text(st.characters(), max_size=20))

operators = st.sampled_from([{"$gt": ""}, {"$ne": None}, {"$where": "1"}, {"$regex": ".*"}, [ADDRESS], [[]]])

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.sampled_from([-0.0, 90.0000001, -180.0000001, 1e308, 5e-324, 10**400, float("nan"), float("inf")]),
    text,
)

values: SearchStrategy[Any] = st.one_of(
    scalars, operators, st.lists(scalars, max_size=3), st.dictionaries(text, scalars, max_size=3)
)
"""JSON of every kind, and NaN and infinities, which Python writes and JSON forbids."""


@st.composite
def spoilt(draw: Callable[..., Any], good: dict[str, Any], names: SearchStrategy[str] = text) -> dict[str, Any]:
    """A good object with one or two of its fields changed, removed or added."""
    made = dict(good)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.one_of(st.sampled_from(sorted(good)), names))
        if name in made and draw(st.integers(0, 4)) == 0:
            del made[name]
        else:
            made[name] = draw(values)
    return made


def payloads(channel: str) -> SearchStrategy[Any]:
    """Data for a channel: good now and then, mostly not."""
    good = GOOD[channel]
    near = spoilt(good) if isinstance(good, dict) else text
    return st.one_of(near, near, values, st.just(good), places() if channel == "raw_input" else near)


def places() -> SearchStrategy[dict[str, Any]]:
    """Submissions with coordinates near their bounds, as numbers and as decimal strings."""
    bound = st.one_of(
        st.floats(-181, 181), st.sampled_from([90, -90, 180, -180, 0, "90.0", "-180", "+1.", ".5", "1e1"])
    )
    return st.fixed_dictionaries({"email": st.just(ADDRESS), "lat": bound, "long": bound})


attributes = st.sampled_from(
    [
        *("specversion", "id", "source", "type", "time", "subject", "dataschema", "datacontenttype", "traceparent"),
        *("journalid", "data_base64", "Extension", "x" * 21, "x" * 300, "a-b", ""),
    ]
)


@st.composite
def events(draw: Callable[..., Any], channel: str, *, other: bool = False) -> dict[str, Any]:
    """A CloudEvent's fields. Its `id` is None where it is the sender's to give; `other`: of any type now and then."""
    made: dict[str, Any] = {
        "specversion": "1.0",
        "id": None,
        "source": "/fuzz",
        "type": channel,
        "data": GOOD[channel],
    }
    if draw(st.booleans()):
        made["time"] = "2026-05-04T03:02:01.123456Z"
    part = draw(st.integers(0, 9))
    if part < 5:
        made["data"] = draw(payloads(channel))
    if part > 3:
        name = draw(st.one_of(attributes, attributes, text))
        made[name] = draw(st.one_of(text, text, values))
    if part == 9:
        made.pop(draw(st.sampled_from(sorted(made))))
    if other and draw(st.integers(0, 9)) == 0:
        made["type"] = draw(text)
    return made


SPLICES = [
    b"\x00",
    b"\xff",
    b"\xc3",
    b"\xef\xbb\xbf",
    b'"',
    b'\\"',
    b"}",
    b"{",
    b"[" * 300,
    b"\r\n",
    b"\r\n\r\n",
    b":",
    b",",
    b"%",
    b"\\u0000",
]


@st.composite
def damaged(draw: Callable[..., Any], sound: bytes, times: int = 3) -> bytes:
    """Bytes cut, spliced, repeated or changed in up to so many places."""
    made = sound
    for _ in range(draw(st.integers(1, times))):
        at = draw(st.integers(0, max(0, len(made) - 1)))
        upto = at + draw(st.integers(0, 12))
        kind = draw(st.integers(0, 3))
        middle = draw(st.sampled_from(SPLICES)) if kind == 0 else draw(st.binary(max_size=4)) if kind == 1 else b""
        if kind == 2:
            middle = made[at:upto] * 2
        made = made[:at] + middle + (made[upto:] if kind else made[at:])
    return made


def write(value: Any) -> bytes:
    """JSON as Python writes it: NaN and infinities where there are any, lone surrogates escaped."""
    return json.dumps(value).encode()


HUGE = {"large": b'"' + b"x" * 1_000_000 + b'"', "deep": b"[" * 90_000, "deep objects": b'{"a":' * 20_000}


def huge() -> SearchStrategy[bytes]:
    return st.sampled_from(sorted(HUGE.values()))


def header_value(value: Any, *, encode: bool) -> bytes:
    """An attribute in a header: percent-encoded, or as it is without the bytes that no header may hold."""
    words = value if isinstance(value, str) else json.dumps(value)
    raw = words.encode("utf-8", "surrogatepass")
    if encode:
        return quote_from_bytes(raw, safe="/:@$.").encode()
    return bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F).strip()


TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def header_name(name: str) -> bytes:
    """`ce-` and what of a name a header's may hold."""
    return b"ce-" + bytes(byte for byte in name.encode("utf-8", "replace") if byte in TOKEN)


def form(fields: list[tuple[str, str]]) -> bytes:
    """A form's body, urlencoded."""
    return urlencode(fields, errors="surrogatepass").encode()


BOUNDARY = "cut"


def multipart(fields: list[tuple[str, str]], *, file: bool) -> bytes:
    """A form's body in parts; `file`: the last is one."""
    parts = b""
    for number, (name, value) in enumerate(fields):
        of_file = '; filename="a"' if file and number == len(fields) - 1 else ""
        parts += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{quote(name, errors="replace")}"'.encode()
        parts += of_file.encode() + b"\r\n\r\n" + value.encode("utf-8", "surrogatepass") + b"\r\n"
    return parts + f"--{BOUNDARY}--\r\n".encode()
