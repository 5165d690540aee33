"""skaffold.yaml against the stages in helm/values.yaml, the Dockerfile and the chart. Skaffold itself is not needed."""

import json
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import container, functions, only, read, render
from tests.images.dockerfile import Image, targets
from tests.servers import ROOT

CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
ARTIFACTS = {artifact["image"].rpartition("/milepost-")[2]: artifact for artifact in CONFIG["build"]["artifacts"]}
(RELEASE,) = CONFIG["deploy"]["helm"]["releases"]
STAGES = set(read("values.yaml")["stages"])


def test_skaffold_schema_version_is_pinned() -> None:
    assert CONFIG["apiVersion"] == "skaffold/v4beta14"
    assert set(CONFIG) <= {
        *("apiVersion", "kind", "metadata", "build", "deploy", "resourceSelector", "portForward", "profiles")
    }


def image(name: str) -> Image:
    return Image("function", STAGE=name) if name in STAGES else Image(name)


def code(rules: list[str], without: list[str]) -> set[str]:
    """Return the files that these patterns of skaffold.yaml match."""
    return {
        str(path.relative_to(ROOT))
        for rule in rules
        for path in ROOT.glob(rule)
        if path.is_file() and not any(fnmatch(str(path.relative_to(ROOT)), pattern) for pattern in without)
    }


def test_every_component_is_built_by_the_script() -> None:
    assert set(ARTIFACTS) == STAGES | {"bridge", "gateway"}
    for name, artifact in ARTIFACTS.items():
        assert artifact["image"] == f"dev.local/milepost-{name}"
        assert artifact["custom"]["buildCommand"] == f"knative/build.sh {name}"


@pytest.mark.parametrize("name", ARTIFACTS)
def test_image_depends_on_its_own_files_and_no_others(name: str, tmp_path: Path) -> None:
    """Skaffold makes a tag of these files. With others among them, an edit of the gateway would make new Revisions."""
    depends = ARTIFACTS[name]["custom"]["dependencies"]
    image(name).lay(tmp_path)
    held = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    found = code(depends["paths"], depends.get("ignore", []))
    locks = {str(lock.relative_to(ROOT)) for lock in image(name).locks}
    assert found - held == {"Dockerfile", ".dockerignore", *locks}
    assert held <= found


@pytest.mark.parametrize("name", ARTIFACTS)
def test_synced_files_go_to_their_place_in_the_image(name: str) -> None:
    rules = ARTIFACTS[name]["sync"]["manual"]
    assert {rule["dest"] for rule in rules} == {image(name).workdir} == {"/app"}
    paths = ARTIFACTS[name]["custom"]["dependencies"]["paths"]
    assert [rule["src"] for rule in rules] == paths[2 + len(image(name).locks) :]


@pytest.mark.parametrize(("pushed", "name"), [(False, "email"), (False, "bridge"), (True, "email"), (True, "gateway")])
def test_build_script_builds_the_target_and_pushes_it_on_request(
    pushed: bool,
    name: str,
    tmp_path: Path,
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$DOCKER_BUILDKIT $*" >> {tmp_path}/calls\n')
    docker.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "IMAGE": "i:1", "PUSH_IMAGE": str(pushed).lower(), "BUILD_CONTEXT": "."}
    subprocess.run([ROOT / "knative" / "build.sh", name], env=env, check=True)
    build, *push = (tmp_path / "calls").read_text().splitlines()
    target = f"function --build-arg STAGE={name}" if name in STAGES else name
    owner = "" if pushed else " --build-arg OWNER=65532"
    assert build == f"1 build --target {target}{owner} -t i:1 ."
    assert target.split()[0] in targets()
    assert push == (["1 push i:1"] if pushed else [])


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


def test_synced_files_are_writable_and_reloaded() -> None:
    dev = render(*[file.removeprefix("helm/") for file in RELEASE["valuesFiles"]], {"existingSecret": "x"})
    deployments = {name: only(dev, "Deployment", f"milepost-{name}") for name in ("bridge", "gateway")}
    for workload in (functions(dev) | deployments).values():
        found = container(workload)
        assert found["securityContext"]["readOnlyRootFilesystem"] is False
        owner = found["securityContext"]["runAsUser"]
        assert f"OWNER={owner}" in (ROOT / "knative" / "build.sh").read_text()
        assert {"name": "UVICORN_RELOAD", "value": "true"} in found["env"] or "reload: " in found["command"][2]
    for service in functions(dev).values():
        template = service["spec"]["template"]
        assert template["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] == "1"


def test_skaffold_sees_the_functions_images_and_labels_no_template() -> None:
    """Skaffold 2.24 takes a kind under `deny` off its list of kinds, images included.

    An entry under `allow` replaces Skaffold's own, so that it labels only these paths.
    """
    assert CONFIG["resourceSelector"] == {
        "allow": [{"groupKind": "Service.serving.knative.dev", "image": [".*"], "labels": [".metadata.labels"]}]
    }


@pytest.mark.parametrize("answer", [0, 1])
def test_a_deployment_ends_when_the_knative_services_are_ready(answer: int, tmp_path: Path) -> None:
    (hook,) = CONFIG["deploy"]["helm"]["hooks"]["after"]
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/asked\nexit {answer}\n')
    kubectl.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SKAFFOLD_KUBE_CONTEXT": "kind-milepost"}
    assert subprocess.run(hook["host"]["command"], env=env, check=False).returncode == answer
    asked = (tmp_path / "asked").read_text()
    assert asked == "--context kind-milepost -n milepost wait ksvc --all --for=condition=Ready --timeout=10m\n"


def test_the_gateway_is_forwarded() -> None:
    (forward,) = CONFIG["portForward"]
    names = {found["metadata"]["name"] for found in render({"existingSecret": "x"}) if found["kind"] == "Service"}
    assert forward["resourceName"] in names
    assert (forward["port"], forward["localPort"]) == (80, 8000)


@pytest.mark.parametrize("profile", ["minikube", "broker", "prod"])
def test_profile_patches_existing_paths(profile: str) -> None:
    (found,) = [one for one in CONFIG["profiles"] if one["name"] == profile]
    for patch in found.get("patches", []):
        inner: Any = CONFIG
        for part in patch["path"].strip("/").split("/"):
            inner = inner[int(part) if isinstance(inner, list) else part]
        assert patch["op"] in {"replace", "remove"}
        assert ("value" in patch) == (patch["op"] == "replace")
