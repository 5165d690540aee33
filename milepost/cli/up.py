"""`milepost up`: the whole pipeline on this machine."""

import asyncio
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from milepost.cli.exits import CommandFailed, Exit
from milepost.cli.local import data_folder, layout, probe
from milepost.cli.local import reload as reloading
from milepost.cli.local.console import Console
from milepost.cli.local.layout import Layout, Rank
from milepost.cli.local.supervisor import READY_WITHIN, Supervisor
from milepost.cli.options import ProjectFolder, at_least
from milepost.cli.options import port as port_number
from milepost.errors import MilepostError

SAME_INTERRUPT = 0.3
"""Seconds within which a second Ctrl-C is the first one again: a terminal and a wrapper may both send it."""


def up(
    *,
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Where data, e-mails, lock and stack.json are kept.")
    ] = data_folder.DEFAULT,
    port: Annotated[
        int, typer.Option(metavar="PORT", parser=port_number, help="The gateway's port; 0: any free one.")
    ] = 8000,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload",
            help="Restart the processes that run a changed source file. helm/values.yaml is read at the start only.",
        ),
    ] = False,
    ready_within: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            parser=at_least(1),
            help="How long each process may take from its start until it is ready; no limit with --reload.",
        ),
    ] = READY_WITHIN,
    project: ProjectFolder = Path(),
) -> None:
    """Run the whole pipeline on this machine.

    Starts an embedded Valkey and MongoDB-compatible server (or uses REDIS_URL and MONGO_URL), the functions, the
    bridge and the gateway, all on 127.0.0.1; says when each is ready, and then `ready` and the gateway's address. A
    project without gateway/ is reached by its bridge, and one whose stages use no MongoDB has none.
    A process that dies is started again. DIR/stack.json has all addresses while the pipeline runs, and is deleted
    at a clean end. Ctrl-C ends everything in order, a second one at once.

    `milepost up --port 9000 --data /var/tmp/milepost` has another port and data folder; the other commands then need
    the same `--data`.
    """
    folder, data, environment = project.resolve(), data.resolve(), dict(os.environ)
    entries = layout.read_stages(folder)
    layout.real_servers(environment)
    if reload:
        reloading.check()
    with data_folder.locked(data) as lock:
        laid_out = layout.lay_out(folder, data, entries, layout.entrance_port(port), environment)
        pipeline = _Pipeline(folder, data, laid_out, reload=reload, ready_within=None if reload else ready_within)
        try:
            raise typer.Exit(asyncio.run(pipeline.run(lock)))
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # everything has ended


class _Pipeline:
    """The pipeline from its start to its end."""

    def __init__(
        self, project: Path, data: Path, laid_out: Layout, *, reload: bool, ready_within: float | None
    ) -> None:
        self._project = project
        self._data = data
        self._layout = laid_out
        self._reload = reload
        self._ready_within = ready_within
        self._stop = asyncio.Event()
        self._complete = False
        self._interrupted = 0.0
        self._killed = False
        self._output_fault: MilepostError | None = None

    async def run(self, lock: int) -> Exit:
        """Run it until a signal comes or a component cannot be kept running. Raises MilepostError."""
        names = ["milepost", *self._layout.urls]
        self._loop = asyncio.get_running_loop()
        self._console = Console(names, on_failure=self._output_failed)
        self._supervisor = Supervisor(
            self._console, lock=lock, on_change=self._write_stack, ready_within=self._ready_within
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
                self._loop.add_signal_handler(number, partial(self._signalled, number))
        tasks = [asyncio.create_task(self._stop.wait()), asyncio.create_task(self._run())]
        if self._reload:
            watching = reloading.watch_sources(self._project, self._layout, self._supervisor, self._console)
            tasks.append(asyncio.create_task(watching))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            for task in done:
                task.result()
        finally:
            self._complete = False
            data_folder.remove_stack(self._data)
            self._log("stopping")
            await self._supervisor.stop()
            self._console.close()
        if self._output_fault:
            raise self._output_fault
        return Exit.INTERRUPTED if self._killed else Exit.DONE

    async def _run(self) -> None:
        """Start everything, and wait until something cannot be kept running. Raises MilepostError."""
        real = self._layout.real
        await asyncio.gather(
            self._supervisor.start(self._layout.of(Rank.SERVER)), *(self._find(name, url) for name, url in real.items())
        )
        if "REDIS_URL" in real:
            await self._check_shared(0)
        await self._supervisor.start(self._layout.of(Rank.FUNCTION, Rank.BRIDGE, Rank.GATEWAY))
        if "REDIS_URL" in real:  # again: of two that begin together, the later one at least sees the other
            await self._check_shared(1)
        self._complete = True
        self._write_stack(self._supervisor.pids)
        self._console.line(f"ready {self._layout.entrance}")
        await self._supervisor.failed

    async def _find(self, name: str, url: str) -> None:
        await probe.find(name, url)
        self._log(f"{name}: {probe.shown(url)} answers")

    async def _check_shared(self, own: int) -> None:
        """Look for bridges of another pipeline on this Redis, beside `own` of ours.

        Raises CommandFailed if they look for records in another MongoDB: each pipeline takes events of both.
        """
        if await probe.bridges_on(self._layout.redis) <= own:
            return
        if self._layout.mongo and "MONGO_URL" not in self._layout.real:
            raise CommandFailed(
                "REDIS_URL: another pipeline uses this Redis; each would take events whose records are in the MongoDB "
                "of the other. Stop it, name another Redis, or give both the same MONGO_URL"
            )
        if not own:
            self._log("REDIS_URL: another pipeline uses this Redis: both take what comes")

    def _signalled(self, number: signal.Signals) -> None:
        """The first signal stops everything in order. A second Ctrl-C kills it."""
        if not self._stop.is_set():
            self._interrupted = time.monotonic()
            self._stop.set()
        elif number == signal.SIGINT and time.monotonic() - self._interrupted > SAME_INTERRUPT:
            self._killed = True
            self._supervisor.kill()

    def _output_failed(self, fault: MilepostError) -> None:
        """Stop because nothing can be printed any more. Called by the console's thread."""
        if not self._stop.is_set():
            self._output_fault = fault
            self._loop.call_soon_threadsafe(self._stop.set)

    def _write_stack(self, pids: dict[str, int]) -> None:
        if not self._complete:
            return
        try:
            data_folder.write_stack(self._data, self._layout.stack(pids))
        except OSError as fault:
            self._log(f"{data_folder.STACK} cannot be written, and is out of date: {fault.strerror}")

    def _log(self, text: str) -> None:
        self._console.log("milepost", text)
