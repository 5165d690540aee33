from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.pages import took
from gateway.status import Status
from milepost.graph import Graph, Node
from milepost.journal import Note

STAGES = [
    Node("email", "user:email", "email:sent"),
    Node("distance", "raw_input", "calculated_distance"),
    Node("store", "calculated_distance", "user:email"),
]
CHANNELS = ("raw_input", "calculated_distance", "user:email", "email:sent")
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def status(*reached: tuple[str, int, Any] | str, stages: list[Node] = STAGES) -> Status:
    """The status of a submission. `reached`: channel, milliseconds since the beginning, data."""
    rows = [(one, 0, None) if isinstance(one, str) else one for one in reached]
    notes = {channel: Note(BEGIN + timedelta(milliseconds=at), data) for channel, at, data in rows}
    return Status("1", notes, Graph(stages))


def test_submission_is_over_when_it_has_reached_every_end() -> None:
    stages = [*STAGES, Node("chart", "calculated_distance", "chart:drawn")]
    assert not status(*CHANNELS, stages=stages).is_over
    assert status(*CHANNELS, "chart:drawn", stages=stages).is_over


def test_channel_whose_stage_emits_nothing_is_an_end() -> None:
    assert status(*CHANNELS, stages=[*STAGES, Node("count", "email:sent", None)]).is_over


def test_submission_in_a_circle_is_never_over() -> None:
    circle = [Node("one", "raw_input", "again"), Node("two", "again", "again")]
    assert not status("raw_input", "again", stages=circle).is_over


def test_submission_is_over_at_the_ends_of_a_broker_without_names_of_stages() -> None:
    broker = [Node("broker", CHANNELS[:3], CHANNELS[1:])]
    assert not status(*CHANNELS[:3], stages=broker).is_over
    assert status(*CHANNELS, stages=broker).is_over


def test_submission_is_not_over_where_no_stage_is_known() -> None:
    assert not status("raw_input", stages=[]).is_over


def test_dead_letter_ends_a_submission() -> None:
    assert status("raw_input", "dead:distance").is_over


def test_part_begins_on_the_first_channel_that_it_has_reached() -> None:
    part = Status("1/0", status("user:email").notes, Graph(STAGES))
    assert (part.ahead, part.is_over) == (("email:sent",), False)
    assert Status("1/0", status("user:email", "email:sent").notes, Graph(STAGES)).is_over


def test_steps_have_the_time_of_each_hop_and_the_channels_ahead() -> None:
    under_way = status(("raw_input", 0, {"lat": 1}), ("calculated_distance", 7, None))
    assert [step.channel for step in under_way.steps] == list(CHANNELS)
    assert [step.hop for step in under_way.steps] == [None, 7, None, None]
    assert [step.is_next for step in under_way.steps] == [False, False, True, False]
    assert (under_way.state, under_way.percent, under_way.seconds) == ("underway", 50, 0.007)


def test_finished_submission_has_the_answer() -> None:
    sent = {"message": "You are 1.5 miles from Velocity.", "distance_from_velocity": 1.5}
    done = status(*((channel, at, sent) for at, channel in enumerate(CHANNELS)))
    assert (done.state, done.answer) == ("done", sent)
    assert not any(step.is_next for step in done.steps)


def test_submission_that_was_given_up_names_stage_and_reason() -> None:
    dead = status(("raw_input", 0, "?"), ("dead:distance", 5, {"reason": "422"}))
    assert (dead.state, dead.gave_up, dead.reason) == ("dead", "distance", "422")
    assert dead.submitted == {}


def test_steps_have_no_channel_that_a_stage_did_not_choose() -> None:
    stages = [Node("decide", "raw_input", ("approved", "declined")), Node("ship", "approved", "shipped")]
    under_way = status("raw_input", stages=stages)
    assert [step.channel for step in under_way.steps] == ["raw_input", "approved", "declined", "shipped"]
    done = status("raw_input", "declined", stages=stages)
    assert ([step.channel for step in done.steps], done.state, done.percent) == (["raw_input", "declined"], "done", 100)


def test_channel_outside_the_graph_is_a_step_too() -> None:
    steps = status("raw_input", "chart:drawn").steps
    assert [step.channel for step in steps] == ["raw_input", "chart:drawn", *CHANNELS[1:]]


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(-3, "0 ms"), (7.4, "7 ms"), (999, "999 ms"), (1400, "1.4 s"), (125_000, "2 min 5 s"), (11_040_000, "3 h 4 min")],
)
def test_durations_are_written_for_people(milliseconds: float, words: str) -> None:
    assert took(milliseconds) == words
