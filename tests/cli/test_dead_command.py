"""`milepost dead`."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from functions.payloads import Submission
from milepost import Event
from milepost.cli import dead_test
from milepost.journal import DeadLetter, keys
from tests.cli.conftest import Command
from tests.cli.running import Ended, Up, environment
from tests.servers import ROOT, wait_for


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


def test_letter_of_a_channel_that_is_not_served_holds_back_no_other(
    letters: list[dict[str, Any]], up: Up, on_stack: Command
) -> None:
    with redis.Redis.from_url(up.stack["redis"]) as client:
        client.xadd(keys.dead("email"), {"event": "{}", "channel": "gone"})
    done = on_stack("dead", "replay", "email", "--all")
    assert (done.code, done.stdout) == (1, f"{len(letters)} replayed, 1 left\n")
    assert "no bridge serves email on gone" in done.stderr
    wait_for(lambda: len(listed(on_stack)) == len(letters) + 1, what="all again")


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
        (("drop", "email", "18446744073709551616-0"), 2, "an entry looks like"),
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


def test_an_event_is_tried_against_the_code_here_and_stays_dead(on_stack: Command, fresh: str) -> None:
    refused = on_stack("dead", "try", "distance", fresh)
    assert refused.code == 1
    assert "distance refuses it: 422 Invalid payload: lat: must be a number" in refused.stderr
    assert on_stack("dead", "list", "distance", "--json").stdout.count("\n") == 1


def test_a_dead_letter_becomes_a_test_that_fails_until_the_code_takes_its_event(
    on_stack: Command, fresh: str, tmp_path: Path
) -> None:
    for folder in ("functions", "helm"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    arguments = ("dead", "test", "distance", fresh, "--project", str(tmp_path))
    written = on_stack(*arguments).stdout.removeprefix("wrote    ").strip()
    assert written == f"tests/dead/test_distance_{fresh.replace('-', '_')}.py"
    text = (tmp_path / written).read_text()
    assert "a***@example.org" in text
    assert "HTTP 422: lat: must be a number" in text
    assert on_stack(*arguments).code == 1, "it is not written again"

    def run() -> Ended:
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", written],
            cwd=tmp_path,
            env=environment(PYTHONPATH=f"{tmp_path}:{ROOT}", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
            capture_output=True,
            text=True,
            check=False,
        )
        return Ended(ran.returncode, ran.stdout, ran.stderr)

    failed = run()
    assert failed.code == 1
    assert "422 Invalid payload: lat: must be a number" in failed.stdout
    code = tmp_path / "functions" / "payloads.py"
    code.write_text(code.read_text().replace("    lat: Latitude\n", "    lat: Latitude | str\n"))
    main = tmp_path / "functions" / "distance" / "main.py"
    main.write_text(main.read_text().replace("(submission.lat,", "(90,"))
    assert (mended := run()).code == 0, mended.stdout


@pytest.fixture
def fresh(on_stack: Command) -> str:
    """The entry of a submission that the stage `distance` refuses."""
    on_stack("dead", "drop", "distance", "--all", "--yes")
    on_stack("publish", "raw_input", '{"email":"ada@example.org","lat":"north","long":0}')
    wait_for(lambda: on_stack("dead", "list", "distance", "--json").stdout, what="a dead letter")
    return str(json.loads(on_stack("dead", "list", "distance", "--json").stdout)["entry"])


def test_masked_events_are_events_that_the_classes_take() -> None:
    event = {"email": "ada@example.org", "lat": 1, "long": 2}
    assert dead_test.mask({"data": [event]}) == {"data": [event | {"email": "a***@example.org"}]}
    assert Submission.model_validate(dead_test.mask(event)).email == "a***@example.org"


@pytest.mark.parametrize(
    ("address", "seen"),
    [("ada@example.org", False), ("not an address", False), (f"{'a' * 65}@example.org", True), ("a..b@ex.org", True)],
)
def test_masking_is_noticed_where_it_would_change_the_fault(address: str, seen: bool) -> None:
    assert dead_test.is_masking_seen(Submission, {"email": address, "lat": 99, "long": 2}) == seen


def test_a_dead_letter_whose_address_is_at_fault_is_written_with_keep_alone(on_stack: Command, tmp_path: Path) -> None:
    for folder in ("functions", "helm"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    on_stack("dead", "drop", "distance", "--all", "--yes")
    on_stack("publish", "raw_input", json.dumps({"email": f"{'a' * 65}@example.org", "lat": 1, "long": 2}))
    wait_for(lambda: on_stack("dead", "list", "distance", "--json").stdout, what="a dead letter")
    entry = json.loads(on_stack("dead", "list", "distance", "--json").stdout)["entry"]
    arguments = ("dead", "test", "distance", entry, "--project", str(tmp_path))
    refused = on_stack(*arguments)
    assert (refused.code, "give --keep" in refused.stderr) == (1, True)
    assert on_stack(*arguments, "--keep").code == 0


def test_the_written_test_is_python_whatever_the_dead_letter_holds() -> None:
    event = Event(id='a"""b', source="/me", type="raw_input", data={"\\": '"""', "text": "\\u0000 {x} ü"})
    letter = DeadLetter("a-b", "1-0", "raw_input", b"", None, 'no """ \\ ü\n{x}', 500, 1, 0, datetime.now(UTC))
    names: dict[str, Any] = {}
    for emits, split in (((), False), (("out",), False), (("out", "more"), False), (("out",), True)):
        text = dead_test.text(letter, event, emits, split=split, keep=True)
        exec(text.replace("__file__", "'/a/b/c'"), names)  # noqa: S102
        assert Event.from_json(names["EVENT"]) == event


def test_missing_dead_letter_is_neither_tried_nor_tested(on_stack: Command) -> None:
    assert "has no dead letter 1-0" in on_stack("dead", "try", "distance", "1-0").stderr
    assert "an entry looks like" in on_stack("dead", "test", "distance", "first").stderr
