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
from milepost.events.attributes import read_time
from milepost.events.event import JOURNAL_MARK, Event, now
from milepost.events.strict_json import dumps, loads

NONCHARACTERS = [chr(code) for code in [*range(0xFDD0, 0xFDF0), *range(0xFFFE, 0x110000, 0x10000)]]
NONCHARACTERS += [chr(code) for code in range(0xFFFF, 0x110000, 0x10000)]

# Characters that the CloudEvents type system allows: no control characters, no surrogates, no noncharacters.
characters = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=NONCHARACTERS)
strings = st.text(characters, max_size=40)
names = st.text(characters, min_size=1, max_size=40)
sources = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0189-._~:/?#[]@!$&'()*+,;=%", min_size=1, max_size=40)
extension_names = st.from_regex(r"x[a-z0-9]{0,40}", fullmatch=True)
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


def test_a_header_is_percent_encoded_as_in_the_specifications_example() -> None:
    # HTTP Protocol Binding 1.0.2, section 3.1.3.2, its own example: "Euro € 😀".
    event = Event(id="Euro € 😀", source="/s", type="t")
    headers, _ = event.to_http()
    assert headers["ce-id"] == "Euro%20%E2%82%AC%20%F0%9F%98%80"


def from_headers(**attributes: str) -> Event:
    """Read an event in binary mode whose headers are given as the bytes on the wire, decoded as latin-1."""
    given = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"} | attributes
    return Event.from_http({f"ce-{name}": value for name, value in given.items()}, b"")


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (r"a%20b", "a b"),
        (r"%e2%82%ac", "€"),
        (r"%41", "A"),
        (r"100%", "100%"),
        (r"100%25", "100%"),
        (r"100%2525", "100%25"),
        (r"%zz", "%zz"),
        (r'"q"', "q"),
        (r'"a b"', "a b"),
        (r'" a "', " a "),
        (r'"5\""', '5"'),
        (r'"a\\b"', "a\\b"),
        (r'"\a\%41"', "aA"),
        (r'"%22"', '"'),
        (r'"%5C%22"', '\\"'),
        (r'5"', '5"'),
        (r'"5', '"5'),
        (r'"5\"', '"5\\"'),
        (r'a"b"c', 'a"b"c'),
        (r'"a" "b"', '"a" "b"'),
        (r"a\b", "a\\b"),
        ("Köln €".encode().decode("latin-1"), "Köln €"),
        ('"Köln"'.encode().decode("latin-1"), "Köln"),
        ("à".encode().decode("latin-1"), "à"),  # its second byte is a no-break space in latin-1
        ("%C3%A0 à".encode().decode("latin-1"), "à à"),
    ],
)
def test_a_header_is_unquoted_if_all_of_it_is_quoted_and_percent_decoded_once(sent: str, read: str) -> None:
    assert from_headers(id=sent).id == read
    assert from_headers(id=f" \t{sent}\t ").id == read


@pytest.mark.parametrize(
    ("first", "second"), [('5"', "5"), ('"5', "5"), ("'5'", "5"), (r"a\b", "ab"), ('""5""', "5"), ("%2525", "%25")]
)
def test_different_ids_stay_different(first: str, second: str) -> None:
    assert from_headers(id=first).id != from_headers(id=second).id


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        ("%ff", "ce-subject: not UTF-8 after percent-decoding"),
        ("%C0%A0", "ce-subject: not UTF-8 after percent-decoding"),
        ("%ED%A0%80", "ce-subject: not UTF-8 after percent-decoding"),
        ("\xc3%a9", "ce-subject: not UTF-8; percent-encode it"),
        ("K\xf6ln", "ce-subject: not UTF-8; percent-encode it"),
        ("a%0D%0Ab", "subject: must not hold control characters or noncharacters, as U\\+000D"),
        ("%C2%85", "subject: must not hold control characters or noncharacters, as U\\+0085"),
        ("%EF%BF%BF", "subject: must not hold control characters or noncharacters, as U\\+FFFF"),
        ("a\tb", "subject: must not hold control characters"),
    ],
)
def test_an_illegal_header_value_is_refused_and_its_attribute_named(sent: str, fault: str) -> None:
    with pytest.raises(EventError, match=f"^{fault}"):
        from_headers(subject=sent)


@pytest.mark.parametrize("name", ["a-b", "a_b", "", "x" * 500 + "-"])
def test_an_illegal_name_in_a_header_is_refused_and_named(name: str) -> None:
    with pytest.raises(EventError, match="names of attributes consist of a-z and 0-9") as caught:
        from_headers(**{name: "x"})
    assert ascii(name)[:80] in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["data", "data_base64"])
