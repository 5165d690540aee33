"""skaffold.yaml against the table, the Dockerfile and the chart. Skaffold itself is not needed."""

import json
import re
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from tests.chart.rendering import functions, read, render
from tests.images.dockerfile import targets
from tests.servers import ROOT

CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
ARTIFACTS = {artifact["image"].rpartition("/milepost-")[2]: artifact for artifact in CONFIG["build"]["artifacts"]}
(RELEASE,) = CONFIG["deploy"]["helm"]["releases"]
STAGES = set(read("values.yaml")["stages"])


def test_it_is_of_the_schema_it_was_checked_against() -> None:
    assert CONFIG["apiVersion"] == "skaffold/v4beta14"
    assert set(CONFIG) <= {
        *("apiVersion", "kind", "metadata", "build", "deploy", "resourceSelector", "portForward", "profiles")
    }


def test_every_component_is_built_from_its_target() -> None:
    assert set(ARTIFACTS) == STAGES | {"bridge", "gateway"}
    for name, artifact in ARTIFACTS.items():
        docker = artifact["docker"]
        assert artifact["image"] == f"dev.local/milepost-{name}"
        assert docker["target"] in targets()
        assert docker["target"] == ("function" if name in STAGES else name)
        if name in STAGES:
            assert docker["buildArgs"]["STAGE"] == name


def test_every_image_reaches_the_chart() -> None:
    values = RELEASE["setValueTemplates"]
    told = {
        (f"stages.{name}.image" if name in STAGES else f"{name}.image"): re.sub(r"[/.:-]", "_", artifact["image"])
        for name, artifact in ARTIFACTS.items()
    }
    assert values == {path: f"{{{{.IMAGE_FULLY_QUALIFIED_{image}}}}}" for path, image in told.items()}
    given: dict[str, Any] = {}
    for path in values:
        inner = given
        *outer, last = path.split(".")
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = f"image-of/{path}:1"
    text = json.dumps(
        render(*[file.removeprefix("helm/") for file in RELEASE["valuesFiles"]], {"existingSecret": "x"}, given)
    )
    assert all(f"image-of/{path}:1" in text for path in values)
    assert "dev.local/" not in text


def test_what_is_synced_lies_where_the_image_has_it() -> None:
    for name in STAGES:
        rules = ARTIFACTS[name]["sync"]["manual"]
        assert {rule["dest"] for rule in rules} == {"/app"}
        synced = {
            str(path.relative_to(ROOT)) for rule in rules for path in ROOT.glob(rule["src"]) if path.suffix == ".py"
        }
        assert f"functions/{name}/main.py" in synced
        assert all(PurePosixPath(path).parts[1] in {name, PurePosixPath(path).name} for path in synced)


def test_what_is_synced_may_be_written_and_counts_at_once() -> None:
    dev = render(*[file.removeprefix("helm/") for file in RELEASE["valuesFiles"]], {"existingSecret": "x"})
    for name, service in functions(dev).items():
        template = service["spec"]["template"]
        (found,) = template["spec"]["containers"]
        assert found["securityContext"]["readOnlyRootFilesystem"] is False
        assert str(found["securityContext"]["runAsUser"]) == ARTIFACTS[name]["docker"]["buildArgs"]["OWNER"]
        assert {"name": "UVICORN_RELOAD", "value": "true"} in found["env"]
        assert template["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] == "1"


def test_a_run_makes_no_new_revision() -> None:
    assert CONFIG["resourceSelector"]["deny"] == [
        {"groupKind": "Service.serving.knative.dev", "labels": [".spec.template.metadata.labels"]}
    ]
    selectors = json.loads((ROOT / "knative" / "status-check.json").read_text())["selectors"]
    assert re.fullmatch(selectors[0]["group"], "serving.knative.dev")
    assert selectors[0]["kind"] == "Service"


def test_the_gateway_is_forwarded() -> None:
    (forward,) = CONFIG["portForward"]
    names = {found["metadata"]["name"] for found in render({"existingSecret": "x"}) if found["kind"] == "Service"}
    assert forward["resourceName"] in names
    assert (forward["port"], forward["localPort"]) == (80, 8000)


@pytest.mark.parametrize("profile", ["minikube", "broker", "prod"])
def test_a_profile_patches_what_is_there(profile: str) -> None:
    (found,) = [one for one in CONFIG["profiles"] if one["name"] == profile]
    for patch in found.get("patches", []):
        inner: Any = CONFIG
        for part in patch["path"].strip("/").split("/"):
            inner = inner[int(part) if isinstance(inner, list) else part]
        assert patch["op"] in {"replace", "remove"}
        assert ("value" in patch) == (patch["op"] == "replace")
