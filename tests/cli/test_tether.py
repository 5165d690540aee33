"""The tie between a component and who started it."""

import os
import subprocess
import sys

from milepost.cli.keeper import TETHER
from tests.cli.running import is_alive
from tests.servers import wait_for

PARENT = f"""
import os, subprocess, sys
tied = subprocess.Popen([sys.executable, {TETHER!r}, str(os.getpid()), "sh", "-c", "echo $$; exec sleep 1000"])
print(tied.pid, flush=True)
tied.wait()
"""


def tethered(parent: int, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, TETHER, str(parent), *command], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_keeps_the_pid_and_dies_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = {int(parent.stdout.readline()), int(parent.stdout.readline())}
        assert len(pids) == 1
        parent.kill()
    wait_for(lambda: not any(map(is_alive, pids)))


def test_nothing_is_started_once_the_parent_is_gone() -> None:
    ended = tethered(os.getpid() + 1, "echo", "started")
    assert (ended.returncode, ended.stdout) == (1, "")


def test_the_exit_code_is_the_commands() -> None:
    assert tethered(os.getpid(), "sh", "-c", "exit 7").returncode == 7


def test_a_broken_pipe_ends_the_command_as_it_would_without() -> None:
    ended = tethered(os.getpid(), "sh", "-c", "kill -PIPE $$; echo survived")
    assert ended.stdout == ""


def test_a_command_that_does_not_exist_is_told() -> None:
    ended = tethered(os.getpid(), "/nowhere/at/all")
    assert ended.returncode == 1
    assert ended.stderr == "/nowhere/at/all: No such file or directory\n"
