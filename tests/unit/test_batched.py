"""Batched content mode, and what a bridge makes of the answer to a batch."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from operator import eq
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.bridge.verdict import Delivered, Failed, RouteDown, judge, judge_batch
from milepost.errors import EventError
from milepost.events.batch import BATCH_TYPE, is_batch, read_batch, write_batch
from milepost.events.event import MAX_EVENT, Event
from milepost.function.responses import StageResponse, batch_response
from milepost.http import problem_fields

GOOD = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
BATCH = {"content-type": BATCH_TYPE}
NAMED = [partial(eq, "0"), partial(eq, "1")]


@given(st.lists(st.builds(Event, id=st.sampled_from("abc"), source=st.just("/s"), type=st.just("t"), data=st.text())))
def test_a_batch_is_read_in_the_order_it_was_written(events: list[Event]) -> None:
    text = write_batch(event.to_json().encode() for event in events)
    assert [fields["id"] for fields in json.loads(text)] == [event.id for event in events]
    if events:
        assert read_batch(text) == events


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
        (json.dumps([GOOD, 1]).encode(), "event 1: a CloudEvent is a JSON object"),
        (json.dumps([GOOD, GOOD, {**GOOD, "id": ""}]).encode(), "event 2: id: must not be empty"),
    ],
)
def test_a_broken_batch_is_refused_and_the_event_named_by_its_place(text: bytes, fault: str) -> None:
    with pytest.raises(EventError, match=fault):
        read_batch(text)


def test_the_content_type_may_have_parameters_and_capitals() -> None:
    assert is_batch("Application/CloudEvents-Batch+JSON; charset=utf-8")
    assert not is_batch("application/cloudevents+json")


def replies(*types: str) -> bytes:
    return json.dumps([{**GOOD, "id": str(place), "type": kind} for place, kind in enumerate(types)]).encode()


def test_a_batch_that_went_well_is_delivered_event_by_event() -> None:
    verdicts = judge_batch(200, BATCH, replies("out", "out"), NAMED, emits="out")
    assert [verdict.reply.id for verdict in verdicts if isinstance(verdict, Delivered) and verdict.reply] == ["0", "1"]
    assert judge_batch(204, {}, b"", NAMED, emits="out") == [Delivered(), Delivered()]
    assert judge_batch(202, {}, b"thanks", NAMED, emits=None) == [Delivered(), Delivered()]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("emits", ["out", None])
def test_a_stage_that_is_not_there_is_not_there_for_each_event(status: int, emits: str | None) -> None:
    away = RouteDown(status, f"HTTP {status}", 7.0)
    assert judge_batch(status, {"retry-after": "7"}, b"", NAMED, emits=emits) == [away, away]


UNSAID = [None, None]


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
def test_anything_else_says_nothing_of_any_event(status: int, headers: Mapping[str, str], body: bytes) -> None:
    assert judge_batch(status, headers, body, NAMED, emits="out") == UNSAID
    said_each = status == 207 and body.startswith(b"[") and b"status" in body and body != b'[{"status": 204}]'
    if said_each or not 200 <= status < 300:
        assert judge_batch(status, headers, body, NAMED, emits=None) == UNSAID


def test_a_207_of_another_form_is_a_2xx_like_any_to_a_stage_that_emits_nothing() -> None:
    assert judge_batch(207, {}, b"<multistatus/>", NAMED, emits=None) == [Delivered(), Delivered()]


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
def test_a_reply_among_many_that_cannot_be_used_leaves_the_others_theirs(said: Any) -> None:
    body = json.dumps([{"id": "0", **said}, {"id": "1", "status": 204}]).encode()
    assert judge_batch(207, {}, body, NAMED, emits="out") == [None, Delivered()]


def test_a_reply_of_another_type_or_event_says_nothing_of_its_own_event_alone() -> None:
    elsewhere = judge_batch(200, BATCH, replies("out", "elsewhere"), NAMED, emits="out")
    assert [type(verdict) for verdict in elsewhere] == [Delivered, type(None)]
    misordered = json.dumps([*reversed(json.loads(replies("out", "out")))]).encode()
    assert judge_batch(200, BATCH, misordered, NAMED, emits="out") == UNSAID


def test_a_reply_that_grows_over_the_limit_when_written_says_nothing_of_its_event() -> None:
    large = json.dumps([{**GOOD, "id": "0"}, {**GOOD, "data": "é" * 400_000}], ensure_ascii=False).encode()
    assert len(large) < 1_000_000
    assert None not in judge_batch(200, BATCH, large.replace("é".encode(), b"e"), NAMED, emits="t")
    assert [type(verdict) for verdict in judge_batch(200, BATCH, large, NAMED, emits="t")] == [Delivered, type(None)]


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
def test_an_answer_among_many_means_what_it_means_alone(answers: list[StageResponse]) -> None:
    events = [Event(id=str(place), source="/s", type="in") for place in range(len(answers))]
    answers = [
        replace(answer, reply=answer.reply and replace(answer.reply, id=event.id))
        for event, answer in zip(events, answers, strict=True)
    ]
    response = batch_response(events, answers)
    alone = [
        judge(answer.status, said.headers, bytes(said.body), emits="t")
        for answer in answers
        for said in [answer.to_http()]
    ]
    named = [partial(eq, event.id) for event in events]
    assert judge_batch(response.status_code, response.headers, bytes(response.body), named, emits="t") == alone
    assert response.status_code in {200, 204, 207}


def test_a_reply_that_is_too_large_is_a_fault_of_its_own_event() -> None:
    events = [Event(id=str(place), source="/s", type="in") for place in range(2)]
    large = Event(id="0", source="/s", type="t", data="x" * MAX_EVENT)
    response = batch_response(events, [StageResponse(large), StageResponse()])
    first, second = judge_batch(response.status_code, response.headers, bytes(response.body), NAMED, emits="t")
    assert isinstance(first, Failed)
    assert first.status == 500
    assert second == Delivered()
