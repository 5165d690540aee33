"""Batched content mode, and the outcomes of the response to a batch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.bridge.outcome import Delivered, Failed, Outcome, RouteDown, Undecided, outcome_of, outcomes_of_batch
from milepost.errors import EventError
from milepost.events.batch import BATCH_TYPE, is_batch, read_batch, write_batch
from milepost.events.event import MAX_EVENT, Event
from milepost.function.responses import StageResponse, batch_response
from milepost.server.http import problem_fields

GOOD = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
WRITTEN = Event(id="1", source="/s", type="t", time="2026-02-28T03:02:01Z").to_json()
BATCH = {"content-type": BATCH_TYPE}
IDS = ["0", "1"]


@given(st.lists(st.builds(Event, id=st.sampled_from("abc"), source=st.just("/s"), type=st.just("t"), data=st.text())))
def test_batch_is_read_in_the_order_it_was_written(events: list[Event]) -> None:
    text = write_batch(event.to_json().encode() for event in events)
    assert [fields["id"] for fields in json.loads(text)] == [event.id for event in events]
    if events:
        assert read_batch(text) == events


PIECES = [
    '"',
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    " ",
    "\n",
    "é",
    "\\u0061",
    "NaN",
    "1e999",
    "1.50",
    "null",
    '"a":1',
    "0",
    "a",
]


@given(
    st.builds(Event, id=st.just("1"), source=st.just("/s"), type=st.just("t"), data=st.just({"a": 1.5, "b": "c"})),
    st.integers(0, 150),
    st.integers(0, 12),
    st.sampled_from(PIECES),
)
def test_event_of_a_batch_is_read_like_one_alone(event: Event, at: int, removed: int, piece: str) -> None:
    text = event.to_json()
    text = (text[:at] + piece + text[at + removed :]).encode()
    try:
        alone = Event.from_json(text)
    except EventError:
        with pytest.raises(EventError):
            read_batch(b"[%b]" % text)
    else:
        (read,) = read_batch(b"[%b]" % text)
        assert read == alone
        assert Event.from_json(read.to_json()) == alone


def test_event_of_a_batch_is_passed_on_byte_for_byte() -> None:
    head = '{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"2026-05-04T03:02:01Z"'
    text = head + ',"datacontenttype":"application/json","data":{"a":[1.50, 2E0],"b":"\\u00e9\\ud800"}}'
    assert [event.to_json() for event in read_batch(f"[{text},{text}]".encode())] == [text, text]


@pytest.mark.parametrize(
    "data", ['{"c":1,"c":2}', '[{"c":1,"c" :2}]', '{"c":1, "\\u0063":2}', '{"c":\n2}', '{"c":"é"}']
)
def test_data_that_others_may_read_differently_is_written_anew(data: str) -> None:
    text = (
        f'{{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/json","data":{data}}}'
    )
    (event,) = read_batch(f"[{text}]".encode())
    alone = Event.from_http({"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}, data.encode())
    assert event.to_json() == alone.to_json() == Event.from_json(text).to_json()
    assert event.to_json().isascii()
    assert event.to_json().count("c") == text.count("c") - data.count("c") + 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "not JSON"),
        (b"[", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "a JSON array of one CloudEvent or more"),
        (b"{}", "a JSON array"),
        (b"null", "a JSON array"),
        (b"[%b]" % WRITTEN.replace("/s", "/ s").encode(), "event 0: source: not a URI reference"),
        (b"[%b]" % WRITTEN.replace('"t"', '"{milepost}:t"').encode(), "event 0: type: names that begin with"),
        (b"[%b]" % WRITTEN.replace('"t"', '"dead:store"').encode(), "event 0: type: names that begin with"),
        (b"[%b]" % WRITTEN.replace("02-28", "02-30").encode(), "event 0: time: no such time"),
        (b"[%b]" % WRITTEN.replace('"1"', f'"{"1" * 257}"').encode(), "event 0: id: longer than 256"),
        (b"[%b]" % WRITTEN.replace("null", "[" * 202 + "]" * 202).encode(), "nested too deeply"),
        (b"[%b,]" % WRITTEN.encode(), "not JSON"),
        (b"[%b" % WRITTEN.encode(), "not JSON"),
        (b"[%b]]" % WRITTEN.encode(), "not JSON"),
        (json.dumps([GOOD, 1]).encode(), "event 1: a CloudEvent is a JSON object"),
        (json.dumps([GOOD, GOOD, {**GOOD, "id": ""}]).encode(), "event 2: id: must not be empty"),
    ],
)
def test_invalid_batch_is_refused_and_names_the_place(text: bytes, fault: str) -> None:
    with pytest.raises(EventError, match=fault):
        read_batch(text)


def test_content_type_of_a_batch_may_have_parameters_and_capitals() -> None:
    assert is_batch("Application/CloudEvents-Batch+JSON; charset=utf-8")
    assert not is_batch("application/cloudevents+json")


def replies(*types: str) -> bytes:
    return json.dumps([{**GOOD, "id": str(place), "type": kind} for place, kind in enumerate(types)]).encode()


def test_each_event_of_a_batch_that_went_well_is_delivered_with_its_reply() -> None:
    outcomes = outcomes_of_batch(200, BATCH, replies("out", "out"), IDS, emits=("out",))
    assert [outcome.reply.id for outcome in outcomes if isinstance(outcome, Delivered) and outcome.reply] == ["0", "1"]
    assert outcomes_of_batch(204, {}, b"", IDS, emits=("out",)) == [Delivered(), Delivered()]
    assert outcomes_of_batch(202, {}, b"thanks", IDS, emits=()) == [Delivered(), Delivered()]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("emits", ["out", None])
def test_away_status_takes_the_route_down_for_each_event(status: int, emits: str | None) -> None:
    away = RouteDown(status, f"HTTP {status}", 7.0)
    assert outcomes_of_batch(status, {"retry-after": "7"}, b"", IDS, emits=emits) == [away, away]


def undecided(outcomes: Sequence[Outcome | Undecided]) -> list[bool]:
    return [isinstance(outcome, Undecided) for outcome in outcomes]


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, BATCH, replies("out")),
        (200, BATCH, replies("out", "out", "out")),
        (200, BATCH, b"OK"),
        (200, BATCH, b"[]"),
        (200, {}, replies("out", "out")),
        (200, {"content-type": "application/cloudevents+json"}, json.dumps({**GOOD, "type": "out"}).encode()),
        (202, BATCH, replies("out", "out")),
        (204, BATCH, b"x"),
        (207, {}, b""),
        (207, {}, b"{}"),
        (207, {}, b"[204, 204]"),
        (207, {}, b'[{"status": 204}]'),
        (207, {}, b'[{"id": "0", "status": "204"}, {"id": "1", "status": true}]'),
        (207, {}, b'[{"id": "0", "status": 100}, {"id": "1", "status": 999}]'),
        (207, {}, b'[{"id": "1", "status": 204}, {"id": "0", "status": 422}]'),
        (207, {}, b'[{"status": 204}, {"id": 1, "status": 422}]'),
        (207, {}, b"[" * 100_000),
        (409, {"retry-after": "1"}, b""),
        (422, {}, b""),
        (403, {}, b""),
        (500, {}, b""),
    ],
)
def test_unclear_response_leaves_every_event_undecided(status: int, headers: Mapping[str, str], body: bytes) -> None:
    assert all(undecided(outcomes_of_batch(status, headers, body, IDS, emits=("out",))))
    said_each = status == 207 and body.startswith(b"[") and b"status" in body
    if said_each or not 200 <= status < 300:
        assert all(undecided(outcomes_of_batch(status, headers, body, IDS, emits=())))


def test_foreign_207_of_a_stage_that_emits_nothing_is_any_2xx() -> None:
    assert outcomes_of_batch(207, {}, b"<multistatus/>", IDS, emits=()) == [Delivered(), Delivered()]


@pytest.mark.parametrize(
    "said",
    [
        {"status": 200},
        {"status": 200, "event": None},
        {"status": 200, "event": [GOOD]},
        {"status": 200, "event": {**GOOD, "type": "elsewhere"}},
        {"status": 200, "event": {**GOOD, "id": ""}},
    ],
)
def test_unusable_reply_leaves_its_own_event_undecided_only(said: Any) -> None:
    body = json.dumps([{"id": "0", **said}, {"id": "1", "status": 204}]).encode()
    first, second = outcomes_of_batch(207, {}, body, IDS, emits=("out",))
    assert isinstance(first, Undecided)
    assert second == Delivered()


def test_reply_of_another_type_or_event_leaves_its_own_event_undecided_only() -> None:
    elsewhere = outcomes_of_batch(200, BATCH, replies("out", "elsewhere"), IDS, emits=("out",))
    assert [type(outcome) for outcome in elsewhere] == [Delivered, Undecided]
    misordered = json.dumps([*reversed(json.loads(replies("out", "out")))]).encode()
    assert all(undecided(outcomes_of_batch(200, BATCH, misordered, IDS, emits=("out",))))


def test_reply_that_is_too_large_when_written_leaves_its_event_undecided() -> None:
    large = json.dumps([{**GOOD, "id": "0"}, {**GOOD, "data": "é" * 400_000}], ensure_ascii=False).encode()
    assert len(large) < 1_000_000
    assert not any(undecided(outcomes_of_batch(200, BATCH, large.replace("é".encode(), b"e"), IDS, emits="t")))
    assert [type(outcome) for outcome in outcomes_of_batch(200, BATCH, large, IDS, emits="t")] == [Delivered, Undecided]


ANSWERS = st.one_of(
    st.just(StageResponse()),
    st.builds(
        StageResponse,
        st.builds(Event, id=st.text("abc", min_size=1), source=st.just("/s"), type=st.just("t"), data=st.text()),
    ),
    st.builds(
        lambda status, detail, wait: StageResponse(problem=problem_fields(status, "X", detail), retry_after=wait),
        st.integers(300, 599),
        st.text(),
        st.none() | st.floats(0, 1000),
    ),
)


@given(st.lists(ANSWERS, min_size=1))
def test_answer_in_a_batch_has_the_outcome_it_has_alone(answers: list[StageResponse]) -> None:
    events = [Event(id=str(place), source="/s", type="in") for place in range(len(answers))]
    answers = [
        replace(answer, reply=answer.reply and replace(answer.reply, id=event.id))
        for event, answer in zip(events, answers, strict=True)
    ]
    response = batch_response(events, answers)
    alone = [
        outcome_of(answer.status, said.headers, bytes(said.body), emits="t")
        for answer in answers
        for said in [answer.to_http()]
    ]
    ids = [event.id for event in events]
    assert outcomes_of_batch(response.status_code, response.headers, bytes(response.body), ids, emits="t") == alone
    assert response.status_code in {200, 204, 207}


def test_reply_that_is_too_large_fails_its_own_event() -> None:
    events = [Event(id=str(place), source="/s", type="in") for place in range(2)]
    large = Event(id="0", source="/s", type="t", data="x" * MAX_EVENT)
    response = batch_response(events, [StageResponse(large), StageResponse()])
    first, second = outcomes_of_batch(response.status_code, response.headers, bytes(response.body), IDS, emits="t")
    assert isinstance(first, Failed)
    assert first.status == 500
    assert second == Delivered()
    assert StageResponse(large).to_http(structured=True).status_code == 500


@given(ANSWERS)
def test_answer_in_structured_mode_has_the_outcome_it_has_in_binary_mode(answer: StageResponse) -> None:
    one, other = (answer.to_http(structured=structured) for structured in (True, False))
    outcome = outcome_of(one.status_code, one.headers, bytes(one.body), emits="t")
    assert outcome == outcome_of(other.status_code, other.headers, bytes(other.body), emits="t")
