import pytest

from milepost.bridge import failure_log
from milepost.bridge.failure_log import FailureLog


def test_each_new_reason_is_logged_at_once_and_a_repeated_one_not(caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog(stage="store", outcome="unread")
    for reason in ("away", "away", "full", "full", "away", "full"):
        failures.failed(reason)
    assert caplog.messages == [f"stage=store outcome=unread reason={reason}" for reason in ("away", "full")]


def test_exception_without_a_text_is_named(caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog(outcome="unsubscribed")
    failures.failed(TimeoutError())
    failures.succeeded()
    failures.failed(TimeoutError())
    failures.failed(OSError("refused"))
    assert caplog.messages == [
        f"outcome=unsubscribed reason={reason}" for reason in ("TimeoutError", "TimeoutError", "refused")
    ]


def test_failure_after_a_success_is_logged_again_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog(outcome="untrimmed")
    failures.failed("away", entries=1)
    failures.succeeded()
    failures.failed("away", entries=2)
    assert caplog.messages == [f"outcome=untrimmed entries={entries} reason=away" for entries in (1, 2)]


def test_reason_that_stays_is_logged_again_after_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = FailureLog(outcome="unread")
    failures.failed("away")
    monkeypatch.setattr(failure_log, "REPEAT_AFTER", 0.0)
    failures.failed("away")
    assert caplog.messages == ["outcome=unread reason=away"] * 2
