"""The help, and how commands end."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from milepost.cli.app import app
from milepost.cli.exits import EXIT_CODES, CommandFailed, Exit, Unreachable, exit_code
from milepost.errors import BacklogFull, ConfigurationError, EventError, JournalUnavailable, MilepostError, TooLarge
from tests.cli.conftest import Command


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its path."""
    yield path, command
    for name, part in getattr(command, "commands", {}).items():
        yield from commands(part, *path, name)


EVERY = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", [path for path, _ in EVERY], ids=" ".join)
def test_help_lists_the_exit_codes(command: Command, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    for option in ("--help", "-h"):
        done = command(*path, option)
        assert done.code == 0
        assert " ".join(EXIT_CODES.split()) in " ".join(done.stdout.split())


@pytest.mark.parametrize(("path", "found"), EVERY, ids=[" ".join(path) for path, _ in EVERY])
def test_each_option_and_command_has_a_help_text(path: tuple[str, ...], found: Any) -> None:
    assert len(found.help) > 20
    for parameter in found.params:
        if parameter.name != "help":
            assert parameter.help, (path, parameter.name)


@pytest.mark.parametrize("path", [path for path, found in EVERY if not hasattr(found, "commands")], ids=" ".join)
def test_help_of_each_command_has_an_example(path: tuple[str, ...]) -> None:
    help_text = dict(EVERY)[path].help
    assert f"`milepost {' '.join(path)}" in help_text


def test_documented_exit_codes_are_those_of_the_code() -> None:
    told = {int(code) for code in re.findall(r"(?:: |; )\s*(\d+) ", " ".join(EXIT_CODES.split()))}
    assert told == {int(code) for code in Exit}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ConfigurationError("x"), Exit.USAGE),
        (EventError("x"), Exit.USAGE),
        (TooLarge("x"), Exit.USAGE),
        (Unreachable("x"), Exit.UNREACHABLE),
        (JournalUnavailable("x"), Exit.UNREACHABLE),
        (BacklogFull("x"), Exit.UNREACHABLE),
        (CommandFailed("x"), Exit.FAILED),
        (MilepostError("x"), Exit.FAILED),
    ],
)
def test_each_error_has_its_exit_code(fault: MilepostError, code: Exit) -> None:
    assert exit_code(fault) is code


@pytest.mark.parametrize(
    "arguments",
    [["unheard-of"], ["watch", "--unheard-of"], ["publish", "x"], ["up", "--port", "x"], ["up", "--port", "65536"]],
)
def test_wrong_command_line_ends_with_2(command: Command, arguments: list[str]) -> None:
    assert command(*arguments).code == Exit.USAGE
