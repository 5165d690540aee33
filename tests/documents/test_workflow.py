"""The workflow of the forge runs the same targets as a contributor."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.servers import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def steps(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Every step of every job of a workflow."""
    workflow = yaml.safe_load(request.param.read_text())
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_every_make_target_that_is_called_exists(steps: list[dict[str, Any]]) -> None:
    called = {name for step in steps for name in re.findall(r"^make ([\w-]+)", step.get("run", ""), re.MULTILINE)}
    assert {"check", "test", "faults", "cluster"} <= called <= TARGETS


def test_every_action_is_one_certain_commit_and_says_its_version() -> None:
    used = [line for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    for line in used:
        assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$", line), line


def test_newest_versions_are_tried_by_a_job_that_may_fail() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    assert workflow["jobs"]["newest"]["continue-on-error"] is True
    assert {job for job, of in workflow["jobs"].items() if of.get("continue-on-error")} == {"newest"}
    (named,) = re.findall(r"^NEWEST := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"redis", "uvicorn", "uvloop", "functions-framework"} <= set(named.split())


def test_every_supported_python_is_tried() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    tried = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert tried[0] == least
    assert len(tried) == len(set(tried)) == 4
