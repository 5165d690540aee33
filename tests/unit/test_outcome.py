"""The outcome of a response: the answer table without a network."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.bridge.outcome import Deferred, Delivered, Failed, Refused, RouteDown, outcome_of, retry_after
from milepost.events.event import Event

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = Event(id="1", source="/x", type="out", data={"miles": 2216.0742916592476})


def binary(event: Event = EVENT) -> tuple[dict[str, str], bytes]:
    return event.to_http()


def test_200_with_an_event_is_delivered_in_either_mode() -> None:
    headers, body = binary()
    assert outcome_of(200, headers, body, emits=("out",)) == Delivered(EVENT)
    structured = {"content-type": "application/cloudevents+json; charset=utf-8"}
    assert outcome_of(200, structured, EVENT.to_json().encode(), emits=("out",)) == Delivered(EVENT)


def test_204_is_delivered_without_a_reply() -> None:
    assert outcome_of(204, {}, b"", emits=("out",)) == Delivered()


@pytest.mark.parametrize("status", range(200, 300))
def test_any_2xx_of_a_stage_that_emits_nothing_is_delivered(status: int) -> None:
    assert outcome_of(status, {"content-type": "text/plain"}, b"OK", emits=()) == Delivered()


def test_type_of_the_reply_is_one_of_the_channels_that_the_stage_emits() -> None:
    for channel in ("approved", "declined"):
        reply = Event(id="1", source="/x", type=channel, data=1)
        assert outcome_of(200, *binary(reply), emits=("approved", "declined")) == Delivered(reply)
    outcome = outcome_of(200, *binary(), emits=("approved", "declined"))
    assert outcome == Failed(200, "unusable reply: type: out, not approved or declined")


def test_several_answers_of_a_stage_that_does_not_split_are_unusable() -> None:
    body = f"[{EVENT.to_json()}]".encode()
    outcome = outcome_of(200, {"content-type": "application/cloudevents-batch+json"}, body, emits=("out",))
    assert outcome == Failed(200, "unusable reply: several answers; its entry in the stages table needs split: true")


def unusable() -> dict[str, tuple[int, dict[str, str], bytes]]:
    headers, body = binary()
    return {
        "OK": (200, {"content-type": "text/html"}, b"OK"),
        "empty": (200, {}, b""),
        "201": (201, headers, body),
        "202": (202, {}, b""),
        "another type": (200, *binary(Event(id="1", source="/x", type="else"))),
        "no id": (200, {name: value for name, value in headers.items() if name != "ce-id"}, body),
        "no JSON": (200, headers, b"{"),
        "NaN": (200, headers, b"NaN"),
        "deep": (200, headers, b"[" * 5_000 + b"]" * 5_000),
        "too large": (200, *binary(Event(id="1", source="/x", type="out", data="x" * 1_000_000))),
    }


@pytest.mark.parametrize("name", unusable())
def test_unusable_reply_is_a_failure(name: str) -> None:
    status, headers, body = unusable()[name]
    outcome = outcome_of(status, headers, body, emits=("out",))
    assert isinstance(outcome, Failed)
    assert outcome.status == status
    assert outcome.reason.startswith("unusable reply: ")


ROUTE = [*range(300, 400), 401, 403, 404, 405, 407, 408, 425, 429, 502, 503, 504]


@pytest.mark.parametrize("status", range(300, 600))
@pytest.mark.parametrize("emits", [("out",), ()])
def test_status_decides_whose_fault_it_is(status: int, emits: tuple[str, ...]) -> None:
    outcome = outcome_of(status, {}, b"", emits=emits)
    kind = RouteDown if status in ROUTE else Refused if status < 500 else Failed
    assert type(outcome) is kind
    assert outcome.status == status
    assert outcome.reason == f"HTTP {status}"


def test_409_is_deferred_only_with_retry_after() -> None:
    assert outcome_of(409, {"retry-after": "3"}, b"", emits=("out",)) == Deferred(409, "HTTP 409", 3.0)
    assert outcome_of(409, {"retry-after": "soon"}, b"", emits=("out",)) == Refused(409, "HTTP 409")
    assert outcome_of(409, {}, b"", emits=("out",)) == Refused(409, "HTTP 409")


@pytest.mark.parametrize("status", [500, 503, 429])
def test_retry_after_is_kept_for_outcomes_that_are_tried_again(status: int) -> None:
    outcome = outcome_of(status, {"retry-after": "7"}, b"", emits=("out",))
    assert isinstance(outcome, Failed | RouteDown)
    assert outcome.retry_after == 7.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("7", 7.0),
        ("0", 0.1),
        ("-5", 0.1),
        ("1.5", None),
        ("301", 300.0),
        ("9" * 400, 300.0),
        ("inf", None),
        ("nan", None),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0.1),
        ("Fri, 01 Jan 2027 00:00:00 GMT", 300.0),
        ("Thu, 01 Jan 2026 00:00:30 -0000", 30.0),
        ("Thu, 99 Jan 2026 00:00:30 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_within_its_bounds(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, now=NOW) == seconds


@given(st.text())
def test_no_retry_after_raises(value: str) -> None:
    found = retry_after(value, now=NOW)
    assert found is None or 0.1 <= found <= 300


def problem(detail: Any) -> bytes:
    return json.dumps({"title": "no", "detail": detail}).encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (problem("lat: too far"), "HTTP 422: lat: too far"),
        (problem("two\nlines\x00\ud800"), "HTTP 422: two lines "),
        (problem("x" * 10_000), "HTTP 422: " + "x" * 500),
        (problem(7), "HTTP 422"),
        (b"[]", "HTTP 422"),
        (b"{", "HTTP 422"),
        (b"\xff", "HTTP 422"),
    ],
)
def test_reason_is_the_detail_of_the_problem_on_one_line(body: bytes, reason: str) -> None:
    outcome = outcome_of(422, {"content-type": "application/problem+json; charset=utf-8"}, body, emits=("out",))
    assert outcome == Refused(422, reason)


@given(
    st.integers(200, 599),
    st.dictionaries(
        st.sampled_from(["content-type", "ce-id", "ce-source", "ce-type", "ce-specversion", "retry-after"]),
        st.one_of(st.text(), st.sampled_from(["1.0", "out", "application/json", "application/cloudevents+json"])),
    ),
    st.binary(),
)
def test_no_response_raises_and_every_reason_can_be_stored(status: int, headers: dict[str, str], body: bytes) -> None:
    outcome = outcome_of(status, headers, body, emits=("out",))
    if not isinstance(outcome, Delivered):
        outcome.reason.encode()
