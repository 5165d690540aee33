"""What a delivery counts as, and when it is taken for a cold start."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from milepost.bridge.metrics import Metrics, RouteMetrics
from milepost.bridge.verdict import Delivered, Failed, Verdict


def delivered(*times: tuple[float, float]) -> float:
    """Cold starts seen in deliveries that began and ended at these times."""
    return judged(*((Delivered(), began, ended) for began, ended in times))


def judged(*deliveries: tuple[Verdict, float, float]) -> float:
    metrics = Metrics()
    route = RouteMetrics(metrics, "stage")
    for verdict, began, ended in deliveries:
        route.began()
        route.ended()
        route.judged(verdict, began, ended)
    return metrics.registry.value("milepost_cold_starts_total", stage="stage")


def test_the_first_of_all_may_be_one() -> None:
    assert delivered((100, 100.9)) == 1
    assert delivered((100, 100.1)) == 0


def test_a_slow_answer_amid_others_is_none() -> None:
    assert delivered((100, 100.1), (102, 103.5)) == 0


def test_a_slow_answer_after_a_silence_is_one() -> None:
    assert delivered((100, 100.1), (110, 111)) == 1


def test_what_waits_for_the_same_start_is_not_another() -> None:
    assert delivered((100, 101), (100, 101.1), (100.2, 101.1)) == 1


def test_a_failure_is_none() -> None:
    assert judged((Failed(500, "HTTP 500"), 100, 101)) == 0


def test_every_outcome_is_there_from_the_start() -> None:
    metrics = Metrics()
    RouteMetrics(metrics, "stage")
    [family] = [one for one in text_string_to_metric_families(metrics.registry.text()) if "deliveries" in one.name]
    assert {sample.labels["outcome"] for sample in family.samples} == {
        "delivered",
        "refused",
        "deferred",
        "failed",
        "crashed",
        "routedown",
    }


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_what_lasts_beyond_the_last_bound_is_still_counted(share: float) -> None:
    metrics = Metrics()
    route = RouteMetrics(metrics, "stage")
    route.judged(Delivered(), 0, 500 * share)
    assert metrics.registry.value("milepost_delivery_seconds_count", stage="stage") == 1
