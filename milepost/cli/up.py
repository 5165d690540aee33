"""`milepost up`: the whole pipeline on this machine."""

import asyncio
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from milepost.cli.exits import CommandFailed, Exit, Unreachable
from milepost.cli.local import data_folder, layout, readiness
from milepost.cli.local.console import Console
from milepost.cli.local.layout import Layout, Rank
from milepost.cli.local.supervisor import Supervisor
from milepost.cli.options import ProjectFolder
from milepost.errors import MilepostError
from milepost.settings import JournalSettings

SAME_INTERRUPT = 0.3
"""Seconds within which a second Ctrl-C is the first one again: a terminal and a wrapper may both send it."""


def up(
    *,
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Where data, e-mails, lock and stack.json are kept.")
    ] = data_folder.DEFAULT,
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="The gateway's port; 0: any free one.")
    ] = 8000,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload",
            help="Restart the processes that run a changed source file. helm/values.yaml is read at the start only.",
        ),
    ] = False,
    project: ProjectFolder = Path(),
) -> None:
    """Run the whole pipeline on this machine.

    Starts an embedded Valkey and MongoDB-compatible server (or uses REDIS_URL and MONGO_URL), the functions, the
    bridge and the gateway, all on 127.0.0.1; says when each is ready, and then `ready` and the gateway's address. In a
    project without gateway/ that is the bridge's address. MongoDB is started only if a stage uses it.
    A process that dies is started again. DIR/stack.json has all addresses while the pipeline runs, and is deleted
    at a clean end. Ctrl-C ends everything in order, a second one at once.

    `milepost up --port 9000 --data /var/tmp/milepost` uses another port and data folder; the other commands then need
    the same `--data`.
    """
    folder, data, environment = project.resolve(), data.resolve(), dict(os.environ)
    entries = layout.read_stages(folder)
    if redis := environment.get("REDIS_URL"):
        JournalSettings.read(redis_url=redis)
    with data_folder.locked(data) as lock:
        laid_out = layout.lay_out(folder, data, entries, layout.door_port(port), environment)
        try:
            raise typer.Exit(asyncio.run(_Pipeline(folder, data, laid_out, reload=reload).run(lock)))
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # everything has ended


class _Pipeline:
    """The pipeline from its start to its end."""

    def __init__(self, project: Path, data: Path, laid_out: Layout, *, reload: bool) -> None:
        self._project = project
        self._data = data
        self._layout = laid_out
        self._reload = reload
        self._stop = asyncio.Event()
        self._stopped_at = 0.0
        self._complete = False
        self._output_fault: MilepostError | None = None

    async def run(self, lock: int) -> Exit:
        """Run it until a signal comes or a component cannot be kept running. Raises MilepostError."""
        loop = asyncio.get_running_loop()
        self._console = Console(
            ["milepost", *self._layout.urls],
            on_failure=lambda fault: loop.call_soon_threadsafe(self._output_failed, fault),
        )
        self._supervisor = Supervisor(self._console, lock=lock, on_change=self._write_stack)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
                loop.add_signal_handler(number, partial(self._signalled, number))
        tasks = [asyncio.create_task(self._stop.wait()), asyncio.create_task(self._run())]
        if self._reload:
            from milepost.cli.local.reload import watch_sources

            watching = watch_sources(self._project, self._layout, self._supervisor, self._console)
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
            await asyncio.to_thread(self._console.close)
        if self._output_fault:
            raise self._output_fault
        return Exit.INTERRUPTED if self._supervisor.killed else Exit.DONE

    async def _run(self) -> None:
        """Start everything, and wait until something cannot be kept running. Raises MilepostError."""
        await self._check_servers()
        await self._supervisor.start(self._layout.of(Rank.SERVER))
        await self._supervisor.start(self._layout.of(Rank.FUNCTION, Rank.BRIDGE, Rank.GATEWAY))
        self._complete = True
        self._write_stack()
        self._console.line(f"ready {self._layout.door_url}")
        await self._supervisor.failed

    async def _check_servers(self) -> None:
        """Look for the servers that the environment names. Raises Unreachable if one does not answer, and CommandFailed
        if another pipeline uses the Redis, and would look for our records in its MongoDB.
        """
        embedded = {component.name for component in self._layout.of(Rank.SERVER)}
        for name, url in (("redis", self._layout.redis), ("mongo", self._layout.mongo)):
            if url and name not in embedded and (fault := await readiness.fault_of(url)):
                variable = f"{name.upper()}_URL"
                raise Unreachable(
                    f"{variable}: nothing usable at {readiness.shown(url)}: {fault}; start it, or unset {variable}"
                )
        if embedded == {"mongo"} and await readiness.bridges_on(self._layout.redis):
            raise CommandFailed(
                "REDIS_URL: another pipeline uses this Redis; each would take events whose records are in the MongoDB "
                "of the other. Stop it, name another Redis, or give both the same MONGO_URL"
            )

    def _output_failed(self, fault: MilepostError) -> None:
        """Stop, because nobody reads the output any more. A signal that came before decides the exit status."""
        if not self._stop.is_set():
            self._output_fault = fault
            self._stop.set()

    def _signalled(self, number: signal.Signals) -> None:
        """The first signal stops everything in order. A second Ctrl-C kills it."""
        if not self._stop.is_set():
            self._stopped_at = time.monotonic()
            self._stop.set()
        elif number == signal.SIGINT and time.monotonic() - self._stopped_at > SAME_INTERRUPT:
            self._supervisor.kill()

    def _write_stack(self) -> None:
        if not self._complete:
            return
        try:
            data_folder.write_stack(self._data, self._layout.stack(self._supervisor.pids))
        except OSError as fault:
            self._log(f"{data_folder.STACK} cannot be written, and is out of date: {fault.strerror}")

    def _log(self, text: str) -> None:
        self._console.log("milepost", text)
