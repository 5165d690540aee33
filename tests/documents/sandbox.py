"""A copy of the checkout with a shell in it, in which a document's commands run one after the other.

The copy has the environment of the running Python as its `.venv`, which `make` leaves as it is. Ports that the
documents name are exchanged for free ones, in commands and back in what they print.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.cli.running import is_alive
from tests.documents import comparing
from tests.documents.blocks import Step
from tests.servers import ROOT, WITHIN, free_port, wait_for

PORTS = ("8000", "8081", "8082", "8083", "27017")
READS_WITHIN = WITHIN / 2
"""Seconds in which a command that only looks must show what the document says."""

NOT_COPIED = (
    ".git",
    ".venv",
    ".venv-*",
    ".milepost",
    ".*_cache",
    ".coverage*",
    ".hypothesis",
    "*.egg-info",
    "__pycache__",
    "build",
    "dist",
)

_RUNS_ON = re.compile(r"(make run\b|\.venv/bin/(milepost (up|watch)|secantusd-py)|FUNCTION_SOURCE=)")
_ONLY_LOOKS = re.compile(
    r"^(cat|tail|head|grep|wc|ls|redis-cli .*\b(XLEN|INFO|PING)\b|\.venv/bin/milepost (stages|dead (list|show))( |$)"
    r"|curl (?!(.* )?(--json|-F|-d|-X) ))",
    re.DOTALL,
)


class Sandbox:
    """One document's. `do` runs a step; AssertionError if it does not do what the document says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "milepost"
        shutil.copytree(ROOT, self.folder, ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True)
        (self.folder / ".venv").symlink_to(sys.prefix)
        self._ports = {port: str(free_port()) for port in PORTS}
        self._names: dict[str, str] = {}
        self._logs = folder / "logs"
        self._logs.mkdir()
        self._count = 0
        self._running: dict[str, tuple[int, Path]] = {}
        self._shell = subprocess.Popen(
            ["bash", "--norc"],
            cwd=self.folder,
            env=self._environment(folder / "bin"),
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._shell.stdin
        self._shell.stdin.write("trap 'kill $(jobs -p)' EXIT\n")  # also where these tests are killed

    def _environment(self, programs: Path) -> dict[str, str]:
        programs.mkdir()
        # The environment is not made anew; and what prints otherwise on a terminal prints as it does there.
        given = {"make": "-o .venv/bin/python -o .venv/run.stamp -o .venv/test.stamp", "redis-cli": "--no-raw"}
        for name, options in given.items():
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shutil.which(name)} {options} "$@"\n')
            program.chmod(0o755)
        (programs / ".curlrc").write_text("silent\nshow-error\n")
        for_itself = (
            "REDIS_URL",
            "MONGO_URL",
            "PYTHON",
            "VENV",
            "MAKEFLAGS",
            "MAKELEVEL",
            "PYTEST_ADDOPTS",
            "PYTHONPATH",
            "BASH_ENV",
        )
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in for_itself and not name.startswith(("PYTEST_XDIST", "PYTEST_CURRENT", "COV"))
        }
        return {
            **kept,
            "PATH": f"{programs}:{kept['PATH']}",
            "CURL_HOME": str(programs),
            "NO_COLOR": "1",
            "COLUMNS": "120",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def do(self, step: Step) -> None:
        if step.path is not None:
            self._write(step)
            return
        command = self._adapted(step.command)
        if _RUNS_ON.match(step.command):
            self._start(step, command)
            return
        end = time.monotonic() + (READS_WITHIN if _ONLY_LOOKS.search(command) else 0.0)
        while True:
            code, printed = self._run(command)
            meant = code == 0 or step.output.startswith("milepost: ")
            holds = meant and self._shows(step, printed)
            if holds or time.monotonic() > end:
                break
            time.sleep(0.1)
        assert holds, f"{step.title}\n$ {command}\nexit status {code}; printed\n{printed}\nexpected\n{step.output}"
        self._names |= comparing.renamed(step.output, printed)

    @staticmethod
    def _shows(step: Step, printed: str) -> bool:
        if not step.output:
            return True
        response = re.match(r"curl .*-i\b", step.command) and step.output.startswith("HTTP/")
        return (comparing.same_response if response else comparing.same)(step.output, printed)

    def _adapted(self, command: str) -> str:
        for shown, real in self._names.items():
            command = command.replace(shown, real)
        for port, free in self._ports.items():
            command = re.sub(rf"(127\.0\.0\.1:|--port ){port}\b", rf"\g<1>{free}", command)
        command = re.sub(r"^make run$", f"make run ARGS='--port {self._ports['8000']}'", command)
        mongo = f"MONGO_URL=mongodb://127.0.0.1:{self._ports['27017']}/milepost "
        return re.sub("^(?=FUNCTION_SOURCE=)", mongo, command)

    def _run(self, command: str) -> tuple[int, str]:
        """The exit status and what was printed, the document's ports put back."""
        log = self._send(command, "")
        status = log.with_suffix(".status")
        wait_for(lambda: status.exists() or self._shell.poll() is not None, WITHIN, command)
        assert status.exists(), f"the shell ended at: {command}"
        printed = log.read_text(errors="replace")
        for port, free in self._ports.items():
            printed = printed.replace(free, port)
        return int(status.read_text()), printed

    def _send(self, command: str, how: str) -> Path:
        self._count += 1
        log = self._logs / f"{self._count}.log"
        log.touch()  # the shell of what runs on makes it a moment later
        mark = log.with_suffix(".mark")
        done = f'echo $? >"{mark}" && mv "{mark}" "{log.with_suffix(".status")}"'
        assert self._shell.stdin
        self._shell.stdin.write(f'{{ {command}\n}} >"{log}" 2>&1 </dev/null {how}\n{"" if how else done}\n')
        self._shell.stdin.flush()
        return log

    def _start(self, step: Step, command: str) -> None:
        """What runs on until it is started again, or the document is at its end."""
        kind = step.command.split(" --port")[0]
        self._stop(kind)
        started = self._send(f"exec {command}" if not re.match("[A-Z]", command) else f"exec env {command}", "&")
        code, pid = self._run("echo $!")
        assert code == 0
        self._running[kind] = int(pid), started
        port = re.search(r"--port (\d+)", command)
        ready = re.compile("^ready http" if " run" in command or " up" in command else "", re.MULTILINE)
        wait_for(
            lambda: not self._alive(kind) or (ready.search(started.read_text()) and (not port or _listens(port[1]))),
            WITHIN,
            f"{command}: ready",
        )
        assert self._alive(kind), f"{step.title} ended:\n{started.read_text()}"

    def _alive(self, kind: str) -> bool:
        return is_alive(self._running[kind][0])

    def _stop(self, kind: str) -> None:
        if kind in self._running:
            self._run(f"kill {self._running[kind][0]}; wait {self._running[kind][0]}")
            del self._running[kind]

    def check_what_runs(self) -> None:
        """Fails if what runs on has ended by itself."""
        for kind, (_, log) in self._running.items():
            assert self._alive(kind), f"{kind} ended:\n{log.read_text()[-4000:]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for kind in list(self._running):
            self._stop(kind)
        os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()

    def _write(self, step: Step) -> None:
        assert step.path
        path, text = self.folder / step.path, step.output
        if step.name:
            old = re.compile(rf"^class {step.name}\b.*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
            found = path.read_text()
            assert len(old.findall(found)) == 1, f"{step.title}: no such class"
            text = old.sub(lambda _: f"{step.output}\n\n", found).rstrip() + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _listens(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0
