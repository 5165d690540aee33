import json
import math
from base64 import b64encode
from typing import Any

import pytest
from cloudevents.http import from_http, from_json
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from milepost.errors import EventError
from milepost.events.event import JOURNAL_MARK, Event, now
from milepost.events.strict_json import loads
from tests.unit.strategies import extension_names, json_values, names, sources, strings


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
    """Headers as a server hands them on: latin-1, names in lower case."""
    return Headers(raw=[(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()])


@given(events(strings | st.booleans() | st.integers(-(2**31), 2**31 - 1)))
def test_an_event_survives_json(event: Event) -> None:
    assert Event.from_json(event.to_json()) == event
    assert Event.from_json(event.to_json().encode()) == event


@given(events())
def test_an_event_survives_binary_mode(event: Event) -> None:
    headers, body = event.to_http()
    assert Event.from_http(over_http(headers), body) == event


@given(events())
def test_an_event_survives_structured_mode(event: Event) -> None:
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


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON", "text/json", "application/a+json; b=c"],
)
def test_data_of_any_json_type_is_read(content_type: str) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "content-type": content_type}
    assert Event.from_http(headers, b'{"a":1}').data == {"a": 1}
    fields = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "datacontenttype": content_type, "data": 1}
    assert Event.from_fields(fields).data == 1


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "application/jsonx", "application/octet-stream"]
)
def test_data_of_another_type_is_refused_and_the_type_is_named(content_type: str) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "content-type": content_type}
    with pytest.raises(EventError, match=f"^datacontenttype: Milepost carries JSON, not '{content_type}'"):
        Event.from_http(headers, b'{"a":1}')


def test_data_base64_that_holds_json_is_read() -> None:
    """The Go SDK writes JSON so if it was given as bytes."""
    fields = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "datacontenttype": "application/json"}
    for text in (b'{"miles":2216.0742916592476}', b'\xef\xbb\xbf{"miles":2216.0742916592476}'):
        encoded = b64encode(text).decode()
        assert Event.from_fields({**fields, "data_base64": encoded}).data == {"miles": 2216.0742916592476}
    assert Event.from_fields({**fields, "data_base64": ""}).data is None


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"data_base64": "YQ=="}, "data_base64: not JSON in base64"),
        ({"data_base64": "!"}, "data_base64: not JSON in base64"),
        ({"data_base64": "é"}, "data_base64: not JSON in base64"),
        ({"data_base64": 1}, "data_base64: not JSON in base64"),
        ({"data_base64": "MQ==", "data": 1}, "data_base64: must not stand beside data"),
    ],
)
def test_data_base64_that_holds_no_json_is_refused(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(EventError, match=f"^{fault}"):
        Event.from_fields({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **fields})


BOM = b"\xef\xbb\xbf"


def test_json_is_read_with_a_byte_order_mark() -> None:
    event = Event(id="1", source="/s", type="t", data={"a": "é"})
    assert loads(BOM + b"[1]") == [1]
    assert Event.from_json(BOM + event.to_json().encode()) == event
    headers, body = event.to_http()
    assert Event.from_http(headers, BOM + body) == event
    structured = {"content-type": "application/cloudevents+json"}
    assert Event.from_http(structured, BOM + event.to_json().encode()) == event


def test_the_journals_mark_begins_its_messages_and_is_dropped_when_read() -> None:
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
        ({"CAPS": "x"}, "'CAPS': names of attributes"),
        ({"Id": "x"}, "'Id': names of attributes"),
        ({"a\x1bb": "x"}, r"'a\\x1bb': names of attributes"),
        ({"a" * 21: "x\n"}, "a{21}: must not hold control characters"),
        ({"nested": {}}, "nested: an extension is"),
        ({"big": 2**31}, "big: an extension is"),
        ({"float": 1.5}, "float: an extension is"),
        ({"trace": "a\r\nb"}, "trace: must not hold control characters"),
    ],
)
def test_an_illegal_attribute_is_refused_and_named(changes: dict[str, Any], fault: str) -> None:
    fields = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"} | changes
    with pytest.raises(EventError, match=fault):
        Event.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '"a"', "\ufeff{}", "\ufeff"])
def test_json_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(EventError):
        Event.from_json(text)


@given(st.binary(max_size=200))
def test_random_bytes_raise_event_error(body: bytes) -> None:
    for headers in ({"content-type": "application/cloudevents+json"}, {"ce-id": "1"}, {}):
        with pytest.raises(EventError):
            Event.from_http(headers, body)


@given(st.dictionaries(st.text(max_size=12), json_values, max_size=6))
def test_a_random_object_is_an_event_or_raises_event_error(fields: dict[str, Any]) -> None:
    try:
        event = Event.from_fields({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"} | fields)
    except EventError:
        return
    assert Event.from_json(event.to_json()) == event


def test_the_last_of_two_members_with_one_name_counts_and_alone_is_passed_on() -> None:
    """RFC 8259, section 4, leaves open which; and the parsers after ours are to read what ours did."""
    event = Event.from_json('{"specversion":"1.0","id":"1","id":"2","source":"/a","type":"b","data":{"c":1,"c":2}}')
    assert (event.id, event.data) == ("2", {"c": 2})
    assert json.loads(event.to_json(), object_pairs_hook=lambda pairs: [name for name, _ in pairs].count("id")) == 1


def test_now_is_rfc3339_utc() -> None:
    assert now().endswith("Z")
    assert Event(id="1", source="/s", type="t", time=now()).time
