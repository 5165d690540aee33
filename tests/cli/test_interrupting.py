"""Ctrl-C ends every command at once with 130, also while it waits, and without a traceback."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from fcntl import F_SETPIPE_SZ, fcntl

import pytest
from redis import Redis

from milepost.journal import keys
from tests.cli.running import MILEPOST, WITHIN, Up, environment
from tests.servers import ROOT

INSTALLED = ("-c", "from milepost_command import main; main()")
"""The program text of the installed command."""


def start(
    *arguments: str, python: tuple[str, ...] = tuple(MILEPOST[1:]), stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    command = [sys.executable, *python, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=pipe, stdout=pipe, stderr=stderr, text=True)


def end(process: subprocess.Popen[str]) -> str:
    """Interrupt it once, and return its stderr after that. Its stdin stays open meanwhile."""
    process.send_signal(signal.SIGINT)
    with process:
        try:
            assert process.wait(WITHIN) == 130
        finally:
            process.kill()
        assert process.stderr
        return process.stderr.read()


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr
    seen = ""
    while text not in seen:
        character = process.stderr.read(1)
        assert character, f"ended before {text!r}: {seen[-2000:]}"
        seen += character


@pytest.fixture
def frozen_store(up: Up) -> Iterator[None]:
    pid = up.pids["store"]
    os.kill(pid, signal.SIGSTOP)
    yield
    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("imported", ["milepost.errors", "typer"])
def test_ctrl_c_during_the_imports(imported: str) -> None:
    reader, writer = os.pipe()
    fcntl(writer, F_SETPIPE_SZ, 4096)  # it stops in the middle of its imports until more is read
    python = ("-X", "importtime", *INSTALLED)
    process = start("stages", "--redis-url", "redis://127.0.0.1:1", python=python, stderr=writer)
    os.close(writer)
    process.stderr = os.fdopen(reader)
    read_until(process, f" {imported}\n")
    assert "Traceback" not in end(process)


@pytest.mark.usefixtures("frozen_store")
def test_ctrl_c_while_send_follows_a_submission(up: Up) -> None:
    process = start("send", "ada@example.org", "0", "0", "--data", str(up.data))
    assert process.stdout
    assert process.stdout.readline().startswith("accepted")
    assert "Traceback" not in end(process)


def test_ctrl_c_while_publish_waits_for_a_line(up: Up) -> None:
    process = start("publish", "unheard", "-", "--data", str(up.data))
    assert process.stdin
    assert process.stdout
    process.stdin.write("a line\n")
    process.stdin.flush()
    assert len(process.stdout.readline()) == 37
    assert end(process) == ""


def test_ctrl_c_at_a_question(up: Up) -> None:
    letter = {"channel": "a", "event": "{}", "id": "", "reason": "", "status": "", "attempts": 1, "crashes": 0}
    with Redis.from_url(up.stack["redis"]) as redis:
        redis.xadd(keys.dead("email"), {**letter, "time": 0})  # without one nothing is asked
    process = start("dead", "drop", "email", "--all", "--data", str(up.data))
    read_until(process, "[y/N] ")
    assert end(process) == ""
