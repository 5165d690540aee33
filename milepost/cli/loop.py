"""Run a command's coroutine in an event loop, with a journal where it needs one."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import typer

from milepost.cli import locate
from milepost.cli.exits import Exit
from milepost.journal import Journal


def run(command: Coroutine[Any, Any, Exit]) -> NoReturn:
    """Run it, and raise its exit status as typer.Exit."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(_Unwaited())
        raise typer.Exit(runner.run(command))


def run_on_journal(redis_url: str | None, data: Path, work: Callable[[Journal], Coroutine[Any, Any, Exit]]) -> NoReturn:
    """Run `work` on a journal of the Redis that these options name. Raises Unreachable if it does not answer."""
    settings = locate.redis_settings(redis_url, data)

    async def connected() -> Exit:
        async with locate.journal(settings) as journal:
            return await work(journal)

    run(connected())


class _Unwaited(ThreadPoolExecutor):
    """Threads that the end of the loop does not wait for: one may look up a name for a minute, or read stdin."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().shutdown(wait=False, cancel_futures=True)
