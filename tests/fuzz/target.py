"""A target: one door with its inputs and checks."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz import inputs, oracle
from tests.fuzz.link import request
from tests.fuzz.world import World

JSON = (b"content-type", b"application/json")
STRUCTURED = (b"content-type", b"application/cloudevents+json")

_numbers = itertools.count()


def fresh() -> str:
    """A new id. All have one length, because hypothesis draws positions in the text around them."""
    return f"fuzz-{next(_numbers):09}"


@dataclass
class Tally:
    """Counts of inputs. Bad: refused, ignored, or with data that only a stage can refuse."""

    bad: int = 0
    good: int = 0

    def add(self, other: "Tally") -> None:
        self.bad += other.bad
        self.good += other.good


@dataclass(frozen=True)
class Target:
    """`send` raises AssertionError when a promise is broken. `share` of the inputs of a run are its own."""

    name: str
    inputs: Callable[[World], SearchStrategy[Any]]
    send: Callable[[World, Sequence[Any]], Tally]
    batch: int = 20
    share: float = 1.0


@dataclass(frozen=True)
class Sent:
    """Headers and body of a request."""

    headers: list[tuple[bytes, bytes]]
    body: bytes

    def written(self, path: str = "/") -> bytes:
        return request(path, self.headers, self.body)

    def means(self) -> dict[str, Any] | None:
        """The event in it by the oracle's reading."""
        types = [value.lower() for name, value in self.headers if name == b"content-type"]
        if any(value.startswith(b"application/cloudevents") for value in types):
            return oracle.structured(self.body)
        return oracle.binary(self.headers, self.body)


@st.composite
def event_requests(draw: Callable[..., Any], channel: str, *, other: bool = False) -> Sent:
    """An event in one of the two modes, its bytes damaged now and then."""
    fields = draw(inputs.events(channel, other=other))
    if "id" in fields and fields["id"] is None:
        fields["id"] = fresh()
    kind = draw(st.integers(0, 19))
    if draw(st.booleans()):
        body = inputs.write(fields)
        body = draw(inputs.damaged(body)) if kind < 4 else draw(inputs.huge()) if kind == 19 else body
        types = [STRUCTURED] if kind != 4 else [(b"content-type", draw(st.sampled_from(TYPES)))]
        return Sent(types, body)
    encode = draw(st.booleans())
    headers = [
        (inputs.header_name(name), inputs.header_value(value, encode=encode))
        for name, value in fields.items()
        if name != "data"
    ]
    body = inputs.write(fields.get("data"))
    body = draw(inputs.damaged(body)) if kind < 4 else draw(inputs.huge()) if kind == 19 else body
    return Sent([*headers, JSON if kind != 4 else (b"content-type", draw(st.sampled_from(TYPES)))], body)


TYPES = [b"", b"text/plain", b"application/cloudevents-batch+json", b"application/json; charset=utf-16", b"a/b+json"]
TYPES += [b"application/cloudevents", b"APPLICATION/JSON", b"multipart/form-data", b"\xff", b"application/xml"]


def good_event(channel: str, data: Any = None, event_id: str | None = None) -> Sent:
    fields = {"specversion": "1.0", "id": event_id or fresh(), "source": "/fuzz/good", "type": channel}
    return Sent([STRUCTURED], inputs.write({**fields, "data": data or inputs.GOOD[channel]}))
