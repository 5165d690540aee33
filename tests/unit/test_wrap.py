"""Messages that a plain Redis program may PUBLISH, and the events made of them. Payloads are never looked at."""

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.errors import EventError, TooLarge
from milepost.events.event import MAX_EVENT, Event
from milepost.events.wrap import wrap

RAW = "raw_input"
CLOUDEVENT = {"specversion": "1.0", "id": "one", "source": "/elsewhere", "type": RAW, "data": {"lat": 1.5}}


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (b'{"email":"a@b.co","lat":"1.5","long":"2"}', {"email": "a@b.co", "lat": "1.5", "long": "2"}),
        (b"someone@example.org", "someone@example.org"),
        (b'"someone@example.org"', "someone@example.org"),
        (b"2216.0742916592476", 2216.0742916592476),
        (b"[]", []),
        (b"null", None),
        (b"", ""),
        (b"  42 ", 42),
        (b" someone@example.org\r\n", "someone@example.org"),
        ("\u00a0someone@example.org\u2003".encode(), "someone@example.org"),
        (b"\xef\xbb\xbfsomeone@example.org\n", "someone@example.org"),
        (b'\xef\xbb\xbf{"lat":1.5}\n', {"lat": 1.5}),
        (b'\n{"lat":\n1.5}\n', {"lat": 1.5}),
        (b'" kept "', " kept "),
        (b" \n", ""),
        (b"\xef\xbb\xbf", ""),
        (b"NaN", "NaN"),
        (b"Infinity", "Infinity"),
        ("é☃".encode(), "é☃"),
        (b"1e400", "1e400"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_json_is_the_data_and_other_text_is_the_data_as_a_string(message: bytes, data: Any) -> None:
    event, named = wrap(RAW, message)
    assert (event.data, named) == (data, False)
    assert (event.type, event.source) == (RAW, "/redis/raw_input")
    assert event.time is not None
    assert UUID(event.id).version == 7
    assert Event.from_json(event.to_json()) == event


def test_each_plain_message_gets_an_id_of_its_own() -> None:
    assert wrap(RAW, b"1")[0].id != wrap(RAW, b"1")[0].id


def test_a_channel_is_percent_encoded_in_the_source() -> None:
    assert wrap("user:email", b"1")[0].source == "/redis/user%3Aemail"
    assert wrap("a|b é", b"1")[0].source == "/redis/a%7Cb%20%C3%A9"


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_an_object_with_specversion_is_the_event_itself(bom: bytes) -> None:
    event, named = wrap(RAW, bom + json.dumps(CLOUDEVENT).encode())
    assert named
    assert event == Event(id="one", source="/elsewhere", type=RAW, data={"lat": 1.5})


def test_a_journalid_from_outside_is_dropped() -> None:
    event, _ = wrap(RAW, json.dumps({"journalid": "1-1", **CLOUDEVENT}).encode())
    assert "journalid" not in event.extensions
    assert "journalid" not in event.to_json()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\xff\xfe", "^not UTF-8$"),
        (b"{broken", "^begins like JSON and is not JSON: Expecting property name"),
        (b"\xef\xbb\xbf {broken", "^begins like JSON"),
        (b'["a",]', "^begins like JSON"),
        (b'"someone@example.org', "^begins like JSON"),
        (b'"some one"@example.org', "^begins like JSON and is not JSON: Extra data"),
        (b'{"lat":NaN}', "^begins like JSON and is not JSON: NaN is not JSON"),
        (b"[" * 100_000, "^begins like JSON and is not JSON: nested too deeply"),
        (b"x" * (MAX_EVENT + 1), "larger than 1000000 bytes"),
        (json.dumps({**CLOUDEVENT, "type": "user:email"}).encode(), "type: user:email on the channel raw_input"),
        (json.dumps({**CLOUDEVENT, "id": ""}).encode(), "id: must not be empty"),
        (json.dumps({**CLOUDEVENT, "specversion": "0.3"}).encode(), "specversion: must be 1.0"),
        (json.dumps({**CLOUDEVENT, "specversion": None}).encode(), "specversion"),
        (b'{"specversion":"1.0"}', "id, source, type: missing"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_an_unreadable_message_is_refused_with_its_reason(message: bytes, reason: str) -> None:
    with pytest.raises(EventError, match=reason):
        wrap(RAW, message)


@pytest.mark.parametrize("letter", ["x", "ü", "\x07", "\U0001f600"])
def test_a_message_may_be_as_large_as_its_event_may_be_when_written(letter: str) -> None:
    """A letter outside ASCII is written as 6 or 12 bytes, and the envelope comes on top."""
    envelope = len(wrap(RAW, b"")[0].to_json())
    longest = (MAX_EVENT - envelope) // len(json.dumps(letter)[1:-1])
    event, _ = wrap(RAW, (letter * longest).encode())
    assert event.data == letter * longest
    assert len(event.to_json()) <= MAX_EVENT
    with pytest.raises(TooLarge, match="larger than 1000000 bytes"):
        wrap(RAW, (letter * (longest + 1)).encode())


def test_a_cloud_event_that_grows_when_written_is_too_large() -> None:
    for data in ("é" * 400_000, [1e15] * 100_000):
        text = json.dumps({**CLOUDEVENT, "data": data}, ensure_ascii=False).replace("1000000000000000.0", "1e15")
        assert len(text.encode()) < MAX_EVENT
        with pytest.raises(TooLarge):
            wrap(RAW, text.encode())


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_a_random_message_is_an_event_or_raises_event_error(message: bytes) -> None:
    try:
        event, _ = wrap(RAW, message)
    except EventError:
        return
    assert Event.from_json(event.to_json()) == event
