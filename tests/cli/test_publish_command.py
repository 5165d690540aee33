"""`milepost publish`."""

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.cli.conftest import Command
from tests.cli.running import Ended, Milepost, Up
from tests.servers import wait_for


def reached(up: Up, message: str) -> None:
    wait_for(lambda: message in (up.data / "sent_emails").read_text(), what=message)


@pytest.mark.parametrize("lat", ['"32.080058"', "32.080058"])
def test_plain_json_runs_through_the_pipeline(up: Up, on_stack: Command, lat: str) -> None:
    address = f"{uuid4().hex}@example.org"
    done = on_stack("publish", "raw_input", f'{{"email":"{address}","lat":{lat},"long":34.864535}}')
    assert done.code == 0
    assert len(done.stdout.strip()) == 36
    reached(up, f"Email sent to: {address}; Message: You are 0.0 miles from Velocity.")


def test_an_event_published_again_does_nothing_and_says_so(on_stack: Command) -> None:
    event_id = uuid4().hex
    first = on_stack("publish", "unheard", "text", "--id", event_id, "--source", "/tests")
    again = on_stack("publish", "unheard", "text", "--id", event_id, "--source", "/tests")
    elsewhere = on_stack("publish", "unheard", "text", "--id", event_id, "--source", "/other")
    assert [done.stdout for done in (first, again, elsewhere)] == [f"{event_id}\n"] * 3
    assert [bool(done.stderr) for done in (first, again, elsewhere)] == [False, True, False]
    assert "published before, so nothing was done" in again.stderr
    assert again.code == 0


def cloud_event(**attributes: str) -> str:
    return json.dumps({"specversion": "1.0", "id": uuid4().hex, "source": "/t", "type": "unheard", **attributes})


def test_cloud_event_keeps_its_id(on_stack: Command) -> None:
    done = on_stack("publish", "unheard", cloud_event(id="my-own"))
    assert (done.code, done.stdout) == (0, "my-own\n")


@pytest.mark.parametrize(
    ("channel", "message", "options", "told"),
    [
        ("raw_input", cloud_event(id="one"), (), "type: unheard on the channel raw_input"),
        ("unheard", cloud_event(id="one", source=""), (), "source: must not be empty"),
        ("unheard", cloud_event(id="one"), ("--id", "x"), "--id and --source are for plain messages"),
        ("raw_input", "null", (), "data: missing; a function consumes raw_input"),
        ("unheard", "-", ("--id", "x"), "--id names one event"),
        ("unheard", "", (), "MESSAGE: is empty"),
        ("unheard", " \n", (), "MESSAGE: is empty"),
        ("unheard", "text", ("--id", "a\nb"), "id: must not hold control characters"),
        ("unheard", "text", ("--id", ""), "id: must not be empty"),  # as of a variable that is not set
        ("unheard", "-", ("--id", ""), "--id names one event"),
        ("unheard", "text", ("--source", "not a URI"), "source: not a URI reference"),
        ("unheard", "text", ("--source", ""), "source: must not be empty"),
        ("\udcff", "text", (), "type: must not hold control characters"),  # a byte that is not UTF-8
    ],
)
def test_message_that_is_no_event_is_refused(
    on_stack: Command, channel: str, message: str, options: tuple[str, ...], told: str
) -> None:
    done = on_stack("publish", channel, message, *options)
    assert done.code == 2
    assert told in done.stderr
    assert done.stdout == ""


def test_bad_line_of_stdin_is_reported_and_the_others_are_published(on_stack: Command) -> None:
    lines = ["plain text", "", '{"specversion":"1.0"}', "null", *("7" for _ in range(500)), '"last"']
    done = on_stack("publish", "unheard", "-", stdin="\n".join(lines))
    assert done.code == 1
    assert "line 3: id, source, type: missing" in done.stderr
    assert len(set(done.stdout.split())) == 503  # a channel without a stage takes an event without data


def published(on_stack: Command, up: Up, channel: str, stdin: str) -> tuple[Ended, list[Any]]:
    """What `publish CHANNEL -` does with this input, and the data of the events that it publishes."""
    with Milepost("watch", channel, "--json", "--data", str(up.data)) as watching:
        watching.wait_for_line(f"watching {channel}")
        done = on_stack("publish", channel, "-", stdin=stdin)
        on_stack("publish", channel, "last")
        watching.wait_for_line('"last"')
    return done, [json.loads(line)["message"]["data"] for line in watching.lines[1:-1]]


def test_json_lines_of_a_file_with_a_byte_order_mark_are_json(up: Up, on_stack: Command) -> None:
    done, data = published(on_stack, up, "marked", '\ufeff{"a": 1}\r\n[2]\r\n"three"\r\n')
    assert (done.code, done.stderr) == (0, "")
    assert data == [{"a": 1}, [2], "three"]


def test_lines_that_begin_like_json_and_are_not_are_errors_with_their_number(up: Up, on_stack: Command) -> None:
    lines = ['\ufeff{"a": 1', "[2", '"three', "plain", " {'a': 1}", "\ufeff"]
    done, data = published(on_stack, up, "broken", "\n".join(lines))
    assert done.code == 1
    assert [line.partition(": begins like JSON")[0] for line in done.stderr.splitlines()] == [
        f"milepost: line {number}" for number in (1, 2, 3, 5)
    ]
    assert data == ["plain"]


def test_blanks_and_line_ends_around_an_address_are_no_part_of_it(up: Up, on_stack: Command) -> None:
    done, data = published(on_stack, up, "trimmed", "\ufeff ada@example.org \r\n\tbob@example.org\u00a0\n\r\n  \n")
    assert (done.code, done.stderr) == (0, "")
    assert data == ["ada@example.org", "bob@example.org"]


@pytest.mark.parametrize("message", ['{"a": 1', "[", '"text'])
def test_a_message_that_begins_like_json_and_is_not_is_refused(on_stack: Command, message: str) -> None:
    done = on_stack("publish", "unheard", message)
    assert (done.code, done.stdout) == (2, "")
    assert "begins like JSON and is not JSON" in done.stderr


def test_empty_stdin_publishes_nothing(on_stack: Command) -> None:
    done = on_stack("publish", "unheard", "-")
    assert (done.code, done.stdout) == (0, "")
