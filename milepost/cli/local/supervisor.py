"""Keep the components running, and print their output.

1. Each component has a task: it starts the process, prints its output, and starts it again when it ends.
2. A component that ends before it was ever ready makes `start` fail.
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
from collections.abc import Callable, Iterable
from typing import Any

from milepost.cli.exits import CommandFailed
from milepost.cli.local.console import Console
from milepost.cli.local.layout import Component, Rank
from milepost.cli.local.readiness import fault_of

GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL. A function may be busy for longer, as `email` with a slow SMTP server. It is killed
all the same, so that a hanging one does not keep the terminal; its event is delivered again at the next start.
"""

LATE = 20.0
"""Seconds after which a component that is not ready yet is named, again and again."""

STEADY = 10.0
"""Seconds of life after which the next start does not wait. After a shorter life the pause doubles."""

LONGEST_PAUSE = 30.0
LONGEST_LINE = 1024 * 1024
NOT_SHOWN = b"Memory overcommit must be enabled"
"""Valkey's advice for servers that hold gigabytes. It would be the first line that a newcomer reads."""


class Supervisor:
    """Starts components, keeps them running, and stops them."""

    def __init__(self, console: Console, *, lock: int, on_change: Callable[[], object]) -> None:
        """`lock`: a descriptor that the components inherit. `on_change` is called when `pids` has changed."""
        self.killed = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with an exception when a component cannot be kept running."""
        self._console = console
        self._lock = lock
        self._on_change = on_change
        self._components: dict[str, Component] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, Process] = {}
        self._ready: set[str] = set()
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
        begun = list(components)
        for component in begun:
            self._components[component.name] = component
            self._begin(component)
        ready: asyncio.Future[Any] = asyncio.gather(*map(self._wait_until_ready, begun))
        try:
            done, _ = await asyncio.wait({self.failed, ready}, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            ready.cancel()

    async def restart(self, names: Iterable[str]) -> None:
        """End those of these components that were started, and start them again."""
        started = [name for name in names if name in self._tasks]
        await self._end(started)
        for name in started:
            self._begin(self._components[name])

    async def stop(self) -> None:
        """End everything: gateway, bridge, functions, servers."""
        for rank in sorted(Rank, reverse=True):
            await self._end([name for name, component in self._components.items() if component.rank is rank])
        self._kill_all()
        self._guard.communicate()

    def kill(self) -> None:
        """Kill everything at once."""
        self.killed = True
        self._kill_all()

    def _kill_all(self) -> None:
        if self._guard.poll() is None:
            os.killpg(self._guard.pid, signal.SIGKILL)

    def _begin(self, component: Component) -> None:
        self._tasks[component.name] = task = asyncio.create_task(self._keep(component))
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) and not self.failed.done():
            self.failed.set_exception(fault)

    async def _end(self, names: Iterable[str]) -> None:
        tasks = [self._tasks[name] for name in names]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, component: Component) -> None:
        """Run the component again and again until cancelled. Raises CommandFailed if it ends before it is ready."""
        name, pause = component.name, 0.0
        while True:
            began = time.monotonic()
            code = await self._run(component)
            if self.killed:
                return
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            if name not in self._ready:
                raise CommandFailed(f"{name} {how} before it was ready; its last lines are above")
            self._console.log("milepost", f"{name} {how}; starting it again")
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
        self._on_change()
        output = asyncio.create_task(self._print_output(name, process))
        try:
            return await process.wait()
        finally:
            await self._terminate(name, process)
            await asyncio.wait({output}, timeout=1)
            output.cancel()
            del self._processes[name]
            self._on_change()

    async def _terminate(self, name: str, process: Process) -> None:
        """End the process, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), GRACE)
        except TimeoutError:
            self._console.log("milepost", f"{name} did not end within {GRACE:g} s: killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _wait_until_ready(self, component: Component) -> None:
        named_at = time.monotonic()
        while (fault := await fault_of(component.ready_url)) is not None:
            if time.monotonic() - named_at > LATE:
                named_at = time.monotonic()
                self._console.log("milepost", f"{component.name} is not ready yet: {fault}")
            await asyncio.sleep(0.05)
        self._ready.add(component.name)
        self._console.log("milepost", f"{component.name} is ready: {component.url}")

    async def _print_output(self, name: str, process: Process) -> None:
        assert process.stdout  # noqa: S101 - a pipe was asked for
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                line = b"(a line longer than 1 MB)"
            if not line:
                return
            if NOT_SHOWN not in line:
                self._console.log(name, line.rstrip(b"\r\n").decode(errors="replace"))
