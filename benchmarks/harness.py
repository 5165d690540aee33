"""Where a trial runs: a folder, a Redis, and the processes it started, all of which end with it.

Ours run as in their images: their packages and no others, compiled beforehand.
"""

import compileall
import json
import os
import site
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar

from benchmarks import accounts
from benchmarks.arrivals import Arrivals
from tests.images.component import Component
from tests.servers import HOST, ROOT, Server, Valkey

PEER_PYTHON = ROOT / "benchmarks" / ".venv" / "bin" / "python"
WITHIN = 120.0
"""Seconds that one wait of a trial may take."""

Some = TypeVar("Some", bound=Server)


class Peer(Server):
    """A program under benchmarks/, ready when it says so. `python`: whose packages it gets."""

    ends_soon = False

    def __init__(
        self, folder: Path, module: str, *args: object, python: Path = PEER_PYTHON, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = module.rpartition(".")[2]
        self._command = [str(python), "-m", module]
        self._args = args
        super().__init__(folder, env=env)

    def argv(self) -> list[str]:
        return [*self._command, *(str(arg).replace("PORT", str(self.port)) for arg in self._args)]

    def is_ready(self) -> bool:
        return "ready" in self.log


class Harness:
    """`with Harness(fsync="everysec") as harness`. Its Redis is the same for every contender."""

    def __init__(self, *, fsync: str = "everysec") -> None:
        self.fsync = fsync
        self._exit = ExitStack()
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        self.folder = Path(self._exit.enter_context(TemporaryDirectory(prefix="bench-")))
        self.sent_emails = self.folder / "sent_emails"
        self.redis = self.start(Valkey(self.folder, options={"appendfsync": self.fsync}))
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for server in self._servers:
                print(f"--- {server.name}\n{server.log[-2000:]}", file=sys.stderr)
        self._exit.close()

    def start(self, server: Some) -> Some:
        """Start it, wait until it is ready, and end it with the harness."""
        return self._kept(server).start()

    def _kept(self, server: Some) -> Some:
        self._servers.append(server)
        self._exit.callback(server.close)
        return server

    def sink(self, most: int, *, delay: float = 0) -> tuple[Peer, Arrivals]:
        """A sink for up to `most` events, and when they arrived."""
        path = self.folder / "arrivals"
        arrivals = Arrivals(path, most)
        return self.start(Peer(self.folder, "benchmarks.sink", "PORT", path, delay, python=own_python())), arrivals

    def bridge(self, *routes: dict[str, Any], ready: bool = True, **env: str) -> Component:
        """A bridge at its default settings."""
        given = {"REDIS_URL": self.redis.url, "ROUTES": json.dumps(routes), **env}
        bridge = self._kept(Component(self.folder, "bridge", env=given))
        return bridge.start() if ready else bridge.launch()

    def function(self, name: str, **env: str) -> Component:
        """One of our stages."""
        return self.start(Component(self.folder, "function", STAGE=name, env=env))

    def gateway(self, **env: str) -> Component:
        """A gateway at its default settings."""
        return self.start(Component(self.folder, "gateway", env={"REDIS_URL": self.redis.url, **env}))

    def peer(self, module: str, *args: object, **env: str) -> Peer:
        """A program of benchmarks/peers/."""
        return self.start(Peer(self.folder, f"benchmarks.peers.{module}", *args, env=env))

    def fill(self, module: str, events: int, **env: str) -> None:
        """Have a program of benchmarks/peers/ make a backlog. Raises CalledProcessError."""
        command = [str(PEER_PYTHON), "-m", f"benchmarks.peers.{module}", "fill", str(events)]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, check=True, timeout=WITHIN)


def compile_packages() -> None:
    """Compile the installed packages, as images do. Otherwise each start compiles them, which costs memory too."""
    theirs = map(str, PEER_PYTHON.parent.parent.glob("lib/*/site-packages"))
    for folder in (*site.getsitepackages(), *theirs):
        compileall.compile_dir(folder, quiet=2, workers=0)


def own_python() -> Path:
    """The interpreter of our own environment, for programs of the benchmark itself."""
    return Path(sys.executable)


def idle_seconds(seconds: float) -> None:
    """Let so many seconds pass without an event."""
    time.sleep(seconds)


def until(condition: Callable[[], object], *, every: float = 0.002, within: float = WITHIN) -> None:
    """Wait until `condition()` is true. Raises TimeoutError."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {within} s")
        time.sleep(every)


class Stopwatch:
    """Wall clock and CPU time of some processes, and CPU time of their Redis, from its making to `stop`."""

    def __init__(self, *servers: Server, redis: Server | None = None) -> None:
        self._pids = [server.pid for server in servers]
        self._redis = [redis.pid] if redis else []
        self._cpu, self._redis_cpu = accounts.cpu(self._pids), accounts.cpu(self._redis)
        self._at = time.monotonic()

    def stop(self, events: int) -> dict[str, float]:
        """`rate` in events/s; `cpu`, `redis` and `all`, their sum, in CPU s/1000 events; `memory`, the peak in MB."""
        seconds = time.monotonic() - self._at
        cpu = (accounts.cpu(self._pids) - self._cpu) / events * 1000
        redis = (accounts.cpu(self._redis) - self._redis_cpu) / events * 1000
        found = {"rate": events / seconds, "cpu": cpu, "all": cpu + redis, "memory": accounts.peak_memory(self._pids)}
        return {**found, "redis": redis} if self._redis else found


__all__ = ["HOST", "Harness", "Peer", "Stopwatch", "until"]
