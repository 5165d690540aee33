"""The retry rule: whether an event that was not delivered is tried again, and when."""

from dataclasses import replace
from datetime import timedelta

import pytest

from milepost.bridge.outcome import Crashed, Deferred, Failed, Refused, RouteDown, Undelivered
from milepost.bridge.retry import (
    BROKEN_AFTER,
    BROKEN_EVENTS,
    LONGEST_BACKOFF,
    LONGEST_PROBE,
    MOST_AWAY,
    SUSPECT_AFTER,
    Decision,
    GiveUp,
    Retry,
    RetryPolicy,
    RetryWhenUp,
    backoff,
    probe_delay,
)
from milepost.bridge.settings import DeliverySpec
from milepost.events.event import Event
from milepost.journal import Entry, Failure

FAILED = Failed(500, "HTTP 500")


def entry(id: str = "1", attempts: int = 0, crashes: int = 0, source: str = "/test") -> Entry:
    event = Event(id=id, source=source, type="in").to_json().encode()
    return Entry("{milepost}:journal:in", "1-1", "in", event, 1, attempts, crashes)


@pytest.fixture
def policy() -> RetryPolicy:
    return RetryPolicy(DeliverySpec(retry=2, crash_retry=3, backoff_delay=timedelta(seconds=1)))


def decide(policy: RetryPolicy, outcome: Undelivered, id: str = "1", **counted: int) -> Decision:
    return policy.decide(entry(id, **counted), outcome)


def test_refused_event_is_given_up_at_once_uncounted(policy: RetryPolicy) -> None:
    assert decide(policy, Refused(422, "HTTP 422"), attempts=1) == GiveUp(Failure("HTTP 422", 422, 1, 0))


def test_deferred_event_is_retried_when_it_asks_uncounted(policy: RetryPolicy) -> None:
    assert decide(policy, Deferred(409, "HTTP 409", 2.0)) == Retry(Failure("HTTP 409", 409, 0, 0), 2.0)


def test_event_of_a_route_that_is_down_waits_for_it_uncounted(policy: RetryPolicy) -> None:
    away = RouteDown(503, "HTTP 503", 7.0)
    assert decide(policy, away, attempts=99) == RetryWhenUp(Failure("HTTP 503", 503, 99, 0), 7.0)


def test_event_that_meets_a_third_outage_is_retried_by_itself(policy: RetryPolicy) -> None:
    away = RouteDown(503, "HTTP 503")
    for _ in range(2):
        assert isinstance(decide(policy, away), RetryWhenUp)
        policy.succeeded()
    assert isinstance(decide(policy, away, "another"), RetryWhenUp)
    alone = decide(policy, away)
    assert isinstance(alone, Retry)
    assert alone.failure == Failure("HTTP 503", 503, 0, 0)


def test_event_that_is_retried_by_itself_has_its_backoff_or_a_longer_retry_after() -> None:
    policy = RetryPolicy(DeliverySpec(backoff_delay=timedelta(seconds=0.1)))
    for retry_after, least, most in ((None, 0.2, 0.4), (0.0, 0.4, 0.8), (9.0, 9.0, 9.0)):
        for _ in range(SUSPECT_AFTER if retry_after is None else 0):
            decide(policy, RouteDown(503, "HTTP 503"))
            policy.succeeded()
        decision = decide(policy, RouteDown(503, "HTTP 503", retry_after))
        assert isinstance(decision, Retry)
        assert least <= decision.delay <= most
        policy.succeeded()


def test_outage_counts_once_for_an_event_until_another_succeeds(policy: RetryPolicy) -> None:
    for _ in range(9):
        assert isinstance(decide(policy, RouteDown(503, "HTTP 503")), RetryWhenUp)


def test_event_without_an_answer_meets_no_outage_of_its_own(policy: RetryPolicy) -> None:
    for _ in range(9):
        assert isinstance(decide(policy, RouteDown(None, "no connection")), RetryWhenUp)
        policy.succeeded()


def test_oldest_event_is_forgotten_beyond_the_most_that_are_remembered(policy: RetryPolicy) -> None:
    away = RouteDown(503, "HTTP 503")
    for _ in range(2):
        decide(policy, away)
        decide(policy, away, "kept")
        policy.succeeded()
    decide(policy, away, "kept")
    for number in range(MOST_AWAY - 1):
        decide(policy, away, f"other {number}")
    policy.succeeded()
    assert isinstance(decide(policy, away, "kept"), Retry)
    assert isinstance(decide(policy, away), RetryWhenUp)


def test_failed_event_is_retried_until_its_attempts_are_used_up(policy: RetryPolicy) -> None:
    first, last = decide(policy, FAILED), decide(policy, FAILED, attempts=2)
    assert isinstance(first, Retry)
    assert first.failure == Failure("HTTP 500", 500, 1, 0)
    assert last == GiveUp(Failure("HTTP 500", 500, 3, 0))


def test_crashes_are_counted_apart_from_attempts(policy: RetryPolicy) -> None:
    crashed = Crashed("no response in time")
    assert isinstance(decide(policy, crashed, attempts=2, crashes=2), Retry)
    assert decide(policy, crashed, crashes=3) == GiveUp(Failure("no response in time", None, 0, 4))


