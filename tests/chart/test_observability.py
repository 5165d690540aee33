"""Dashboard, alerts and scraping: they name metrics that exist, and are rendered only on request."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart.rendering import HELM, SECRET, Object, container, functions, of_kind, only, read, render
from tests.metrics import FAMILIES

WANTED = {
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True},
}

OF_PROMETHEUS = {"namespace"}
"""Labels that Prometheus adds to scraped metrics."""

_METRIC = re.compile(r"(milepost_\w+?)(_bucket|_count|_sum)?(?:\{([^}]*)\})?(?=[^\w{]|$)")
_BY = re.compile(r"by \(([^)]*)\)")


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return render(SECRET, WANTED)


@pytest.fixture(scope="module")
def dashboard(objects: list[Object]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(only(objects, "ConfigMap", "milepost-dashboard")["data"]["milepost.json"])
    return found


@pytest.fixture(scope="module")
def rules(objects: list[Object]) -> list[dict[str, Any]]:
    [group] = only(objects, "PrometheusRule")["spec"]["groups"]
    return list(group["rules"])


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def check(expression: str) -> None:
    """Check that the code has each metric of an expression, and each of its labels."""
    found = _METRIC.findall(expression)
    assert found, expression
    labels: set[str] = set(OF_PROMETHEUS)
    for name, suffix, matchers in found:
        family = FAMILIES[name]
        assert (family.kind == "histogram") == bool(suffix), name
        labels |= {*family.names, *(["le"] if suffix == "_bucket" else [])}
        matched = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', matchers))
        assert matched <= {*family.names, *OF_PROMETHEUS}, expression
        assert "namespace" in matched, "of another release's Milepost too"
    for by in _BY.findall(expression):
        assert {label.strip() for label in by.split(",")} <= labels, expression
    assert expression.count("(") == expression.count(")")
    assert expression.count("{") == expression.count("}")


def test_every_metric_of_the_dashboard_exists(dashboard: dict[str, Any]) -> None:
    found = list(expressions(dashboard))
    assert len(found) > 15
    for expression in found:
        check(expression)


def test_every_metric_of_the_alerts_exists(rules: list[dict[str, Any]]) -> None:
    for rule in rules:
        check(rule["expr"])


@pytest.mark.parametrize("wrong", ['rate(milepost_gone_total{namespace="x"}[5m])', "sum(milepost_leading)"])
def test_alert_on_an_unknown_metric_is_found(wrong: str) -> None:
    with pytest.raises((KeyError, AssertionError)):
        check(wrong)


def test_dashboard_shows_the_metrics_of_every_component(dashboard: dict[str, Any]) -> None:
    """Except metrics whose content another one shows too."""
    shown = {name for expression in expressions(dashboard) for name, _, _ in _METRIC.findall(expression)}
    told_by_others = {"milepost_dead_letters_total", "milepost_gateway_in_flight"}
    assert set(FAMILIES) - shown == told_by_others


def test_dashboard_can_be_imported(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken)), "panels overlap"


def test_grafanas_sidecar_finds_it(objects: list[Object]) -> None:
    assert only(objects, "ConfigMap", "milepost-dashboard")["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_each_alert_has_a_summary_and_a_description(rules: list[dict[str, Any]]) -> None:
    assert {rule["alert"] for rule in rules} == {
        "MilepostBridgeAbsent",
        "MilepostNoLeaseHolder",
        "MilepostLeaderless",
        "MilepostBacklogUnknown",
        "MilepostStageUnread",
        "MilepostBacklogOld",
        "MilepostStagePaused",
        "MilepostDeadLetters",
        "MilepostUnservedDropped",
        "MilepostStageFailing",
    }
    for rule in rules:
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["for"]


def test_how_far_a_stage_may_be_behind_is_a_value() -> None:
    given = {"prometheusRule": {"enabled": True, "oldestEventSeconds": 3600}}
    [group] = only(render(SECRET, given), "PrometheusRule")["spec"]["groups"]
    [rule] = [rule for rule in group["rules"] if rule["alert"] == "MilepostBacklogOld"]
    assert rule["expr"].endswith("> 3600")


def test_the_operators_of_prometheus_find_the_rules(objects: list[Object]) -> None:
    assert only(objects, "PrometheusRule")["metadata"]["labels"]["release"] == "prometheus"


def test_monitoring_objects_are_off_by_default() -> None:
    objects = render(SECRET)
    for kind in ("ServiceMonitor", "PrometheusRule", "ConfigMap"):
        assert [found for found in of_kind(objects, kind) if "dashboard" in found["metadata"]["name"]] == []
    assert of_kind(objects, "PrometheusRule") == []


def test_policies_admit_the_scraping_namespace(objects: list[Object]) -> None:
    namespace = read("values.yaml")["networkPolicy"]["monitoringNamespace"]
    for stage in functions(objects):
        policy = only(objects, "NetworkPolicy", f"milepost-{stage}")
        allowed = [
            peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            for rule in policy["spec"]["ingress"]
            for peer in rule["from"]
        ]
        assert namespace in allowed
    assert namespace not in str(of_kind(render(SECRET), "NetworkPolicy"))


def test_the_operators_token_comes_from_a_secret() -> None:
    gateway = only(render(SECRET, {"gateway": {"opsTokenSecret": "ops"}}), "Deployment", "milepost-gateway")
    [token] = [variable for variable in container(gateway)["env"] if variable["name"] == "OPS_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"] == {"name": "ops", "key": "ops-token"}
    plain = only(render(SECRET), "Deployment", "milepost-gateway")
    assert "OPS_TOKEN" not in {variable["name"] for variable in container(plain)["env"]}


def test_the_dashboard_is_one_file() -> None:
    assert json.loads((HELM / "files" / "dashboard.json").read_text())["title"] == "Milepost"
