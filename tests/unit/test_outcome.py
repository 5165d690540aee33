"""The outcome of a response: the answer table without a network."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from milepost.bridge.outcome import (
    Deferred,
    Delivered,
    Failed,
    Outcome,
    Refused,
    RouteDown,
    Undecided,
    outcome_of,
    outcomes_of_batch,
    retry_after,
)
from milepost.errors import EventError
from milepost.events.batch import BATCH_TYPE, MOST_ANSWERS, part_id, write_batch
from milepost.events.event import Event
from milepost.events.strict_json import DEEPEST

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
    assert outcome == Failed(
        200, "unusable reply: several answers; its row under `stages:` in the values needs split: true"
    )


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


def test_retry_after_that_is_given_twice_is_ignored() -> None:
    headers = Headers(raw=[(b"retry-after", b"3"), (b"retry-after", b"3")])
    assert outcome_of(409, headers, b"", emits=("out",)) == Refused(409, "HTTP 409")
    assert outcome_of(503, headers, b"", emits=("out",)) == RouteDown(503, "HTTP 503")


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
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1e3", None),
        ("5, 5", None),
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


# Batches

IDS = ("a", "b")
TOGETHER = {"content-type": BATCH_TYPE}
TWICE = [(b"content-type", BATCH_TYPE.encode()), (b"content-type", b"text/html")]


def reply(id: str, channel: str = "out") -> Event:
    return Event(id=id, source="/x", type=channel, data=1)


DEEP = Event(id="b", source="/x", type="out", data=json.loads("[" * DEEPEST + "]" * DEEPEST))


def parts(of: str, count: int = 2, channel: str = "out") -> list[Event]:
    return [reply(part_id(of, place), channel) for place in range(count)]


def batch(*replies: Event) -> bytes:
    return write_batch(one.to_json().encode() for one in replies)


def fields(event: Event) -> Any:
    return json.loads(event.to_json())


def multi(*items: Any) -> bytes:
    return json.dumps(items).encode()


def of_batch(
    status: int, body: bytes, *, emits: tuple[str, ...] = ("out",), split: bool = False
) -> list[Outcome | Undecided]:
    return [*outcomes_of_batch(status, TOGETHER, body, IDS, emits=emits, split=split)]


BOTH = batch(reply("a"), reply("b"))


@pytest.mark.parametrize(
    ("status", "body", "emits", "split", "decided"),
    [
        (200, BOTH, ("out",), False, [Delivered(reply("a")), Delivered(reply("b"))]),
        (200, b"thanks", (), False, [Delivered()] * 2),
        (299, b"", (), False, [Delivered()] * 2),
        (204, b"", ("out",), False, [Delivered()] * 2),
        (204, b"", ("out",), True, [Delivered(answers=())] * 2),
        (200, b"", (), True, [Delivered()] * 2),
        *[(away, b"", ("out",), False, [RouteDown(away, f"HTTP {away}")] * 2) for away in (429, 502, 503, 504)],
    ],
)
def test_response_to_a_batch_decides_about_all_of_it(
    status: int, body: bytes, emits: tuple[str, ...], split: bool, decided: list[Outcome]
) -> None:
    assert of_batch(status, body, emits=emits, split=split) == decided


@pytest.mark.parametrize(
    ("status", "body", "split"),
    [
        (200, batch(reply("a")), False),
        (200, batch(reply("b"), reply("a")), False),
        (200, batch(reply("a", "else"), reply("b", "else")), False),
        (200, BOTH, True),
        (200, b"[", False),
        (201, BOTH, False),
        (204, b"x", False),
        (207, b"{", False),
        (207, multi({"id": "a", "status": 204}), False),
        (300, b"", False),
        (404, b"", False),
        (409, b"", False),
        (500, b"", False),
    ],
)
def test_response_that_does_not_say_whose_each_reply_is_decides_about_none(
    status: int, body: bytes, split: bool
) -> None:
    for outcome in of_batch(status, body, split=split):
        assert isinstance(outcome, Undecided)
        assert not outcome.timed_out


def test_207_that_names_one_event_of_two_or_none_decides_about_none() -> None:
    refused = multi({"id": "a", "status": 422})
    for emits in ((), ("out",)):
        assert of_batch(207, refused, emits=emits) == [Undecided("HTTP 207")] * 2
        assert of_batch(207, b"[]", emits=emits) == [Undecided("HTTP 207")] * 2


def test_redirect_of_a_batch_delivers_nothing_to_a_stage_that_emits_nothing() -> None:
    assert of_batch(300, b"", emits=()) == [Undecided("HTTP 300")] * 2


@pytest.mark.parametrize(
    ("item", "emits", "split", "outcome"),
    [
        ({"status": 204}, ("out",), False, Delivered()),
        ({"status": 200}, (), False, Delivered()),
        ({"status": 299}, (), True, Delivered()),
        ({"status": 204}, ("out",), True, Delivered(answers=())),
        ({"status": 200, "event": fields(reply("b"))}, ("out",), False, Delivered(reply("b"))),
        ({"status": 200, "event": fields(DEEP)}, ("out",), False, Delivered(DEEP)),
        ({"status": 200, "events": []}, ("out",), True, Delivered(answers=[])),
        ({"status": 200, "events": [*map(fields, parts("b"))]}, ("out",), True, Delivered(answers=parts("b"))),
        ({"status": 422, "detail": "lat"}, ("out",), False, Refused(422, "HTTP 422: lat")),
        ({"status": 409, "retryAfter": 7}, ("out",), False, Deferred(409, "HTTP 409", 7.0)),
        ({"status": 409, "retryAfter": "7"}, ("out",), False, Refused(409, "HTTP 409")),
        ({"status": 409, "retryAfter": -7}, ("out",), False, Refused(409, "HTTP 409")),
        ({"status": 500, "retryAfter": 0}, ("out",), False, Failed(500, "HTTP 500", 0.1)),
        ({"status": 599}, ("out",), False, Failed(599, "HTTP 599")),
        ({"status": 300}, ("out",), False, RouteDown(300, "HTTP 300")),
        ({"status": 200, "events": [fields(reply("b/0"))] * (MOST_ANSWERS + 1)}, ("out",), True, Refused),
        ({"status": 200, "events": [fields(reply("b/1"))]}, ("out",), True, Undecided),
        ({"status": 200, "events": [*map(fields, parts("b", 1, "else"))]}, ("out",), True, Undecided),
        ({"status": 200, "events": None}, ("out",), True, Undecided),
        ({"status": 200, "events": [1]}, ("out",), True, Undecided),
        ({"status": 200, "event": fields(reply("a"))}, ("out",), False, Undecided),
        ({"status": 200, "event": fields(reply("b", "else"))}, ("out",), False, Undecided),
        ({"status": 200, "event": fields(reply("b")) | {"data": "é" * 400_000}}, ("out",), False, Undecided),
        ({"status": 200}, ("out",), False, Undecided),
        ({"status": 199}, (), False, Undecided),
        ({"status": 600}, (), False, Undecided),
        ({"status": True}, (), False, Undecided),
        ({"status": 204, "id": "a"}, ("out",), False, Undecided),
        ({}, (), False, Undecided),
    ],
)
def test_item_of_a_207_decides_about_its_event_alone(
    item: dict[str, Any], emits: tuple[str, ...], split: bool, outcome: Outcome | type[Undecided]
) -> None:
    first, second = of_batch(207, multi({"id": "a", "status": 422}, {"id": "b"} | item), emits=emits, split=split)
    assert first == Refused(422, "HTTP 422")
    assert (type(second) if isinstance(outcome, type) else second) == outcome


def test_207_with_a_reply_that_no_stage_can_read_decides_about_none() -> None:
    levels = DEEPEST + 2
    reply = json.loads(DEEP.to_json()) | {"data": json.loads("[" * levels + "]" * levels)}
    with pytest.raises(EventError):
        Event.from_json(json.dumps(reply))
    outcomes = of_batch(207, multi({"id": "a", "status": 204}, {"id": "b", "status": 200, "event": reply}))
    assert outcomes == [Undecided("HTTP 207")] * 2


def split(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    return outcome_of(status, headers, body, emits=("out",), splits="7")


def test_answers_of_a_stage_that_splits_are_named_by_their_place() -> None:
    assert split(200, TOGETHER, batch(*parts("7", 3))) == Delivered(answers=parts("7", 3))
    assert split(200, TOGETHER, b" [] ") == Delivered(answers=[])
    assert split(204, {}, b"") == Delivered(answers=())
    assert outcome_of(200, {}, b"", emits=(), splits="7") == Delivered()


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"),
    [
        (201, TOGETHER, batch(*parts("7")), "201 where 200 or 204 was due"),
        (204, {}, b"x", "204 where 200 or 204 was due"),
        (200, {"content-type": "application/json"}, batch(*parts("7")), f"its stage splits, so {BATCH_TYPE} was due"),
        (200, Headers(raw=TWICE), batch(*parts("7")), "content-type: given twice"),
        (200, TOGETHER, batch(reply("7/1")), "event 0: id: 7/1, not 7/0, the id of answer 0 to 7"),
        (200, TOGETHER, batch(*parts("7", 2, "else")), "event 0: type: else, not out"),
    ],
)
def test_unusable_answers_of_a_stage_that_splits_are_a_failure(
    status: int, headers: Mapping[str, str], body: bytes, reason: str
) -> None:
    assert split(status, headers, body) == Failed(status, f"unusable reply: {reason}")


def test_too_many_answers_are_the_events_own_fault() -> None:
    assert isinstance(split(200, TOGETHER, batch(*parts("7", MOST_ANSWERS + 1))), Refused)