def test_a_header_of_data_is_refused(name: str) -> None:
    with pytest.raises(EventError, match=f"^{name}: cannot be the name of an extension"):
        from_headers(**{name: "x"})


def test_names_of_headers_are_read_in_any_case() -> None:
    headers = {"CE-SpecVersion": "1.0", "Ce-Id": "1", "ce-SOURCE": "/s", "CE-TYPE": "t", "Ce-MyExtension": "x"}
    assert Event.from_http(headers, b"") == Event(id="1", source="/s", type="t", extensions={"myextension": "x"})


@pytest.mark.parametrize("name", ["ce-id", "CE-ID", "ce-subject", "ce-specversion", "ce-x"])
def test_an_attribute_that_is_given_twice_is_refused_and_named(name: str) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "ce-subject": "s", "ce-x": "x"}
    twice = Headers(raw=[(key.encode(), value.encode()) for key, value in [*headers.items(), (name.lower(), "1.0")]])
    with pytest.raises(EventError, match=f"^{name.lower()}: given twice"):
        Event.from_http(twice, b"")


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


def test_a_second_byte_order_mark_is_not_json() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        loads(BOM + BOM + b"1")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
        ("2016-12-31T23:59:60.25Z", "2017-01-01T00:00:00.250000+00:00"),
        ("2017-01-01t00:59:60+01:00", "2017-01-01T00:00:00+00:00"),
        ("2015-06-30T18:59:60-05:00", "2015-07-01T00:00:00+00:00"),
        ("2026-05-04t03:02:01.123456789+05:30", "2026-05-03T21:32:01.123456+00:00"),
    ],
)
def test_a_time_is_read_and_passed_on_as_it_was_written(text: str, read: str) -> None:
    assert read_time(text).isoformat() == read
    event = Event(id="1", source="/s", type="t", time=text)
    assert json.loads(event.to_json())["time"] == text
    assert event.to_http()[0]["ce-time"] == text


@pytest.mark.parametrize(
    "text",
    [
        *("2016-12-31T23:59:61Z", "2016-12-31T23:58:60Z", "2016-12-31T22:59:60Z", "2016-12-30T23:59:60Z"),
        *("2016-12-31T23:59:60+01:00", "9999-12-31T23:59:60Z", "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z"),
        *("2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00+01:60", "2026-01-01T00:00:00+24:00"),
        *("٢٠٢٦-01-01T00:00:00Z", "2026-01-01T00:00:00.Z", "2026-01-01T00:60:00Z", "2026-01-01", ""),
    ],
)
def test_an_illegal_time_is_refused(text: str) -> None:
    with pytest.raises(EventError, match=r"^time: (no such time|not an RFC 3339 timestamp)"):
        Event(id="1", source="/s", type="t", time=text)


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


@pytest.mark.parametrize("letters", [1, 20, 21, 64, 1000])
def test_an_extension_of_any_length_is_carried(letters: int) -> None:
    """Longer than 20 letters is what a sender SHOULD NOT write, so a reader takes it."""
    event = Event(id="1", source="/s", type="t", extensions={"x" * letters: "y"})
    assert Event.from_json(event.to_json()) == event
    assert Event.from_http(*event.to_http()) == event


def test_an_extension_cannot_stand_for_an_attribute() -> None:
    for name in ("id", "source", "data", "journalid", "specversion"):
        with pytest.raises(EventError, match="cannot be the name of an extension"):
            Event(id="1", source="/s", type="t", extensions={name: "x"})


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e400", "[-1e999]", "01", "1_0", "'a'", b"\xff", b'"\xc3"'])
def test_loads_is_strict(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(text)


def test_the_last_of_two_members_with_one_name_counts_and_alone_is_passed_on() -> None:
    """RFC 8259, section 4, leaves open which; and the parsers after ours are to read what ours did."""
    event = Event.from_json('{"specversion":"1.0","id":"1","id":"2","source":"/a","type":"b","data":{"c":1,"c":2}}')
    assert (event.id, event.data) == ("2", {"c": 2})
    assert json.loads(event.to_json(), object_pairs_hook=lambda pairs: [name for name, _ in pairs].count("id")) == 1


def test_loads_is_utf8_only() -> None:
    with pytest.raises(ValueError, match=r"."):
        loads("[1]".encode("utf-16"))


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_nested_json_that_was_read_can_be_written(opening: str) -> None:
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


def test_types_reserved_for_milepost_are_refused() -> None:
    with pytest.raises(EventError, match="type: names that begin with"):
        Event(id="1", source="/me", type="{milepost}:lease")
