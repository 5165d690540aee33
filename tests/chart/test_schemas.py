"""Validates every rendered object against the schemas of Kubernetes and Knative, for several combinations of values."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import helm_python
import kubernetes_validate
import pytest

from tests.chart.rendering import HELM, SECRET, Object, merged, of_kind, read, render

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fields that shadow those of their base class
    from cloudcoil.models.knative_eventing.eventing.v1 import Broker, Trigger
    from cloudcoil.models.knative_eventing.sources.v1 import SinkBinding
    from cloudcoil.models.knative_serving.serving.v1 import Service

KNATIVE = {"Service": Service, "Broker": Broker, "Trigger": Trigger, "SinkBinding": SinkBinding}
OLDEST = "1.34"
"""The oldest Kubernetes that Knative Serving 1.23 runs on."""

NOT_MODELLED = {"spec.delivery.timeout"}
"""A field of a Trigger: an optional feature that the shipped config-features enables. The CRD leaves it open."""

BROKER = {"delivery": "broker"}
OUTSIDE = {
    "redis": {"url": "rediss://:hush@redis.example.org:6380", "port": 6380},
    "mongo": {"url": "mongodb+srv://u:hush@mongo.example.org/db"},
}
EVERYTHING = {
    "image": {"pullSecrets": ["registry"], "tag": "1.2.3"},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True},
    "upgrade": {"check": True, "accept": ["geocode"]},
    "gateway": {
        "opsTokenSecret": "ops",
        "ingress": {"enabled": True, "className": "kong", "host": "milepost.example.org", "annotations": {"a": "b"}},
    },
    "bridge": {"env": {"WINDOW": "64"}, "allowFrom": [{"namespaceSelector": {}}]},
    "redis": {"storage": {"className": "fast"}},
    "mongo": {"storage": {"className": "fast"}},
    "broker": {"config": {"apiVersion": "v1", "kind": "ConfigMap", "name": "kafka", "namespace": "knative-eventing"}},
    "stages": {
        "email": {
            "secretEnv": {"SMTP_URL": {"name": "smtp", "key": "url"}},
            "egress": [{"ports": [{"protocol": "TCP", "port": 587}]}],
            "env": {"MAIL_FROM": "Milepost <m@example.org>"},
            "delivery": {"retry": 2, "timeout": "PT1M30S"},
        }
    },
}

COMBINATIONS: dict[str, tuple[str | Mapping[str, Any], ...]] = {
    "default": (SECRET,),
    "default-broker": (SECRET, BROKER),
    "dev": ("values-dev.yaml", SECRET),
    "dev-broker": ("values-dev.yaml", SECRET, BROKER),
    "prod": ("values-prod.yaml",),
    "prod-broker": ("values-prod.yaml", BROKER),
    "outside": (OUTSIDE,),
    "everything": (SECRET, EVERYTHING),
    "everything-broker": (SECRET, EVERYTHING, BROKER),
    "no-policies": (SECRET, {"networkPolicy": {"enabled": False}}),
}


@pytest.fixture(params=COMBINATIONS, scope="module")
def layers(request: pytest.FixtureRequest) -> tuple[str | Mapping[str, Any], ...]:
    return COMBINATIONS[request.param]


@pytest.fixture(scope="module")
def objects(layers: tuple[str | Mapping[str, Any], ...]) -> list[Object]:
    return render(*layers)


def test_helm_lints_it_without_a_warning(layers: tuple[str | Mapping[str, Any], ...]) -> None:
    values = merged(*(read(layer) if isinstance(layer, str) else layer for layer in layers))
    report = helm_python.lint(HELM, values, strict=True, kube_version="v1.34.0")
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_oldest_kubernetes_schema_knows_every_field(objects: list[Object]) -> None:
    check(objects, OLDEST)


def test_newest_kubernetes_schema_knows_every_field() -> None:
    check(render(SECRET, EVERYTHING, BROKER), kubernetes_validate.latest_version())


def check(objects: list[Object], version: str) -> None:
    foreign = ("knative.dev", "monitoring.coreos.com")
    own = [found for found in objects if not any(group in found["apiVersion"] for group in foreign)]
    assert len(own) > 10
    for found in own:
        kubernetes_validate.validate(found, version, strict=True)


def test_knative_knows_every_field(objects: list[Object]) -> None:
    knative = [found for found in objects if "knative.dev" in found["apiVersion"]]
    assert len(knative) >= 3
    for found in knative:
        kept = KNATIVE[found["kind"]].model_validate(found).model_dump(by_alias=True, mode="json", exclude_unset=True)
        # The models drop what they do not know without a word.
        assert set(lost(found, kept)) <= NOT_MODELLED, f"{found['kind']}/{found['metadata']['name']}"


def test_misspelt_field_is_lost_by_the_models() -> None:
    spec = {"containers": [{"image": "x"}], "timeoutSecond": 1}
    found = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "spec": {"template": {"spec": spec}}}
    kept = Service.model_validate(found).model_dump(by_alias=True, mode="json", exclude_unset=True)
    assert list(lost(found, kept)) == ["spec.template.spec.timeoutSecond"]


def lost(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of values that the second object lacks."""
    if isinstance(before, dict):
        for key, value in before.items():
            where = f"{path}.{key}".lstrip(".")
            if not isinstance(after, dict) or key not in after:
                yield where
            else:
                yield from lost(value, after[key], where)
    elif isinstance(before, list):
        if not isinstance(after, list) or len(after) != len(before):
            yield path
        else:
            for index, value in enumerate(before):
                yield from lost(value, after[index], f"{path}[{index}]")
    elif str(before) != str(after):
        yield f"{path}: {before!r} became {after!r}"


def test_no_two_objects_have_one_name(objects: list[Object]) -> None:
    names = [(found["apiVersion"].split("/")[0], found["kind"], found["metadata"]["name"]) for found in objects]
    assert len(names) == len(set(names))
    assert {found["metadata"]["namespace"] for found in objects} == {"milepost"}


def test_a_service_monitor_scrapes_bridge_and_gateway_where_one_is_wanted() -> None:
    monitors = of_kind(render(SECRET, EVERYTHING), "ServiceMonitor")
    for monitor in monitors:
        assert monitor["spec"]["endpoints"] == [{"port": "http", "path": "/metrics", "interval": "30s"}]
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
    scraped = [monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] for monitor in monitors]
    assert scraped == ["bridge", "gateway"]
    assert of_kind(render(SECRET), "ServiceMonitor") == []
