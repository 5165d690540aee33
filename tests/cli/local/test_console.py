"""The output of `milepost up`."""

import contextlib
import os
import threading
from pathlib import Path

from milepost.cli.local.console import MOST_WAITING, Console
from tests.servers import WITHIN, wait_for


def test_component_names_are_aligned_and_coloured_on_a_terminal_only(tmp_path: Path) -> None:
    terminal, its_end = os.openpty()
    file = os.open(tmp_path / "shown", os.O_WRONLY | os.O_CREAT)
    for descriptor in (its_end, file):
        console = Console(["a", "long"], on_failure=print, descriptor=descriptor)
        console.log("a", "text")
        console.line("ready")
        console.close(60)
        os.close(descriptor)
    assert _shown_on(terminal) == b"\x1b[36ma    |\x1b[0m text\r\nready\r\n"
    assert (tmp_path / "shown").read_text() == "a    | text\nready\n"
    os.close(terminal)


def test_console_does_not_block_when_nobody_reads() -> None:
    reader, writer = os.pipe()
    console = Console(["a"], on_failure=print, descriptor=writer)
    for _ in range(3 * MOST_WAITING):
        console.log("a", "x" * 100)  # more than the pipe and the console hold, and yet it returns
    read = bytearray()
    reading = threading.Thread(target=lambda: read.extend(_all_of(reader)))
    reading.start()
    console.close(60)
    os.close(writer)
    reading.join(WITHIN)
    assert b"lines dropped: nobody read them" in read


def test_console_reports_a_closed_pipe() -> None:
    reader, writer = os.pipe()
    gone = threading.Event()
    console = Console(["a"], descriptor=writer, on_failure=lambda _: gone.set())
    os.close(reader)
    console.line("anybody?")
    wait_for(gone.is_set)
    console.close(60)
    os.close(writer)


def _shown_on(terminal: int) -> bytes:
    """Read a terminal to its end. It hands on the output piece by piece, and Linux ends it with an error."""
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 1000):
            shown += piece
    return shown


def _all_of(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()
