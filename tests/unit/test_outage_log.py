import logging

import pytest

from milepost.function.outage_log import MOST_LINES, REPEAT_AFTER, OutageLog
from milepost.function.responses import StageResponse


class Log:
    """An OutageLog whose clock stands still until `now` is set."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "milepost.stage")
        self.now = 0.0
        self.outages = OutageLog(lambda: self.now)
        self._caplog = caplog

    def note(self, status: int, reason: str = "MongoDB: away") -> list[str]:
        """The lines that an answer makes."""
        self._caplog.clear()
        problem = {"status": status, "detail": reason}
        self.outages.note(StageResponse() if status < 300 else StageResponse(problem=problem))
        return [str(record.msg) for record in self._caplog.records]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def test_the_first_failure_is_logged_and_then_one_line_a_minute(log: Log) -> None:
    assert log.note(503) == ["outcome=unavailable status=503 reason='MongoDB: away'"]
    assert [log.note(503) for _ in range(100)] == [[]] * 100
    log.now = REPEAT_AFTER
    assert log.note(503) == ["outcome=unavailable status=503 reason='MongoDB: away' unlogged=100"]
    assert log.note(503) == []


def test_another_reason_and_the_first_failure_after_a_success_are_logged_at_once(log: Log) -> None:
    assert [len(log.note(503, reason)) for reason in ("a", "a", "b", "b", "a")] == [1, 0, 1, 0, 1]
    assert log.note(200) == []
    assert len(log.note(503, "a")) == 1


def test_reasons_that_differ_each_time_do_not_flood_the_log(log: Log) -> None:
    assert sum(len(log.note(503, f"event {number}")) for number in range(1000)) == MOST_LINES
    log.now = REPEAT_AFTER
    assert len(log.note(503, "event 1000")) == 1


@pytest.mark.parametrize("status", [204, 400, 409, 422, 500])
def test_answers_about_one_event_are_not_logged(log: Log, status: int) -> None:
    assert log.note(status) == []
