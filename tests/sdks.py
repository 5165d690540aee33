"""Events as the SDKs of other languages send them over HTTP, written by hand after the specification and their sources.

Each request carries an event that is easy to get wrong: quotes and blanks in its id, letters beyond ASCII, a time with
nanoseconds or an offset, an extension with a name of more than 20 letters.
"""

from base64 import b64encode
from dataclasses import dataclass, replace

from milepost.events.event import Event

PLACE = '{"email":"ada@example.org","lat":51.5074,"long":-0.1278}'
DATA = {"email": "ada@example.org", "lat": 51.5074, "long": -0.1278}
LONG_NAME = "comexamplecorrelationkey"
EVENT = Event(
    id='order "5" é',
    source="https://example.com/orders?shop=1",
    type="raw_input",
    time="2026-05-04T03:02:01.123456789Z",
    subject="Zürich €😀",
    data=DATA,
    extensions={LONG_NAME: "a b"},
)
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


@dataclass(frozen=True)
class Sent:
    """A request of an SDK, and the event that it means."""

    sdk: str
    headers: dict[str, str]
    body: str
    event: Event = EVENT

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in self.headers.items()]


# Go writes names of headers in its canonical form and values as they are, in UTF-8; times have nanoseconds.
GO = Sent(
    "Go, binary",
    {
        "Ce-Id": 'order "5" é',
        "Ce-Source": "https://example.com/orders?shop=1",
        "Ce-Specversion": "1.0",
        "Ce-Type": "raw_input",
        "Ce-Subject": "Zürich €😀",
        "Ce-Time": "2026-05-04T03:02:01.123456789Z",
        "Ce-Comexamplecorrelationkey": "a b",
        "Content-Type": "application/json",
    },
    PLACE,
)
GO_STRUCTURED = Sent(
    "Go, structured",
    {"Content-Type": STRUCTURED},
    '{"specversion":"1.0","id":"order \\"5\\" é","source":"https://example.com/orders?shop=1","type":"raw_input",'
    '"subject":"Zürich €😀","datacontenttype":"application/json","time":"2026-05-04T03:02:01.123456789Z",'
    f'"data":{PLACE},"comexamplecorrelationkey":"a b","sequencenumber":5,"sampled":true}}',
    replace(EVENT, extensions={LONG_NAME: "a b", "sequencenumber": 5, "sampled": True}),
)
# Data that Go was given as bytes.
GO_BYTES = Sent(
    "Go, structured, bytes",
    {"Content-Type": STRUCTURED},
    '{"specversion":"1.0","id":"go-bytes","source":"/go","type":"raw_input","datacontenttype":"application/json",'
    f'"data_base64":"{b64encode(PLACE.encode()).decode()}"}}',
    Event(id="go-bytes", source="/go", type="raw_input", data=DATA),
)
# Java writes names in lower case and values as they are.
JAVA = Sent(
    "Java, binary",
    {
        "ce-specversion": "1.0",
        "ce-id": "java-1",
        "ce-source": "https://example.com/orders",
        "ce-type": "raw_input",
        "ce-time": "2026-05-04T03:02:01+05:30",
        "ce-subject": 'a "quoted" word, 100%',
        "ce-mybinary": "4P8ARKo=",
        "content-type": "application/json",
    },
    PLACE,
    Event(
        id="java-1",
        source="https://example.com/orders",
        type="raw_input",
        time="2026-05-04T03:02:01+05:30",
        subject='a "quoted" word, 100%',
        data=DATA,
        extensions={"mybinary": "4P8ARKo="},
    ),
)
JAVA_STRUCTURED = Sent(
    "Java, structured",
    {"content-type": STRUCTURED},
    '{"specversion":"1.0","id":"order \\"5\\" é","source":"https://example.com/orders?shop=1","type":"raw_input",'
    '"datacontenttype":"application/json","subject":"Zürich €😀","time":"2026-05-04T03:02:01.123456789Z",'
    f'"comexamplecorrelationkey":"a b","data":{PLACE}}}',
)
# JavaScript writes milliseconds, and a charset where the event names no type of its data.
JAVASCRIPT = Sent(
    "JavaScript, binary",
    {
        "content-type": "application/json; charset=utf-8",
        "ce-id": "0d0a9ad8-7b1a-4f0c-9a51-9f2f1f7a3c55",
        "ce-time": "2026-05-04T03:02:01.123Z",
        "ce-type": "raw_input",
        "ce-source": "/orders",
        "ce-specversion": "1.0",
        "ce-sampled": "true",
        "ce-sequencenumber": "5",
    },
    PLACE,
    Event(
        id="0d0a9ad8-7b1a-4f0c-9a51-9f2f1f7a3c55",
        source="/orders",
        type="raw_input",
        time="2026-05-04T03:02:01.123Z",
        data=DATA,
        extensions={"sampled": "true", "sequencenumber": "5"},
    ),
)
JAVASCRIPT_STRUCTURED = Sent(
    "JavaScript, structured",
    {"content-type": f"{STRUCTURED}; charset=utf-8"},
    '{"id":"order \\"5\\" é","time":"2026-05-04T03:02:01.123456789Z","type":"raw_input",'
    '"source":"https://example.com/orders?shop=1","specversion":"1.0","subject":"Zürich €😀",'
    f'"comexamplecorrelationkey":"a b","data":{PLACE}}}',
)
# C# encodes what the specification says; its JSON writes quotes and letters beyond ASCII as escapes.
CSHARP = Sent(
    "C#, binary",
    {
        "ce-specversion": "1.0",
        "ce-id": "order%20%225%22%20%C3%A9",
        "ce-source": "https://example.com/orders?shop=1",
        "ce-type": "raw_input",
        "ce-time": "2026-05-04T03:02:01.123456789Z",
        "ce-subject": "Z%C3%BCrich%20%E2%82%AC%F0%9F%98%80",
        "ce-comexamplecorrelationkey": "a%20b",
        "Content-Type": "application/json; charset=utf-8",
    },
    PLACE,
)
_CSHARP_EVENT = (
    '{"specversion":"1.0","id":"order \\u00225\\u0022 \\u00E9","source":"https://example.com/orders?shop=1",'
    '"type":"raw_input","time":"2026-05-04T03:02:01.123456789Z","subject":"Z\\u00FCrich \\u20AC\\uD83D\\uDE00",'
    f'"comexamplecorrelationkey":"a b","datacontenttype":"application/json","data":{PLACE}}}'
)
CSHARP_STRUCTURED = Sent("C#, structured", {"Content-Type": f"{STRUCTURED}; charset=utf-8"}, _CSHARP_EVENT)
# Python's 2.x encodes every letter that is not unreserved in a URI, colons and slashes too.
PYTHON = Sent(
    "Python 2.x, binary",
    {
        "ce-id": "order%20%225%22%20%C3%A9",
        "ce-source": "https%3A%2F%2Fexample.com%2Forders%3Fshop%3D1",
        "ce-type": "raw_input",
        "ce-specversion": "1.0",
        "ce-time": "2026-05-04T03%3A02%3A01.123456Z",
        "ce-subject": "Z%C3%BCrich%20%E2%82%AC%F0%9F%98%80",
        "ce-comexamplecorrelationkey": "a%20b",
        "content-type": "application/json",
    },
    PLACE,
    replace(EVENT, time="2026-05-04T03:02:01.123456Z"),
)
PYTHON_STRUCTURED = Sent(
    "Python 2.x, structured",
    {"content-type": STRUCTURED},
    '{"id": "order \\"5\\" \\u00e9", "source": "https://example.com/orders?shop=1", "type": "raw_input",'
    ' "specversion": "1.0", "time": "2026-05-04T03:02:01.123456Z", "subject": "Z\\u00fcrich \\u20ac\\ud83d\\ude00",'
    f' "comexamplecorrelationkey": "a b", "data": {PLACE}}}',
    replace(EVENT, time="2026-05-04T03:02:01.123456Z"),
)

EVENTS = [
    *(GO, GO_STRUCTURED, GO_BYTES, JAVA, JAVA_STRUCTURED, JAVASCRIPT, JAVASCRIPT_STRUCTURED),
    *(CSHARP, CSHARP_STRUCTURED, PYTHON, PYTHON_STRUCTURED),
]
BATCHES = [
    Sent("Go, batch", {"Content-Type": BATCH}, f"[{GO_STRUCTURED.body},{GO_BYTES.body}]"),
    Sent("C#, batch", {"Content-Type": f"{BATCH}; charset=utf-8"}, f"[{_CSHARP_EVENT},{_CSHARP_EVENT}]"),
]
