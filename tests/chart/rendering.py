"""Renders the chart by the real Helm (its SDK), and finds objects in the result."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml
from helm_python import Chart

from tests.servers import ROOT

HELM = ROOT / "helm"
NAME = NAMESPACE = "milepost"
SECRET = {"existingSecret": "milepost"}
"""Without a Secret the chart makes passwords, and it refuses to do that without a cluster."""

Object = dict[str, Any]


@cache
def chart() -> Chart:
    return Chart.load(HELM)


def read(file: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((HELM / file).read_text())
    return values


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values as Helm does: maps by key; of anything else the later one counts."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            before = result.get(key)
            both = isinstance(before, Mapping) and isinstance(value, Mapping)
            result[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def render_files(*layers: str | Mapping[str, Any]) -> dict[str, str]:
    """Return template -> text for these layers of values: names of files under helm/, or maps."""
    values = merged(*(read(layer) if isinstance(layer, str) else layer for layer in layers))
    rendered = chart().render(values, name=NAME, namespace=NAMESPACE)
    return {path.removeprefix("milepost/templates/"): text for path, text in rendered.items()}


def render(*layers: str | Mapping[str, Any]) -> list[Object]:
    """Return every rendered object."""
    return [
        document
        for path, text in render_files(*layers).items()
        if path != "NOTES.txt"
        for document in yaml.safe_load_all(text)
        if document
    ]


def only(objects: list[Object], kind: str, name: str = "", group: str = "") -> Object:
    """Return the one object of a kind, name and API group."""
    (found,) = [
        found
        for found in objects
        if found["kind"] == kind
        and (not name or found["metadata"]["name"] == name)
        and (not group or found["apiVersion"].startswith(group))
    ]
    return found


def of_kind(objects: list[Object], kind: str, group: str = "") -> list[Object]:
    return [found for found in objects if found["kind"] == kind and found["apiVersion"].startswith(group)]


def functions(objects: list[Object]) -> dict[str, Object]:
    """Return stage -> Knative Service."""
    return {
        service["metadata"]["labels"]["app.kubernetes.io/component"]: service
        for service in of_kind(objects, "Service", "serving.knative.dev")
    }


def pod_specs(objects: list[Object]) -> dict[str, Object]:
    """kind/name -> the pod's spec, of every object with one."""
    return {
        f"{found['kind']}/{found['metadata']['name']}": found["spec"]
        if found["kind"] == "Pod"
        else found["spec"]["template"]["spec"]
        for found in objects
        if found["kind"] == "Pod" or "template" in found.get("spec", {})
    }


def container(found: Object) -> Object:
    """Return the one container of a workload."""
    (one,) = found["spec"]["template"]["spec"]["containers"]
    return dict(one)


def environment(one: Object, secrets: Mapping[str, str]) -> dict[str, str]:
    """Resolve a container's `env` as a kubelet does: Secrets by key, and $(NAME) of earlier variables."""
    result: dict[str, str] = {}
    for variable in one["env"]:
        value = variable.get("value") or secrets[variable["valueFrom"]["secretKeyRef"]["key"]]
        for name, known in result.items():
            value = value.replace(f"$({name})", known)
        result[variable["name"]] = value
    return result
