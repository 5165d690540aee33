"""The text that Prometheus reads, against the parser of its own client."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from milepost.exposition import SECONDS, Registry


def parsed(registry: Registry) -> dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]]:
    """Family → (sample, labels) → value."""
    return {
        family.name: {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(registry.text())
    }


def test_a_counter_is_read_with_its_labels() -> None:
    registry = Registry()
    family = registry.counter("made_total", "Things made", "stage", "outcome")
    family.labels("one", "done").inc()
    family.labels("one", "done").inc(2)
    family.labels("two", "lost").inc()
    assert parsed(registry)["made"] == {
        ("made_total", (("outcome", "done"), ("stage", "one"))): 3,
        ("made_total", (("outcome", "lost"), ("stage", "two"))): 1,
    }
    assert registry.value("made_total", stage="one", outcome="done") == 3
    assert registry.value("made_total", stage="three", outcome="done") == 0


def test_what_has_no_labels_is_there_from_the_start() -> None:
    registry = Registry()
    registry.gauge("leading", "Whether it leads")
    assert parsed(registry)["leading"] == {("leading", ()): 0}


def test_a_histogram_counts_up_to_each_bound() -> None:
    registry = Registry()
    times = registry.histogram("took_seconds", "How long").labels()
    for seconds in (0.001, 0.0011, 0.2, 1000):
        times.observe(seconds)
    found = parsed(registry)["took_seconds"]
    buckets = {float(labels[0][1]): value for (name, labels), value in found.items() if name.endswith("_bucket")}
    assert list(buckets) == [*SECONDS, math.inf]
    assert (buckets[0.001], buckets[0.0025], buckets[0.1], buckets[0.25], buckets[60.0], buckets[math.inf]) == (
        1,
        2,
        2,
        3,
        3,
        4,
    )
    assert found["took_seconds_count", ()] == 4
    assert found["took_seconds_sum", ()] == pytest.approx(1000.2021)


@pytest.mark.parametrize("text", ['"', "\\", "\n", "\\n", "a\\", "\udc80 half", "ä€😀"])
def test_no_label_breaks_out_of_its_quotes(text: str) -> None:
    registry = Registry()
    registry.counter("made_total", 'Help with \\ and\na second line "quoted"', "name").labels(text).inc()
    [(_, labels)] = parsed(registry)["made"]
    assert labels == (("name", text.encode(errors="replace").decode()),)


def test_what_is_looked_up_is_looked_up_anew() -> None:
    registry = Registry()
    depth = registry.gauge("depth", "How much waits", "stage")
    seen = iter([3, 1])

    def look() -> None:
        depth.clear()
        depth.labels(f"stage-{next(seen)}").set(1)

    registry.before(look)
    assert list(parsed(registry)["depth"]) == [("depth", (("stage", "stage-3"),))]
    assert list(parsed(registry)["depth"]) == [("depth", (("stage", "stage-1"),))]


def test_labels_that_are_missing_are_told() -> None:
    with pytest.raises(ValueError, match="stage, outcome"):
        Registry().counter("made_total", "Things made", "stage", "outcome").labels("one")