def test_backoff_grows_with_attempts_and_crashes_together(policy: RetryPolicy) -> None:
    decision = decide(policy, FAILED, attempts=1, crashes=2)
    assert isinstance(decision, Retry)
    assert 4.0 <= decision.delay <= 8.0


def test_retry_after_of_a_failure_replaces_the_backoff(policy: RetryPolicy) -> None:
    decision = decide(policy, Failed(500, "HTTP 500", 42.0))
    assert isinstance(decision, Retry)
    assert decision.delay == 42.0


@pytest.mark.parametrize("ends", ["success", "deferred", "refused"])
def test_stage_that_responds_otherwise_in_between_is_not_broken(policy: RetryPolicy, ends: str) -> None:
    for number in range(BROKEN_AFTER - 1):
        decide(policy, FAILED, f"{number}")
    if ends == "success":
        policy.succeeded()
    else:
        decide(policy, Deferred(409, "HTTP 409", 1.0) if ends == "deferred" else Refused(422, "HTTP 422"), "other")
    assert all(isinstance(decide(policy, FAILED, f"{number}"), Retry) for number in range(BROKEN_AFTER - 1))
    assert isinstance(decide(policy, FAILED, "20"), RetryWhenUp)


def test_failure_of_a_broken_stage_is_not_counted(policy: RetryPolicy) -> None:
    decisions = [decide(policy, FAILED, f"{number % BROKEN_EVENTS}") for number in range(BROKEN_AFTER)]
    assert decisions[-1] == RetryWhenUp(Failure("HTTP 500", 500, 0, 0), None)


def test_failures_of_few_events_are_no_sign_of_a_broken_stage(policy: RetryPolicy) -> None:
    few = [decide(policy, FAILED, f"{number % (BROKEN_EVENTS - 1)}") for number in range(3 * BROKEN_AFTER)]
    assert all(isinstance(decision, Retry) for decision in few)


def test_events_of_different_sources_that_have_one_id_are_different_events(policy: RetryPolicy) -> None:
    for number in range(2 * SUSPECT_AFTER):
        away = policy.decide(entry(source=f"/{number}"), RouteDown(503, "HTTP 503"))
        assert isinstance(away, RetryWhenUp), "the route is down, and no event alone meets that"
        policy.succeeded()
    failed = [policy.decide(entry(source=f"/{number}"), FAILED) for number in range(BROKEN_AFTER)]
    assert isinstance(failed[-1], RetryWhenUp), "the stage is broken"


def test_event_that_failed_twice_is_no_sign_of_a_broken_stage(policy: RetryPolicy) -> None:
    poison = [decide(policy, FAILED, f"{number}", attempts=2) for number in range(3 * BROKEN_AFTER)]
    assert all(isinstance(decision, GiveUp) for decision in poison)


def refused(policy: RetryPolicy, outcome: Undelivered, deliveries: int, **counted: int) -> Decision | None:
    """Return what becomes of an event that was delivered so often, if Redis refuses the decision."""
    one = replace(entry(**counted), deliveries=deliveries)
    decided = policy.decide(one, outcome)
    assert isinstance(decided, Retry | GiveUp)
    return policy.decide_refusal(one, decided, "WRONGTYPE")


def test_dead_letter_that_redis_refuses_is_retried_as_late_as_possible(policy: RetryPolicy) -> None:
    assert refused(policy, Refused(422, "HTTP 422"), 1) == Retry(Failure("HTTP 422", 422, 0, 0), LONGEST_BACKOFF)


@pytest.mark.parametrize(
    ("outcome", "deliveries", "attempts", "crashes"), [(FAILED, 3, 3, 0), (Crashed("timeout"), 4, 0, 4)]
)
def test_event_that_cannot_be_parked_is_given_up_once_its_deliveries_are_used_up(
    policy: RetryPolicy, outcome: Undelivered, deliveries: int, attempts: int, crashes: int
) -> None:
    """Redis does not keep its count, so each delivery of the pending entry counts."""
    assert refused(policy, outcome, deliveries - 1) is None
    given_up = refused(policy, outcome, deliveries)
    assert isinstance(given_up, GiveUp)
    assert (given_up.failure.attempts, given_up.failure.crashes) == (attempts, crashes)
    assert given_up.failure.reason.endswith("; and it cannot be parked: WRONGTYPE")


def test_deferred_event_that_cannot_be_parked_stays_pending(policy: RetryPolicy) -> None:
    assert refused(policy, Deferred(409, "HTTP 409", 2.0), 99, attempts=9) is None


@pytest.mark.parametrize(("kind", "failures", "most"), [("exponential", 4, 8.0), ("linear", 4, 4.0)])
def test_backoff_grows_with_the_failures_and_has_a_jitter(kind: str, failures: int, most: float) -> None:
    delivery = DeliverySpec.model_validate({"backoffPolicy": kind, "backoffDelay": "PT1S"})
    delays = [backoff(delivery, failures) for _ in range(50)]
    assert all(most / 2 <= delay <= most for delay in delays)
    assert len(set(delays)) > 1


def test_no_backoff_exceeds_its_limit() -> None:
    assert backoff(DeliverySpec(), 10_000) <= 60.0
    assert probe_delay(DeliverySpec(), 10_000) <= LONGEST_PROBE
