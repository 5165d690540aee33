import json
import math
from typing import Any

import pytest
from cloudevents.http import from_http, from_json
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from milepost.errors import EventError
from milepost.event import JOURNAL_MARK, Event, dumps, loads, now

# Strings that the CloudEvents type system allows: no control characters, no surrogates.
strings = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=40)
names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)
sources = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0189-._~:/?#[]@!$&'()*+,;=%", min_size=1, max_size=40)
extension_names = st.from_regex(r"x[a-z0-9]{0,18}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def events(draw: st.DrawFn, extensions: st.SearchStrategy[Any] = strings) -> Event:
    return Event(
        id=draw(names),
        source=draw(sources),
        type=draw(names),
        data=draw(json_values),
        time=draw(st.none() | st.just("2026-05-04T03:02:01.123456Z") | st.just("2026-05-04t03:02:01+05:30")),
        subject=draw(st.none() | strings),
        dataschema=draw(st.none() | strings),
        extensions=draw(st.dictionaries(extension_names, extensions, max_size=3)),
    )


def over_http(headers: dict[str, str]) -> Headers:
    """What a server hands on of them: latin-1, names in lower case."""
    return Headers(raw=[(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()])


@given(events(strings | st.booleans() | st.integers(-(2**31), 2**31 - 1)))
def test_json_and_back(event: Event) -> None:
    assert Event.from_json(event.to_json()) == event
    assert Event.from_json(event.to_json().encode()) == event


@given(events())
def test_binary_mode_and_back(event: Event) -> None:
    headers, body = event.to_http()
    assert Event.from_http(over_http(headers), body) == event


@given(events())
def test_structured_mode_and_back(event: Event) -> None:
    headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    assert Event.from_http(over_http(headers), event.to_json().encode()) == event


@given(events())
def test_headers_are_printable_ascii(event: Event) -> None:
    for name, value in event.to_http()[0].items():
        assert all(0x20 <= ord(character) < 0x7F for character in name + value)


@given(events())
def test_the_sdk_reads_what_we_write(event: Event) -> None:
    theirs = from_json(event.to_json())
    assert (theirs["id"], theirs["source"], theirs["type"]) == (event.id, event.source, event.type)
    assert theirs.get_data() == (None if event.data == "" else event.data)  # the SDK takes "" for no data


def test_the_sdk_reads_our_binary_mode() -> None:
    headers, body = Event(id="1", source="/s", type="t", data={"miles": 2216.0742916592476}).to_http()
    assert from_http(headers, body).get_data() == {"miles": 2216.0742916592476}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_keeps_every_digit(value: float) -> None:
    event = Event(id="1", source="/s", type="t", data=value)
    read = Event.from_http(over_http(event.to_http()[0]), event.to_http()[1]).data
    assert math.copysign(1, read) == math.copysign(1, value)
    assert read == value
    assert Event.from_json(event.to_json()).data == value


def test_percent_encoding_is_the_specifications() -> None:
    # HTTP Protocol Binding 1.0.2, section 3.1.3.2, its own example: "Euro € 😀".
    event = Event(id="Euro € 😀", source="/s", type="t")
    headers, _ = event.to_http()
    assert headers["ce-id"] == "Euro%20%E2%82%AC%20%F0%9F%98%80"


@pytest.mark.parametrize(("sent", "read"), [("a%20b", "a b"), ("%e2%82%ac", "€"), ("100%", "100%"), ('"q"', "q")])
def test_percent_decoding(sent: str, read: str) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": sent, "ce-source": "/s", "ce-type": "t"}
    assert Event.from_http(headers, b"").id == read


def test_percent_encoded_bytes_that_are_not_utf8() -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "%ff", "ce-source": "/s", "ce-type": "t"}
    with pytest.raises(EventError, match="ce-id: not UTF-8"):
        Event.from_http(headers, b"")


def test_a_message_of_the_journal_is_known_by_its_beginning_and_the_mark_is_dropped() -> None:
    event = Event(id="1", source="/s", type="t")
    journaled = b'{"journalid":"1-0",' + event.to_json()[1:].encode()
    assert journaled.startswith(JOURNAL_MARK)
    assert Event.from_json(journaled) == event
    headers, body = event.to_http()
    assert Event.from_http({**headers, "ce-journalid": "1-0"}, body) == event


def test_attributes_that_are_null_are_absent() -> None:
    text = '{"specversion":"1.0","id":"1","source":"/s","type":"t","time":null,"subject":null,"data":null}'
    assert Event.from_json(text) == Event(id="1", source="/s", type="t")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"id": ""}, "id: must not be empty"),
        ({"id": 1}, "id: must be a string"),
        ({"id": "a\nb"}, "id: must not hold control characters"),
        ({"id": "\ud800"}, "id: must not hold control characters"),
        ({"id": "x" * 257}, "id: longer than 256"),
        ({"source": "a b"}, "source: not a URI reference"),
        ({"type": None}, "type: missing"),
        ({"specversion": "0.3"}, "specversion: must be 1.0"),
        ({"specversion": None}, "specversion: must be 1.0"),
        ({"time": "today"}, "time: not an RFC 3339"),
        ({"time": 1}, "time: not an RFC 3339"),
        ({"time": "2026-02-30T00:00:00Z"}, "time: no such time"),
        ({"time": "0001-01-01T00:00:00+14:00"}, "time: no such time"),
        ({"time": "9999-12-31T23:59:59-14:00"}, "time: no such time"),
        ({"datacontenttype": "text/plain"}, "datacontenttype"),
        ({"datacontenttype": 1}, "datacontenttype"),
        ({"data_base64": "YQ=="}, "data_base64"),
        ({"CAPS": "x"}, "extension names"),
        ({"a" * 21: "x"}, "extension names"),
        ({"nested": {}}, "nested: an extension is"),
        ({"big": 2**31}, "big: an extension is"),
        ({"float": 1.5}, "float: an extension is"),
        ({"trace": "a\r\nb"}, "trace: must not hold control characters"),
    ],
)
def test_a_broken_attribute_is_named(changes: dict[str, Any], fault: str) -> None:
    fields = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"} | changes
    with pytest.raises(EventError, match=fault):
        Event.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '"a"', "\ufeff{}"])
