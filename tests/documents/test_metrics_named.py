"""Every metric, alert and outcome that a document names is one that there is."""

import re
from pathlib import Path
from typing import get_args

import pytest

from milepost.bridge.outcome import Outcome
from tests.chart.rendering import SECRET, only, render
from tests.metrics import FAMILIES
from tests.servers import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
METRICS = (ROOT / "docs" / "metrics.md").read_text()

_NAMED = re.compile(r"\bmilepost_(?!function_…)[a-z_]+\b(?!\.py)")
_SUFFIX = re.compile(r"_(bucket|count|sum)$")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_metric_named_in_a_document_exists(document: Path) -> None:
    for name in set(_NAMED.findall(document.read_text())):
        assert name in FAMILIES or _SUFFIX.sub("", name) in FAMILIES, name


def test_every_outcome_is_explained() -> None:
    for kind in get_args(Outcome):
        assert f"| `{kind.__name__.lower()}` |" in METRICS


def test_every_alert_is_explained() -> None:
    [group] = only(render(SECRET, {"prometheusRule": {"enabled": True}}), "PrometheusRule")["spec"]["groups"]
    for rule in group["rules"]:
        assert f"| `{rule['alert']}` |" in METRICS
