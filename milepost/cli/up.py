"""`milepost up`: the whole pipeline on this machine."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from milepost import table
from milepost.cli import folder, neighbour, plan, reload, servers
from milepost.cli.component import Rank
from milepost.cli.console import Console
from milepost.cli.exits import Exit, Failed
from milepost.cli.supervisor import READY_WITHIN, Supervisor
from milepost.errors import MilepostError
from milepost.settings import JournalSettings

DOUBLE = 0.3
"""Seconds within which a second Ctrl-C is the first one again: a terminal and a wrapper may both send it."""


@dataclass(frozen=True)
class Wish:
    """What was asked for."""

    project: Path
    data: Path
    port: int
    reload: bool
    ready_within: float = READY_WITHIN


def up(wish: Wish, environment: Mapping[str, str]) -> Exit:
    """Run the pipeline until SIGINT, SIGTERM or SIGHUP. Raises MilepostError for what keeps it from starting."""
    entries = plan.stages(wish.project)
    plan.real_servers(environment)
    if wish.reload:
        reload.check()
    with folder.held(wish.data) as lock:
        port = plan.port_of_door(wish.port)
        try:
            return asyncio.run(_run(wish, entries, port, lock, environment))
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to hasten


async def _run(
    wish: Wish, entries: Sequence[table.Entry], port: int, lock: int, environment: Mapping[str, str]
) -> Exit:
    # trust_env: a proxy for the outside world is none for what runs here
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        laid_out = plan.draw(wish.project, wish.data, entries, port, client, environment)
        ending = _Ending()
        console = Console(["milepost", *laid_out.names], on_closed=ending.output_failed)
        running = _Running(wish, laid_out, console, lock)
        ending.on_impatience = running.supervisor.kill
        try:
            await running.until(ending)
        finally:
            try:
                await running.end()
            finally:
                console.close()
    if ending.fault:
        raise ending.fault
    return Exit.INTERRUPTED if ending.impatient else Exit.DONE


class _Ending:
    """The wish to end: a first signal asks, a second Ctrl-C insists."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.impatient = False
        self.fault: MilepostError | None = None
        """Why nothing can be printed any more."""
        self.on_impatience: Callable[[], None] = lambda: None
        self._since = 0.0
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup: it is to outlive its terminal
            self._loop.add_signal_handler(number, partial(self._signal, number))

    def output_failed(self, fault: MilepostError) -> None:
        """End because nothing can be printed any more. Called by the console's thread."""
        if not self.asked.is_set():
            self.fault = fault
        self._loop.call_soon_threadsafe(self._signal, signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if not self.asked.is_set():
            self._since = time.monotonic()
            self.asked.set()
        elif number == signal.SIGINT and time.monotonic() - self._since > DOUBLE:
            self.impatient = True
            self.on_impatience()


class _Running:
    """The pipeline from its start to its end."""

    def __init__(self, wish: Wish, laid_out: plan.Plan, console: Console, lock: int) -> None:
        self._wish = wish
        self._plan = laid_out
        self._console = console
        self._complete = False
        ready_within = None if wish.reload else wish.ready_within
        self.supervisor = Supervisor(console, keep_open=lock, on_change=self._write_stack, ready_within=ready_within)

    async def until(self, ending: _Ending) -> None:
        """Start everything and keep it running until an end is asked for. Raises MilepostError if that fails."""
        asked = asyncio.create_task(ending.asked.wait())
        life = asyncio.create_task(self._live())
        await asyncio.wait({asked, life}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if life.done():
            life.result()
        life.cancel()
        await asyncio.wait({life})

    async def end(self) -> None:
        """End every component, in order."""
        self._complete = False
        folder.remove_stack(self._wish.data)
        if self.supervisor.pids:
            self._console.log("milepost", "stopping")
        await self.supervisor.stop()

    async def _live(self) -> None:
        tasks: list[Awaitable[None]] = [self._start_and_keep()]
        if self._wish.reload:
            tasks.append(reload.restart_what_changes(self._wish.project, self._plan, self.supervisor, self._console))
        await asyncio.gather(*tasks)

    async def _start_and_keep(self) -> None:
        await self._start()
        await self.supervisor.broken()

    async def _start(self) -> None:
        embedded = self._plan.of(Rank.SERVER)
        names = {server.name for server in embedded}
        tasks: list[Awaitable[None]] = [self.supervisor.start(embedded)]
        if "redis" not in names:
            tasks.append(self._find("REDIS_URL", self._plan.redis, servers.reach_redis))
        if self._plan.mongo and "mongo" not in names:
            tasks.append(self._find("MONGO_URL", self._plan.mongo, servers.reach_mongo))
        await asyncio.gather(*tasks)
        if "redis" not in names:
            await self._check_alone(mongo_is_own="mongo" in names)
        await self.supervisor.start(self._plan.of(Rank.FUNCTION, Rank.BRIDGE, Rank.GATEWAY))
        if "redis" not in names:
            await self._check_still_alone(mongo_is_own="mongo" in names)
        self._complete = True
        self._write_stack(self.supervisor.pids)
        self._console.line(f"ready {self._plan.door}")

    async def _check_alone(self, *, mongo_is_own: bool) -> None:
        """Raises Failed if another pipeline on this Redis would look for our records in another MongoDB."""
        settings = JournalSettings.read(redis_url=self._plan.redis)
        others = ", ".join(f"{stage.name} at {stage.url}" for stage in await neighbour.served_elsewhere(settings))
        if others and mongo_is_own:
            raise Failed(
                f"REDIS_URL: another pipeline serves {others}; each would take events whose records the other has. "
                "Stop it, name another Redis, or give both the same MONGO_URL"
            )
        if others:
            self._console.log("milepost", f"REDIS_URL: another pipeline serves {others}: both take what comes")

    async def _check_still_alone(self, *, mongo_is_own: bool) -> None:
        """Raises Failed if another pipeline has begun since `_check_alone`, when it could not be seen yet.

        It looks once our own bridge listens: of two that begin together, the later at least sees the other.
        """
        bridges = await neighbour.listening(JournalSettings.read(redis_url=self._plan.redis))
        if bridges > 1 and mongo_is_own:
            raise Failed(
                "REDIS_URL: another pipeline began on it at the same moment (more than one hears its lease); each "
                "would take events whose records the other has. Start one of them again, or give both one MONGO_URL"
            )
        if bridges > 1:
            self._console.log("milepost", f"REDIS_URL: {bridges} bridges share its work")

    async def _find(self, name: str, url: str, reach: servers.Reach) -> None:
        await servers.find(name, url, reach)
        self._console.log("milepost", f"{name}: {servers.shown(url)} answers")

    def _write_stack(self, pids: dict[str, int]) -> None:
        if not self._complete:
            return
        try:
            folder.write_stack(self._wish.data, self._plan.stack(pids))
        except OSError as fault:
            self._console.log("milepost", f"{folder.STACK} cannot be written, and is out of date: {fault.strerror}")
