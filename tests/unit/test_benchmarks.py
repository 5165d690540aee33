"""The table that `make bench` prints, and the table of the contenders."""

import re

import pytest

from benchmarks import report
from benchmarks.__main__ import named
from benchmarks.bench import OURS, Bench, Figure
from benchmarks.registry import BENCHES
from tests.servers import ROOT

RACES = {"drain", "latency", "hop", "pipeline", "pipeline-latency"}


def test_row_has_the_ratio_of_our_figure_to_that_of_each_contender() -> None:
    bench = Bench("hop", (Figure("rate", "one hop", "events/s"), Figure("redis", "its Redis", "CPU s/1000")))
    measured = {OURS: {"rate": 600.0, "redis": 0.5}, "other": {"rate": 400.0, "redis": 0.0}}
    rate, redis = report.rows(bench, measured)
    assert rate.as_json()["ratios"] == {"other": 1.5}
    assert redis.as_json()["ratios"] == {}  # it used nothing of its Redis


@pytest.mark.parametrize("bench", [bench for bench in BENCHES if bench.name in RACES], ids=lambda bench: bench.name)
def test_each_contender_of_a_race_is_in_the_table_with_its_promise(bench: Bench) -> None:
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", readme, re.MULTILINE)
    promises = {name.split(",")[0].split(" + ")[0]: promise for name, promise in rows}
    for contender in set(bench.contenders) - {OURS}:
        name = contender.split(",")[0].split(" + ")[0].removesuffix(" stage")
        assert any(found.startswith(name) and promises[found].strip() for found in promises), contender


def test_whole_name_chooses_one_benchmark_and_a_part_all_that_have_it() -> None:
    assert [one.name for one in named(["pipeline", "hop"])] == ["hop", "pipeline"]
    assert [one.name for one in named(["pipeline-"])] == ["pipeline-alone", "pipeline-latency"]
    assert named([]) == BENCHES