def test_what_is_no_json_object_is_no_event(text: str) -> None:
    with pytest.raises(EventError):
        Event.from_json(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_an_event_error(body: bytes) -> None:
    for headers in ({"content-type": "application/cloudevents+json"}, {"ce-id": "1"}, {}):
        with pytest.raises(EventError):
            Event.from_http(headers, body)


@given(st.dictionaries(st.text(max_size=12), json_values, max_size=6))
def test_any_object_is_an_event_or_an_event_error(fields: dict[str, Any]) -> None:
    try:
        event = Event.from_fields({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"} | fields)
    except EventError:
        return
    assert Event.from_json(event.to_json()) == event


def test_an_extension_cannot_stand_for_an_attribute() -> None:
    for name in ("id", "source", "data", "journalid", "specversion"):
        with pytest.raises(EventError, match="cannot be the name of an extension"):
            Event(id="1", source="/s", type="t", extensions={name: "x"})


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e400", "[-1e999]", "01", "1_0", "'a'", b"\xff", b'"\xc3"'])
def test_loads_is_strict(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(text)


def test_of_two_members_of_one_name_the_last_counts_and_is_the_only_one_handed_on() -> None:
    """RFC 8259, section 4, leaves open which; and the parsers after ours are to read what ours did."""
    event = Event.from_json('{"specversion":"1.0","id":"1","id":"2","source":"/a","type":"b","data":{"c":1,"c":2}}')
    assert (event.id, event.data) == ("2", {"c": 2})
    assert json.loads(event.to_json(), object_pairs_hook=lambda pairs: [name for name, _ in pairs].count("id")) == 1


def test_loads_is_utf8_only() -> None:
    with pytest.raises(ValueError, match=r"."):
        loads("[1]".encode("utf-16"))


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_what_was_read_can_be_written(opening: str) -> None:
    closing = "".join({"[": "]", "{": "}"}[character] for character in reversed(opening) if character in "[{")
    for levels in (1, 50, 99, 100, 101, 199, 200, 201, 300, 400, 490, 495, 900, 950, 1000, 5000, 100_000):
        text = opening * levels + "1" + closing * levels
        try:
            value = loads(text)
        except ValueError:
            assert levels > 99
        else:
            assert loads(dumps(value)) == value
            assert levels <= 200


@given(json_values)
def test_dumps_and_loads(value: Any) -> None:
    text = dumps(value)
    assert text.isascii()
    assert "\n" not in text
    assert loads(text) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_dumps_writes_no_nan(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dumps(value)


def test_now_is_rfc3339_utc() -> None:
    assert now().endswith("Z")
    assert Event(id="1", source="/s", type="t", time=now()).time


def test_no_event_is_of_a_type_that_is_milepost_own() -> None:
    with pytest.raises(EventError, match="type: names that begin with"):
        Event(id="1", source="/me", type="{milepost}:lease")
