from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.course import Course
from gateway.journey import Journey, took
from milepost.journal import Note

STAGES = [
    {"consumes": ["user:email"], "emits": ["email:sent"]},
    {"consumes": ["raw_input"], "emits": ["calculated_distance"]},
    {"consumes": ["calculated_distance"], "emits": ["user:email"]},
]
CHANNELS = ("raw_input", "calculated_distance", "user:email", "email:sent")
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def noted(*reached: tuple[str, int, Any]) -> dict[str, Note]:
    """Channel, milliseconds since the beginning, data."""
    return {channel: Note(BEGIN + timedelta(milliseconds=at), data) for channel, at, data in reached}


def test_the_course_follows_the_table_to_the_channel_that_no_stage_consumes() -> None:
    assert Course.of(STAGES) == Course(CHANNELS, frozenset({"email:sent"}))


def test_a_channel_of_two_stages_has_two_ends_and_both_must_be_reached() -> None:
    course = Course.of([*STAGES, {"consumes": ["calculated_distance"], "emits": ["chart:drawn"]}])
    assert course.ends == {"email:sent", "chart:drawn"}
    assert not course.is_over(["email:sent"])
    assert course.is_over(["chart:drawn", "email:sent"])


def test_a_channel_whose_stage_emits_nothing_is_an_end() -> None:
    assert Course.of([*STAGES, {"consumes": ["email:sent"], "emits": []}]).ends == {"email:sent"}


def test_stages_in_a_circle_have_no_end() -> None:
    course = Course.of([{"consumes": ["raw_input"], "emits": ["again"]}, {"consumes": ["again"], "emits": ["again"]}])
    assert course.channels == ("raw_input", "again")
    assert not course.is_over(course.channels)


def test_in_broker_mode_one_route_is_all_stages() -> None:
    course = Course.of([{"consumes": list(CHANNELS[:3]), "emits": list(CHANNELS[1:])}])
    assert course.ends == {"email:sent"}


def test_stage_of_several_channels_ends_on_one_of_them() -> None:
    decide = {"consumes": ["email:sent"], "emits": ["approved", "declined"]}
    course = Course.of([*STAGES, decide, {"consumes": ["approved"], "emits": ["shipped"]}])
    assert course.ends == {"shipped", "declined"}
    assert course.is_over([*CHANNELS, "declined"])
    assert not course.is_over([*CHANNELS, "approved"])
    assert course.is_over([*CHANNELS, "approved", "shipped"])


def test_in_broker_mode_the_stages_behind_the_broker_have_ends_of_their_own() -> None:
    behind = {"decide": {"consumes": ["raw_input"], "emits": "approved declined", "beat": 1}}
    row = {"consumes": ["raw_input"], "emits": ["approved", "declined"], "beat": 1, "behind": behind}
    assert Course.of([row]).is_over(["raw_input", "declined"])


def test_where_no_bridge_has_told_of_a_stage_nothing_is_over() -> None:
    assert not Course.of([]).is_over(["raw_input"])


def test_a_dead_letter_ends_it() -> None:
    assert Course.of(STAGES).is_over(["raw_input", "dead:distance"])


def test_a_journey_has_the_time_of_each_hop_and_what_is_still_ahead() -> None:
    journey = Journey.of(noted(("raw_input", 0, {"lat": 1}), ("calculated_distance", 7, None)), Course.of(STAGES))
    assert [step.channel for step in journey.steps] == list(CHANNELS)
    assert [step.hop for step in journey.steps] == [None, 7, None, None]
    assert [step.is_next for step in journey.steps] == [False, False, True, False]
    assert (journey.state, journey.share, journey.whole) == ("underway", 50, 7)


def test_a_journey_that_is_done_has_the_message() -> None:
    sent = {"message": "You are 1.5 miles from Velocity.", "distance_from_velocity": 1.5}
    reached = noted(*((channel, at, sent) for at, channel in enumerate(CHANNELS)))
    journey = Journey.of(reached, Course.of(STAGES))
    assert (journey.state, journey.answer) == ("done", sent)
    assert not any(step.is_next for step in journey.steps)


def test_a_journey_that_ended_early_names_stage_and_reason() -> None:
    journey = Journey.of(noted(("raw_input", 0, "?"), ("dead:distance", 5, {"reason": "422"})), Course.of(STAGES))
    assert (journey.state, journey.gave_up, journey.reason) == ("dead", "distance", "422")
    assert journey.submitted == {}


def test_a_journey_shows_no_channel_that_a_stage_did_not_choose() -> None:
    decide = {"consumes": ["raw_input"], "emits": ["approved", "declined"]}
    course = Course.of([decide, {"consumes": ["approved"], "emits": ["shipped"]}])
    under_way = Journey.of(noted(("raw_input", 0, {})), course)
    assert [step.channel for step in under_way.steps] == ["raw_input", "approved", "declined", "shipped"]
    done = Journey.of(noted(("raw_input", 0, {}), ("declined", 5, {})), course)
    assert ([step.channel for step in done.steps], done.state, done.share) == (["raw_input", "declined"], "done", 100)


def test_a_channel_of_ones_own_is_a_step_too() -> None:
    journey = Journey.of(noted(("raw_input", 0, {}), ("chart:drawn", 5, None)), Course.of(STAGES))
    assert [step.channel for step in journey.steps] == ["raw_input", "chart:drawn", *CHANNELS[1:]]


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(-3, "0 ms"), (7.4, "7 ms"), (999, "999 ms"), (1400, "1.4 s"), (125_000, "2 min 5 s"), (11_040_000, "3 h 4 min")],
)
def test_times_are_for_people(milliseconds: float, words: str) -> None:
    assert took(milliseconds) == words
