"""What `milepost up` shows, and to whom."""

import contextlib
import os
import threading
from pathlib import Path

from milepost.cli.console import ERASE, MOST_WAITING, Console
from tests.servers import wait_for


def test_names_are_coloured_for_a_terminal_only(tmp_path: Path) -> None:
    for coloured in (True, False):
        shown = tmp_path / str(coloured)
        console = Console(["a", "long"], descriptor=os.open(shown, os.O_WRONLY | os.O_CREAT), coloured=coloured)
        console.log("a", "text")
        console.line("ready")
        console.close(60)
        prefix = "\x1b[36ma    |\x1b[0m" if coloured else "a    |"
        assert shown.read_text() == f"{prefix} text\nready\n"


def test_a_status_stays_below_the_lines_of_a_terminal() -> None:
    terminal, ours = os.openpty()
    console = Console(["a"], descriptor=ours, coloured=False)
    console.status("1 of 2 ready; waiting for a")
    console.log("a", "text")
    console.status("")
    console.line("ready")
    console.close(60)
    os.close(ours)
    shown = _shown_on(terminal).decode().replace("\r\n", "\n")
    os.close(terminal)
    assert shown.endswith(f"{ERASE}a | text\n1 of 2 ready; waiting for a{ERASE}{ERASE}ready\n")


def test_elsewhere_there_is_no_status(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    console = Console(["a"], descriptor=os.open(shown, os.O_WRONLY | os.O_CREAT))
    console.status("waiting")
    console.line("ready")
    console.close(60)
    assert shown.read_text() == "ready\n"


def test_a_reader_that_does_not_read_stops_nobody() -> None:
    reader, writer = os.pipe()
    console = Console(["a"], descriptor=writer)
    for _ in range(3 * MOST_WAITING):
        console.log("a", "x" * 100)  # more than the pipe and the console hold, and yet it returns
    read = bytearray()
    reading = threading.Thread(target=lambda: read.extend(_all_of(reader)))
    reading.start()
    console.close(60)
    os.close(writer)
    reading.join(60)
    assert b"lines left out: nobody read them" in read


def test_a_reader_that_goes_away_is_told() -> None:
    reader, writer = os.pipe()
    gone = threading.Event()
    console = Console(["a"], descriptor=writer, on_closed=lambda _: gone.set())
    os.close(reader)
    console.line("anybody?")
    wait_for(gone.is_set)
    console.close(60)
    os.close(writer)


def _shown_on(terminal: int) -> bytes:
    """All of it: a terminal hands on piece by piece what was written. Linux ends it with an error."""
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 1000):
            shown += piece
    return shown


def _all_of(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()
