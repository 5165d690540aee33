"""How deliveries are counted, and which of them are cold starts."""

import pytest

from milepost.bridge.metrics import BridgeMetrics
from milepost.bridge.outcome import Crashed, Delivered, Failed, Outcome


def delivered(*times: tuple[float, float]) -> float:
    """Cold starts seen in deliveries that began and ended at these times."""
    return cold_starts(*((Delivered(), began, ended) for began, ended in times))


def cold_starts(*deliveries: tuple[Outcome, float, float]) -> float:
    metrics = BridgeMetrics()
    stage = metrics.of_stage("stage")
    for outcome, began, ended in deliveries:
        stage.delivered(outcome, began, ended)
    return metrics.registry.get_sample_value("milepost_cold_starts_total", {"stage": "stage"}) or 0.0


def test_first_delivery_may_be_a_cold_start() -> None:
    assert delivered((100, 100.9)) == 1
    assert delivered((100, 100.1)) == 0


def test_slow_response_among_others_is_no_cold_start() -> None:
    assert delivered((100, 100.1), (102, 103.5)) == 0


def test_slow_response_after_a_silence_is_a_cold_start() -> None:
    assert delivered((100, 100.1), (110, 111)) == 1


def test_deliveries_that_wait_for_the_same_start_count_once() -> None:
    assert delivered((100, 101), (100, 101.1), (100.2, 101.1)) == 1


def test_failure_is_no_cold_start() -> None:
    assert cold_starts((Failed(500, "HTTP 500"), 100, 101)) == 0


def test_every_outcome_has_a_series_from_the_start() -> None:
    metrics = BridgeMetrics()
    metrics.of_stage("stage")
    [family] = [one for one in metrics.registry.collect() if one.name == "milepost_deliveries"]
    assert {sample.labels["outcome"] for sample in family.samples} == {
        "delivered",
        "refused",
        "deferred",
        "failed",
        "crashed",
        "routedown",
    }


def test_seconds_of_deliveries_add_up() -> None:
    metrics = BridgeMetrics()
    stage = metrics.of_stage("stage")
    stage.delivered(Delivered(), 100, 100.25)
    stage.delivered(Failed(500, "HTTP 500"), 100, 100.5)
    assert metrics.registry.get_sample_value("milepost_delivery_seconds_sum", {"stage": "stage"}) == 0.75


def test_failures_are_counted_apart_from_delivered_events_for_ops() -> None:
    stage = BridgeMetrics().of_stage("stage")
    for outcome in (Delivered(), Failed(500, "HTTP 500"), Crashed("timeout"), Delivered(), Delivered()):
        stage.delivered(outcome, 100, 100)
    counts = stage.counts()
    assert (counts.delivered, counts.undelivered) == (3, 2)


def test_stage_that_is_paused_on_several_channels_is_shown_as_paused_once() -> None:
    metrics = BridgeMetrics()
    for channels, shown in ((0, 0), (1, 1), (2, 1)):
        metrics.of_stage("broker").paused = channels
        assert metrics.registry.get_sample_value("milepost_paused", {"stage": "broker"}) == shown


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_delivery_longer_than_the_last_bound_is_counted(share: float) -> None:
    metrics = BridgeMetrics()
    stage = metrics.of_stage("stage")
    stage.delivered(Delivered(), 0, 500 * share)
    assert metrics.registry.get_sample_value("milepost_delivery_seconds_count", {"stage": "stage"}) == 1
