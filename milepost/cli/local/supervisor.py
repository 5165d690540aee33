"""Keeps the components running, and shows what they print.

1. Each component has a task: it starts the process, relays its output, and starts it again when it ends.
2. A component that ends, or is not ready in time, before it was ever ready makes `start` fail.
3. To stop or restart a component, its task is cancelled: SIGTERM, and SIGKILL after GRACE seconds.
4. All processes are in the process group of a guard, a shell that reads a pipe from this process. However this process
   ends, the pipe is closed, and the guard kills the group.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from milepost.cli.exits import CommandFailed
from milepost.cli.local.console import Console
from milepost.cli.local.layout import Component, Rank
from milepost.cli.local.probe import fault_of

READY_WITHIN = 60.0
"""Seconds from a component's start within which it must be ready, unless `--ready-within` says another number."""

GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL."""

STEADY = 10.0
"""Seconds of life after which the next start does not wait. After a shorter life the pause doubles."""

LONGEST_PAUSE = 30.0
LONGEST_LINE = 1024 * 1024
NOT_SHOWN = b"Memory overcommit must be enabled"
"""Valkey's advice for servers that hold gigabytes. It would be the first line that a newcomer reads."""


class Supervisor:
    """Starts components, keeps them running, and stops them."""

    def __init__(
        self, console: Console, *, lock: int, on_change: Callable[[dict[str, int]], None], ready_within: float | None
    ) -> None:
        """`lock`: a descriptor that the components inherit. `on_change` gets the pids by name when one has changed.

        `ready_within`: seconds that each component has from its start. None: no limit, and a component that ends before
        it was ready is started again like any other.
        """
        self._console = console
        self._lock = lock
        self._on_change = on_change
        self._ready_within = ready_within
        self._components: dict[str, Component] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, Process] = {}
        self._ready: dict[str, asyncio.Event] = {}
        self._stopping = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with an exception when a component cannot be kept running."""
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", "read _; kill -9 0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run, by component."""
        return {name: process.pid for name, process in self._processes.items()}

    async def start(self, components: Iterable[Component]) -> None:
        """Start these together and wait until all are ready. Raises CommandFailed."""
        names = set()
        for component in components:
            names.add(component.name)
            self._components[component.name] = component
            self._ready[component.name] = asyncio.Event()
            self._begin(component)
        for name in names:
            waits: list[asyncio.Future[Any]] = [self.failed, asyncio.create_task(self._ready[name].wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            waits[1].cancel()
            if self.failed.done():
                self.failed.result()

    async def restart(self, names: Iterable[str]) -> None:
        """Stop these components and start them again. Returns when their old processes have ended."""
        started = [name for name in names if name in self._tasks]
        await self._end(started)
        for name in started:
            self._begin(self._components[name])

    async def stop(self) -> None:
        """Stop everything: gateway, bridge, functions, servers."""
        for rank in sorted(Rank, reverse=True):
            await self._end([name for name, component in self._components.items() if component.rank is rank])
        self.kill()
        self._guard.communicate()

    def kill(self) -> None:
        """Kill everything at once."""
        self._stopping = True
        if self._guard.poll() is None:
            os.killpg(self._guard.pid, signal.SIGKILL)

    def _begin(self, component: Component) -> None:
        self._tasks[component.name] = task = asyncio.create_task(self._keep(component), name=component.name)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) and not self.failed.done():
            self.failed.set_exception(fault)

    async def _end(self, names: Sequence[str]) -> None:
        tasks = [self._tasks[name] for name in names if name in self._tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _keep(self, component: Component) -> None:
        """Run the component again and again until cancelled. Raises CommandFailed if it ends before it was ready."""
        name, pause = component.name, 0.0
        while True:
            began = time.monotonic()
            code = await self._run(component)
            if self._stopping:
                return
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            if self._ready_within is not None and not self._ready[name].is_set():
                raise CommandFailed(f"{name} {how} before it was ready; its last lines are above")
            self._say(f"{name} {how}; starting it again")
            pause = 0.0 if time.monotonic() - began > STEADY else min(LONGEST_PAUSE, 2 * pause + 0.1)
            await asyncio.sleep(pause)

    async def _run(self, component: Component) -> int:
        """Run the component once. Returns its exit code."""
        name = component.name
        try:
            process = await asyncio.create_subprocess_exec(
                *component.command,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                limit=LONGEST_LINE,
                cwd=component.folder,
                env=component.env,
                pass_fds=(self._lock,),
                process_group=self._guard.pid,
            )
        except OSError as fault:
            raise CommandFailed(f"{name} cannot be started: {fault}") from None
        self._processes[name] = process
        self._on_change(self.pids)
        output = asyncio.create_task(self._relay(name, process))
        readiness = asyncio.create_task(self._wait_until_ready(component))
        readiness.add_done_callback(self._ended)
        try:
            return await process.wait()
        except asyncio.CancelledError:
            await self._terminate(name, process)
            raise
        finally:
            readiness.cancel()
            await asyncio.wait({output}, timeout=1)
            output.cancel()
            del self._processes[name]
            self._on_change(self.pids)

    async def _terminate(self, name: str, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), GRACE)
        except TimeoutError:
            self._say(f"{name} did not end within {GRACE:g} s: killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _wait_until_ready(self, component: Component) -> None:
        ready = self._ready[component.name]
        limit = None if ready.is_set() else self._ready_within
        try:
            async with asyncio.timeout(limit):
                while await fault_of(component.probe) is not None:  # noqa: ASYNC110 - it is another process
                    await asyncio.sleep(0.05)
        except TimeoutError:
            late = ", ".join(name for name, event in self._ready.items() if not event.is_set())
            raise CommandFailed(f"not ready within {limit:g} s: {late}; --ready-within gives them longer") from None
        self._say(f"{component.name} is ready{' again' if ready.is_set() else ''}: {component.url}")
        ready.set()

    async def _relay(self, name: str, process: Process) -> None:
        assert process.stdout  # noqa: S101 - a pipe was asked for
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                line = b"(a line longer than 1 MB)"
            if not line:
                return
            if NOT_SHOWN in line:
                continue
            self._console.log(name, line.rstrip(b"\r\n").decode(errors="replace"))

    def _say(self, text: str) -> None:
        self._console.log("milepost", text)
