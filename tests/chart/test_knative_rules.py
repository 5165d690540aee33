"""Rules of Knative that no schema has: fields that it ignores or misreads, or rejects only on a cluster."""

import re
from typing import Any

import pytest

from tests.chart.rendering import SECRET, Object, container, functions, merged, of_kind, only, read, render

BROKER = merged(SECRET, {"delivery": "broker"})
MODES: dict[str, tuple[str | dict[str, Any], ...]] = {
    "default": (SECRET,),
    "broker": (BROKER,),
    "dev": ("values-dev.yaml", SECRET),
    "prod": ("values-prod.yaml",),
}


@pytest.fixture(params=MODES)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return render(*MODES[request.param])


def test_autoscaling_is_annotated_on_the_template_in_strings(objects: list[Object]) -> None:
    for service in functions(objects).values():
        annotations = service["spec"]["template"]["metadata"]["annotations"]
        scaling = {name for name in annotations if name.startswith("autoscaling.knative.dev/")}
        known = {f"autoscaling.knative.dev/{name}" for name in ("min-scale", "max-scale", "window")}
        assert scaling - {"autoscaling.knative.dev/target"} == known
        assert all(isinstance(value, str) for value in annotations.values())
        assert "annotations" not in service["metadata"]


def test_visibility_is_a_label_of_the_service_itself() -> None:
    label = "networking.knative.dev/visibility"
    for service in functions(render(SECRET)).values():
        assert service["metadata"]["labels"][label] == "cluster-local"
        assert label not in service["spec"]["template"]["metadata"]["labels"]
    for service in functions(render("values-dev.yaml", SECRET)).values():
        assert label not in service["metadata"]["labels"], "public is the absence of the label"


def test_no_immutable_field_is_templated(objects: list[Object]) -> None:
    for service in functions(objects).values():
        assert "name" not in service["spec"]["template"]["metadata"]
        assert "serving.knative.dev/" not in str(service["metadata"]) + str(service["spec"]["template"]["metadata"])


def test_a_new_chart_version_alone_makes_no_new_revision(objects: list[Object]) -> None:
    for service in functions(objects).values():
        labels = service["spec"]["template"]["metadata"]["labels"]
        assert {name.rpartition("/")[2] for name in labels} == {"name", "instance", "component"}


def test_no_probe_slows_a_cold_start_and_no_cpu_limit_either(objects: list[Object]) -> None:
    for service in functions(objects).values():
        found = container(service)
        assert not {"startupProbe", "readinessProbe", "livenessProbe"} & set(found)
        assert "cpu" not in found["resources"]["limits"]
        assert set(found["resources"]["requests"]) == {"cpu", "memory"}


def test_no_field_is_used_that_knative_has_switched_off(objects: list[Object]) -> None:
    allowed = {
        *("serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "imagePullSecrets"),
        *("containerConcurrency", "timeoutSeconds", "containers"),
    }
    for service in functions(objects).values():
        assert set(service["spec"]["template"]["spec"]) <= allowed
        assert "fieldRef" not in str(service)
        assert service["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
        assert container(service)["ports"] == [{"containerPort": 8080}]


def test_functions_scale_to_zero_by_default() -> None:
    for service in functions(render(SECRET)).values():
        annotations = service["spec"]["template"]["metadata"]["annotations"]
        assert annotations["autoscaling.knative.dev/min-scale"] == "0"


def test_local_images_are_not_looked_up_in_a_registry() -> None:
    """Knative does not resolve images of dev.local. It would pull a tag `latest`."""
    images = [container(service)["image"] for service in functions(render("values-dev.yaml", SECRET)).values()]
    assert all(re.fullmatch(r"dev\.local/milepost-[a-z0-9-]+:\d+\.\d+\.\d+", image) for image in images)


def test_outside_the_laptop_images_come_from_the_registry_named() -> None:
    for service in functions(render("values-prod.yaml", {"image": {"registry": "ghcr.io/me", "tag": "7"}})).values():
        assert container(service)["image"].startswith("ghcr.io/me/milepost-")
        assert container(service)["image"].endswith(":7")


# Broker mode


def test_triggers_filter_by_the_exact_type() -> None:
    filters = {found["metadata"]["name"]: found["spec"]["filter"] for found in of_kind(render(BROKER), "Trigger")}
    for name, entry in read("values.yaml")["stages"].items():
        assert filters[f"milepost-{name}"] == {"attributes": {"type": entry["consumes"]}}
        reply = {"attributes": {"type": entry["emits"]}} if "emits" in entry else None
        assert filters.get(f"milepost-{name}-reply") == reply


def test_a_stages_trigger_leads_to_it_and_gives_up_into_the_bridge() -> None:
    objects = render(BROKER)
    for name, service in functions(objects).items():
        spec = only(objects, "Trigger", f"milepost-{name}")["spec"]
        assert spec["subscriber"]["ref"]["name"] == service["metadata"]["name"]
        assert spec["delivery"]["deadLetterSink"]["uri"] == f"/dead/{name}"
        assert spec["delivery"]["deadLetterSink"]["ref"]["name"] == "milepost-bridge"
        assert {"retry", "backoffPolicy", "backoffDelay", "timeout"} < set(spec["delivery"])


def test_replies_come_back_to_the_bridge_at_the_port_its_service_has() -> None:
    objects = render(BROKER)
    for name in (name for name, entry in read("values.yaml")["stages"].items() if "emits" in entry):
        subscriber = only(objects, "Trigger", f"milepost-{name}-reply")["spec"]["subscriber"]
        assert (subscriber["ref"]["name"], subscriber["uri"]) == ("milepost-bridge", "/replies")
    # A reference to a Service is resolved to its name without a port.
    service = only(objects, "Service", "milepost-bridge", "v1")
    assert [port["port"] for port in service["spec"]["ports"]] == [80]


def test_a_stages_delivery_overrides_the_brokers() -> None:
    layer = {"stages": {"store": {"delivery": {"retry": 1, "crashRetry": 9}}}}
    delivery = only(render(merged(BROKER, layer)), "Trigger", "milepost-store")["spec"]["delivery"]
    assert delivery["retry"] == 1
    assert delivery["backoffDelay"] == "PT0.5S"
    assert "crashRetry" not in delivery
    assert "retryAfterMax" not in delivery


def test_the_bridge_is_bound_to_the_broker() -> None:
    objects = render(BROKER)
    broker = only(objects, "Broker")
    binding = only(objects, "SinkBinding")["spec"]
    assert binding["sink"]["ref"]["name"] == broker["metadata"]["name"]
    assert binding["subject"]["name"] == only(objects, "Deployment", "milepost-bridge")["metadata"]["name"]
    assert "async-handler" not in str(broker), "it answers before the event is delivered"


def test_direct_mode_has_no_object_of_eventing() -> None:
    assert not {"Broker", "Trigger", "SinkBinding"} & {found["kind"] for found in render(SECRET)}
