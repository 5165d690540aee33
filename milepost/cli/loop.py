"""Run a command's coroutine in an event loop."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import typer

from milepost.cli.exits import Exit


def run(command: Coroutine[Any, Any, Exit]) -> NoReturn:
    """Run it, and raise its exit status as typer.Exit."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(_Unwaited())
        raise typer.Exit(runner.run(command))


class _Unwaited(ThreadPoolExecutor):
    """Threads that the end of the loop does not wait for: one may look up a name for a minute, or read stdin."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().shutdown(wait=False, cancel_futures=True)
