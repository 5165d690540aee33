"""Attributes of events: their rules, and their form in headers."""

import json

import pytest
from starlette.datastructures import Headers

from milepost.errors import EventError
from milepost.events.attributes import read_time
from milepost.events.event import Event
from milepost.journal import GAVE_UP, PARTS, keys


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


@pytest.mark.parametrize("name", ["ce-id", "CE-ID", "ce-subject", "ce-specversion", "ce-x", "content-type"])
def test_an_attribute_that_is_given_twice_is_refused_and_named(name: str) -> None:
    headers = {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "/s",
        "ce-type": "t",
        "ce-subject": "s",
        "ce-x": "x",
    }
    twice = Headers(raw=[(key.encode(), value.encode()) for key, value in [*headers.items(), (name.lower(), "1.0")]])
    with pytest.raises(EventError, match=f"^{name.lower()}: given twice"):
        Event.from_http(twice, b"")


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


@pytest.mark.parametrize("letters", [1, 20, 21, 64, 1000])
def test_an_extension_of_any_length_is_carried(letters: int) -> None:
    """A sender SHOULD NOT write more than 20 letters, so a reader takes them."""
    event = Event(id="1", source="/s", type="t", extensions={"x" * letters: "y"})
    assert Event.from_json(event.to_json()) == event
    assert Event.from_http(*event.to_http()) == event


def test_an_extension_cannot_stand_for_an_attribute() -> None:
    for name in ("id", "source", "data", "journalid", "specversion"):
        with pytest.raises(EventError, match="cannot be the name of an extension"):
            Event(id="1", source="/s", type="t", extensions={name: "x"})


@pytest.mark.parametrize("reserved", [keys.LEASE, f"{GAVE_UP}distance", f"{PARTS}distance"])
def test_types_reserved_for_milepost_are_refused(reserved: str) -> None:
    fields = {"specversion": "1.0", "id": "1", "source": "/me", "type": reserved}
    headers = {f"ce-{name}": value for name, value in fields.items()}
    for read in (lambda: Event.from_fields(fields), lambda: Event.from_http(headers, b"")):
        with pytest.raises(EventError, match="type: names that begin with"):
            read()
