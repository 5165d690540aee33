"""How each command ends when stdin, stdout or stderr fails, or Redis does: real processes, pipes and devices."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path
from uuid import uuid4

import pytest
from redis import Redis

from milepost.journal import keys
from tests.cli.conftest import Command
from tests.cli.copies import copy_of_the_repository
from tests.cli.running import MILEPOST, WITHIN, Up, environment
from tests.servers import ROOT, Valkey, wait_for

DATA = "DATA"
"""In a command line: the data folder of the running pipeline."""

PRINTING = {
    "version": ["--version"],
    "help": ["--help"],
    "asyncapi": ["asyncapi"],
    "publish": ["publish", "unheard", "text", "--data", DATA],
    "publish lines": ["publish", "unheard", "-", "--data", DATA],
    "send": ["send", "ada@example.org", "51.5074", "-0.1278", "--data", DATA],
    "watch": ["watch", "unheard", "--data", DATA],
    "stages": ["stages", "--data", DATA],
    "dead list": ["dead", "list", "--data", DATA],
    "dead list --json": ["dead", "list", "--json", "--data", DATA],
    "dead replay": ["dead", "replay", "email", "--id", "unheard-of", "--data", DATA],
    "dead drop": ["dead", "drop", "email", "--id", "unheard-of", "--data", DATA],
}
"""Every command that prints to stdout on a pipeline that runs."""

OUTPUTS = {
    "closed pipe": ("", 141, ""),
    "full disk": (">/dev/full", 1, "milepost: standard output: No space left on device\n"),
}
"""Redirection, exit status, and what stderr says."""

ALIKE = {"version", "publish", "dead list", "dead list --json", "dead replay", "dead drop"}
"""Commands that write all at once, as `stages` does. They are tried on a full disk alone."""


def start(redirection: str, *arguments: str, stdout: int | None = None, cwd: Path = ROOT) -> subprocess.Popen[str]:
    """Run a command with a redirection of the shell's."""
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *MILEPOST, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        shell, cwd=cwd, env=environment(), stdin=pipe, stdout=stdout or pipe, stderr=pipe, text=True
    )


def run(redirection: str, *arguments: str, stdin: str = "", closed_pipe: bool = False) -> tuple[int, str]:
    """A command's exit status, and its stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start(redirection, *arguments, stdout=writer if closed_pipe else None)
    os.close(writer)
    with process:
        try:
            _, told = process.communicate(stdin, timeout=WITHIN)
        finally:
            process.kill()
    return process.returncode, told


@pytest.fixture
def buried(on_stack: Command) -> None:
    """A dead letter, so that `dead list` has something to print."""
    on_stack("publish", "user:email", "nobody-knows@example.org")
    wait_for(lambda: on_stack("dead", "list").stdout, what="a dead letter")


CHATTER = """
import sys, time, redis
client = redis.Redis.from_url(sys.argv[1])
while True:
    client.publish("unheard", "text")
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def chatter(stack: Up) -> Iterator[None]:
    """A process that publishes all the time, so that `watch` has something to print."""
    process = subprocess.Popen([sys.executable, "-c", CHATTER, stack.stack["redis"]])
    yield
    process.kill()
    process.wait()


@pytest.mark.usefixtures("buried", "chatter")
@pytest.mark.parametrize(
    ("printing", "output"),
    [(name, output) for name in PRINTING for output in OUTPUTS if output == "full disk" or name not in ALIKE],
)
def test_output_that_cannot_be_written_ends_the_command(up: Up, printing: str, output: str) -> None:
    arguments = [str(up.data) if argument == DATA else argument for argument in PRINTING[printing]]
    redirection, code, told = OUTPUTS[output]
    ended, stderr = run(redirection, *arguments, stdin="a line\n", closed_pipe=output == "closed pipe")
    assert ended == code, stderr
    said = [line for line in stderr.splitlines() if "watching unheard" not in line and "no stage consumes" not in line]
    assert said == told.splitlines()


