"""uvicorn's server, asleep when there is nothing to do: its own looks ten times a second whether it should end."""

import asyncio
from contextlib import suppress
from types import FrameType

import uvicorn

from milepost.heap import keep_what_is_loaded

PAUSE = 1.0
"""Seconds between two looks: the Date of answers has whole ones."""


class Server(uvicorn.Server):
    """Serves until a signal, or until `end` is called on its event loop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()

    def end(self) -> None:
        """Stop in good order."""
        self.should_exit = True
        self._told.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told.set)

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        keep_what_is_loaded()
        while not await self.on_tick(0):  # at 0 it writes the Date anew
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self._told.wait()
