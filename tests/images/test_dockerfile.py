"""Checks of the Dockerfile's text."""

import re
from pathlib import Path

import pytest

from milepost import stage_values
from tests.images.component import locked
from tests.images.dockerfile import TEXT, Image, ignored, instructions, stages, targets
from tests.servers import ROOT

STAGES = [entry.name for entry in stage_values.read(ROOT)]
IMAGES = [("bridge", {}), ("gateway", {}), *(("function", {"STAGE": stage}) for stage in STAGES)]


@pytest.fixture(params=IMAGES, ids=lambda image: image[1].get("STAGE", image[0]))
def image(request: pytest.FixtureRequest) -> Image:
    target, arguments = request.param
    return Image(target, **arguments)


def files(image: Image, folder: Path) -> set[str]:
    image.lay(folder)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_dockerfile_has_a_target_for_each_kind_of_component() -> None:
    assert targets() == {"function", "gateway", "bridge"}


def test_every_component_has_a_lock_file_of_its_own(image: Image) -> None:
    assert image.requirements.is_file(), "COMPONENTS of the Makefile, and make lock"


def test_any_base_image_will_do() -> None:
    assert "ARG BASE=python:3.13-slim" in TEXT
    froms = [rest for name, rest in instructions() if name == "FROM"]
    assert froms[0] == "${BASE} AS python"
    assert not TEXT.startswith("# syntax"), "that would pull a front end"
    assert "--mount" not in TEXT, "older buildahs and podmans have no cache mounts"


def test_no_index_host_is_named() -> None:
    for text in [TEXT, *(path.read_text() for path in (ROOT / "requirements").glob("*.txt"))]:
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host", text)


def test_it_runs_as_a_numeric_user_and_in_exec_form(image: Image) -> None:
    assert image.user == "65532:65532"
    assert image.command[0] in {"uvicorn", "python3"}


def test_the_process_listens_where_the_chart_says(image: Image) -> None:
    assert (image.env.get("PORT") or image.env.get("UVICORN_PORT")) == "8080"
    assert (image.env.get("HOST") or image.env.get("UVICORN_HOST")) == "0.0.0.0"  # noqa: S104 - in a container


def test_every_install_checks_hashes_and_compiles() -> None:
    installs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert len(installs) == 4
    assert "PIP_REQUIRE_HASHES=1" in TEXT
    assert all("compileall" in rest and "unchecked-hash" in rest for rest in installs)
    code = [rest for name, rest in instructions() if name == "RUN" and re.search(r" /app(/functions)?$", rest)]
    assert len(code) == 4
    assert all("checked-hash" in rest and "unchecked" not in rest for rest in code), "files are synced into pods"


def test_function_images_begin_with_the_same_layers() -> None:
    """A layer that names the stage, and each after it, is in the image of that stage alone."""
    name, layers = "function", []
    while name in stages():
        name, steps = stages()[name][0], stages()[name][1]
        layers = [*steps, *layers]
    own = [number for number, (_, rest) in enumerate(layers) if "${STAGE}" in rest or "function-dependencies" in rest]
    shared = " ".join(rest for _, rest in layers[: own[0]])
    assert "--from=stage-dependencies /opt/venv" in shared
    assert "milepost/function" in shared


@pytest.mark.parametrize("stage", STAGES)
def test_a_function_lock_has_what_every_stage_has_in_the_same_version(stage: str) -> None:
    assert locked(ROOT / "requirements" / "stage.txt").items() <= locked(ROOT / "requirements" / f"{stage}.txt").items()


@pytest.mark.parametrize("stage", STAGES)
def test_a_function_image_holds_its_own_stage_only(stage: str, tmp_path: Path) -> None:
    found = files(Image("function", STAGE=stage), tmp_path)
    assert {path.split("/")[1] for path in found if path.startswith("functions/") and path.count("/") > 1} == {stage}
    assert {"functions/payloads.py", f"functions/{stage}/main.py", "milepost/function/stage.py"} <= found
    assert not [path for path in found if path.startswith(("milepost/bridge", "milepost/journal", "gateway"))]


def test_a_project_in_a_folder_of_its_own_has_the_same_images(tmp_path: Path) -> None:
    image = Image("function", STAGE="summarise", PROJECT="examples/feeds", LOCK="stage")
    assert image.requirements == ROOT / "requirements" / "stage.txt"
    found = files(image, tmp_path)
    assert {path for path in found if not path.startswith("milepost/")} == {
        "functions/__init__.py",
        "functions/payloads.py",
        "functions/summarise/main.py",
        "functions/summarise/rss.py",
    }
    assert "Feed" in (tmp_path / "functions" / "payloads.py").read_text()


def test_no_image_holds_code_that_it_does_not_run(image: Image, tmp_path: Path) -> None:
    found = files(image, tmp_path)
    kept_out = ("milepost/cli", "milepost/testing", "tests", "helm", "requirements", ".git")
    assert not [path for path in found if path.startswith(kept_out)]
    assert not [path for path in found if path.endswith(".pyc")]


@pytest.mark.parametrize(
    ("target", "arguments", "without"),
    [
        ("function", {"STAGE": "distance"}, ["pymongo", "redis", "aiohttp", "fastapi", "aiosmtplib", "httpx"]),
        ("function", {"STAGE": "store"}, ["redis", "aiohttp", "geopy", "fastapi", "aiosmtplib"]),
        ("function", {"STAGE": "email"}, ["redis", "aiohttp", "geopy", "fastapi"]),
        ("bridge", {}, ["pymongo", "fastapi", "functions-framework", "geopy", "aiohttp"]),
        ("gateway", {}, ["pymongo", "functions-framework", "geopy", "aiohttp"]),
    ],
    ids=str,
)
def test_an_image_has_no_library_of_another_component(
    target: str, arguments: dict[str, str], without: list[str]
) -> None:
    assert not set(without) & set(locked(Image(target, **arguments).requirements))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("functions/distance/main.py", False),
        ("milepost/journal/lua/publish.lua", False),
        ("gateway/templates/base.html", False),
        ("requirements/bridge.txt", False),
        ("examples/feeds/functions/digest/main.py", False),
        ("examples/feeds/receiver.py", True),
        ("examples/feeds/functions/__pycache__/payloads.cpython-311.pyc", True),
        ("milepost/cli/app.py", True),
        ("milepost/testing/pipeline.py", True),
        ("milepost/__pycache__/event.cpython-311.pyc", True),
        ("README.md", True),
        (".git/config", True),
        ("helm/values.yaml", True),
        ("tests/servers.py", True),
        (".milepost/stack.json", True),
    ],
)
def test_dockerignore_hides_all_other_files(path: str, expected: bool) -> None:
    assert ignored(ROOT / path) is expected