def test_whole_output_arrives_through_a_pipe_that_does_not_block() -> None:
    reader, writer = os.pipe()
    fcntl(writer, F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with start("", "asyncapi", stdout=writer) as process, os.fdopen(reader) as output:
        os.close(writer)
        read = output.read(1)  # more than the pipe holds is to come
        assert json.loads(read + output.read())["asyncapi"]
        assert process.wait(WITHIN) == 0


def test_watch_ends_when_its_reader_does_though_nothing_is_published(up: Up) -> None:
    process = start("", "watch", "silence", "--data", str(up.data))
    with process:
        assert process.stderr
        assert process.stderr.readline() == "milepost: watching silence\n"
        assert process.stdout
        process.stdout.close()
        assert process.wait(WITHIN) == 141
        assert process.stderr.read() == ""


@pytest.mark.parametrize(("output", "code"), [("closed pipe", 141), ("full disk", 1)])
def test_up_ends_its_components_when_its_output_cannot_be_written(tmp_path: Path, output: str, code: int) -> None:
    redirection, _, told = OUTPUTS[output]
    arguments = ("up", "--data", str(tmp_path / "data"), "--port", "0")
    assert run(redirection, *arguments, closed_pipe=output == "closed pipe") == (code, told)


def test_new_writes_the_whole_stage_though_it_cannot_say_so(tmp_path: Path) -> None:
    project = copy_of_the_repository(tmp_path / "project")
    ended = run(">/dev/full", "new", "geocode", "--on", "raw_input", "--project", str(project))
    assert ended == (1, "milepost: standard output: No space left on device\n")
    assert (project / "functions" / "geocode" / "main.py").is_file()
    assert "geocode" in (project / "helm" / "values.yaml").read_text()


@pytest.mark.usefixtures("buried")
@pytest.mark.parametrize(
    ("redirection", "code", "arguments"),
    [
        ("2>&-", 2, ["unheard-of"]),
        ("2>/dev/full", 2, ["unheard-of"]),
        ("2>&-", 2, ["stages", "--redis-url", "http://elsewhere"]),
        ("2>/dev/full", 3, ["stages", "--redis-url", "redis://127.0.0.1:1"]),
        ("2>&-", 3, ["watch", "--redis-url", "redis://127.0.0.1:1"]),
        ("2>/dev/full", 3, ["publish", "unheard", "-", "--redis-url", "redis://127.0.0.1:1"]),
        ("2>&-", 1, ["dead", "drop", "email", "--all", "--data", DATA]),
        ("2>/dev/full", 1, ["dead", "drop", "email", "--all", "--data", DATA]),
    ],
)
def test_exit_status_holds_without_stderr(up: Up, redirection: str, code: int, arguments: list[str]) -> None:
    assert run(redirection, *(str(up.data) if part == DATA else part for part in arguments))[0] == code


@pytest.mark.usefixtures("buried")
@pytest.mark.parametrize(("code", "arguments"), [(1, ["dead", "drop", "email", "--all"]), (0, ["stages"])])
@pytest.mark.parametrize("redirection", ["<&-", "<&- >&- 2>&-"])
def test_closed_streams_read_as_empty_and_answer_no_question(
    up: Up, code: int, arguments: list[str], redirection: str
) -> None:
    ended, stderr = run(redirection, *arguments, "--data", str(up.data))
    assert (ended, "Traceback" in stderr) == (code, False)


ON_REDIS = [
    ["stages"],
    ["stages", "forget", "geocode", "--yes"],
    ["dead", "list"],
    ["dead", "drop", "email", "--all", "--yes"],
    ["publish", "unheard", "-"],
    ["watch", "unheard"],
]


@pytest.mark.parametrize("how", ["refuses", "does not answer"])
def test_commands_end_with_3_with_open_stdin_when_redis(tmp_path: Path, how: str) -> None:
    with Valkey(tmp_path) as valkey:
        if how == "refuses":
            valkey.stop()
        else:
            os.kill(valkey.pid, signal.SIGSTOP)
        try:
            begun = [start("", *arguments, "--redis-url", valkey.url) for arguments in ON_REDIS]
            ended = []
            for process in begun:
                with process:
                    assert process.stderr
                    ended.append((process.wait(WITHIN), process.stderr.read().partition(" at ")[0]))
                    process.kill()
        finally:
            if how != "refuses":
                os.kill(valkey.pid, signal.SIGCONT)
    assert ended == [(3, "milepost: no Redis that can be used")] * len(ON_REDIS)


def test_publish_ends_with_3_when_redis_dies_between_two_lines(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey, start("", "publish", "unheard", "-", "--redis-url", valkey.url) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write("one\n")
        process.stdin.flush()
        assert len(process.stdout.readline()) == 37
        valkey.kill()
        process.stdin.write("two\n")
        process.stdin.flush()
        assert process.wait(WITHIN) == 3
        assert process.stderr.read().startswith("milepost: line 2 and, of the 1 tried with it, 0 more: not published")


@pytest.mark.parametrize("arguments", [["dead", "drop", "email", "--all"], ["stages", "forget", "geocode"]])
def test_commands_end_with_3_when_redis_dies_at_their_question(tmp_path: Path, arguments: list[str]) -> None:
    row = json.dumps({"consumes": ["a"], "emits": [], "url": "http://a", "beat": 0})
    with Valkey(tmp_path) as valkey, Redis.from_url(valkey.url) as redis:
        redis.hset(keys.STAGES, mapping={"email": row, "geocode": row})
        letter = {"channel": "a", "event": "{}", "id": "", "reason": "", "status": "", "attempts": 1, "crashes": 0}
        redis.xadd(keys.dead("email"), {**letter, "time": 0})
        with start("", *arguments, "--redis-url", valkey.url) as process:
            assert process.stderr
            told = ""
            while not told.endswith("[y/N] "):
                character = process.stderr.read(1)
                assert character, told
                told += character
            valkey.kill()
            assert process.stdin
            process.stdin.write("y\n")
            process.stdin.flush()
            assert process.wait(WITHIN) == 3
            assert "Traceback" not in process.stderr.read()


def test_lines_longer_than_an_event_are_refused_by_number(on_stack: Command) -> None:
    event_id = uuid4().hex
    lines = ["x" * 5_000_000, json.dumps(event_id)]
    done = on_stack("publish", "unheard", "-", stdin="\n".join(lines))
    assert done.code == 1
    assert done.stderr.startswith("milepost: line 1: larger than ")
    assert len(done.stdout.split()) == 1
