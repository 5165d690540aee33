"""The command's standard streams.

A write to stdout that fails raises: OutputClosed where the reader has gone, CommandFailed for anything else, such as
a full disk. Neither is an OSError, so no handler for a lost connection can take it for one. A write to stderr never
raises: the exit status says the same.
"""

import asyncio
import contextlib
import io
import os
import select
import stat
import sys
from typing import Any, NoReturn

from milepost.cli.exits import CommandFailed, OutputClosed


class Stdout(io.FileIO):
    """A descriptor, unbuffered. `write` may write a part. Raises OutputClosed or CommandFailed."""

    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:  # a program that shares the pipe made it non-blocking
                select.select([], [self], [])
        except (BrokenPipeError, ConnectionResetError):
            raise OutputClosed("nobody reads standard output any more") from None
        except OSError as fault:
            raise CommandFailed(f"standard output: {fault.strerror}") from None
        return written


class _Stderr(io.FileIO):
    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            super().write(data)
        return len(data)


def install() -> None:
    """Replace sys.stdout and sys.stderr. Descriptors that the caller closed become /dev/null, so that no socket gets
    the number of one.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - a descriptor, open until the end
    sys.stdout = _text(Stdout(1, "w", closefd=False))
    sys.stderr = _text(_Stderr(2, "w", closefd=False))


def _text(raw: io.FileIO) -> io.TextIOWrapper:
    encoding = getattr(sys.__stdout__, "encoding", None) or "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=True)


async def stdout_closed() -> NoReturn:
    """Wait until the reader of stdout has gone, where stdout is a pipe. Raises OutputClosed then."""
    gone = asyncio.Event()
    if stat.S_ISFIFO(os.fstat(1).st_mode):
        # The selector reports the error state of a pipe's write end as readable.
        asyncio.get_running_loop().add_reader(1, gone.set)
    try:
        await gone.wait()
    finally:
        asyncio.get_running_loop().remove_reader(1)
    raise OutputClosed("nobody reads standard output any more")


def leave(code: int) -> NoReturn:
    """End the process at once. The interpreter's own end would wait for threads, or abort on one that reads stdin."""
    with contextlib.suppress(OutputClosed, CommandFailed):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
