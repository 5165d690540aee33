"""`milepost new` refuses wrong names and channels before it writes anything."""

import shutil
from pathlib import Path

import pytest

from milepost.cli import new
from milepost.cli.exits import CommandFailed
from tests.cli.conftest import Command
from tests.cli.copies import copy_of_the_repository, tree


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For runs that change nothing."""
    return copy_of_the_repository(tmp_path_factory.mktemp("copy") / "project")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Geocode", "must be a-z, 0-9 and -"),
        ("geo_code", "must be a-z"),
        ("geo-", "must be a-z"),
        ("9to5", "must be a-z"),
        ("../up", "must be a-z"),
        ("a" * 42, "at most 41 characters"),
        ("bridge", "name of a component"),
        ("broker", "name of a component"),
        ("lambda", "cannot be the name of a Python function"),
        ("print", "cannot be the name of a Python function"),
        ("stage", "cannot be the name of a Python function"),
        ("testing", "an extra in pyproject.toml"),
        ("store", "an extra in pyproject.toml"),
        ("payloads", "functions/payloads.py is there already"),
        ("store-reply", "Trigger"),
        ("store-reply-2", "Trigger"),
        ("broken", "tests/bridge/test_broken_stage.py has the name of its test"),
    ],
)
def test_a_bad_name_is_refused(copy: Path, command: Command, name: str, told: str) -> None:
    check_refused(copy, command, [name, "--on", "raw_input", "--emits", "specimen:taken"], told)


@pytest.mark.parametrize(
    ("on", "emits", "told"),
    [
        (
            "nowhere",
            "x",
            "--on nowhere: no payload class has that channel; functions/payloads.py has raw_input, ",
        ),
        ("specimen:taken", "specimen:taken", "--on specimen:taken: no payload class"),
        ("raw_input", "calculated_distance", "distance emits it"),
        ("raw_input", "raw_input", "for ever"),
        ("email:sent", "raw_input", "for ever"),
        ("raw_input", "{milepost}:stages", "keeps such names for itself"),
        ("raw_input", "dead:store", "keeps such names for itself"),
        ("raw_input", "two words", "cannot be the name of a channel"),
        ("raw_input", "", "cannot be the name of a channel"),
        ("raw_input", "x" * 41, "at most 40 characters"),
        ("raw_input", "yes,calculated_distance", "distance emits it"),
        ("raw_input", "yes,no,yes", "each channel needs a name, and a class, of its own"),
        ("raw_input", "a-b,a.b", "each channel needs a name, and a class, of its own"),
        ("raw_input", "yes,", "cannot be the name of a channel"),
        ("raw_input", "7up", "cannot be the name of its payload class"),
        ("raw_input", "test-result", "TestResult cannot be the name of its payload class"),
    ],
)
def test_a_bad_channel_is_refused(copy: Path, command: Command, on: str, emits: str, told: str) -> None:
    check_refused(copy, command, ["specimen", "--on", on, "--emits", emits], told)


def test_order_by_a_field_that_the_data_has_not_is_refused(copy: Path, command: Command) -> None:
    told = "--order customer: the data on raw_input has no such field, only email, lat, long"
    check_refused(copy, command, ["geocode", "--on", "raw_input", "--order", "customer"], told)


def check_refused(copy: Path, command: Command, arguments: list[str], told: str) -> None:
    before = tree(copy)
    refused = command("new", *arguments, "--project", str(copy))
    assert refused.code == 2
    assert told in " ".join(refused.stderr.split())
    assert tree(copy) == before


@pytest.mark.parametrize(
    ("file", "contents", "told"),
    [
        ("helm/values.yaml", "stages: {distance: {consumes: raw_input}}\n", "has no `stages:` with a line for each"),
        ("functions/payloads.py", "class Broken(\n", "was never closed"),
        (
            "functions/payloads.py",
            "import milepost\nclass Only(milepost.Payload, channel='raw_input'): ...\n",
            "must import Payload",
        ),
        ("skaffold.yaml", "build: {}\n", "has no image like that of "),
    ],
)
def test_a_file_with_another_layout_is_named_and_nothing_is_written(
    copy: Path, tmp_path: Path, command: Command, file: str, contents: str, told: str
) -> None:
    folder = shutil.copytree(copy, tmp_path / "project")
    (folder / file).write_text(contents)
    check_refused(folder, command, ["specimen", "--on", "raw_input", "--emits", "specimen:taken"], told)


def test_a_write_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    old, made = tmp_path / "old", tmp_path / "a" / "b" / "new"
    old.write_text("before")
    before = tree(tmp_path)
    with pytest.raises(CommandFailed, match=r"old/below: Not a directory; nothing was written"):
        new.write({made: "x", old: "after", old / "below": "x"})
    assert tree(tmp_path) == before
