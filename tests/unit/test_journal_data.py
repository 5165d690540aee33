"""Readers of journal data in Redis, which other versions and other programs may have written."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from milepost.errors import EventError
from milepost.events.batch import MOST_ANSWERS
from milepost.events.event import Event
from milepost.events.strict_json import DEEPEST
from milepost.journal import DeadLetter, Entry, History, HistoryStep, Note
from milepost.journal.models import (
    LARGEST_NOTE,
    LATEST,
    LONGEST_NUMBER,
    check_data,
    entries_by_channel,
    is_entry,
    milliseconds,
    note_of,
    read_row,
    time_of,
)

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
TIME = round(AT.timestamp() * 1000)
ROW = {"consumes": ["a"], "emits": ["b", "c"], "url": "http://one", "beat": 5}
LETTER = DeadLetter("one", "7-1", "", b"", None, "", None, 0, 0, datetime.fromtimestamp(0.007, UTC))


def text_of(value: Any) -> bytes:
    return json.dumps(value).encode()


def entry(*body: bytes, **more: Any) -> Entry:
    return Entry.read("stream", "channel", b"70-1", body, **more)


def event(data: Any = None) -> Event:
    return Event(id="1", source="/tests", type="a", data=data)


def test_note_has_its_time_and_the_deepest_data_of_an_event() -> None:
    data: Any = []
    for _ in range(DEEPEST - 1):
        data = [data]
    assert Note.read(text_of({"at": TIME * 1000, "data": event(data).data})) == Note(AT, data)


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b'{"at":1}',
        b'{"data":1}',
        b'{"at":"1","data":1}',
        b'{"at":1e23,"data":1}',
        b'{"at":1e300,"data":1}',
    ],
)
def test_note_of_another_form_is_none(text: bytes) -> None:
    assert Note.read(text) is None


def test_note_says_how_many_parts_there_are_up_to_the_most_that_a_stage_may_give() -> None:
    for parts in (0, 3, MOST_ANSWERS):
        assert Note(AT, {"parts": parts}).parts == parts
    for other in (-1, MOST_ANSWERS + 1, True, "3", None):
        assert Note(AT, {"parts": other}).parts == 0
    assert Note(AT, ["parts"]).parts == 0


def test_history_is_read_with_its_steps() -> None:
    failed = {"at": TIME, "did": "failed", "answer": "HTTP 500", "due": TIME, "times": 2}
    history = History.read(text_of({"count": 9, "steps": [failed, {"at": TIME, "did": "delivered"}]}))
    assert history == History(9, (HistoryStep(AT, "failed", "HTTP 500", AT, 2), HistoryStep(AT, "delivered")))
    assert history.steps[1].given_out == 1
    assert history.is_delivered
    assert not replace(history, steps=history.steps[:1]).is_delivered


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        *(text_of({"count": 1, "steps": [step]}) for step in ({}, [], {"at": 1e16}, {"at": 1e20}, {"at": 1e30})),
    ],
)
def test_history_of_another_form_is_empty(text: bytes) -> None:
    history = History.read(text)
    assert (history.count, history.steps, history.is_delivered) == (0, (), False)


def test_entry_that_was_not_tried_has_its_own_time() -> None:
    found = entry(b"event", b"{}")
    assert found == Entry("stream", "70-1", "channel", b"{}", 70)
    assert (found.attempts, found.crashes, found.deliveries, found.retried, found.only) == (0, 0, 1, False, "")
    again = entry(b"event", b"{}", deliveries=3, retried=True)
    assert (again.deliveries, again.retried) == (3, True)
    assert Entry.journaled("stream", "channel", b"70-1", b"{}") == found


def test_entry_that_was_held_has_the_time_of_its_order() -> None:
    found = entry(b"event", b"{}", b"order", b"sha/0000012-3", deliveries=2, retried=True)
    assert (found.event, found.since, found.deliveries, found.retried) == (b"{}", 12, 2, False)
    assert entry(b"event", b"{}", b"order", b"?").since == 70


def test_entry_that_was_tried_has_its_counts() -> None:
    found = entry(b"event", b"{}", b"since", b"12", b"attempts", b"2", b"crashes", b"3", retried=True)
    assert (found.event, found.since, found.attempts, found.crashes, found.failures) == (b"{}", 12, 2, 3, 5)
    assert (found.retried, found.only) == (True, "")
    old = entry(b"for", b"one", b"event", b"{}")
    assert (old.only, old.retried, old.attempts, old.crashes, old.since) == ("one", True, 0, 0, 70)


def test_field_of_an_entry_that_is_not_valid_counts_as_absent() -> None:
    assert entry(b"other", b"{}").event == b""
    most = b"9" * LONGEST_NUMBER
    assert entry(b"event", b"{}", b"since", most).since == int(most)
    for text in (most + b"9", b"-1", b"x", b""):
        assert entry(b"event", b"{}", b"since", text).since == 70


def test_dead_letter_has_every_field_and_an_absent_one_is_empty() -> None:
    fields = {b"channel": b"a", b"event": b"{}", b"id": b"1", b"reason": b"HTTP 500", b"status": b"500"}
    fields |= {b"attempts": b"2", b"crashes": b"3", b"time": str(TIME).encode()}
    letter = DeadLetter.read("one", (b"7-1", fields))
    assert letter == DeadLetter("one", "7-1", "a", b"{}", "1", "HTTP 500", 500, 2, 3, AT)
    assert letter.failures == 5
    assert DeadLetter.read("one", (b"7-1", {})) == LETTER
    for name, fields in ((b"7-1", {b"time": b"9" * LONGEST_NUMBER}), (str(2**64 - 1).encode() + b"-1", {})):
        assert DeadLetter.read("one", (name, fields)).at == LATEST


def test_entries_of_dead_letters_are_listed_by_channel() -> None:
    letters = [replace(LETTER, entry=f"{n}-0", channel=channel) for n, channel in enumerate("aba")]
    assert entries_by_channel(letters) == [["0-0", "2-0"], ["1-0"]]


@pytest.mark.parametrize("text", ["0-0", f"{2**64 - 1}-{2**64 - 1}"])
def test_entry_id_has_two_numbers_of_64_bits(text: str) -> None:
    assert is_entry(text)


@pytest.mark.parametrize("text", ["1", "1-1-1", "-1-1", "1-", "x-1", "(1-1", f"{2**64}-0", f"0-{2**64}"])
def test_other_text_is_no_entry_id(text: str) -> None:
    assert not is_entry(text)


@pytest.mark.parametrize(("order", "time"), [(b"sha/0012-3", 12), (b"0012-3", 12), (b"sha/0-0", None), (b"", None)])
def test_order_has_the_time_at_which_its_event_was_journaled(order: bytes, time: int | None) -> None:
    assert time_of(order) == time


def test_row_of_the_stages_table_is_read() -> None:
    for more in ({}, {"needsData": ["a"]}, {"order": "email"}, {"order": True}):
        assert read_row(text_of(ROW | more)) == ROW | more


WRONG: list[dict[str, Any]] = [{"beat": None}, {"beat": True}, {"beat": "5"}, {"url": None}, {"order": 1}]
WRONG += [{name: value} for name in ("consumes", "emits", "needsData") for value in (None, "a", [1], [["a"]])]


@pytest.mark.parametrize("text", [b"{", b"[]", *(text_of(ROW | wrong) for wrong in WRONG)])
def test_row_of_another_form_is_none(text: bytes) -> None:
    assert read_row(text) is None


def test_event_without_data_is_refused_where_functions_need_data() -> None:
    with pytest.raises(EventError, match="data: missing"):
        check_data(event(), {"a"})
    check_data(event(), {"b"})
    check_data(event(0), {"a"})


def test_duration_has_one_millisecond_at_least() -> None:
    assert [milliseconds(of) for of in (0, 0.001, 1.5, timedelta(seconds=2))] == [1, 1, 1500, 2000]


def test_note_keeps_data_up_to_its_largest_size() -> None:
    assert note_of(event("x" * (LARGEST_NOTE - 2))) == f'"{"x" * (LARGEST_NOTE - 2)}"'
    assert note_of(event("x" * (LARGEST_NOTE - 1))) == "null"
