"""Run real servers in tests, each as a subprocess on a free port of 127.0.0.1, with its data and log in a folder.

    with Valkey(tmp_path) as valkey:      # started, and ready when the body begins
        valkey.url                        # redis://127.0.0.1:40123/0
        valkey.kill(); valkey.start()     # the same port, the same data

A server that does not become ready fails the test and shows its log.
"""

import asyncio
import atexit
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Self

from milepost.cli.local import commands
from milepost.cli.local.commands import HOST, free_port

__all__ = ["HOST", "Function", "Server", "Valkey", "eventually", "free_port", "http_status", "wait_for"]

WITHIN = 180.0
"""Seconds that a server's start, its end or a condition is waited for. Far more than any takes, so that a machine under
heavy load fails no test.
"""

_running: weakref.WeakSet["Server"] = weakref.WeakSet()


def wait_for(condition: Callable[[], object], within: float = WITHIN, what: str = "") -> None:
    """Wait until `condition()` is true. Raises AssertionError after `within` seconds."""
    begun = time.monotonic()
    while not condition():
        waited = time.monotonic() - begun
        if waited > within:
            raise AssertionError(f"not within {within} s: {what or getattr(condition, '__name__', condition)}")
        time.sleep(_pause(waited))


async def eventually(
    condition: Callable[[], Awaitable[object] | object], within: float = WITHIN, what: str = ""
) -> None:
    """Wait likewise without blocking the event loop; `condition` may be a coroutine function."""
    begun = time.monotonic()
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        waited = time.monotonic() - begun
        if waited > within:
            raise AssertionError(f"not within {within} s: {what or getattr(condition, '__name__', condition)}")
        await asyncio.sleep(_pause(waited))


def _pause(waited: float) -> float:
    """Seconds until a condition is looked at again: a tenth of the wait so far, so that long waits cost little CPU."""
    return min(max(waited / 10, 0.005), 0.05)


class Server:
    """A subprocess that listens on `port`. Subclasses say how it is started and when it is ready."""

    name = "server"
    ends_soon = True
    """Whether it ends soon after SIGTERM. Others are killed at the end of a test."""
    project = Path()
    """The project's folder, in which it runs: the current one, unless a conftest.py sets another."""

    def __init__(self, folder: Path, *, port: int | None = None, env: Mapping[str, str] | None = None) -> None:
        self.port = port or free_port()
        self.folder = folder / f"{self.name}-{self.port}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_path = self.folder / "log"
        self.env = dict(env or {})
        self.process: subprocess.Popen[bytes] | None = None

    def argv(self) -> list[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        return http_status(self.port, "/") == 200

    @property
    def pid(self) -> int:
        return self._process().pid

    @property
    def log(self) -> str:
        """Its output so far, stdout and stderr, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def launch(self) -> Self:
        """Start without waiting."""
        assert not self.alive, f"{self.name} runs already"
        path = [str(self.project.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv(),
                cwd=self.project,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - only a system call, no lock is taken
            )
        _running.add(self)
        return self

    def start(self) -> Self:
        """Start and wait until ready."""
        self.launch()
        ready = False
        try:
            wait_for(lambda: not self.alive or self.is_ready(), WITHIN)
            ready = self.alive
        finally:
            if not ready:
                self.kill()
                print(f"--- {self.log_path}\n{self.log[-4000:]}")
        assert ready, f"{self.name} ended at start with {self._process().returncode}: {self.log[-1000:]}"
        return self

    def stop(self, within: float = WITHIN) -> int:
        """Send SIGTERM, wait, and return the exit status. If it does not end in time, kill it and fail the test."""
        process = self._process()
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            return process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {within} s of SIGTERM\n{self.log[-4000:]}") from None

    def kill(self) -> None:
        """Send SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def freeze(self) -> None:
        """Send SIGSTOP: it keeps its connections and answers nothing."""
        self._process().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process().send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, also if it is frozen."""
        if self.alive and self.ends_soon:
            process = self._process()
            process.send_signal(signal.SIGCONT)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
        self.kill()
        _running.discard(self)

    def __enter__(self) -> Self:
        return self if self.alive else self.start()

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if kind is not None:
            print(f"--- {self.log_path}\n{self.log[-4000:]}")

    def _process(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, f"{self.name} was never started"
        return self.process


class Valkey(Server):
    """The embedded Valkey. It answers a write when it is on disk. `options`: {"maxmemory": "4mb"}."""

    name = "valkey"

    def __init__(self, folder: Path, *, port: int | None = None, options: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, port=port)
        self.options = dict(options or {})

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def binary(self) -> str:
        return commands.valkey_binary()

    def argv(self) -> list[str]:
        options = {name.replace("-", "_"): value for name, value in self.options.items()}
        return [self.binary(), *commands.valkey(self.port, self.folder, **options)[1:]]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as link:
                link.sendall(b"PING\r\n")
                return link.recv(16).startswith(b"+PONG")
        except OSError:
            return False


class Function(Server):
    """A stage under functions-framework, as its image runs it. `name` is its folder under functions/."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        source: Path | None = None,
    ) -> None:
        self.name = name
        self.source = source or self.project / "functions" / name / "main.py"
        super().__init__(folder, port=port, env=env)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def argv(self) -> list[str]:
        self.env |= {"FUNCTION_SOURCE": str(self.source.resolve()), "FUNCTION_TARGET": "main"}
        return commands.function(self.port)

    def is_ready(self) -> bool:
        return http_status(self.port, "/") in {200, 503}  # 503: what its lifespan needs is away


def http_status(port: int, path: str) -> int | None:
    """Return the HTTP status of a GET, or None if nothing answers HTTP."""
    connection = HTTPConnection(HOST, port, timeout=5)  # a wake-up may wait 1.5 s for a MongoDB that is away
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux, have the kernel kill the child when the test run is killed. The kernel means the thread that
    forked, so only the main one may ask for it.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@atexit.register
def _close_what_is_left() -> None:
    for server in list(_running):
        server.close()
