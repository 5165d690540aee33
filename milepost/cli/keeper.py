"""Keeping one component running."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

from milepost.cli.component import Component
from milepost.cli.console import Console
from milepost.cli.exits import Failed

TETHER = str(Path(__file__).with_name("tether.py"))

STEADY = 10.0
"""Seconds of life after which an end counts as the first again."""

FIRST_PAUSE = 0.25
"""Seconds between the second end in a row and the next start; before that there is none, then twice as many."""

LONGEST_PAUSE = 30.0
LONGEST_LINE = 64 * 1024
LOOK_EVERY = 0.05


class Keeper:
    """Starts a component, says when it is ready, and starts it again, on the same port, when it ends."""

    def __init__(
        self,
        component: Component,
        console: Console,
        *,
        keep_open: int,
        on_change: Callable[[], None],
        patient: bool,
    ) -> None:
        """`keep_open` is a descriptor the component inherits; `on_change` is called when `pid` changes.

        A `patient` keeper tries again also a component that was never ready.
        """
        self.component = component
        self.ready = asyncio.Event()
        """Set when the component has been ready once."""
        self._console = console
        self._keep_open = keep_open
        self._on_change = on_change
        self._patient = patient
        self._process: Process | None = None
        self._stopping = False
        self._restarting = False
        self._wake = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The component's process; None while there is none."""
        return self._process.pid if self._process else None

    async def run(self) -> None:
        """Keep it running until `stop`. Raises Failed if it ends before it was ever ready."""
        name, ends = self.component.name, 0
        while not self._stopping:
            began = time.monotonic()
            how = await self._live()
            if self._stopping:
                return
            if self._restarting:
                self._restarting = False
                continue
            if not (self._patient or self.ready.is_set()):
                raise Failed(f"{name} {how} before it was ready; its last lines are above")
            ends = ends + 1 if time.monotonic() - began < STEADY else 1
            await self._pause(ends, f"{name} {how}; starting it again")

    async def restart(self, grace: float) -> None:
        """End it, within `grace` seconds, to have it started anew."""
        self._restarting = self._process is not None
        self._wake.set()
        await self._end(grace)

    async def stop(self, grace: float) -> None:
        """End it for good: SIGTERM, and SIGKILL after `grace` seconds."""
        self._stopping = True
        self._wake.set()
        await self._end(grace)

    def kill(self) -> None:
        """End it for good, at once."""
        self._stopping = True
        self._wake.set()
        if self._process:
            _kill(self._process)

    async def _end(self, grace: float) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace)
        except TimeoutError:
            self._console.log("milepost", f"{self.component.name} did not end within {grace:g} s: killed")
            _kill(process)
            await process.wait()

    async def _pause(self, ends: int, saying: str) -> None:
        pause = 0.0 if ends == 1 else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (ends - 2))
        self._console.log("milepost", f"{saying} in {pause:g} s" if pause else saying)
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), pause)

    async def _live(self) -> str:
        """One life of the component, from start to end. Returns how it ended, in words."""
        output, its_output = os.pipe()
        try:
            process = await self._start(its_output)
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(its_output)
        log = asyncio.create_task(self._relay(output))
        readiness = asyncio.create_task(self._say_when_ready())
        try:
            self._process = process
            self._on_change()
            if self._stopping:  # while it was being started
                _kill(process)
            code = await process.wait()
        finally:
            self._process = None
            _kill(process)  # and what it may have started
            readiness.cancel()
            await asyncio.wait({log, readiness}, timeout=1)
            log.cancel()
        self._on_change()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    async def _start(self, its_output: int) -> Process:
        component = self.component
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", TETHER, str(os.getpid())),
            *component.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=its_output,
            stderr=its_output,
            cwd=component.folder,
            env=component.env,
            pass_fds=(self._keep_open,),
            process_group=0,  # a Ctrl-C in the terminal is for `milepost up`, which ends them in order
        )

    async def _say_when_ready(self) -> None:
        while not await self.component.is_ready():  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(LOOK_EVERY)
        again = " again" if self.ready.is_set() else ""
        self._console.log("milepost", f"{self.component.name} is ready{again}: {self.component.url}")
        self.ready.set()

    async def _relay(self, output: int) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
        )
        try:
            rest = b""
            while chunk := await reader.read(LONGEST_LINE):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._log(line)
            if rest:
                self._log(rest)
        finally:
            transport.close()

    def _log(self, line: bytes) -> None:
        unshown = self.component.unshown
        if unshown is None or unshown not in line:
            self._console.log(self.component.name, line.rstrip(b"\r").decode(errors="replace"))


def _kill(process: Process) -> None:
    """SIGKILL for the component and everything in its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
