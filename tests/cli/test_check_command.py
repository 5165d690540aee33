"""`milepost check`."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.servers import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The part of a project that the command reads."""
    for name in ("functions/payloads.py", "helm/values.yaml"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_unchanged_project_can_be_rolled_out_again(project: Path, on_stack: Command) -> None:
    found = json.loads(on_stack("check", "--project", str(project), "--json").stdout)
    assert (found["refused"], found["stages"], found["channels"], found["schemas"]) == ([], [], {}, [])


def test_breaking_changes_end_it_with_1(project: Path, on_stack: Command) -> None:
    change(project / "functions" / "payloads.py", "    long: Longitude\n", "    long: Longitude\n    name: str\n")
    change(project / "helm" / "values.yaml", "consumes: user:email", "consumes: user:mail")
    done = on_stack("check", "--project", str(project))
    assert done.code == 1
    assert "raw_input: name is required now\n" in done.stdout
    assert "no stage would consume user:email any more" in done.stdout
    assert "something would break" in done.stderr
    accepted = on_stack("check", "--project", str(project), "--json", "--accept", "raw_input", "--accept", "user:email")
    assert (json.loads(accepted.stdout)["schemas"], json.loads(accepted.stdout)["channels"]) == ([], {})


def test_without_a_gateway_it_says_that_classes_are_not_compared(
    project: Path, command: Command, redis_url: str, tmp_path: Path
) -> None:
    arguments = ("check", "--project", str(project), "--redis-url", redis_url, "--data", str(tmp_path))
    assert "payload classes not compared" in command(*arguments).stderr
    done = command(*arguments, "--gateway", "http://127.0.0.1:9")
    assert done.code == 3
    assert "no gateway answers at http://127.0.0.1:9" in done.stderr
