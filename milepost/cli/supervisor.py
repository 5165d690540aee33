"""Keeping a whole pipeline running: servers first, then the rest at once; ended from the front to the back.

Why its own: honcho ends everything when one process ends; circus and supervisord are daemons with sockets and
configuration of their own; none ties its children's lives to its own.
"""

import asyncio
from collections.abc import Callable, Sequence

from milepost.cli.component import Component, Rank
from milepost.cli.console import Console
from milepost.cli.exits import Failed
from milepost.cli.keeper import Keeper

READY_WITHIN = 60.0
"""Seconds from a component's start within which it must be ready, unless `--ready-within` says another number."""
GRACE = 10.0
"""Seconds a component has from SIGTERM to SIGKILL."""


class Supervisor:
    """Starts components, keeps them running, and ends them."""

    def __init__(
        self,
        console: Console,
        *,
        keep_open: int,
        on_change: Callable[[dict[str, int]], None] = lambda _: None,
        ready_within: float | None = READY_WITHIN,
    ) -> None:
        """`on_change` is called with the pids by component whenever one of them has changed.

        `ready_within`: seconds that each component has from its start. None waits for ever, and starts a component
        again even if it was never ready.
        """
        self._console = console
        self._keep_open = keep_open
        self._on_change = on_change
        self._ready_within = ready_within
        self._keepers: dict[str, Keeper] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run, by component."""
        return {name: keeper.pid for name, keeper in self._keepers.items() if keeper.pid is not None}

    async def start(self, components: Sequence[Component]) -> None:
        """Start these at once, and return when all are ready.

        Raises Failed when one ends before it was ready, or is not ready in time.
        """
        for component in components:
            keeper = Keeper(
                component,
                self._console,
                keep_open=self._keep_open,
                on_change=lambda: self._on_change(self.pids),
                patient=self._ready_within is None,
            )
            self._keepers[component.name] = keeper
            self._tasks[component.name] = asyncio.create_task(keeper.run(), name=component.name)
        names = [component.name for component in components]
        if not names:
            return
        readiness = asyncio.create_task(self._all_ready(names))
        try:
            done, _ = await asyncio.wait(
                {readiness, *(self._tasks[name] for name in names)},
                timeout=self._ready_within,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            readiness.cancel()
            self._console.status("")
        for task in done:
            task.result()
        if not done:
            late = ", ".join(name for name in names if not self._keepers[name].ready.is_set())
            raise Failed(f"not ready within {self._ready_within:g} s: {late}; --ready-within gives them longer")

    async def _all_ready(self, names: Sequence[str]) -> None:
        awaited = list(names)

        async def one(name: str) -> None:
            await self._keepers[name].ready.wait()
            awaited.remove(name)
            tell()

        def tell() -> None:
            done = f"{len(names) - len(awaited)} of {len(names)} ready"
            self._console.status(f"{done}; waiting for {', '.join(awaited)}" if awaited else "")

        tell()
        await asyncio.gather(*map(one, names))

    async def broken(self) -> None:
        """Wait until a component cannot be kept running any more. Raises what is in the way."""
        done, _ = await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def restart(self, names: Sequence[str]) -> None:
        """End those of these that were started, and start them anew; returns when their old processes have ended."""
        await asyncio.gather(*(self._keepers[name].restart(GRACE) for name in names if name in self._keepers))

    async def stop(self) -> None:
        """End all in order: gateway, bridge, functions, servers; each of these has GRACE seconds."""
        for rank in sorted(Rank, reverse=True):
            keepers = [keeper for keeper in self._keepers.values() if keeper.component.rank is rank]
            await asyncio.gather(*(keeper.stop(GRACE) for keeper in keepers))
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def kill(self) -> None:
        """End all at once."""
        for keeper in self._keepers.values():
            keeper.kill()
