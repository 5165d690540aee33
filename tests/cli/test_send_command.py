"""`milepost send`."""

import os
import re
import signal

from milepost.cli.send import last_channels
from milepost.journal import StageStatus
from tests.cli.conftest import Command
from tests.cli.running import Up


def test_shows_each_channel_as_it_is_reached_and_the_message(on_stack: Command) -> None:
    done = on_stack("send", "ada@example.org", "51.5074", "-0.1278")
    assert done.code == 0, done.stderr
    *shown, message = done.stdout.splitlines()
    assert re.fullmatch(r"accepted +[0-9a-f-]{36}", shown[0])
    channels = [re.fullmatch(r"(\S+) +\d+ ms", line) for line in shown[1:]]
    assert [found and found[1] for found in channels] == [
        "raw_input",
        "calculated_distance",
        "user:email",
        "email:sent",
    ]
    assert message == "You are 2216.0742916592476 miles from Velocity."


def test_what_the_gateway_finds_wrong_is_told(on_stack: Command) -> None:
    done = on_stack("send", "nobody", "-91", "0")
    assert done.code == 2
    assert "lat must be at least -90" in done.stderr
    assert "email " in done.stderr


def test_without_redis_the_gateway_alone_will_do(up: Up, command: Command) -> None:
    options = ("--gateway", up.stack["gateway"], "--redis-url", "redis://ada:secret@127.0.0.1:1")
    done = command("send", "ada@example.org", "32.080058", "34.864535", *options)
    assert done.code == 0, done.stderr
    assert done.stdout.endswith("You are 0.0 miles from Velocity.\n")
    assert "Asking the gateway alone" in done.stderr
    assert "secret" not in done.stderr


def test_a_gateway_that_does_not_answer_is_told(on_stack: Command) -> None:
    done = on_stack("send", "ada@example.org", "0", "0", "--gateway", "http://127.0.0.1:1")
    assert done.code == 3
    assert "no gateway at http://127.0.0.1:1" in done.stderr


def test_what_is_not_reached_in_time_is_told(up: Up, on_stack: Command) -> None:
    store = up.pids["store"]
    os.kill(store, signal.SIGSTOP)
    try:
        done = on_stack("send", "late@example.org", "0", "0", "--timeout", "0.7")
    finally:
        os.kill(store, signal.SIGCONT)
    assert done.code == 5
    assert "not reached within 0.7 s: email:sent; " in done.stderr
    assert "calculated_distance" in done.stdout


def status(name: str, consumes: str, *emits: str) -> StageStatus:
    return StageStatus(name=name, consumes=(consumes,), emits=emits, url="", served=True, backlog=0, parked=0, dead=0)


def test_a_submission_ends_on_every_channel_that_nobody_consumes() -> None:
    stages = [
        status("a", "raw_input", "b"),
        status("audit", "raw_input", "audited"),
        status("b", "b", "c"),
        status("log", "c"),
        status("elsewhere", "other", "nothing"),
    ]
    assert last_channels(stages) == {"audited"}
    assert last_channels(stages[:3]) == {"audited", "c"}
    assert last_channels([]) == set()
