"""`milepost send`."""

import os
import re
import signal

from milepost.cli.send import last_channels
from milepost.journal import StageStatus
from tests.cli.conftest import Command
from tests.cli.running import Up

WITHIN = "5"
"""Seconds in which the stage that is not frozen has surely answered."""


def test_shows_each_channel_as_it_is_reached_and_the_message(on_stack: Command) -> None:
    done = on_stack("send", "ada@example.org", "51.5074", "-0.1278")
    assert done.code == 0, done.stderr
    accepted, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"accepted +[0-9a-f-]{36}", accepted)
    shown = [found[1] for line in lines if (found := re.fullmatch(r"(\S+) +\d+ ms", line))]
    way = ["raw_input", "calculated_distance", "user:email", "email:sent"]
    assert [channel for channel in shown if channel in way] == way
    assert "You are 2216.0742916592476 miles from Velocity." in lines[len(shown) :]


def test_what_the_gateway_finds_wrong_is_told(on_stack: Command) -> None:
    done = on_stack("send", "nobody", "-91", "0")
    assert done.code == 2
    assert "lat must be at least -90" in done.stderr
    assert "email " in done.stderr


def test_without_redis_the_gateway_alone_will_do(up: Up, command: Command) -> None:
    options = ("--gateway", up.stack["gateway"], "--redis-url", "redis://ada:secret@127.0.0.1:1")
    done = command("send", "ada@example.org", "32.080058", "34.864535", *options)
    assert done.code == 0, done.stderr
    assert "You are 0.0 miles from Velocity.\n" in done.stdout
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
        done = on_stack("send", "late@example.org", "0", "0", "--timeout", WITHIN)
    finally:
        os.kill(store, signal.SIGCONT)
    assert done.code == 5
    assert f"not reached within {WITHIN} s: email:sent; " in done.stderr
    assert "calculated_distance" in done.stdout


def status(name: str, consumes: str, *emits: str) -> StageStatus:
    return StageStatus(name=name, consumes=(consumes,), emits=emits, url="", served=True, backlog=0, parked=0, dead=0)


def test_a_submission_ends_on_every_channel_that_leads_to_no_other() -> None:
    stages = [
        status("a", "raw_input", "b"),
        status("audit", "raw_input", "audited"),
        status("b", "b", "c"),
        status("log", "c"),
        status("elsewhere", "other", "nothing"),
    ]
    assert last_channels(stages) == {"audited", "c"}, "what a stage that emits nothing makes of c is not seen"
    assert last_channels(stages[:3]) == {"audited", "c"}
    assert last_channels([]) == set()
