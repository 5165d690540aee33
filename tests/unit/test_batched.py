"""Batched content mode, and what a bridge makes of the answer to a batch."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.batched import BATCH_TYPE, is_batch, read_batch, write_batch
from milepost.bridge.verdict import Delivered, RouteDown, judge_batch
from milepost.errors import EventError
from milepost.event import Event

GOOD = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
BATCH = {"content-type": BATCH_TYPE}
IDS = ["0", "1"]


@given(st.lists(st.builds(Event, id=st.sampled_from("abc"), source=st.just("/s"), type=st.just("t"), data=st.text())))
def test_what_is_written_is_read_in_its_order(events: list[Event]) -> None:
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
def test_what_is_no_batch_is_told_by_its_place(text: bytes, fault: str) -> None:
    with pytest.raises(EventError, match=fault):
        read_batch(text)


def test_the_content_type_may_have_parameters_and_capitals() -> None:
    assert is_batch("Application/CloudEvents-Batch+JSON; charset=utf-8")
    assert not is_batch("application/cloudevents+json")


def replies(*types: str) -> bytes:
    return json.dumps([{**GOOD, "id": str(place), "type": kind} for place, kind in enumerate(types)]).encode()


def test_a_batch_that_went_well_is_delivered_event_by_event() -> None:
    verdicts = judge_batch(200, BATCH, replies("out", "out"), IDS, emits="out")
    assert verdicts is not None
    assert [verdict.reply.id for verdict in verdicts if isinstance(verdict, Delivered) and verdict.reply] == ["0", "1"]
    assert judge_batch(204, {}, b"", IDS, emits="out") == [Delivered(), Delivered()]
    assert judge_batch(202, {}, b"thanks", IDS, emits=None) == [Delivered(), Delivered()]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("emits", ["out", None])
def test_a_stage_that_is_not_there_is_not_there_for_each_event(status: int, emits: str | None) -> None:
    away = RouteDown(status, f"HTTP {status}", 7.0)
    assert judge_batch(status, {"retry-after": "7"}, b"", IDS, emits=emits) == [away, away]


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, BATCH, replies("out")),
        (200, BATCH, replies("out", "out", "out")),
        (200, BATCH, replies("out", "elsewhere")),
        (200, BATCH, json.dumps([*reversed(json.loads(replies("out", "out")))]).encode()),
        (200, BATCH, b"OK"),
        (200, BATCH, b"[]"),
        (200, {}, replies("out", "out")),
        (200, {"content-type": "application/cloudevents+json"}, json.dumps({**GOOD, "type": "out"}).encode()),
        (202, BATCH, replies("out", "out")),
        (204, BATCH, b"x"),
        (409, {"retry-after": "1"}, b""),
        (422, {}, b""),
        (403, {}, b""),
        (500, {}, b""),
    ],
)
def test_anything_else_says_nothing_of_any_event(status: int, headers: Mapping[str, str], body: bytes) -> None:
    assert judge_batch(status, headers, body, IDS, emits="out") is None
    if not 200 <= status < 300:
        assert judge_batch(status, headers, body, IDS, emits=None) is None


def test_a_reply_that_grows_over_the_limit_when_written_says_nothing_of_any_event() -> None:
    large = json.dumps([{**GOOD, "id": "0"}, {**GOOD, "data": "é" * 400_000}], ensure_ascii=False).encode()
    assert len(large) < 1_000_000
    assert judge_batch(200, BATCH, large.replace("é".encode(), b"e"), IDS, emits="t")
    assert judge_batch(200, BATCH, large, IDS, emits="t") is None
