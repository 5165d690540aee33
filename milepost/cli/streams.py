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
from typing import NoReturn, TextIO

from milepost.cli.exits import CommandFailed, OutputClosed


def install() -> None:
    """Replace sys.stdout and sys.stderr, and open those of the descriptors 0, 1 and 2 that the caller closed.

    Otherwise the first socket would get the number of a closed one. They are opened in the wrong direction, so that
    using them fails as it does on a closed descriptor.
    """
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - a descriptor, open until the end
    sys.stdout = _text(_Stdout(), sys.stdout)
    sys.stderr = _text(_Stderr(), sys.stderr)


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


def _text(raw: io.RawIOBase, before: TextIO | None) -> io.TextIOWrapper:
    encoding = (before and before.encoding) or "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=True)


class _Descriptor(io.RawIOBase):
    number: int

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.number

    def isatty(self) -> bool:
        return os.isatty(self.number)


class _Stdout(_Descriptor):
    number = 1

    def write(self, data: "memoryview") -> int:  # type: ignore[override]
        return write_out(data)


class _Stderr(_Descriptor):
    number = 2

    def write(self, data: "memoryview") -> int:  # type: ignore[override]
        with contextlib.suppress(OSError):
            os.write(self.number, data)
        return len(data)


def write_out(data: bytes | memoryview, descriptor: int = 1) -> int:
    """Write to stdout (or another descriptor) and return how many bytes were taken.

    Raises OutputClosed or CommandFailed.
    """
    try:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:  # someone who shares the pipe made it non-blocking
            select.select([], [descriptor], [])
            return os.write(descriptor, data)
    except (BrokenPipeError, ConnectionResetError):
        raise OutputClosed("nobody reads standard output any more") from None
    except OSError as fault:
        raise CommandFailed(f"standard output: {fault.strerror}") from None
