"""`milepost dead`."""

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.cli.conftest import Command
from tests.cli.running import Up
from tests.servers import wait_for


@pytest.fixture
def letters(up: Up, on_stack: Command) -> list[dict[str, Any]]:
    """Dead letters of the stage `email`: mails to people nothing is known of."""
    on_stack("dead", "drop", "email", "--all", "--yes")
    ids = {uuid4().hex for _ in range(3)}
    for event_id in ids:
        assert on_stack("publish", "user:email", f"stranger.{event_id}@example.org", "--id", event_id).code == 0
    wait_for(lambda: {letter["id"] for letter in listed(on_stack)} == ids, what="three dead letters")
    return listed(on_stack)


def listed(on_stack: Command) -> list[dict[str, Any]]:
    return [json.loads(line) for line in on_stack("dead", "list", "email", "--json").stdout.splitlines()]


def test_list_shows_the_reason_and_masks_addresses(letters: list[dict[str, Any]], on_stack: Command) -> None:
    for arguments in (("dead", "list"), ("dead", "list", "email"), ("dead", "list", "--json")):
        done = on_stack(*arguments)
        assert done.code == 0
        assert all(letter["entry"] in done.stdout and letter["id"] in done.stdout for letter in letters)
        assert "s***@example.org" in done.stdout
        assert "stranger" not in done.stdout


def test_show_prints_the_whole_dead_letter(letters: list[dict[str, Any]], on_stack: Command) -> None:
    done = on_stack("dead", "show", "email", letters[0]["entry"])
    shown = json.loads(done.stdout)
    assert shown["event"]["id"] == letters[0]["id"]
    assert shown["event"]["data"] == f"stranger.{letters[0]['id']}@example.org"
    assert shown["status"] == 422


def test_replayed_dead_letters_die_again_if_nothing_has_changed(
    letters: list[dict[str, Any]], on_stack: Command
) -> None:
    first, second, third = letters
    assert on_stack("dead", "replay", "email", first["entry"]).stdout == "1 replayed\n"
    assert on_stack("dead", "replay", "email", "--id", second["id"]).stdout == "1 replayed\n"
    wait_for(lambda: len(listed(on_stack)) == 3, what="all three again")
    done = on_stack("dead", "replay", "email", third["entry"], first["entry"])
    assert (done.code, done.stdout) == (0, "1 replayed, 1 no longer there\n")
    wait_for(lambda: len(listed(on_stack)) == 3, what="all three again")
    everything = on_stack("dead", "replay", "email", "--all")
    assert everything.stdout == "3 replayed\n"
    assert everything.stderr == ""
    wait_for(lambda: len(listed(on_stack)) == 3, what="all three again")
    assert not {letter["entry"] for letter in listed(on_stack)} & {letter["entry"] for letter in letters}


def test_dropped_dead_letters_are_gone(letters: list[dict[str, Any]], on_stack: Command) -> None:
    assert on_stack("dead", "drop", "email", letters[0]["entry"]).stdout == "1 dropped\n"
    assert on_stack("dead", "drop", "email", letters[0]["entry"]).code == 1
    asked = on_stack("dead", "drop", "email", "--all", stdin="n\n")
    assert asked.code == 1
    assert "Delete the 2 dead letters of email?" in asked.stderr
    assert len(listed(on_stack)) == 2
    assert on_stack("dead", "drop", "email", "--all", "--yes").stdout == "2 dropped\n"
    assert on_stack("dead", "list", "email").stderr == "milepost: no dead letters\n"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("replay", "email"), 2, "one of the three"),
        (("replay", "email", "1-0", "--all"), 2, "one of the three"),
        (("drop", "email", "first"), 2, "an entry looks like"),
        (("show", "email", "1-0"), 1, "has no dead letter 1-0"),
        (("replay", "bridge", "1-0"), 1, "cannot be replayed"),
        (("replay", "nosuch", "--all"), 1, "no stage is called nosuch"),
        (("replay", "nosuch", "1-0"), 1, "no stage is called nosuch"),
        (("drop", "nosuch", "--all", "--yes"), 1, "no stage is called nosuch"),
        (("list", "nosuch"), 1, "no stage is called nosuch"),
    ],
)
def test_wrong_choice_of_dead_letters_is_an_error(
    on_stack: Command, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = on_stack("dead", *arguments)
    assert done.code == code
    assert told in done.stderr
